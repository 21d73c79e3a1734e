"""Modules made of others: ``flax.linen.combinators``."""

from __future__ import annotations

from batiste.nn import (
    Module,
    Sequential,
    compact,
)

__all__ = [
    "Module",
    "Sequential",
    "compact",
]
