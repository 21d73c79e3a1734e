"""Saving: a tree becomes a manifest and arrays, and both appear at their path whole or not at all.

What cannot be saved is found before anything is written. Arrays go one at a time through the host's memory, and their
digests are computed beside the writing. An asynchronous save copies the arrays first, so that they may be donated,
deleted or overwritten as soon as it returns.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import math
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, cast

import jax
import numpy as np

from batiste.checkpoint._arrays import describe_array, digest_array, is_key, key_data, to_host
from batiste.checkpoint._background import SaveHandle
from batiste.checkpoint._checkpoint import Checkpoint
from batiste.checkpoint._directory import is_vouched
from batiste.checkpoint._files import digest_files, resolve, staged, write_error
from batiste.checkpoint._manifest import MANIFEST_NAME, Manifest
from batiste.checkpoint._msgpack_write import Layout, flax_layout, losses, write_msgpack
from batiste.checkpoint._npz import check_names, write_npz
from batiste.checkpoint._orbax import ITEM
from batiste.checkpoint._orbax_write import WHOLE_BYTES, ArrayWriter, write_marks
from batiste.checkpoint._replaceable import check_replaceable
from batiste.checkpoint._safetensors import write_safetensors
from batiste.checkpoint._stored import inherit, stacked_levels
from batiste.checkpoint._structure import Described, describe
from batiste.checkpoint._types import NumpyArray, PythonKind, Record
from batiste.core import is_tracer
from batiste.errors import (
    CheckpointArgumentError,
    CheckpointExistsError,
    FormatLossError,
    UnsavableLeafError,
    UnsavableTreeError,
)
from batiste.tree import LazyArray, join_path, split_path

__all__ = ["save", "save_async"]

_NUMBERED: Final = re.compile(r"(.+)_(0|[1-9][0-9]*)")
_PACKAGES: Final = ("batiste", "jax", "numpy", "orbax-checkpoint")
_FORMATS: Final[Mapping[str, str]] = MappingProxyType(
    {".safetensors": "safetensors", ".npz": "npz", ".msgpack": "msgpack"}
)
_READ_ONLY: Final = (".pt", ".pth", ".bin")


@dataclasses.dataclass(frozen=True, slots=True)
class _Job:
    """A save that was checked and not yet begun: where, what, and the arrays by path."""

    target: Path
    manifest: Manifest
    arrays: dict[str, Any]
    overwrite: bool
    layout: Layout | None = None


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
        converted with all that its manifest says; the lazy arrays of one bring with them what it says of them.
      step: the training step.
      metadata: anything that JSON can hold.
      axes: the logical names of the axes of leaves, by path; those of boxed leaves are known already.
      stacked: the paths of levels whose leaves are layers stacked along their first axis, such as ``params/h``.
      overwrite: whether to replace a checkpoint that is there; it stays until the new one is complete. Nothing but a
        checkpoint of batiste or Orbax is replaced: no folder of a run, and none with other files in it.
      compress: whether to compress the arrays of a directory or an ``.npz`` file: some percent smaller, and twice as
        slow.
      lossy: whether a ``.msgpack`` file may leave out what it has no place for.
      clock: seconds since 1970, for ``Manifest.saved_at``.

    Raises:
      CheckpointExistsError: if something is there and ``overwrite`` is not set, also where another program that
        saves to the same path was first.
      CheckpointArgumentError: if ``overwrite`` is set and what is there is no checkpoint, or if another argument cannot
        work.
      UnsavableLeafError: if leaves are neither arrays nor plain values; the error lists all.
      UnsavableTreeError: if a container has keys that cannot be written down.
      FormatLossError: if the format has no place for something and ``lossy`` is not set.
      CheckpointWriteError: if the operating system refuses; what was there before is untouched.
    """
    job = _prepare(path, tree, step, metadata, axes, stacked, overwrite, compress, lossy, clock())
    _write(job)


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

    Every array is copied to the host before this returns, so that the tree may be donated or changed at once. The rest
    is done by a thread that the program waits for before it ends.

    Returns:
      A handle; its ``wait`` returns when the checkpoint is complete and raises what went wrong.
    """
    job = _prepare(path, tree, step, metadata, axes, stacked, overwrite, compress, lossy, clock())
    copies = {leaf: _copied(array, leaf) for leaf, array in job.arrays.items()}
    return SaveHandle(job.target, lambda: _write(dataclasses.replace(job, arrays=copies)))


def _prepare(
    path: str | os.PathLike[str],
    tree: Any,
    step: int | None,
    metadata: Mapping[str, Any] | None,
    axes: Mapping[str, Sequence[str | None]] | None,
    stacked: Sequence[str],
    overwrite: bool,
    compress: bool,
    lossy: bool,
    now: float,
) -> _Job:
    target = resolve(path)
    form = _FORMATS.get(target.suffix, "orbax")
    _check_target(path, target, form)
    if os.path.lexists(target):
        if not overwrite:
            raise CheckpointExistsError(path=target)
        try:
            check_replaceable(target)
        except OSError as error:
            raise write_error(target, error) from error
    if isinstance(tree, Checkpoint):
        manifest, arrays = _from_checkpoint(tree)
        known = stacked_levels(_levels_stacked(tree.manifest), manifest.records)
    else:
        described = describe(tree)
        records, arrays = _records(described)
        manifest = Manifest(records, described.containers, axes=described.axes)
        known = inherit(manifest, arrays)
    _check_text([*manifest.records, *manifest.containers])
    manifest.step = manifest.step if step is None else step
    manifest.saved_at = now
    manifest.versions = _versions()
    manifest.metadata = manifest.metadata if metadata is None else _as_json(metadata)
    manifest.storage = {"format": form}
    if form == "orbax":
        manifest.storage |= {"item": ITEM, "compressed": compress, "whole_bytes": 0 if compress else WHOLE_BYTES}
    elif form == "npz":
        manifest.storage |= {"compressed": compress}
        check_names(manifest.records)
    manifest.files = {}
    for leaf, names in (axes or {}).items():
        record = manifest.records.get(leaf)
        if record is None or len(names) != len(record.shape):
            reason = "there is no such leaf" if record is None else f"the leaf is {record}"
            raise CheckpointArgumentError(
                argument=f"axes[{leaf!r}]", value=list(names), reason=reason, cure="Name each axis of a leaf."
            )
        manifest.axes[leaf] = list(names)
    manifest.layers = _layers(manifest.records, [*known, *stacked])
    if form != "msgpack":
        return _Job(target, manifest, arrays, overwrite)
    lost = [] if lossy else losses(manifest)
    if lost:
        raise FormatLossError(path=target, lines="\n".join(f"  {line}" for line in lost))
    return _Job(target, manifest, arrays, overwrite, flax_layout(tree.tree() if isinstance(tree, Checkpoint) else tree))


def _check_target(path: str | os.PathLike[str], target: Path, form: str) -> None:
    if target.suffix in _READ_ONLY:
        reason = "that format cannot hold a manifest and is read only"
        cure = "Save to a directory (a name without such an ending) or to a `.safetensors` file."
        raise CheckpointArgumentError(argument="path", value=str(path), reason=reason, cure=cure)
    if form == "orbax" and jax.distributed.is_initialized() and jax.process_count() > 1:
        reason = f"a folder is written by Orbax, which would wait for all {jax.process_count()} processes"
        cure = "Save to a `.safetensors` file from one process."
        raise CheckpointArgumentError(argument="path", value=str(path), reason=reason, cure=cure)


def _check_text(paths: Sequence[str]) -> None:
    """Refuse names that no file can hold: half of a pair of surrogates is no character."""
    try:
        "".join(paths).encode()
    except UnicodeEncodeError as error:
        path = next(path for path in paths if any("\ud800" <= character <= "\udfff" for character in path))
        raise UnsavableTreeError(path=path, reason=f"a name in it is no text ({error.reason})") from None


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


def _records(described: Described) -> tuple[dict[str, Record], dict[str, Any]]:
    """The record of each leaf, still without its digest, and the arrays among the leaves."""
    records: dict[str, Record] = {}
    arrays: dict[str, Any] = {}
    unsavable: list[str] = []
    for path, leaf in described.leaves.items():
        if type(leaf) in (bool, int, float, complex, str, bytes):
            records[path] = Record((), "python", 0, kind=cast("PythonKind", type(leaf).__name__), value=leaf)
            continue
        record = None
        array: Any = leaf
        key: str | None = None
        if is_key(leaf) and not is_tracer(leaf):
            array, key = key_data(leaf)
        if isinstance(array, jax.Array | np.ndarray | np.generic | LazyArray) and not is_tracer(array):
            record = describe_array(array, key)
        if record is None:
            dtype = getattr(leaf, "dtype", None)
            unsavable.append(f"  {path}: {type(leaf).__name__}{'' if dtype is None else f' of dtype {dtype}'}")
        else:
            records[path] = record
            arrays[path] = array
    if unsavable:
        raise UnsavableLeafError(count=len(unsavable), lines="\n".join(unsavable))
    return records, arrays


def _from_checkpoint(source: Checkpoint) -> tuple[Manifest, dict[str, Any]]:
    """The manifest and the lazy arrays of a checkpoint that is converted."""
    old = source.manifest
    records = {path: dataclasses.replace(record) for path, record in old.records.items()}
    containers = {path: dict(row) for path, row in old.containers.items()}
    manifest = Manifest(records, containers, step=old.step, metadata=dict(old.metadata), axes=dict(old.axes))
    return manifest, {path: source.lazy(path) for path, record in records.items() if record.kind is None}


def _levels_stacked(manifest: Manifest) -> dict[str, Any]:
    return {level: row for level, row in manifest.layers.items() if row.get("layout") == "stacked"}


def _copied(array: Any, path: str) -> NumpyArray:
    host = to_host(array, path)
    if isinstance(array, LazyArray):
        return host
    shared = isinstance(array, jax.Array) or np.shares_memory(host, array)
    return host.copy() if shared else host


def _as_json(metadata: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return json.loads(json.dumps(dict(metadata), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointArgumentError(
            argument="metadata", value="saved", reason=str(error), cure="Use dicts, lists, strings, numbers and None."
        ) from None


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
