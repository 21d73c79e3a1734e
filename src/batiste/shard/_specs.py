"""Where every leaf of a tree lies: by rules over paths, or by the names in its boxes.

Sharding is data. A table of rules, ``{"**/kernel": P("data", "model"), "**": P()}``, is read against the paths of a
tree and says where each leaf lies, without the model knowing. It works on plain parameters, on an optimiser state in
which they appear again, and on shapes, before any array exists. Rules are tried in order, and the first that matches
decides.

What a table leaves open is a mistake far more often than an intention: a leaf that no rule matches, a rule that matches
nothing or is hidden by rules above it, an axis that the mesh does not have or does not cut into equal parts. Each is an
error that lists every path, and where it can be meant there is an option that says so.

Boxes (``_boxes.py``) are the other way, in which layers name their own axes. In the results a spec or a sharding stands
in the place of a whole box, so that they fit ``jax.jit(out_shardings=...)`` and ``jax.device_put`` of the boxed tree.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias, cast

import jax
from jax.sharding import NamedSharding, PartitionSpec

from batiste._arguments import choice, refused
from batiste.core import is_axis_metadata, unbox
from batiste.errors import PartitionRulesError, ShadowedRuleError, UnboxedLeavesError, UnmatchedPathsError
from batiste.shard._boxes import Partitioned, get_partition_spec
from batiste.shard._context import LogicalRules
from batiste.shard._logical import RulesFallback, is_spec, logical_to_mesh
from batiste.shard._mesh import AnyMesh, Indivisible, Placed, check_specs
from batiste.tree import compile_pattern, path_string, select, unflatten

__all__ = ["PathRules", "Unmatched", "get_sharding", "logical_to_mesh_sharding", "shardings", "specs"]

PathRules: TypeAlias = Mapping[Any, PartitionSpec]
"""The spec of every leaf whose path matches a pattern, in order of precedence."""

Unmatched: TypeAlias = Literal["error", "ignore"]
"""What a rule is that applies to no leaf."""


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
      rules: pattern to spec, in order of precedence. A leaf in a box has the path of the box. None takes the names of
        the boxes in place of rules, logical ones by the rules for names that are in effect.
      mesh: the mesh that specs are checked against; None checks what can be checked without.
      default: the spec of a leaf that no rule matches, or that has no box.
      unmatched: whether a rule that no leaf has a use for is an error.
      indivisible: whether an axis that the mesh does not cut into equal parts is an error, or is not split.

    Raises:
      ArgumentError: if ``default`` is no spec, or ``unmatched`` or ``indivisible`` none of the above.
      IndivisibleAxisError: if the mesh does not cut an axis into equal parts.
      PartitionRulesError: if the rules are not a mapping from patterns to specs.
      PartitionSpecError: if a spec has more entries than its leaf has axes, or uses a mesh axis twice.
      ShadowedRuleError: if rules above one take every leaf that it matches.
      UnboxedLeavesError: if there are no rules, and a leaf has no box and no default.
      UnknownMeshAxisError: if the mesh does not have an axis.
      UnmatchedPathsError: if no rule matches a leaf and there is no default.
      UnmatchedPatternError: if a pattern matches no path.
    """
    choice(indivisible, "indivisible", "specs", ("error", "replicate"))
    if default is not None and not isinstance(cast("Any", default), PartitionSpec):
        raise refused(default, "default", "specs", "a jax.P")
    found, treedef = _flatten(tree, is_axis_metadata)
    leaves = dict(found)
    if rules is None:
        wanted = _by_box(leaves, default)
    else:
        wanted = _by_path(list(leaves), _checked_rules(rules), default, unmatched)
    placed = [Placed(path, _shape(leaf), wanted[path]) for path, leaf in leaves.items()]
    return jax.tree.unflatten(treedef, check_specs(placed, mesh, indivisible))


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
    """
    found = specs(tree, rules, mesh, default=default, unmatched=unmatched, indivisible=indivisible)

    def sharding(spec: PartitionSpec) -> NamedSharding:
        return NamedSharding(mesh, spec)

    return jax.tree.map(sharding, found)


def get_sharding(tree: Any, mesh: AnyMesh) -> Any:
    """Return the tree with a ``NamedSharding`` of the names in place of each box; the names are taken as mesh axes.

    Arrays without a box lie whole on every device; anything that is no array has None.

    Raises:
      IndivisibleAxisError: if the mesh does not cut an axis into equal parts.
      PartitionSpecError: if there are more names than axes, or a mesh axis is named twice.
      UnknownMeshAxisError: if the mesh does not have an axis.
    """
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
    """

    def same(spec: PartitionSpec) -> PartitionSpec:
        return spec

    return _placed_on(logical_to_mesh(tree, rules, fallback=fallback), mesh, same, is_leaf=is_spec)


def _placed_on(
    tree: Any, mesh: AnyMesh, spec_of: Callable[[Any], PartitionSpec | None], *, is_leaf: Callable[[Any], bool]
) -> Any:
    found, treedef = _flatten(tree, is_leaf)
    wanted = [(path, leaf, spec_of(leaf)) for path, leaf in found]
    check_specs([Placed(path, _shape(leaf), spec) for path, leaf, spec in wanted if spec is not None], mesh, "error")
    return jax.tree.unflatten(treedef, [None if spec is None else NamedSharding(mesh, spec) for _, _, spec in wanted])


def _flatten(tree: Any, is_leaf: Callable[[Any], bool]) -> tuple[list[tuple[str, Any]], Any]:
    """Return leaves with their paths, and the structure."""
    found = cast("Any", jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_leaf))
    return [(path_string(key_path), leaf) for key_path, leaf in found[0]], found[1]


def _shape(leaf: Any) -> tuple[int, ...] | None:
    """Return the shape of an array, a shape, or what is in a box; None for anything else."""
    held = unbox(leaf)
    shape: Any = () if isinstance(held, bool | int | float | complex) else getattr(held, "shape", None)
    return None if shape is None else tuple(shape)


def _checked_rules(rules: Any) -> PathRules:
    if not isinstance(rules, Mapping):
        raise PartitionRulesError(given=repr(rules), reason="rules are a mapping from patterns to specs")
    for pattern, spec in cast("Mapping[Any, Any]", rules).items():
        if not isinstance(spec, PartitionSpec):
            raise PartitionRulesError(given=f"{pattern!r}: {spec!r}", reason=f"{spec!r} is not a jax.P")
    return cast("PathRules", rules)


def _by_path(
    paths: list[str], rules: PathRules, default: PartitionSpec | None, unmatched: Unmatched
) -> dict[str, PartitionSpec]:
    select(unflatten(dict.fromkeys(paths, 0)), list(rules), unmatched=unmatched)  # raises for one that matches nothing
    compiled = [(compile_pattern(pattern), spec) for pattern, spec in rules.items()]
    users: list[list[str]] = [[] for _ in compiled]
    found: dict[str, PartitionSpec] = {}
    for path in paths:
        number = next((i for i, (pattern, _) in enumerate(compiled) if pattern.matches(path)), None)
        if number is not None:
            found[path] = compiled[number][1]
            users[number].append(path)
    hidden = [(i, pattern.source) for i, (pattern, _) in enumerate(compiled) if not users[i]]
    if hidden and unmatched == "error":
        lines = [_hidden_line(number, source, compiled, users) for number, source in hidden]
        raise ShadowedRuleError(lines="\n".join(lines))
    bare = [path for path in paths if path not in found]
    if bare and default is None:
        cure = 'Pass `default=jax.P()`, or add a last rule that takes the rest: "**": jax.P().'
        raise UnmatchedPathsError(count=len(bare), lines="\n".join(f"  {path}" for path in bare), cure=cure)
    return found | dict.fromkeys(bare, default or PartitionSpec())


def _hidden_line(number: int, source: str, compiled: list[Any], users: list[list[str]]) -> str:
    above = [
        other.source
        for i, (other, _) in enumerate(compiled[:number])
        if any(compiled[number][0].matches(path) for path in users[i])
    ]
    return f"  {source!r}, after {', '.join(map(repr, above))}"


def _by_box(leaves: Mapping[str, Any], default: PartitionSpec | None) -> dict[str, PartitionSpec]:
    found = {path: leaf.get_mesh_spec() for path, leaf in leaves.items() if isinstance(leaf, Partitioned)}
    bare = [path for path in leaves if path not in found]
    if bare and default is None:
        raise UnboxedLeavesError(count=len(bare), lines="\n".join(f"  {path}" for path in bare))
    return found | dict.fromkeys(bare, default or PartitionSpec())
