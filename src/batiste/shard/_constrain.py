"""``with_logical_constraint``: a value in the middle of a model lies where its names say, or there is an error.

Which mesh? The one that is given; else the one that the program has named: by ``jax.set_mesh``, ``jax.shard_map``,
``jax.sharding.use_abstract_mesh`` or the deprecated ``with mesh:``; else the one that the array itself lies on. Where
there is none, nothing is done, so that an annotated model runs as it is on a single device; but names are checked as
soon as there are rules. Where there is a mesh, the constraint acts:

* along *Auto* axes by ``jax.lax.with_sharding_constraint``, which the compiler keeps to;
* along *Explicit* axes by ``jax.sharding.reshard``, which changes the type of the array;
* along *Manual* axes, those that ``jax.shard_map`` has taken, it cannot act, and raises.

The types of axes hold within the context that sets them. A mesh that is given, or entered by ``with mesh:``, sets no
types: all of its axes are Auto then.
"""

from __future__ import annotations

import functools
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from batiste.core import is_tracer
from batiste.errors import AbstractMeshError, AxisNamesError, AxisRankError, ManualAxisError
from batiste.shard._context import LogicalRules, as_rules, get_logical_axis_rules
from batiste.shard._logical import RulesFallback, as_names, check_fallback, is_names, resolve
from batiste.shard._mesh import AnyMesh, Placed, axes_of, check_axes, check_divisible, check_mesh, mesh_in_context
from batiste.tree import path_string

__all__ = ["with_logical_constraint"]

_CURE = "Change the size, pad the array, or give the name rules= that do not split it here."


def with_logical_constraint(
    x: Any,
    logical_axis_resources: Any,
    rules: LogicalRules | None = None,
    mesh: AnyMesh | None = None,
    fallback: RulesFallback | None = None,
) -> Any:
    """Return ``x``, lying where the logical names of its axes say.

    Args:
      x: an array or a pytree of arrays.
      logical_axis_resources: for each axis a logical name, None for one that is not split, or ``jax.P.UNCONSTRAINED``
        for one that is left to the compiler. For a pytree, a pytree of such, or its upper part. None in place of names
        leaves arrays alone.
      rules: pairs ``(logical name, mesh axes)``; by default those in effect.
      mesh: the mesh; by default the one that the program has named, or that the array lies on.
      fallback: what becomes of a name that no rule applies to. None: a name that has no rule is an error, and one whose
        rules lead to mesh axes that are taken is not split.

    Raises:
      ArgumentError: if ``mesh`` is no mesh, or the fallback is none.
      AbstractMeshError: outside of a trace, if the mesh that is named has no devices.
      AxisNamesError: if these are no names.
      AxisRankError: if there are more names than axes.
      DuplicateAxisNameError: if two axes have one name.
      IndivisibleAxisError: if the mesh does not cut an axis into equal parts.
      ManualAxisError: if a name leads to a mesh axis that ``jax.shard_map`` has taken.
      UnknownLogicalAxisError: if a name has no rule, and there are rules or a mesh.
      UnknownMeshAxisError: if a rule leads to an axis that the mesh does not have.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from batiste import nn, shard
      >>> rules, x = [("batch", "data"), ("embed", None)], jnp.ones((8, 3))
      >>> with jax.set_mesh(shard.mesh("data=-1")):
      ...     x = nn.with_logical_constraint(x, ("batch", "embed"), rules)
      >>> x.sharding.spec
      P('data',)
    """
    check_fallback(fallback, "with_logical_constraint")
    if mesh is not None:
        check_mesh(mesh, "with_logical_constraint")
    known = get_logical_axis_rules() if rules is None else as_rules(rules)
    named = mesh_in_context() if mesh is None else mesh
    if not known and named is None:
        return x
    if jax.tree_util.all_leaves([x]) and logical_axis_resources is not None:
        as_names(logical_axis_resources)  # raises

    def constrain(key_path: Any, names: Any, part: Any) -> Any:
        if names is None:
            return part
        if not is_names(names):
            raise AxisNamesError(given=repr(names), reason="it is neither names nor a container of names")

        def each(inner: Any, array: Any) -> Any:
            where = path_string((*key_path, *inner))
            return _constrained(array, tuple(names), known, named, fallback, where)

        return jax.tree_util.tree_map_with_path(each, part)

    return jax.tree_util.tree_map_with_path(constrain, logical_axis_resources, x, is_leaf=_is_names_or_none)


def _is_names_or_none(value: Any) -> bool:
    return value is None or is_names(value)


def _constrained(
    x: Any, names: tuple[Any, ...], rules: LogicalRules, named: AnyMesh | None, fallback: Any, where: str
) -> Any:
    """Return one array, lying where its names say."""
    spec = resolve(as_names(names), rules, fallback)
    if spec is None:
        return x
    shape = jnp.shape(x)
    if len(names) > len(shape):
        raise AxisRankError(names=names, count=len(names), shape=shape, where=f" at {where}" if where else "")
    own: AnyMesh = jax.typeof(x).sharding.mesh
    is_typed = AxisType.Explicit in own.axis_types
    mesh = own if named is None or (is_typed and _same_axes(named, own)) else named
    if mesh.empty:
        return x
    placed = [Placed(where, shape, spec)]
    check_axes(placed, mesh)
    types = _types(mesh)
    for entry, name in zip(spec, names, strict=True):
        for axis in axes_of(entry):
            if types[axis] is AxisType.Manual:
                raise ManualAxisError(names=names, name=name, axis=axis)
    check_divisible(placed, mesh, cure=_CURE)
    if not _has_devices(x, mesh):
        raise AbstractMeshError(names=names, mesh=dict(mesh.shape))
    return _acted(x, spec, mesh, types)


def _same_axes(mesh: AnyMesh, other: AnyMesh) -> bool:
    return mesh.axis_names == other.axis_names and mesh.axis_sizes == other.axis_sizes


def _types(mesh: AnyMesh) -> dict[str, AxisType]:
    """Return the types that the axes of a mesh have here: those in context; a mesh of devices alone sets none."""
    context = jax.sharding.get_abstract_mesh()
    if _same_axes(mesh, context):
        return dict(zip(context.axis_names, context.axis_types, strict=True))
    if isinstance(mesh, Mesh):
        return dict.fromkeys(mesh.axis_names, AxisType.Auto)
    return dict(zip(mesh.axis_names, mesh.axis_types, strict=True))


def _acted(x: Any, spec: PartitionSpec, mesh: AnyMesh, types: dict[str, AxisType]) -> Any:
    """Put the constraint on an array, along each axis of the mesh in the way of its type."""
    is_plain = set(types.values()) == {AxisType.Auto}
    if isinstance(mesh, Mesh) and is_plain:
        return cast("Any", _place)(x, None, NamedSharding(Mesh(mesh.devices, mesh.axis_names), spec))
    in_context = _same_axes(mesh, jax.sharding.get_abstract_mesh())
    parts: list[Any] = []
    for kind in (AxisType.Explicit, AxisType.Auto):
        part = _part(x, spec, types, kind)
        parts.append(None if kind not in types.values() else part if in_context else NamedSharding(mesh, part))
    return cast("Any", _place)(x, *parts)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _place(x: Any, explicit: Any, auto: Any) -> Any:
    """Put constraints by spec (of the mesh in context) or by sharding on an array.

    It is a program of its own because only in one does JAX take a mesh in context, or axes of several types at once.
    """
    if explicit is not None:
        x = jax.sharding.reshard(x, explicit)
    return x if auto is None else jax.lax.with_sharding_constraint(x, auto)


def _part(x: Any, spec: PartitionSpec, types: dict[str, AxisType], kind: AxisType) -> PartitionSpec:
    """Return the part of a spec along axes of one type; an axis of the array left open keeps its Explicit part."""
    now = tuple(jax.typeof(x).sharding.spec)

    def kept(axis: int, entry: Any) -> Any:
        if entry is PartitionSpec.UNCONSTRAINED:
            return entry if kind is AxisType.Auto else now[axis] if axis < len(now) else None
        return tuple(name for name in axes_of(entry) if types[name] is kind) or None

    return PartitionSpec(*(kept(axis, entry) for axis, entry in enumerate(spec)))


def _has_devices(x: Any, mesh: AnyMesh) -> bool:
    """Return whether it is known which devices an array would go to; in a trace that may come later."""
    if isinstance(mesh, Mesh) or is_tracer(x):
        return True
    try:
        devices = jax.sharding.get_mesh()
    except ValueError:  # in a trace
        return True
    sharding = getattr(x, "sharding", None)
    lies = isinstance(sharding, NamedSharding) and _same_axes(sharding.mesh, mesh)
    return lies or _same_axes(devices, mesh)
