"""The writing of a result, with a bar that shows how far it is.

The saving itself is ``batiste.checkpoint.save``: complete or not at all, one leaf after the other, with the old
checkpoint in its place until the new one is complete. The bar is on standard error, where that is a terminal, and shows
how much was read.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from batiste.checkpoint import Checkpoint, save
from batiste.cli._sources import View
from batiste.tree import LazyArray, flatten
from batiste.tree import map as map_leaves

__all__ = ["Options", "write_tree", "write_view"]


@dataclasses.dataclass(frozen=True, slots=True)
class Options:
    """What ``batiste.checkpoint.save`` takes for any tree."""

    overwrite: bool
    compress: bool
    lossy: bool


def write_view(made: View, path: Path, stacked: Sequence[str], options: Options, *, quiet: bool) -> None:
    """Save a view; ``stacked`` are its levels of stacked layers, ``quiet`` leaves the bar out."""
    with _metered(path, {path: leaf.nbytes for path, leaf in made.leaves.items()}, quiet=quiet) as meter:
        leaves = {path: meter(path, leaf) for path, leaf in made.leaves.items()}
        whole = Checkpoint(View(made.path, made.manifest, leaves))
        save(path, whole, stacked=stacked, **dataclasses.asdict(options))


def write_tree(
    tree: Any,
    path: Path,
    *,
    step: int | None,
    metadata: Mapping[str, Any],
    axes: Mapping[str, Sequence[str | None]],
    stacked: Sequence[str],
    options: Options,
    quiet: bool,
) -> None:
    """Save a tree with what ``batiste.checkpoint.save`` takes besides; ``quiet`` leaves the bar out."""
    sizes = {path: leaf.nbytes for path, leaf in flatten(tree).items() if isinstance(leaf, LazyArray)}
    with _metered(path, sizes, quiet=quiet) as meter:
        whole = map_leaves(tree, meter)
        asked = dataclasses.asdict(options)
        save(path, whole, step=step, metadata=metadata, axes=axes, stacked=stacked, **asked)


@contextlib.contextmanager
def _metered(path: Path, sizes: Mapping[str, int], *, quiet: bool) -> Generator[Callable[[str, Any], Any]]:
    """Give the function that lets the bar see when a lazy leaf is read for the first time."""
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    hidden = quiet or not sys.stderr.isatty()
    unread = dict(sizes)
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=hidden) as progress:
        task = progress.add_task(path.name, total=sum(sizes.values()))

        def meter(path: str, leaf: Any) -> Any:
            if not isinstance(leaf, LazyArray):
                return leaf

            def seen(array: Any) -> Any:
                progress.advance(task, unread.pop(path, 0))
                return array

            return leaf.map(seen, elementwise=True)

        yield meter
