"""Which rule decides about each leaf, and what spec comes of it.

Rules are tried in order, and the first whose pattern matches the path of a leaf decides. In a *whole state*, which has
``params`` and an ``opt_state`` beside each other, every other leaf that belongs to a parameter lies as that parameter
does: moments, averages and accumulators, known by the end of their path and by their shape. A leaf with the shape of a
parameter without one axis (the factors of Adafactor) lies as what is left of it. Rules that begin with the name of a
field (``"opt_state/**"``) come before this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

from jax.sharding import PartitionSpec

from batiste.core import unbox
from batiste.errors import ShadowedRuleError, UnboxedLeavesError, UnmatchedPathsError
from batiste.shard._boxes import Partitioned
from batiste.shard._mesh import AnyMesh, Placed, axes_of
from batiste.shard._rules import Cut, Rule, Rules, checked
from batiste.tree import Pattern, compile_pattern, select, unflatten

__all__ = ["Decision", "Unmatched", "decisions", "is_state", "shape_of"]

Unmatched: TypeAlias = Literal["error", "ignore"]
"""What a rule is that applies to no leaf."""

_PARAMS = "params"


class Decision(NamedTuple):
    """How one leaf is to lie, and why.

    Attributes:
      path: its path.
      leaf: the leaf, or the box around it.
      spec: how it is to lie.
      why: the pattern that decided, ``"as params/..."`` for what follows a parameter, ``"default"`` or ``"box"``.
    """

    path: str
    leaf: Any
    spec: PartitionSpec
    why: str

    @property
    def placed(self) -> Placed:
        """The spec with the shape that it is for."""
        return Placed(self.path, shape_of(self.leaf), self.spec)


def is_state(tree: Any) -> bool:
    """Say whether a tree is a whole state: parameters with the state of their optimiser."""
    return hasattr(tree, _PARAMS) and hasattr(tree, "opt_state")


def shape_of(leaf: Any) -> tuple[int, ...] | None:
    """Return the shape of an array, a shape, or what is in a box; None for anything else."""
    held = unbox(leaf)
    shape: Any = () if isinstance(held, bool | int | float | complex) else getattr(held, "shape", None)
    return None if shape is None else tuple(shape)


def decisions(
    tree: Any,
    leaves: Mapping[str, Any],
    rules: Any,
    mesh: AnyMesh | None,
    default: PartitionSpec | None,
    unmatched: Unmatched,
) -> list[Decision]:
    """Return how every leaf is to lie, by rules or, where these are None, by the boxes; not yet checked."""
    if rules is None:
        return _by_box(leaves, default, follows=is_state(tree))
    table = checked(rules)
    many = isinstance(rules, Rules)
    default = PartitionSpec() if many and default is None else default
    sizes = {} if mesh is None else dict(mesh.shape)
    found = _by_path(leaves, table, default, "ignore" if many else unmatched, follows=is_state(tree))
    specs = {path: _spec(rule, shape_of(leaves[path]), sizes, many) for path, (rule, _) in found.items()}
    result: list[Decision] = []
    for path, leaf in leaves.items():
        if path in found:
            result.append(Decision(path, leaf, specs[path], found[path][1]))
            continue
        parameter = _parameter_of(path, specs)
        followed = None
        if parameter is not None:
            followed = _followed(shape_of(leaf), shape_of(leaves[parameter]), specs[parameter])
        why = "default" if followed is None else f"as {parameter}"
        result.append(Decision(path, leaf, followed or PartitionSpec(), why))
    return result


def _spec(rule: Rule, shape: tuple[int, ...] | None, sizes: Mapping[str, int], many: bool) -> PartitionSpec:
    spec = rule.spec(shape or (), sizes) if isinstance(rule, Cut) else rule
    if not many or shape is None:
        return spec
    entries: list[Any] = []
    for length, entry in zip(shape, spec, strict=False):
        axes = [axis for axis in axes_of(entry) if axis in sizes or not sizes]
        parts = 1
        for axis in axes:
            parts *= sizes.get(axis, 1)
        kept = axes if length % parts == 0 else []
        entries.append(kept[0] if len(kept) == 1 else tuple(kept) or None)
    while entries and entries[-1] is None:
        entries.pop()
    return PartitionSpec(*entries)


def _by_path(
    leaves: Mapping[str, Any],
    rules: Mapping[Any, Rule],
    default: PartitionSpec | None,
    unmatched: Unmatched,
    *,
    follows: bool,
) -> dict[str, tuple[Rule, str]]:
    """Return the rule of each leaf, and the pattern that it stands under; without those that follow a parameter."""
    compiled = [(compile_pattern(pattern), rule) for pattern, rule in rules.items()]
    if unmatched == "error":
        select(unflatten(dict.fromkeys(leaves, 0)), list(rules), unmatched=unmatched)  # raises for a useless one
    users: list[list[str]] = [[] for _ in compiled]
    found: dict[str, tuple[Rule, str]] = {}
    bare: list[str] = []
    parameters = [path for path in leaves if path.startswith(f"{_PARAMS}/")]
    known = set(parameters)
    for path in leaves:
        number = next((i for i, (pattern, _) in enumerate(compiled) if pattern.matches(path)), None)
        if number is not None:
            users[number].append(path)
        own = number is not None and _names_field(compiled[number][0], path)
        if follows and path not in known and not own and _parameter_of(path, known) is not None:
            continue
        if number is None and follows and path.partition("/")[0] in ("opt_state", "rngs", "step"):
            continue  # counters and keys
        if number is None:
            bare.append(path)
        else:
            found[path] = compiled[number][1], compiled[number][0].source
    hidden = [(i, pattern.source) for i, (pattern, _) in enumerate(compiled) if not users[i]]
    if hidden and unmatched == "error":
        lines = [_hidden_line(number, source, compiled, users) for number, source in hidden]
        raise ShadowedRuleError(lines="\n".join(lines))
    if bare and default is None:
        cure = 'Pass `default=jax.P()`, or add a last rule that takes the rest: "**": jax.P().'
        raise UnmatchedPathsError(count=len(bare), lines="\n".join(f"  {path}" for path in bare), cure=cure)
    return found | dict.fromkeys(bare, (default or PartitionSpec(), "default"))


def _names_field(pattern: Pattern, path: str) -> bool:
    """Say whether a pattern is written for the field that a path begins with."""
    return pattern.source.partition("/")[0] == path.partition("/")[0]


def _parameter_of(path: str, parameters: Any) -> str | None:
    """Return the parameter whose path, without ``params/``, the path ends with: the longest."""
    parts = path.split("/")
    for start in range(1, len(parts)):
        candidate = "/".join((_PARAMS, *parts[start:]))
        if candidate in parameters and candidate != path:
            return candidate
    return None


def _followed(
    shape: tuple[int, ...] | None, parameter: tuple[int, ...] | None, spec: PartitionSpec
) -> PartitionSpec | None:
    """Return the spec of what belongs to a parameter; None if the shapes have nothing to do with each other."""
    if shape == parameter:
        return spec
    if shape is None or parameter is None or len(shape) != len(parameter) - 1:
        return None
    entries = [*spec, *(None,) * (len(parameter) - len(spec))]
    options = {
        PartitionSpec(*entries[:at], *entries[at + 1 :])
        for at in range(len(parameter))
        if (*parameter[:at], *parameter[at + 1 :]) == shape
    }
    return options.pop() if len(options) == 1 else None


def _hidden_line(
    number: int, source: str, compiled: Sequence[tuple[Pattern, Rule]], users: Sequence[Sequence[str]]
) -> str:
    above = [
        other.source
        for i, (other, _) in enumerate(compiled[:number])
        if any(compiled[number][0].matches(path) for path in users[i])
    ]
    return f"  {source!r}, after {', '.join(map(repr, above))}"


def _by_box(leaves: Mapping[str, Any], default: PartitionSpec | None, *, follows: bool) -> list[Decision]:
    found = {path: leaf.get_mesh_spec() for path, leaf in leaves.items() if isinstance(leaf, Partitioned)}
    bare = [path for path in leaves if path not in found and (path.startswith(f"{_PARAMS}/") or not follows)]
    if bare and default is None:
        raise UnboxedLeavesError(count=len(bare), lines="\n".join(f"  {path}" for path in bare))
    whole = default or PartitionSpec()
    return [
        Decision(path, leaf, found.get(path, whole), "box" if path in found else "default")
        for path, leaf in leaves.items()
    ]
