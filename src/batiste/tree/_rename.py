"""Other names for the levels of a tree: a pattern, and a new path filled with what its wildcards matched.

``rename(tree, {"encoder/layer_*/**": "enc/h_{1}/{2}"})`` moves ``encoder/layer_3/attn/kernel`` to
``enc/h_3/attn/kernel``. Rules are tried in order and the first that matches a path decides; paths without a rule stay.
In the new path ``{1}`` is what the first wildcard matched, ``{2}`` the second, ``{0}`` the whole old path, ``{name}`` a
named group of a regular expression, ``{{`` and ``}}`` are braces. A capture of no levels leaves no empty level behind.

Containers move with their leaves: where a tuple, a named tuple or a dict with integer keys has the same children at its
new place, it is the same kind of container there.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

from batiste._arguments import mapping, text
from batiste.errors import RenameCollisionError, RenameTemplateError
from batiste.tree._containers import Containers, rebuild, walk
from batiste.tree._names import Parts, join_path, split_path
from batiste.tree._patterns import Pattern, Unmatched, check_matched, compile_pattern

__all__ = ["rename"]

_FIELD = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


def rename(tree: Any, rules: Mapping[Any, str], *, unmatched: Unmatched = "error") -> Any:
    """Return the tree with its leaves at new paths.

    Args:
      tree: any pytree.
      rules: pattern to new path, in order of precedence; ``{1}``, ``{2}``, ... stand for what the wildcards matched.
      unmatched: whether a pattern that matches nothing is an error.

    Raises:
      ArgumentError: if ``rules`` is no mapping of patterns to texts, or ``unmatched`` neither of the two.
      UnmatchedPatternError: if a pattern matches no path.
      RenameTemplateError: if a new path refers to a wildcard that its pattern does not have.
      RenameCollisionError: if several leaves would have one path, or one beneath another; the error lists all.

    Example:
      >>> from batiste import tree
      >>> layers = {"h_0": {"w": 1}, "h_1": {"w": 2}}
      >>> tree.rename(layers, {"h_*/w": "h/{1}/kernel"})
      {'h': {'0': {'kernel': 1}, '1': {'kernel': 2}}}
    """
    mapping(rules, "rules", "rename", what="a mapping from patterns to new paths")
    walked = walk(tree)
    compiled = [
        (compile_pattern(pattern), text(template, f"rules[{str(pattern)!r}]", "rename", what="a new path", empty=True))
        for pattern, template in rules.items()
    ]
    for pattern, template in compiled:
        _check_template(template, pattern)
    targets = {path: _new_path(path, compiled) for path in map(join_path, walked.leaves)}
    check_matched([pattern for pattern, _ in compiled], list(targets), unmatched=unmatched)
    _check_apart(targets)
    moves = {split_path(path): split_path(target) for path, target in targets.items()}
    leaves = {target: walked.leaves[parts] for parts, target in moves.items()}
    above = {target[:depth] for target in leaves for depth in range(len(target))}
    for parts, container in walked.bare().items():
        target = split_path(_new_path(join_path(parts), compiled))
        if target not in above and not any(target[:depth] in leaves for depth in range(len(target) + 1)):
            leaves[target] = container  # else a leaf has its place: an empty container is part of anything
            above.update(target[:depth] for depth in range(len(target)))
    containers = {
        parts: node.without(node.bare_children()) if node.is_mapping else node  # the empty ones are among the leaves
        for parts, node in walked.containers.items()
    }
    return rebuild(leaves, containers, _moved_containers(containers, moves))


def _moved_containers(containers: Containers, moves: Mapping[Parts, Parts]) -> Containers:
    """Return the containers at the paths to which their leaves moved.

    A leaf that moved from ``a/x/y`` to ``b/x/y`` has taken the containers ``a/x`` to ``b/x`` and ``a`` to ``b``.
    """
    found: Containers = {}
    for old, new in moves.items():
        shared = 0
        while shared < min(len(old), len(new)) and old[-1 - shared] == new[-1 - shared]:
            shared += 1
            source, target = old[: len(old) - shared], new[: len(new) - shared]
            if source in containers:
                found.setdefault(target, containers[source])
    return found


def _new_path(path: str, rules: list[tuple[Pattern, str]]) -> str:
    for pattern, template in rules:
        captures = pattern.captures(path)
        if captures is not None:
            filled = _FIELD.sub(functools.partial(_filled, captures), template)
            return "/".join(part for part in filled.split("/") if part)
    return path


def _filled(captures: Mapping[str, str], field: re.Match[str]) -> str:
    return field[0][0] if field[1] is None else captures[field[1]]


def _check_template(template: str, pattern: Pattern) -> None:
    known = {"0", *map(str, range(1, pattern.wildcards + 1)), *pattern.names}
    for field in _FIELD.finditer(template):
        if field[0] in ("{", "}"):
            reason = f"`{field[0]}` at {field.start()} has no partner"
        elif field[1] is not None and field[1] not in known:
            reason = f"there is no capture `{field[0]}`, the pattern has {pattern.wildcards} wildcards"
        else:
            continue
        raise RenameTemplateError(template=template, pattern=pattern.source, reason=reason)


def _check_apart(targets: Mapping[str, str]) -> None:
    """Raise if two leaves have one new path, or if one is beneath another."""
    origins: dict[str, list[str]] = {}
    for path, target in targets.items():
        origins.setdefault(target, []).append(path)
    lines = [f"  {target} <- {', '.join(paths)}" for target, paths in origins.items() if len(paths) > 1]
    for target, paths in origins.items():
        above = ["/".join(target.split("/")[:depth]) for depth in range(len(target.split("/")))]
        lines += [
            f"  {target} <- {', '.join(paths)} is beneath {other} <- {', '.join(origins[other])}"
            for other in above
            if other in origins and other != target
        ]
    if lines:
        raise RenameCollisionError(lines="\n".join(lines))
