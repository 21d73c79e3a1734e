"""The state on a page: leaves in columns, and of those that a budget allows what is in them.

Leaves are read one by one, so that no more than one (of each side of a comparison) is in memory. The *budget* says how
many bytes are read in all; the smallest leaves come first, so that as many as possible are looked at. What is not read
is listed all the same, and the page says so.

JSON has no columns for what few leaves have: such a thing is a dict by the number of the leaf.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias, cast

import numpy as np

from batiste._arguments import refused
from batiste.errors import DamagedCheckpointError
from batiste.tree import Pattern, Patterns, compile_pattern, diff, select, unflatten
from batiste.view._statistics import histogram, spectrum, statistics

__all__ = ["DEFAULT_BUDGET", "Budget", "Leaf", "bytes_text", "columns", "compared", "budget_of", "wanted"]

Budget: TypeAlias = str | int
"""How much is read: ``"all"``, ``"none"``, or so many bytes, as a number or as ``"2GB"``."""

DEFAULT_BUDGET: Final = "256MB"
_UNITS: Final = ("B", "kB", "MB", "GB", "TB", "PB")
_MOST_VALUES: Final = 256
_NO_NUMBERS: Final = "SUOmM"


@dataclasses.dataclass(slots=True)
class Leaf:
    """One leaf.

    Attributes:
      words: what it is, in a few characters: ``float32[3,4]``.
      shape: the extent of each axis; None for what is no array.
      dtype: the name of its dtype, or of its type.
      bytes: its size.
      read: reads it, where it holds numbers; None where it does not.
      axes: the logical names of its axes, where they are known.
      sharding: how it lies, in words; "" where that is not known.
      value: a plain value, in words; "" for an array.
    """

    words: str
    shape: tuple[int, ...] | None
    dtype: str
    bytes: int
    read: Callable[[], Any] | None = None
    axes: Sequence[str | None] = ()
    sharding: str = ""
    value: str = ""


def budget_of(stats: Any, where: str) -> float:
    """Return how many bytes may be read.

    Raises:
      ArgumentError: it is neither ``"all"``, ``"none"`` nor a number of bytes.
    """
    if isinstance(stats, str):
        if stats in ("all", "none"):
            return math.inf if stats == "all" else 0.0
        found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kMGTP]?B?)\s*", stats)
        if found is not None:
            power = " kMGTP".index(found[2][0]) if found[2].rstrip("B") else 0
            return float(found[1]) * 1000.0**power
    elif isinstance(stats, int) and not isinstance(stats, bool) and stats >= 0:
        return float(stats)
    raise refused(stats, "stats", where, "'all', 'none', or a number of bytes such as '2GB'")


def wanted(patterns: Patterns, paths: Sequence[str]) -> set[str]:
    """Return the paths that match one of some patterns.

    Raises:
      PatternSyntaxError: a pattern is not well formed.
      UnmatchedPatternError: a pattern matches none of them.
    """
    given: Any = [patterns] if isinstance(patterns, str | re.Pattern | Pattern) else patterns
    if not isinstance(given, list | tuple):
        select({}, given)  # which says what patterns are
    compiled = [compile_pattern(each) for each in cast("Sequence[Any]", given)]
    if not all(any(each.matches(path) for path in paths) for each in compiled):
        select(unflatten(dict.fromkeys(paths, 0)), compiled)  # and what is near
    return {path for path in paths if any(each.matches(path) for each in compiled)}


def columns(
    leaves: Mapping[str, Leaf], budget: float, spectra: set[str], other: Mapping[str, Leaf] | None = None
) -> dict[str, Any]:
    """Return leaves as columns, with what is in those that the budget allows.

    Args:
      leaves: every leaf by its path.
      budget: how many bytes may be read.
      spectra: the paths of matrices whose singular values are wanted; they are read in any case.
      other: the leaves that these are compared with: what they have become.
    """
    paths = [*leaves, *(path for path in other or {} if path not in leaves)]
    both = [(leaves.get(path), (other or {}).get(path)) for path in paths]
    shown = [left or right for left, right in both]
    made: dict[str, Any] = {
        "path": paths,
        "shape": [None if leaf is None or leaf.shape is None else list(leaf.shape) for leaf in shown],
        "dtype": [leaf.dtype for leaf in shown if leaf is not None],
        "bytes": [leaf.bytes for leaf in shown if leaf is not None],
        "value": {}, "axes": {}, "sharding": {}, "stats": {}, "bins": {}, "spectrum": {}, "diff": {}, "damage": {},
    }  # fmt: skip
    for number, leaf in enumerate(shown):
        for name in ("value", "axes", "sharding"):
            told = getattr(leaf, name)
            if told:
                made[name][str(number)] = told if isinstance(told, str) else list(told)
    made["unread"] = 0
    order = sorted(range(len(paths)), key=lambda number: made["bytes"][number])
    left = budget
    for number in order:
        pair = both[number]
        readable = any(leaf is not None and leaf.read is not None for leaf in pair)
        cost = sum(leaf.bytes for leaf in pair if leaf is not None and leaf.read is not None)
        asked = paths[number] in spectra
        is_read = readable and (asked or cost <= left)
        left -= cost if is_read and not asked else 0
        made["unread"] += readable and not is_read
        _look(made, str(number), pair, is_read=is_read, is_compared=other is not None, with_spectrum=asked)
    return made


def _look(
    made: dict[str, Any],
    number: str,
    pair: tuple[Leaf | None, Leaf | None],
    *,
    is_read: bool,
    is_compared: bool,
    with_spectrum: bool,
) -> None:
    """Read a leaf, and put what is in it, and how it differs, into the columns."""
    arrays: list[Any] = [None, None]
    for side, leaf in enumerate(pair):
        if is_read and leaf is not None and leaf.read is not None:
            try:
                arrays[side] = leaf.read()
            except DamagedCheckpointError as error:
                made["damage"][number] = str(error.context["lines"]).strip()
    first = arrays[0] if arrays[0] is not None or pair[0] is not None else arrays[1]
    if first is not None and first.dtype.kind not in _NO_NUMBERS:
        summed = statistics(first)
        made["stats"][number] = [summed.mean, summed.spread, summed.min, summed.max, summed.nan, summed.inf]
        made["bins"][number] = histogram(first, summed)
        if with_spectrum and first.ndim > 1:
            made["spectrum"][number] = _some(spectrum(first))
    if is_compared:
        found = compared(pair, arrays)
        if found is not None:
            made["diff"][number] = found


def _some(values: Sequence[float]) -> dict[str, Any]:
    """Return at most so many of some values, evenly spaced, with their numbers from 1, and how many there are."""
    count = len(values)
    at = sorted({round(place) for place in np.linspace(0, count - 1, min(count, _MOST_VALUES))}) if count else []
    total = sum(value * value for value in values)
    held, rank = 0.0, 0
    while total and held < 0.99 * total:
        held += values[rank] * values[rank]
        rank += 1
    return {"at": [place + 1 for place in at], "values": [values[place] for place in at], "count": count, "rank": rank}


def compared(pair: tuple[Leaf | None, Leaf | None], arrays: Sequence[Any]) -> dict[str, Any] | None:
    """Return how two leaves differ, as ``batiste.tree.diff`` has it; None where nothing is known to.

    Args:
      pair: the leaves; None where there is none.
      arrays: their arrays; None where they were not read.
    """
    left, right = pair
    if left is None or right is None:
        return {"kind": "missing" if right is None else "extra", "left": left.words if left else "",
                "right": right.words if right else ""}  # fmt: skip
    if left.words != right.words:
        kind = "shape" if left.shape != right.shape else "dtype"
        return {"kind": kind, "left": left.words, "right": right.words}
    if left.value != right.value:
        return {"kind": "value", "left": left.value, "right": right.value, "relative": None}
    if left.shape is None:
        return {"kind": "equal"}
    if arrays[0] is None or arrays[1] is None:
        return None
    found = next(iter(diff(arrays[0], arrays[1])), None)
    if found is None:
        return {"kind": "equal"}
    numbers = {name: _number(getattr(found, name)) for name in ("distance", "relative", "unequal")}
    return {"kind": found.kind, "left": found.left, "right": found.right, **numbers}


def _number(value: Any) -> Any:
    """Return a number as JSON has it: of one that is not finite its name."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def bytes_text(size: float) -> str:
    """Return a number of bytes in the unit that suits it."""
    power = 0
    while size >= 999.5 and power < len(_UNITS) - 1:
        size, power = size / 1000, power + 1
    return f"{size:.3g} {_UNITS[power]}"
