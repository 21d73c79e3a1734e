"""How the results of each operation lie, from how its operands lie, and what devices send each other for it.

It stands for XLA's partitioner, in the part that a plan needs: an axis that is cut stays cut through what is computed
number by number; a sum over a cut axis is an all-reduce, or a reduce-scatter where the result lies in parts. Where one
mesh axis cuts both operands of a product along different axes, a parameter is gathered, or else the smaller of the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

from batiste.core import nbytes
from batiste.plan._flat import Step
from batiste.plan._placement import Placement, Spec, Sum, moved, reshaped, whole, without_repeats

__all__ = ["propagated"]

_MAPPED = MappingProxyType({
    "psum": "all-reduce", "psum_invariant": "all-reduce", "psum2": "all-reduce", "pmax": "all-reduce",
    "pmin": "all-reduce", "all_gather": "all-gather", "all_gather_invariant": "all-gather",
    "reduce_scatter": "reduce-scatter", "ppermute": "permute", "all_to_all": "all-to-all",
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
        result = without_repeats(merged)
        for _, spec, aval in own:
            after = tuple(axes if length > 1 else () for length, axes in zip(aval.shape, result, strict=True))
            moved(state.world, spec, after, aval)
        for value, operand in zip(step.ins, step.eqn.invars, strict=True):
            if getattr(operand.aval, "shape", None) == getattr(var.aval, "shape", None):
                state.lies_with(value, result)
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
    if state.world.parts(summed) > 1:
        state.summed[value] = part
        state.world.held += part
    if scattered and asked is not None:
        state.world.send("reduce-scatter", scattered, part)
        part /= state.world.parts(scattered)
        merged = [
            (*axes, *(axis for axis in more if axis in scattered)) for axes, more in zip(spec, asked, strict=True)
        ]
        spec = without_repeats(merged)
    rest = tuple(axis for axis in summed if axis not in scattered)
    state.world.send("all-reduce", rest, part)
    if rest:
        state.sums[value] = Sum(rest, part, state.world.at)
    return spec


def _sum_once(state: Placement, step: Step) -> None:
    """Take one of two sums back where their results are added: a compiler adds first."""
    found = [state.sums.get(value) for value in step.ins if value is not None]
    if step.name in _PASSES_SUM and step.ins[0] in state.summed:
        state.summed[step.outs[0]] = state.summed[step.ins[0]]
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
    kept: Spec = tuple(cut for at, cut in enumerate(specs[0]) if at not in axes)
    summed = [axis for at, cut in enumerate(specs[0]) if at in axes for axis in cut]
    first = _reduced(state, step, kept, summed)
    return [first, *([kept] * (len(step.outs) - 1))]


def _transpose(state: Placement, step: Step, specs: Sequence[Spec]) -> list[Spec]:
    del state
    permutation: tuple[int, ...] = step.eqn.params["permutation"]
    return [tuple(specs[0][at] for at in permutation)]


def _broadcast(state: Placement, step: Step, specs: Sequence[Spec]) -> list[Spec]:
    del state
    result: list[tuple[str, ...]] = [()] * len(step.eqn.outvars[0].aval.shape)
    before = step.eqn.invars[0].aval.shape
    for at, to in enumerate(step.eqn.params["broadcast_dimensions"]):
        if before[at] == step.eqn.params["shape"][to]:
            result[to] = specs[0][at]
    return [tuple(result)]


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


def _pooled_back(state: Placement, step: Step, specs: Sequence[Spec]) -> list[Spec]:
    """Spread the gradients of windows over what they were taken from, which is the second operand."""
    windows, given = (var.aval for var in step.eqn.invars[:2])
    same = list(zip(windows.shape, given.shape, strict=True))
    merged = [mine or other for mine, other in zip(specs[0], specs[1], strict=True)]
    result = without_repeats(
        [axes if length == taken else () for axes, (length, taken) in zip(merged, same, strict=True)]
    )
    for spec, aval in zip(specs[:2], (windows, given), strict=True):
        moved(state.world, spec, result, aval)
    return [result]


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
    result = without_repeats(merged)
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
    batched: dict[int, int] = dict(zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True))
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
    for to, axes in zip(order, without_repeats([result[to] for to in order]), strict=True):
        result[to] = axes
    homes: dict[int, int] = {at: batch[index] for at, index in batched.items()} | dict(
        zip(kept, numbers.offset_dims, strict=True)
    )
    used = {axis for axes in result for axis in axes}
    summed = [axis for at in numbers.collapsed_slice_dims for axis in specs[0][int(at)]]
    lost = [axis for at, to in homes.items() for axis in specs[0][at] if axis not in result[to]]
    lost += [axis for axis in summed if axis in used]
    taken = nbytes(step.eqn.outvars[0].aval) / state.world.parts(sorted({axis for axes in result for axis in axes}))
    state.world.send("all-gather", lost, nbytes(table), unused=max(0.0, 1 - taken / nbytes(table)))
    return [_reduced(state, step, tuple(result), [axis for axis in summed if axis not in used])]


def _scatter(state: Placement, step: Step, specs: Sequence[Spec]) -> list[Spec]:
    """Add, at indices that lie in parts, into an array that lies as the operand does."""
    numbers = step.eqn.params["dimension_numbers"]
    updates = list(specs[2])
    batch = [at for at in range(len(updates)) if at not in numbers.update_window_dims]
    for at, axes in zip(batch, specs[1][:-1], strict=True):
        updates[at] = updates[at] or axes
    batched: dict[int, int] = dict(
        zip(numbers.operand_batching_dims, numbers.scatter_indices_batching_dims, strict=True)
    )
    result: list[tuple[str, ...]] = list(specs[0])
    kept = [at for at in range(len(result)) if at not in (*numbers.inserted_window_dims, *batched)]
    for at, index in batched.items():
        result[at] = updates[batch[index]]
    for at, to in zip(kept, numbers.update_window_dims, strict=True):
        result[at] = result[at] or updates[to]
    inside: set[int] = {batch[index] for index in batched.values()}
    summed = [axis for at in batch if at not in inside for axis in updates[at]]
    spec = without_repeats([tuple(axis for axis in axes if axis not in summed) for axes in result])
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


_RULES = MappingProxyType(
    {
        "argmax": _reduce,
        "argmin": _reduce,
        "reduce_and": _reduce,
        "reduce_max": _reduce,
        "reduce_min": _reduce,
        "reduce_or": _reduce,
        "reduce_prod": _reduce,
        "reduce_sum": _reduce,
        "reduce_xor": _reduce,
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
        "cumlogsumexp": _along,
        "cummax": _along,
        "cummin": _along,
        "cumprod": _along,
        "cumsum": _along,
        "sort": _along,
        "top_k": _along,
        "dynamic_slice": _same_extent,
        "pad": _same_extent,
        "reduce_window": _same_extent,
        "reduce_window_max": _same_extent,
        "reduce_window_min": _same_extent,
        "reduce_window_sum": _same_extent,
        "rev": _same_extent,
        "select_and_scatter_add": _pooled_back,
        "slice": _same_extent,
        "split": _same_extent,
        "random_bits": _new,
        "random_fold_in": _new,
        "random_seed": _new,
        "random_unwrap": _new,
        "random_wrap": _new,
    }
)
