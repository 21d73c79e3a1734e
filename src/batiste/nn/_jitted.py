"""The computation of a layer as one jitted function.

A layer reads its options and makes its parameters in Python; what it then computes from arrays is a function of its
own, decorated with ``jitted``. Outside of a trace that function is one call in place of one for each operation, some
ten times faster for a normalisation. Within a trace (``jax.jit``, ``jax.grad``, ``init``) its operations are put into
the program one by one, without going through ``jax.numpy`` again for every layer of the same shape.

They are put there ``inline``. Left as a function within the program they would be differentiated and lowered once for
all layers of one shape, which makes gradients some four times faster to trace; but then XLA rounds at the borders of
the functions, and gradients are added up in another order: they would no longer be Linen's bit for bit.

Options are static arguments, so they are plain values that compare by value: tuples, dtypes, frozen dataclasses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax

__all__ = ["jitted"]

P = ParamSpec("P")
R = TypeVar("R")

# In newer JAX, True means to inline when lowering, after differentiation; what it meant before has a name of its own.
_WHEN_TRACED: Any = getattr(getattr(jax, "Inline", None), "JAX_EARLY", True)


def jitted(*, arrays: int) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator that jits a function whose first ``arrays`` arguments are arrays, and the others static.

    The function is called with positional arguments only. Its type stays as it is, which ``jax.jit`` would erase.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        static = tuple(range(arrays, function.__code__.co_argcount))
        return jax.jit(function, static_argnums=static, inline=_WHEN_TRACED)

    return decorate
