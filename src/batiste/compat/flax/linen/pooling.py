"""Pooling: ``flax.linen.pooling``."""

from __future__ import annotations

from batiste.nn import (
    avg_pool,
    max_pool,
    min_pool,
    pool,
)

__all__ = [
    "avg_pool",
    "max_pool",
    "min_pool",
    "pool",
]
