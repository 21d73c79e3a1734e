"""The computation of a layer as one jitted function.

A layer reads its options and makes its parameters in Python; what it then computes from arrays is a function of its
own, decorated with ``jitted``. Outside of a trace that function is one call in place of one for each operation, some
ten times faster for a normalisation. Within a trace (``jax.jit``, ``jax.grad``, ``init``) its operations are put into
the program one by one, without going through ``jax.numpy`` again for every layer of the same shape.

They are put there ``inline``. Left as a function within the program they would be differentiated and lowered once for
all layers of one shape, which makes gradients some four times faster to trace; but then XLA rounds at the borders of
the functions, and gradients are added up in another order: they would no longer be Linen's bit for bit.

On a mesh with Explicit axes JAX raises where the operands leave open how a result lies: a product over an axis that is
cut, a lookup, a convolution. Such a function is computed as along Auto axes, and its result lies as the operand with
the batch does (``lead``) along the axes before its last one; gradients lie as what they are gradients of.

Options are static arguments, so they are plain values that compare by value: tuples, dtypes, frozen dataclasses.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar, cast

import jax
from jax.sharding import PartitionSpec

from batiste.core import Watch, is_replaced, watch

__all__ = ["jitted", "settled"]

P = ParamSpec("P")
R = TypeVar("R")

# In newer JAX, True means to inline when lowering, after differentiation; what it meant before has a name of its own.
_WHEN_TRACED: Any = getattr(getattr(jax, "Inline", None), "JAX_EARLY", True)


def jitted(*, arrays: int, lead: int = 0) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator that jits a function whose first ``arrays`` arguments are arrays, and the others static.

    The function is called with positional arguments only. Its type stays as it is, which ``jax.jit`` would erase.

    What is compiled is compiled once for the process. It is used while the functions of JAX that the layer names are
    those that they were; while one of them is replaced, the layer's own function runs. The look takes 1 to 2
    microseconds a call, of some 60 for an eager ``Dense``.

    Args:
      arrays: how many of its arguments are arrays.
      lead: which of them has the batch axes.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        plain: Any = function
        static = tuple(range(arrays, plain.__code__.co_argcount))
        compiled: Any = jax.jit(plain, static_argnums=static, inline=_WHEN_TRACED)

        watched: Watch | None = None

        @functools.wraps(plain)
        def call(*args: Any) -> Any:
            nonlocal watched
            if watched is None:  # at the first call, when all that it names is there
                watched = watch(plain)
            chosen = plain if is_replaced(watched) else compiled
            if not jax.sharding.get_abstract_mesh().explicit_axes:
                return chosen(*args)
            return settled(lambda *given: chosen(*given, *args[arrays:]), args[:arrays], lead)

        return cast("Callable[P, R]", call)

    return decorate


def settled(function: Callable[..., Any], arrays: Sequence[Any], lead: int = 0) -> Any:
    """Return ``function(*arrays)``, also where arrays lie on Explicit axes in a way that leaves open how results do.

    Args:
      function: a function of arrays.
      arrays: what it is called with; None stays None.
      lead: the array whose axes before the last one say how results lie.
    """
    if not jax.sharding.get_abstract_mesh().explicit_axes:
        return function(*arrays)
    try:
        return function(*arrays)
    except Exception:  # noqa: BLE001 - JAX has no public name for the error; any other is raised again below
        batch = jax.typeof(arrays[lead])

    def placed(result: Any) -> PartitionSpec:
        entries = zip(batch.shape[:-1], result.shape, tuple(batch.sharding.spec), strict=False)
        kept = itertools.takewhile(lambda each: each[0] == each[1], entries)
        return PartitionSpec(*(entry for *_, entry in kept))

    shapes = [None if each is None else jax.ShapeDtypeStruct(each.shape, each.dtype) for each in arrays]
    results = jax.eval_shape(function, *shapes)
    changed: Any = cast("Any", jax.sharding).auto_axes(function, out_sharding=jax.tree.map(placed, results))
    return changed(*arrays)
