"""Logical names of axes in collections of their own, as T5X keeps them: ``flax.linen.partitioning``.

``param_with_axes("kernel", init, shape, axes=("embed", "mlp"))`` makes the parameter ``kernel`` in ``params``, and
``kernel_axes`` in ``params_axes``: an ``AxisMetadata`` with the names and no array. The variables of a collection and
their names are so two trees of one shape, and ``get_axis_names`` makes partition specs of the second. The transforms
here put the name of the axis that they stack along into the names, and take it away again.

What is read and written is constrained by the rules in effect (``axis_rules``), as by ``with_sharding_constraint``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar, cast

import jax
from jax.sharding import PartitionSpec

from batiste.compat.flax._rules import AXIS_RULES, AxisRules
from batiste.compat.flax.core.frozen_dict import FrozenDict, freeze, unfreeze
from batiste.compat.flax.core.lift import remat as _core_remat
from batiste.compat.flax.linen.spmd import logical_to_mesh, logical_to_mesh_axes
from batiste.compat.flax.linen.spmd import with_logical_constraint as with_sharding_constraint
from batiste.compat.flax.traverse_util import flatten_dict, unflatten_dict
from batiste.compat.flax.typing import (
    Array,
    ArrayPytree,
    InOutAxis,
    InOutScanAxis,
    LogicalPartitionSpec,
    LogicalPartitionSpecPytree,
    PartitionSpecPytree,
)
from batiste.core import CollectionFilter, Scope, Variable
from batiste.errors import CallUnboundModuleError, PartitionNameMismatchError
from batiste.lift import In as ScanIn
from batiste.lift import Out as ScanOut
from batiste.lift import map_variables, scan, vmap
from batiste.lift import remat as _remat
from batiste.module import Module, current_module
from batiste.shard import LogicalRules, RulesFallback
from batiste.shard import get_logical_axis_rules as get_axis_rules
from batiste.shard import logical_axis_rules as axis_rules
from batiste.shard import set_logical_axis_rules as set_axis_rules
from batiste.struct import dataclass, field

__all__ = [
    "Array",
    "ArrayPytree",
    "AxisMetadata",
    "CollectionFilter",
    "InOutAxis",
    "InOutScanAxis",
    "LogicalPartitionSpec",
    "LogicalPartitionSpecPytree",
    "LogicalRules",
    "PRNGSequenceFilter",
    "PartitionSpecPytree",
    "PartitionedVariable",
    "RulesFallback",
    "ScanIn",
    "ScanOut",
    "axis_rules",
    "core_remat_static",
    "flatten_dict",
    "freeze",
    "get_axis_names",
    "get_axis_rules",
    "logical_to_mesh",
    "logical_to_mesh_axes",
    "param_with_axes",
    "remat",
    "scan_with_axes",
    "set_axis_rules",
    "unflatten_dict",
    "unfreeze",
    "variable_with_axes",
    "vmap_with_axes",
    "with_sharding_constraint",
]

Target = TypeVar("Target")
PRNGSequenceFilter = CollectionFilter
"""A filter over the names of random streams."""

_NOTHING: Mapping[Any, Any] = MappingProxyType({})
_UNSHARDED = RulesFallback.AXIS_IS_UNSHARDED
_AxisRules, _axis_rules = AxisRules, AXIS_RULES  # libraries use these (flaxformer, T5X)


@dataclass
class AxisMetadata:
    """The logical names of a variable's axes: a pytree without leaves.

    Attributes:
      names: for each axis a name, or None.
    """

    names: LogicalPartitionSpecPytree = field(pytree_node=False)


class PartitionedVariable(Variable[Any]):
    """A reference to a variable that is constrained by its names wherever it is read or written.

    Attributes:
      axes: the logical names of its axes; None constrains nothing.
      fallback: what becomes of a name that no rule applies to.
    """

    __slots__ = ("axes", "fallback")

    def __init__(
        self,
        scope: Scope,
        collection: str,
        name: str,
        axes: tuple[str, ...] | None = None,
        fallback: RulesFallback = _UNSHARDED,
    ) -> None:
        super().__init__(scope, collection, name)
        self.axes = axes
        self.fallback = fallback

    @property
    def value(self) -> Any:
        """The value; assigning it needs a mutable collection.

        Raises:
          ModifyScopeVariableError: on assignment, if the collection is not mutable in this call.
        """
        return _constrained(super().value, self.axes, self.fallback)

    @value.setter
    def value(self, value: Any) -> None:
        cast("Any", Variable.value).fset(self, _constrained(value, self.axes, self.fallback))


def param_with_axes(
    name: str,
    init_fn: Callable[..., Any],
    *init_args: Any,
    axes: tuple[str, ...] | None = None,
    module: Module | None = None,
    **init_kwargs: Any,
) -> Any:
    """Return a parameter of the current module, and note the names of its axes in ``params_axes``.

    Args:
      name: the parameter's name.
      init_fn: called as ``init_fn(key, *init_args, **init_kwargs)`` on ``init``.
      *init_args: most often the shape and the dtype.
      axes: the logical names of the parameter's axes.
      module: the module, in place of the one whose method is being run.
      **init_kwargs: keyword arguments for ``init_fn``.

    Raises:
      CallUnboundModuleError: no module's method is being run.
    """
    held = _module(module, "param_with_axes")
    value = held.param(name, init_fn, *init_args, **init_kwargs)
    if axes is not None:
        value = _constrained(value, axes, _UNSHARDED)
        _note(held, "params_axes", name, axes)
    return value


def variable_with_axes(
    collection: str,
    name: str,
    init_fn: Callable[..., Any],
    *init_args: Any,
    axes: tuple[str, ...] | None = None,
    module: Module | None = None,
    fallback: RulesFallback = _UNSHARDED,
    **init_kwargs: Any,
) -> PartitionedVariable:
    """Return a reference to a variable of the current module, and note the names of its axes.

    Args:
      collection: the collection; the names go to the one that is called after it, with ``_axes`` at the end.
      name: the variable's name.
      init_fn: called as ``init_fn(*init_args, **init_kwargs)`` where the variable is made.
      *init_args: arguments of ``init_fn``.
      axes: the logical names of the variable's axes.
      module: the module, in place of the one whose method is being run.
      fallback: what becomes of a name that no rule applies to.
      **init_kwargs: keyword arguments for ``init_fn``.

    Raises:
      CallUnboundModuleError: no module's method is being run.
    """
    held = _module(module, "variable_with_axes")
    held.variable(collection, name, init_fn, *init_args, **init_kwargs)
    variable = PartitionedVariable(held.scope, collection, name, axes, fallback)
    if axes is not None:
        _note(held, f"{collection}_axes", name, axes)
    return variable


def get_axis_names(axes_metadata: Any) -> FrozenDict[str, Any]:
    """Return the logical names of a collection's variables as partition specs, by the variables' own names.

    Args:
      axes_metadata: a collection of names, such as ``variables["params_axes"]``.
    """
    flat = flatten_dict(unfreeze(axes_metadata), sep="/")
    specs = {re.sub(r"_axes$", "", path): _spec(metadata.names) for path, metadata in flat.items()}
    return freeze(unflatten_dict(specs, sep="/"))


def scan_with_axes(
    target: Target,
    variable_axes: Mapping[CollectionFilter, Any] = _NOTHING,
    variable_broadcast: CollectionFilter = False,
    variable_carry: CollectionFilter = False,
    split_rngs: Mapping[CollectionFilter, bool] = _NOTHING,
    in_axes: Any = 0,
    out_axes: Any = 0,
    length: int | None = None,
    reverse: bool = False,
    unroll: int = 1,
    axis_name: str = "layers",
    axes_collections: tuple[str, ...] = ("params",),
    data_transform: Callable[..., Any] | None = None,
    methods: Any = None,
) -> Target:
    """Return a module in a loop, as ``linen.scan``, with the loop's axis in the names of its variables.

    Args:
      target: a Module class, or a function whose first argument is a module.
      variable_axes: for collections the axis along which each step has a slice.
      variable_broadcast: collections that all steps share.
      variable_carry: collections that are carried from step to step.
      split_rngs: for random streams whether each step has keys of its own.
      in_axes: the axis of each argument after the carry.
      out_axes: the axis of each result.
      length: how many steps there are, where no argument tells it.
      reverse: whether the last step comes first.
      unroll: how many steps are one iteration of the loop.
      axis_name: the logical name of the loop's axis.
      axes_collections: the collections whose names are kept.
      data_transform: called with the variables and keys of each step.
      methods: the methods of a class; by default ``__call__``.
    """
    stacked = {f"{name}_axes": 0 for name in axes_collections}
    looped = scan(
        target,
        variable_axes={**variable_axes, **stacked},
        variable_broadcast=variable_broadcast,
        variable_carry=variable_carry,
        split_rngs=split_rngs,
        in_axes=in_axes,
        out_axes=out_axes,
        length=length,
        reverse=reverse,
        unroll=unroll,
        data_transform=data_transform,
        methods=methods,
    )
    axes = {name: variable_axes[name] for name in axes_collections if name in variable_axes}
    return _with_names(looped, axes, dict.fromkeys(axes, axis_name), methods)


def vmap_with_axes(
    target: Target,
    variable_axes: Mapping[CollectionFilter, Any],
    split_rngs: Mapping[CollectionFilter, bool] = _NOTHING,
    in_axes: Any = 0,
    out_axes: Any = 0,
    axis_size: int | None = None,
    axis_name: str | None = None,
    partitioning_axis_names: Mapping[Any, str] = _NOTHING,
    spmd_axis_name: str | None = None,
    methods: Any = None,
) -> Target:
    """Return a module mapped over an axis, as ``linen.vmap``, with that axis in the names of its variables.

    Args:
      target: a Module class, or a function whose first argument is a module.
      variable_axes: for collections the axis they are mapped over; None: shared.
      split_rngs: for random streams whether each call has keys of its own.
      in_axes: the axis of each argument.
      out_axes: the axis of each result.
      axis_size: the extent of the axis, where no argument tells it.
      axis_name: a name for collectives.
      partitioning_axis_names: for collections whose names are kept, the logical name of the axis.
      spmd_axis_name: a mesh axis to which the mapped axis belongs.
      methods: the methods of a class; by default ``__call__``.
    """
    kept = {f"{name}_axes": None if variable_axes.get(name) is None else 0 for name in partitioning_axis_names}
    mapped = vmap(
        target,
        variable_axes={**variable_axes, **kept},
        split_rngs=split_rngs,
        in_axes=in_axes,
        out_axes=out_axes,
        axis_size=axis_size,
        axis_name=axis_name,
        spmd_axis_name=spmd_axis_name,
        methods=methods,
    )
    axes = {name: variable_axes[name] for name in partitioning_axis_names if name in variable_axes}
    return _with_names(mapped, axes, partitioning_axis_names, methods)


def remat(
    target: Target,
    variables: CollectionFilter = True,
    rngs: CollectionFilter = True,
    concrete: bool = False,
    prevent_cse: bool = True,
    static_argnums: int | tuple[int, ...] = (),
    policy: Callable[..., bool] | None = None,
    methods: Any = None,
) -> Target:
    """Return a module that computes again for its gradient what it does not keep, as ``linen.remat``.

    Args:
      target: a Module class, or a function whose first argument is a module.
      variables: the collections that are seen inside.
      rngs: the random streams that are seen inside.
      concrete: only False, as in ``jax.checkpoint``.
      prevent_cse: whether the compiler is kept from undoing it.
      static_argnums: arguments that are no arrays, counted after the module: here 0 is the first one, and 1 for
        ``linen.remat``.
      policy: what is kept, as for ``jax.checkpoint``.
      methods: the methods of a class; by default ``__call__``.
    """
    numbers = _after_first(static_argnums)
    return _remat(target, variables, rngs, concrete, prevent_cse, numbers, policy, methods)


def core_remat_static(
    fn: Callable[..., Any],
    variables: CollectionFilter = True,
    rngs: CollectionFilter = True,
    concrete: bool = False,
    prevent_cse: bool = True,
    static_argnums: int | tuple[int, ...] = (),
    policy: Callable[..., bool] | None = None,
) -> Callable[..., Any]:
    """Return a function of a scope that computes again for its gradient what it does not keep.

    Args:
      fn: called as ``fn(scope, *args)``.
      variables: the collections that are seen inside.
      rngs: the random streams that are seen inside.
      concrete: only False, as in ``jax.checkpoint``.
      prevent_cse: whether the compiler is kept from undoing it.
      static_argnums: arguments that are no arrays, counted after the scope.
      policy: what is kept, as for ``jax.checkpoint``.
    """
    return _core_remat(fn, variables, rngs, concrete, prevent_cse, static_argnums, policy)


def _after_first(static_argnums: int | tuple[int, ...]) -> tuple[int, ...]:
    """Return the numbers of arguments with the module counted as 0; negative ones count from the end."""
    numbers = (static_argnums,) if isinstance(static_argnums, int) else tuple(static_argnums)
    return tuple(number + 1 if number >= 0 else number for number in numbers)


def _module(module: Module | None, function: str) -> Any:
    held = current_module() if module is None else module
    if held is None:
        raise CallUnboundModuleError(path="No module", call=f"{function}(...)")
    return held


def _note(module: Any, collection: str, name: str, axes: Any) -> None:
    """Keep names beside a variable; those that are there already stay as they are."""
    module.sow(collection, f"{name}_axes", AxisMetadata(axes), reduce_fn=_same_names, init_fn=lambda: None)


def _same_names(held: AxisMetadata | None, new: AxisMetadata) -> AxisMetadata:
    return new if held is None or held.names != new.names else held


def _constrained(value: Any, axes: Any, fallback: RulesFallback) -> Any:
    if axes is None:
        return value
    return with_sharding_constraint(value, PartitionSpec(*axes), fallback=fallback)


def _spec(names: Any) -> Any:
    return PartitionSpec(*cast("tuple[Any, ...]", names)) if isinstance(names, tuple | list) else names


def _with_names(target: Target, axes: Mapping[Any, Any], axis_names: Mapping[Any, str], methods: Any) -> Target:
    """Return a transformed module whose names have those of the axes in them.

    Args:
      target: the module, whose collections of names have no such axis.
      axes: for each collection the axis that the transform stacks along.
      axis_names: for each collection the logical name of that axis.
      methods: the methods of a class.
    """
    for collection, axis in axes.items():
        number = cast("int | None", getattr(axis, "axis", axis))  # what `ScanIn` and `ScanOut` hold
        if number is not None:
            name = axis_names[collection]
            target = map_variables(
                target,
                f"{collection}_axes",
                _changing(_removed, number, name),
                _changing(_inserted, number, name),
                mutable=True,
                methods=methods,
            )
    return target


def _changing(change: Callable[..., Any], axis: int, name: str) -> Callable[[Any], Any]:
    """Return a function that changes all names of a tree."""

    def changed(tree: Any) -> Any:
        return jax.tree.map(each, tree, is_leaf=lambda node: isinstance(node, AxisMetadata))

    def each(metadata: AxisMetadata) -> AxisMetadata:
        return AxisMetadata(change(metadata.names, axis, name))

    return changed


def _inserted(names: Any, axis: int, name: str) -> tuple[Any, ...]:
    place = axis if axis >= 0 else len(names) + 1 + axis
    return (*names[:place], name, *names[place:])


def _removed(names: Any, axis: int, name: str) -> tuple[Any, ...]:
    place = axis if axis >= 0 else len(names) + axis
    if not 0 <= place < len(names) or names[place] != name:
        raise PartitionNameMismatchError(index=axis, wanted=name, names=names, name="axis_name")
    return (*names[:place], *names[place + 1 :])
