"""Saving: a tree becomes a manifest and arrays, and both appear at their path whole or not at all.

What cannot be saved is found before anything is written. Arrays go one at a time through the host's memory, and their
digests are computed beside the writing. An asynchronous save copies the arrays first, so that they may be donated,
deleted or overwritten as soon as it returns.
"""

from __future__ import annotations

import dataclasses
import errno
import importlib.metadata
import math
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import jax
import numpy as np

from batiste._processes import several
from batiste.checkpoint._arrays import copy_of, digest_array, to_host
from batiste.checkpoint._background import SaveHandle
from batiste.checkpoint._checkpoint import Checkpoint
from batiste.checkpoint._directory import is_vouched
from batiste.checkpoint._endings import format_of
from batiste.checkpoint._files import digest_files, resolve, staged, write_error
from batiste.checkpoint._manifest import MANIFEST_NAME, Manifest
from batiste.checkpoint._msgpack_write import Layout, flax_layout, losses, write_msgpack
from batiste.checkpoint._npz import write_npz
from batiste.checkpoint._orbax import ITEM
from batiste.checkpoint._orbax_write import WHOLE_BYTES, ArrayWriter, write_marks
from batiste.checkpoint._replaceable import check_replaceable
from batiste.checkpoint._safetensors import write_safetensors
from batiste.checkpoint._savable import as_json, as_step, check_axes, check_names, check_options, records_of
from batiste.checkpoint._stored import inherit, stacked_levels
from batiste.checkpoint._structure import describe, is_flat
from batiste.checkpoint._together import Part, Share, agree, copied_parts, own_parts, refuse, save_together
from batiste.checkpoint._types import NumpyArray, Record
from batiste.errors import (
    CheckpointArgumentError,
    CheckpointExistsError,
    FormatLossError,
)
from batiste.tree import LazyArray, join_path, split_path

__all__ = ["save", "save_async"]

_NUMBERED: Final = re.compile(r"(.+)_(0|[1-9][0-9]*)")
_PACKAGES: Final = ("batiste", "jax", "numpy", "orbax-checkpoint")


@dataclasses.dataclass(frozen=True, slots=True)
class _Job:
    """A save that was checked and not yet begun: where, what, the arrays by path, and who writes what of a folder."""

    target: Path
    manifest: Manifest
    arrays: dict[str, Any]
    overwrite: bool
    layout: Layout | None = None
    share: Share | None = None


def save(
    path: str | os.PathLike[str],
    tree: Any,
    *,
    step: int | None = None,
    metadata: Mapping[str, Any] | None = None,
    axes: Mapping[str, Sequence[str | None]] | None = None,
    stacked: Sequence[str] = (),
    overwrite: bool = False,
    compress: bool = False,
    lossy: bool = False,
    clock: Callable[[], float] = time.time,
) -> None:
    """Save a tree: a single file where the path ends in ``.safetensors``, ``.npz`` or ``.msgpack``, else a directory.

    A Flax MessagePack file holds what ``flax.serialization.to_bytes`` writes, byte for byte, and no manifest; the other
    formats hold everything.

    Args:
      path: where; relative paths are taken from the working directory, and folders above it are made.
      tree: any pytree of arrays, typed random keys, numbers and strings, or an opened ``Checkpoint``, which is
        converted with all that its manifest says; the lazy arrays of one bring with them what it says of them. Of
        NumPy's own kinds of arrays, scalars and other byte orders come back as they were, a memory map as an array;
        masked arrays, matrices, records, dates, text and objects are refused.
      step: the training step: an integer from 0 on, also one of NumPy or JAX.
      metadata: dicts with strings as keys, lists, strings, numbers and None; tuples come back as lists, and numbers
        of NumPy and JAX as Python's.
      axes: the logical names of the axes of leaves, by path; those of boxed leaves are known already.
      stacked: the paths of levels whose leaves are layers stacked along their first axis, such as ``params/h``.
      overwrite: whether to replace a checkpoint that is there; it stays until the new one is complete. Nothing but a
        checkpoint of batiste or Orbax is replaced: no folder of a run, and none with other files in it.
      compress: whether to compress the arrays of a directory or an ``.npz`` file: some percent smaller, and twice as
        slow; no other format can.
      lossy: whether a ``.msgpack`` file may leave out what it has no place for; the other formats have a
        place for everything.
      clock: seconds since 1970, for ``Manifest.saved_at``.

    Raises:
      CheckpointExistsError: if something is there and ``overwrite`` is not set, also where another program that
        saves to the same path was first.
      CheckpointArgumentError: if ``overwrite`` is set and what is there is no checkpoint, or if another argument cannot
        work, or would not be used.
      UnsavableLeafError: if leaves are neither arrays nor plain values; the error lists all.
      UnsavableTreeError: if a container cannot be written down.
      FormatLossError: if the format has no place for something and ``lossy`` is not set.
      CheckpointWriteError: if the operating system refuses; what was there before is untouched.

    Example:
      >>> import numpy as np
      >>> from batiste import checkpoint
      >>> state = {"w": np.ones((2, 3)), "step": 7}
      >>> for name in ("run", "run.npz", "run.safetensors"):
      ...     checkpoint.save(name, state, step=7)
      >>> checkpoint.restore("run.npz")["step"]
      7
    """
    job = _prepare(path, tree, step, metadata, axes, stacked, overwrite, compress, lossy, clock)
    if job.share is None:
        _write(job)
    else:
        _write_share(job, job.share, lambda share, leaf: _parts(job, share, leaf))


def save_async(
    path: str | os.PathLike[str],
    tree: Any,
    *,
    step: int | None = None,
    metadata: Mapping[str, Any] | None = None,
    axes: Mapping[str, Sequence[str | None]] | None = None,
    stacked: Sequence[str] = (),
    overwrite: bool = False,
    compress: bool = False,
    lossy: bool = False,
    clock: Callable[[], float] = time.time,
) -> SaveHandle:
    """Save a tree in the background; the arguments and errors are those of ``save``.

    Every array is copied before this returns, or its copy has begun and JAX has whoever takes its memory wait, so that
    the tree may be donated or changed at once. The rest is done by a thread that the program waits for before it ends.

    Returns:
      A handle; its ``wait`` returns when the checkpoint is complete and raises what went wrong.

    Example:
      >>> import numpy as np
      >>> from batiste import checkpoint
      >>> handle = checkpoint.save_async("run", {"w": np.ones(3)}, step=7)
      >>> handle.wait()  # the arrays may be changed or donated before
      True
      >>> checkpoint.open("run").step
      7
    """
    job = _prepare(path, tree, step, metadata, axes, stacked, overwrite, compress, lossy, clock)
    share = job.share
    if share is not None:
        parts = {leaf: copied_parts(_parts(job, share, leaf)) for leaf in share.owners}
        return SaveHandle(job.target, lambda: _write_share(job, share, lambda _, leaf: parts[leaf]))
    copies = {leaf: _copied(array, leaf) for leaf, array in job.arrays.items()}
    return SaveHandle(job.target, lambda: _write(dataclasses.replace(job, arrays=copies)))


def _prepare(path: str | os.PathLike[str], tree: Any, *options: Any) -> _Job:
    """Check a save; one of a folder by several processes is checked by all of them, before any writes."""
    target = resolve(path, "checkpoint.save")
    if not several() or format_of(target) != "orbax":
        return _checked(path, tree, *options)
    try:
        job = _checked(path, tree, *options, together=True)
    except Exception as error:
        refuse(target, error)
        raise
    return dataclasses.replace(job, share=agree(job.target, job.manifest, job.arrays))


def _parts(job: _Job, share: Share, leaf: str) -> list[Part]:
    return own_parts(share, leaf, job.manifest.records[leaf], job.arrays[leaf])


def _write_share(job: _Job, share: Share, parts: Callable[[Share, str], Sequence[Part]]) -> None:
    save_together(job.target, job.manifest, job.arrays, share, lambda leaf: parts(share, leaf), overwrite=job.overwrite)


def _checked(
    path: str | os.PathLike[str],
    tree: Any,
    step: int | None,
    metadata: Mapping[str, Any] | None,
    axes: Mapping[str, Sequence[str | None]] | None,
    stacked: Sequence[str],
    overwrite: bool,
    compress: bool,
    lossy: bool,
    clock: Callable[[], float],
    *,
    together: bool = False,
) -> _Job:
    target = resolve(path, "checkpoint.save")
    form = format_of(target)
    _check_target(target)
    check_options(form, compress=compress, stacked=stacked, clock=clock)
    if os.path.lexists(target):
        if not overwrite:
            raise CheckpointExistsError(path=target)
        try:
            check_replaceable(target)
        except OSError as error:
            raise write_error(target, error) from error
    if isinstance(tree, Checkpoint):
        tree.refuse_opaque(tree.manifest.opaque)
        if is_flat(tree.manifest.records):
            tree = tree.tree()
    if isinstance(tree, Checkpoint):
        manifest, arrays = _from_checkpoint(tree)
        known = stacked_levels(_levels_stacked(tree.manifest), manifest.records)
    else:
        described = describe(tree)
        records, arrays = records_of(described.leaves, together=together)
        manifest = Manifest(records, described.containers, axes=described.axes)
        known = inherit(manifest, arrays)
    manifest.step = manifest.step if step is None else as_step(step, "checkpoint.save")
    manifest.saved_at = float(clock())
    manifest.versions = _versions()
    manifest.metadata = manifest.metadata if metadata is None else as_json(metadata)
    manifest.storage = {"format": form}
    if form == "orbax":
        manifest.storage |= {"item": ITEM, "compressed": compress, "whole_bytes": 0 if compress else WHOLE_BYTES}
    elif form == "npz":
        manifest.storage |= {"compressed": compress}
    check_names(form, manifest.records)
    manifest.files = {}
    manifest.axes.update(check_axes(axes, manifest.records))
    manifest.layers = _layers(manifest.records, [*known, *stacked])
    if form != "msgpack":
        return _Job(target, manifest, arrays, overwrite)
    lost = [] if lossy else losses(manifest)
    if lost:
        raise FormatLossError(path=target, lines="\n".join(f"  {line}" for line in lost))
    layout = flax_layout(tree.tree() if isinstance(tree, Checkpoint) else tree, manifest.records)
    return _Job(target, manifest, arrays, overwrite, layout)


def _check_target(target: Path) -> None:
    try:
        os.lstat(target)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise write_error(target, error) from None


def _write(job: _Job) -> None:
    manifest = job.manifest

    def fetch(path: str) -> NumpyArray:
        return to_host(job.arrays[path], path)

    with staged(job.target, overwrite=job.overwrite, check=check_replaceable) as stage:
        if job.layout is not None:
            write_msgpack(stage, job.layout, manifest, fetch)
        elif manifest.storage["format"] == "safetensors":
            write_safetensors(stage, manifest, fetch)
        elif manifest.storage["format"] == "npz":
            write_npz(stage, manifest, fetch, compress=bool(manifest.storage["compressed"]))
        else:
            _write_directory(stage, job)


def _write_directory(stage: Path, job: _Job) -> None:
    manifest = job.manifest
    stage.mkdir()
    arrays = {path: array for path, array in job.arrays.items() if manifest.records[path].bytes}
    for path in job.arrays.keys() - arrays.keys():
        manifest.records[path].digest = digest_array(to_host(job.arrays[path], path))
    if arrays:
        with ArrayWriter(stage / ITEM, compress=bool(manifest.storage["compressed"])) as writer:
            for path, array in arrays.items():
                record = manifest.records[path]
                host = to_host(array, path)
                writer.add(path, record, host, array)
                record.digest = digest_array(host)  # while it is written
        write_marks(stage, ITEM, manifest.saved_at)
    manifest.files = digest_files(stage, is_vouched)
    (stage / MANIFEST_NAME).write_text(manifest.to_text(), encoding="utf-8")


def _from_checkpoint(source: Checkpoint) -> tuple[Manifest, dict[str, Any]]:
    """The manifest and the lazy arrays of a checkpoint that is converted."""
    old = source.manifest
    records = {path: dataclasses.replace(record, chunk=None, parts=()) for path, record in old.records.items()}
    containers = {path: dict(row) for path, row in old.containers.items()}
    manifest = Manifest(records, containers, step=old.step, metadata=dict(old.metadata), axes=dict(old.axes))
    return manifest, {path: source.lazy(path) for path, record in records.items() if record.kind is None}


def _levels_stacked(manifest: Manifest) -> dict[str, Any]:
    return {level: row for level, row in manifest.layers.items() if row.get("layout") == "stacked"}


def _copied(array: Any, path: str) -> Any:
    begun = copy_of(array) if isinstance(array, jax.Array) else None
    if begun is not None:
        return begun
    host = to_host(array, path)
    if isinstance(array, LazyArray):
        return host
    shared = isinstance(array, jax.Array) or np.shares_memory(host, array)
    return host.copy() if shared else host


def _versions() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _layers(records: Mapping[str, Record], stacked: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What is known of repeated layers: equal levels ``h_0``, ``h_1``, ..., and levels said to be stacked."""
    found: dict[str, dict[str, Any]] = {}
    groups: dict[tuple[str, ...], dict[int, dict[str, str]]] = {}
    for path, record in records.items():
        parts = split_path(path)
        for depth, part in enumerate(parts):
            numbered = _NUMBERED.fullmatch(part)
            if numbered is not None:
                layer = groups.setdefault((*parts[:depth], numbered[1]), {}).setdefault(int(numbered[2]), {})
                layer[join_path(parts[depth + 1 :])] = str(record)
    for level, layers in groups.items():
        equal = all(layer == next(iter(layers.values())) for layer in layers.values())
        if len(layers) > 1 and equal and set(layers) == set(range(len(layers))):
            found[join_path(level)] = {"layout": "per_layer", "count": len(layers)}
    for level in stacked:
        counts = {record.shape[:1] for path, record in records.items() if path.startswith(f"{level}/")}
        if len(counts) != 1 or math.prod(next(iter(counts), (0,))) < 1:
            cure = "Name the levels above the leaves, such as `params/h`."
            reason = "its leaves do not have one first axis in common"
            raise CheckpointArgumentError(argument="stacked", value=level, reason=reason, cure=cure)
        found[level] = {"layout": "stacked", "count": next(iter(counts))[0]}
    return found
