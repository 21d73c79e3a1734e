"""How values lie on a mesh, from how the arguments lie, and what devices send each other for it.

It stands for XLA's partitioner, in the part that a plan needs: an axis that is cut stays cut through what is computed
number by number; a sum over a cut axis is an all-reduce, or a reduce-scatter where the result lies in parts. Where one
mesh axis cuts both operands of a product along different axes, a parameter is gathered, or else the smaller of the two.
Bytes are what one device sends around a ring (https://arxiv.org/abs/1909.09756, section 3): ``(n - 1) / n`` of the
whole for a gather or a scatter, twice that for an all-reduce.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from batiste.plan._flat import Body, Step
from batiste.plan._operations import nbytes

__all__ = ["Collective", "Placement", "Spec", "World", "propagated", "whole"]

Spec = tuple[tuple[str, ...], ...]
"""For each axis of an array the mesh axes that cut it."""

_ROUNDS = MappingProxyType({"all-reduce": 2})
_MAPPED = MappingProxyType({
    "psum": "all-reduce", "psum_invariant": "all-reduce", "psum2": "all-reduce", "pmax": "all-reduce",
    "pmin": "all-reduce", "all_gather": "all-gather", "all_gather_invariant": "all-gather",
    "reduce_scatter": "reduce-scatter", "ppermute": "permute", "all_to_all": "all-to-all",
})  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class Collective:
    """What devices send each other for one module.

    Attributes:
      path: the module.
      kind: ``all-reduce``, ``all-gather``, ``reduce-scatter``, ``all-to-all`` or ``permute``.
      axes: the mesh axes along which it goes.
      bytes: what one device sends in a whole step.
      count: how often in a step.
    """

    path: tuple[str, ...]
    kind: str
    axes: tuple[str, ...]
    bytes: float
    count: float


def whole(aval: Any) -> Spec:
    """Return the spec of a value that no axis cuts."""
    return ((),) * len(getattr(aval, "shape", ()))


class World:
    """A mesh, and what has been sent on it so far.

    Attributes:
      mesh: the size of each axis.
      manual: the size of each axis along which the program itself sends (``jax.shard_map``).
      at: the module that is being looked at, and how often it runs.
    """

    def __init__(self, mesh: Mapping[str, int], manual: Mapping[str, int] | None = None) -> None:
        self.mesh = dict(mesh)
        self.manual = dict(manual or {})
        self.at: tuple[tuple[str, ...], float] = ((), 1)
        self._sent: dict[tuple[tuple[str, ...], str, tuple[str, ...]], tuple[float, float]] = {}

    def parts(self, axes: Sequence[str]) -> int:
        """Return into how many parts mesh axes cut."""
        return math.prod(self.mesh.get(axis) or self.manual.get(axis, 1) for axis in axes)

    def send(self, kind: str, axes: Sequence[str], size: float, *, back: bool = False) -> None:
        """Note a collective over ``size`` bytes: what it gathers, or what goes in where it reduces.

        Args:
          kind: which one.
          axes: the mesh axes along which it goes.
          size: the bytes.
          back: whether to take back that it was noted.
        """
        axes = tuple(axis for axis in axes if self.parts((axis,)) > 1)
        if not axes or not size:
            return
        count = self.parts(axes)
        path, times = self.at
        times = -times if back else times
        sent = size * _ROUNDS.get(kind, 1) * (1 if kind == "permute" else (count - 1) / count)
        before = self._sent.get((path, kind, axes), (0.0, 0.0))
        self._sent[path, kind, axes] = (before[0] + sent * times, before[1] + times)

    def take(self, other: World) -> None:
        """Add what has been sent in another world."""
        for key, (sent, count) in other._sent.items():
            before = self._sent.get(key, (0.0, 0.0))
            self._sent[key] = (before[0] + sent, before[1] + count)

    def collectives(self) -> list[Collective]:
        """Return what has been sent, the most first."""
        found = [Collective(*key, *value) for key, value in self._sent.items() if value[1]]
        return sorted(found, key=lambda each: -each.bytes)

    def spec_of(self, given: Any, ndim: int) -> Spec:
        """Return the spec of a ``PartitionSpec``, without mesh axes that are not here."""
        entries = [() if entry is None else (entry,) if isinstance(entry, str) else tuple(entry) for entry in given]
        entries += [()] * (ndim - len(entries))
        return tuple(tuple(str(axis) for axis in entry if str(axis) in self.mesh) for entry in entries[:ndim])

    def body(
        self, body: Body, specs: Sequence[Spec], wanted: Sequence[Spec | None], weights: Sequence[bool]
    ) -> Placement:
        """Return the specs of a program's values, as far as its arguments give them."""
        return Placement(self, body, specs, wanted, weights)


class Placement:
    """How the values of one program lie.

    Attributes:
      world: the mesh.
      body: the program.
      sums: for a value that has been summed over mesh axes, which these were.
    """

    def __init__(
        self, world: World, body: Body, specs: Sequence[Spec], wanted: Sequence[Spec | None], weights: Sequence[bool]
    ) -> None:
        self.world, self.body = world, body
        self._specs: dict[int, Spec] = dict(zip(body.ins, specs, strict=True))
        self._weights = {value for value, mark in zip(body.ins, weights, strict=True) if mark}
        self._wanted: dict[int, Spec] = {}
        self._work: dict[int, float] = {}
        self.sums: dict[int, _Sum] = {}
        if world.mesh:
            self._want(body, wanted)

    def _want(self, body: Body, wanted: Sequence[Spec | None]) -> None:
        """Follow what results must be back to where they are computed."""
        for value, spec in zip(body.outs, wanted, strict=True):
            if value is not None and spec is not None:
                self._wanted[value] = spec
        for step in reversed(body.steps):
            asked = self._wanted.get(step.outs[0]) if step.outs else None
            if asked is None or not step.ins or step.ins[0] is None:
                continue
            before = _backwards(step, asked, self)
            if before is not None:
                self._wanted.setdefault(step.ins[0], before)

    def spec(self, value: int | None, aval: Any) -> Spec:
        """Return how a value lies."""
        found = None if value is None else self._specs.get(value)
        return whole(aval) if found is None else found

    def result(self, value: int | None) -> Spec:
        """Return how a result lies."""
        return () if value is None else self.spec(value, self.body.avals[value])

    def wanted(self, value: int) -> Spec | None:
        """Return how a value must lie, if that is known."""
        return self._wanted.get(value)

    def is_weight(self, value: int | None) -> bool:
        """Say whether a value is a parameter, or one in another shape or dtype."""
        return value in self._weights

    def place(self, step: Step, specs: Sequence[Spec]) -> None:
        """Note how the results of a step lie."""
        for value, spec in zip(step.outs, specs, strict=True):
            self._specs[value] = spec
        if step.ins and step.ins[0] in self._weights and step.name in _KEEPS_WEIGHT:
            self._weights.update(step.outs)

    def share(self, value: int) -> float:
        """Return which part of a value one device has."""
        spec = self._specs.get(value)
        return 1 / math.prod(map(self.world.parts, spec)) if spec else 1.0

    def bytes_of(self, value: int) -> int:
        """Return the bytes of a value on one device."""
        aval = self.body.avals[value]
        shape, size = getattr(aval, "shape", ()), nbytes(aval)
        spec = self._specs.get(value)
        if not spec or not size or not self.world.mesh:
            return size
        one = size // math.prod(shape)
        cut = (-(-length // self.world.parts(axes)) for length, axes in zip(shape, spec, strict=True))
        return math.prod(cut) * one

    def does(self, step: Step, axes: Sequence[str]) -> None:
        """Note the mesh axes that share the work of a step out."""
        self._work[step.outs[0]] = 1 / self.world.parts(axes)

    def work_share(self, step: Step) -> float:
        """Return which part of the work of a step one device does."""
        return self._work.get(step.outs[0], 1.0)


_KEEPS_WEIGHT = frozenset({
    "broadcast_in_dim", "concatenate", "convert_element_type", "dynamic_slice", "expand_dims", "reshape",
    "sharding_constraint", "slice", "squeeze", "stack", "transpose", "unstack",
})  # fmt: skip


def propagated(state: Placement, step: Step) -> list[Spec]:
    """Return how the results of a step lie, and note what is sent for it."""
    avals = [var.aval for var in step.eqn.outvars]
    world = state.world
    if step.name in _MAPPED and world.manual:
        named = step.eqn.params.get("axes", step.eqn.params.get("axis_name", ()))
        axes = (named,) if isinstance(named, str) else tuple(named)
        gathers = step.name.startswith("all_gather")
        sizes = [nbytes(var.aval) for var in (step.eqn.outvars if gathers else step.eqn.invars)]
        world.send(_MAPPED[step.name], axes, sum(sizes))
    if not world.mesh:
        return [whole(aval) for aval in avals]
    specs = [state.spec(value, var.aval) for value, var in zip(step.ins, step.eqn.invars, strict=True)]
    _sum_once(state, step)
    return _RULES.get(step.name, _elementwise)(state, step, specs)


def moved(world: World, before: Spec, after: Spec, aval: Any) -> None:
    """Note what is sent when a value that lies as ``before`` is to lie as ``after``."""
    old = {axis: at for at, axes in enumerate(before) for axis in axes}
    new = {axis: at for at, axes in enumerate(after) for axis in axes}
    kept = [axis for axis in old if new.get(axis) == old[axis]]
    gathered = [axis for axis in old if axis not in new]
    turned = [axis for axis in old if axis in new and new[axis] != old[axis]]
    part = nbytes(aval) / world.parts(kept)
    if gathered:
        world.send("all-gather", gathered, part / world.parts(turned))
    if turned:
        world.send("all-to-all", turned, part / world.parts(turned))


def _without_repeats(spec: Sequence[tuple[str, ...]]) -> Spec:
    """Return a spec in which each mesh axis is used once: where it is met first."""
    seen: set[str] = set()
    found: list[tuple[str, ...]] = []
    for axes in spec:
        own = tuple(axis for axis in axes if axis not in seen)
        seen.update(own)
        found.append(own)
    return tuple(found)


def _elementwise(state: Placement, step: Step, specs: Sequence[Spec]) -> list[Spec]:
    """Cut along every axis along which an operand is cut; where operands disagree, a parameter is gathered."""
    found: list[Spec] = []
    for var in step.eqn.outvars:
        rank = len(getattr(var.aval, "shape", ()))
        own = [
            (state.is_weight(value), spec, operand.aval)
            for value, operand, spec in zip(step.ins, step.eqn.invars, specs, strict=True)
            if rank and len(getattr(operand.aval, "shape", ())) == rank
        ]
        own.sort(key=lambda each: (each[0], -sum(map(state.world.parts, each[1]))))
        merged: list[tuple[str, ...]] = [()] * rank
        for _, spec, aval in own:
            if all(length in (1, whole) for length, whole in zip(aval.shape, var.aval.shape, strict=True)):
                merged = [mine or other for mine, other in zip(merged, spec, strict=True)]
        result = _without_repeats(merged)
        for _, spec, aval in own:
            after = tuple(axes if length > 1 else () for length, axes in zip(aval.shape, result, strict=True))
            moved(state.world, spec, after, aval)
        found.append(result)
    return found


def _dot(state: Placement, step: Step, specs: Sequence[Spec]) -> list[Spec]:
    (lhs_sum, rhs_sum), (lhs_batch, rhs_batch) = step.eqn.params["dimension_numbers"]
    lhs, rhs = specs[0], specs[1]
    lhs_free = [axis for axis in range(len(lhs)) if axis not in (*lhs_sum, *lhs_batch)]
    rhs_free = [axis for axis in range(len(rhs)) if axis not in (*rhs_sum, *rhs_batch)]
    # An index of the product: its axis in each operand, None where it has none.
    indices: list[tuple[int | None, int | None]] = [*zip(lhs_batch, rhs_batch, strict=True)]
    indices += [(axis, None) for axis in lhs_free] + [(None, axis) for axis in rhs_free]
    results = len(indices)
    indices += zip(lhs_sum, rhs_sum, strict=True)
    spec, summed = _contraction(state, step, (lhs, rhs), indices, results)
    return [_reduced(state, step, spec, summed)]


def _contraction(
    state: Placement,
    step: Step,
    operands: tuple[Spec, Spec],
    indices: Sequence[tuple[int | None, int | None]],
    results: int,
) -> tuple[Spec, list[str]]:
    """Place a product over ``indices``, of which the first ``results`` are the axes of the result, in order.

    Returns:
      How those axes lie, and the mesh axes that are summed over.
    """
    sizes = [nbytes(var.aval) for var in step.eqn.invars[:2]]
    marks = [state.is_weight(value) for value in step.ins[:2]]
    first = 0 if marks[0] and not marks[1] else 1 if marks[1] and not marks[0] else int(sizes[1] <= sizes[0])
    held: dict[str, int] = {}  # the index that each mesh axis cuts; the operand that is not gathered decides
    for side in (1 - first, first):
        for number, index in enumerate(indices):
            at = index[side]
            for axis in operands[side][at] if at is not None else ():
                held.setdefault(axis, number)
    cuts: list[tuple[str, ...]] = [
        tuple(axis for axis, number in held.items() if number == index) for index in range(len(indices))
    ]
    for side in (0, 1):
        after: list[tuple[str, ...]] = [()] * len(operands[side])
        for number, index in enumerate(indices):
            at = index[side]
            if at is not None:
                after[at] = cuts[number]
        moved(state.world, operands[side], tuple(after), step.eqn.invars[side].aval)
    state.does(step, tuple(held))
    return tuple(cuts[:results]), [axis for axes in cuts[results:] for axis in axes]


def _reduced(state: Placement, step: Step, spec: Spec, summed: Sequence[str]) -> Spec:
    """Note the sum over mesh axes, and return how the result then lies."""
    value, aval = step.outs[0], step.eqn.outvars[0].aval
    asked = state.wanted(value)
    scattered = [axis for axis in summed if asked and any(axis in axes for axes in asked)]
    part = nbytes(aval) / state.world.parts([axis for axes in spec for axis in axes])
    if scattered and asked is not None:
        state.world.send("reduce-scatter", scattered, part)
        part /= state.world.parts(scattered)
        merged = [
            (*axes, *(axis for axis in more if axis in scattered)) for axes, more in zip(spec, asked, strict=True)
        ]
        spec = _without_repeats(merged)
    rest = tuple(axis for axis in summed if axis not in scattered)
    state.world.send("all-reduce", rest, part)
    if rest:
        state.sums[value] = _Sum(rest, part, state.world.at)
    return spec


class _Sum(NamedTuple):
    """A sum over mesh axes that a value has come out of."""

    axes: tuple[str, ...]
    size: float
    at: tuple[tuple[str, ...], float]


def _sum_once(state: Placement, step: Step) -> None:
    """Take one of two sums back where their results are added: a compiler adds first."""
    found = [state.sums.get(value) for value in step.ins if value is not None]
    first = found[0] if found else None
    if first is None:
        return
    if step.name in _PASSES_SUM:
        state.sums[step.outs[0]] = first
    elif step.name in ("add", "add_any") and len(found) == 2:
        second = found[1]
        if second is not None and second.axes == first.axes:
            here = state.world.at
            state.world.at = second.at
            state.world.send("all-reduce", second.axes, second.size, back=True)
            state.world.at = here
            state.sums[step.outs[0]] = first


_PASSES_SUM = frozenset({"convert_element_type", "neg", "reshape", "squeeze", "transpose"})


def _convolution(state: Placement, step: Step, specs: Sequence[Spec]) -> list[Spec]:
    numbers = step.eqn.params["dimension_numbers"]
    lhs, rhs, out = numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec
    grouped = step.eqn.params["feature_group_count"] > 1 or step.eqn.params["batch_group_count"] > 1
    indices: list[tuple[int | None, int | None]] = [(lhs[0], None), (None, rhs[0])]
    if not grouped:
        indices.append((lhs[1], rhs[1]))
    operands: tuple[Spec, ...] = tuple(
        tuple(axes if any(at == index[side] for index in indices) else () for at, axes in enumerate(specs[side]))
        for side in (0, 1)
    )
    for side in (0, 1):  # halos are not counted: an axis that the kernel slides along is gathered
        moved(state.world, specs[side], operands[side], step.eqn.invars[side].aval)
    placed, summed = _contraction(state, step, (operands[0], operands[1]), indices, 2)
    result: list[tuple[str, ...]] = [()] * len(out)
    result[out[0]], result[out[1]] = placed
    return [_reduced(state, step, tuple(result), summed)]


def _reduce(state: Placement, step: Step, specs: Sequence[Spec]) -> list[Spec]:
    axes: tuple[int, ...] = step.eqn.params["axes"]
    kept = tuple(cut for at, cut in enumerate(specs[0]) if at not in axes)
    summed = [axis for at, cut in enumerate(specs[0]) if at in axes for axis in cut]
    first = _reduced(state, step, kept, summed)
    return [first, *([kept] * (len(step.outs) - 1))]


def _transpose(state: Placement, step: Step, specs: Sequence[Spec]) -> list[Spec]:
    del state
    return [tuple(specs[0][at] for at in step.eqn.params["permutation"])]


def _broadcast(state: Placement, step: Step, specs: Sequence[Spec]) -> list[Spec]:
    del state
    result: list[tuple[str, ...]] = [()] * len(step.eqn.outvars[0].aval.shape)
    before = step.eqn.invars[0].aval.shape
    for at, to in enumerate(step.eqn.params["broadcast_dimensions"]):
        if before[at] == step.eqn.params["shape"][to]:
            result[to] = specs[0][at]
    return [tuple(result)]


def reshaped(world: World, before: Sequence[int], after: Sequence[int], spec: Spec) -> Spec:
    """Return how a value lies after a reshape: the first of several axes that become one, or that one becomes."""
    result: list[tuple[str, ...]] = [()] * len(after)
    i = j = 0
    while i < len(before) and j < len(after):
        first, second, left, right = i, j, before[i], after[j]
        i, j = i + 1, j + 1
        while left != right and (i < len(before) or j < len(after)):
            if left < right and i < len(before):
                left, i = left * before[i], i + 1
            elif j < len(after):
                right, j = right * after[j], j + 1
            else:
                break
        into = next((at for at in range(second, j) if after[at] > 1), second)
        for source in range(first, i):
            if spec[source] and after[into] % world.parts(spec[source]) == 0:
                result[into] = spec[source]
                break
    return tuple(result)


def _reshape(state: Placement, step: Step, specs: Sequence[Spec]) -> list[Spec]:
    before, after = step.eqn.invars[0].aval, step.eqn.outvars[0].aval
    result = reshaped(state.world, before.shape, after.shape, specs[0])
    lost = {axis for axes in specs[0] for axis in axes} - {axis for axes in result for axis in axes}
    state.world.send("all-gather", sorted(lost), nbytes(before))
    return [result]


def _same_extent(state: Placement, step: Step, specs: Sequence[Spec]) -> list[Spec]:
    """Keep what cuts an axis that stays whole; gather along axes of which only a part is taken, or that grow."""
    before = step.eqn.invars[0].aval
    found: list[Spec] = []
    for var in step.eqn.outvars:
        same = zip(before.shape, var.aval.shape, specs[0], strict=True)
        found.append(tuple(axes if length == new else () for length, new, axes in same))
    moved(state.world, specs[0], found[0], before)
    return found


def _squeeze(state: Placement, step: Step, specs: Sequence[Spec]) -> list[Spec]:
    del state
    gone = {at % len(specs[0]) for at in step.eqn.params["dimensions"]}
    return [tuple(axes for at, axes in enumerate(specs[0]) if at not in gone)]


def _expand(state: Placement, step: Step, specs: Sequence[Spec]) -> list[Spec]:
    del state
    new = set(step.eqn.params["dimensions"])
    rest = iter(specs[0])
    return [tuple(() if at in new else next(rest) for at in range(len(step.eqn.outvars[0].aval.shape)))]


def _joined(state: Placement, step: Step, specs: Sequence[Spec]) -> list[Spec]:
    """Concatenate: all operands lie alike, and whole along the axis that grows."""
    axis = step.eqn.params["dimension"]
    merged: list[tuple[str, ...]] = [()] * len(specs[0])
    for spec in specs:
        merged = [mine or other for mine, other in zip(merged, spec, strict=True)]
    merged[axis] = ()
    result = _without_repeats(merged)
    for var, spec in zip(step.eqn.invars, specs, strict=True):
        moved(state.world, spec, result, var.aval)
    return [result]


def _stacked(state: Placement, step: Step, specs: Sequence[Spec]) -> list[Spec]:
    del state
    axis = step.eqn.params.get("axis", 0)
    return [(*specs[0][:axis], (), *specs[0][axis:])]


def _unstacked(state: Placement, step: Step, specs: Sequence[Spec]) -> list[Spec]:
    del state
    axis = step.eqn.params.get("axis", 0)
    return [(*specs[0][:axis], *specs[0][axis + 1 :])] * len(step.outs)


def _constrained(state: Placement, step: Step, specs: Sequence[Spec]) -> list[Spec]:
    params = step.eqn.params
    given = params.get("sharding", params.get("dst_sharding"))
    spec = getattr(given, "spec", None)
    if spec is None:
        return [specs[0]]
    aval = step.eqn.outvars[0].aval
    result = state.world.spec_of(spec, len(aval.shape))
    open_axes = params.get("unconstrained_dims", ())
    result = tuple(specs[0][at] if at in open_axes else axes for at, axes in enumerate(result))
    moved(state.world, specs[0], result, aval)
    return [result]


def _gather(state: Placement, step: Step, specs: Sequence[Spec]) -> list[Spec]:
    """A lookup: along a cut axis each device gives what it has, and the results are added."""
    numbers, sizes = step.eqn.params["dimension_numbers"], step.eqn.params["slice_sizes"]
    table = step.eqn.invars[0].aval
    batched = dict(zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True))
    kept = [at for at in range(len(table.shape)) if at not in (*numbers.collapsed_slice_dims, *batched)]
    out = len(step.eqn.outvars[0].aval.shape)
    batch = [to for to in range(out) if to not in numbers.offset_dims]
    result: list[tuple[str, ...]] = [()] * out
    for axes, to in zip(specs[1][:-1], batch, strict=True):
        result[to] = axes
    for at, index in batched.items():
        result[batch[index]] = result[batch[index]] or specs[0][at]
    for at, to in zip(kept, numbers.offset_dims, strict=True):
        result[to] = specs[0][at] if sizes[at] == table.shape[at] else ()
    order = (*batch, *numbers.offset_dims)
    for to, axes in zip(order, _without_repeats([result[to] for to in order]), strict=True):
        result[to] = axes
    homes = {at: batch[index] for at, index in batched.items()} | dict(zip(kept, numbers.offset_dims, strict=True))
    used = {axis for axes in result for axis in axes}
    summed = [axis for at in numbers.collapsed_slice_dims for axis in specs[0][int(at)]]
    lost = [axis for at, to in homes.items() for axis in specs[0][at] if axis not in result[to]]
    lost += [axis for axis in summed if axis in used]
    state.world.send("all-gather", lost, nbytes(table))
    return [_reduced(state, step, tuple(result), [axis for axis in summed if axis not in used])]


def _scatter(state: Placement, step: Step, specs: Sequence[Spec]) -> list[Spec]:
    """Add, at indices that lie in parts, into an array that lies as the operand does."""
    numbers = step.eqn.params["dimension_numbers"]
    updates = list(specs[2])
    batch = [at for at in range(len(updates)) if at not in numbers.update_window_dims]
    for at, axes in zip(batch, specs[1][:-1], strict=True):
        updates[at] = updates[at] or axes
    batched = dict(zip(numbers.operand_batching_dims, numbers.scatter_indices_batching_dims, strict=True))
    result: list[tuple[str, ...]] = list(specs[0])
    kept = [at for at in range(len(result)) if at not in (*numbers.inserted_window_dims, *batched)]
    for at, index in batched.items():
        result[at] = updates[batch[index]]
    for at, to in zip(kept, numbers.update_window_dims, strict=True):
        result[at] = result[at] or updates[to]
    inside = {batch[index] for index in batched.values()}
    summed = [axis for at in batch if at not in inside for axis in updates[at]]
    spec = _without_repeats([tuple(axis for axis in axes if axis not in summed) for axes in result])
    return [_reduced(state, step, spec, summed)]


def _along(state: Placement, step: Step, specs: Sequence[Spec]) -> list[Spec]:
    """What goes along one axis (a running sum, a sort, the greatest few) needs it whole."""
    params, aval = step.eqn.params, step.eqn.invars[0].aval
    axis = params.get("axis", params.get("dimension", -1)) % len(specs[0])
    spec = tuple(() if at == axis else axes for at, axes in enumerate(specs[0]))
    moved(state.world, specs[0], spec, aval)
    return [spec] * len(step.outs)


def _ragged(state: Placement, step: Step, specs: Sequence[Spec]) -> list[Spec]:
    """A product by groups of rows: what is cut along the rows stays, parameters are gathered but for their columns."""
    out = step.eqn.outvars[0].aval
    lhs, rhs = specs[0], specs[1]
    if len(out.shape) == 2 and len(rhs) == 3:
        columns = tuple(axis for axis in rhs[-1] if axis not in lhs[0])
        summed = [axis for axis in lhs[-1] if axis in rhs[-2] and axis not in (*lhs[0], *columns)]
        moved(state.world, rhs, ((), tuple(summed), columns), step.eqn.invars[1].aval)
        state.does(step, (*lhs[0], *columns, *summed))
        return [_reduced(state, step, (lhs[0], columns), summed)]
    summed = [axis for axis in lhs[0] if axis in rhs[0]]
    columns = tuple(axis for axis in rhs[-1] if axis not in summed)
    rows = tuple(axis for axis in lhs[-1] if axis not in (*summed, *columns))
    state.does(step, (*summed, *columns, *rows))
    return [_reduced(state, step, ((), rows, columns)[-len(out.shape) :], summed)]


def _new(state: Placement, step: Step, specs: Sequence[Spec]) -> list[Spec]:
    del state, specs
    return [whole(var.aval) for var in step.eqn.outvars]


def _backwards(step: Step, asked: Spec, state: Placement) -> Spec | None:
    """Return how the operand of a step that only moves numbers must lie, if the result must lie as ``asked``."""
    before = step.eqn.invars[0].aval
    if step.name == "transpose":
        found = dict(zip(step.eqn.params["permutation"], asked, strict=True))
        return tuple(found[at] for at in range(len(asked)))
    if step.name == "reshape":
        return reshaped(state.world, step.eqn.outvars[0].aval.shape, before.shape, asked)
    if step.name == "unstack":
        axis = step.eqn.params.get("axis", 0)
        return (*asked[:axis], (), *asked[axis:])
    if step.name in ("squeeze", "reduce_sum"):
        rest = iter(asked)
        gone = {at % len(before.shape) for at in step.eqn.params.get("dimensions", step.eqn.params.get("axes"))}
        return tuple(() if at in gone else next(rest) for at in range(len(before.shape)))
    if step.name in ("dynamic_slice", "slice"):
        extents = zip(before.shape, step.eqn.outvars[0].aval.shape, asked, strict=True)
        return tuple(axes if length == new else () for length, new, axes in extents)
    same = getattr(before, "shape", None) == step.eqn.outvars[0].aval.shape
    if same and step.name in ("convert_element_type", "copy", "mul", "div", "neg", "add_any", "sharding_constraint"):
        return asked
    return None


_RULES = MappingProxyType(
    {
        "broadcast_in_dim": _broadcast,
        "concatenate": _joined,
        "conv_general_dilated": _convolution,
        "dot_general": _dot,
        "expand_dims": _expand,
        "gather": _gather,
        "iota": _new,
        "ragged_dot": _ragged,
        "ragged_dot_general": _ragged,
        "reshape": _reshape,
        "reshard": _constrained,
        "scatter-add": _scatter,
        "scatter_add": _scatter,
        "sharding_constraint": _constrained,
        "squeeze": _squeeze,
        "stack": _stacked,
        "transpose": _transpose,
        "unstack": _unstacked,
        **dict.fromkeys(("argmax", "argmin", "reduce_and", "reduce_max", "reduce_min", "reduce_or"), _reduce),
        **dict.fromkeys(("reduce_prod", "reduce_sum", "reduce_xor"), _reduce),
        **dict.fromkeys(("cumlogsumexp", "cummax", "cummin", "cumprod", "cumsum", "sort", "top_k"), _along),
        **dict.fromkeys(("dynamic_slice", "pad", "rev", "slice", "split"), _same_extent),
        **dict.fromkeys(("random_bits", "random_fold_in", "random_seed", "random_unwrap", "random_wrap"), _new),
    }
)
