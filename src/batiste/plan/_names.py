"""Where an equation of a traced program comes from: the path of its module, and the pass that it belongs to.

A module enters ``jax.named_scope`` with its name, so JAX keeps for each equation the names around it. Transforms put
their own words around those names (``transpose(jvp(Net))/head``), which say whether the equation belongs to the forward
pass, to the backward pass, or is computed a second time because it was not kept.
"""

from __future__ import annotations

import enum
import functools

__all__ = ["Pass", "Path", "Place", "place_of"]

Path = tuple[str, ...]
"""The names of modules from the root."""

_RECOMPUTED = "rematted_computation"
_NO_NAMES = frozenset({"", "checkpoint", _RECOMPUTED})


class Pass(enum.StrEnum):
    """Which part of a training step an equation belongs to.

    Example:
      >>> from batiste.plan import Pass
      >>> [each.name for each in Pass]
      ['FORWARD', 'BACKWARD', 'RECOMPUTED']
    """

    FORWARD = "forward"
    BACKWARD = "backward"
    RECOMPUTED = "recomputed"


Place = tuple[Path, Pass]
"""The path of a module, and the pass."""


def place_of(around: Place, names: str) -> Place:
    """Return the place of an equation with the name stack ``names``, in a body that lies at ``around``."""
    added, found = _read(names)
    path, outer = around
    if not added and found is Pass.FORWARD:
        return around
    return (*path, *added), outer if found is Pass.FORWARD else found


@functools.lru_cache(maxsize=65536)  # a program has far more equations than modules
def _read(names: str) -> tuple[Path, Pass]:
    found = Pass.FORWARD
    if "transpose(" in names:
        found = Pass.BACKWARD
    if _RECOMPUTED in names:
        found = Pass.RECOMPUTED
    parts = (part.rpartition("(")[2].rstrip(")") for part in names.split("/"))
    return tuple(part for part in parts if part not in _NO_NAMES), found
