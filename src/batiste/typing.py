"""The types that batiste's signatures are written with: real types, never a union with ``Any``.

``Array`` is what comes out, ``ArrayLike`` what may go in. ``Variables`` is what ``init`` returns and ``apply`` takes: a
nested dict whose first level names collections, whose middle levels name modules and whose leaves are arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import jax
import numpy as np
from jax import lax
from jax.typing import ArrayLike, DTypeLike

__all__ = [
    "Array",
    "ArrayLike",
    "Axes",
    "Collection",
    "DTypeLike",
    "DotGeneral",
    "Initializer",
    "Key",
    "KeyLike",
    "MutableVariables",
    "PrecisionLike",
    "PyTree",
    "Rngs",
    "Shape",
    "Variables",
]

Array: TypeAlias = jax.Array
"""An array that JAX made, or a tracer that stands for one."""

Key: TypeAlias = jax.Array
"""A random key: typed (``jax.random.key``) or raw (``jax.random.PRNGKey``, ``uint32[2]``)."""

KeyLike: TypeAlias = jax.Array | np.ndarray[Any, Any]
"""What may be given as a random key: a key, or its raw data as a NumPy array."""

Rngs: TypeAlias = KeyLike | Mapping[str, KeyLike]
"""Random streams by name; a single key stands for the stream ``params``."""

Shape: TypeAlias = Sequence[int]
"""The extent of each axis."""

Axes: TypeAlias = int | Sequence[int]
"""One axis or several, negative numbers counted from the end."""

PyTree: TypeAlias = Any
"""Any nest of containers that JAX knows, with arrays as leaves."""

Collection: TypeAlias = Mapping[str, Any]
"""The variables of one collection, nested by module name."""

Variables: TypeAlias = Mapping[str, Collection]
"""Collections by name: ``{"params": {...}, "batch_stats": {...}}``."""

MutableVariables: TypeAlias = dict[str, Any]
"""Variables that the caller owns and may change."""

PrecisionLike: TypeAlias = (
    str | lax.Precision | tuple[str, str] | tuple[lax.Precision, lax.Precision] | lax.DotAlgorithm | None
)
"""How exactly products are computed, as ``jax.lax.dot_general`` takes it."""

DotGeneral: TypeAlias = Callable[..., jax.Array]
"""A function with the signature of ``jax.lax.dot_general``."""


class Initializer(Protocol):
    """A function that draws an initial value, with the signature of those in ``jax.nn.initializers``.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> def halves(key, shape, dtype=jnp.float32):
      ...     return jnp.full(shape, 0.5, dtype)
      >>> layer = nn.Dense(2, kernel_init=halves)
      >>> layer.init(jax.random.key(0), jnp.ones(1))["params"]["kernel"].tolist()
      [[0.5, 0.5]]
    """

    def __call__(self, key: Key, shape: Shape, dtype: DTypeLike = ..., /) -> Array:
        """Return an array of ``shape`` and ``dtype``, drawn with ``key``."""
        ...
