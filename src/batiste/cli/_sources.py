"""Opened checkpoints on their way to another: as a tree, or as a *view*.

A view is a checkpoint whose leaves were left out or replaced, at the paths that they had. It keeps what a manifest says
beside the arrays: containers of every kind, random keys, step, metadata, logical names of axes. ``select``, ``cast``,
``average`` and ``convert`` write views. Commands that give leaves other paths work on trees instead, whose lazy leaves
know where they are from.

Nothing here reads an array or needs JAX.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from batiste.checkpoint import Checkpoint, Manifest, Record
from batiste.cli._rules import read_patterns
from batiste.tree import LazyArray, select, unflatten

__all__ = ["View", "arrays", "matching", "stacked_levels", "view"]


class View:
    """What ``Checkpoint`` reads through: leaves from anywhere, described by a manifest made from another.

    Args:
      path: where the first of the leaves come from.
      manifest: what is there now.
      leaves: every array by its path.
    """

    def __init__(self, path: Path, manifest: Manifest, leaves: Mapping[str, LazyArray]) -> None:
        self._path = path
        self._manifest = manifest
        self.leaves = leaves

    @property
    def path(self) -> Path:
        """Where the leaves come from."""
        return self._path

    @property
    def manifest(self) -> Manifest:
        """What is there."""
        return self._manifest

    def read(self, path: str, box: tuple[slice, ...] | None = None) -> np.ndarray[Any, np.dtype[Any]]:
        """Read an array, or a box of it; the whole of one that is damaged is an error."""
        return self.leaves[path].read(box)

    def read_many(self, paths: Iterable[str]) -> Iterator[tuple[str, np.ndarray[Any, np.dtype[Any]]]]:
        """Read whole arrays one after the other."""
        return ((path, self.read(path)) for path in paths)

    def check_files(self, *, whole: bool) -> list[Any]:
        """Return nothing: there are no files of its own."""
        del whole
        return []


def arrays(opened: Checkpoint) -> dict[str, LazyArray]:
    """Return every array of a checkpoint by its path, unread; random keys as their data."""
    return {path: opened.lazy(path) for path, record in opened.manifest.records.items() if record.kind is None}


def view(opened: Checkpoint, paths: Iterable[str], leaves: Mapping[str, LazyArray], *, partly: bool = False) -> View:
    """Return the part of a checkpoint that is at some paths, with other arrays.

    Args:
      opened: the checkpoint.
      paths: the leaves that are kept, in the order of the checkpoint.
      leaves: an array for each of them that is no plain value.
      partly: whether somebody has chosen the leaves, so that opaque entries are not asked for.
    """
    old = opened.manifest
    records: dict[str, Record] = {}
    for path in paths:
        record, leaf = old.records[path], leaves.get(path)
        if leaf is None:
            records[path] = dataclasses.replace(record)
        else:
            records[path] = Record(leaf.shape, leaf.dtype.name, leaf.nbytes, key=record.key)
    manifest = dataclasses.replace(
        old,
        records=records,
        opaque={} if partly else old.opaque,
        containers=dict(old.containers) if len(records) == len(old.records) else _above(old, records),
        axes={path: names for path, names in old.axes.items() if path in records},
    )
    return View(opened.path, manifest, {path: leaf for path, leaf in leaves.items() if path in records})


def matching(paths: Sequence[str], words: Sequence[str], *, regex: bool) -> list[str]:
    """Return the paths that match one of the patterns.

    Raises:
      UnmatchedPatternError: if a pattern matches none of them; the error names the nearest.
    """
    patterns = read_patterns(words, regex=regex)
    if not all(any(pattern.matches(path) for path in paths) for pattern in patterns):
        select(unflatten(dict.fromkeys(paths, 0)), patterns)  # which says what is near
    return [path for path in paths if any(pattern.matches(path) for pattern in patterns)]


def stacked_levels(manifests: Iterable[Manifest], leaves: Mapping[str, Any], more: Iterable[str] = ()) -> list[str]:
    """Return the levels whose leaves are stacked layers, of those that were and that still can be.

    Args:
      manifests: where the levels were.
      leaves: by path, anything with a shape; what has none has no axes.
      more: levels that are stacked now.
    """
    was = [level for each in manifests for level, row in each.layers.items() if row.get("layout") == "stacked"]
    found: list[str] = []
    for level in dict.fromkeys([*was, *more]):
        beneath = [leaf for path, leaf in leaves.items() if path.startswith(f"{level}/")]
        firsts = {tuple(getattr(leaf, "shape", ()))[:1] for leaf in beneath}
        if len(firsts) == 1 and not firsts <= {(), (0,)}:
            found.append(level)
    return found


def _above(old: Manifest, paths: Sequence[str] | Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The containers above the leaves that are left, and the empty ones that sequences among them need."""
    above = {"/".join(path.split("/")[:depth]) for path in paths for depth in range(path.count("/") + 1)}
    leafless = {path: row for path, row in old.containers.items() if not _holds(old, path)}
    ordered = {path for path in above if old.containers.get(path, {}).get("kind") in ("tuple", "list", "namedtuple")}
    return {
        path: row
        for path, row in old.containers.items()
        if path in above or (path in leafless and path.rpartition("/")[0] in ordered)
    }


def _holds(old: Manifest, level: str) -> bool:
    return any(not level or path.startswith(f"{level}/") for path in old.records)
