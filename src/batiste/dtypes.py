"""What an array becomes: the one file that decides on dtypes.

A layer has up to three of them. ``param_dtype`` is what its parameters are kept in. ``dtype`` is what it computes in;
None means what its inputs and parameters promote to. A *reduction dtype* is what a mean or a variance is summed in, at
least float32 by default, since a sum of many half-precision numbers loses most of their digits.

Layers ask here and do not promote by themselves:

* ``canonicalize_dtype`` finds the dtype that a computation on given arrays runs in;
* ``promote_dtype`` brings the arrays there, and is the default of every layer's ``promote_dtype`` field;
* ``cast`` converts one array, and is free where nothing is to be done;
* ``reduction_dtype`` widens a dtype to at least float32;
* ``square_dtype`` widens float16 alone, in which the square of 256 is infinite;
* ``matched`` brings two arrays together inside a formula that mixes dtypes on purpose.

Promotion is that of ``jnp.result_type``: https://docs.jax.dev/en/latest/type_promotion.html. In the usual case, where
all arrays already agree, neither a conversion nor a call into JAX is made.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from batiste._arguments import dtype_name
from batiste.errors import InexactDtypeError
from batiste.typing import Array, ArrayLike, DTypeLike

__all__ = [
    "canonicalize_dtype",
    "cast",
    "is_array_class",
    "matched",
    "promote_dtype",
    "reduction_dtype",
    "square_dtype",
]

_COMMON = tuple(np.dtype(kind) for kind in (jnp.bfloat16, np.float16, np.float32))
_WIDE = tuple(np.dtype(kind) for kind in (np.float32, np.float64, np.complex64, np.complex128))
_INEXACT = frozenset((*_COMMON, *_WIDE))
_WIDE_SET = frozenset(_WIDE)
_FLOAT32 = np.dtype(np.float32)


def canonicalize_dtype(*args: ArrayLike | None, dtype: DTypeLike | None = None, inexact: bool = True) -> DTypeLike:
    """Return the dtype that a computation on ``args`` runs in.

    Args:
      *args: what takes part in the computation; None is passed over.
      dtype: the dtype that is wanted, which is then returned as it is; None infers it from ``args``.
      inexact: whether the result must be floating-point or complex; inferred integers become float32 or wider.

    Returns:
      A dtype.

    Raises:
      ArgumentError: ``dtype`` is none.
      InexactDtypeError: ``dtype`` is an integer or Boolean type, and ``inexact`` is true.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import dtypes
      >>> dtypes.canonicalize_dtype(jnp.ones(2, jnp.bfloat16), jnp.ones(2))
      dtype('float32')
      >>> dtypes.canonicalize_dtype(jnp.arange(2))
      dtype('float32')
    """
    if dtype is None:
        found = _shared(args)
        if found is None:
            found = jnp.result_type(*(jnp.asarray(arg) for arg in args if arg is not None))
        if inexact and found not in _INEXACT and not jnp.issubdtype(found, jnp.inexact):
            found = jnp.promote_types(jnp.float32, found)
        return found
    try:
        is_usual = dtype in _INEXACT
    except TypeError:  # what does not hash is no dtype
        is_usual = False
    if not is_usual:
        found = dtype_name(dtype, "dtype", "A layer")
        if inexact and not jnp.issubdtype(found, jnp.inexact):
            raise InexactDtypeError(dtype=found.name)
    return dtype


def promote_dtype(*args: Any, dtype: DTypeLike | None = None, inexact: bool = True) -> list[Any]:
    """Return ``args`` as arrays of one dtype.

    Args:
      *args: arrays or what converts to one; None stays None.
      dtype: the dtype that is wanted; None infers it from ``args``.
      inexact: whether the dtype must be floating-point or complex.

    Returns:
      As many arrays as were given.

    Raises:
      InexactDtypeError: ``dtype`` is an integer or Boolean type, and ``inexact`` is true.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import dtypes
      >>> x, y = dtypes.promote_dtype(jnp.arange(2), jnp.ones(2, jnp.bfloat16))
      >>> x.dtype == y.dtype == jnp.bfloat16
      True
    """
    target = np.dtype(canonicalize_dtype(*args, dtype=dtype, inexact=inexact))
    return [None if arg is None else cast(arg, target) for arg in args]


def cast(array: ArrayLike, dtype: DTypeLike) -> Array:
    """Return ``array`` in ``dtype``; it is returned as it is where that holds already.

    Raises:
      ArgumentError: ``dtype`` is none.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import dtypes
      >>> x = jnp.ones(2)
      >>> dtypes.cast(x, "float32") is x, dtypes.cast(x, "float16").dtype
      (True, dtype('float16'))
    """
    try:
        if isinstance(array, jax.Array) and array.dtype == dtype and not array.weak_type:
            return array
        return jnp.asarray(array, dtype)
    except (TypeError, ValueError):
        dtype_name(dtype, "dtype", "cast")
        raise


def reduction_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    """Return ``dtype`` if it has at least the digits of float32 (or is complex), else float32.

    Raises:
      ArgumentError: ``dtype`` is none.

    Example:
      >>> from batiste import dtypes
      >>> dtypes.reduction_dtype("bfloat16"), dtypes.reduction_dtype("float64")
      (dtype('float32'), dtype('float64'))
    """
    try:
        kind = np.dtype(dtype)
    except TypeError:
        kind = dtype_name(dtype, "dtype", "reduction_dtype")
    return kind if kind in _WIDE_SET else _FLOAT32


def square_dtype(dtype: DTypeLike) -> DTypeLike:
    """Return float32 for float16, and any other dtype as it is: a dtype in which squares are finite, and 1e-8 not 0.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import dtypes
      >>> dtypes.square_dtype(jnp.dtype("float16"))
      dtype('float32')
    """
    return _FLOAT32 if dtype == np.float16 else dtype


def matched(first: Array, second: Array) -> tuple[Array, Array]:
    """Return both arrays in the dtype that they promote to, under strict promotion too.

    For formulas that mix dtypes on purpose, such as a normalisation in half precision with statistics in float32.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import dtypes
      >>> x, y = dtypes.matched(jnp.ones(2, jnp.bfloat16), jnp.ones(2))
      >>> x.dtype, y.dtype
      (dtype('float32'), dtype('float32'))
    """
    if first.dtype == second.dtype:
        return first, second
    with jax.numpy_dtype_promotion("standard"):
        dtype = jnp.result_type(first, second)
    return cast(first, dtype), cast(second, dtype)


def _shared(args: tuple[ArrayLike | None, ...]) -> np.dtype[Any] | None:
    """Return the dtype that all arrays in ``args`` have, or None if they differ or some are not JAX's arrays."""
    shared: np.dtype[Any] | None = None
    for arg in args:
        if arg is None:
            continue
        if not (is_array_class(type(arg)) or isinstance(arg, jax.Array)):
            return None
        array: Any = arg
        dtype: np.dtype[Any] = array.dtype
        if shared is not None and dtype is not shared and dtype != shared:
            return None
        shared = dtype
    return shared


@functools.cache
def is_array_class(kind: type) -> bool:
    """Return whether objects of a class are JAX's arrays; asking JAX for each object takes five times longer.

    Example:
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from batiste import dtypes
      >>> dtypes.is_array_class(type(jnp.ones(2))), dtypes.is_array_class(np.ndarray)
      (True, False)
    """
    return issubclass(kind, jax.Array)
