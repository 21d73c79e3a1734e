"""Layers that draw random numbers: ``flax.linen.stochastic``."""

from __future__ import annotations

from batiste.compat.flax.typing import (
    PRNGKey,
)
from batiste.nn import (
    Dropout,
    Module,
    compact,
    merge_param,
)

__all__ = [
    "Dropout",
    "Module",
    "PRNGKey",
    "compact",
    "merge_param",
]
