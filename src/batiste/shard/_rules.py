"""Rules as data: specs that fit arrays of any rank, and tables of them that can be printed, changed and saved.

A ``Cut`` is a spec for many arrays. Its entries count from the last axis, so that a kernel ``[in, out]`` and twelve of
them stacked ``[layers, in, out]`` are cut alike; and it may leave it to the shape which axis is cut: the longest that
the mesh divides.

``Rules`` is a table from patterns to specs and cuts, with what belongs to the same decision: how a batch lies, and what
the logical names of activations stand for. It takes the place of a dict of rules wherever one is taken.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeAlias, cast

from jax.sharding import PartitionSpec

from batiste._arguments import refused, text, whole_number
from batiste.errors import PartitionRulesError

__all__ = ["Cut", "Rule", "Rules"]

_Entry: TypeAlias = str | tuple[str, ...] | None


@dataclasses.dataclass(frozen=True, init=False)
class Cut:
    """A spec for arrays of any rank.

    ``Cut(None, "tensor", largest="fsdp")`` cuts the last axis along ``tensor``, and of the other axes the longest that
    it can along ``fsdp``.

    Args:
      *entries: mesh axes for the last axes of an array; an array with fewer axes takes the last entries.
      largest: mesh axes that cut the longest axis that has no entry and that they divide; none if there is none.
      at_least: how many numbers an array has at least, for ``largest`` to cut it.

    Attributes:
      entries: the entries.
      largest: see above; None where nothing is left to the shape.
      at_least: see above.

    Example:
      >>> from batiste import shard
      >>> cut = shard.Cut(None, "tensor", largest="fsdp")
      >>> cut.spec((6, 16, 8), {"fsdp": 2, "tensor": 4})
      P(None, 'fsdp', 'tensor')
    """

    entries: tuple[_Entry, ...]
    largest: _Entry
    at_least: int

    def __init__(self, *entries: _Entry, largest: _Entry = None, at_least: int = 0) -> None:
        fixed = object.__setattr__  # of a frozen dataclass
        fixed(self, "entries", tuple(map(_entry, entries)))
        fixed(self, "largest", _entry(largest))
        fixed(self, "at_least", whole_number(at_least, "at_least", "Cut"))

    def __repr__(self) -> str:
        parts = [repr(entry) for entry in self.entries]
        parts += [f"largest={self.largest!r}"] if self.largest is not None else []
        parts += [f"at_least={self.at_least}"] if self.at_least else []
        return f"Cut({', '.join(parts)})"

    def spec(self, shape: tuple[int, ...], sizes: Mapping[str, int]) -> PartitionSpec:
        """Return the spec of an array.

        Args:
          shape: its shape.
          sizes: the size of each mesh axis; one that is not here is taken as there, with size 1.
        """
        kept = self.entries[max(0, len(self.entries) - len(shape)) :]
        found: list[_Entry] = [*(None,) * (len(shape) - len(kept)), *kept]
        if self.largest is not None and math.prod(shape) >= self.at_least:
            axes = (self.largest,) if isinstance(self.largest, str) else self.largest
            parts = math.prod(sizes.get(axis, 1) for axis in axes)
            free = [at for at, entry in enumerate(found) if entry is None and shape[at] and shape[at] % parts == 0]
            if free:
                found[max(free, key=lambda at: (shape[at], at))] = self.largest
        while found and found[-1] is None:
            found.pop()
        return PartitionSpec(*found)


Rule: TypeAlias = PartitionSpec | Cut
"""How the arrays of a rule lie."""


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Rules(Mapping[Any, Rule]):
    """A table of rules with all that a way of sharding decides.

    As a mapping it is the table. Unlike with a dict, a rule may match nothing, a leaf without a rule lies whole, and an
    axis that the mesh does not have, or does not cut into equal parts, is not cut: a table is written for many models.

    Attributes:
      table: pattern to spec or cut, in order of precedence.
      name: what it is called.
      batch: how the first axes of every array of a batch lie.
      activations: pairs of a logical name and mesh axes, for ``logical_axis_rules``.

    Example:
      >>> import jax
      >>> import numpy as np
      >>> from batiste import shard
      >>> own = shard.preset("tensor").first({"**/wide/kernel": jax.P(None, "tensor")})
      >>> sizes = jax.sharding.AbstractMesh((4,), ("tensor",))
      >>> params = {"wide": {"kernel": np.ones((2, 8)), "bias": np.ones(8)}}
      >>> shard.specs(params, own, sizes)
      {'wide': {'bias': P(), 'kernel': P(None, 'tensor')}}
    """

    table: Mapping[Any, Rule]
    name: str = "rules"
    batch: PartitionSpec = dataclasses.field(default_factory=PartitionSpec)
    activations: tuple[tuple[str, _Entry], ...] = ()

    def __post_init__(self) -> None:
        """Check the table.

        Raises:
          PartitionRulesError: if an entry is neither a spec nor a cut.
        """
        object.__setattr__(self, "table", dict(checked(self.table)))
        text(self.name, "name", "Rules")
        batch: Any = self.batch
        if not isinstance(batch, PartitionSpec):
            raise refused(batch, "batch", "Rules", "a jax.P")
        object.__setattr__(self, "activations", tuple(map(_pair, _sequence(self.activations))))

    def __getitem__(self, pattern: Any) -> Rule:
        return self.table[pattern]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.table)

    def __len__(self) -> int:
        return len(self.table)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Rules):
            return NotImplemented
        ours, theirs = list(self.table.items()), list(other.table.items())
        return (ours, self.batch, self.activations) == (theirs, other.batch, other.activations)

    def __hash__(self) -> int:
        return hash((tuple(map(str, self.table)), self.batch, self.activations))

    def __repr__(self) -> str:
        return f"Rules({self.table!r}, name={self.name!r}, batch={self.batch!r}, activations={self.activations!r})"

    def __str__(self) -> str:
        width = max(map(len, map(str, self.table)), default=0)
        lines = [f"  {pattern!s:{width}}  {rule}" for pattern, rule in self.table.items()]
        lines += [f"  batch: {self.batch}"]
        lines += [f"  {name}: {axes}" for name, axes in self.activations]
        return "\n".join([self.name, *lines])

    def first(self, table: Mapping[Any, Rule]) -> Self:
        """Return the same with more rules, which come before those that are there."""
        merged = {**checked(table), **{pattern: rule for pattern, rule in self.table.items() if pattern not in table}}
        return dataclasses.replace(self, table=merged)

    def to_json(self) -> str:
        """Return it as JSON, for ``from_json``."""
        rules = [{"pattern": str(pattern), **_as_json(rule)} for pattern, rule in self.table.items()]
        whole = {"name": self.name, "rules": rules, "batch": list(self.batch), "activations": list(self.activations)}
        return json.dumps(whole, indent=2)

    @classmethod
    def from_json(cls, source: str | Path) -> Self:
        """Return the rules that ``to_json`` has written.

        Args:
          source: the text, or the path of a file with it.

        Raises:
          PartitionRulesError: if it is no such table.
        """
        words = source.read_text() if isinstance(source, Path) else text(source, "source", "from_json")
        try:
            read: Any = json.loads(words)
            table = {each["pattern"]: _from_json(each) for each in read["rules"]}
            activations = tuple((name, axes) for name, axes in read.get("activations", ()))
            batch = PartitionSpec(*map(_entry, read.get("batch", ())))
            return cls(table, name=str(read.get("name", "rules")), batch=batch, activations=activations)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PartitionRulesError(given="the JSON", reason=f"it is no table of rules ({error})") from error


def checked(rules: Any) -> Mapping[Any, Rule]:
    """Return rules over paths.

    Raises:
      PartitionRulesError: if they are no mapping to specs and cuts.
    """
    if not isinstance(rules, Mapping):
        raise PartitionRulesError(given=repr(rules), reason="rules are a mapping from patterns to specs")
    for pattern, rule in cast("Mapping[Any, Any]", rules).items():
        if not isinstance(rule, PartitionSpec | Cut):
            raise PartitionRulesError(given=f"{pattern!r}: {rule!r}", reason=f"{rule!r} is not a jax.P")
    return cast("Mapping[Any, Rule]", rules)


def _entry(entry: Any) -> _Entry:
    if entry is None or (isinstance(entry, str) and entry):
        return entry
    axes: list[Any] = list(entry) if isinstance(entry, tuple | list) else []  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    if not axes or not all(isinstance(axis, str) and axis for axis in axes):
        raise PartitionRulesError(
            given=repr(cast("Any", entry)), reason="an entry is a mesh axis, a tuple of them, or None"
        )
    return tuple(axes)


def _as_json(rule: Rule) -> dict[str, Any]:
    if isinstance(rule, PartitionSpec):
        return {"spec": list(rule)}
    found: dict[str, Any] = {"cut": list(rule.entries)}
    found |= {} if rule.largest is None else {"largest": rule.largest}
    return found | ({"at_least": rule.at_least} if rule.at_least else {})


def _from_json(each: Mapping[str, Any]) -> Rule:
    if "spec" in each:
        return PartitionSpec(*map(_entry, each["spec"]))
    return Cut(*each["cut"], largest=each.get("largest"), at_least=each.get("at_least", 0))


def _sequence(value: Any) -> Sequence[Any]:
    if not isinstance(value, tuple | list):
        raise refused(value, "activations", "Rules", "pairs of a logical name and mesh axes")
    return cast("Sequence[Any]", value)


def _pair(value: Any) -> tuple[str, _Entry]:
    pair = _sequence(value)
    if len(pair) != 2:
        raise refused(value, "activations", "Rules", "pairs of a logical name and mesh axes")
    return text(pair[0], "activations", "Rules", what="a logical name"), _entry(pair[1])
