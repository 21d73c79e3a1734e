"""Multi-head attention as Flax Linen has it: project into heads, attend, project back.

``MultiHeadDotProductAttention`` makes four ``DenseGeneral`` layers, ``query``, ``key``, ``value`` and ``out``; between
them stands an ``attention_fn``, by default ``dot_product_attention`` of ``_attention.py``. With ``decode=True`` it
keeps the keys and values of the tokens seen so far in the collection ``cache`` and takes one token a call; of a mask of
the whole sequence, as training has it, it takes the row of that token.
``MultiHeadAttention`` is the same layer under another automatic name, and ``SelfAttention`` an older call signature.

Grouped queries, rotary positions and caches that take a prompt in one call are in ``_modern_attention.py``.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from batiste._arguments import array, function, number, whole_number
from batiste.core import is_tracer
from batiste.errors import (
    AttentionFunctionError,
    AttentionHeadsError,
    AttentionInputsError,
    CacheLengthError,
    CacheShapeError,
    LinenDeprecationWarning,
)
from batiste.module import Module, compact, merge_param
from batiste.nn._attention import dot_product_attention
from batiste.nn._initializers import lecun_normal, zeros
from batiste.nn._linear import DenseGeneral
from batiste.nn._masks import check_mask, combine_masks
from batiste.nn._norm import LayerNorm
from batiste.typing import Array, DotGeneral, DTypeLike, Initializer, Key, PrecisionLike

__all__ = ["MultiHeadAttention", "MultiHeadDotProductAttention", "SelfAttention"]


class MultiHeadDotProductAttention(Module):
    """Attention by several heads at once, each with its own projection of queries, keys and values.

    Vaswani and others, "Attention Is All You Need" (2017), https://arxiv.org/abs/1706.03762, section 3.2.2.

    Attributes:
      num_heads: the number of heads; it divides ``qkv_features``.
      dtype: what to compute in; None takes what inputs and parameters promote to.
      param_dtype: the element type of the parameters.
      qkv_features: the features of all heads together; None takes those of the queries.
      out_features: the features of the output; None takes those of the queries.
      broadcast_dropout: whether all of the batch and all heads drop the same weights.
      dropout_rate: the chance of each attention weight to be dropped.
      deterministic: whether dropout is off; here or in the call.
      precision: how exactly products are computed, as ``jax.lax.dot_general`` takes it.
      kernel_init: draws the kernels.
      out_kernel_init: draws the kernel of ``out``; None takes ``kernel_init``.
      bias_init: draws the biases.
      out_bias_init: draws the bias of ``out``; None takes ``bias_init``.
      use_bias: whether the four projections add a bias.
      attention_fn: called with query, key and value, ``[batch..., length, heads, depth]``, and with those options of
        ``dot_product_attention`` (``mask``, ``dropout_rng``, ...) that its signature names.
      decode: whether to attend to a cache of earlier tokens, one token a call. The call that makes the variables
        gives the length of the cache and leaves it empty.
      normalize_qk: whether to layer-normalise queries and keys (https://arxiv.org/abs/2302.05442).
      force_fp32_for_softmax: whether the softmax is in float32.
      qkv_dot_general: the ``dot_general`` of the three input projections.
      out_dot_general: the ``dot_general`` of the output projection.
      qkv_dot_general_cls: makes the ``dot_general`` of each input projection, for example ``Fp8DotGeneral``.
      out_dot_general_cls: makes the ``dot_general`` of the output projection.
      qk_attn_weights_einsum_cls: makes the einsum for the weights, for example ``Fp8Einsum``; given with the next.
      attn_weights_value_einsum_cls: makes the einsum for the sum over values.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> layer = nn.MultiHeadDotProductAttention(num_heads=2)
      >>> x = jnp.ones((1, 3, 4))
      >>> variables = layer.init(jax.random.key(0), x)
      >>> y = layer.apply(variables, x, mask=nn.make_causal_mask(x[..., 0]))
      >>> y.shape, variables["params"]["query"]["kernel"].shape
      ((1, 3, 4), (4, 2, 2))
    """

    num_heads: int
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    qkv_features: int | None = None
    out_features: int | None = None
    broadcast_dropout: bool = True
    dropout_rate: float = 0.0
    deterministic: bool | None = None
    precision: PrecisionLike = None
    kernel_init: Initializer = lecun_normal()
    out_kernel_init: Initializer | None = None
    bias_init: Initializer = zeros
    out_bias_init: Initializer | None = None
    use_bias: bool = True
    attention_fn: Callable[..., Array] = dot_product_attention
    decode: bool = False
    normalize_qk: bool = False
    force_fp32_for_softmax: bool = False
    qkv_dot_general: DotGeneral | None = None
    out_dot_general: DotGeneral | None = None
    qkv_dot_general_cls: Any = None
    out_dot_general_cls: Any = None
    qk_attn_weights_einsum_cls: Callable[..., Callable[..., Array]] | None = None
    attn_weights_value_einsum_cls: Callable[..., Callable[..., Array]] | None = None

    @compact
    def __call__(
        self,
        inputs_q: Array,
        inputs_k: Array | None = None,
        inputs_v: Array | None = None,
        *,
        inputs_kv: Array | None = None,
        mask: Array | None = None,
        deterministic: bool | None = None,
        dropout_rng: Key | None = None,
        sow_weights: bool = False,
    ) -> Array:
        """Attend from ``inputs_q`` to ``inputs_k``, and return the weighted ``inputs_v``.

        Args:
          inputs_q: ``[batch..., queries, features]``.
          inputs_k: ``[batch..., keys, features]``; None takes ``inputs_q``.
          inputs_v: ``[batch..., keys, features]``; None takes ``inputs_k``.
          inputs_kv: deprecated: keys and values in one argument.
          mask: true where a query may see a key, broadcast to ``[batch..., heads, queries, keys]``.
          deterministic: whether dropout is off; here or as an attribute.
          dropout_rng: the random key for dropout; None draws one from the stream ``dropout``.
          sow_weights: whether to sow the weights as ``intermediates/attention_weights``.

        Returns:
          ``[batch..., queries, out_features]``.

        Raises:
          ArgumentError: a number of heads or features, or a rate, is none, or an input is no array.
          AttentionInputsError: values without keys, or ``inputs_kv`` besides one of the two.
          AttentionHeadsError: ``num_heads`` does not divide ``qkv_features``.
          AttentionMaskError: the mask does not broadcast to the weights.
          CacheShapeError: with ``decode=True``, the queries are not one token for the batch of the cache.
          CacheLengthError: with ``decode=True``, the cache is full; within a trace, where this cannot be told, the
            result is NaN instead.
        """
        inputs_q = array(inputs_q, "inputs_q", self)
        inputs_k, inputs_v = _keys_and_values(self, inputs_q, inputs_k, inputs_v, inputs_kv)
        dropout_rate = number(self.dropout_rate, "dropout_rate", self, low=0, high=1)
        out_features = inputs_q.shape[-1]
        if self.out_features is not None:
            out_features = whole_number(self.out_features, "out_features", self) or out_features
        query = _project(self, "query", inputs_q, inputs_q)
        key = _project(self, "key", inputs_k, inputs_q)
        value = _project(self, "value", inputs_v, inputs_q)
        if self.normalize_qk:
            query = LayerNorm(name="query_ln", use_bias=False, dtype=self.dtype, param_dtype=self.param_dtype)(query)
            key = LayerNorm(name="key_ln", use_bias=False, dtype=self.dtype, param_dtype=self.param_dtype)(key)
        has_room = None
        if self.decode:
            key, value, mask, has_room = _cached(self, query, key, value, mask)
        dropout_is_off = True
        if dropout_rate > 0.0:
            dropout_is_off = merge_param("deterministic", self.deterministic, deterministic)
            if not dropout_is_off and dropout_rng is None:
                dropout_rng = self.make_rng("dropout")
        options = _options(self) | {"mask": mask, "dropout_rng": dropout_rng, "dropout_rate": dropout_rate}
        options["deterministic"] = dropout_is_off
        heads = self.attention_fn(query, key, value, **_accepted(self, options, sow_weights=sow_weights))
        if has_room is not None:
            heads = jnp.where(has_room, heads, jnp.nan)
        return DenseGeneral(
            features=out_features,
            axis=(-2, -1),
            kernel_init=self.kernel_init if self.out_kernel_init is None else self.out_kernel_init,
            bias_init=self.bias_init if self.out_bias_init is None else self.out_bias_init,
            use_bias=self.use_bias,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            precision=self.precision,
            dot_general=self.out_dot_general,
            dot_general_cls=self.out_dot_general_cls,
            name="out",
        )(heads)


class MultiHeadAttention(MultiHeadDotProductAttention):
    """``MultiHeadDotProductAttention`` under a shorter automatic name, ``MultiHeadAttention_0``.

    The name of a layer is part of its parameters' paths and of its random keys, so the two are not interchangeable in
    a model that has checkpoints.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> class Encoder(nn.Module):
      ...     @nn.compact
      ...     def __call__(self, x):
      ...         return nn.MultiHeadAttention(num_heads=2)(x)
      >>> x = jnp.ones((1, 3, 4))
      >>> variables = jax.eval_shape(Encoder().init, jax.random.key(0), x)
      >>> list(variables["params"])
      ['MultiHeadAttention_0']
    """


class SelfAttention(MultiHeadDotProductAttention):
    """``MultiHeadDotProductAttention`` of one input to itself, deprecated in Linen in favour of it.

    Example:
      >>> from batiste import nn
      >>> issubclass(nn.SelfAttention, nn.MultiHeadDotProductAttention)
      True
    """

    @compact
    def __call__(  # type: ignore[override]
        self,
        inputs_q: Array,
        mask: Array | None = None,
        deterministic: bool | None = None,
        dropout_rng: Key | None = None,
        sow_weights: bool = False,
    ) -> Array:
        """Attend from ``inputs_q``, ``[batch..., length, features]``, to itself.

        Args:
          inputs_q: ``[batch..., length, features]``.
          mask: true where a query may see a key, broadcast to ``[batch..., heads, length, length]``.
          deterministic: whether dropout is off; here or as an attribute.
          dropout_rng: the random key for dropout; None draws one from the stream ``dropout``.
          sow_weights: whether to sow the weights as ``intermediates/attention_weights``.

        Returns:
          ``[batch..., length, out_features]``.
        """
        warnings.warn(
            "SelfAttention is deprecated: use MultiHeadDotProductAttention(...)(inputs_q).",
            LinenDeprecationWarning,
            stacklevel=2,
        )
        return super().__call__(
            inputs_q, mask=mask, deterministic=deterministic, dropout_rng=dropout_rng, sow_weights=sow_weights
        )


def _keys_and_values(
    layer: Module, inputs_q: Array, inputs_k: Array | None, inputs_v: Array | None, inputs_kv: Array | None
) -> tuple[Array, Array]:
    """Return the inputs that keys and values are made of."""
    if inputs_kv is not None:
        if inputs_k is not None or inputs_v is not None:
            raise AttentionInputsError(path=layer.path, problem="inputs_kv is given besides inputs_k or inputs_v")
        warnings.warn(
            "inputs_kv is deprecated: give keys and values as inputs_k and inputs_v.",
            LinenDeprecationWarning,
            stacklevel=3,
        )
        return inputs_kv, inputs_kv
    if inputs_k is None:
        if inputs_v is not None:
            raise AttentionInputsError(path=layer.path, problem="inputs_v is given without inputs_k")
        inputs_k = inputs_q
    keys: Array = array(inputs_k, "inputs_k", layer)
    return keys, keys if inputs_v is None else array(inputs_v, "inputs_v", layer)


def _project(layer: MultiHeadDotProductAttention, name: str, inputs: Array, inputs_q: Array) -> Array:
    """Return ``inputs`` projected into heads, ``[batch..., length, heads, depth]``."""
    features = inputs_q.shape[-1]
    if layer.qkv_features is not None:
        features = whole_number(layer.qkv_features, "qkv_features", layer) or features
    num_heads = whole_number(layer.num_heads, "num_heads", layer, low=1)
    if features % num_heads:
        raise AttentionHeadsError(
            path=layer.path,
            what="qkv_features",
            size=features,
            by="num_heads",
            parts=num_heads,
            advice="Give qkv_features a multiple of num_heads; without it, it is the features of the queries.",
        )
    return DenseGeneral(
        features=(num_heads, features // num_heads),
        axis=-1,
        kernel_init=layer.kernel_init,
        bias_init=layer.bias_init,
        use_bias=layer.use_bias,
        dtype=layer.dtype,
        param_dtype=layer.param_dtype,
        precision=layer.precision,
        dot_general=layer.qkv_dot_general,
        dot_general_cls=layer.qkv_dot_general_cls,
        name=name,
    )(inputs)


def _options(layer: MultiHeadDotProductAttention) -> dict[str, Any]:
    """Return what ``attention_fn`` is told of the layer's own options."""
    return {
        "broadcast_dropout": layer.broadcast_dropout,
        "dtype": layer.dtype,
        "precision": layer.precision,
        "force_fp32_for_softmax": layer.force_fp32_for_softmax,
        "qk_attn_weights_einsum": layer.qk_attn_weights_einsum_cls and layer.qk_attn_weights_einsum_cls(),
        "attn_weights_value_einsum": layer.attn_weights_value_einsum_cls and layer.attn_weights_value_einsum_cls(),
    }


def _cached(
    layer: Module, query: Array, key: Array, value: Array, mask: Array | None
) -> tuple[Array, Array, Array | None, Array | None]:
    """Put one token's key and value into the cache.

    Returns:
      All keys and all values that are in it, the mask of what the token may see of them, and whether the cache had room
      for it: None in the call that makes the variables.
    """
    is_filled = layer.has_variable("cache", "cached_key")
    cached_key = layer.variable("cache", "cached_key", _zeros, key.shape, key.dtype)
    cached_value = layer.variable("cache", "cached_value", _zeros, value.shape, value.dtype)
    cache_index = layer.variable("cache", "cache_index", _zeros, (), jnp.int32)
    if not is_filled:  # the call that makes the variables, with inputs of the full length
        return key, value, mask, None
    *batch, length, heads, depth = cached_key.value.shape
    expected = (*batch, 1, heads, depth)
    if query.shape != expected:
        raise CacheShapeError(
            path=layer.path,
            cache=cached_key.value.shape,
            problem=f"its queries have shape {query.shape} and not {expected}",
            advice="Give one token a call, and the batch that the cache was made for.",
        )
    index = cache_index.value
    if not is_tracer(index) and int(index) >= length:
        raise CacheLengthError(
            path=layer.path,
            length=int(index) + 1,
            when="in all",
            slots=length,
            advice="Call init with inputs as long as the longest sequence; its length is that of the cache.",
        )
    zero = np.int32(0)
    start = (*(zero,) * len(batch), index, zero, zero)
    key = lax.dynamic_update_slice(cached_key.value, key, start, allow_negative_indices=False)
    value = lax.dynamic_update_slice(cached_value.value, value, start, allow_negative_indices=False)
    cached_key.value, cached_value.value = key, value
    cache_index.value = index + 1
    seen = jnp.broadcast_to(jnp.arange(length) <= index, (*batch, 1, 1, length))
    mask = _row_of_mask(layer, mask, (*batch, heads, 1, length), index)
    return key, value, combine_masks(mask, seen), index < length


def _row_of_mask(layer: Module, mask: Array | None, weights: tuple[int, ...], index: Array) -> Array | None:
    """Return what a mask says of the one token that is decoded; one of the whole sequence is cut down to its row."""
    if mask is None:
        return None
    *_, length = weights
    shape = jnp.shape(mask)
    if length > 1 and shape[-2:-1] == (length,):
        mask = lax.dynamic_slice_in_dim(jnp.asarray(mask), index, 1, axis=-2)
        shape = mask.shape
    check_mask(layer.path, "mask", shape, weights, f" Here it is one query, or all {length} that the cache is for.")
    return jnp.reshape(mask, (*(1,) * (len(weights) - len(shape)), *shape))


def _zeros(shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    return jnp.zeros(shape, dtype)


def _accepted(layer: MultiHeadDotProductAttention, options: dict[str, Any], *, sow_weights: bool) -> dict[str, Any]:
    """Return those options that the layer's ``attention_fn`` names as arguments, and ``module`` to sow with."""
    attend = function(layer.attention_fn, "attention_fn", layer)
    if attend is not dot_product_attention:
        arguments = inspect.signature(attend).parameters
        takes_any = any(argument.kind is argument.VAR_KEYWORD for argument in arguments.values())
        if sow_weights and "module" not in arguments and not takes_any:
            raise AttentionFunctionError(
                path=layer.path,
                option="sow_weights=True",
                function=getattr(attend, "__name__", repr(attend)),
                argument="module",
            )
        options = {name: option for name, option in options.items() if name in arguments}
    return {**options, "module": layer} if sow_weights else options
