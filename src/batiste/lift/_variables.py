"""``map_variables``, ``add_metadata_axis`` and ``fold_rngs``: what a module sees in the place of its variables."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

from batiste.core import CollectionFilter, is_filter_empty
from batiste.lift._axes import VariableAxes, metadata, move_in, move_out, table
from batiste.lift._first import Body, Layout, all_shared, first_values, make_first
from batiste.lift._groups import fold_streams, leaves, region_of, whole
from batiste.lift._target import Methods, lifted

__all__ = ["add_metadata_axis", "fold_rngs", "map_variables"]

Target = TypeVar("Target")
_NOTHING: Mapping[Any, Any] = MappingProxyType({})


def _same(variables: Any) -> Any:
    return variables


@dataclasses.dataclass(frozen=True)
class _Options:
    mapped_collections: CollectionFilter
    trans_in_fn: Callable[..., Any]
    trans_out_fn: Callable[..., Any]
    init: bool
    mutable: bool
    rngs: CollectionFilter
    variables: CollectionFilter


def map_variables(
    target: Target,
    mapped_collections: CollectionFilter = True,
    trans_in_fn: Callable[..., Any] = _same,
    trans_out_fn: Callable[..., Any] = _same,
    init: bool = False,
    mutable: bool = False,
    rngs: CollectionFilter = True,
    variables: CollectionFilter = True,
    methods: Methods = None,
    *,
    keep_name: bool = False,
) -> Target:
    """Return a module, or a function of a module, that sees some of its variables through a function.

    Args:
      target: a Module class, or a function whose first argument is a module.
      mapped_collections: the collections that are mapped.
      trans_in_fn: called with them, by collection from the module down; returns what the module sees.
      trans_out_fn: called with what the module has made or changed; returns what is stored.
      init: whether variables that are not there are made by the module, and mapped outwards.
      mutable: whether the module may change the mapped collections.
      rngs: the random streams that are seen inside.
      variables: the other collections that are seen inside.
      methods: the methods of a class; by default ``__call__``.
      keep_name: whether a class keeps its name, so that automatic names are those of the class itself.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> def transposed(variables):
      ...     return jax.tree.map(jnp.transpose, variables)
      >>> Tied = nn.map_variables(nn.Dense, "params", transposed, transposed, init=True)
      >>> variables = Tied(4, use_bias=False).init(jax.random.key(0), jnp.ones((2, 3)))
      >>> variables["params"]["kernel"].shape
      (4, 3)
    """
    options = _Options(mapped_collections, trans_in_fn, trans_out_fn, init, mutable, rngs, variables)
    return lifted("map_variables", target, _run_map, options, methods=methods, keep_name=keep_name)


def _run_map(options: _Options, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    may_change = options.mutable or options.init
    region = region_of(
        "map_variables",
        function,
        args,
        kwargs,
        [options.mapped_collections, options.variables],
        [options.rngs],
        mutable=[may_change, True],
    )
    if options.init and not is_filter_empty(region.frame.mutable):  # Linen runs it twice, and draws twice, then
        make_first(region, Body(function, args, kwargs, region.variables), [0], counted=True)
        if options.trans_out_fn is not _same:
            region.store(leaves(region, tuple(map(options.trans_out_fn, region.variables[0]))))
            region.renew()
    groups = (tuple(map(options.trans_in_fn, region.variables[0])), *region.variables[1:])
    made = first_values(region, Layout([None, None], [False, True]))
    output, (changed, *written) = made.run(Body(function, args, kwargs, groups), region.streams)
    made.finish()
    if changed or (may_change and options.trans_in_fn is not _same):  # Linen stores what the module saw
        stored = map(options.trans_out_fn, whole(region, 0, groups, (changed,)))
        changed = leaves(region, tuple(stored))
    region.publish((changed, *written))
    return output


def add_metadata_axis(
    target: Target,
    variable_axes: VariableAxes = _NOTHING,
    metadata_params: Mapping[Any, Any] = _NOTHING,
    methods: Methods = None,
    *,
    keep_name: bool = False,
) -> Target:
    """Return a module whose boxes are told of an axis as ``vmap`` and ``scan`` would tell them; arrays stay the same.

    Args:
      target: a Module class, or a function whose first argument is a module.
      variable_axes: for collections, the axis that comes.
      metadata_params: told to the boxes.
      methods: the methods of a class; by default ``__call__``.
      keep_name: whether a class keeps its name, so that automatic names are those of the class itself.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> init = nn.with_partitioning(nn.initializers.ones, (None, "model"))
      >>> told = {nn.PARTITION_NAME: "layers"}
      >>> Layer = nn.add_metadata_axis(nn.Dense, {"params": 0}, metadata_params=told)
      >>> layer = Layer(4, kernel_init=init)
      >>> variables = layer.init(jax.random.key(0), jnp.ones((2, 3)))
      >>> variables["params"]["kernel"].names
      ('layers', None, 'model')
    """
    told = metadata(metadata_params, "add_metadata_axis")
    for collection_filter, axis in table(variable_axes, "variable_axes", "add_metadata_axis").items():
        if isinstance(axis, int):
            options = _Axis(collection_filter, axis, told)
            target = lifted("map_variables", target, _run_axis, options, methods=methods, keep_name=keep_name)
    return target


@dataclasses.dataclass(frozen=True)
class _Axis:
    variables: CollectionFilter
    axis: int
    metadata: dict[Any, Any]


def _run_axis(options: _Axis, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    region = region_of("add_metadata_axis", function, args, kwargs, [options.variables, True], [True])
    axes = options.axis, None
    groups = tuple(move_in(group, axis, options.metadata) for group, axis in zip(region.variables, axes, strict=True))
    made = first_values(region, Layout(axes, [True, True], metadata=options.metadata, is_cut=False))
    output, written = made.run(Body(function, args, kwargs, groups), region.streams)
    made.finish()
    region.publish(tuple(move_out(values, axis, options.metadata) for values, axis in zip(written, axes, strict=True)))
    return output


@dataclasses.dataclass(frozen=True)
class _Fold:
    variables: CollectionFilter
    rngs: CollectionFilter


def fold_rngs(
    target: Target, variables: CollectionFilter = True, rngs: CollectionFilter = True, *, keep_name: bool = False
) -> Target:
    """Return a module whose streams have their path folded in beforehand.

    Args:
      target: a Module class, or a function whose first argument is a module.
      variables: the collections that are seen inside.
      rngs: the random streams that are seen inside.
      keep_name: whether a class keeps its name, so that automatic names are those of the class itself.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> class Model(nn.Module):
      ...     @nn.compact
      ...     def __call__(self, x):
      ...         return nn.fold_rngs(nn.Dense)(4)(x)
      >>> Model().init_with_output(jax.random.key(0), jnp.ones((2, 3)))[0].shape
      (2, 4)
    """
    return lifted("fold_rngs", target, _run_fold, _Fold(variables, rngs), keep_name=keep_name)


def _run_fold(options: _Fold, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    region = region_of("fold_rngs", function, args, kwargs, [options.variables], [options.rngs])
    starts = fold_streams(region, options.rngs)
    made = first_values(region, all_shared(region))
    output, written = made.run(Body(function, args, kwargs, region.variables), region.streams, starts=starts)
    made.finish()
    region.publish(written)
    return output
