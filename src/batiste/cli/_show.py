"""``batiste show``: what is in a checkpoint, from its manifest; with ``--stats`` from its arrays, one at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from batiste.checkpoint import Checkpoint, Record
from batiste.checkpoint import open as open_checkpoint
from batiste.cli._report import Exit
from batiste.cli._say import say, say_json
from batiste.cli._sources import matching
from batiste.cli._tables import Row, elements, plural, rows, size_text, table
from batiste.view import Statistics, statistics

__all__ = ["show"]

_HEADS = ("mean", "spread", "min", "max", "NaN", "inf")


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
    found = {name: _statistics(opened, name) for name in records if stats and _has_numbers(records[name])}
    if as_json:
        say_json(_as_json(opened, records, found, depth) | ({"opaque": opaque} if opaque else {}))
        return Exit.OK
    listed = rows(records, depth)
    say(_headline(path, opened, rows(records, 0)[0]))
    notes = {name: _cells(each) for name, each in found.items()}
    for line in table(listed, notes, _HEADS if stats else ()):
        typer.echo(line)
    if opaque:
        say(f"{plural(len(opaque), 'entry', 'entries')} neither arrays nor plain values:")
    for name, what in opaque.items():
        say(f"  {name}: {what}")
    return Exit.OK


def _statistics(opened: Checkpoint, path: str) -> Statistics:
    """Return the statistics of a leaf, read whole and checked."""
    return statistics(opened.lazy(path).read())


def _cells(stats: Statistics) -> list[str]:
    numbers = [stats.mean, stats.spread, stats.min, stats.max]
    return [*("-" if number is None else f"{number:.4g}" for number in numbers), str(stats.nan), str(stats.inf)]


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
    opened: Checkpoint, records: dict[str, Record], stats: dict[str, Statistics], depth: int | None
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
