"""What restoring may do about a difference, as data: one word for all leaves, or words by pattern.

======== ================================= =======================================================================
argument the checkpoint and the target     what may be done
======== ================================= =======================================================================
missing  the target alone has the leaf     ``error``; ``init``: keep the target's value; ``zeros``
extra    the checkpoint alone has it       ``error``; ``drop``
shape    both have it, of other shapes     ``error``; ``pad``: zeros after the end of each axis that is longer in the
                                           target; ``slice``: the beginning of each axis that is shorter in it
dtype    both have it, of other dtypes     ``error``; ``cast``, where nothing but precision is lost
======== ================================= =======================================================================

Patterns are those of ``batiste.tree``; they are tried in the order of the dict, and the first that matches counts. What
none matches is an error, and so is a pattern that matches no leaf at all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final, TypeAlias

from batiste.errors import UnknownPolicyError, UnmatchedPolicyError, nearest
from batiste.tree import Pattern, PatternLike, compile_pattern

__all__ = ["Policies", "PolicyLike"]

PolicyLike: TypeAlias = str | Mapping[PatternLike, str]
"""One policy for every leaf, or policies by pattern."""

_KNOWN: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "missing": ("error", "init", "zeros"),
        "extra": ("error", "drop"),
        "shape": ("error", "pad", "slice"),
        "dtype": ("error", "cast"),
    }
)


@dataclasses.dataclass(frozen=True, slots=True)
class Policies:
    """The four policies of one restore, compiled."""

    rules: Mapping[str, tuple[tuple[Pattern, str], ...]]

    @classmethod
    def of(cls, **given: PolicyLike) -> Policies:
        """Compile the policies.

        Raises:
          UnknownPolicyError: if a word is not known.
          PatternSyntaxError: if a pattern is not well formed.
        """
        rules: dict[str, tuple[tuple[Pattern, str], ...]] = {}
        for argument, policy in given.items():
            table: Mapping[PatternLike, str] = {"**": policy} if isinstance(policy, str) else policy
            for value in table.values():
                if value not in _KNOWN[argument]:
                    known = ", ".join(map(repr, _KNOWN[argument]))
                    raise UnknownPolicyError(argument=argument, value=value, known=known)
            rules[argument] = tuple((compile_pattern(pattern), value) for pattern, value in table.items())
        return cls(rules)

    def choose(self, argument: str, path: str) -> str:
        """Return the policy for a leaf."""
        return next((value for pattern, value in self.rules[argument] if pattern.matches(path)), "error")

    def check_used(self, paths: Iterable[str]) -> None:
        """Raise for patterns that match none of the paths.

        Raises:
          UnmatchedPolicyError: if there are any; the error lists all.
        """
        known = list(paths)
        idle = [
            f"  {argument}={{{pattern.source!r}: ...}}{nearest(pattern.source, known)}"
            for argument, rules in self.rules.items()
            for pattern, _ in rules
            if pattern.source != "**" and not any(map(pattern.matches, known))
        ]
        if idle:
            raise UnmatchedPolicyError(lines="\n".join(idle))
