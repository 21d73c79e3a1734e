"""``scan``: a module as the body of a loop, with variables that are stacked, carried or shared.

Stacked variables have one slice for each step, shared ones are the same in every step, and carried ones are handed from
step to step. On ``init`` shared variables are made once, before the loop; stacked ones are made by the loop.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from batiste.core import CollectionFilter
from batiste.errors import LiftAxisSizeError, LoopVariableError
from batiste.lift._axes import In, Out, VariableAxes, broadcast, in_axis, move_in, move_out, out_axis, size_along
from batiste.lift._region import Region, Stacking
from batiste.lift._target import Methods, lifted

__all__ = ["scan"]

Target = TypeVar("Target")
_NOTHING: Mapping[Any, Any] = MappingProxyType({})


@dataclasses.dataclass(frozen=True)
class _Options:
    variable_axes: VariableAxes
    variable_broadcast: CollectionFilter
    variable_carry: CollectionFilter
    split_rngs: Mapping[CollectionFilter, bool]
    in_axes: Any
    out_axes: Any
    length: int | None
    reverse: bool
    unroll: int
    data_transform: Callable[..., Any] | None
    metadata_params: Mapping[Any, Any]
    split_transpose: bool


def scan(
    target: Target,
    variable_axes: VariableAxes = _NOTHING,
    variable_broadcast: CollectionFilter = False,
    variable_carry: CollectionFilter = False,
    split_rngs: Mapping[CollectionFilter, bool] = _NOTHING,
    in_axes: Any = 0,
    out_axes: Any = 0,
    length: int | None = None,
    reverse: bool = False,
    unroll: int = 1,
    data_transform: Callable[..., Any] | None = None,
    metadata_params: Mapping[Any, Any] = _NOTHING,
    methods: Methods = None,
    _split_transpose: bool = False,
    check_constancy_invariants: bool = True,
    *,
    keep_name: bool = False,
) -> Target:
    """Return a module, or a function of a module, as the body of ``jax.lax.scan``.

    The body takes ``(module, carry, *inputs)`` and returns ``(carry, outputs)``; so does the result.

    Args:
      target: a Module class, or a function whose first argument is a module.
      variable_axes: collections whose variables are stacked along an axis, one slice for each step.
      variable_broadcast: collections that every step shares; the body reads them.
      variable_carry: collections that each step hands on to the next; they must exist before the loop.
      split_rngs: for random streams, whether every step draws its own numbers. Streams that are not named are not seen
        inside.
      in_axes: the axis of each input after the carry that is looped over; ``broadcast`` gives the whole input to every
        step.
      out_axes: the axis along which outputs are stacked.
      length: the number of steps, where no input tells it.
      reverse: whether to go from the end to the start.
      unroll: how many steps one turn of the compiled loop takes.
      data_transform: called inside of the body with the groups of variables and of streams; returns both, changed.
      metadata_params: told to boxes when the stacked axis comes and goes.
      methods: the methods of a class that are looped; by default ``__call__``.
      check_constancy_invariants: accepted for Flax's signature; what steps share is found without it.
      keep_name: whether a class keeps its name, so that automatic names are those of the class itself.

    Raises:
      LiftAxisSizeError: if the number of steps is unknown or differs.
      LoopVariableError: if the body writes a variable that steps share.
    """
    del check_constancy_invariants
    options = _Options(
        dict(variable_axes),
        variable_broadcast,
        variable_carry,
        dict(split_rngs),
        in_axes,
        out_axes,
        length,
        reverse,
        unroll,
        data_transform,
        dict(metadata_params),
        _split_transpose,
    )
    return lifted("scan", target, _run, options, methods=methods, keep_name=keep_name)


def _run(options: _Options, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    specs, splits = list(options.variable_axes.values()), list(options.split_rngs.values())
    filters = [options.variable_broadcast, options.variable_carry, *options.variable_axes]
    region = Region("scan", function, (args, kwargs), filters, list(options.split_rngs), splits=splits)
    metadata = options.metadata_params
    module, carry, inputs = args[0], args[1] if len(args) > 1 else None, args[2:]
    in_axes = tuple(options.in_axes) if isinstance(options.in_axes, tuple | list) else (options.in_axes,) * len(inputs)
    ins = [None if isinstance(spec, Out) else in_axis(spec) for spec in specs]
    length = _length(options, region, inputs, in_axes, ins)
    stacked, join = _split_inputs(inputs, in_axes)

    def slices() -> list[Any]:
        """Return the stacked groups with that axis in front, and an empty one where they only come out."""
        empty: Any = ({},) * len(region.scopes)
        return [
            empty if isinstance(spec, Out) else jax.tree.map(lambda x, a=axis: jnp.moveaxis(x, a, 0), group)
            for spec, axis, group in zip(specs, ins, region.groups[2:], strict=True)
        ]

    def step_groups(shared: Any, carried: Any, slices: list[Any]) -> tuple[Any, ...]:
        return (shared, carried, *(move_in(g, a, metadata) for g, a in zip(slices, ins, strict=True)))

    def first_groups() -> tuple[Any, ...]:
        return step_groups(*region.groups[:2], jax.tree.map(lambda x: x[0], slices()))

    if length and region.frame.initializing:
        call = (function, (module, carry, *join(jax.tree.map(lambda x: x[0], stacked))), kwargs)
        region.rehearse(*call, keep=[True, True, *(False for _ in specs)], groups=first_groups())
        axes = [None, None, *(None if isinstance(spec, In) else out_axis(spec) for spec in specs)]
        region.stack(*call, groups=first_groups(), stacking=Stacking(axes, length, metadata, passes=2))
    shared_group, carried_group = region.groups[:2]

    def body(state: Any, step: Any) -> Any:
        (carried, carry), (step_slices, keys, inputs) = state, step
        groups = step_groups(shared_group, carried, step_slices)
        streams = tuple(k if is_split else g for k, is_split, g in zip(keys, splits, region.streams, strict=True))
        if options.data_transform is not None:
            groups, streams = options.data_transform(groups, streams)
        (carry, outputs), written = region.run(function, groups, streams, (module, carry, *join(inputs)), kwargs)
        if written[0]:
            names = ", ".join(sorted("/".join(place) for place in written[0]))
            raise LoopVariableError(
                transform="scan", path=region.path, names=names, options="variable_carry or variable_axes"
            )
        kept = [
            {} if isinstance(spec, In) else move_out(values, out_axis(spec), metadata)
            for values, spec in zip(written[2:], specs, strict=True)
        ]
        return (region.whole(1, groups, written), carry), (outputs, kept)

    keys = [
        jax.tree.map(lambda key: jax.random.split(key, length), group) if is_split else ()
        for group, is_split in zip(region.streams, splits, strict=True)
    ]
    first, steps = (carried_group, carry), (slices(), keys, stacked)
    if any(map(any, region.streams)):  # keys are counted as if the body had been traced before, as Flax Linen does
        jax.eval_shape(body, first, jax.tree.map(lambda x: x[0], steps))
    (carried, carry), (outputs, kept) = jax.lax.scan(
        body,
        first,
        steps,
        length=length,
        reverse=options.reverse,
        unroll=options.unroll,
        _split_transpose=options.split_transpose,
    )
    written = [
        jax.tree.map(lambda x, a=out_axis(spec): jnp.moveaxis(x, 0, a), values)
        for spec, values in zip(specs, kept, strict=True)
    ]
    region.finish(({}, region.changes(carried), *written))
    return carry, _from_front(outputs, options.out_axes)


def _is_axis(value: Any) -> bool:
    return value is None or value is broadcast or isinstance(value, int)


def _split_inputs(
    inputs: tuple[Any, ...], axes: tuple[Any, ...]
) -> tuple[list[Any], Callable[[list[Any]], tuple[Any, ...]]]:
    """Split off what is looped over.

    Returns:
      The parts that are looped over, with that axis in front, and a function that joins a step's slices of them with
      what every step gets whole.
    """
    stacked: list[Any] = []

    def visit(axis: Any, part: Any) -> Any:
        if axis is broadcast or axis is None:
            return _Whole(part)
        stacked.append(jax.tree.map(lambda x: jnp.moveaxis(x, axis, 0), part))
        return None

    plan = jax.tree.map(visit, axes, inputs, is_leaf=_is_axis)

    def join(slices: list[Any]) -> tuple[Any, ...]:
        rest = iter(slices)
        return jax.tree.map(
            lambda part: next(rest) if part is None else part.value,
            plan,
            is_leaf=lambda part: part is None or isinstance(part, _Whole),
        )

    return stacked, join


@dataclasses.dataclass(frozen=True)
class _Whole:
    """A part of the inputs that every step gets whole."""

    value: Any


def _length(
    options: _Options, region: Region, inputs: tuple[Any, ...], in_axes: tuple[Any, ...], ins: list[Any]
) -> int:
    if len(in_axes) != len(inputs):
        raise LiftAxisSizeError(
            transform="scan",
            path=region.path,
            problem=f"{len(in_axes)} in_axes for {len(inputs)} inputs",
            advice="Give one axis for each input after the carry, or one for all.",
        )
    found = size_along(inputs, in_axes)
    for axis, group in zip(ins, region.groups[2:], strict=True):
        if axis is not None:
            found |= size_along(group, axis)
    if options.length is not None:
        found.add(options.length)
    if len(found) != 1:
        problem = "no input that tells the number of steps" if not found else f"the numbers of steps {sorted(found)}"
        raise LiftAxisSizeError(
            transform="scan",
            path=region.path,
            problem=problem,
            advice="Give length=, and make every input and every stacked variable as long along its axis.",
        )
    return found.pop()


def _from_front(outputs: Any, axes: Any) -> Any:
    """Move the stacked axis of outputs from the front to where ``axes`` wants it; shared outputs lose it."""

    def move(axis: Any, part: Any) -> Any:
        if axis is broadcast or axis is None:
            return jax.tree.map(lambda x: x[0], part)
        return jax.tree.map(lambda x: jnp.moveaxis(x, 0, axis), part)

    return jax.tree.map(move, axes, outputs, is_leaf=_is_axis)
