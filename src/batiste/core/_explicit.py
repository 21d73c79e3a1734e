"""How values lie along the Explicit axes of a mesh, where that is a part of their type.

What goes round a loop has one type at its begin and at its end, so a result is brought to lie as what it replaces.
Without such axes in context all of this returns what it is given.
"""

from __future__ import annotations

from typing import Any, TypeVar

import jax
from jax.sharding import PartitionSpec

__all__ = ["lies_as", "lies_whole"]

T = TypeVar("T")


def lies_as(tree: T, other: Any) -> T:
    """Return arrays that lie as those of another tree do, if the two have one structure; else as they are.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from batiste import core
      >>> explicit = (jax.sharding.AxisType.Explicit,)
      >>> with jax.set_mesh(jax.make_mesh((1,), ("data",), axis_types=explicit)):
      ...     cut = jax.sharding.reshard(jnp.ones(4), jax.P("data"))
      ...     print(*jax.typeof(core.lies_as(jnp.ones(4), cut)).sharding.spec)
      data
    """
    if not jax.sharding.get_abstract_mesh().explicit_axes or jax.tree.structure(tree) != jax.tree.structure(other):
        return tree

    def placed(leaf: Any, wanted: Any) -> Any:
        spec = jax.typeof(wanted).sharding.spec
        same = jax.numpy.ndim(leaf) == jax.numpy.ndim(wanted)
        return leaf if not same or jax.typeof(leaf).sharding.spec == spec else jax.sharding.reshard(leaf, spec)

    return jax.tree.map(placed, tree, other)


def lies_whole(array: T) -> T:
    """Return an array that no Explicit axis cuts.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from batiste import core
      >>> explicit = (jax.sharding.AxisType.Explicit,)
      >>> with jax.set_mesh(jax.make_mesh((1,), ("data",), axis_types=explicit)):
      ...     cut = jax.sharding.reshard(jnp.ones(4), jax.P("data"))
      ...     print(*jax.typeof(core.lies_whole(cut)).sharding.spec)
      None
    """
    if not jax.sharding.get_abstract_mesh().explicit_axes:
        return array
    given: Any = array
    return jax.sharding.reshard(given, PartitionSpec())
