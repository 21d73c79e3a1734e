"""Functions under more batch axes than they know: ``flax.linen.batch_apply``."""

from __future__ import annotations

from batiste.nn import (
    BatchApply,
)

__all__ = [
    "BatchApply",
]
