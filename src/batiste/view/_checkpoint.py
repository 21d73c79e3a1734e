"""The page of a checkpoint, and of what has changed from one to another."""

from __future__ import annotations

import os
import time
from typing import Any

from batiste._arguments import path as checked_path
from batiste.checkpoint import Checkpoint
from batiste.checkpoint import open as open_checkpoint
from batiste.tree import Patterns
from batiste.view._page import Page
from batiste.view._state import DEFAULT_BUDGET, Budget, Leaf, budget_of, bytes_text, columns, wanted

__all__ = ["checkpoint", "leaves_of", "page_of"]


def checkpoint(
    path: str | os.PathLike[str],
    *,
    diff: str | os.PathLike[str] | None = None,
    stats: Budget = DEFAULT_BUDGET,
    spectra: Patterns = (),
) -> Page:
    """Return the page of a checkpoint of any format that ``batiste.checkpoint.open`` knows.

    Args:
      path: where it is.
      diff: another one, with which it is compared: the page shows what has become of each leaf there.
      stats: how many bytes of leaves are read for statistics, histograms and differences, the smallest leaves first:
        ``"all"``, ``"none"``, or a number of bytes, also as ``"2GB"``.
      spectra: globs over the paths of matrices whose singular values are computed; of an array with more than two axes
        all but the last are one.

    Raises:
      ArgumentError: an argument is none of these.
      UnmatchedPatternError: a pattern of ``spectra`` matches no path.
      BatisteError: as ``batiste.checkpoint.open`` does.

    Example:
      >>> import numpy as np
      >>> from batiste import checkpoint, view
      >>> for step in (1, 2):
      ...     checkpoint.save(f"run/{step}", {"w": np.full(3, step / 2)}, step=step)
      >>> page = view.checkpoint("run/1", diff="run/2")
      >>> page.data["leaves"]["path"], page.data["leaves"]["diff"]["0"]["distance"]
      (['w'], 0.5)
      >>> page.write("page.html").name
      'page.html'
    """
    place = checked_path(path, "path", "view.checkpoint")
    other = None if diff is None else checked_path(diff, "diff", "view.checkpoint")
    budget = budget_of(stats, "view.checkpoint")
    opened = open_checkpoint(place)
    page = page_of(opened, None if other is None else open_checkpoint(other), budget, spectra)
    if other is not None:
        page.data["compared"]["path"] = other
    return Page(place, {**page.data, "title": place})


def page_of(opened: Checkpoint, other: Checkpoint | None, budget: float, spectra: Patterns) -> Page:
    """Return the page of an opened checkpoint, and of how it differs from another."""
    leaves = leaves_of(opened)
    chosen = wanted(spectra, list(leaves))
    made = columns(leaves, budget, chosen, None if other is None else leaves_of(other))
    data: dict[str, Any] = {"title": str(opened.path), "facts": _facts(opened), "leaves": made}
    if other is not None:
        data["compared"] = {"path": str(other.path), "facts": _facts(other)}
    data["tables"] = _tables(opened)
    return Page(data["title"], data)


def leaves_of(opened: Checkpoint) -> dict[str, Leaf]:
    """Return every leaf of a checkpoint, unread."""
    lies = opened.shardings()
    found: dict[str, Leaf] = {}
    for path, record in opened.manifest.records.items():
        axes = opened.manifest.axes.get(path, ())
        if record.kind is not None:
            found[path] = Leaf(str(record), None, record.kind, 0, value=_shortened(repr(record.value)))
        else:
            read = None if record.key is not None else opened.lazy(path).read
            shape = record.shape if record.key is None else record.shape[:-1]
            dtype = record.dtype if record.key is None else f"key<{record.key}>"
            found[path] = Leaf(str(record), shape, dtype, record.bytes, read, axes, lies.get(path, ""))
    for path, words in opened.manifest.opaque.items():
        found[path] = Leaf(words, None, "opaque", 0, value=words)
    return found


def _shortened(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:197]}..."


def _facts(opened: Checkpoint) -> list[str]:
    manifest = opened.manifest
    told = [str(manifest.storage.get("format", "unknown format"))]
    told += [f"step {opened.step:,}"] if opened.step is not None else []
    told += [f"{len(manifest.records):,} leaves", bytes_text(manifest.bytes)]
    told += [time.strftime("saved %Y-%m-%d %H:%M", time.localtime(manifest.saved_at))] if manifest.saved_at else []
    return told


def _tables(opened: Checkpoint) -> list[dict[str, Any]]:
    """Return what a checkpoint says beside its leaves, as tables."""
    manifest = opened.manifest
    parts = {
        "metadata": [[name, _shortened(str(value))] for name, value in manifest.metadata.items()],
        "written with": [[name, version] for name, version in manifest.versions.items()],
    }
    return [{"title": title, "heads": [], "rows": rows} for title, rows in parts.items() if rows]
