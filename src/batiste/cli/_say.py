"""How the command speaks: lines and JSON that no checkpoint can bend.

Names in a file come from strangers. One that holds a line's end, an escape sequence of the terminal or half a character
is printed with these written out, ``ESC`` as its code, so that a line stays a line and a terminal stays what it is.
"""

from __future__ import annotations

import json
from typing import Any

import typer

__all__ = ["printable", "say", "say_json"]


def printable(text: str) -> str:
    """Return the text with every character that cannot be printed written out."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def say(line: str, *, err: bool = False) -> None:
    """Print a line, on standard error if ``err``."""
    typer.echo(printable(line), err=err)


def say_json(body: Any) -> None:
    """Print JSON; numbers that it does not have are words, and letters that cannot be printed their codes."""
    plain = json.loads(json.dumps(body), parse_constant=lambda name: str(float(name)))
    try:
        text = json.dumps(plain, ensure_ascii=False, indent=2)
    except RecursionError:  # the writer without indents goes as deep as the reader did
        text = json.dumps(plain, ensure_ascii=False)
    typer.echo("".join(letter if letter.isprintable() or letter == "\n" else _code(letter) for letter in text))


def _code(letter: str) -> str:
    return json.dumps(letter)[1:-1]
