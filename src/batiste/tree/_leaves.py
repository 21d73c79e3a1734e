"""What one leaf is: its shape, dtype and bytes, whatever kind of array it is.

Leaves may be JAX arrays (tracers and typed random keys too), NumPy arrays, lazy arrays, abstract arrays
(``jax.ShapeDtypeStruct``) and Python numbers. This file alone tells them apart; what is computed with them is decided
by its neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from batiste.errors import NotAnArrayError

__all__ = [
    "check_arrays",
    "dtype_of",
    "is_array",
    "is_key",
    "is_floating",
    "leaf_text",
    "nbytes_of",
    "shape_of",
]


def is_array(leaf: Any) -> bool:
    """Return whether the leaf has a shape and a dtype, or is a number."""
    return (hasattr(leaf, "shape") and hasattr(leaf, "dtype")) or isinstance(leaf, bool | int | float | complex)


def check_arrays(leaves: Mapping[str, Any], function: str) -> None:
    """Raise for all leaves that are not arrays.

    Raises:
      NotAnArrayError: if there is one; the error lists all.
    """
    others = [f"  {path}: {type(leaf).__name__}" for path, leaf in leaves.items() if not is_array(leaf)]
    if others:
        raise NotAnArrayError(function=function, count=len(others), lines="\n".join(others))


def shape_of(leaf: Any) -> tuple[int, ...]:
    """Return the extent of each axis; numbers have none."""
    return tuple(leaf.shape) if hasattr(leaf, "shape") else ()


def dtype_of(leaf: Any) -> Any:
    """Return the dtype: NumPy's, or JAX's extended one for a typed random key."""
    return leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype


def is_key(leaf: Any) -> bool:
    """Return whether the leaf holds typed random keys."""
    return bool(jnp.issubdtype(dtype_of(leaf), jax.dtypes.prng_key))


def is_floating(leaf: Any) -> bool:
    """Return whether the leaf holds real or complex floating numbers."""
    return bool(jnp.issubdtype(dtype_of(leaf), jnp.inexact))


def nbytes_of(leaf: Any) -> int:
    """Return the number of bytes of the values."""
    return math.prod(shape_of(leaf)) * dtype_of(leaf).itemsize


def leaf_text(leaf: Any) -> str:
    """Return ``float32[4, 8]``, or the name of the type for what is not an array."""
    if not is_array(leaf):
        return type(leaf).__name__
    dtype = dtype_of(leaf)
    return f"{getattr(dtype, 'name', str(dtype))}{list(shape_of(leaf))}"
