"""What arrays are promoted to: ``flax.linen.dtypes``."""

from __future__ import annotations

from batiste.compat.flax.typing import (
    Dtype,
)
from batiste.dtypes import (
    canonicalize_dtype,
    promote_dtype,
)

__all__ = [
    "Dtype",
    "canonicalize_dtype",
    "promote_dtype",
]
