"""``vmap``: a module over a new axis, with variables that are mapped along an axis of theirs or shared."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from batiste._arguments import whole_number
from batiste.core import CollectionFilter
from batiste.errors import SharedVariableError
from batiste.lift._axes import (
    In,
    Out,
    VariableAxes,
    in_axis,
    is_array_like,
    metadata,
    move_in,
    move_out,
    out_axis,
    per_argument,
    size_along,
    table,
    the_size,
)
from batiste.lift._first import Body, Layout, first_values
from batiste.lift._groups import region_of, split_keys
from batiste.lift._target import Methods, lifted
from batiste.module import Group, Groups, Place, Region

__all__ = ["vmap"]

Target = TypeVar("Target")
_NOTHING: Mapping[Any, Any] = MappingProxyType({})


@dataclasses.dataclass(frozen=True)
class _Options:
    variable_axes: VariableAxes
    split_rngs: Mapping[CollectionFilter, bool]
    in_axes: Any
    out_axes: Any
    axis_size: int | None
    axis_name: str | None
    spmd_axis_name: str | tuple[str, ...] | None
    metadata_params: Mapping[Any, Any]


def vmap(
    target: Target,
    variable_axes: VariableAxes = _NOTHING,
    split_rngs: Mapping[CollectionFilter, bool] = _NOTHING,
    in_axes: Any = 0,
    out_axes: Any = 0,
    axis_size: int | None = None,
    axis_name: str | None = None,
    spmd_axis_name: str | tuple[str, ...] | None = None,
    metadata_params: Mapping[Any, Any] = _NOTHING,
    methods: Methods = None,
    *,
    keep_name: bool = False,
) -> Target:
    """Return a module, or a function of a module, mapped over an axis like ``jax.vmap``.

    Args:
      target: a Module class, or a function whose first argument is a module.
      variable_axes: for collections, the axis along which each entry has its own variables; None shares them.
        Collections that are not named are not seen inside.
      split_rngs: for random streams, whether every entry draws its own numbers. Streams that are not named are not
        seen inside.
      in_axes: the axis of each argument after the module, as for ``jax.vmap``. Keyword arguments that are arrays are
        mapped over their first axis; others stay as they are.
      out_axes: the axis of each result.
      axis_size: the extent of the axis, where no argument tells it.
      axis_name: a name for collectives.
      spmd_axis_name: a mesh axis to which the mapped axis belongs.
      metadata_params: told to boxes when the axis comes and goes.
      methods: the methods of a class that are mapped; by default ``__call__``.
      keep_name: whether a class keeps its name, so that automatic names are those of the class itself.

    Raises:
      ArgumentError: if ``axis_size`` is no whole number.
      LiftAxisSizeError: if the extent of the axis is unknown or differs.
      SharedVariableError: if entries make or write different values of a variable that they share.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> own = {"params": 0}
      >>> Heads = nn.vmap(nn.Dense, own, {"params": True}, in_axes=None, axis_size=2)
      >>> y, variables = Heads(4).init_with_output(jax.random.key(0), jnp.ones(3))
      >>> y.shape, variables["params"]["kernel"].shape
      ((2, 4), (2, 3, 4))
    """
    options = _Options(
        table(variable_axes, "variable_axes", "vmap"),
        table(split_rngs, "split_rngs", "vmap"),
        in_axes,
        out_axes,
        None if axis_size is None else whole_number(axis_size, "axis_size", "vmap"),
        axis_name,
        spmd_axis_name,
        metadata(metadata_params, "vmap"),
    )
    return lifted("vmap", target, _run, options, methods=methods, keep_name=keep_name)


def _run(options: _Options, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    specs, splits = list(options.variable_axes.values()), list(options.split_rngs.values())
    rngs = list(options.split_rngs)
    kept = [not isinstance(spec, In) for spec in specs]
    region = region_of("vmap", function, args, kwargs, [*options.variable_axes], rngs, mutable=kept, splits=splits)
    ins, outs, metadata = [*map(in_axis, specs)], [*map(out_axis, specs)], options.metadata_params
    modules, inputs = args[:1], args[1:]
    in_axes = per_argument(options.in_axes, inputs, "vmap", region.path)
    mapped_kwargs = {name: value for name, value in kwargs.items() if _is_array_tree(value)}
    fixed_kwargs = {name: value for name, value in kwargs.items() if name not in mapped_kwargs}
    size = _size(options, region, inputs, in_axes, mapped_kwargs, ins)
    nothing: Group = tuple(dict[str, Any]() for _ in region.scopes)
    groups: Groups = tuple(nothing if isinstance(s, Out) else g for s, g in zip(specs, region.variables, strict=True))

    made = first_values(region, Layout(outs, kept, size, metadata))

    shared: set[Place] = set()

    def body(number: Any, groups: Any, streams: Any, inputs: Any, mapped: Any) -> Any:
        groups = tuple(move_in(group, axis, metadata) for group, axis in zip(groups, ins, strict=True))
        streams = tuple(map(_either, splits, streams, region.streams))
        call = Body(function, (*modules, *inputs), mapped | fixed_kwargs, groups)
        output, written = made.run(call, streams, index=number)
        shared.update(place for values, axis in zip(written, outs, strict=True) if axis is None for place in values)
        return output, tuple(move_out(values, axis, metadata) for values, axis in zip(written, outs, strict=True))

    def mapped(axes_of_variables: tuple[int | None, ...]) -> Callable[..., Any]:
        return jax.vmap(
            body,
            in_axes=(0, tuple(ins), 0, in_axes, 0),
            out_axes=(options.out_axes, axes_of_variables),
            axis_size=size,
            axis_name=options.axis_name,
            spmd_axis_name=options.spmd_axis_name,
        )

    numbers = None if made.values is None else jnp.arange(size)
    keys = [keys if is_split else () for keys, is_split in zip(split_keys(region, size), splits, strict=True)]
    arguments = (numbers, groups, keys, inputs, mapped_kwargs)
    try:
        output, written = mapped(tuple(outs))(*arguments)
    except ValueError:
        if not shared or not _works(mapped(tuple(0 if axis is None else axis for axis in outs)), arguments):
            raise
        names = ", ".join(sorted("/".join(place) for place in shared))
        raise SharedVariableError(transform="vmap", path=region.path, names=names, options="variable_axes") from None
    made.finish()
    region.publish(written)
    return output


def _either(is_split: bool, given: Any, outside: Any) -> Any:
    return given if is_split else outside


def _works(function: Callable[..., Any], arguments: tuple[Any, ...]) -> bool:
    """Return whether a function can be traced: what fails for shared variables works if each entry has its own."""
    try:
        jax.eval_shape(function, *arguments)
    except ValueError:
        return False
    return True


def _is_array_tree(value: Any) -> bool:
    leaves = jax.tree.leaves(value)
    return bool(leaves) and all(is_array_like(leaf) and len(leaf.shape) > 0 for leaf in leaves)


def _size(
    options: _Options,
    region: Region,
    inputs: tuple[Any, ...],
    in_axes: tuple[Any, ...],
    kwargs: Any,
    ins: list[int | None],
) -> int:
    found = size_along(inputs, in_axes, "vmap", region.path) | size_along(kwargs, 0, "vmap", region.path)
    for axis, group in zip(ins, region.variables, strict=True):
        found |= size_along(group, axis, "vmap", region.path)
    if options.axis_size is not None:
        found.add(options.axis_size)
    return the_size(found, "vmap", region.path, option="axis_size")
