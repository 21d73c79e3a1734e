"""Where a command writes: the one way to a new checkpoint, for all of them.

``Output`` refuses before anything is read: what exists is replaced only under ``--force``, and even then only if it is
a checkpoint (so that a mistyped path never costs a folder), and never a folder that holds a source or lies within one.
The writing itself is in ``_write.py``, which loads only when something is written: a dry run needs no JAX.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from batiste.checkpoint import Checkpoint, format_of
from batiste.checkpoint import open as open_checkpoint
from batiste.cli._late import Late
from batiste.cli._say import say
from batiste.cli._sources import View, stacked_levels
from batiste.cli._tables import plural, size_text
from batiste.errors import (
    CheckpointArgumentError,
    CheckpointExistsError,
    CheckpointFormatError,
    DamagedCheckpointError,
    FormatLossError,
    RefusedCheckpointError,
)
from batiste.tree import LazyArray, flatten

if TYPE_CHECKING:
    from batiste.cli import _write
else:
    _write = Late("batiste.cli._write")

__all__ = ["Output", "store_tree", "store_view"]


@dataclasses.dataclass(frozen=True, slots=True)
class Output:
    """Where a result goes, and how.

    Attributes:
      path: a single file where it ends in ``.safetensors``, ``.npz`` or ``.msgpack``, else a folder.
      force: whether to replace a checkpoint that is there.
      dry_run: whether to say what would be written, and write nothing.
      quiet: whether to say nothing, not even how far it is.
      compress: whether the arrays of a folder or an ``.npz`` file are compressed.
      lossy: whether a ``.msgpack`` file may leave out what it has no place for.
    """

    path: Path
    force: bool = False
    dry_run: bool = False
    quiet: bool = False
    compress: bool = False
    lossy: bool = False

    def opened_for(self, sources: Sequence[Path]) -> list[Checkpoint]:
        """Return the sources, opened, once it is sure that the result can be written.

        Raises:
          CheckpointExistsError: and the other errors of ``check``.
        """
        opened = [open_checkpoint(source) for source in sources]
        self.check(sources)
        return opened

    def check(self, sources: Iterable[Path]) -> None:
        """Refuse what cannot or must not be written.

        Raises:
          CheckpointExistsError: if something is there, and nothing says to replace it.
          CheckpointArgumentError: if the format is read only, if what is there is no checkpoint, or if a source lies
            within the destination or the destination within a source.
        """
        try:
            format_of(self.path)
        except CheckpointArgumentError as error:
            raise self._refused(error.context["reason"], error.context["cure"]) from None
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
    Checkpoint(made).refuse_opaque(made.manifest.opaque)
    sizes = {path: leaf.nbytes for path, leaf in made.leaves.items()}
    if output.dry_run:
        made_of = made.manifest
        keys = [path for path, record in made_of.records.items() if record.key is not None]
        _check_place(output, made_of.step, made_of.metadata, made_of.axes, keys)
        _announce(output, len(made_of.records), sum(sizes.values()), lines)
        return
    stacked = stacked_levels([made.manifest], made.manifest.records)
    _write.write_view(
        made, output.path, stacked, _write.Options(output.force, output.compress, output.lossy), quiet=output.quiet
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
    leaves = flatten(tree)
    sizes = {path: int(getattr(leaf, "nbytes", 0)) for path, leaf in leaves.items()}
    manifests = [source.manifest for source in sources]
    step = next((manifest.step for manifest in manifests if manifest.step is not None), None)
    metadata: dict[str, Any] = {}
    for manifest in reversed(manifests):
        metadata |= manifest.metadata
    axes = _axes(sources, leaves)
    if output.dry_run:
        keys = [
            path
            for path, leaf in leaves.items()
            if hasattr(leaf, "dtype") and not isinstance(leaf, LazyArray | np.ndarray)
        ]
        _check_place(output, step, metadata, axes, keys)
        _announce(output, len(leaves), sum(sizes.values()), lines)
        return
    _write.write_tree(
        tree,
        output.path,
        step=step,
        metadata=metadata,
        axes=axes,
        stacked=stacked_levels(manifests, leaves, stacked),
        options=_write.Options(output.force, output.compress, output.lossy),
        quiet=output.quiet,
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


def _check_place(
    output: Output, step: int | None, metadata: Mapping[str, Any], axes: Mapping[str, Any], keys: Sequence[str]
) -> None:
    """Refuse in a dry run what saving would refuse: a format without a place for all that is there."""
    if output.path.suffix != ".msgpack" or output.lossy:
        return
    told = {"the step": [str(step)] * (step is not None), "metadata": metadata, "logical names of axes": axes}
    lost = {what: list(names) for what, names in {**told, "the type of random keys": keys}.items() if names}
    if lost:
        lines = "\n".join(f"  {what}: {', '.join(names)}" for what, names in lost.items())
        raise FormatLossError(path=output.path, lines=lines)


def _announce(output: Output, leaves: int, size: int, lines: Sequence[str]) -> None:
    """Say what would be written."""
    for line in lines:
        say(line)
    say(f"would write {output.path}: {plural(leaves, 'leaf', 'leaves')}, {size_text(size)}")


def _finished(output: Output, leaves: int, size: int) -> None:
    if not output.quiet:
        say(f"wrote {output.path}: {plural(leaves, 'leaf', 'leaves')}, {size_text(size)}")
