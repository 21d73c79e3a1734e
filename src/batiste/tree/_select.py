"""Parts of a tree by pattern, and trees put together.

``select`` and ``exclude`` take a tree apart by its paths, ``partition`` into several named groups of which each leaf is
in exactly one, and ``merge`` puts disjoint trees together again: ``merge(*partition(tree, groups).values())`` has the
leaves of ``tree`` at the same paths.

A part of a dict is a dict of the same type. A part of a tuple, a named tuple or a dataclass cannot be one, and becomes
a dict with the same names, so that paths stay what they are; merged again with ``like=`` the tree it came from, it is a
tuple again. Leaves are moved, never looked into: lazy arrays stay unread, and abstract ones are as good as any.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from batiste._arguments import choice, mapping
from batiste.errors import MergeConflictError, UnmatchedPathsError
from batiste.tree._containers import rebuild, walk
from batiste.tree._names import Parts, join_path
from batiste.tree._paths import flatten
from batiste.tree._patterns import Pattern, Patterns, Unmatched, as_patterns, check_matched

__all__ = ["exclude", "merge", "partition", "paths", "select"]


def paths(tree: Any, patterns: Patterns | None = None) -> list[str]:
    """Return the path of every leaf, or of those that match one of the patterns, in JAX's order.

    Which paths match is a question here, so that none is an answer; ``select`` makes an error of it.

    Raises:
      ArgumentError: if a pattern is none.

    Example:
      >>> from batiste import tree
      >>> params = {"up": {"kernel": 1, "bias": 2}}
      >>> tree.paths(params), tree.paths(params, "**/bias")
      (['up/bias', 'up/kernel'], ['up/bias'])
    """
    known = list(flatten(tree))
    if patterns is None:
        return known
    compiled = as_patterns(patterns)
    return [path for path in known if _any_match(compiled, path)]


def select(tree: Any, patterns: Patterns, *, unmatched: Unmatched = "error") -> Any:
    """Return the part of the tree whose paths match one of the patterns.

    Args:
      tree: any pytree.
      patterns: one pattern or several.
      unmatched: whether a pattern that matches nothing is an error.

    Raises:
      UnmatchedPatternError: if a pattern matches no path; the error names the nearest ones.

    Example:
      >>> from batiste import tree
      >>> tree.select({"up": {"kernel": 1, "bias": 2}}, "**/bias")
      {'up': {'bias': 2}}
    """
    return _filtered(tree, patterns, unmatched, keep=True)


def exclude(tree: Any, patterns: Patterns, *, unmatched: Unmatched = "error") -> Any:
    """Return the part of the tree whose paths match none of the patterns.

    Args:
      tree: any pytree.
      patterns: one pattern or several.
      unmatched: whether a pattern that matches nothing is an error.

    Raises:
      UnmatchedPatternError: if a pattern matches no path; the error names the nearest ones.

    Example:
      >>> from batiste import tree
      >>> tree.exclude({"up": {"kernel": 1, "bias": 2}}, "**/bias")
      {'up': {'kernel': 1}}
    """
    return _filtered(tree, patterns, unmatched, keep=False)


def partition(tree: Any, groups: Mapping[str, Patterns], *, unmatched: Unmatched = "error") -> dict[str, Any]:
    """Return the tree in named parts; each leaf is in the first group of which a pattern matches it.

    Args:
      tree: any pytree.
      groups: the patterns of each group, in order of precedence; ``"**"`` as the last takes the rest.
      unmatched: whether a pattern that matches nothing is an error.

    Returns:
      A part for each group, in the same order; a group that got no leaf is an empty dict.

    Raises:
      ArgumentError: if ``groups`` is no mapping, or ``unmatched`` neither of the two.
      UnmatchedPatternError: if a pattern matches no path.
      UnmatchedPathsError: if a leaf belongs to no group; the error lists all such leaves.

    Example:
      >>> from batiste import tree
      >>> params = {"up": {"kernel": 1, "bias": 2}}
      >>> tree.partition(params, {"biases": "**/bias", "rest": "**"})
      {'biases': {'up': {'bias': 2}}, 'rest': {'up': {'kernel': 1}}}
    """
    mapping(groups, "groups", "partition", what="a mapping from names to patterns")
    walked = walk(tree)
    names = {join_path(parts): parts for parts in walked.leaves}
    compiled = {name: as_patterns(patterns) for name, patterns in groups.items()}
    check_matched([pattern for group in compiled.values() for pattern in group], list(names), unmatched=unmatched)
    found: dict[str, dict[Parts, Any]] = {name: {} for name in compiled}
    homeless: list[str] = []
    for path, parts in names.items():
        home = next((name for name, group in compiled.items() if _any_match(group, path)), None)
        if home is None:
            homeless.append(path)
        else:
            found[home][parts] = walked.leaves[parts]
    if homeless:
        lines = "\n".join(f"  {path}" for path in homeless)
        cure = 'Add a last group that takes the rest, as in `{..., "rest": "**"}`.'
        raise UnmatchedPathsError(count=len(homeless), lines=lines, cure=cure)
    return {name: rebuild(leaves, walked.containers) for name, leaves in found.items()}


def merge(*trees: Any, overwrite: Literal["error", "first", "last"] = "error", like: Any = None) -> Any:
    """Return one tree with the leaves of all.

    Args:
      *trees: any pytrees.
      overwrite: what happens where two trees have the same path, or where a leaf of one is a container of another: an
        error, or the first or the last of the trees wins there.
      like: a tree whose containers are taken where they fit, such as the one that the trees are parts of.

    Raises:
      ArgumentError: if ``overwrite`` is none of the three.
      MergeConflictError: if trees overlap and ``overwrite`` is ``"error"``; the error names every path.

    Example:
      >>> from batiste import tree
      >>> tree.merge({"up": {"kernel": 1}}, {"up": {"bias": 2}})
      {'up': {'kernel': 1, 'bias': 2}}
      >>> tree.merge({"a": 1}, {"a": 2}, overwrite="last")
      {'a': 2}
    """
    choice(overwrite, "overwrite", "merge", ("error", "first", "last"))
    walked = [walk(tree) for tree in trees]
    table = _Table()
    for number, part in enumerate(walked):
        for parts, leaf in part.leaves.items():
            rivals = table.rivals(parts)
            if not rivals or overwrite == "last":
                table.put(parts, leaf, number, rivals)
            elif overwrite == "error":
                table.conflicts += [(parts, number, rival, table.origins[rival]) for rival in rivals]
    if table.conflicts:
        raise MergeConflictError(count=len(table.conflicts), lines="\n".join(map(_conflict_text, table.conflicts)))
    sources = [part.containers for part in walked]
    return rebuild(table.leaves, *([walk(like).containers, *sources] if like is not None else sources))


class _Table:
    """The leaves of a merge so far, and which tree each came from."""

    def __init__(self) -> None:
        self.leaves: dict[Parts, Any] = {}
        self.origins: dict[Parts, int] = {}
        self.conflicts: list[tuple[Parts, int, Parts, int]] = []
        self.above: set[Parts] = set()

    def rivals(self, parts: Parts) -> list[Parts]:
        """The leaves that cannot stand beside a leaf at this path."""
        found = [parts[:depth] for depth in range(len(parts) + 1) if parts[:depth] in self.leaves]
        if parts in self.above:
            found += [other for other in self.leaves if len(other) > len(parts) and other[: len(parts)] == parts]
        return found

    def put(self, parts: Parts, leaf: Any, number: int, losers: list[Parts]) -> None:
        for loser in losers:
            del self.leaves[loser], self.origins[loser]
        self.leaves[parts] = leaf
        self.origins[parts] = number
        self.above.update(parts[:depth] for depth in range(len(parts)))


def _conflict_text(conflict: tuple[Parts, int, Parts, int]) -> str:
    parts, number, rival, origin = conflict
    if parts == rival:
        return f"  {join_path(parts)} (trees {origin} and {number})"
    return f"  {join_path(rival)} (tree {origin}) and {join_path(parts)} (tree {number}): one is beneath the other"


def _filtered(tree: Any, patterns: Patterns, unmatched: Unmatched, *, keep: bool) -> Any:
    walked = walk(tree)
    names = {join_path(parts): parts for parts in walked.leaves}
    compiled = as_patterns(patterns)
    check_matched(compiled, list(names), unmatched=unmatched)
    chosen = {parts: walked.leaves[parts] for path, parts in names.items() if _any_match(compiled, path) is keep}
    return rebuild(chosen, walked.containers)


def _any_match(patterns: tuple[Pattern, ...], path: str) -> bool:
    return any(pattern.matches(path) for pattern in patterns)
