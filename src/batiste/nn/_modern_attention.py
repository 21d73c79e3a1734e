"""Attention as today's language models have it: grouped queries, rotary positions, windows, and caches for decoding.

*Rotary positions* turn each pair of features of queries and keys by an angle that grows with the position, so that
their product depends on the distance alone. *Grouped queries*: several query heads share one head of keys and values,
which makes the cache smaller by that factor. A *window* lets a token see only the last few, itself among them.

The *cache* holds, in the collection ``cache``, keys (turned already), values and positions of the tokens seen so far.
A full cache has ``max_length`` slots; with a window it is a *ring* of ``window`` slots, in which a new token takes the
place of the oldest. What a token sees is decided by the positions in the slots and never by the slots themselves, so
that one rule covers prompts, single steps, rings and padding: a token at position -1 is padding, and no one sees it.

The functions for plain attention are in ``_attention.py``, and the layers after Linen in ``_multihead.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from batiste._arguments import array, choice, number, whole_number
from batiste.core import is_tracer
from batiste.dtypes import reduction_dtype
from batiste.errors import (
    AttentionHeadsError,
    CacheLengthError,
    CacheMaskError,
    CacheShapeError,
    CacheSizeError,
    InputRankError,
    RotaryShapeError,
    WindowError,
)
from batiste.module import Module, compact, nowrap
from batiste.nn._initializers import lecun_normal, zeros
from batiste.nn._linear import DenseGeneral
from batiste.nn._masks import check_mask
from batiste.nn._norm import RMSNorm
from batiste.typing import Array, ArrayLike, DTypeLike, Initializer, PrecisionLike

__all__ = ["GroupedQueryAttention", "apply_rotary", "rotary_angles"]

_LONGEST = "Set max_length to the number of tokens of the longest sequence, prompt and continuation together."


def rotary_angles(positions: ArrayLike, rotary_dim: int, *, base: float = 10_000.0) -> Array:
    """Return the angles by which rotary embedding turns pairs of features at these positions.

    Su and others, "RoFormer: Enhanced Transformer with Rotary Position Embedding" (2021),
    https://arxiv.org/abs/2104.09864, equation 15: pair ``i`` turns by ``position * base ** (-2 i / rotary_dim)``.

    Args:
      positions: ``[batch..., length]``; fractions are welcome, for interpolation (https://arxiv.org/abs/2306.15595).
      rotary_dim: how many features are turned: an even number.
      base: the slowest pair turns about once in ``2 pi base`` positions.

    Returns:
      ``[batch..., length, rotary_dim / 2]`` in radians, float32.

    Raises:
      ArgumentError: ``rotary_dim`` is no whole number, ``base`` no number above 0, or the positions are no array.
      RotaryShapeError: ``rotary_dim`` is odd.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> nn.rotary_angles(jnp.arange(3), rotary_dim=2).tolist()
      [[0.0], [1.0], [2.0]]
      >>> nn.rotary_angles(jnp.arange(5), rotary_dim=8).shape
      (5, 4)
    """
    positions = array(positions, "positions", "rotary_angles")
    rotary_dim = whole_number(rotary_dim, "rotary_dim", "rotary_angles")
    base = number(base, "base", "rotary_angles", above=0)
    if rotary_dim % 2:
        raise RotaryShapeError(shape=(rotary_dim,), problem=f"rotary_dim={rotary_dim} features are no whole pairs")
    speeds = np.float32(base ** (-np.arange(0, rotary_dim, 2) / rotary_dim))
    angles = jnp.asarray(positions, jnp.float32)[..., None]
    return angles * speeds.reshape((1,) * (angles.ndim - 1) + speeds.shape)


def apply_rotary(x: Array, angles: Array, *, interleaved: bool = False) -> Array:
    """Return queries or keys with their pairs of features turned by ``angles``, computed in at least float32.

    Args:
      x: ``[batch..., length, heads, depth]``.
      angles: from ``rotary_angles``: ``[batch..., length, pairs]`` or ``[length, pairs]``. Features from ``2 pairs``
        on stay as they are.
      interleaved: whether a pair is two neighbours, as in RoFormer; else feature ``i`` is paired with
        ``i + pairs``, as in GPT-NeoX and LLaMA. Weights trained with one do not fit the other.

    Returns:
      An array with the shape and dtype of ``x``.

    Raises:
      ArgumentError: an input is no array.
      RotaryShapeError: the angles do not fit ``x``.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> x = jnp.ones((1, 3, 2, 4))
      >>> turned = nn.apply_rotary(x, nn.rotary_angles(jnp.arange(3), rotary_dim=4))
      >>> turned.shape, bool((turned[0, 0] == x[0, 0]).all())
      ((1, 3, 2, 4), True)
    """
    x, angles = array(x, "x", "apply_rotary"), array(angles, "angles", "apply_rotary")
    if x.ndim < 3 or angles.ndim < 2:
        raise RotaryShapeError(shape=x.shape, problem=f"the angles have shape {angles.shape}")
    pairs = angles.shape[-1]
    if 2 * pairs > x.shape[-1] or angles.ndim not in {2, x.ndim - 1} or angles.shape[-2] != x.shape[-3]:
        raise RotaryShapeError(shape=x.shape, problem=f"the angles have shape {angles.shape}")
    angles = jnp.expand_dims(angles, (*range(x.ndim - 1 - angles.ndim), -2))  # [batch..., length, 1, pairs]
    wide = reduction_dtype(x.dtype)
    cos, sin = jnp.cos(angles).astype(wide), jnp.sin(angles).astype(wide)
    turned, rest = (x, None) if 2 * pairs == x.shape[-1] else (x[..., : 2 * pairs], x[..., 2 * pairs :])
    turned = turned.astype(wide)
    if interleaved:
        first, second = turned[..., ::2], turned[..., 1::2]
    else:
        first, second = turned[..., :pairs], turned[..., pairs:]
    new = (first * cos - second * sin, second * cos + first * sin)
    turned = jnp.stack(new, axis=-1).reshape(turned.shape) if interleaved else jnp.concatenate(new, axis=-1)
    turned = turned.astype(x.dtype)
    return turned if rest is None else jnp.concatenate([turned, rest], axis=-1)


class GroupedQueryAttention(Module):
    """Causal self-attention with shared keys and values, rotary positions, and a cache for decoding.

    Ainslie and others, "GQA: Training Generalized Multi-Query Transformer Models from Multi-Head Checkpoints" (2023),
    https://arxiv.org/abs/2305.13245; the window and its ring of keys after Jiang and others, "Mistral 7B" (2023),
    https://arxiv.org/abs/2310.06825. The attention itself is ``jax.nn.dot_product_attention``, with the softmax in
    float32. The parameters are those of ``query``, ``key``, ``value`` ``[features, heads, head_dim]`` and ``out``
    ``[heads, head_dim, out_features]``, and, with ``normalize_qk``, of ``query_norm`` and ``key_norm``.

    To decode, give the same parameters to the layer with ``decode=True``, and take the new ``cache`` from every call::

        y, state = layer.apply({"params": params}, prompt, mutable=["cache"])
        y, state = layer.apply({"params": params, **state}, next_token, mutable=["cache"])

    A call may hold any number of tokens, the prompt in parts too. Prompts of different lengths are padded on the left,
    at positions -1. ``init`` makes an empty cache. A full cache that has run over raises, and
    within a trace gives NaN.

    Attributes:
      num_heads: the number of query heads.
      num_kv_heads: the number of heads of keys and values, which divides ``num_heads``; None takes ``num_heads``, and 1
        is multi-query attention (https://arxiv.org/abs/1911.02150).
      head_dim: the features of a head; None takes those of the input divided by ``num_heads``.
      out_features: the features of the output; None takes those of the input.
      use_bias: whether the projections of queries, keys and values add a bias.
      out_use_bias: whether the output projection adds a bias; None takes ``use_bias``.
      normalize_qk: whether to RMS-normalise queries and keys (https://arxiv.org/abs/2302.05442).
      rotary_base: the base of the rotary angles; None leaves positions out.
      rotary_dim: how many features of a head are turned; None takes all.
      rotary_interleaved: whether neighbours are paired, see ``apply_rotary``.
      causal: whether a token sees only itself and those before it.
      window: how many tokens a token sees, itself among them; None takes all.
      scale: what products of queries and keys are multiplied by; None takes ``1 / sqrt(head_dim)``.
      decode: whether to keep a cache.
      max_length: the number of tokens a full cache has room for.
      dtype: what to compute in; None takes what inputs and parameters promote to.
      param_dtype: the element type of the parameters.
      precision: how exactly the projections are computed, as ``jax.lax.dot_general`` takes it.
      kernel_init: draws the kernels.
      bias_init: draws the biases.
      implementation: as ``jax.nn.dot_product_attention`` takes it; None chooses what is there.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> layer = nn.GroupedQueryAttention(num_heads=4, num_kv_heads=2)
      >>> x = jnp.ones((1, 3, 8))
      >>> y, variables = jax.eval_shape(layer.init_with_output, jax.random.key(0), x)
      >>> y.shape, variables["params"]["key"]["kernel"].shape
      ((1, 3, 8), (8, 2, 2))
    """

    num_heads: int
    num_kv_heads: int | None = None
    head_dim: int | None = None
    out_features: int | None = None
    use_bias: bool = False
    out_use_bias: bool | None = None
    normalize_qk: bool = False
    rotary_base: float | None = 10_000.0
    rotary_dim: int | None = None
    rotary_interleaved: bool = False
    causal: bool = True
    window: int | None = None
    scale: float | None = None
    decode: bool = False
    max_length: int | None = None
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    precision: PrecisionLike = None
    kernel_init: Initializer = lecun_normal()
    bias_init: Initializer = zeros
    implementation: Literal["xla", "cudnn"] | None = None

    @compact
    def __call__(self, inputs: Array, *, positions: ArrayLike | None = None, mask: Array | None = None) -> Array:
        """Attend from every token to those that it sees.

        Args:
          inputs: ``[batch..., length, features]``.
          positions: the position of each token, ``[length]`` or ``[batch..., length]``, -1 for padding; None counts
            from 0, or, with a cache, from the number of tokens in it.
          mask: true where a token may see another, besides what positions allow: ``[batch..., heads, length,
            length]``, where 1 stands for all. Not with ``decode``.

        Returns:
          ``[batch..., length, out_features]``.

        Raises:
          ArgumentError: a size, ``scale`` or ``rotary_base`` is no number of its kind, or the input is no array.
          AttentionHeadsError: heads or features cannot be shared out evenly.
          WindowError: ``window`` is less than 1, or without ``causal``.
          CacheSizeError: ``decode`` with neither ``max_length`` nor ``window``.
          CacheLengthError: more tokens than a full cache has room for; within a trace, where it cannot be told how
            many are in it, the result is NaN instead.
          AttentionMaskError: the mask does not broadcast to the weights.
          CacheShapeError: another batch than the cache was made for.
          CacheMaskError: a mask with ``decode``.
        """
        inputs = array(inputs, "inputs", self)
        if inputs.ndim < 2:
            expected = "at least two axes, [batch..., length, features]"
            raise InputRankError(path=self.path, shape=inputs.shape, expected=expected)
        window = self._checked_window()
        heads, kv_heads, head_dim = self._sizes(inputs.shape[-1])
        query = self._dense("query", (heads, head_dim))(inputs)
        key = self._dense("key", (kv_heads, head_dim))(inputs)
        value = self._dense("value", (kv_heads, head_dim))(inputs)
        if self.normalize_qk:
            query = RMSNorm(dtype=self.dtype, param_dtype=self.param_dtype, name="query_norm")(query)
            key = RMSNorm(dtype=self.dtype, param_dtype=self.param_dtype, name="key_norm")(key)
        if mask is not None and not self.decode:
            length = inputs.shape[-2]
            check_mask(self.path, "mask", jnp.shape(mask), (*inputs.shape[:-2], heads, length, length))
            mask = jnp.reshape(mask, (*(1,) * (inputs.ndim + 1 - jnp.ndim(mask)), *jnp.shape(mask)))
        cache = _Cache(self, key, value) if self.decode else None
        if cache is not None and mask is not None:
            raise CacheMaskError(path=self.path)
        if cache is not None and self.is_initializing():
            cache = None  # the variables are made, and stay empty
        given = positions
        if given is None:
            positions = jnp.arange(inputs.shape[-2]) + (0 if cache is None else cache.index.value)
        positions = jnp.asarray(positions)
        if self.rotary_base is not None:
            turned = head_dim
            if self.rotary_dim is not None:
                turned = whole_number(self.rotary_dim, "rotary_dim", self, high=head_dim) or head_dim
            base = number(self.rotary_base, "rotary_base", self, above=0)
            angles = rotary_angles(positions, turned, base=base)
            query = apply_rotary(query, angles, interleaved=self.rotary_interleaved)
            key = apply_rotary(key, angles, interleaved=self.rotary_interleaved)
        if cache is not None:
            attended = cache.attend(query, key, value, positions)
        elif given is None:
            sides = None if window is None else (window - 1, 0)
            attended = _attend(self, query, key, value, mask, is_causal=self.causal, local_window_size=sides)
        else:
            seen = _sees(self, positions, positions, query.shape[:-3])
            attended = _attend(self, query, key, value, seen if mask is None else seen & (mask != 0))
        features = inputs.shape[-1]
        if self.out_features is not None:
            features = whole_number(self.out_features, "out_features", self) or features
        out_use_bias = self.use_bias if self.out_use_bias is None else self.out_use_bias
        return self._dense("out", features, axis=(-2, -1), use_bias=out_use_bias)(attended)

    @nowrap
    def _checked_window(self) -> int | None:
        """Return the window, after a look at the options beside it."""
        window = None if self.window is None else whole_number(self.window, "window", self, low=None)
        if window is not None and (window < 1 or not self.causal):
            raise WindowError(path=self.path, window=window, causal=self.causal)
        if self.scale is not None:
            number(self.scale, "scale", self)
        if self.max_length is not None:
            whole_number(self.max_length, "max_length", self, low=1)
        choice(self.implementation, "implementation", self, (None, "xla", "cudnn"))
        return window

    @nowrap
    def _sizes(self, features: int) -> tuple[int, int, int]:
        """Return the number of query heads, of key and value heads, and the features of each."""
        heads = whole_number(self.num_heads, "num_heads", self, low=1)
        kv_heads = heads
        if self.num_kv_heads is not None:
            kv_heads = whole_number(self.num_kv_heads, "num_kv_heads", self, low=1)
        if heads % kv_heads:
            raise AttentionHeadsError(
                path=self.path,
                what="num_heads",
                size=heads,
                by="num_kv_heads",
                parts=kv_heads,
                advice="Each head of keys and values serves the same number of query heads: give a divisor.",
            )
        if self.head_dim is None and features % heads:
            raise AttentionHeadsError(
                path=self.path,
                what="features",
                size=features,
                by="num_heads",
                parts=heads,
                advice="Set head_dim, or give inputs whose features are a multiple of num_heads.",
            )
        if self.head_dim is None:
            return heads, kv_heads, features // heads
        return heads, kv_heads, whole_number(self.head_dim, "head_dim", self, low=1)

    @nowrap
    def _dense(
        self, name: str, features: int | Sequence[int], axis: int | Sequence[int] = -1, use_bias: bool | None = None
    ) -> DenseGeneral:
        return DenseGeneral(
            features=features,
            axis=axis,
            use_bias=self.use_bias if use_bias is None else use_bias,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            kernel_init=self.kernel_init,
            bias_init=self.bias_init,
            precision=self.precision,
            name=name,
        )


def _sees(layer: GroupedQueryAttention, query_positions: Array, key_positions: Array, batch: tuple[int, ...]) -> Array:
    """Return which query sees which key, by their positions: ``[batch..., 1, queries, keys]``."""
    query = jnp.broadcast_to(query_positions, (*batch, query_positions.shape[-1]))[..., None, :, None]
    key = jnp.broadcast_to(key_positions, (*batch, key_positions.shape[-1]))[..., None, None, :]
    seen = key >= 0
    if layer.causal:
        seen &= key <= query
    if layer.window is not None:
        seen &= query - key < int(layer.window)
    return jnp.broadcast_to(seen, (*batch, 1, query.shape[-2], key.shape[-1]))


def _attend(
    layer: GroupedQueryAttention, query: Array, key: Array, value: Array, mask: Array | None, **options: Any
) -> Array:
    """Return ``jax.nn.dot_product_attention``, which knows one batch axis, for any number of them."""
    batch = query.shape[:-3]
    if mask is not None:
        mask = mask if mask.dtype == jnp.bool_ else mask != 0
        mask = jnp.broadcast_to(mask, (*batch, *mask.shape[-3:]))

    def flat(x: Array) -> Array:
        return x if len(batch) == 1 else x.reshape(math.prod(batch), *x.shape[-3:])

    attend: Callable[..., Array] = cast("Any", jax.nn).dot_product_attention
    attended = attend(
        flat(query),
        flat(key),
        flat(value),
        mask=None if mask is None else flat(mask),
        scale=layer.scale,
        implementation=layer.implementation,
        **options,
    )
    return attended if len(batch) == 1 else attended.reshape(*batch, *attended.shape[-3:])


class _Cache:
    """The variables of a layer's cache, and the three ways to attend to them."""

    def __init__(self, layer: GroupedQueryAttention, key: Array, value: Array) -> None:
        if layer.max_length is None and layer.window is None:
            raise CacheSizeError(path=layer.path)
        sizes = [int(size) for size in (layer.window, layer.max_length) if size is not None]
        slots = min(sizes)
        *batch, _, heads, depth = key.shape
        shape = (*batch, slots, heads, depth)
        self.layer = layer
        self.slots = slots
        self.is_ring = layer.window is not None and slots == int(layer.window)
        self.key = layer.variable("cache", "cached_key", _full, 0, shape, key.dtype)
        self.value = layer.variable("cache", "cached_value", _full, 0, shape, value.dtype)
        self.position = layer.variable("cache", "cached_position", _full, -1, (*batch, slots), jnp.int32)
        self.index = layer.variable("cache", "cache_index", _full, 0, (), jnp.int32)
        if self.key.value.shape != shape:
            raise CacheShapeError(
                path=layer.path,
                cache=self.key.value.shape,
                problem=f"these inputs need one of shape {shape}",
                advice="Start a new cache: leave 'cache' out of the variables for the first call.",
            )

    def attend(self, query: Array, key: Array, value: Array, positions: Array) -> Array:
        """Put the new tokens into the cache, and attend from them to all in it that they see."""
        length = key.shape[-3]
        positions = jnp.broadcast_to(positions.astype(jnp.int32), (*key.shape[:-3], length))
        new = (key.astype(self.key.value.dtype), value.astype(self.value.value.dtype), positions)
        old = (self.key.value, self.value.value, self.position.value)
        axes = (-3, -3, -1)
        index = self.index.value
        if self.is_ring and length > 1:
            held = tuple(
                jnp.concatenate(pair, axis) for pair, axis in zip(zip(old, new, strict=True), axes, strict=True)
            )
            self._store(tuple(_put_in_ring(*each, index, self.slots) for each in zip(old, new, axes, strict=True)))
        elif not self.is_ring and length > self.slots:
            raise CacheLengthError(
                path=self.layer.path, length=length, when="at once", slots=self.slots, advice=_LONGEST
            )
        elif not self.is_ring and not is_tracer(index) and int(index) + length > self.slots:
            raise CacheLengthError(
                path=self.layer.path, length=int(index) + length, when="in all", slots=self.slots, advice=_LONGEST
            )
        else:
            slot = index % self.slots if self.is_ring else index
            held = tuple(_put(*each, slot) for each in zip(old, new, axes, strict=True))
            self._store(held)
        self.index.value = index + length
        held_key, held_value, held_positions = held
        seen = _sees(self.layer, positions, held_positions, key.shape[:-3])
        attended = _attend(self.layer, query, held_key, held_value, seen)
        return attended if self.is_ring else jnp.where(index + length > self.slots, jnp.nan, attended)

    def _store(self, held: tuple[Array, ...]) -> None:
        self.key.value, self.value.value, self.position.value = held


def _full(value: int, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    return jnp.full(shape, value, dtype)


def _put(old: Array, new: Array, axis: int, slot: Array) -> Array:
    """Return ``old`` with ``new`` from ``slot`` on."""
    start = [slot if at == old.ndim + axis else np.int32(0) for at in range(old.ndim)]
    return lax.dynamic_update_slice(old, new, start, allow_negative_indices=False)


def _put_in_ring(old: Array, new: Array, axis: int, index: Array, slots: int) -> Array:
    """Return the ring ``old`` with the last tokens of ``new``, as many as it holds, each in its slot."""
    length = new.shape[axis]
    kept = min(length, slots)
    at = (index + (length - kept) + jnp.arange(kept)) % slots
    where = (..., at, *(slice(None),) * (-1 - axis))
    last = lax.slice_in_dim(new, length - kept, length, axis=new.ndim + axis)
    return old.at[where].set(last, unique_indices=True, mode="promise_in_bounds")
