"""Which rule takes which tensors, and to which leaves: decided by names alone, before anything is read.

The outcome is a list of *steps*, each one part of one layer: some tensors, some leaves, and the functions between.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator

from batiste.importers._layouts import Part
from batiste.importers._names import join_name
from batiste.importers._rules import Compiled, Rule

__all__ = ["Resolved", "Step", "leaf_path", "resolve"]


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """One part of one layer: these tensors become these leaves."""

    rule: Rule
    part: Part
    tensors: tuple[str, ...]
    leaves: tuple[str, ...]


@dataclasses.dataclass(slots=True)
class Resolved:
    """What the names say.

    Attributes:
      steps: in the order of the rules.
      dropped: tensors that rules drop by name, with the tensor that they are the same as or None.
      owners: the rule of every tensor that has one.
      broken: lines about layers with only some of their tensors.
      idle: rules that take nothing, with the reason.
    """

    steps: list[Step] = dataclasses.field(default_factory=list[Step])
    dropped: dict[str, str | None] = dataclasses.field(default_factory=dict[str, "str | None"])
    owners: dict[str, Rule] = dataclasses.field(default_factory=dict[str, Rule])
    broken: list[str] = dataclasses.field(default_factory=list[str])
    idle: list[str] = dataclasses.field(default_factory=list[str])


def resolve(names: Collection[str], rules: Iterable[Compiled]) -> Resolved:
    """Give every tensor to the first rule that takes it."""
    found = Resolved()
    for compiled in rules:
        taken = _drop(names, compiled, found) if compiled.target is None else _take(names, compiled, found)
        if not taken and not compiled.rule.optional:
            here = [name for name in names if compiled.pattern.captures(name) is not None]
            kind = type(compiled.rule.layout).__name__
            wanted = [tensor for part in compiled.rule.layout.parts() for tensor in part.tensors if tensor]
            why = ""
            if any(True for _ in _layers(names, compiled)) or (here and compiled.target is None):
                why = ": earlier rules take all that it matches"
            elif compiled.target is not None and wanted:
                why = f": {kind} looks for {', '.join(join_name(compiled.rule.source, name) for name in wanted[:3])}"
            found.idle.append(f"  {compiled.rule.source!r} -> {compiled.rule.target!r}{why}")
    return found


def leaf_path(base: str, leaf: str, collection: str | None) -> str:
    """Return the path of a leaf of the layer at ``base``, in its own collection where it has one."""
    if collection is not None:
        base = f"{collection}/{base.removeprefix('params/') if base != 'params' else ''}".strip("/")
    return "/".join(filter(None, (base, leaf)))


def _drop(names: Iterable[str], compiled: Compiled, found: Resolved) -> bool:
    taken = False
    for name in names:
        captures = compiled.pattern.captures(name)
        if captures is not None and name not in found.owners:
            same_as = None if compiled.same_as is None else compiled.same_as.fill(captures).replace("/", ".")
            found.dropped[name] = same_as
            found.owners[name] = compiled.rule
            taken = True
    return taken


def _layers(names: Iterable[str], compiled: Compiled) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The layers that a rule matches, with what its wildcards matched; each once."""
    suffixes = {tensor for part in compiled.rule.layout.parts() for tensor in part.tensors}
    seen: set[str] = set()
    for name in names:
        for suffix in suffixes:
            if suffix == "":
                layer = name
            elif name == suffix:
                layer = ""
            elif name.endswith(f".{suffix}"):
                layer = name[: -len(suffix) - 1]
            else:
                continue
            captures = None if layer in seen else compiled.pattern.captures(layer)
            if captures is not None:
                seen.add(layer)
                yield layer, captures


def _take(names: Collection[str], compiled: Compiled, found: Resolved) -> bool:
    taken = False
    if compiled.target is None:
        return taken
    for layer, captures in _layers(names, compiled):
        base = compiled.target.fill(captures)
        for part in compiled.rule.layout.parts():
            tensors = tuple(join_name(layer, tensor) for tensor in part.tensors)
            here = [name for name in tensors if name in names]
            free = [name for name in here if compiled.rule.tied or name not in found.owners]
            if not free:
                continue
            taken = True
            if part.refusal:
                found.broken.append(f"  {', '.join(free)}: {part.refusal}")
            elif len(free) < len(tensors):
                gone = next(name for name in tensors if name not in free)
                why = f"{gone} is taken by another rule" if gone in found.owners else f"there is no {gone}"
                found.broken.append(f"  {', '.join(free)}: {type(compiled.rule.layout).__name__} needs more: {why}")
            else:
                leaves = tuple(leaf_path(base, leaf, part.collection) for leaf in part.leaves)
                found.steps.append(Step(compiled.rule, part, tensors, leaves))
            for name in free:
                found.owners.setdefault(name, compiled.rule)
    return taken
