"""``batiste show``: what is in a checkpoint, from its manifest; with ``--stats`` from its arrays, one at a time."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import typer

from batiste.checkpoint import Checkpoint, Record
from batiste.checkpoint import open as open_checkpoint
from batiste.cli._report import Exit
from batiste.cli._say import say, say_json
from batiste.cli._sources import matching
from batiste.cli._tables import Row, elements, plural, rows, size_text, table

__all__ = ["Stats", "show", "statistics"]

_CHUNK = 1 << 20
_HEADS = ("mean", "spread", "min", "max", "NaN", "inf")


@dataclasses.dataclass(frozen=True, slots=True)
class Stats:
    """The values of a leaf in a few numbers; of complex values, of their magnitudes.

    Attributes:
      mean: the mean of the finite elements; None where there are none.
      spread: their standard deviation.
      min: the smallest of them; of integers exact.
      max: the largest of them; of integers exact.
      nan: how many elements are not a number.
      inf: how many are infinite.
    """

    mean: float | None
    spread: float | None
    min: float | None
    max: float | None
    nan: int
    inf: int

    def cells(self) -> list[str]:
        """Return what a table shows."""
        numbers = [self.mean, self.spread, self.min, self.max]
        return [*("-" if number is None else f"{number:.4g}" for number in numbers), str(self.nan), str(self.inf)]


def show(
    path: Path,
    patterns: Sequence[str],
    *,
    regex: bool,
    stats: bool,
    depth: int | None,
    paths_only: bool,
    as_json: bool,
) -> Exit:
    """Print what a checkpoint holds."""
    opened = open_checkpoint(path)
    records, opaque = _chosen(opened, patterns, regex=regex)
    if paths_only and not as_json:
        for name in records:
            say(name)
        return Exit.OK
    found = {name: statistics(opened, name) for name in records if stats and _has_numbers(records[name])}
    if as_json:
        say_json(_as_json(opened, records, found, depth) | ({"opaque": opaque} if opaque else {}))
        return Exit.OK
    listed = rows(records, depth)
    say(_headline(path, opened, rows(records, 0)[0]))
    notes = {name: each.cells() for name, each in found.items()}
    for line in table(listed, notes, _HEADS if stats else ()):
        typer.echo(line)
    if opaque:
        say(f"{plural(len(opaque), 'entry', 'entries')} neither arrays nor plain values:")
    for name, what in opaque.items():
        say(f"  {name}: {what}")
    return Exit.OK


def statistics(opened: Checkpoint, path: str) -> Stats:
    """Return the statistics of a leaf, read whole and checked, in passes of bounded memory."""
    array = opened.lazy(path).read()
    nan, inf, count = 0, 0, 0
    lowest: list[float] = []
    highest: list[float] = []
    for part in _numbers(array):
        finite = part[np.isfinite(part)]
        nan += int(np.isnan(part).sum())
        inf += int(np.isinf(part).sum())
        count += finite.size
        if finite.size:
            lowest.append(finite.min().item())
            highest.append(finite.max().item())
    if not count:
        return Stats(None, None, None, None, nan, inf)
    low, high = min(lowest), max(highest)
    power = math.frexp(max(abs(low), abs(high)))[1]  # of numbers up to 1, neither sums nor squares overflow
    sums = sum(float(part.sum()) for part in _scaled(array, power)) / count
    mean = min(max(sums, math.ldexp(low, -power)), math.ldexp(high, -power))  # which rounding may miss by a little
    square = sum(float(np.square(part - mean).sum()) for part in _scaled(array, power)) / count
    return Stats(math.ldexp(mean, power), _finite(np.ldexp(math.sqrt(square), power)), low, high, nan, inf)


def _numbers(array: Any) -> Iterator[Any]:
    """The elements in pieces: whole numbers as they are, others in double precision, and magnitudes of complex ones."""
    flat = array.reshape(-1)
    for start in range(0, flat.size, _CHUNK):
        part = flat[start : start + _CHUNK]
        if part.dtype.kind in "iu":
            yield part
        else:
            yield np.abs(part.astype(np.complex128)) if part.dtype.kind == "c" else part.astype(np.float64)


def _scaled(array: Any, power: int) -> Iterator[Any]:
    """The finite elements in pieces, divided by a power of two."""
    for part in _numbers(array):
        yield np.ldexp(part[np.isfinite(part)].astype(np.float64), -power)


def _finite(number: Any) -> float | None:
    return float(number) if np.isfinite(number) else None


def _has_numbers(record: Record) -> bool:
    return record.kind is None and record.key is None


def _chosen(opened: Checkpoint, words: Sequence[str], *, regex: bool) -> tuple[dict[str, Record], dict[str, str]]:
    """The leaves that are shown, and the opaque entries."""
    records, opaque = opened.manifest.records, opened.manifest.opaque
    if not words:
        return dict(records), dict(opaque)
    paths = matching([*records, *opaque], words, regex=regex)
    return {path: records[path] for path in paths if path in records}, {
        path: opaque[path] for path in paths if path in opaque
    }


def _headline(path: Path, opened: Checkpoint, root: Row) -> str:
    parts = [str(opened.manifest.storage.get("format", "unknown format"))]
    parts += [f"step {opened.step}"] if opened.step is not None else []
    parts += [plural(root.leaves, "leaf", "leaves"), plural(root.count, "element", "elements"), size_text(root.bytes)]
    parts += [] if opened.has_digests else ["no digests"]
    return f"{path}: {', '.join(parts)}"


def _as_json(
    opened: Checkpoint, records: dict[str, Record], stats: dict[str, Stats], depth: int | None
) -> dict[str, Any]:
    manifest = opened.manifest
    leaves: list[dict[str, Any]] = []
    for path, record in records.items():
        leaf: dict[str, Any] = {"path": path, "shape": list(record.shape), "dtype": record.dtype}
        leaf |= {"count": elements(record), "bytes": record.bytes, "xxh3_128": record.digest}
        leaf |= {"key": record.key} if record.key is not None else {}
        leaf |= {"python": record.kind} if record.kind is not None else {}
        leaf |= {"axes": manifest.axes[path]} if path in manifest.axes else {}
        leaf |= {"stats": dataclasses.asdict(stats[path])} if path in stats else {}
        leaves.append(leaf)
    totals = {
        "/".join(row.path): {"leaves": row.leaves, "count": row.count, "bytes": row.bytes}
        for row in rows(records, depth)
        if row.record is None
    }
    return {
        "path": str(opened.path),
        "format": manifest.storage.get("format"),
        "step": opened.step,
        "saved_at": manifest.saved_at or None,
        "versions": manifest.versions,
        "metadata": manifest.metadata,
        "digests": opened.has_digests,
        "layers": manifest.layers,
        "leaves": leaves,
        "totals": totals,
    }
