"""What one leaf is: its shape, dtype and bytes, whatever kind of array it is.

Leaves may be JAX arrays (tracers and typed random keys too), NumPy arrays, lazy arrays, abstract arrays
(``jax.ShapeDtypeStruct``) and Python numbers. This file alone tells them apart; what is computed with them is decided
by its neighbours.

JAX takes longer to load than all the rest, and work on lazy and NumPy arrays (opening a checkpoint, comparing two) can
do without it. So here, and in the files of this package that such work needs, JAX is imported by the functions that
need it; and before anyone has loaded it, no leaf is one of its arrays.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from batiste.errors import NotAnArrayError

__all__ = [
    "check_arrays",
    "dtype_of",
    "is_abstract",
    "is_array",
    "is_floating",
    "is_jax_array",
    "is_key",
    "is_traced",
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
    """Return the extent of each axis, as numbers of Python, whose products do not wrap; numbers have none."""
    shape = tuple(leaf.shape) if hasattr(leaf, "shape") else ()
    return tuple(int(cast("Any", extent)) if isinstance(extent, np.integer) else extent for extent in shape)


def dtype_of(leaf: Any) -> Any:
    """Return the dtype: NumPy's, or JAX's extended one for a typed random key."""
    return leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype


def is_key(leaf: Any) -> bool:
    """Return whether the leaf holds typed random keys."""
    dtype = dtype_of(leaf)
    if isinstance(dtype, np.dtype):
        return False
    import jax

    return bool(jax.numpy.issubdtype(dtype, jax.dtypes.prng_key))


def is_jax_array(leaf: Any) -> bool:
    """Return whether the leaf is an array of JAX, or a tracer that stands for one."""
    jax = sys.modules.get("jax")
    return jax is not None and isinstance(leaf, jax.Array)


def is_abstract(leaf: Any) -> bool:
    """Return whether the leaf has a shape and a dtype, and no values."""
    jax = sys.modules.get("jax")
    return jax is not None and isinstance(leaf, jax.ShapeDtypeStruct)


def is_traced(leaf: Any) -> bool:
    """Return whether the leaf stands for an array whose values are not known yet."""
    if not is_jax_array(leaf):
        return False
    import jax.core

    return isinstance(leaf, jax.core.Tracer)


def is_floating(leaf: Any) -> bool:
    """Return whether the leaf holds real or complex floating numbers."""
    dtype = dtype_of(leaf)
    if getattr(dtype, "kind", "V") != "V":  # V are those that NumPy does not know itself, such as bfloat16
        return dtype.kind in "fc"
    import jax.numpy as jnp

    return bool(jnp.issubdtype(dtype, jnp.inexact))


def nbytes_of(leaf: Any) -> int:
    """Return the number of bytes of the values."""
    return math.prod(shape_of(leaf)) * dtype_of(leaf).itemsize


def leaf_text(leaf: Any) -> str:
    """Return ``float32[4, 8]``, or the name of the type for what is not an array."""
    if not is_array(leaf):
        return type(leaf).__name__
    dtype = dtype_of(leaf)
    if type(leaf) is int and dtype.kind == "O":
        return "int"  # larger than any dtype
    return f"{getattr(dtype, 'name', str(dtype))}{list(shape_of(leaf))}"
