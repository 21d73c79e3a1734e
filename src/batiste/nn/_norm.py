"""Normalisation without memory: layer, root-mean-square, group and instance normalisation.

All of them, and batch normalisation in ``_batch_norm.py``, are ``y = (x - mean) / sqrt(variance + epsilon) * scale +
bias``; they differ in the axes that mean and variance are taken over. Two functions hold what they share: ``moments``
takes mean and variance, ``standardized`` applies them. The order of their operations is Linen's, and so are the bits of
gradients. Each layer's computation runs in one jitted function (``_jitted.py``).

``use_fast_variance`` takes the variance as ``E[x²] - E[x]²`` in one pass over the input, else as ``E[(x - E[x])²]`` in
two, which keeps its digits where the mean is large beside the spread. ``mask`` says which entries take part in the
statistics; all are normalised. With ``axis_name`` the statistics are those of all members of that mapped axis
(``jax.vmap``, ``jax.shard_map``), or of those in one of the ``axis_index_groups``: of all their entries together, also
where masks leave some members with more entries than others. ``init`` runs outside of a mapped axis too, since there
the statistics decide nothing. Where no entry takes part, the mean is 0 and the variance 1.

``force_float32_reductions=False`` takes statistics in the dtype of the computation, but in float32 where that is
float16, in which squares from 256 on are infinite and an epsilon of 1e-8 is 0.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple
from typing import cast as cast_type

import jax.numpy as jnp
import numpy as np
from jax import lax

from batiste._arguments import array, number, whole_number
from batiste.dtypes import canonicalize_dtype, cast, matched, reduction_dtype, square_dtype
from batiste.errors import ChannelGroupsError, FeatureAxesError, GroupChoiceError, InputRankError, NormMaskShapeError
from batiste.module import Module, compact
from batiste.nn._axes import divisors, kept_extents, sorted_axes
from batiste.nn._initializers import ones, zeros
from batiste.nn._jitted import jitted
from batiste.typing import Array, ArrayLike, Axes, DTypeLike, Initializer

__all__ = ["GroupNorm", "InstanceNorm", "LayerNorm", "RMSNorm", "Statistics", "aligned_mask", "moments", "standardized"]


class Statistics(NamedTuple):
    """How the statistics of a normalisation are taken: static, and equal by value.

    Attributes:
      axes: the axes of the input that they are taken over.
      dtype: what they are taken in.
      use_mean: whether the mean is taken and subtracted.
      use_fast_variance: whether the variance is taken in one pass.
      axis_name: a mapped axis whose members share their statistics.
      axis_index_groups: the groups of members that share them; None for all.
    """

    axes: tuple[int, ...]
    dtype: np.dtype[Any]
    use_mean: bool
    use_fast_variance: bool
    axis_name: str | None
    axis_index_groups: tuple[tuple[int, ...], ...] | None

    @classmethod
    def of(cls, layer: Any, x: Array, axes: tuple[int, ...], *, use_mean: bool = True) -> Statistics:
        """Return how ``layer`` takes statistics of ``x`` over ``axes``, from the options that all layers here have."""
        dtype = np.dtype(x.dtype if layer.dtype is None else canonicalize_dtype(dtype=layer.dtype, inexact=False))
        groups = layer.axis_index_groups
        return cls(
            axes=axes,
            dtype=np.dtype(reduction_dtype(dtype) if layer.force_float32_reductions else square_dtype(dtype)),
            use_mean=use_mean,
            use_fast_variance=layer.use_fast_variance,
            axis_name=None if layer.axis_name is None or layer.is_initializing() else layer.axis_name,
            axis_index_groups=None if groups is None else tuple(tuple(group) for group in groups),
        )


class LayerNorm(Module):
    """Layer normalisation: each example is normalised over its features.

    ``y = (x - mean) / sqrt(variance + epsilon) * scale + bias`` with mean and variance over ``reduction_axes`` (Ba,
    Kiros and Hinton, 2016, https://arxiv.org/abs/1607.06450). Parameters: ``scale`` and ``bias`` with the extents of
    ``feature_axes``.

    Attributes:
      epsilon: keeps the division away from zero.
      dtype: what comes out; None takes what input and parameters promote to.
      param_dtype: what parameters are kept in.
      use_bias: whether a bias is added.
      use_scale: whether the result is scaled; a linear layer after this one can do it as well.
      bias_init: draws the bias.
      scale_init: draws the scale.
      reduction_axes: the axes that statistics are taken over.
      feature_axes: the axes that scale and bias have.
      axis_name: a mapped axis whose members share their statistics.
      axis_index_groups: the groups of members that share them; None for all.
      use_fast_variance: whether the variance is taken in one pass.
      force_float32_reductions: whether statistics are taken in at least float32.
    """

    epsilon: float = 1e-6
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    use_bias: bool = True
    use_scale: bool = True
    bias_init: Initializer = zeros
    scale_init: Initializer = ones
    reduction_axes: Axes = -1
    feature_axes: Axes = -1
    axis_name: str | None = None
    axis_index_groups: Any = None
    use_fast_variance: bool = True
    force_float32_reductions: bool = True

    @compact
    def __call__(self, x: Array, *, mask: ArrayLike | None = None) -> Array:
        """Return ``x``, of any shape, normalised.

        Args:
          x: the input.
          mask: true where an entry takes part in the statistics; broadcast to the input.

        Raises:
          ArgumentError: ``epsilon`` or the axes are no numbers, or the input is no array.
          AxesError: an axis is out of range or named twice.
          NormMaskShapeError: the mask does not broadcast to the input.
        """
        x = array(x, "x", self)
        axes = sorted_axes(self.reduction_axes, x.ndim, argument="reduction_axes", layer=self)
        features = sorted_axes(self.feature_axes, x.ndim, argument="feature_axes", layer=self)
        return _normalized(self, x, mask, Statistics.of(self, x, axes), features)


class RMSNorm(Module):
    """Root-mean-square normalisation: layer normalisation that leaves the mean alone.

    ``y = x / sqrt(mean of x² + epsilon) * scale`` over ``reduction_axes`` (Zhang and Sennrich, 2019,
    https://arxiv.org/abs/1910.07467). Parameter: ``scale`` with the extents of ``feature_axes``.

    Attributes:
      epsilon: keeps the division away from zero.
      dtype: what comes out; None takes what input and parameters promote to.
      param_dtype: what parameters are kept in.
      use_scale: whether the result is scaled.
      scale_init: draws the scale.
      reduction_axes: the axes that statistics are taken over.
      feature_axes: the axes that the scale has.
      axis_name: a mapped axis whose members share their statistics.
      axis_index_groups: the groups of members that share them; None for all.
      use_fast_variance: has no effect, since there is no mean to subtract; here for Linen's signature.
      force_float32_reductions: whether statistics are taken in at least float32.
    """

    epsilon: float = 1e-6
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    use_scale: bool = True
    scale_init: Initializer = ones
    reduction_axes: Axes = -1
    feature_axes: Axes = -1
    axis_name: str | None = None
    axis_index_groups: Any = None
    use_fast_variance: bool = True
    force_float32_reductions: bool = True

    @compact
    def __call__(self, x: Array, *, mask: ArrayLike | None = None) -> Array:
        """Return ``x``, of any shape, normalised.

        Args:
          x: the input.
          mask: true where an entry takes part in the statistics; broadcast to the input.

        Raises:
          ArgumentError: ``epsilon`` or the axes are no numbers, or the input is no array.
          AxesError: an axis is out of range or named twice.
          NormMaskShapeError: the mask does not broadcast to the input.
        """
        x = array(x, "x", self)
        axes = sorted_axes(self.reduction_axes, x.ndim, argument="reduction_axes", layer=self)
        features = sorted_axes(self.feature_axes, x.ndim, argument="feature_axes", layer=self)
        return _normalized(self, x, mask, Statistics.of(self, x, axes, use_mean=False), features)


class GroupNorm(Module):
    """Group normalisation: each example is normalised over its positions, in groups of channels.

    ``[batch, positions..., channels]``; a group's mean and variance are over its channels and all positions (Wu and He,
    2018, https://arxiv.org/abs/1803.08494). With one group this is layer normalisation over all but the batch axis,
    with as many as channels instance normalisation. Parameters: ``scale`` and ``bias``, ``[channels]``.

    Attributes:
      num_groups: how many groups there are; None if ``group_size`` says it.
      group_size: how many channels are in a group.
      epsilon: keeps the division away from zero.
      dtype: what comes out; None takes what input and parameters promote to.
      param_dtype: what parameters are kept in.
      use_bias: whether a bias is added.
      use_scale: whether the result is scaled.
      bias_init: draws the bias.
      scale_init: draws the scale.
      reduction_axes: the axes that statistics are taken over, the last one among them; None takes all but the first.
        Inputs with more batch axes than one need it.
      axis_name: a mapped axis whose members share their statistics.
      axis_index_groups: the groups of members that share them; None for all.
      use_fast_variance: whether the variance is taken in one pass.
      force_float32_reductions: whether statistics are taken in at least float32.
    """

    num_groups: int | None = 32
    group_size: int | None = None
    epsilon: float = 1e-6
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    use_bias: bool = True
    use_scale: bool = True
    bias_init: Initializer = zeros
    scale_init: Initializer = ones
    reduction_axes: Axes | None = None
    axis_name: str | None = None
    axis_index_groups: Any = None
    use_fast_variance: bool = True
    force_float32_reductions: bool = True

    @compact
    def __call__(self, x: Array, *, mask: ArrayLike | None = None) -> Array:
        """Return ``x`` ``[batch, positions..., channels]`` normalised.

        Args:
          x: the input.
          mask: true where an entry takes part in the statistics; broadcast to the input.

        Raises:
          ArgumentError: ``epsilon``, the groups or the axes are no numbers, or the input is no array.
          GroupChoiceError: not exactly one of ``num_groups`` and ``group_size`` is given.
          ChannelGroupsError: the channels cannot be shared out evenly.
          FeatureAxesError: ``reduction_axes`` leaves out the channels.
          AxesError: an axis is out of range or named twice.
          NormMaskShapeError: the mask does not broadcast to the input.
        """
        x = array(x, "x", self)
        if x.ndim == 0:
            raise InputRankError(path=self.path, shape=x.shape, expected="at least one axis, [..., channels]")
        channels = x.ndim - 1
        if self.reduction_axes is None:
            axes = (*range(1, channels), channels)
        else:
            axes = sorted_axes(self.reduction_axes, x.ndim, argument="reduction_axes", layer=self)
        if channels not in axes:
            problem = "statistics are of groups of channels, so that the last axis must be among the axes"
            raise FeatureAxesError(
                path=self.path,
                argument="reduction_axes",
                given=self.reduction_axes,
                shape=x.shape,
                problem=problem,
                advice=f"Write reduction_axes={(*axes, -1)}, or None for all axes but the first.",
            )
        num_groups = _num_groups(self, x.shape[channels])
        grouped_axes = (*axes[:-1], channels + 1)  # of [..., groups, channels of a group]
        return _normalized(self, x, mask, Statistics.of(self, x, grouped_axes), (channels,), num_groups)


class InstanceNorm(Module):
    """Instance normalisation: each channel of each example is normalised over its positions.

    ``[batch, positions and channels...]``; statistics are over the axes that are neither the first nor one of
    ``feature_axes`` (Ulyanov, Vedaldi and Lempitsky, 2016, https://arxiv.org/abs/1607.08022). Parameters: ``scale`` and
    ``bias`` with the extents of ``feature_axes``.

    Attributes:
      epsilon: keeps the division away from zero.
      dtype: what comes out; None takes what input and parameters promote to.
      param_dtype: what parameters are kept in.
      use_bias: whether a bias is added.
      use_scale: whether the result is scaled.
      bias_init: draws the bias.
      scale_init: draws the scale.
      feature_axes: the axes of the channels.
      axis_name: a mapped axis whose members share their statistics.
      axis_index_groups: the groups of members that share them; None for all.
      use_fast_variance: whether the variance is taken in one pass.
      force_float32_reductions: whether statistics are taken in at least float32.
    """

    epsilon: float = 1e-6
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    use_bias: bool = True
    use_scale: bool = True
    bias_init: Initializer = zeros
    scale_init: Initializer = ones
    feature_axes: Axes = -1
    axis_name: str | None = None
    axis_index_groups: Any = None
    use_fast_variance: bool = True
    force_float32_reductions: bool = True

    @compact
    def __call__(self, x: Array, *, mask: ArrayLike | None = None) -> Array:
        """Return ``x`` ``[batch, ...]`` normalised.

        Args:
          x: the input.
          mask: true where an entry takes part in the statistics; broadcast to the input.

        Raises:
          ArgumentError: ``epsilon`` or the axes are no numbers, or the input is no array.
          FeatureAxesError: the batch axis is among the feature axes.
          AxesError: an axis is out of range or named twice.
          NormMaskShapeError: the mask does not broadcast to the input.
        """
        x = array(x, "x", self)
        features = sorted_axes(self.feature_axes, x.ndim, argument="feature_axes", layer=self)
        if 0 in features:
            raise FeatureAxesError(
                path=self.path,
                argument="feature_axes",
                given=self.feature_axes,
                shape=x.shape,
                problem="the first axis counts the examples and is none of features",
                advice="Leave axis 0 out; an input without a batch axis takes one by x[None].",
            )
        axes = tuple(axis for axis in range(1, x.ndim) if axis not in features)
        return _normalized(self, x, mask, Statistics.of(self, x, axes), features)


def aligned_mask(mask: ArrayLike, shape: tuple[int, ...], path: tuple[str, ...]) -> Array:
    """Return ``mask`` as Booleans with as many axes as ``shape``.

    Raises:
      NormMaskShapeError: the mask does not broadcast to ``shape``.
    """
    given = jnp.shape(mask)
    padded = (*(1,) * (len(shape) - len(given)), *given)
    if len(padded) != len(shape) or any(m not in {1, n} for m, n in zip(padded, shape, strict=True)):
        raise NormMaskShapeError(path=path, given=given, expected=shape)
    return jnp.reshape(cast(mask, jnp.bool_), padded)


def moments(x: Array, mask: Array | None, how: Statistics) -> tuple[Array, Array, Array | None]:
    """Return the mean and the variance of ``x`` without the axes they are taken over, and where there is one.

    The variance of complex numbers is the mean square of their distance from the mean. The third result is None where
    every mean has entries; the others are 0 and 1 where it is false.
    """
    x = cast(x, how.dtype)
    if _is_empty(x, how):
        return _of_nothing(x, how)
    mean_of, present = _mean_of(x, mask, how)
    if not how.use_fast_variance:
        (mean,) = mean_of(x)
        (variance,) = mean_of(_squared_size(x - jnp.expand_dims(mean, how.axes)))
    else:
        # The square comes before both means. The gradient adds up cotangents in the reverse order of the operations,
        # and with a mean before the square XLA's CPU backend copies more of the norm into the operations around
        # it: six transformer blocks have 11,130 instructions in place of 4,790 (tests/nn/test_compiled.py).
        mean, square = mean_of(x, _squared_size(x))
        variance = jnp.maximum(0.0, square - _squared_size(mean))
    return mean, variance if present is None else jnp.where(present, variance, 1), present


def mean_square(x: Array, mask: Array | None, how: Statistics) -> Array:
    """Return the mean of ``x²`` without the axes that it is taken over, and 1 where there is nothing to average."""
    x = cast(x, how.dtype)
    if _is_empty(x, how):
        return _of_nothing(x, how)[1]
    mean_of, present = _mean_of(x, mask, how)
    (square,) = mean_of(_squared_size(x))
    return square if present is None else jnp.where(present, square, 1)


def standardized(
    x: Array,
    mean: Array | None,
    variance: Array,
    scale: Array | None,
    bias: Array | None,
    extents: tuple[int, ...],
    epsilon: float,
    dtype: DTypeLike,
) -> Array:
    """Return ``(x - mean) / sqrt(variance + epsilon) * scale + bias`` in ``dtype``.

    Args:
      x: the input.
      mean: with as many axes as the input; None for 0.
      variance: likewise.
      scale: reshaped to ``extents``; None for 1.
      bias: likewise; None for 0.
      extents: those of the input along the feature axes, and 1 along the others.
      epsilon: keeps the division away from zero.
      dtype: what comes out.
    """
    factor = lax.rsqrt(cast(variance, square_dtype(variance.dtype)) + epsilon)
    if scale is not None:
        factor = jnp.multiply(*matched(factor, jnp.reshape(scale, extents)))
    y = x if mean is None else jnp.subtract(*matched(x, mean))
    y = jnp.multiply(*matched(y, factor))
    if bias is not None:
        y = jnp.add(*matched(y, jnp.reshape(bias, extents)))
    return cast(y, dtype)


def _normalized(
    layer: Any,
    x: Array,
    mask: ArrayLike | None,
    how: Statistics,
    features: tuple[int, ...],
    num_groups: int | None = None,
) -> Array:
    """Make the parameters of ``layer``, and return ``x`` normalised with statistics taken as ``how`` says."""
    epsilon = number(layer.epsilon, "epsilon", layer, low=0)
    aligned = None if mask is None else aligned_mask(mask, x.shape, layer.path)
    shape = tuple(x.shape[axis] for axis in features)
    scale = layer.param("scale", layer.scale_init, shape, layer.param_dtype) if layer.use_scale else None
    use_bias = getattr(layer, "use_bias", False)
    bias = layer.param("bias", layer.bias_init, shape, layer.param_dtype) if use_bias else None
    dtype = np.dtype(canonicalize_dtype(x, scale, bias, dtype=layer.dtype))
    extents = kept_extents(x.shape, features)
    return _take_and_apply(x, aligned, scale, bias, how, num_groups, extents, epsilon, dtype)


@jitted(arrays=4)
def _take_and_apply(
    x: Array,
    mask: Array | None,
    scale: Array | None,
    bias: Array | None,
    how: Statistics,
    num_groups: int | None,
    extents: tuple[int, ...],
    epsilon: float,
    dtype: np.dtype[Any],
) -> Array:
    axes = how.axes
    if not how.use_mean:
        mean, variance = None, mean_square(x, mask, how)
    elif num_groups is None:
        mean, variance, _ = moments(x, mask, how)
    else:
        axes = axes[:-1]
        *others, channels = x.shape
        split = (*others, num_groups, channels // num_groups)
        if mask is not None:
            *of_others, of_channels = mask.shape
            mask = jnp.reshape(mask, (*of_others, *(split[-2:] if of_channels == channels else (1, 1))))
        mean, variance, _ = moments(jnp.reshape(x, split), mask, how)  # [..., groups]
        mean, variance = (jnp.repeat(each, split[-1], axis=-1) for each in (mean, variance))  # [..., channels]
    mean = None if mean is None else jnp.expand_dims(mean, axes)
    return standardized(x, mean, jnp.expand_dims(variance, axes), scale, bias, extents, epsilon, dtype)


def _num_groups(layer: GroupNorm, channels: int) -> int:
    num_groups, group_size = layer.num_groups, layer.group_size
    if (num_groups is None) == (group_size is None):
        raise GroupChoiceError(path=layer.path, num_groups=num_groups, group_size=group_size)
    argument, given = ("num_groups", num_groups) if group_size is None else ("group_size", group_size)
    given = whole_number(given, argument, layer, low=None)
    if given < 1 or channels % given:
        raise ChannelGroupsError(
            path=layer.path,
            channels=channels,
            what="channels",
            argument=argument,
            given=given,
            divisors=divisors(channels),
        )
    return given if group_size is None else channels // given


def _squared_size(x: Array) -> Array:
    if jnp.iscomplexobj(x):
        return lax.square(lax.real(x)) + lax.square(lax.imag(x))
    return lax.square(x)


def _is_empty(x: Array, how: Statistics) -> bool:
    """Return whether there is nothing to average along the axes."""
    return any(x.shape[axis] == 0 for axis in how.axes)


def _of_nothing(x: Array, how: Statistics) -> tuple[Array, Array, Array]:
    kept = tuple(extent for axis, extent in enumerate(x.shape) if axis not in how.axes)
    return jnp.zeros(kept, x.dtype), jnp.ones(kept, jnp.abs(x).dtype), jnp.zeros(kept, jnp.bool_)


def _mean_of(x: Array, mask: Array | None, how: Statistics) -> tuple[Callable[..., tuple[Array, ...]], Array | None]:
    """Return a function that takes means of arrays of the shape of ``x``, and where there are any; None: everywhere."""
    if mask is None:

        def mean_of(*arrays: Array) -> tuple[Array, ...]:
            return _shared(tuple(jnp.mean(array, axis=how.axes) for array in arrays), how)

        return mean_of, None
    # As jnp.mean(where=mask) has it, with the counts of all members, and without a division by 0.
    wide = reduction_dtype(_squared_size(x[:0]).dtype) if jnp.iscomplexobj(x) else reduction_dtype(x.dtype)
    add: Callable[..., Any] = cast_type("Any", lax).psum
    (count,) = _shared((jnp.sum(jnp.broadcast_to(mask, x.shape), axis=how.axes, dtype=wide),), how, add)
    entries = jnp.maximum(count, 1)

    def masked_mean_of(*arrays: Array) -> tuple[Array, ...]:
        sums = [jnp.sum(array, axis=how.axes, dtype=reduction_dtype(array.dtype), where=mask) for array in arrays]
        totals = _shared(tuple(sums), how, add)
        means = [total / cast(entries, total.dtype) for total in totals]
        return tuple(cast(mean, array.dtype) for mean, array in zip(means, arrays, strict=True))

    return masked_mean_of, count > 0


def _shared(
    statistics: tuple[Array, ...], how: Statistics, reduce: Callable[..., Any] = lax.pmean
) -> tuple[Array, ...]:
    """Return the mean, or the sum, of statistics over the mapped axis, if there is one."""
    if how.axis_name is None:
        return statistics
    share = functools.partial(reduce, axis_name=how.axis_name, axis_index_groups=how.axis_index_groups)
    if len(statistics) == 1 or statistics[0].dtype != statistics[1].dtype:
        return tuple(map(share, statistics))
    return tuple(share(jnp.stack(statistics)))  # one message, not two
