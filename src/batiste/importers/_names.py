"""The names of PyTorch's tensors and modules, patterns over them, and patterns read backwards.

A name has levels with dots between, ``encoder.layer.0.weight``; the empty name is the whole model. A *pattern* is a
glob over names: ``*`` any characters within one level, ``**`` one level or more, ``{query,key}`` one of several texts.
A *template* is a path or a name with captures in it: ``{1}`` is what the first wildcard matched, counted from the left.
Other than in the globs of ``batiste.tree``, every wildcard can be filled in again, so that a rule leads both ways: the
template becomes a pattern over paths, and the pattern a template for names.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping
from typing import Final

__all__ = ["NamePattern", "Template", "compile_name", "compile_template", "join_name"]

_PIECE: Final = re.compile(r"\*\*|\*|\{([^{}]*)\}|[^*{}]+|[{}]")
_FIELD: Final = re.compile(r"\{([0-9]+)\}|[^{}]+|[{}]")


@dataclasses.dataclass(frozen=True, slots=True)
class NamePattern:
    """A compiled pattern over names.

    Attributes:
      source: the pattern as it was written.
      expression: matches a whole name; one group for each wildcard.
      pieces: text, and in the place of each wildcard its number.
      inner: what each wildcard matches, as a regular expression over names.
    """

    source: str
    expression: re.Pattern[str]
    pieces: tuple[str | int, ...]
    inner: tuple[str, ...]

    def captures(self, name: str) -> tuple[str, ...] | None:
        """Return what each wildcard matched, or None where the name does not match."""
        found = self.expression.fullmatch(name)
        return None if found is None else found.groups("")

    def matches(self, name: str) -> bool:
        """Return whether the pattern matches the whole name."""
        return self.expression.fullmatch(name) is not None

    def fill(self, captures: Mapping[int, str]) -> str:
        """Return the name in which the wildcards have matched these captures."""
        return "".join(piece if isinstance(piece, str) else captures[piece] for piece in self.pieces)


@dataclasses.dataclass(frozen=True, slots=True)
class Template:
    """A compiled template.

    Attributes:
      source: the template as it was written.
      pieces: text, and in the place of each capture its number.
    """

    source: str
    pieces: tuple[str | int, ...]

    @property
    def numbers(self) -> frozenset[int]:
        """The captures that are in it."""
        return frozenset(piece for piece in self.pieces if isinstance(piece, int))

    def fill(self, captures: tuple[str, ...]) -> str:
        """Return the path for what the wildcards of a pattern matched; dots in a capture become levels."""
        return "".join(
            piece if isinstance(piece, str) else captures[piece - 1].replace(".", "/") for piece in self.pieces
        )

    def backwards(self, pattern: NamePattern) -> re.Pattern[str]:
        """Return what matches the paths that this template makes; group ``c3`` is the third capture."""
        seen: set[int] = set()
        parts: list[str] = []
        for piece in self.pieces:
            if isinstance(piece, str):
                parts.append(re.escape(piece))
            elif piece in seen:
                parts.append(f"(?P=c{piece})")
            else:
                seen.add(piece)
                inner = pattern.inner[piece - 1].replace(r"\.", "/").replace(".", "/")
                parts.append(f"(?P<c{piece}>{inner})")
        return re.compile("".join(parts))


@functools.lru_cache(maxsize=4096)
def compile_name(pattern: str) -> NamePattern | str:
    """Return a pattern in compiled form, or what is wrong with it."""
    pieces: list[str | int] = []
    inner: list[str] = []
    expression: list[str] = []
    for found in _PIECE.finditer(pattern):
        text = found[0]
        if text in ("{", "}"):
            return f"`{text}` at {found.start()} has no partner"
        if text[0] not in "*{":
            pieces.append(text)
            expression.append(re.escape(text))
            continue
        if text == "**":
            inner.append(r"[^.]+(?:\.[^.]+)*")
        elif text == "*":
            alone = pattern[found.start() - 1 : found.start()] in ("", ".") and pattern[found.end() :][:1] in ("", ".")
            inner.append("[^.]+" if alone else "[^.]*")
        else:
            inner.append("|".join(re.escape(option) for option in found[1].split(",")))
        pieces.append(len(inner))
        expression.append(f"({inner[-1]})")
    return NamePattern(pattern, re.compile("".join(expression)), tuple(pieces), tuple(inner))


@functools.lru_cache(maxsize=4096)
def compile_template(template: str) -> Template | str:
    """Return a template in compiled form, or what is wrong with it."""
    pieces: list[str | int] = []
    for found in _FIELD.finditer(template):
        if found[1] is not None:
            pieces.append(int(found[1]))
        elif found[0] in ("{", "}"):
            return f"`{found[0]}` at {found.start()} of {template!r} belongs to no capture such as `{{1}}`"
        else:
            pieces.append(found[0])
    return Template(template, tuple(pieces))


def join_name(*names: str) -> str:
    """Return names one beneath the other; empty ones leave no level behind."""
    return ".".join(filter(None, names))
