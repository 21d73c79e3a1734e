"""Functions that Flax keeps to itself, and that programs take all the same to write layers of their own.

A batch renormalisation of a reinforcement-learning library, say, imports ``_compute_stats`` and ``_normalize`` from
``flax.linen.normalization``. They stand here under plain names; the modules that they are asked for in bind the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp

from batiste.compat.flax.core.frozen_dict import FrozenDict
from batiste.compat.flax.typing import Array, Axes, Dtype, Initializer
from batiste.dtypes import canonicalize_dtype, square_dtype
from batiste.nn import Module

__all__ = [
    "Sentinel",
    "canonicalize_axes",
    "canonicalize_tuple",
    "compute_stats",
    "conv_dimension_numbers",
    "freeze_attr",
    "l2_normalize",
    "normalize",
    "normalize_axes",
    "squared_size",
]


def canonicalize_axes(rank: int, axes: Axes) -> tuple[int, ...]:
    """Return axes counted from the front."""
    each = (axes,) if isinstance(axes, int) else tuple(axes)
    return tuple(axis % rank for axis in each)


def normalize_axes(axes: Sequence[int], ndim: int) -> tuple[int, ...]:
    """Return axes counted from the front, in order."""
    return tuple(sorted(axis if axis >= 0 else axis + ndim for axis in axes))


def canonicalize_tuple(x: Sequence[int] | int) -> tuple[int, ...]:
    """Return one number, or several, as a tuple."""
    return (x,) if isinstance(x, int) else tuple(x)


def conv_dimension_numbers(input_shape: Sequence[int]) -> jax.lax.ConvDimensionNumbers:
    """Return the layout of a convolution over ``[batch, spatial..., features]``."""
    rank = len(input_shape)
    last_first = (0, rank - 1, *range(1, rank - 1))
    kernel = (rank - 1, rank - 2, *range(rank - 2))
    return jax.lax.ConvDimensionNumbers(last_first, kernel, last_first)


def squared_size(x: Any) -> Any:
    """Return ``|x|^2``, real for complex numbers too."""
    return jnp.square(x.real) + jnp.square(x.imag) if jnp.iscomplexobj(x) else jnp.square(x)


def l2_normalize(x: Any, axis: Any = None, eps: float = 1e-12) -> Any:
    """Return ``x`` at length 1 along ``axis``."""
    wide = jnp.asarray(x, square_dtype(jnp.result_type(x)))
    return jnp.asarray(wide * jax.lax.rsqrt(jnp.square(wide).sum(axis=axis, keepdims=True) + eps), x.dtype)


def compute_stats(
    x: Any,
    axes: Axes,
    dtype: Dtype | None,
    axis_name: str | None = None,
    axis_index_groups: Any = None,
    use_mean: bool = True,
    use_fast_variance: bool = True,
    mask: Any = None,
    force_float32_reductions: bool = True,
) -> tuple[Array, Array]:
    """Return mean and variance over ``axes``, and over the devices of ``axis_name``.

    Args:
      x: the array.
      axes: the axes that are averaged over.
      dtype: the dtype to compute in; by default that of ``x``.
      axis_name: the mapped axis to average over.
      axis_index_groups: groups of devices.
      use_mean: whether the mean is taken; else it is 0, and the variance is the mean square.
      use_fast_variance: whether the variance is ``E[x^2] - E[x]^2``, in one pass.
      mask: which elements count.
      force_float32_reductions: whether narrower dtypes are widened first.
    """
    kind: Any = square_dtype(jnp.result_type(x) if dtype is None else dtype)
    if force_float32_reductions:
        kind = jnp.promote_types(kind, jnp.float32)
    values, over = jnp.asarray(x, kind), canonicalize_axes(jnp.ndim(x), axes)
    groups = {"axis_index_groups": axis_index_groups}

    def averaged(*arrays: Any) -> list[Any]:
        if axis_name is None:
            return [array.mean(over, where=mask) for array in arrays]
        if mask is None:
            return list(jax.lax.pmean(jnp.stack([array.mean(over) for array in arrays]), axis_name, **groups))
        counts = jnp.broadcast_to(mask, values.shape).sum(over, dtype=kind)  # members may have different ones
        sums = jnp.stack([*(array.sum(over, where=mask) for array in arrays), counts])
        add = cast("Any", jax.lax).psum
        totals = add(sums, axis_name, **groups)
        return list(totals[:-1] / totals[-1:])

    if not use_mean:
        (square,) = averaged(squared_size(values))
        return jnp.zeros_like(square), square
    if use_fast_variance:
        mean, square = averaged(values, squared_size(values))
        return mean, jnp.maximum(0.0, square - squared_size(mean))
    (mean,) = averaged(values)
    (variance,) = averaged(squared_size(values - jnp.expand_dims(mean, over)))
    return mean, variance


def normalize(
    mdl: Module,
    x: Any,
    mean: Any,
    var: Any,
    reduction_axes: Axes,
    feature_axes: Axes,
    dtype: Dtype | None,
    param_dtype: Dtype,
    epsilon: float,
    use_bias: bool,
    use_scale: bool,
    bias_init: Initializer,
    scale_init: Initializer,
    force_float32_reductions: bool = True,
) -> Array:
    """Return ``(x - mean) / sqrt(var + epsilon)``, scaled and shifted by parameters of ``mdl``."""
    rank = jnp.ndim(x)
    over, features = canonicalize_axes(rank, reduction_axes), canonicalize_axes(rank, feature_axes)
    mean, var = jnp.expand_dims(mean, over), jnp.expand_dims(var, over)
    extents = [x.shape[axis] if axis in features else 1 for axis in range(rank)]
    shape = tuple(x.shape[axis] for axis in features)
    if force_float32_reductions:
        mean, var = jnp.asarray(mean, jnp.float32), jnp.asarray(var, jnp.float32)
    taking_part = [x]
    factor = jax.lax.rsqrt(jnp.asarray(var, square_dtype(var.dtype)) + epsilon)
    if use_scale:
        scale = mdl.param("scale", scale_init, shape, param_dtype).reshape(extents)
        factor = factor * scale
        taking_part.append(scale)
    normalized = (x - mean) * factor
    if use_bias:
        bias = mdl.param("bias", bias_init, shape, param_dtype).reshape(extents)
        normalized = normalized + bias
        taking_part.append(bias)
    return jnp.asarray(normalized, canonicalize_dtype(*taking_part, dtype=dtype))


class Sentinel:
    """The class of what stands for a parent that is not given: libraries name it in annotations."""


def freeze_attr(value: Any) -> Any:
    """Return nested containers with tuples for lists and frozen dicts for dicts, as Flax keeps fields."""
    if isinstance(value, Mapping):
        items = cast("Mapping[Any, Any]", value)
        frozen: Any = {key: freeze_attr(item) for key, item in items.items()}
        return cast("Any", FrozenDict)(frozen)
    if isinstance(value, list):
        return tuple(map(freeze_attr, cast("list[Any]", value)))
    if isinstance(value, tuple) and not hasattr(cast("Any", value), "_fields"):
        return tuple(map(freeze_attr, cast("tuple[Any, ...]", value)))
    return cast("Any", value)
