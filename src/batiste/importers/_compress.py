"""Rules that differ only in numbers, as one rule with wildcards.

``h.0.fc -> params/h_0`` to ``h.11.fc -> params/h_11`` are ``h.*.fc -> params/h_{1}``, if that rule takes these layers
and no other; whether it does is tried, and where it does not the rules stay apart.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from batiste.importers._layouts import Layout
from batiste.importers._resolve import resolve
from batiste.importers._rules import Rule, compile_mapping

__all__ = ["compress"]

_NUMBER = re.compile(r"[0-9]+")


def compress(rules: Sequence[Rule], names: Collection[str]) -> tuple[Rule, ...]:
    """Return rules that do the same to tensors of these names, fewer where numbers are all that differs."""
    groups: dict[tuple[str, str, Layout], list[Rule]] = {}
    for rule in rules:
        key = (_NUMBER.sub("#", rule.source), _NUMBER.sub("#", rule.target or ""), rule.layout)
        groups.setdefault(key, []).append(rule)
    found: list[Rule] = []
    waiting: list[list[Rule]] = []
    for group in groups.values():
        together = _together(group)
        if together is None or _uses([*found, together], names) != _uses([*found, *group], names):
            waiting.append(group)  # perhaps behind rules that take what is not its own
        else:
            found.append(together)
    for group in waiting:
        together = _together(group)
        same = together is not None and _uses([*found, together], names) == _uses([*found, *group], names)
        found += [together] if same and together is not None else group
    return tuple(found) if _uses(found, names) == _uses(rules, names) else tuple(rules)


def _uses(rules: Sequence[Rule], names: Collection[str]) -> set[tuple[tuple[str, ...], tuple[str, ...]]]:
    return {(step.tensors, step.leaves) for step in resolve(names, compile_mapping(rules)).steps}


def _together(group: Sequence[Rule]) -> Rule | None:
    """One rule for several, where each number of a path that differs is one of the name's."""
    sources = list(zip(*(_NUMBER.findall(rule.source) for rule in group), strict=True))
    targets = list(zip(*(_NUMBER.findall(rule.target or "") for rule in group), strict=True))
    varying = [index for index, column in enumerate(sources) if len(set(column)) > 1]
    if len(group) < 2 or not varying:
        return None
    fields: dict[int, str] = {}
    for index, column in enumerate(targets):
        if len(set(column)) > 1:
            same = [number for number, place in enumerate(varying, start=1) if sources[place] == column]
            if not same:
                return None
            fields[index] = f"{{{same[0]}}}"
    first = group[0]
    source = _replaced(first.source, dict.fromkeys(varying, "*"))
    return Rule(source, _replaced(first.target or "", fields), first.layout)


def _replaced(text: str, fields: dict[int, str]) -> str:
    """The text with some of its numbers, counted from 0, replaced."""
    pieces = re.split(r"([0-9]+)", text)
    for index, field in fields.items():
        pieces[2 * index + 1] = field
    return "".join(pieces)
