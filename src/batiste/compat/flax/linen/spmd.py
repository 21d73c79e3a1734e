"""Logical names of axes, and the rules that lead from them to mesh axes: ``flax.linen.spmd``.

In Flax a name without a rule means an axis that is not split, and without any rules nothing is constrained: programs
name more axes than they have rules for. So it is here, where ``batiste.nn`` would raise. ``fallback`` makes a name
without a rule an error in ``with_logical_constraint``.
"""

from __future__ import annotations

from typing import Any

from jax.sharding import Mesh, PartitionSpec

from batiste.compat.flax._rules import AXIS_RULES, AxisRules
from batiste.compat.flax.typing import (
    Array,
    ArrayPytree,
    LogicalNames,
    LogicalPartitionSpec,
    LogicalPartitionSpecPytree,
)
from batiste.shard import (
    LogicallyPartitioned,
    LogicalRules,
    RulesFallback,
    get_logical_axis_rules,
    logical_axis_rules,
    set_logical_axis_rules,
    with_logical_partitioning,
)
from batiste.shard import logical_to_mesh as _logical_to_mesh
from batiste.shard import logical_to_mesh_axes as _logical_to_mesh_axes
from batiste.shard import logical_to_mesh_sharding as _logical_to_mesh_sharding
from batiste.shard import with_logical_constraint as _with_logical_constraint

__all__ = [
    "Array",
    "ArrayPytree",
    "LogicalNames",
    "LogicalPartitionSpec",
    "LogicalPartitionSpecPytree",
    "LogicalRules",
    "LogicallyPartitioned",
    "RulesFallback",
    "get_logical_axis_rules",
    "logical_axis_rules",
    "logical_to_mesh",
    "logical_to_mesh_axes",
    "logical_to_mesh_sharding",
    "set_logical_axis_rules",
    "with_logical_constraint",
    "with_logical_partitioning",
]

_AxisRules, _axis_rules = AxisRules, AXIS_RULES  # libraries use these
_UNSHARDED = RulesFallback.AXIS_IS_UNSHARDED


def logical_to_mesh_axes(array_dim_names: Any, rules: LogicalRules | None = None) -> PartitionSpec | None:
    """Return the partition spec of an array whose axes have logical names; a name without a rule is not split.

    Args:
      array_dim_names: for each axis a name or None; None for no names, which gives None.
      rules: pairs ``(logical name, mesh axes)``; by default those in effect.

    Raises:
      DuplicateAxisNameError: if two axes have one name.
    """
    return _logical_to_mesh_axes(array_dim_names, rules, fallback=_UNSHARDED)


def logical_to_mesh(tree: Any, rules: LogicalRules | None = None) -> Any:
    """Return a tree of partition specs in mesh axes for one in logical names.

    Args:
      tree: a pytree of ``PartitionSpec``.
      rules: as for ``logical_to_mesh_axes``.
    """
    return _logical_to_mesh(tree, rules, fallback=_UNSHARDED)


def logical_to_mesh_sharding(tree: Any, mesh: Mesh, rules: LogicalRules | None = None) -> Any:
    """Return a tree of shardings for one of partition specs in logical names.

    Args:
      tree: a pytree of ``PartitionSpec``.
      mesh: the mesh.
      rules: as for ``logical_to_mesh_axes``.
    """
    return _logical_to_mesh_sharding(tree, mesh, rules, fallback=_UNSHARDED)


def with_logical_constraint(
    x: Any,
    logical_axis_resources: Any,
    rules: LogicalRules | None = None,
    mesh: Mesh | None = None,
    fallback: RulesFallback = _UNSHARDED,
) -> Any:
    """Return ``x``, lying where the logical names of its axes say: ``batiste.nn.with_logical_constraint``.

    Args:
      x: an array or a pytree of arrays.
      logical_axis_resources: for each axis a name or None; for a pytree, a pytree of such. None leaves arrays alone.
      rules: pairs ``(logical name, mesh axes)``; by default those in effect. Where there are none, ``x`` is returned.
      mesh: the mesh; by default the one that the program has named.
      fallback: what becomes of a name that no rule applies to.
    """
    known = get_logical_axis_rules() if rules is None else rules
    if not known or logical_axis_resources is None:
        return x
    return _with_logical_constraint(x, logical_axis_resources, known, mesh, fallback)
