"""Attention masks: which query may see which key.

A mask has the axes ``[batch..., heads, queries, keys]``, where an axis of size 1 stands for all, and is true (or not
zero) where the query may see the key. The three functions here make one from token properties, make the causal one,
and combine several. How a mask acts on the weights is said in ``_attention.py``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from batiste._arguments import array, function, refused, whole_number
from batiste.errors import AttentionMaskError, MaskRankError
from batiste.typing import Array, ArrayLike, DTypeLike

__all__ = ["check_mask", "combine_masks", "make_attention_mask", "make_causal_mask"]


def make_attention_mask(
    query_input: ArrayLike,
    key_input: ArrayLike,
    pairwise_fn: Callable[..., Any] = jnp.multiply,
    extra_batch_dims: int = 0,
    dtype: DTypeLike = jnp.float32,
) -> Array:
    """Return a mask that holds ``pairwise_fn`` of every query's and every key's property.

    With the default, a product, two arrays that are 1 for tokens and 0 for padding give a padding mask; with
    ``jnp.equal`` two arrays of segment numbers give the mask of packed sequences.

    Args:
      query_input: one value per query, ``[batch..., queries]``.
      key_input: one value per key, ``[batch..., keys]``.
      pairwise_fn: an elementwise function of two arrays that broadcast.
      extra_batch_dims: how many axes of size 1 to put in front.
      dtype: the element type of the mask.

    Returns:
      ``[1..., batch..., 1, queries, keys]``, where the 1 before the queries stands for all heads.

    Raises:
      ArgumentError: an input is no array, ``pairwise_fn`` no function, or ``extra_batch_dims`` no number of axes.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> tokens = jnp.array([1, 1, 0])
      >>> nn.make_attention_mask(tokens, tokens, dtype=bool)
      Array([[[ True,  True, False],
              [ True,  True, False],
              [False, False, False]]], dtype=bool)
    """
    where = "make_attention_mask"
    extra = whole_number(extra_batch_dims, "extra_batch_dims", where)
    query, key = array(query_input, "query_input", where), array(key_input, "key_input", where)
    mask = function(pairwise_fn, "pairwise_fn", where)(jnp.expand_dims(query, -1), jnp.expand_dims(key, -2))
    return jnp.expand_dims(mask, (*range(extra), -3)).astype(dtype)


def make_causal_mask(x: ArrayLike, extra_batch_dims: int = 0, dtype: DTypeLike = jnp.float32) -> Array:
    """Return the mask that lets every token see itself and those before it.

    Args:
      x: any array of the shape ``[batch..., length]`` of the tokens; its values are not read.
      extra_batch_dims: how many axes of size 1 to put in front.
      dtype: the element type of the mask.

    Returns:
      ``[1..., batch..., 1, length, length]``.

    Raises:
      ArgumentError: ``x`` is no array with an axis, or ``extra_batch_dims`` no number of axes.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> nn.make_causal_mask(jnp.zeros((2, 3)), dtype=int)[0, 0]
      Array([[1, 0, 0],
             [1, 1, 0],
             [1, 1, 1]], dtype=int32)
    """
    extra = whole_number(extra_batch_dims, "extra_batch_dims", "make_causal_mask")
    shape = np.shape(array(x, "x", "make_causal_mask"))
    if not shape:
        raise refused(x, "x", "make_causal_mask", "an array of the shape [batch..., length]")
    *batch, length = shape
    query, key = (lax.broadcasted_iota(jnp.int32, (length, length), axis) for axis in (0, 1))
    return jnp.broadcast_to((query >= key).astype(dtype), (*(1,) * extra, *batch, 1, length, length))


def combine_masks(*masks: ArrayLike | None, dtype: DTypeLike = jnp.float32) -> Array | None:
    """Return the mask that lets a query see a key where every given mask does.

    Args:
      *masks: masks that broadcast together, ``[batch..., heads, queries, keys]``, or None for no mask.
      dtype: the element type of the result.

    Returns:
      Their logical and, or None where no mask is given.

    Raises:
      ArgumentError: a mask is no array.
      MaskRankError: the masks have different numbers of axes.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> causal = nn.make_causal_mask(jnp.zeros(3))
      >>> real = nn.make_attention_mask(jnp.ones(3), jnp.array([1, 0, 1]))
      >>> nn.combine_masks(causal, real, None, dtype=int)
      Array([[[1, 0, 0],
              [1, 0, 0],
              [1, 0, 1]]], dtype=int32)
    """
    given = [array(mask, "masks", "combine_masks") for mask in masks if mask is not None]
    if not given:
        return None
    if len({np.ndim(mask) for mask in given}) > 1:
        raise MaskRankError(shapes=", ".join(str(np.shape(mask)) for mask in given))
    first, *others = (jnp.asarray(mask) for mask in given)
    return functools.reduce(jnp.logical_and, others, first).astype(dtype)


def check_mask(
    path: str | tuple[str, ...], what: str, given: tuple[int, ...], weights: tuple[int, ...], advice: str = ""
) -> None:
    """Raise ``AttentionMaskError`` unless a shape broadcasts to that of the weights, which it must not widen.

    Args:
      path: the path of the layer, or the name of the function, for the error.
      what: ``"mask"`` or ``"bias"``.
      given: its shape.
      weights: ``(batch..., heads, queries, keys)``.
      advice: what the hint says beside the names of the axes.
    """
    fits = len(given) <= len(weights) and all(
        size in {1, wanted} for size, wanted in zip(given[::-1], weights[::-1], strict=False)
    )
    if not fits:
        raise AttentionMaskError(path=path, what=what, given=given, expected=weights, advice=advice)
