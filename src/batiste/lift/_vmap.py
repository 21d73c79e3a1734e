"""``vmap``: a module over a new axis, with variables that are mapped along an axis of theirs or shared."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

import jax

from batiste.core import CollectionFilter
from batiste.errors import LiftAxisSizeError
from batiste.lift._axes import In, Out, VariableAxes, in_axis, is_array_like, move_in, move_out, out_axis, size_along
from batiste.lift._region import Region, Stacking
from batiste.lift._target import Methods, lifted

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
      LiftAxisSizeError: if the extent of the axis is unknown or differs.
    """
    options = _Options(
        dict(variable_axes),
        dict(split_rngs),
        in_axes,
        out_axes,
        axis_size,
        axis_name,
        spmd_axis_name,
        dict(metadata_params),
    )
    return lifted("vmap", target, _run, options, methods=methods, keep_name=keep_name)


def _run(options: _Options, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    specs, splits = list(options.variable_axes.values()), list(options.split_rngs.values())
    region = Region(
        "vmap", function, (args, kwargs), list(options.variable_axes), list(options.split_rngs), splits=splits
    )
    metadata = options.metadata_params
    ins = [None if isinstance(spec, Out) else in_axis(spec) for spec in specs]
    outs = [None if isinstance(spec, In) else out_axis(spec) for spec in specs]
    modules, inputs = args[:1], args[1:]
    in_axes = tuple(options.in_axes) if isinstance(options.in_axes, tuple | list) else (options.in_axes,) * len(inputs)
    mapped_kwargs = {name: value for name, value in kwargs.items() if _is_array_tree(value)}
    fixed_kwargs = {name: value for name, value in kwargs.items() if name not in mapped_kwargs}
    size = _size(options, region, inputs, in_axes, mapped_kwargs, ins)

    def seen() -> tuple[Any, ...]:
        """Return the groups of variables that the body gets, an empty one where they only come out."""
        empty: Any = ({},) * len(region.scopes)
        return tuple(empty if isinstance(s, Out) else g for s, g in zip(specs, region.groups, strict=True))

    def one_of(groups: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(move_in(_first(axis, group), axis, metadata) for axis, group in zip(ins, groups, strict=True))

    if region.frame.initializing:
        call = (function, (*modules, *map(_first, in_axes, inputs)), _first(0, mapped_kwargs) | fixed_kwargs)
        region.rehearse(*call, keep=[axis is None for axis in outs], groups=one_of(seen()))
        region.stack(*call, groups=one_of(seen()), stacking=Stacking(outs, size, metadata))

    def body(groups: Any, streams: Any, inputs: Any, mapped: Any) -> Any:
        groups = tuple(move_in(group, axis, metadata) for group, axis in zip(groups, ins, strict=True))
        output, written = region.run(function, groups, streams, (*modules, *inputs), mapped | fixed_kwargs)
        kept = [
            {} if isinstance(spec, In) else move_out(values, axis, metadata)
            for values, axis, spec in zip(written, outs, specs, strict=True)
        ]
        return output, kept

    streams = tuple(
        jax.tree.map(lambda key: jax.random.split(key, size), group) if is_split else group
        for group, is_split in zip(region.streams, splits, strict=True)
    )
    mapped = jax.vmap(
        body,
        in_axes=(tuple(ins), tuple(0 if is_split else None for is_split in splits), in_axes, 0),
        out_axes=(options.out_axes, outs),
        axis_size=size,
        axis_name=options.axis_name,
        spmd_axis_name=options.spmd_axis_name,
    )
    output, written = mapped(seen(), streams, inputs, mapped_kwargs)
    region.finish(tuple(written))
    return output


def _first(axes: Any, tree: Any) -> Any:
    """Return the first entry of arrays along the axes that ``axes``, a prefix of the tree, gives."""

    def take(axis: int | None, part: Any) -> Any:
        return part if axis is None else jax.tree.map(lambda x: jax.lax.index_in_dim(x, 0, axis, keepdims=False), part)

    return jax.tree.map(take, axes, tree, is_leaf=lambda axis: axis is None or isinstance(axis, int))


def _is_array_tree(value: Any) -> bool:
    leaves = jax.tree.leaves(value)
    return bool(leaves) and all(is_array_like(leaf) and len(leaf.shape) > 0 for leaf in leaves)


def _size(
    options: _Options, region: Region, inputs: tuple[Any, ...], in_axes: tuple[Any, ...], kwargs: Any, ins: list[Any]
) -> int:
    if len(in_axes) != len(inputs):
        raise LiftAxisSizeError(
            transform="vmap",
            path=region.path,
            problem=f"{len(in_axes)} in_axes for {len(inputs)} arguments",
            advice="Give one axis for each argument after the module, or one for all.",
        )
    found = size_along(inputs, in_axes) | size_along(kwargs, 0)
    for axis, group in zip(ins, region.groups, strict=True):
        if axis is not None:
            found |= size_along(group, axis)
    if options.axis_size is not None:
        found.add(options.axis_size)
    if len(found) != 1:
        problem = "no argument and no variable with the mapped axis" if not found else f"the extents {sorted(found)}"
        raise LiftAxisSizeError(
            transform="vmap",
            path=region.path,
            problem=problem,
            advice="Give axis_size=, and make every mapped argument and variable as long along its axis.",
        )
    return found.pop()
