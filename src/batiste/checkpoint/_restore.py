"""Restoring: the leaves of a checkpoint, checked, in the place and form in which they are wanted."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, overload

import jax
import numpy as np

from batiste.checkpoint._arrays import dtype_by_name, in_form, wrap_key
from batiste.checkpoint._checkpoint import Checkpoint, open  # noqa: A004 - this package's own
from batiste.checkpoint._foreign import NAMELESS, in_order
from batiste.checkpoint._match import Match, Origin, advice, fit, match
from batiste.checkpoint._policies import Policies, PolicyLike
from batiste.checkpoint._reads import Reads, is_spread, restored_together, spans_processes
from batiste.checkpoint._structure import rebuild
from batiste.checkpoint._target import (
    ShardingsLike,
    Target,
    Wanted,
    moved,
    own_sharding,
    place,
    placements,
    python_value,
)
from batiste.checkpoint._types import Box, Damage, NumpyArray, Record
from batiste.errors import CastLossError, CheckpointMismatchError, DamagedCheckpointError

__all__ = ["restore"]

T = TypeVar("T")


@overload
def restore(
    path: str | os.PathLike[str] | Checkpoint,
    target: None = None,
    *,
    missing: PolicyLike = "error",
    extra: PolicyLike = "error",
    shape: PolicyLike = "error",
    dtype: PolicyLike = "error",
    shardings: ShardingsLike = None,
    verify: bool = True,
) -> Any: ...


@overload
def restore(
    path: str | os.PathLike[str] | Checkpoint,
    target: T,
    *,
    missing: PolicyLike = "error",
    extra: PolicyLike = "error",
    shape: PolicyLike = "error",
    dtype: PolicyLike = "error",
    shardings: ShardingsLike = None,
    verify: bool = True,
) -> T: ...


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

    Without a target, the tree as it was saved: NumPy arrays in dicts, lists, tuples, named tuples and the mappings of
    ``collections``, on whatever mesh it was saved and with no device asked. With a target (variables, a train state, or
    the shapes that ``jax.eval_shape`` gives), the target's own tree, in which every leaf was found in the checkpoint
    with its shape and dtype, or a policy says otherwise. Layers that one side has stacked and the other apart are
    converted. A file of Equinox has no names, so its arrays are taken in the order of the target's, and other leaves
    stay what they are.

    Args:
      path: the checkpoint, or one that is open.
      target: the tree that is wanted. A leaf comes back as what it is there: a JAX array with the same sharding (a
        ``jax.ShapeDtypeStruct`` with a sharding is honoured), a NumPy array, a typed random key, a number.
      missing: for leaves that only the target has: ``"error"``, ``"init"`` (keep the target's value), ``"zeros"``.
      extra: for leaves that only the checkpoint has: ``"error"``, ``"drop"``.
      shape: for leaves of another shape: ``"error"``, ``"init"`` (keep the target's value), ``"pad"`` (with zeros),
        ``"slice"``.
      dtype: for leaves of another dtype: ``"error"``, ``"cast"`` (numbers are rounded; one that is beyond the range, a
        fraction for an integer and whatever else would be lost besides precision is an error).
      shardings: where arrays go: one sharding, shardings by pattern (the first that matches counts), a tree of them as
        ``shard.shardings`` makes, or a function of path and shape; they come before the target's own. Arrays without
        one stay where they would be.
      verify: whether to check digests. With them, each array is read whole before its shards are cut from it; without,
        each shard is read alone.

    Each policy may also be a dict from patterns to policies, of which the first that matches counts. A policy without a
    target has nothing to decide.

    Raises:
      CastLossError: if ``dtype="cast"`` would lose more than precision; the error has a line for every leaf.
      UnknownPolicyError: if a policy is not known.
      UnmatchedPolicyError: if a pattern matches no leaf, or allows what is nowhere the case.
      CheckpointArgumentError: if ``shardings`` are none, or cannot hold their arrays; or if there is a policy and no
        target.
      CheckpointMismatchError: if the checkpoint does not fit the target; the error has a line for every leaf.
      DamagedCheckpointError: if what would be restored is not what was saved; the error names every leaf and file.
      RefusedCheckpointError: if there are opaque entries, and no target says what is wanted.
      CheckpointNotFoundError: if there is nothing.
      CheckpointFormatError: if it is none of the formats.

    Example:
      >>> import numpy as np
      >>> from batiste import checkpoint
      >>> checkpoint.save("run", {"kernel": np.ones((2, 3)), "bias": np.ones(3)})
      >>> checkpoint.restore("run")["kernel"].shape
      (2, 3)
      >>> target = {"kernel": np.zeros((2, 3)), "scale": np.full(3, 2.0)}
      >>> restored = checkpoint.restore("run", target, missing="init", extra="drop")
      >>> restored["kernel"].tolist(), restored["scale"].tolist()
      ([[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]], [2.0, 2.0, 2.0])
    """
    if spans_processes(target, shardings):
        where = path.path if isinstance(path, Checkpoint) else path
        return restored_together(
            where, lambda: _restore(path, target, missing, extra, shape, dtype, shardings, verify=verify)
        )
    return _restore(path, target, missing, extra, shape, dtype, shardings, verify=verify)


def _restore(
    path: str | os.PathLike[str] | Checkpoint,
    target: Any,
    missing: PolicyLike,
    extra: PolicyLike,
    shape: PolicyLike,
    dtype: PolicyLike,
    shardings: ShardingsLike,
    *,
    verify: bool,
) -> Any:
    checkpoint = path if isinstance(path, Checkpoint) else open(path)
    policies = Policies.of(missing=missing, extra=extra, shape=shape, dtype=dtype)
    if target is None:
        policies.check_without_target()
        return _restore_all(checkpoint, shardings, verify=verify)
    goal = Target(target)
    aside: dict[str, Any] = {}
    if checkpoint.manifest.storage.get("format") in NAMELESS and list(goal.wanted) != list(checkpoint.manifest.records):
        aside = {path: row.leaf for path, row in goal.wanted.items() if not _is_number(row)}
        goal.wanted = {path: row for path, row in goal.wanted.items() if path not in aside}
        stored = checkpoint.manifest
        lazy = [checkpoint.lazy(leaf) for leaf in stored.records]
        checkpoint = Checkpoint(in_order(checkpoint.path, stored, lazy, goal.wanted))
    plan = match(goal, checkpoint.manifest, policies)
    if plan.problems:
        raise CheckpointMismatchError(
            path=checkpoint.path,
            count=len(plan.problems),
            lines="\n".join(plan.problems),
            advice=advice(plan, goal),
        )
    return goal.fill({**_restore_target(checkpoint, goal, plan, shardings, verify=verify), **aside})


def _is_number(wanted: Wanted) -> bool:
    """Whether a leaf of a target is one that a file without names has: an array or a number."""
    kind = wanted.record.kind
    return hasattr(wanted.leaf, "dtype") if kind is None else kind in ("bool", "int", "float", "complex")


def _restore_all(checkpoint: Checkpoint, shardings: ShardingsLike, *, verify: bool) -> Any:
    checkpoint.refuse_opaque(checkpoint.manifest.opaque)
    manifest = checkpoint.manifest
    values = {path: record.value for path, record in manifest.records.items()}
    arrays = {path: record for path, record in manifest.records.items() if record.kind is None}
    placed = placements(shardings, arrays, values)
    if any(is_spread(sharding) for sharding in placed.values()):
        reads = Reads(checkpoint, verify=verify)
        direct = [path for path, sharding in placed.items() if is_spread(sharding) and arrays[path].key is None]
        for path in direct:
            values[path] = place(arrays[path], reads.boxes(path, placed[path]), placed.pop(path))
            del arrays[path]
        reads.check()
    if not placed:
        values.update(_read(checkpoint, list(arrays), verify=verify))
    for path, found in _read(checkpoint, list(arrays), verify=verify) if placed else ():
        values[path] = place(arrays[path], _cut(found), placed[path]) if path in placed else found
    for path, record in arrays.items():
        if path not in placed and record.key is not None:
            values[path] = wrap_key(values[path], record.key)
        elif path not in placed and record.form is not None:
            values[path] = in_form(values[path], record.form)
    return rebuild(values, manifest.containers)


def _restore_target(
    checkpoint: Checkpoint, goal: Target, plan: Match, shardings: ShardingsLike, *, verify: bool
) -> dict[str, Any]:
    arrays_wanted = {path: wanted.record for path, wanted in goal.wanted.items() if wanted.is_array}
    placed = placements(shardings, arrays_wanted, goal.wanted)
    records = checkpoint.manifest.records
    values: dict[str, Any] = {}
    problems: list[str] = []
    waiting: dict[tuple[str, ...], list[str]] = {}
    reads = Reads(checkpoint, verify=verify)
    for path, origin in plan.origins.items():
        wanted = goal.wanted[path]
        sharding = placed.get(path) or own_sharding(wanted)
        if origin.policy == "init":
            values[path] = moved(wanted.leaf, placed[path]) if path in placed else wanted.leaf
        elif not origin.sources or records[origin.sources[0]].kind is not None:
            values[path] = _without_reading(wanted, origin, records, sharding)
        elif sharding is not None and is_spread(sharding) and _is_direct(wanted, origin, records):
            values[path] = place(wanted.record, reads.boxes(origin.sources[0], sharding), sharding)
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
            sharding = placed.get(path) or own_sharding(wanted)
            if not problems:
                values[path] = _delivered(array, wanted, sharding, is_shared=layer is not None or len(paths) > 1)
    next(arrays, None)  # the files themselves are checked after the last array
    reads.check()
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
    """A value that needs no array: zeros, or a plain value of the manifest."""
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
    return in_form(np.array(array) if is_shared else array, wanted.record.form)


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
