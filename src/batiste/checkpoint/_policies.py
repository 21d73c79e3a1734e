"""What restoring may do about a difference, as data: one word for all leaves, or words by pattern.

======== ================================= =======================================================================
argument the checkpoint and the target     what may be done
======== ================================= =======================================================================
missing  the target alone has the leaf     ``error``; ``init``: keep the target's value; ``zeros``
extra    the checkpoint alone has it       ``error``; ``drop``
shape    both have it, of other shapes     ``error``; ``init``: keep the target's value; ``pad``: zeros after the end of
                                           each axis that is longer in the target; ``slice``: the beginning of each
                                           axis that is shorter in it
dtype    both have it, of other dtypes     ``error``; ``cast``, where nothing but precision is lost
======== ================================= =======================================================================

Patterns are those of ``batiste.tree``; they are tried in the order of the dict, and the first that matches counts. What
none matches is an error. A pattern that matches no leaf is one too, and so is a pattern that allows what is nowhere the
case: where it stands after one that matches all the same leaves, or where the leaves do not differ in that way.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final, TypeAlias, cast

from batiste.errors import CheckpointArgumentError, UnknownPolicyError, UnmatchedPolicyError, nearest
from batiste.tree import Pattern, compile_pattern

__all__ = ["Policies", "PolicyLike"]

PolicyLike: TypeAlias = str | Mapping[Any, str]
"""One policy for every leaf, or policies by pattern."""

_KNOWN: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "missing": ("error", "init", "zeros"),
        "extra": ("error", "drop"),
        "shape": ("error", "init", "pad", "slice"),
        "dtype": ("error", "cast"),
    }
)
_CASES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "missing": "is in the target alone",
        "extra": "is in the checkpoint alone",
        "shape": "has another shape in the target",
        "dtype": "has another dtype in the target",
    }
)
_ALL: Final = "**"


@dataclasses.dataclass(frozen=True, slots=True)
class Policies:
    """The four policies of one restore, compiled.

    Attributes:
      rules: pattern and policy in their order, by argument.
      used: the numbers of the rules that have decided something, by argument; ``choose`` adds to it.
    """

    rules: Mapping[str, tuple[tuple[Pattern, str], ...]]
    used: dict[str, set[int]] = dataclasses.field(default_factory=dict[str, set[int]])

    @classmethod
    def of(cls, **given: PolicyLike) -> Policies:
        """Compile the policies.

        Raises:
          UnknownPolicyError: if a word is not known.
          PatternSyntaxError: if a pattern is not well formed.
        """
        rules: dict[str, tuple[tuple[Pattern, str], ...]] = {}
        for argument, policy in given.items():
            table: Any = policy if isinstance(policy, Mapping) else {_ALL: policy}
            for value in table.values():
                if value not in _KNOWN[argument]:
                    known = ", ".join(map(repr, _KNOWN[argument]))
                    raise UnknownPolicyError(argument=argument, value=value, known=known)
            words = cast("Mapping[Any, str]", table)
            rules[argument] = tuple((compile_pattern(pattern), value) for pattern, value in words.items())
        return cls(rules)

    def choose(self, argument: str, path: str) -> str:
        """Return the policy for a leaf that differs in this way."""
        for number, (pattern, value) in enumerate(self.rules[argument]):
            if pattern.matches(path):
                self.used.setdefault(argument, set()).add(number)
                return value
        return "error"

    def check_without_target(self) -> None:
        """Raise where a policy allows something, though there is no target that a checkpoint could differ from.

        Raises:
          CheckpointArgumentError: if there is one.
        """
        for argument, rules in self.rules.items():
            for _, value in rules:
                if value != "error":
                    cure = "Pass the target, or leave the policy out: all that was saved is restored."
                    reason = "there is no target that the checkpoint could differ from"
                    raise CheckpointArgumentError(argument=argument, value=repr(value), reason=reason, cure=cure)

    def check_used(self, paths: Iterable[str]) -> None:
        """Raise for patterns that match none of the paths, or that have allowed nothing.

        Args:
          paths: the leaves of the checkpoint and of the target, all of which were asked for.

        Raises:
          UnmatchedPolicyError: if there are any; the error lists all.
        """
        known = list(paths)
        idle: list[str] = []
        for argument, rules in self.rules.items():
            used = self.used.get(argument, set())
            for number, (pattern, value) in enumerate(rules):
                if number in used or pattern.source == _ALL:
                    continue
                entry = f"  {argument}={{{pattern.source!r}: {value!r}}}"
                matched = [path for path in known if pattern.matches(path)]
                if not matched:
                    idle.append(f"{entry} matches no leaf.{nearest(pattern.source, known)}")
                elif value != "error":  # which forbids, and may have nothing to forbid
                    before = next((earlier for earlier, _ in rules[:number] if earlier.matches(matched[0])), None)
                    what = f"matches {matched[0]!r}, and nothing that it matches {_CASES[argument]}"
                    idle.append(f"{entry} {what}" if before is None else f"{entry} comes after {before.source!r}")
        if idle:
            raise UnmatchedPolicyError(lines="\n".join(idle))
