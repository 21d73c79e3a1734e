"""Leaves as people read them: a tree of paths with what is at each, and totals by prefix.

Lines are as long as they need to be and are never cut, so that they can be searched. On a terminal, levels are bold.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence

import typer

from batiste.checkpoint import Record
from batiste.cli._say import printable

__all__ = ["Row", "elements", "plural", "rows", "size_text", "table"]


@dataclasses.dataclass(slots=True)
class Row:
    """One level or one leaf.

    Attributes:
      path: its names from the root.
      leaves: how many leaves there are beneath it; 1 for a leaf.
      count: how many elements are in them.
      bytes: how many bytes.
      record: what the leaf is; None for a level.
    """

    path: tuple[str, ...]
    leaves: int = 0
    count: int = 0
    bytes: int = 0
    record: Record | None = None


def elements(record: Record) -> int:
    """Return the number of elements of a leaf; keys count, not the words of their data, and plain values are one."""
    return math.prod(record.shape if record.key is None else record.shape[:-1])


def rows(records: Mapping[str, Record], depth: int | None = None) -> list[Row]:
    """Return every level and leaf, each level before what is in it, down to ``depth`` levels."""
    found: dict[tuple[str, ...], Row] = {}
    for path, record in records.items():
        names = tuple(path.split("/")) if path else ()
        for length in range(len(names) + 1):
            row = found.setdefault(names[:length], Row(names[:length]))
            row.leaves += 1
            row.count += elements(record)
            row.bytes += record.bytes
        found[names].record = record
    root = found.get((), Row(()))
    ordered = [root, *_beneath((), _children(found))]
    return [row for row in ordered if depth is None or len(row.path) <= depth]


def table(listed: Sequence[Row], notes: Mapping[str, Sequence[str]], heads: Sequence[str] = ()) -> list[str]:
    """Return the lines of a table of all rows but the root.

    Args:
      listed: from ``rows``.
      notes: further cells of a leaf, by path.
      heads: the heads of these cells.
    """
    lines: list[tuple[str, ...]] = [("", "", "", *heads)] if heads else []
    for row in listed:
        if not row.path:
            continue
        name = "  " * (len(row.path) - 1) + printable(row.path[-1])
        what = plural(row.leaves, "leaf", "leaves") if row.record is None else printable(str(row.record))
        cells = notes.get("/".join(row.path), [""] * len(heads))
        lines.append((name if row.record is not None else f"{name}/", what, size_text(row.bytes), *cells))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [_line(cells, widths) for cells in lines]


def size_text(size: int) -> str:
    """Return a number of bytes in the unit that suits it: 12 B, 3.4 kB, 1.2 GB."""
    value, unit = float(size), "B"
    for larger in ("kB", "MB", "GB", "TB", "PB"):
        if value < 999.5:
            break
        value, unit = value / 1000, larger
    return f"{size} B" if unit == "B" else f"{value:.3g} {unit}"


def plural(count: int, one: str, many: str) -> str:
    """Return the count with the word that fits it."""
    return f"{count:,} {one if count == 1 else many}"


def _children(found: Mapping[tuple[str, ...], Row]) -> dict[tuple[str, ...], list[Row]]:
    children: dict[tuple[str, ...], list[Row]] = {}
    for names, row in found.items():
        if names:
            children.setdefault(names[:-1], []).append(row)
    return children


def _beneath(names: tuple[str, ...], children: Mapping[tuple[str, ...], list[Row]]) -> Iterator[Row]:
    for row in children.get(names, ()):
        yield row
        yield from _beneath(row.path, children)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    name = cells[0].ljust(widths[0])
    styled = typer.style(name, bold=True) if cells[0].endswith("/") else name
    rest = [cells[1].ljust(widths[1]), *(cell.rjust(width) for cell, width in zip(cells[2:], widths[2:], strict=True))]
    return "  ".join([styled, *rest]).rstrip()
