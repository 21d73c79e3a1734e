"""What the words of a command line mean: patterns, renamings, and lists of them from standard input.

A pattern is a glob, or a regular expression under ``--regex``. In the place of patterns or rules, ``-`` stands for the
lines of standard input, so that one command's paths are another's patterns.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence

import typer

from batiste.tree import Pattern, compile_pattern

__all__ = ["read_patterns", "read_rules"]


def read_patterns(words: Sequence[str], *, regex: bool) -> list[Pattern]:
    """Return the patterns that the words stand for.

    Raises:
      PatternSyntaxError: if a glob is not well formed.
    """
    return [_compiled(word, regex=regex) for word in _with_input(words)]


def read_rules(words: Sequence[str], *, regex: bool) -> dict[Pattern, str]:
    """Return the renamings in words of the form ``OLD=NEW``: pattern to new path.

    Raises:
      PatternSyntaxError: if a glob is not well formed.
    """
    rules: dict[Pattern, str] = {}
    for word in _with_input(words):
        old, sign, new = word.partition("=")
        if not (old and sign and new):
            message = f"{word!r} is not of the form OLD=NEW"
            raise typer.BadParameter(message)
        rules[_compiled(old, regex=regex)] = new
    return rules


def _with_input(words: Sequence[str]) -> list[str]:
    found: list[str] = []
    for word in words:
        found += [line for line in sys.stdin.read().splitlines() if line.strip()] if word == "-" else [word]
    if words and not found:
        message = "standard input holds no line"
        raise typer.BadParameter(message)
    return found


def _compiled(word: str, *, regex: bool) -> Pattern:
    if not regex:
        return compile_pattern(word)
    try:
        return compile_pattern(re.compile(word))
    except re.error as error:
        message = f"{word!r} is not a regular expression: {error}"
        raise typer.BadParameter(message) from None
