"""Boxes with names: a parameter, and what each of its axes is called.

``with_partitioning(init, names)`` is an initialiser whose values come in a box that names their axes: mesh axes in
``Partitioned``, logical names in ``LogicallyPartitioned``. A transform that stacks a parameter puts the name of its own
axis in (``metadata_params={PARTITION_NAME: "layers"}``). ``get_partition_spec`` reads the names of a whole tree; what a
mesh makes of them is decided in ``_specs.py``.

A box carries names and does nothing. A module that reads the parameter gets the plain array, and no sharding constraint
is put on it. Here Flax does more: its boxes constrain what is read wherever a mesh is in scope. The fields ``mesh`` and
``rules`` are kept beside the names, as in Flax. ``rules`` stand in for those in effect when names are turned into
shardings; ``mesh`` has no effect: say to ``get_sharding`` or ``batiste.shard.init`` where arrays are to lie.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Generic, Self, TypeVar, cast

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from batiste._arguments import function
from batiste.core import AxisMetadata, is_axis_metadata
from batiste.errors import AxisNamesError, PartitioningUnspecifiedError, PartitionNameMismatchError
from batiste.shard._context import LogicalRules, as_rules, get_logical_axis_rules
from batiste.shard._logical import as_names, is_open, resolve
from batiste.shard._mesh import AnyMesh, Placed, check_specs
from batiste.struct import PyTreeNode, field

__all__ = [
    "PARTITION_NAME",
    "LogicallyPartitioned",
    "Partitioned",
    "get_partition_spec",
    "with_logical_partitioning",
    "with_partitioning",
]

PARTITION_NAME = "partition_name"
"""The key of ``metadata_params`` under which a transform names the axis that it adds."""

A = TypeVar("A")
B = TypeVar("B")


class Partitioned(PyTreeNode, AxisMetadata[A]):
    """An array, and the mesh axes that its axes are split along.

    Attributes:
      value: the array.
      names: for each axis a mesh axis, several in a tuple, or None if it is not split.
      mesh: kept beside the names; it has no effect.

    Raises:
      AxisNamesError: if the names are not a sequence.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> box = nn.Partitioned(jnp.ones((2, 3)), names=(None, "model"))
      >>> box.get_partition_spec(), box.unbox().shape
      (P(None, 'model'), (2, 3))
    """

    value: A
    names: tuple[Any, ...] = field(pytree_node=False)
    mesh: Mesh | None = field(default=None, pytree_node=False)

    def __post_init__(self) -> None:
        if isinstance(self.names, str):
            raise AxisNamesError(given=repr(self.names), reason="it is one name, and a sequence of names is needed")
        if type(self.names) is not tuple:
            if not isinstance(self.names, list | PartitionSpec):
                raise AxisNamesError(given=repr(self.names), reason="it is not a sequence of names")
            object.__setattr__(self, "names", tuple(self.names))

    def unbox(self, apply_constraint: bool = True) -> A:
        """Return the array as it is; ``apply_constraint`` is accepted for Flax's signature."""
        del apply_constraint
        return self.value

    def replace_boxed(self, val: B) -> Partitioned[B]:
        """Return a box with these names around another array."""
        return self.replace(value=val)  # pyright: ignore[reportReturnType]

    def add_axis(self, index: int, params: Mapping[Any, Any]) -> Self:
        """Return the box with a name for a new axis at ``index``, counted in the names with it.

        Raises:
          PartitioningUnspecifiedError: if ``params`` has no name for it.
        """
        names = list(self.names)
        place = index if index >= 0 else max(len(names) + 1 + index, 0)
        names += [None] * (place - len(names))
        names.insert(place, self._partition_name(params, "adds"))
        return self.replace(names=tuple(names))

    def remove_axis(self, index: int, params: Mapping[Any, Any]) -> Self:
        """Return the box without the name of the axis at ``index``.

        Raises:
          PartitioningUnspecifiedError: if ``params`` has no name for it.
          PartitionNameMismatchError: if there is no such axis, or the box calls it otherwise.
        """
        wanted = self._partition_name(params, "removes")
        names = list(self.names)
        if not -len(names) <= index < len(names) or names.pop(index) != wanted:
            raise PartitionNameMismatchError(index=index, wanted=wanted, names=self.names, name=PARTITION_NAME)
        return self.replace(names=tuple(names))

    def _partition_name(self, params: Mapping[Any, Any], verb: str) -> Any:
        if PARTITION_NAME not in params:
            raise PartitioningUnspecifiedError(names=self.names, verb=verb)
        return params[PARTITION_NAME]

    def get_partition_spec(self) -> PartitionSpec:
        """Return the names as a ``PartitionSpec``.

        Raises:
          AxisNamesError: if there is something else among them.
        """
        return PartitionSpec(*_checked(self.names))

    def get_sharding(self, mesh: AnyMesh) -> NamedSharding:
        """Return where the array lies on a mesh.

        Raises:
          IndivisibleAxisError: if the mesh does not cut an axis into equal parts.
          PartitionSpecError: if there are more names than axes, or a mesh axis is named twice.
          UnknownMeshAxisError: if the mesh does not have an axis.
        """
        placed = Placed("", getattr(self.value, "shape", None), self.get_partition_spec())
        return NamedSharding(mesh, check_specs([placed], mesh, "error")[0])

    def get_mesh_spec(self) -> PartitionSpec:
        """Return the spec in mesh axes: here the names themselves."""
        return self.get_partition_spec()


class LogicallyPartitioned(Partitioned[A], Generic[A]):
    """An array, and the logical names of its axes; rules turn them into mesh axes.

    Attributes:
      value: the array.
      names: for each axis a logical name, or None if it is not split.
      mesh: kept beside the names; it has no effect.
      rules: the rules for these names, in place of those in effect.

    Raises:
      AxisNamesError: if the names are not a sequence of names.
      LogicalRulesError: if the rules are not pairs.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> box = nn.LogicallyPartitioned(jnp.ones((2, 3)), names=("embed", "mlp"))
      >>> box.names, box.unbox().shape
      (('embed', 'mlp'), (2, 3))
    """

    rules: LogicalRules | None = field(default=None, pytree_node=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rules is not None:
            object.__setattr__(self, "rules", as_rules(self.rules))

    def get_mesh_spec(self) -> PartitionSpec:
        """Return the spec in mesh axes, by the rules of the box or those in effect.

        Raises:
          UnknownLogicalAxisError: if a name has no rule.
        """
        rules = get_logical_axis_rules() if self.rules is None else self.rules
        return resolve(as_names(self.names), rules, None) or PartitionSpec()


def _checked(names: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return names of mesh axes; refuse anything that is none, neither several in a tuple, nor open."""
    for entry in names:
        several = cast("tuple[Any, ...]", entry) if isinstance(entry, tuple) else (entry,)
        if not is_open(entry) and not all(isinstance(name, str) for name in several):
            raise AxisNamesError(given=repr(names), reason=f"{entry!r} is not the name of a mesh axis")
    return names


@dataclasses.dataclass(frozen=True)
class _Boxing:
    """An initialiser whose values come in a box; equal by value, so that ``init`` compiles one program for equal ones.

    Attributes:
      init_fn: makes the value.
      box: the class of the box.
      options: its arguments after the value, by name.
    """

    init_fn: Callable[..., Any]
    box: Callable[..., Any]
    options: tuple[tuple[str, Any], ...]

    @property
    def honours_shape(self) -> bool:
        """Whether the value is known to have the shape that this is called with."""
        return getattr(self.init_fn, "honours_shape", False)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.box(self.init_fn(*args, **kwargs), **dict(self.options))


def with_partitioning(
    fn: Callable[..., Any], names: tuple[Any, ...], mesh: Mesh | None = None
) -> Callable[..., Partitioned[Any]]:
    """Return an initialiser whose values name the mesh axes that they are split along.

    Args:
      fn: the initialiser.
      names: for each axis of what it makes a mesh axis, or None if it is not split.
      mesh: kept in the box; it has no effect.

    Raises:
      ArgumentError: if ``fn`` is no function.
      AxisNamesError: if the names are not a sequence of names.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> init = nn.with_partitioning(nn.initializers.ones, (None, "model"))
      >>> layer = nn.Dense(4, kernel_init=init)
      >>> variables = layer.init(jax.random.key(0), jnp.ones((2, 3)))
      >>> variables["params"]["kernel"].names
      (None, 'model')
    """
    function(fn, "fn", "with_partitioning", what="an initialiser")
    names = _checked(Partitioned(None, names).names)
    return _Boxing(fn, Partitioned, (("names", names), ("mesh", mesh)))


def with_logical_partitioning(
    fn: Callable[..., Any],
    names: tuple[str | None, ...],
    mesh: Mesh | None = None,
    rules: LogicalRules | None = None,
) -> Callable[..., LogicallyPartitioned[Any]]:
    """Return an initialiser whose values have logical names for their axes.

    Args:
      fn: the initialiser.
      names: for each axis of what it makes a logical name, or None if it is not split.
      mesh: kept in the box; it has no effect.
      rules: pairs ``(logical name, mesh axes)`` for these names, in place of those in effect.

    Raises:
      ArgumentError: if ``fn`` is no function.
      AxisNamesError: if the names are not a sequence of names.
      LogicalRulesError: if the rules are not pairs.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> init = nn.with_logical_partitioning(nn.initializers.ones, ("embed", "mlp"))
      >>> layer = nn.Dense(4, kernel_init=init)
      >>> variables = layer.init(jax.random.key(0), jnp.ones((2, 3)))
      >>> nn.get_partition_spec(variables)["params"]["kernel"]
      P('embed', 'mlp')
    """
    function(fn, "fn", "with_logical_partitioning", what="an initialiser")
    rules = None if rules is None else as_rules(rules)
    return _Boxing(fn, LogicallyPartitioned, (("names", as_names(names)), ("mesh", mesh), ("rules", rules)))


def get_partition_spec(tree: Any) -> Any:
    """Return the tree with a ``PartitionSpec`` of the names in place of each box.

    Logical names stay logical: ``logical_to_mesh`` turns them into mesh axes. An array without a box has the empty
    spec, which says that it is whole on every device; anything that is no array has None.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> box = nn.Partitioned(jnp.ones((2, 3)), names=(None, "model"))
      >>> nn.get_partition_spec({"w": box, "b": jnp.ones(3)})
      {'b': P(), 'w': P(None, 'model')}
    """

    def spec(leaf: Any) -> PartitionSpec | None:
        if hasattr(leaf, "get_partition_spec"):
            return leaf.get_partition_spec()
        return PartitionSpec() if hasattr(leaf, "shape") else None

    return jax.tree.map(spec, tree, is_leaf=is_axis_metadata)
