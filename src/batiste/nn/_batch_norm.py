"""Batch normalisation: normalisation with the statistics of the batch, and a memory of them for evaluation.

The running averages are variables of the collection ``batch_stats``. In training (``use_running_average=False``) the
batch's own statistics normalise, and the averages move towards them, so that ``batch_stats`` must be among the
``mutable`` collections of ``apply``; in evaluation the averages normalise, and nothing is written. During ``init`` the
averages keep their initial values, and ``axis_name`` is not used, so that ``init`` may run outside of the mapped axis.
A batch that is empty, or that a mask leaves nothing of, moves no averages.

The statistics themselves, their masks and their mapped axes are in ``_norm.py``.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from batiste._arguments import array, number
from batiste.dtypes import canonicalize_dtype, cast, matched
from batiste.module import Module, compact, merge_param
from batiste.nn._axes import kept_extents, sorted_axes
from batiste.nn._initializers import ones, zeros
from batiste.nn._jitted import jitted
from batiste.nn._norm import Statistics, aligned_mask, moments, standardized
from batiste.typing import Array, ArrayLike, Axes, DTypeLike, Initializer

__all__ = ["BatchNorm"]


class BatchNorm(Module):
    """Batch normalisation: each feature is normalised over the batch and all positions.

    ``y = (x - mean) / sqrt(variance + epsilon) * scale + bias`` (Ioffe and Szegedy, 2015,
    https://arxiv.org/abs/1502.03167). In training ``average = momentum * average + (1 - momentum) * statistic`` moves
    the running averages; the variance is that of the batch, without Bessel's correction. Parameters: ``scale`` and
    ``bias``; variables: ``batch_stats`` ``mean`` and ``var``; all with the extents of ``axis``.

    Attributes:
      use_running_average: whether the running averages normalise; may be given to the call instead.
      axis: the feature axis, or axes.
      momentum: how much of the running averages is kept at each step.
      epsilon: keeps the division away from zero.
      dtype: what comes out; None takes what input and parameters promote to.
      param_dtype: what parameters are kept in.
      use_bias: whether a bias is added.
      use_scale: whether the result is scaled.
      bias_init: draws the bias.
      scale_init: draws the scale.
      axis_name: a mapped axis whose members share their statistics; under ``jax.jit`` with sharded inputs none is
        needed.
      axis_index_groups: the groups of members that share them; None for all.
      use_fast_variance: whether the variance is taken in one pass.
      force_float32_reductions: whether statistics are taken in at least float32, and averages kept in it; if not, they
        are kept in ``param_dtype``.
    """

    use_running_average: bool | None = None
    axis: Axes = -1
    momentum: float = 0.99
    epsilon: float = 1e-5
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    use_bias: bool = True
    use_scale: bool = True
    bias_init: Initializer = zeros
    scale_init: Initializer = ones
    axis_name: str | None = None
    axis_index_groups: Any = None
    use_fast_variance: bool = True
    force_float32_reductions: bool = True

    @compact
    def __call__(self, x: Array, use_running_average: bool | None = None, *, mask: ArrayLike | None = None) -> Array:
        """Return ``x``, of any shape, normalised.

        Args:
          x: the input.
          use_running_average: whether the running averages normalise, if the constructor does not say.
          mask: true where an entry takes part in the statistics; broadcast to the input.

        Raises:
          ArgumentError: ``epsilon``, ``momentum`` or the axes are no numbers, or the input is no array.
          AxesError: an axis is out of range or named twice.
          NormMaskShapeError: the mask does not broadcast to the input.
          ModifyScopeVariableError: the running averages move, and ``batch_stats`` is not mutable.
        """
        x = array(x, "x", self)
        epsilon = number(self.epsilon, "epsilon", self, low=0)
        momentum: Any = self.momentum
        if not isinstance(momentum, jnp.ndarray):  # a schedule may trace it
            momentum = number(self.momentum, "momentum", self, low=0, high=1)
        use_average = merge_param("use_running_average", self.use_running_average, use_running_average)
        features = sorted_axes(self.axis, x.ndim, argument="axis", layer=self)
        axes = tuple(axis for axis in range(x.ndim) if axis not in features)
        shape = tuple(x.shape[axis] for axis in features)
        aligned = None if mask is None else aligned_mask(mask, x.shape, self.path)
        kept_in = jnp.float32 if self.force_float32_reductions else self.param_dtype
        mean = self.variable("batch_stats", "mean", zeros, None, shape, kept_in)
        var = self.variable("batch_stats", "var", ones, None, shape, kept_in)
        scale = self.param("scale", self.scale_init, shape, self.param_dtype) if self.use_scale else None
        bias = self.param("bias", self.bias_init, shape, self.param_dtype) if self.use_bias else None
        dtype = np.dtype(canonicalize_dtype(x, scale, bias, dtype=self.dtype))
        extents = kept_extents(x.shape, features)
        if use_average:
            return _apply_averages(x, mean.value, var.value, scale, bias, extents, epsilon, dtype)
        how = Statistics.of(self, x, axes)
        y, batch_mean, batch_var, present = _apply_statistics(x, aligned, scale, bias, how, extents, epsilon, dtype)
        if not self.is_initializing():
            move: Any = _move_jitted if isinstance(momentum, float) else _move
            mean.value, var.value = move(mean.value, var.value, batch_mean, batch_var, present, momentum)
        return y


@jitted(arrays=5)
def _apply_averages(
    x: Array,
    mean: Array,
    var: Array,
    scale: Array | None,
    bias: Array | None,
    extents: tuple[int, ...],
    epsilon: float,
    dtype: np.dtype[Any],
) -> Array:
    return standardized(x, jnp.reshape(mean, extents), jnp.reshape(var, extents), scale, bias, extents, epsilon, dtype)


@jitted(arrays=4)
def _apply_statistics(
    x: Array,
    mask: Array | None,
    scale: Array | None,
    bias: Array | None,
    how: Statistics,
    extents: tuple[int, ...],
    epsilon: float,
    dtype: np.dtype[Any],
) -> tuple[Array, Array, Array, Array | None]:
    mean, var, present = moments(x, mask, how)
    wide_mean, wide_var = jnp.expand_dims(mean, how.axes), jnp.expand_dims(var, how.axes)
    return standardized(x, wide_mean, wide_var, scale, bias, extents, epsilon, dtype), mean, var, present


def _move(
    mean: Array, var: Array, batch_mean: Array, batch_var: Array, present: Array | None, momentum: float
) -> tuple[Array, Array]:
    """Return the running averages, moved towards the statistics of the batch where it has any."""
    rest = 1 - momentum
    moved = (
        jnp.add(*matched(momentum * mean, rest * batch_mean)),
        jnp.add(*matched(momentum * var, rest * batch_var)),
    )
    if present is None:
        return moved
    kept = (cast(mean, moved[0].dtype), cast(var, moved[1].dtype))
    return jnp.where(present, moved[0], kept[0]), jnp.where(present, moved[1], kept[1])


_move_jitted = jitted(arrays=5)(_move)
