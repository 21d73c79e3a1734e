"""Pooling: a reduction over a window that moves along the spatial axes.

Inputs are ``[batch..., spatial..., channels]`` with any number of batch axes, none included; the window has one extent
for each spatial axis, and so have the strides (1 by default). ``padding`` is ``"SAME"``, ``"VALID"``, or a
``(low, high)`` pair for each spatial axis; what is put at the edges never wins: zeros for a mean, infinities for a
maximum or a minimum.

Sums are taken in at least float32 and rounded once, as ``jnp.sum`` and ``jnp.mean`` do it: in half precision a sum of
ones stops growing at 256 (bfloat16) or 2,048 (float16), and one of small integers wraps around. Up to four numbers in
bfloat16 are added as they are, which gives Linen's bits: three additions cost 0.6 % at most, and nothing overflows.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from batiste._arguments import array, whole_numbers
from batiste.dtypes import cast, matched, reduction_dtype
from batiste.errors import AxesWarning, PoolingWindowError
from batiste.typing import Array, ArrayLike, DTypeLike

__all__ = ["avg_pool", "max_pool", "min_pool", "pool"]

_Padding: TypeAlias = str | Sequence[tuple[int, int]]


def pool(
    inputs: Array,
    init: ArrayLike,
    reduce_fn: Callable[..., Array],
    window_shape: Sequence[int],
    strides: Sequence[int] | None,
    padding: _Padding,
) -> Array:
    """Return ``inputs`` reduced over windows.

    JAX differentiates the sum, the maximum and the minimum (``jax.lax.add``, ``max`` and ``min``); any other
    ``reduce_fn`` in the forward direction only.

    Args:
      inputs: ``[batch..., spatial..., channels]``.
      init: the value that a window starts from, and that the edges are padded with.
      reduce_fn: reduces two values to one.
      window_shape: the window's extent along each spatial axis.
      strides: the steps between windows; None for 1.
      padding: ``"SAME"``, ``"VALID"``, or a ``(low, high)`` pair for each spatial axis.

    Returns:
      ``[batch..., windows..., channels]``.

    Raises:
      ArgumentError: an extent, a step or a width is no whole number, or the input is no array.
      PoolingWindowError: window, strides or padding do not fit the input or one another.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> x = jnp.array([[[1.0], [2.0], [3.0], [4.0]]])
      >>> nn.pool(x, 0.0, jax.lax.add, (2,), (2,), "VALID").ravel().tolist()
      [3.0, 7.0]
    """
    inputs, window_shape = array(inputs, "inputs", "pool"), _window(window_shape)
    window, steps, pads = _checked(inputs, window_shape, strides, padding)
    wide = _sum_dtype(inputs.dtype, window)
    if wide != inputs.dtype and jnp.issubdtype(inputs.dtype, jnp.inexact) and reduce_fn in (lax.add, jnp.add):
        return cast(pool(cast(inputs, wide), init, reduce_fn, window_shape, strides, padding), inputs.dtype)
    if inputs.ndim > len(window_shape) + 1:
        return lax.reduce_window(inputs, init, reduce_fn, window, steps, pads)
    batch_of_one = jnp.expand_dims(inputs, 0)
    return jnp.squeeze(lax.reduce_window(batch_of_one, init, reduce_fn, window, steps, pads), axis=0)


def avg_pool(
    inputs: Array,
    window_shape: Sequence[int],
    strides: Sequence[int] | None = None,
    padding: _Padding = "VALID",
    count_include_pad: bool = True,
) -> Array:
    """Return the mean of each window.

    Args:
      inputs: ``[batch..., spatial..., channels]``.
      window_shape: the window's extent along each spatial axis.
      strides: the steps between windows; None for 1.
      padding: ``"SAME"``, ``"VALID"``, or a ``(low, high)`` pair for each spatial axis.
      count_include_pad: whether the zeros at the edges count.

    Returns:
      ``[batch..., windows..., channels]``: floating-point for integers and Booleans; in at least float32 where the
      zeros at the edges do not count, as in Linen.

    Raises:
      ArgumentError: an extent, a step or a width is no whole number, or the input is no array.
      PoolingWindowError: window, strides or padding do not fit the input or one another.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> x = jnp.array([[[1.0], [2.0], [3.0], [4.0]]])
      >>> nn.avg_pool(x, (2,), strides=(2,)).ravel().tolist()
      [1.5, 3.5]
    """
    inputs, window_shape = array(inputs, "inputs", "avg_pool"), _window(window_shape)
    is_exact = not jnp.issubdtype(inputs.dtype, jnp.inexact)
    mean_dtype = jax.eval_shape(jnp.true_divide, inputs, 1).dtype if is_exact else inputs.dtype
    window, _, _ = _checked(inputs, window_shape, strides, padding)
    total = pool(cast(inputs, _sum_dtype(mean_dtype, window)), 0.0, lax.add, window_shape, strides, padding)
    if count_include_pad:
        return cast(total / math.prod(window_shape), mean_dtype)
    spatial = len(window_shape)
    present = jnp.ones((*(1,) * (inputs.ndim - spatial - 1), *inputs.shape[-spatial - 1 : -1], 1))
    return jnp.divide(*matched(total, pool(present, 0.0, lax.add, window_shape, strides, padding)))


def max_pool(
    inputs: Array,
    window_shape: Sequence[int],
    strides: Sequence[int] | None = None,
    padding: _Padding = "VALID",
) -> Array:
    """Return the maximum of each window.

    Args:
      inputs: ``[batch..., spatial..., channels]``.
      window_shape: the window's extent along each spatial axis.
      strides: the steps between windows; None for 1.
      padding: ``"SAME"``, ``"VALID"``, or a ``(low, high)`` pair for each spatial axis.

    Returns:
      ``[batch..., windows..., channels]``.

    Raises:
      ArgumentError: an extent, a step or a width is no whole number, or the input is no array.
      PoolingWindowError: window, strides or padding do not fit the input or one another.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> x = jnp.array([[[1.0], [2.0], [3.0], [4.0]]])
      >>> nn.max_pool(x, (2,), strides=(2,)).ravel().tolist()
      [2.0, 4.0]
    """
    return pool(inputs, -np.inf, lax.max, window_shape, strides, padding)


def min_pool(
    inputs: Array,
    window_shape: Sequence[int],
    strides: Sequence[int] | None = None,
    padding: _Padding = "VALID",
) -> Array:
    """Return the minimum of each window.

    Args:
      inputs: ``[batch..., spatial..., channels]``.
      window_shape: the window's extent along each spatial axis.
      strides: the steps between windows; None for 1.
      padding: ``"SAME"``, ``"VALID"``, or a ``(low, high)`` pair for each spatial axis.

    Returns:
      ``[batch..., windows..., channels]``.

    Raises:
      ArgumentError: an extent, a step or a width is no whole number, or the input is no array.
      PoolingWindowError: window, strides or padding do not fit the input or one another.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> x = jnp.array([[[1.0], [2.0], [3.0], [4.0]]])
      >>> nn.min_pool(x, (2,), strides=(2,)).ravel().tolist()
      [1.0, 3.0]
    """
    return pool(inputs, np.inf, lax.min, window_shape, strides, padding)


def _sum_dtype(dtype: DTypeLike, window: Sequence[int]) -> np.dtype[Any]:
    """Return what windows of numbers of a floating-point dtype are summed in."""
    if dtype == jnp.bfloat16 and math.prod(window) <= 4:
        return np.dtype(jnp.bfloat16)
    return reduction_dtype(dtype)


def _window(window_shape: Any) -> tuple[int, ...]:
    """Return the window's extents."""
    if not hasattr(window_shape, "__len__") or getattr(window_shape, "ndim", 1) == 0:
        advice = "Give one extent for each spatial axis: (2, 2) for images."
        raise PoolingWindowError(
            path="pool", argument="window_shape", given=window_shape, problem="it is no sequence", advice=advice
        )
    return whole_numbers(window_shape, "window_shape", "pool", low=1)


def _checked(
    inputs: Array, window_shape: tuple[int, ...], strides: Any, padding: Any
) -> tuple[tuple[int, ...], tuple[int, ...], str | tuple[tuple[int, int], ...]]:
    """Return window, strides and padding for every axis, of which there is at least one before the spatial axes."""
    spatial = len(window_shape)
    if inputs.ndim < spatial + 1:
        raise PoolingWindowError(
            path="pool",
            argument="window_shape",
            given=window_shape,
            problem=f"the input has shape {inputs.shape}",
            advice=f"Give an input with {spatial} spatial axes and one of channels at the end.",
        )
    before = max(1, inputs.ndim - spatial - 1)
    steps = (1,) * spatial
    if strides is not None:
        steps = whole_numbers(_per_axis("strides", strides, spatial), "strides", "pool", low=1)
    _warn_of_batch(inputs.shape, window_shape, steps)
    window = (*(1,) * before, *window_shape, 1)
    steps = (*(1,) * before, *steps, 1)
    if isinstance(padding, str):
        if padding.upper() in {"SAME", "SAME_LOWER", "VALID"}:
            return window, steps, padding.upper()
        advice = "Write 'SAME' or 'VALID', or a (low, high) pair for each spatial axis."
        raise PoolingWindowError(
            path="pool", argument="padding", given=repr(padding), problem="there is no such padding", advice=advice
        )
    pairs = _per_axis("padding", padding, spatial)
    if any(not hasattr(pair, "__len__") or len(pair) != 2 for pair in pairs):
        advice = "Give a (low, high) pair for each spatial axis: ((1, 1), (1, 1))."
        raise PoolingWindowError(
            path="pool", argument="padding", given=padding, problem="these are no pairs", advice=advice
        )
    pairs = [whole_numbers(tuple(pair), "padding", "pool", low=None) for pair in pairs]
    return window, steps, (*((0, 0),) * before, *((low, high) for low, high in pairs), (0, 0))


def _warn_of_batch(shape: tuple[int, ...], window: tuple[int, ...], steps: tuple[int, ...]) -> None:
    """Warn where the first axis, which the window moves along, is most likely a batch: the others are square."""
    spatial = shape[:-1]
    if len(spatial) != len(window) or len(window) < 2 or (window[0] == 1 and steps[0] == 1):
        return
    if len(window) == 2:
        is_likely = shape[0] != shape[1] == shape[2] > 4
        cure = "For a batch of images with one channel write x[..., None]"
    else:
        is_likely = spatial[0] != spatial[1] and len(set(spatial[1:])) == 1
        cure = f"For a batch write a window of {len(window) - 1}"
    if is_likely:
        text = f"A window of shape {window} moves along the first axis of an input of shape {shape}, as if it were "
        text += f"spatial. {cure}; x[None] says that there is no batch."
        warnings.warn(text, AxesWarning, stacklevel=4)


def _per_axis(argument: str, given: Any, spatial: int) -> tuple[Any, ...]:
    if hasattr(given, "__len__") and len(given) == spatial:
        return tuple(given)
    raise PoolingWindowError(
        path="pool",
        argument=argument,
        given=given,
        problem=f"the window has {spatial} spatial axes",
        advice="Give one entry for each spatial axis.",
    )
