"""Layers as one array and one by one, within a compiled program.

``jnp.stack`` of n arrays is one operation, but its gradient, and ``array[0], array[1], ...``, are n slices. XLA's CPU
backend compiles a kernel for each slice, about 10 ms, since each has another offset written into its code; kernels that
are equal it compiles once. So here the offset is an operand: scalars of which XLA cannot know the values, because they
come out of a branch on a value behind a barrier. 768 slices of 48 layers then compile in half a second in place of six.
On other platforms the offsets are constants.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from batiste.core._trace import has_tracer, is_extended

__all__ = ["stack", "unstack"]

_FEW = 4
"""As many slices are compiled as they are."""


def stack(trees: Sequence[Any]) -> Any:
    """Return trees of one structure as one, each leaf ``[len(trees), ...]``; differentiable in every way.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import core
      >>> core.stack([{"w": jnp.zeros(2)}, {"w": jnp.ones(2)}])["w"].tolist()
      [[0.0, 0.0], [1.0, 1.0]]
    """
    if len(trees) <= _FEW or not has_tracer(trees):
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
    numbers = _numbers(len(trees))

    def join(*leaves: Any) -> Any:
        if any(not jnp.issubdtype(jnp.result_type(leaf), np.inexact) for leaf in leaves):
            return jnp.stack(leaves)
        return _stack(numbers, *leaves)

    return jax.tree.map(join, *trees)


def unstack(tree: Any, count: int) -> list[Any]:
    """Return the ``count`` entries of the leading axis of every leaf, as trees.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import core
      >>> stacked = {"w": jnp.arange(4).reshape(2, 2)}
      >>> [tree["w"].tolist() for tree in core.unstack(stacked, 2)]
      [[0, 1], [2, 3]]
    """
    leaves: list[Any] = jax.tree.leaves(tree)
    treedef = cast("Any", jax.tree.structure(tree))
    if count <= _FEW or not has_tracer(leaves):
        columns = [jnp.unstack(leaf) for leaf in leaves]
    else:
        numbers = _numbers(count)
        columns = [_apart(numbers, leaf) for leaf in leaves]
    return [jax.tree.unflatten(treedef, [column[index] for column in columns]) for index in range(count)]


def _apart(numbers: tuple[Any, ...], leaf: Any) -> Sequence[Any]:
    if is_extended(leaf.dtype):
        return jnp.unstack(leaf)
    return [lax.dynamic_index_in_dim(leaf, number, 0, keepdims=False) for number in numbers]


def _numbers(count: int) -> tuple[Any, ...]:
    """Return 0 to ``count - 1`` as arrays, of which the compiler of the CPU does not know the values."""

    def known() -> tuple[Any, ...]:
        return tuple(jnp.int32(number) for number in range(count))

    def reversed_() -> tuple[Any, ...]:
        return tuple(jnp.int32(count - 1 - number) for number in range(count))  # never taken, and not the same

    def hidden() -> tuple[Any, ...]:
        branch = cast("Any", lax.cond)
        return branch(lax.optimization_barrier(True), known, reversed_)

    choose = cast("Any", lax.platform_dependent)
    return choose(cpu=hidden, default=known)


@jax.custom_jvp
def _stack(numbers: tuple[Any, ...], *leaves: Any) -> Any:
    del numbers  # of use for the derivative alone
    return jnp.stack(leaves)


@_stack.defjvp
def _stack_jvp(primals: Any, tangents: Any) -> tuple[Any, Any]:
    numbers, *leaves = primals
    place: Any = _place
    return _stack(numbers, *leaves), place(numbers, tangents[1:])


@jax.jit
def _place(numbers: tuple[Any, ...], leaves: Sequence[Any]) -> jax.Array:
    """Return the leaves stacked, as a sum: each term is transposed to one slice with an offset that is an operand."""
    empty = jnp.zeros((len(leaves), *leaves[0].shape), leaves[0].dtype)
    update: Any = lax.dynamic_update_index_in_dim
    terms = [update(empty, leaf, number, 0) for number, leaf in zip(numbers, leaves, strict=True)]
    return functools.reduce(jnp.add, terms)
