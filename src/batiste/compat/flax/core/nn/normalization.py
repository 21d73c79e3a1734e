"""Normalisation as functions of a scope: ``flax.core.nn.normalization``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from batiste.compat.flax.core.lift import swap_collection
from batiste.nn import BatchNorm, GroupNorm, LayerNorm
from batiste.nn.initializers import ones, zeros

__all__ = ["batch_norm", "group_norm", "layer_norm"]


def batch_norm(
    scope: Any,
    x: Any,
    use_running_average: bool = False,
    axis: int | tuple[int, ...] = -1,
    momentum: float = 0.99,
    epsilon: float = 1e-5,
    dtype: Any = jnp.float32,
    bias: bool = True,
    scale: bool = True,
    bias_init: Callable[..., Any] = zeros,
    scale_init: Callable[..., Any] = ones,
    axis_name: str | None = None,
    axis_index_groups: Any = None,
    kind: str = "batch_stats",
) -> Any:
    """Return ``x`` normalised over all axes but ``axis``: ``linen.BatchNorm``, whose arguments these are.

    Args:
      scope: where ``scale`` and ``bias`` stand, and the running averages ``mean`` and ``var``.
      x: the input.
      use_running_average: whether the running averages normalise.
      axis: the feature axes.
      momentum: how slowly the running averages move.
      epsilon: keeps the division away from zero.
      dtype: what comes out.
      bias: whether a bias is added.
      scale: whether the result is scaled.
      bias_init: draws the bias.
      scale_init: draws the scale.
      axis_name: a mapped axis whose members share their statistics.
      axis_index_groups: the groups of members that share them.
      kind: the collection of the running averages.
    """

    def normalize(scope: Any, x: Any) -> Any:
        layer = BatchNorm(
            axis=axis,
            momentum=momentum,
            epsilon=epsilon,
            dtype=dtype,
            use_bias=bias,
            use_scale=scale,
            bias_init=bias_init,
            scale_init=scale_init,
            axis_name=axis_name,
            axis_index_groups=axis_index_groups,
            parent=scope,
        )
        return layer(x, use_running_average=use_running_average)

    if kind != "batch_stats":
        normalize = swap_collection(normalize, kind, "batch_stats")
    return normalize(scope, x)


def layer_norm(
    scope: Any,
    x: Any,
    epsilon: float = 1e-6,
    dtype: Any = jnp.float32,
    bias: bool = True,
    scale: bool = True,
    bias_init: Callable[..., Any] = zeros,
    scale_init: Callable[..., Any] = ones,
) -> Any:
    """Return ``x`` ``[batch..., features]`` normalised over its features: ``linen.LayerNorm``.

    Args:
      scope: where ``scale`` and ``bias`` stand.
      x: the input.
      epsilon: keeps the division away from zero.
      dtype: what comes out.
      bias: whether a bias is added.
      scale: whether the result is scaled.
      bias_init: draws the bias.
      scale_init: draws the scale.
    """
    layer = LayerNorm(
        epsilon=epsilon,
        dtype=dtype,
        use_bias=bias,
        use_scale=scale,
        bias_init=bias_init,
        scale_init=scale_init,
        parent=scope,
    )
    return layer(x)


def group_norm(
    scope: Any,
    x: Any,
    num_groups: int | None = 32,
    group_size: int | None = None,
    epsilon: float = 1e-6,
    dtype: Any = jnp.float32,
    bias: bool = True,
    scale: bool = True,
    bias_init: Callable[..., Any] = zeros,
    scale_init: Callable[..., Any] = ones,
) -> Any:
    """Return ``x`` ``[batch, positions..., channels]`` normalised in groups of channels: ``linen.GroupNorm``.

    ``scale`` and ``bias`` have as many axes as the input here, and extent 1 along all but the last.

    Args:
      scope: where ``scale`` and ``bias`` stand.
      x: the input.
      num_groups: how many groups there are; None if ``group_size`` says it.
      group_size: how many channels are in a group.
      epsilon: keeps the division away from zero.
      dtype: what comes out.
      bias: whether a bias is added.
      scale: whether the result is scaled.
      bias_init: draws the bias.
      scale_init: draws the scale.

    Raises:
      GroupChoiceError: not exactly one of ``num_groups`` and ``group_size`` is given.
      ChannelGroupsError: the channels cannot be shared out evenly.
    """
    layer = GroupNorm(num_groups, group_size, epsilon, use_bias=False, use_scale=False, parent=scope)
    y = layer(x)
    shape = (*(1,) * (x.ndim - 1), x.shape[-1])
    if scale:
        y = y * scope.param("scale", scale_init, shape)
    if bias:
        y = y + scope.param("bias", bias_init, shape)
    return y.astype(dtype)
