"""Sums of trees, leaf by leaf: averages, ways between two trees, task vectors.

Everything here is one weighted sum. Floating leaves are summed in float32 at least and take the dtype of the first tree
again. Leaves that are not floating (step counters, random keys, masks) have no sum, and are those of the first tree.
A tree with a weight of exactly zero is not looked into. Lazy leaves give lazy sums, which read only the box that they
are asked for; abstract leaves give abstract ones.

Sources: stochastic weight averaging (Izmailov et al. 2018, https://arxiv.org/abs/1803.05407), model soups (Wortsman et
al. 2022, https://arxiv.org/abs/2203.05482), task vectors (Ilharco et al. 2022, https://arxiv.org/abs/2212.04089).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from batiste.errors import TreeMismatchError, TreeValueError
from batiste.tree._containers import take_apart
from batiste.tree._lazy import LazyArray, combine_lazy
from batiste.tree._leaves import check_arrays, dtype_of, is_floating, leaf_text, shape_of
from batiste.tree._paths import flatten
from batiste.typing import ArrayLike

__all__ = ["add_scaled", "average", "interpolate"]

_SHORT = 4


def average(trees: Sequence[Any], *, weights: Sequence[float] | None = None) -> Any:
    """Return the weighted mean of several trees.

    Args:
      trees: at least one, with the same paths and shapes.
      weights: one number a tree; only their proportions count. Equal where not given.

    Raises:
      TreeMismatchError: if trees differ in paths or shapes; the error lists every leaf.
      TreeValueError: if there is no tree, or the weights do not fit.
    """
    if not trees:
        raise TreeValueError(argument="trees", value="empty", reason="there is nothing to average", cure="Give a tree.")
    parts = [1.0] * len(trees) if weights is None else [float(weight) for weight in weights]
    total = sum(parts)
    if len(parts) != len(trees) or total == 0 or not math.isfinite(total):
        raise TreeValueError(
            argument="weights",
            value=repr(parts),
            reason=f"there are {len(trees)} trees, and the weights must have a finite sum other than zero",
            cure="Give one number a tree.",
        )
    return _weighted_sum(trees, [part / total for part in parts])


def interpolate(first: Any, second: Any, weight: float | ArrayLike) -> Any:
    """Return ``(1 - weight) * first + weight * second``: ``first`` at 0, ``second`` at 1.

    Args:
      first: a tree; the result has its dtypes, and its leaves that are not floating.
      second: a tree with the same paths and shapes.
      weight: a scalar, a traced one too; outside of 0 to 1 it extrapolates.

    Raises:
      TreeMismatchError: if the trees differ in paths or shapes; the error lists every leaf.
    """
    return _weighted_sum([first, second], [1 - weight, weight])


def add_scaled(tree: Any, other: Any, scale: float | ArrayLike) -> Any:
    """Return ``tree + scale * other``.

    With ``add_scaled(tuned, base, -1.0)`` as a task vector, ``add_scaled(base, vector, 0.5)`` goes half the way again.

    Args:
      tree: a tree; the result has its dtypes, and its leaves that are not floating.
      other: a tree with the same paths and shapes.
      scale: a scalar, a traced one too.

    Raises:
      TreeMismatchError: if the trees differ in paths or shapes; the error lists every leaf.
    """
    return _weighted_sum([tree, other], [1.0, scale])


def _weighted_sum(trees: Sequence[Any], weights: Sequence[Any]) -> Any:
    flat = [flatten(tree) for tree in trees]
    for leaves in flat:
        check_arrays(leaves, "a sum of trees")
    for number, leaves in enumerate(flat[1:], start=1):
        _check_equal(flat[0], leaves, number)
    sums = [_sum([leaves[path] for leaves in flat], weights) for path in flat[0]]
    return take_apart(trees[0])[1](sums)


def _check_equal(first: dict[str, Any], other: dict[str, Any], number: int) -> None:
    lines = [f"  {path}: missing in tree {number}" for path in first if path not in other]
    lines += [f"  {path}: only in tree {number}" for path in other if path not in first]
    lines += [
        f"  {path}: {leaf_text(leaf)} and {leaf_text(other[path])}"
        for path, leaf in first.items()
        if path in other and shape_of(leaf) != shape_of(other[path])
    ]
    if lines:
        raise TreeMismatchError(number=number, lines="\n".join(lines))


def _sum(leaves: list[Any], weights: Sequence[Any]) -> Any:
    """The weighted sum of leaves of one shape, in the first one's dtype."""
    first = leaves[0]
    if not is_floating(first):
        return first
    shape, dtype = shape_of(first), dtype_of(first)
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves):
        return jax.ShapeDtypeStruct(shape, dtype)
    pairs = [(leaf, weight) for leaf, weight in zip(leaves, weights, strict=True) if not _is_zero(weight)]
    if not pairs:
        pairs = [(first, 0.0)]
    wide = np.result_type(*(_wide(dtype_of(leaf)) for leaf, _ in pairs), _wide(dtype))
    terms, factors = [leaf for leaf, _ in pairs], [weight for _, weight in pairs]
    if any(isinstance(leaf, LazyArray) for leaf in terms):
        numbers = [np.asarray(factor).astype(wide) for factor in factors]
        return combine_lazy(lambda arrays: _added(arrays, numbers, wide).astype(dtype), terms, shape, dtype)
    if not any(isinstance(value, jax.Array) for value in (*terms, *factors)):
        return _added([np.asarray(leaf) for leaf in terms], factors, wide).astype(dtype)
    wide, dtype = jax.dtypes.canonicalize_dtype(wide), jax.dtypes.canonicalize_dtype(dtype)
    scalars = [factor if isinstance(factor, int | float) else jnp.asarray(factor, wide) for factor in factors]
    return _added([jnp.asarray(leaf) for leaf in terms], scalars, wide).astype(dtype)


def _added(arrays: Sequence[Any], weights: Sequence[Any], dtype: np.dtype[Any]) -> Any:
    total = arrays[0].astype(dtype) * weights[0]
    for array, weight in zip(arrays[1:], weights[1:], strict=True):
        total = total + array.astype(dtype) * weight
    return total


def _is_zero(weight: Any) -> bool:
    return isinstance(weight, int | float) and weight == 0


def _wide(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype that values of ``dtype`` are summed in: four bytes at least."""
    whole = not jnp.issubdtype(dtype, jnp.inexact)
    return np.dtype(np.float32) if whole or dtype.itemsize < _SHORT else dtype
