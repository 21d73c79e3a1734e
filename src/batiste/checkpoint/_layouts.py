"""Layers apart and layers stacked, matched by their shapes.

A model keeps ``n`` equal layers as ``h_0`` to ``h_{n-1}``, or as one ``h`` whose leaves have a leading axis of length
n. Where the checkpoint has the one and the target the other, each leaf of the target is found in the checkpoint's
layout: as a slice of a stacked leaf, or as a stack of leaves. This happens only where the numbers and shapes fit
exactly and nothing is left over; a dtype that differs is the policy's matter.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Final, TypeAlias

from batiste.tree import join_path, split_path

__all__ = ["Layers", "find_layers"]

_NUMBERED: Final = re.compile(r"(.+)_(0|[1-9][0-9]*)")
_Shapes: TypeAlias = Mapping[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True, slots=True)
class Layers:
    """The same layers in both layouts.

    Attributes:
      stacked: the path of the stacked leaf.
      apart: the paths of the leaves apart, in order.
      from_stacked: whether the checkpoint has the stacked leaf, and the target those apart.
    """

    stacked: str
    apart: tuple[str, ...]
    from_stacked: bool


def find_layers(missing: _Shapes, extra: _Shapes) -> list[Layers]:
    """Return the layers that only the layout tells apart.

    Args:
      missing: the shapes of the leaves that only the target has, by path.
      extra: the shapes of the leaves that only the checkpoint has, by path.
    """
    found = [Layers(*pair, from_stacked=True) for pair in _pairs(apart=missing, stacked=extra)]
    return found + [Layers(*pair, from_stacked=False) for pair in _pairs(apart=extra, stacked=missing)]


def _pairs(apart: _Shapes, stacked: _Shapes) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The stacked leaves that some leaves apart make up, with those."""
    taken: set[str] = set()
    for path in apart:
        parts = split_path(path)
        for depth, part in enumerate(parts):
            numbered = _NUMBERED.fullmatch(part)
            if numbered is None or numbered[2] != "0":
                continue
            whole = join_path((*parts[:depth], numbered[1], *parts[depth + 1 :]))
            if whole not in stacked or whole in taken or not stacked[whole]:
                continue
            count = stacked[whole][0]
            layers = tuple(
                join_path((*parts[:depth], f"{numbered[1]}_{number}", *parts[depth + 1 :]))
                for number in range(min(count, len(apart) + 1))
            )
            beyond = join_path((*parts[:depth], f"{numbered[1]}_{count}", *parts[depth + 1 :]))
            if beyond not in apart and all(apart.get(layer) == stacked[whole][1:] for layer in layers):
                taken.add(whole)
                yield whole, layers
