"""Attention over any axes as functions of a scope: ``flax.core.nn.attention``.

Inputs are ``[batch, dims..., features]`` and, in heads, ``[batch, dims..., heads, depth]``; attention goes over some of
the ``dims``, or all of them, and the others are batch axes. To do that, the **attended** axes are moved next to the
heads and made one. Masks become a bias of -1e10, and a query that may see no key at all gets the sum of all values, as
in Flax.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, cast

import jax
import jax.numpy as jnp

from batiste.compat.flax.core.nn.linear import default_kernel_init, dense_general
from batiste.core import is_tracer
from batiste.errors import (
    AttentionHeadsError,
    AttentionMaskError,
    AxesError,
    CacheLengthError,
    CacheShapeError,
    UnsupportedOptionError,
)
from batiste.nn.initializers import zeros
from batiste.struct import dataclass

__all__ = [
    "CacheEntry",
    "default_kernel_init",
    "dense_general",
    "dot_product_attention",
    "make_padding_mask",
    "multi_head_dot_product_attention",
]

_MASKED = -1e10


@dataclass
class CacheEntry:
    """The keys and values of the tokens so far.

    Attributes:
      key: ``[batch, dims..., heads, depth]``.
      value: likewise.
      i: how many tokens there are, counted along all of ``dims`` as one.
    """

    key: Any
    value: Any
    i: Any


def dot_product_attention(
    scope: Any,
    query: Any,
    key: Any,
    value: Any,
    dtype: Any = jnp.float32,
    bias: Any = None,
    axis: int | Iterable[int] | None = None,
    broadcast_dropout: bool = True,
    dropout_rng: Any = None,
    dropout_rate: float = 0.0,
    deterministic: bool = False,
    precision: Any = None,
) -> Any:
    """Return for every query the mean of the values, weighted by how well their keys fit.

    Vaswani and others, "Attention Is All You Need" (2017), https://arxiv.org/abs/1706.03762, equation 1.

    Args:
      scope: draws from the stream ``dropout`` if there is no ``dropout_rng``.
      query: ``[batch, dims..., heads, depth]``.
      key: likewise.
      value: likewise, where the depth may differ.
      dtype: what weights are in.
      bias: added before the softmax: ``[batch, others..., heads, attended dims of queries..., of keys...]``.
      axis: the axes of ``dims`` that are attended; None: all of them.
      broadcast_dropout: whether all of the batch and all heads drop the same weights.
      dropout_rng: the random key for dropout.
      dropout_rate: the chance of each weight to be dropped.
      deterministic: whether dropout is off.
      precision: how exactly products are computed.

    Returns:
      ``[batch, dims..., heads, depth of values]``.

    Raises:
      AttentionMaskError: if the bias has other axes or extents than the weights, or 1.
      AxesError: if ``axis`` names the batch, the heads or the depth.
      InvalidRngError: if dropout is on and there is no key for it.
    """
    attended = _attended(axis, query.ndim)
    others = tuple(number for number in range(query.ndim - 2) if number not in attended)
    order = (*others, *attended, query.ndim - 2, query.ndim - 1)
    query, key, value = (jnp.transpose(array, order) for array in (query, key, value))
    shape = query.shape

    def flat(array: Any) -> Any:
        return array.reshape((*array.shape[: len(others)], -1, *array.shape[-2:]))

    query = flat(query) / jnp.sqrt(query.shape[-1]).astype(dtype)
    weights = jnp.einsum("...qhd,...khd->...hqk", query, flat(key), precision=precision)
    if bias is not None:
        weights = weights + _flat_bias(bias, weights.shape, len(attended), shape, key.shape)
    weights = jnp.exp(weights - jax.nn.logsumexp(weights, axis=-1, keepdims=True)).astype(dtype)
    if not deterministic and dropout_rate > 0.0:
        drawn = scope.make_rng("dropout") if dropout_rng is None else dropout_rng
        dropped = (*(1,) * (weights.ndim - 2), *weights.shape[-2:]) if broadcast_dropout else weights.shape
        keep = jax.random.bernoulli(drawn, 1.0 - dropout_rate, dropped)
        weights = weights * (keep.astype(weights.dtype) / jnp.asarray(1.0 - dropout_rate, dtype=dtype))
    output = jnp.einsum("...hqk,...khd->...qhd", weights, flat(value), precision=precision)
    output = output.reshape((*shape[:-1], value.shape[-1]))
    return jnp.transpose(output, [order.index(number) for number in range(len(order))])


def _attended(axis: int | Iterable[int] | None, rank: int) -> tuple[int, ...]:
    """Return the attended axes of an array in heads."""
    if axis is None:
        return tuple(range(1, rank - 2))
    given = (axis,) if isinstance(axis, int) else tuple(axis)
    if any(not 1 <= number < rank - 2 for number in given) or len(set(given)) < len(given):
        raise AxesError(
            path="dot_product_attention",
            argument="axis",
            given=given,
            rank=rank,
            problem="attention goes over axes between the batch and the heads, each once",
            low=1,
            high=rank - 3,
        )
    return given


def _flat_bias(bias: Any, wanted: Any, count: int, query_shape: Any, key_shape: Any) -> Any:
    """Return a bias with the attended axes of queries, and those of keys, made one.

    Raises:
      AttentionMaskError: if it has more entries than the weights, or does not broadcast to them.
    """
    of_queries, of_keys = query_shape[-2 - count : -2], key_shape[-2 - count : -2]
    full = (*wanted[:-2], *of_queries, *of_keys)
    pairs = zip(bias.shape[::-1], full[::-1], strict=False)
    if len(bias.shape) > len(full) or any(size not in {1, extent} for size, extent in pairs):
        raise AttentionMaskError(path="dot_product_attention", what="bias", given=bias.shape, expected=full, advice="")
    bias = jnp.broadcast_to(bias, (*bias.shape[: bias.ndim - 2 * count], *of_queries, *of_keys))
    return bias.reshape((*bias.shape[: bias.ndim - 2 * count], *wanted[-2:]))


def make_padding_mask(
    padding_mask_query: Any,
    padding_mask_key: Any,
    query_shape: tuple[int, ...],
    key_shape: tuple[int, ...],
    attention_axis: int | Iterable[int] | None = None,
    segmentation_mask: bool = False,
) -> Any:
    """Return which queries may see which keys: ``[batch, others..., 1, attended of queries..., of keys...]``.

    Args:
      padding_mask_query: ``[batch, dims..., 1]``, nonzero for what is no padding; or the number of its segment.
      padding_mask_key: likewise.
      query_shape: ``[batch, dims..., heads, depth]``.
      key_shape: likewise.
      attention_axis: the axes that are attended; None: all of ``dims``.
      segmentation_mask: whether two see each other if they are in one segment, rather than if neither is padding.
    """
    attended = _attended(attention_axis, len(query_shape))
    others = tuple(number for number in range(len(query_shape) - 2) if number not in attended)
    rows = jnp.transpose(jnp.reshape(padding_mask_query, query_shape[:-2]), (*others, *attended))
    columns = jnp.transpose(jnp.reshape(padding_mask_key, key_shape[:-2]), (*others, *attended))
    count = len(attended)
    rows = rows.reshape((*rows.shape[: len(others)], 1, *rows.shape[len(others) :], *(1,) * count))
    columns = columns.reshape((*columns.shape[: len(others)], 1, *(1,) * count, *columns.shape[len(others) :]))
    return jnp.equal(rows, columns).astype(jnp.float32) if segmentation_mask else (rows * columns).astype(jnp.float32)


def multi_head_dot_product_attention(
    scope: Any,
    inputs_q: Any,
    inputs_kv: Any,
    num_heads: int,
    dtype: Any = jnp.float32,
    qkv_features: int | None = None,
    out_features: int | None = None,
    attention_axis: int | Iterable[int] | None = None,
    causal_mask: bool = False,
    padding_mask: Any = None,
    key_padding_mask: Any = None,
    segmentation: Any = None,
    key_segmentation: Any = None,
    cache: bool = False,
    broadcast_dropout: bool = True,
    dropout_rng: Any = None,
    dropout_rate: float = 0.0,
    deterministic: bool = False,
    precision: Any = None,
    kernel_init: Callable[..., Any] = default_kernel_init,
    bias_init: Callable[..., Any] = zeros,
    bias: bool = True,
    attention_fn: Callable[..., Any] = dot_product_attention,
) -> Any:
    """Return attention in several heads, with learned maps into the heads and back.

    Masks are ``[batch, dims..., 1]``; one for keys is by default the one for queries.

    Args:
      scope: where ``query``, ``key``, ``value`` and ``out`` stand, each with ``kernel`` and ``bias``.
      inputs_q: ``[batch, dims..., features]``.
      inputs_kv: likewise; None: the same.
      num_heads: how many heads there are.
      dtype: what to compute in.
      qkv_features: the features of all heads together; None: as many as come in.
      out_features: the features that come out; None: as many as come in.
      attention_axis: the axes of ``dims`` that are attended; None: all of them.
      causal_mask: whether a position sees itself and those before it only.
      padding_mask: nonzero for what is no padding.
      key_padding_mask: likewise for keys.
      segmentation: the number of a position's segment, outside of which it sees nothing.
      key_segmentation: likewise for keys.
      cache: whether keys and values are kept in the collection ``cache``, which on ``init`` holds a function that
        makes the cache for a shape ``(batch, dims...)``.
      broadcast_dropout: whether all of the batch and all heads drop the same weights.
      dropout_rng: the random key for dropout.
      dropout_rate: the chance of each weight to be dropped.
      deterministic: whether dropout is off.
      precision: how exactly products are computed.
      kernel_init: draws kernels.
      bias_init: draws biases.
      bias: whether biases are added.
      attention_fn: a function with the signature of ``dot_product_attention``.
    """
    inputs_kv = inputs_q if inputs_kv is None else inputs_kv
    heads = _heads(qkv_features or inputs_q.shape[-1], num_heads)
    attended = _attended(attention_axis, inputs_q.ndim + 1)
    maps = {"bias": bias, "dtype": dtype, "kernel_init": kernel_init, "bias_init": bias_init, "precision": precision}
    query = scope.child(dense_general, "query", **maps)(inputs_q, heads)
    key = scope.child(dense_general, "key", **maps)(inputs_kv, heads)
    value = scope.child(dense_general, "value", **maps)(inputs_kv, heads)
    key, value, seen = _cached(scope, key, value, causal_mask=causal_mask) if cache else (key, value, [])
    if causal_mask and not seen:
        seen = [_causal(query.shape, key.shape, attended)]
    for mask, of_keys, in_segments in (
        (padding_mask, key_padding_mask, False),
        (segmentation, key_segmentation, True),
    ):
        if mask is not None:
            other = mask if of_keys is None else of_keys
            seen.append(make_padding_mask(mask, other, query.shape, key.shape, attended, in_segments))
    options = {"broadcast_dropout": broadcast_dropout, "dropout_rate": dropout_rate, "deterministic": deterministic}
    how = {"dtype": dtype, "axis": attended, "precision": precision, "dropout_rng": dropout_rng, **options}
    x = scope.child(attention_fn)(query, key, value, bias=_as_bias(seen, dtype), **how)
    return scope.child(dense_general, "out", **maps)(x, out_features or inputs_q.shape[-1], axis=(-2, -1))


def _heads(features: int, num_heads: int) -> tuple[int, int]:
    """Return the number of heads and the features of each.

    Raises:
      AttentionHeadsError: if the heads cannot share the features evenly.
    """
    if features % num_heads:
        raise AttentionHeadsError(
            path="multi_head_dot_product_attention",
            what="qkv_features",
            size=features,
            by="num_heads",
            parts=num_heads,
            advice="Choose a number of heads that divides the features.",
        )
    return num_heads, features // num_heads


def _as_bias(seen: list[Any], dtype: Any) -> Any:
    """Return the bias of masks that all have to hold; None if there are none."""
    if not seen:
        return None
    holds = seen[0] > 0
    for mask in seen[1:]:
        holds = jnp.logical_and(holds, mask > 0)
    return jnp.where(holds, 0.0, _MASKED).astype(dtype)


def _causal(query_shape: Any, key_shape: Any, attended: tuple[int, ...]) -> Any:
    """Return which keys are no later than a query, in the order of the attended axes."""
    of_queries, of_keys = ([shape[axis] for axis in attended] for shape in (query_shape, key_shape))
    mask = jnp.tril(jnp.ones((math.prod(of_queries), math.prod(of_keys))))
    return mask.reshape((*(1,) * (len(query_shape) - 1 - len(attended)), *of_queries, *of_keys))


def _cached(scope: Any, key: Any, value: Any, *, causal_mask: bool) -> tuple[Any, Any, list[Any]]:
    """Put one position into the cache; return all keys and values, and a mask of those that there are by now.

    Raises:
      CacheShapeError: if more than one position comes in.
      CacheLengthError: if the cache is full; within a trace, where this cannot be told, the keys are NaN.
      UnsupportedOptionError: if a position may see those after it.
    """
    if not causal_mask:
        raise UnsupportedOptionError(
            path="multi_head_dot_product_attention",
            argument="cache",
            given=True,
            problem="with causal_mask=False a position sees those after it, which no cache can hold",
            advice="Write causal_mask=True.",
        )

    def empty(shape: tuple[int, ...], dtype: Any = jnp.float32) -> CacheEntry:
        if len(shape) != key.ndim - 2:
            raise CacheShapeError(
                path="multi_head_dot_product_attention",
                cache=shape,
                problem=f"keys are of shape {key.shape}",
                advice="Give the extents of the batch and of all positions: (batch, dims...).",
            )
        held = jnp.zeros((*shape, *key.shape[-2:]), dtype)
        return CacheEntry(held, held, jnp.zeros((), jnp.uint32))

    entry = scope.variable("cache", "entry", lambda: empty)
    if not isinstance(entry.value, CacheEntry):
        return key, value, []
    held: Any = entry.value
    dims = held.key.shape[1:-2]
    if key.shape != (held.key.shape[0], *(1,) * len(dims), *held.key.shape[-2:]):
        raise CacheShapeError(
            path="multi_head_dot_product_attention",
            cache=held.key.shape,
            problem=f"its input gives keys of shape {key.shape}",
            advice="Give one position at a time.",
        )
    slots = math.prod(dims)
    if not is_tracer(held.i) and int(held.i) >= slots:
        raise CacheLengthError(
            path="multi_head_dot_product_attention",
            length=int(held.i) + 1,
            when="in all",
            slots=slots,
            advice="Make the cache for as many positions as the longest sequence has.",
        )
    start = (0, *jnp.unravel_index(held.i.astype(jnp.int32), dims), 0, 0)
    key, value = (
        jax.lax.dynamic_update_slice(old, new.astype(old.dtype), cast("Any", start))
        for old, new in ((held.key, key), (held.value, value))
    )
    entry.value = CacheEntry(key, value, held.i + 1)
    key = jnp.where(held.i < slots, key, jnp.nan)
    before = jnp.arange(slots) <= held.i.astype(jnp.int32)
    return key, value, [before.reshape((*(1,) * (2 + len(dims)), *dims))]
