"""``scan``: a module as the body of a loop, with variables that are stacked, carried or shared.

Stacked variables have one slice for each step, shared ones are the same in every step, and carried ones are handed from
step to step. On ``init`` shared and carried variables are made once, before the loop, and stacked ones by the loop. The
body may write a shared variable if it writes the same in every step; what it wrote is what the steps then see.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp

from batiste._arguments import whole_number
from batiste.core import CollectionFilter, call_jaxpr, intersect_filters, is_filter_empty, lies_as
from batiste.errors import ScanBodyError, ScanCarryError, SharedVariableError
from batiste.lift._axes import (
    In,
    Out,
    VariableAxes,
    described,
    first_entry,
    from_front,
    in_axis,
    is_axis,
    is_shared_axis,
    metadata,
    move_in,
    move_out,
    out_axis,
    per_argument,
    size_along,
    table,
    the_size,
    to_front,
)
from batiste.lift._first import Body, FirstValues, Layout, first_values, make_first
from batiste.lift._groups import check_carried, leaves, region_of, split_keys, whole
from batiste.lift._target import Methods, lifted
from batiste.module import Group, Groups, KeyGroups, Place, Region

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
    _split_transpose: bool
    check_constancy_invariants: bool


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
      variable_broadcast: collections that every step shares.
      variable_carry: collections that each step hands on to the next; except on ``init``, they exist before the loop.
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
      check_constancy_invariants: as in Flax, whether the keys that the first pass draws are counted, which changes the
        keys of the loop; what steps share is found in any case.
      keep_name: whether a class keeps its name, so that automatic names are those of the class itself.

    Raises:
      ArgumentError: if ``length`` or ``unroll`` is no whole number.
      LiftAxisSizeError: if the number of steps is unknown or differs.
      LoopVariableError: if the body makes a variable that is carried.
      ScanBodyError: if the body takes no carry, or does not return a pair.
      SharedVariableError: if the body writes a variable that steps share, and not the same in each of them.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> class Sum(nn.Module):
      ...     def __call__(self, carry, x):
      ...         return carry + x, carry
      >>> total, before = nn.scan(Sum)().apply({}, 0.0, jnp.arange(4.0))
      >>> total.item(), before.tolist()
      (6.0, [0.0, 0.0, 1.0, 3.0])
    """
    options = _Options(
        table(variable_axes, "variable_axes", "scan"),
        variable_broadcast,
        variable_carry,
        table(split_rngs, "split_rngs", "scan"),
        in_axes,
        out_axes,
        None if length is None else whole_number(length, "length", "scan"),
        reverse,
        unroll if isinstance(unroll, bool) else whole_number(unroll, "unroll", "scan", low=1),
        data_transform,
        metadata(metadata_params, "scan"),
        _split_transpose,
        check_constancy_invariants,
    )
    return lifted("scan", target, _run, options, methods=methods, keep_name=keep_name)


def _run(options: _Options, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    filters = [options.variable_broadcast, options.variable_carry, *options.variable_axes]
    splits = list(options.split_rngs.values())
    mutable = [True, True, *(not isinstance(spec, In) for spec in options.variable_axes.values())]
    region = region_of("scan", function, args, kwargs, filters, [*options.split_rngs], mutable=mutable, splits=splits)
    if len(args) < 2:
        raise ScanBodyError(path=region.path, problem="is called without a carry")
    return _Loop(options, region, function, args, kwargs).run()


class _Loop:
    """One run of a loop.

    The body is traced in two passes. The first finds what it writes in collections that all steps share, on ``init``
    the variables that it makes there; the second is the loop. Where the first could find nothing it is left out. Random
    keys are counted in both unless ``check_constancy_invariants`` is off, as in Flax Linen.
    """

    def __init__(
        self,
        options: _Options,
        region: Region,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        self.options, self.region, self.function, self.kwargs = options, region, function, kwargs
        self.module, self.carry, *rest = args
        self.specs = list(options.variable_axes.values())
        inputs, in_axes = tuple(rest), per_argument(options.in_axes, tuple(rest), "scan", region.path)
        self.length = self._length(inputs, in_axes)
        self.stacked, self.join = _split_inputs(inputs, in_axes)
        nothing: Group = tuple(dict[str, Any]() for _ in region.scopes)
        self.slices: list[Any] = [
            nothing if isinstance(spec, Out) else to_front(group, in_axis(spec))
            for spec, group in zip(self.specs, region.variables[2:], strict=True)
        ]
        self.carried_places: set[Place] = set()
        self.own = range(2, len(region.filters))
        self.end: Any = None  # dtypes and shapes of the carry that the body has returned, once it has

    def run(self) -> tuple[Any, Any]:
        """Run the loop; return the last carry and the outputs."""
        options, region = self.options, self.region
        made = self._first_values()
        keys = split_keys(region, self.length)
        keys = [group if is_split else () for group, is_split in zip(keys, region.splits, strict=True)]
        state = (region.variables[1], self.carry)
        steps = (None if made.values is None else jnp.arange(self.length), self.slices, keys, self.stacked)
        shared, shared_outputs, changed = self._first_pass(made, state, steps)

        def step(state: Any, inputs: Any) -> Any:
            self.end = None
            before = state
            state, outputs, written = self._step(shared, made, self.own, state, inputs)
            state = lies_as(state, before)
            self.carried_places.update(written[1])
            self.end = jax.tree.map(_kind, state[1])
            return state, (_choose(outputs, options.out_axes, shared=False), written[2:])

        try:
            (carried, carry), (outputs, written) = jax.lax.scan(
                step,
                state,
                steps,
                length=self.length,
                reverse=options.reverse,
                unroll=options.unroll,
                _split_transpose=options._split_transpose,
            )
        except TypeError as error:
            raise self._said(error, state) from None
        made.finish()
        stacked = [from_front(values, out_axis(spec)) for values, spec in zip(written, self.specs, strict=True)]
        region.publish((changed, leaves(region, carried, self.carried_places), *stacked))
        return carry, _join(outputs, shared_outputs, options.out_axes)

    def _said(self, error: TypeError, state: Any) -> Exception:
        """Return the error for a body that has ended, and returns another carry than it was given, if that was it."""
        before, after = (f"{tree}".replace("'", "") for tree in (jax.tree.map(_kind, state[1]), self.end))
        if self.end is None or before == after:
            return error
        return ScanCarryError(path=self.region.path, given=after, expected=before)

    def _first_values(self) -> FirstValues:
        """On ``init``, make the variables that are carried, and return the first values of the others."""
        region, specs = self.region, self.specs
        slices = self._bare(first_entry(self.slices, 0))
        arguments = (self.module, self.carry, *self.join(first_entry(self.stacked, 0)))
        body = Body(self.function, arguments, self.kwargs, (*region.variables[:2], *slices))
        layout = Layout(
            [None, None, *map(out_axis, specs)],
            [True, self.options.variable_carry is not False, *(not isinstance(spec, In) for spec in specs)],
            self.length,
            self.options.metadata_params,
            is_loop=True,
        )
        if region.is_initializing and self.options.variable_carry is not False:
            make_first(region, body, [1], counted=False, layout=layout)
        return first_values(region, layout)

    def _first_pass(self, made: FirstValues, state: Any, steps: Any) -> tuple[Group, Any, dict[Place, Any]]:
        """Run the body once for what all steps share.

        Returns:
          The shared variables as the steps see them, shared outputs, and what it wrote.

        Raises:
          SharedVariableError: if they differ from step to step.
        """
        region, axes = self.region, self.options.out_axes
        has_outputs = any(map(is_shared_axis, jax.tree.leaves(axes, is_leaf=is_axis)))
        may_write = not is_filter_empty(intersect_filters(region.filters[0], region.frame.mutable))
        is_counted = self.options.check_constancy_invariants
        if not (has_outputs or may_write or (is_counted and any(map(any, region.streams)))):
            return region.variables[0], None, {}
        found, has_ended = set[Place](), False

        def first(state: Any, steps: Any) -> Any:
            nonlocal has_ended
            inputs = first_entry(steps, 0)
            _, outputs, written = self._step(region.variables[0], made, (0, *self.own), state, inputs)
            found.update(written[0])
            has_ended = True
            return _choose(outputs, axes, shared=True), written[0]

        counts = region.counts()
        arguments = jax.tree.map(_with_axis, (state, steps))
        try:  # an output of vmap that does not depend on the mapped axis is the same in every step
            program, shapes = jax.make_jaxpr(jax.vmap(first, out_axes=None), return_shape=True)(*arguments)
        except ValueError:
            if not has_ended:  # it is the body's own
                raise
            names = ", ".join(sorted("/".join(place) for place in found)) or "outputs"
            raise SharedVariableError(
                transform="scan", path=region.path, names=names, options="variable_axes, variable_carry or out_axes"
            ) from None
        made.finish([0])
        outputs, changed = None, dict[Place, Any]()
        if found or has_outputs:
            values = call_jaxpr(program, *jax.tree.leaves(arguments))
            outputs, changed = jax.tree.unflatten(cast("Any", jax.tree.structure(shapes)), values)
        elif not is_counted:
            region.count_from(counts)
        entered = {place: region.first[place] for place in region.entered if region.group_of(place) == 0}
        return whole(region, 0, region.variables, ({**entered, **changed},)), outputs, changed

    def _step(
        self, shared: Any, made: FirstValues, groups_made: Collection[int], state: Any, step: Any
    ) -> tuple[tuple[Any, Any], Any, list[dict[Place, Any]]]:
        """Run the body once; return the next state, its outputs, and what it wrote in each group."""
        (carried, carry), (number, slices, keys, inputs) = state, step
        region = self.region
        groups: Groups = (shared, carried, *self._bare(slices))
        streams: KeyGroups = tuple(
            key if is_split else group for key, is_split, group in zip(keys, region.splits, region.streams, strict=True)
        )
        given = streams
        if self.options.data_transform is not None:
            groups, streams = self.options.data_transform(groups, streams)
        body = Body(self.function, (self.module, carry, *self.join(inputs)), self.kwargs, groups)
        result, written = made.run(body, streams, given=given, index=number, groups=groups_made)
        if not isinstance(result, tuple | list) or len(cast("Sequence[Any]", result)) != 2:
            raise ScanBodyError(path=region.path, problem=f"returns {described(result)}")
        pair = cast("Sequence[Any]", result)
        check_carried(region, carried, written[1])
        metadata = self.options.metadata_params
        kept: list[dict[Place, Any]] = [
            move_out(values, out_axis(spec), metadata) for values, spec in zip(written[2:], self.specs, strict=True)
        ]
        return (whole(region, 1, groups, written), pair[0]), pair[1], [*written[:2], *kept]

    def _bare(self, slices: Sequence[Any]) -> list[Any]:
        """Tell the boxes of stacked variables that the stacked axis is gone."""
        metadata = self.options.metadata_params
        return [move_in(group, in_axis(spec), metadata) for group, spec in zip(slices, self.specs, strict=True)]

    def _length(self, inputs: tuple[Any, ...], in_axes: tuple[Any, ...]) -> int:
        found = size_along(inputs, in_axes, "scan", self.region.path)
        for spec, group in zip(self.specs, self.region.variables[2:], strict=True):
            found |= size_along(group, in_axis(spec), "scan", self.region.path)
        if self.options.length is not None:
            found.add(self.options.length)
        return the_size(found, "scan", self.region.path, option="length")


@dataclasses.dataclass(frozen=True)
class _Whole:
    """A part of the inputs that every step gets whole."""

    value: Any


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
        if is_shared_axis(axis):
            return _Whole(part)
        stacked.append(to_front(part, axis))
        return None

    plan = jax.tree.map(visit, axes, inputs, is_leaf=is_axis)

    def join(slices: list[Any]) -> tuple[Any, ...]:
        rest = iter(slices)

        def fill(part: Any) -> Any:
            return next(rest) if part is None else part.value

        return jax.tree.map(fill, plan, is_leaf=lambda part: part is None or isinstance(part, _Whole))

    return stacked, join


def _kind(leaf: Any) -> str:
    array = jax.eval_shape(lambda: leaf)
    return f"{array.dtype}[{','.join(map(str, array.shape))}]"


def _with_axis(array: Any) -> Any:
    return jnp.expand_dims(array, 0)


def _choose(outputs: Any, axes: Any, *, shared: bool) -> Any:
    """Return the parts of outputs that steps share, or those that they do not; None in place of the others."""

    def choose(axis: Any, part: Any) -> Any:
        return part if is_shared_axis(axis) == shared else None

    return jax.tree.map(choose, axes, outputs, is_leaf=is_axis)


def _join(stacked: Any, shared: Any, axes: Any) -> Any:
    """Return all outputs, with the stacked axis where ``axes`` wants it."""

    def join(axis: Any, part: Any, whole: Any = None) -> Any:
        return whole if is_shared_axis(axis) else from_front(part, axis)

    return jax.tree.map(join, axes, stacked, *([] if shared is None else [shared]), is_leaf=is_axis)
