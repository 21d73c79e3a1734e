"""Where a command writes: the one way to a new checkpoint, for all of them.

``Output`` refuses before anything is read: what exists is replaced only under ``--force``, and even then only if it is
a checkpoint (so that a mistyped path never costs a folder), and never a folder that holds a source or lies within one.
The saving itself is ``batiste.checkpoint.save``: complete or not at all, one leaf after the other, with the old
checkpoint in its place until the new one is complete. A bar on standard error shows how much was read, where that is a
terminal.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from batiste.checkpoint import Checkpoint, save
from batiste.checkpoint import open as open_checkpoint
from batiste.cli._sources import View, stacked_levels
from batiste.cli._tables import plural, size_text
from batiste.errors import (
    CheckpointArgumentError,
    CheckpointExistsError,
    CheckpointFormatError,
    DamagedCheckpointError,
    RefusedCheckpointError,
)
from batiste.tree import LazyArray, items
from batiste.tree import map as map_leaves

__all__ = ["Output", "store_tree", "store_view"]

_READ_ONLY: Final = (".npz", ".msgpack", ".pt", ".pth", ".bin")


@dataclasses.dataclass(frozen=True, slots=True)
class Output:
    """Where a result goes, and how.

    Attributes:
      path: a folder, or a single file where it ends in ``.safetensors``.
      force: whether to replace a checkpoint that is there.
      dry_run: whether to say what would be written, and write nothing.
      quiet: whether to say nothing, not even how far it is.
      compress: whether the arrays of a folder are compressed.
    """

    path: Path
    force: bool = False
    dry_run: bool = False
    quiet: bool = False
    compress: bool = False

    def check(self, sources: Iterable[Path]) -> None:
        """Refuse what cannot or must not be written.

        Raises:
          CheckpointExistsError: if something is there, and nothing says to replace it.
          CheckpointArgumentError: if the format is read only, if what is there is no checkpoint, or if a source lies
            within the destination or the destination within a source.
        """
        if self.path.suffix in _READ_ONLY:
            reason = f"{self.path.suffix} files are read and not written"
            raise self._refused(reason, "Write a folder (a name without such an ending) or a .safetensors file.")
        place = Path(os.path.realpath(self.path))
        for source in sources:
            other = Path(os.path.realpath(source))
            if place != other and (place.is_relative_to(other) or other.is_relative_to(place)):
                reason = f"it and the source {source} lie one in the other"
                raise self._refused(reason, "Choose a path beside it.")
        if not os.path.lexists(place):
            return
        if not self.force:
            raise CheckpointExistsError(path=self.path)
        try:
            open_checkpoint(place)
        except (DamagedCheckpointError, RefusedCheckpointError):
            return  # a checkpoint once, and good for nothing now
        except CheckpointFormatError:
            reason = "what is there is no checkpoint, and --force replaces only checkpoints"
            raise self._refused(reason, "Choose another path, or remove it first.") from None

    def _refused(self, reason: str, cure: str) -> CheckpointArgumentError:
        return CheckpointArgumentError(argument="DST", value=self.path, reason=reason, cure=cure)


def store_view(output: Output, made: View, lines: Sequence[str] = ()) -> None:
    """Write a view.

    Args:
      output: where to.
      made: what.
      lines: what a dry run says besides.
    """
    sizes = {path: leaf.nbytes for path, leaf in made.leaves.items()}
    if _announced(output, len(made.manifest.records), sum(sizes.values()), lines):
        return
    with _metered(output, sizes) as meter:
        leaves = {path: meter(path, leaf) for path, leaf in made.leaves.items()}
        save(
            output.path,
            Checkpoint(View(made.path, made.manifest, leaves)),
            stacked=stacked_levels([made.manifest], made.manifest.records),
            overwrite=output.force,
            compress=output.compress,
        )
    _finished(output, len(made.manifest.records), sum(sizes.values()))


def store_tree(
    output: Output, tree: Any, sources: Sequence[Checkpoint], lines: Sequence[str] = (), stacked: Iterable[str] = ()
) -> None:
    """Write a tree made of the leaves of some checkpoints; step and metadata are those of the first that has them.

    Args:
      output: where to.
      tree: what.
      sources: where the leaves are from.
      lines: what a dry run says besides.
      stacked: levels that are stacked now and were not.
    """
    leaves = dict(items(tree))
    sizes = {path: int(getattr(leaf, "nbytes", 0)) for path, leaf in leaves.items()}
    if _announced(output, len(leaves), sum(sizes.values()), lines):
        return
    manifests = [source.manifest for source in sources]
    metadata: dict[str, Any] = {}
    for manifest in reversed(manifests):
        metadata |= manifest.metadata
    with _metered(output, {path: size for path, size in sizes.items() if isinstance(leaves[path], LazyArray)}) as meter:
        save(
            output.path,
            map_leaves(tree, meter),
            step=next((manifest.step for manifest in manifests if manifest.step is not None), None),
            metadata=metadata,
            axes=_axes(sources, leaves),
            stacked=stacked_levels(manifests, leaves, stacked),
            overwrite=output.force,
            compress=output.compress,
        )
    _finished(output, len(leaves), sum(sizes.values()))


def _axes(sources: Sequence[Checkpoint], leaves: Mapping[str, Any]) -> dict[str, Sequence[str | None]]:
    """The logical names of the axes of leaves that are still where they were, with as many axes."""
    found: dict[str, Sequence[str | None]] = {}
    for source in sources:
        for path, names in source.manifest.axes.items():
            if path in leaves and len(getattr(leaves[path], "shape", ())) == len(names):
                found.setdefault(path, names)
    return found


def _announced(output: Output, leaves: int, size: int, lines: Sequence[str]) -> bool:
    """Say what would be written, where that is all that is wanted."""
    if output.dry_run:
        for line in lines:
            typer.echo(line)
        typer.echo(f"would write {output.path}: {plural(leaves, 'leaf', 'leaves')}, {size_text(size)}")
    return output.dry_run


def _finished(output: Output, leaves: int, size: int) -> None:
    if not output.quiet:
        typer.echo(f"wrote {output.path}: {plural(leaves, 'leaf', 'leaves')}, {size_text(size)}")


@contextlib.contextmanager
def _metered(output: Output, sizes: Mapping[str, int]) -> Generator[Callable[[str, Any], Any]]:
    """Give the function that lets the bar see when a lazy leaf is read for the first time."""
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    hidden = output.quiet or not sys.stderr.isatty()
    unread = dict(sizes)
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=hidden) as progress:
        task = progress.add_task(output.path.name, total=sum(sizes.values()))

        def meter(path: str, leaf: Any) -> Any:
            if not isinstance(leaf, LazyArray):
                return leaf

            def read(box: tuple[slice, ...] | None) -> Any:
                array = leaf.read(box)
                progress.advance(task, unread.pop(path, 0))
                return array

            return LazyArray(leaf.shape, leaf.dtype, read)

        yield meter
