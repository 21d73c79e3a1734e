"""Where every leaf of a tree lies: by rules over paths, or by the names in its boxes.

Sharding is data. A table of rules, ``{"**/kernel": P("data", "model"), "**": P()}``, is read against the paths of a
tree and says where each leaf lies, without the model knowing. It works on plain parameters, on an optimiser state in
which they appear again, and on shapes, before any array exists. Which rule decides is in ``_decide.py``.

What a table leaves open is a mistake far more often than an intention: a leaf that no rule matches, a rule that matches
nothing or is hidden by rules above it, an axis that the mesh does not have or does not cut into equal parts. Each is an
error that lists every path, and where it can be meant there is an option that says so.

Boxes (``_boxes.py``) are the other way, in which layers name their own axes. In the results a spec or a sharding stands
in the place of a whole box, so that they fit ``jax.jit(out_shardings=...)`` and ``jax.device_put`` of the boxed tree.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, cast

import jax
from jax.sharding import NamedSharding, PartitionSpec

from batiste._arguments import choice, refused
from batiste.core import is_axis_metadata
from batiste.shard._boxes import get_partition_spec
from batiste.shard._context import LogicalRules
from batiste.shard._decide import Decision, Unmatched, decisions, shape_of
from batiste.shard._logical import RulesFallback, is_spec, logical_to_mesh
from batiste.shard._mesh import AnyMesh, Indivisible, Placed, check_mesh, check_specs
from batiste.shard._rules import Rule, Rules
from batiste.tree import path_string

__all__ = [
    "PathRules",
    "Unmatched",
    "decided_specs",
    "get_sharding",
    "logical_to_mesh_sharding",
    "shardings",
    "specs",
]

PathRules: TypeAlias = Mapping[Any, PartitionSpec] | Mapping[Any, Rule] | Rules
"""The spec, or the ``Cut``, of every leaf whose path matches a pattern, in order of precedence."""


def specs(
    tree: Any,
    rules: PathRules | None,
    mesh: AnyMesh | None = None,
    *,
    default: PartitionSpec | None = None,
    unmatched: Unmatched = "error",
    indivisible: Indivisible = "error",
) -> Any:
    """Return the tree with a ``PartitionSpec`` in place of each leaf, or of the box around it.

    Args:
      tree: any pytree of arrays or of shapes, such as ``jax.eval_shape`` returns.
      rules: pattern to spec or ``Cut``, in order of precedence; or a ``Rules`` table. A leaf in a box has the path of
        the box. None takes the names of the boxes in place of rules, logical ones by the rules for names that are in
        effect.
      mesh: the mesh that specs are checked against; None checks what can be checked without.
      default: the spec of a leaf that no rule matches, or that has no box.
      unmatched: whether a rule that no leaf has a use for is an error.
      indivisible: whether an axis that the mesh does not cut into equal parts is an error, or is not split.

    Raises:
      ArgumentError: if ``mesh`` is no mesh, ``default`` no spec, or ``unmatched`` or ``indivisible`` none of the above.
      IndivisibleAxisError: if the mesh does not cut an axis into equal parts.
      PartitionRulesError: if the rules are not a mapping from patterns to specs.
      PartitionSpecError: if a spec has more entries than its leaf has axes, or uses a mesh axis twice.
      ShadowedRuleError: if rules above one take every leaf that it matches.
      UnboxedLeavesError: if there are no rules, and a leaf has no box and no default.
      UnknownMeshAxisError: if the mesh does not have an axis.
      UnmatchedPathsError: if no rule matches a leaf and there is no default.
      UnmatchedPatternError: if a pattern matches no path.

    Example:
      >>> import jax
      >>> import numpy as np
      >>> from batiste import shard
      >>> params = {"up": {"kernel": np.ones((8, 4)), "bias": np.ones(4)}}
      >>> shard.specs(params, {"**/kernel": jax.P(None, "model"), "**": jax.P()})
      {'up': {'bias': P(), 'kernel': P(None, 'model')}}
    """
    choice(indivisible, "indivisible", "specs", ("error", "replicate"))
    if mesh is not None:
        check_mesh(mesh, "shard.specs")
    choice(unmatched, "unmatched", "specs", ("error", "ignore"))
    _check_default(default)
    found, treedef = _flatten(tree, is_axis_metadata)
    decided = decisions(tree, dict(found), rules, mesh, default, unmatched)
    return jax.tree.unflatten(treedef, check_specs([each.placed for each in decided], mesh, indivisible))


def _check_default(default: Any) -> None:
    if default is not None and not isinstance(default, PartitionSpec):
        raise refused(default, "default", "specs", "a jax.P")


def decided_specs(
    tree: Any, rules: PathRules | None, mesh: AnyMesh, *, default: PartitionSpec | None, unmatched: Unmatched
) -> list[Decision]:
    """Return how every leaf is to lie, and why, with specs that fit the mesh."""
    _check_default(default)
    found, _ = _flatten(tree, is_axis_metadata)
    decided = decisions(tree, dict(found), rules, mesh, default, unmatched)
    fitting = check_specs([each.placed for each in decided], mesh, "replicate")
    return [each._replace(spec=spec) for each, spec in zip(decided, fitting, strict=True)]


def shardings(
    tree: Any,
    rules: PathRules | None,
    mesh: AnyMesh,
    *,
    default: PartitionSpec | None = None,
    unmatched: Unmatched = "error",
    indivisible: Indivisible = "error",
) -> Any:
    """Return the tree with a ``NamedSharding`` in place of each leaf, or of the box around it.

    The arguments and errors are those of ``specs``. The result is what ``jax.device_put(tree, ...)`` and
    ``jax.jit(..., out_shardings=...)`` take.

    Example:
      >>> import jax
      >>> import numpy as np
      >>> from batiste import shard
      >>> mesh = shard.mesh("model=-1")
      >>> placed = shard.shardings({"w": np.ones((8, 4))}, {"w": jax.P("model")}, mesh)
      >>> jax.device_put({"w": np.ones((8, 4))}, placed)["w"].sharding.spec
      P('model',)
    """
    check_mesh(mesh, "shard.shardings")
    found = specs(tree, rules, mesh, default=default, unmatched=unmatched, indivisible=indivisible)

    def sharding(spec: PartitionSpec) -> NamedSharding:
        return NamedSharding(mesh, spec)

    return jax.tree.map(sharding, found)


def get_sharding(tree: Any, mesh: AnyMesh) -> Any:
    """Return the tree with a ``NamedSharding`` of the names in place of each box; the names are taken as mesh axes.

    Arrays without a box lie whole on every device; anything that is no array has None.

    Raises:
      ArgumentError: if ``mesh`` is no mesh.
      IndivisibleAxisError: if the mesh does not cut an axis into equal parts.
      PartitionSpecError: if there are more names than axes, or a mesh axis is named twice.
      UnknownMeshAxisError: if the mesh does not have an axis.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import nn, shard
      >>> box = nn.Partitioned(jnp.ones((8, 3)), names=("model", None))
      >>> nn.get_sharding({"w": box}, shard.mesh("model=-1"))["w"].spec
      P('model', None)
    """
    check_mesh(mesh, "get_sharding")
    return _placed_on(tree, mesh, get_partition_spec, is_leaf=is_axis_metadata)


def logical_to_mesh_sharding(
    tree: Any, mesh: AnyMesh, rules: LogicalRules | None = None, *, fallback: RulesFallback | None = None
) -> Any:
    """Return a tree of ``NamedSharding`` for a tree of partition specs in logical names.

    Args:
      tree: a pytree of ``PartitionSpec`` whose entries are logical names, such as ``get_partition_spec`` returns.
      mesh: the mesh.
      rules: pairs ``(logical name, mesh axes)``; by default those in effect.
      fallback: what becomes of a name that no rule applies to; see ``logical_to_mesh_axes``.

    Raises:
      UnknownLogicalAxisError: if a name has no rule.
      UnknownMeshAxisError: if a rule leads to an axis that the mesh does not have.

    Example:
      >>> import jax
      >>> from batiste import nn, shard
      >>> mesh = shard.mesh("model=-1")
      >>> specs = {"w": jax.P("embed", "mlp")}
      >>> rules = [("embed", None), ("mlp", "model")]
      >>> placed = nn.logical_to_mesh_sharding(specs, mesh, rules)
      >>> placed["w"].spec
      P(None, 'model')
    """
    check_mesh(mesh, "logical_to_mesh_sharding")

    def same(spec: PartitionSpec) -> PartitionSpec:
        return spec

    return _placed_on(logical_to_mesh(tree, rules, fallback=fallback), mesh, same, is_leaf=is_spec)


def _placed_on(
    tree: Any, mesh: AnyMesh, spec_of: Callable[[Any], PartitionSpec | None], *, is_leaf: Callable[[Any], bool]
) -> Any:
    found, treedef = _flatten(tree, is_leaf)
    wanted = [(path, leaf, spec_of(leaf)) for path, leaf in found]
    check_specs([Placed(path, shape_of(leaf), spec) for path, leaf, spec in wanted if spec is not None], mesh, "error")
    return jax.tree.unflatten(treedef, [None if spec is None else NamedSharding(mesh, spec) for _, _, spec in wanted])


def _flatten(tree: Any, is_leaf: Callable[[Any], bool]) -> tuple[list[tuple[str, Any]], Any]:
    """Return leaves with their paths, and the structure."""
    found = cast("Any", jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_leaf))
    return [(path_string(key_path), leaf) for key_path, leaf in found[0]], found[1]
