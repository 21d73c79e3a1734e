"""Restoring: the leaves of a checkpoint, checked, in the place and form in which they are wanted."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from batiste.checkpoint._arrays import dtype_by_name, wrap_key
from batiste.checkpoint._checkpoint import Checkpoint, open  # noqa: A004 - this package's own
from batiste.checkpoint._match import Match, Origin, fit, match
from batiste.checkpoint._policies import Policies, PolicyLike
from batiste.checkpoint._structure import rebuild
from batiste.checkpoint._target import ShardingsLike, Target, Wanted, own_sharding, place, python_value, sharding_rule
from batiste.checkpoint._types import Box, Damage, NumpyArray, Record
from batiste.errors import CastLossError, CheckpointArgumentError, CheckpointMismatchError, DamagedCheckpointError

__all__ = ["restore"]


def restore(
    path: str | os.PathLike[str] | Checkpoint,
    target: Any = None,
    *,
    missing: PolicyLike = "error",
    extra: PolicyLike = "error",
    shape: PolicyLike = "error",
    dtype: PolicyLike = "error",
    shardings: ShardingsLike = None,
    verify: bool = True,
) -> Any:
    """Restore a checkpoint of any known format.

    Without a target, the tree as it was saved: NumPy arrays in dicts, lists, tuples and named tuples, on whatever mesh
    it was saved and with no device asked. With a target (variables, a train state, or the shapes that
    ``jax.eval_shape`` gives), the target's own tree, in which every leaf was found in the checkpoint with its shape
    and dtype, or a policy says otherwise. Layers that one side has stacked and the other apart are converted.

    Args:
      path: the checkpoint, or one that is open.
      target: the tree that is wanted. A leaf comes back as what it is there: a JAX array with the same sharding (a
        ``jax.ShapeDtypeStruct`` with a sharding is honoured), a NumPy array, a typed random key, a number.
      missing: for leaves that only the target has: ``"error"``, ``"init"`` (keep the target's value), ``"zeros"``.
      extra: for leaves that only the checkpoint has: ``"error"``, ``"drop"``.
      shape: for leaves of another shape: ``"error"``, ``"pad"`` (with zeros), ``"slice"``.
      dtype: for leaves of another dtype: ``"error"``, ``"cast"`` (numbers are rounded; one that is beyond the range, a
        fraction for an integer and whatever else would be lost besides precision is an error).
      shardings: where arrays go: one sharding, shardings by pattern, or a function of path and shape; they come before
        the target's own.
      verify: whether to check digests. With them, each array is read whole before its shards are cut from it; without,
        each shard is read alone.

    Each policy may also be a dict from patterns to policies, of which the first that matches counts.

    Raises:
      CastLossError: if ``dtype="cast"`` would lose more than precision; the error has a line for every leaf.
      CheckpointMismatchError: if the checkpoint does not fit the target; the error has a line for every leaf.
      DamagedCheckpointError: if what would be restored is not what was saved; the error names every leaf and file.
      CheckpointNotFoundError: if there is nothing.
      CheckpointFormatError: if it is none of the formats.
    """
    checkpoint = path if isinstance(path, Checkpoint) else open(path)
    policies = Policies.of(missing=missing, extra=extra, shape=shape, dtype=dtype)
    if target is None:
        return _restore_all(checkpoint, shardings, verify=verify)
    goal = Target(target)
    plan = match(goal, checkpoint.manifest, policies)
    if plan.problems:
        raise CheckpointMismatchError(path=checkpoint.path, count=len(plan.problems), lines="\n".join(plan.problems))
    return goal.fill(_restore_target(checkpoint, goal, plan, shardings, verify=verify))


def _restore_all(checkpoint: Checkpoint, shardings: ShardingsLike, *, verify: bool) -> Any:
    manifest = checkpoint.manifest
    values = {path: record.value for path, record in manifest.records.items()}
    arrays = [path for path, record in manifest.records.items() if record.kind is None]
    values.update(_read(checkpoint, arrays, verify=verify) if shardings is None else ())
    rule = sharding_rule(shardings)
    for path, found in _read(checkpoint, arrays, verify=verify) if shardings is not None else ():
        record = manifest.records[path]
        sharding = rule(path, record.shape)
        if sharding is not None and record.key is None:
            _check_held(path, record)
            values[path] = place(record, _cut(found), sharding)
        else:
            values[path] = found
    for path, record in manifest.records.items():
        if record.key is not None:
            values[path] = wrap_key(values[path], record.key)
    return rebuild(values, manifest.containers)


def _restore_target(
    checkpoint: Checkpoint, goal: Target, plan: Match, shardings: ShardingsLike, *, verify: bool
) -> dict[str, Any]:
    rule = sharding_rule(shardings)
    records = checkpoint.manifest.records
    values: dict[str, Any] = {}
    problems: list[str] = []
    waiting: dict[tuple[str, ...], list[str]] = {}
    for path, origin in plan.origins.items():
        wanted = goal.wanted[path]
        sharding = rule(path, wanted.record.shape) or own_sharding(wanted)
        if not origin.sources or records[origin.sources[0]].kind is not None:
            values[path] = _without_reading(wanted, origin, records, sharding)
        elif not verify and _is_direct(wanted, origin, records) and sharding is not None:
            values[path] = place(wanted.record, _reader(checkpoint, origin.sources[0]), sharding)
        else:
            waiting.setdefault(origin.sources, []).append(path)
    order = [source for sources in waiting for source in sources]
    arrays = _read(checkpoint, order, verify=verify)
    for sources, paths in waiting.items():
        parts = [next(arrays)[1] for _ in sources]
        whole = parts[0] if len(parts) == 1 else _stacked(paths[0], parts, goal.wanted[paths[0]], problems)
        del parts
        for path in paths:
            wanted, layer = goal.wanted[path], plan.origins[path].layer
            array = whole if layer is None else whole[layer]
            if wanted.record.kind is None:
                array = fit(path, array, wanted, problems)
            sharding = rule(path, wanted.record.shape) or own_sharding(wanted)
            if not problems:
                values[path] = _delivered(array, wanted, sharding, is_shared=layer is not None or len(paths) > 1)
    next(arrays, None)  # the files themselves are checked after the last array
    if problems:
        raise CastLossError(count=len(problems), lines="\n".join(problems))
    return values


def _stacked(path: str, parts: list[NumpyArray], wanted: Wanted, problems: list[str]) -> NumpyArray:
    """Layers as one array; those of several dtypes each in the dtype that is wanted, and not in one between."""
    if len({part.dtype for part in parts}) > 1:
        layer = Wanted(dataclasses.replace(wanted.record, shape=parts[0].shape), None, is_jax=False, has_value=False)
        parts = [fit(f"{path}[{number}]", part, layer, problems) for number, part in enumerate(parts)]
    return np.stack(parts)


def _read(checkpoint: Checkpoint, paths: list[str], *, verify: bool) -> Iterator[tuple[str, NumpyArray]]:
    """Whole arrays in order; what is damaged is found to the end, and then told at once."""
    found: list[Damage] = []
    for path, array in checkpoint.read_many(paths, verify=verify, ahead=True):
        if isinstance(array, Damage):
            found.append(array)
        elif not found:
            yield path, array
    if verify:
        records = checkpoint.manifest.records
        whole = set(paths) == {path for path, record in records.items() if record.kind is None}
        found.extend(checkpoint.check_files(whole=whole))
    if found:
        raise DamagedCheckpointError(path=checkpoint.path, count=len(found), lines="\n".join(map(str, found)))


def _without_reading(
    wanted: Wanted, origin: Origin, records: dict[str, Record], sharding: jax.sharding.Sharding | None
) -> Any:
    """A value that needs no array: the target's own, zeros, or a plain value of the manifest."""
    if origin.policy == "init":
        return wanted.leaf
    if origin.policy == "zeros":
        if wanted.record.kind is not None:
            return type(wanted.leaf)()
        zeros = np.zeros(wanted.record.shape, dtype_by_name(wanted.record.dtype))
        return _delivered(zeros, wanted, sharding, is_shared=False)
    value = records[origin.sources[0]].value
    if wanted.record.kind is not None:
        number = python_value(wanted.record.kind, value)
        return value if number is None else number
    return _delivered(np.asarray(value, dtype_by_name(wanted.record.dtype)), wanted, sharding, is_shared=False)


def _delivered(array: NumpyArray, wanted: Wanted, sharding: jax.sharding.Sharding | None, *, is_shared: bool) -> Any:
    """An array from the disk as what the target has in its place."""
    if wanted.record.kind is not None:
        return python_value(wanted.record.kind, array)
    if wanted.is_jax or sharding is not None:
        return place(wanted.record, _cut(array), sharding)
    return np.array(array) if is_shared else array


def _is_direct(wanted: Wanted, origin: Origin, records: dict[str, Record]) -> bool:
    found = records[origin.sources[0]]
    same = (wanted.record.shape, wanted.record.dtype, wanted.record.key) == (found.shape, found.dtype, None)
    return len(origin.sources) == 1 and origin.layer is None and same


def _reader(checkpoint: Checkpoint, path: str) -> Callable[[Box | None], NumpyArray]:
    def read(box: Box | None) -> NumpyArray:
        found = checkpoint.read_box(path, box)
        if isinstance(found, Damage):
            raise DamagedCheckpointError(path=checkpoint.path, count=1, lines=str(found))
        return found

    return read


def _cut(array: NumpyArray) -> Callable[[Box | None], NumpyArray]:
    def read(box: Box | None) -> NumpyArray:
        return array if box is None else array[box]

    return read


def _check_held(path: str, record: Record) -> None:
    dtype = dtype_by_name(record.dtype)
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        reason = f"{path!r} is {record}, which JAX holds only with `jax_enable_x64`"
        raise CheckpointArgumentError(
            argument="shardings", value="used", reason=reason, cure="Set it, or restore to NumPy."
        )
