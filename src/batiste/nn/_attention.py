"""Dot-product attention as functions: from query, key and value to their weighted sum.

With ``query``, ``key`` and ``value`` of heads ``h`` and depth ``d`` (Vaswani and others, "Attention Is All You Need",
2017, https://arxiv.org/abs/1706.03762):

    weights[h, q, k] = softmax over k of (query[q, h] . key[k, h] / sqrt(d) + bias[h, q, k]), 0 where masked
    output[q, h]     = sum over k of weights[h, q, k] value[k, h]

The axes are ``[batch..., length, heads, depth]`` for the inputs and ``[batch..., heads, queries, keys]`` for weights,
biases and masks. The layers that project into heads and back are in ``_multihead.py`` (after Linen) and
``_modern_attention.py`` (grouped queries, rotary positions); masks are made in ``_masks.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from batiste._arguments import array, number
from batiste.dtypes import promote_dtype
from batiste.errors import AttentionEinsumError, AttentionShapeError, InvalidRngError
from batiste.module import Module, tag
from batiste.nn._jitted import settled
from batiste.nn._masks import check_mask
from batiste.typing import Array, DotGeneral, DTypeLike, Key, PrecisionLike

__all__ = ["dot_product_attention", "dot_product_attention_weights"]


def dot_product_attention_weights(
    query: Array,
    key: Array,
    bias: Array | None = None,
    mask: Array | None = None,
    broadcast_dropout: bool = True,
    dropout_rng: Key | None = None,
    dropout_rate: float = 0.0,
    deterministic: bool = False,
    dtype: DTypeLike | None = None,
    precision: PrecisionLike = None,
    module: Module | None = None,
    force_fp32_for_softmax: bool = False,
    einsum_dot_general: DotGeneral | None = None,
    einsum: Callable[..., Array] | None = None,
) -> Array:
    """Return how much every query attends to every key.

    Args:
      query: ``[batch..., queries, heads, depth]``.
      key: ``[batch..., keys, heads, depth]``.
      bias: added before the softmax, broadcast to ``[batch..., heads, queries, keys]``.
      mask: true where a query may see a key, broadcast to ``[batch..., heads, queries, keys]``.
      broadcast_dropout: whether all of the batch and all heads drop the same weights.
      dropout_rng: the random key for dropout.
      dropout_rate: the chance of each weight to be dropped, in [0, 1].
      deterministic: whether dropout is off.
      dtype: what to compute in; None takes what the inputs promote to.
      precision: how exactly products are computed, as ``jax.lax.dot_general`` takes it.
      module: a bound module that sows the weights, before dropout, as ``intermediates/attention_weights``.
      force_fp32_for_softmax: whether the softmax, and the weights from it, are in float32.
      einsum_dot_general: what ``jnp.einsum`` computes products with.
      einsum: a function to use in place of ``jnp.einsum``; it takes neither of the two above.

    Returns:
      ``[batch..., heads, queries, keys]``; each row sums to 1 before dropout.

    Raises:
      ArgumentError: the rate is no number from 0 to 1, or an input is no array.
      AttentionShapeError: query and key do not fit.
      AttentionMaskError: the bias or the mask does not broadcast to the weights.
      AttentionEinsumError: ``einsum`` is given together with ``precision`` or ``einsum_dot_general``.
      InvalidRngError: dropout is on and there is no key for it.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> x = jnp.ones((1, 3, 2, 4))
      >>> mask = nn.make_causal_mask(jnp.ones((1, 3)))
      >>> nn.dot_product_attention_weights(x, x, mask=mask)[0, 0, 1].tolist()
      [0.5, 0.5, 0.0]
    """
    path = "dot_product_attention_weights" if module is None else module.path
    query, key = array(query, "query", path), array(key, "key", path)
    query, key = promote_dtype(query, key, dtype=dtype)
    _check_shapes(path, query=query, key=key)
    einsum = _einsum(path, einsum, precision, einsum_dot_general)
    dtype = query.dtype
    weights = einsum("...qhd,...khd->...hqk", query / _root(query.shape[-1], dtype), key)
    if bias is not None:
        check_mask(path, "bias", jnp.shape(bias), weights.shape)
        weights = weights + bias
    if mask is not None:
        check_mask(path, "mask", jnp.shape(mask), weights.shape)
        weights = jnp.where(mask, weights, _lowest(dtype))
    weights = jax.nn.softmax(weights.astype(jnp.float32)) if force_fp32_for_softmax else jax.nn.softmax(weights)
    if not force_fp32_for_softmax:
        weights = weights.astype(dtype)
    weights = tag("attention_weights", weights)
    if module is not None:
        module.sow("intermediates", "attention_weights", weights)
    if deterministic or number(dropout_rate, "dropout_rate", path, low=0, high=1) == 0:
        return weights
    return _drop(weights, dropout_rate, dropout_rng, dtype, path, broadcast=broadcast_dropout)


def dot_product_attention(
    query: Array,
    key: Array,
    value: Array,
    bias: Array | None = None,
    mask: Array | None = None,
    broadcast_dropout: bool = True,
    dropout_rng: Key | None = None,
    dropout_rate: float = 0.0,
    deterministic: bool = False,
    dtype: DTypeLike | None = None,
    precision: PrecisionLike = None,
    module: Module | None = None,
    force_fp32_for_softmax: bool = False,
    einsum_dot_general: DotGeneral | None = None,
    qk_attn_weights_einsum: Callable[..., Array] | None = None,
    attn_weights_value_einsum: Callable[..., Array] | None = None,
) -> Array:
    """Return for every query the mean of the values, weighted by how well their keys fit.

    Vaswani and others, "Attention Is All You Need" (2017), https://arxiv.org/abs/1706.03762, equation 1.

    Args:
      query: ``[batch..., queries, heads, depth]``.
      key: ``[batch..., keys, heads, depth]``.
      value: ``[batch..., keys, heads, value_depth]``.
      bias: added before the softmax, broadcast to ``[batch..., heads, queries, keys]``.
      mask: true where a query may see a key, broadcast to ``[batch..., heads, queries, keys]``.
      broadcast_dropout: whether all of the batch and all heads drop the same weights.
      dropout_rng: the random key for dropout.
      dropout_rate: the chance of each weight to be dropped, in [0, 1].
      deterministic: whether dropout is off.
      dtype: what to compute in; None takes what the inputs promote to.
      precision: how exactly products are computed, as ``jax.lax.dot_general`` takes it.
      module: a bound module that sows the weights, before dropout, as ``intermediates/attention_weights``.
      force_fp32_for_softmax: whether the softmax, and what follows it, is in float32.
      einsum_dot_general: what ``jnp.einsum`` computes products with.
      qk_attn_weights_einsum: used in place of ``jnp.einsum`` for the weights; given together with the next.
      attn_weights_value_einsum: used in place of ``jnp.einsum`` for the sum over values.

    Returns:
      ``[batch..., queries, heads, value_depth]``.

    Raises:
      ArgumentError: the rate is no number from 0 to 1, or an input is no array.
      AttentionShapeError: query, key and value do not fit.
      AttentionMaskError: the bias or the mask does not broadcast to the weights.
      AttentionEinsumError: one einsum without the other, or einsums together with what they replace.
      InvalidRngError: dropout is on and there is no key for it.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> x = jnp.ones((1, 3, 2, 4))
      >>> nn.dot_product_attention(x, x, value=jnp.ones((1, 3, 2, 5))).shape
      (1, 3, 2, 5)
    """
    path = "dot_product_attention" if module is None else module.path
    query, key, value = array(query, "query", path), array(key, "key", path), array(value, "value", path)
    query, key, value = promote_dtype(query, key, value, dtype=dtype)
    _check_shapes(path, query=query, key=key, value=value)
    if (qk_attn_weights_einsum is None) != (attn_weights_value_einsum is None):
        raise AttentionEinsumError(
            path=path,
            problem="only one of qk_attn_weights_einsum and attn_weights_value_einsum is given",
            advice="Give both, or none.",
        )
    sum_of_values = _einsum(path, attn_weights_value_einsum, precision, einsum_dot_general)
    weights = dot_product_attention_weights(
        query,
        key,
        bias,
        mask,
        broadcast_dropout,
        dropout_rng,
        dropout_rate,
        deterministic,
        query.dtype,
        precision,
        module,
        force_fp32_for_softmax,
        einsum_dot_general,
        qk_attn_weights_einsum,
    )
    return sum_of_values("...hqk,...khd->...qhd", weights, value)


def _einsum(
    path: str | tuple[str, ...],
    einsum: Callable[..., Array] | None,
    precision: PrecisionLike,
    dot_general: DotGeneral | None,
) -> Callable[..., Array]:
    """Return the einsum that was given, or ``jnp.einsum`` with the options that only it takes."""
    if einsum is not None:
        if precision is not None or dot_general is not None:
            raise AttentionEinsumError(
                path=path,
                problem="an einsum is given together with precision or einsum_dot_general",
                advice="Give the precision to your own einsum, or leave it out.",
            )
        return einsum
    options: dict[str, Any] = {} if dot_general is None else {"_dot_general": dot_general}

    def with_options(equation: str, *operands: Array) -> Array:
        def einsum(*operands: Array) -> Array:
            return jnp.einsum(equation, *operands, precision=precision, **options)

        return settled(einsum, operands)

    return with_options


def _root(depth: int, dtype: DTypeLike) -> np.ndarray[Any, Any]:
    """Return the square root of ``depth``, rounded as JAX rounds it: in the default float type, then in ``dtype``."""
    return np.sqrt(np.asarray(depth, jnp.result_type(float))).astype(dtype)


def _lowest(dtype: DTypeLike) -> float:
    """Return the lowest finite number of ``dtype``, which stands for minus infinity where a key is masked."""
    return float(cast("Any", jnp.finfo(dtype)).min)


def _drop(
    weights: Array, rate: float, rng: Key | None, dtype: DTypeLike, path: str | tuple[str, ...], *, broadcast: bool
) -> Array:
    """Return the weights with some dropped and the others scaled up, so that the mean stays."""
    if rng is None:
        problem = f"dropout_rate={rate} and deterministic=False, but dropout_rng is None"
        where = path if isinstance(path, str) else "/" + "/".join(path)
        advice = "Give it a random key, dropout_rng=key, or set deterministic=True."
        raise InvalidRngError(path=where, problem=problem, nearest="", advice=advice)
    if rate >= 1.0:
        return jnp.zeros_like(weights)
    keep_rate = 1.0 - rate
    shape = (1,) * (weights.ndim - 2) + weights.shape[-2:] if broadcast else weights.shape
    keep = jax.random.bernoulli(rng, keep_rate, shape)
    return weights * (keep.astype(dtype) / np.asarray(keep_rate, dtype))


def _check_shapes(path: str | tuple[str, ...], **arrays: Array) -> None:
    """Raise where the arrays do not have equal batch axes, heads and depths, and key and value equal lengths."""
    query, key, *values = (array.shape for array in arrays.values())
    others = [key, *values]
    problem = None
    if any(len(shape) != len(query) for shape in others) or len(query) < 3:
        problem = "they need the same number of axes, at least three"
    elif any(shape[:-3] != query[:-3] for shape in others):
        problem = "their batch axes differ"
    elif any(shape[-2] != query[-2] for shape in others):
        problem = "their numbers of heads differ"
    elif values and values[0][-3] != key[-3]:
        problem = "there are not as many keys as values"
    elif query[-1] != key[-1]:
        problem = "the depths of query and key differ"
    if problem is not None:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise AttentionShapeError(path=path, problem=problem, shapes=shapes)
