"""Activation functions: those of ``jax.nn`` by their names, and ``PReLU``, the one with a parameter.

The functions are JAX's own; ``normalize`` is the name by which Linen has ``standardize``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.nn import (
    celu,
    elu,
    gelu,
    glu,
    hard_sigmoid,
    hard_silu,
    hard_swish,
    hard_tanh,
    identity,
    leaky_relu,
    log_sigmoid,
    log_softmax,
    logsumexp,
    mish,
    one_hot,
    relu,
    relu6,
    selu,
    sigmoid,
    silu,
    soft_sign,
    softmax,
    softplus,
    sparse_plus,
    sparse_sigmoid,
    squareplus,
    standardize,
    swish,
)
from jax.numpy import tanh

from batiste._arguments import array, number, refused
from batiste.dtypes import cast
from batiste.module import Module, compact
from batiste.nn._initializers import constant
from batiste.nn._jitted import jitted
from batiste.typing import Array, DTypeLike

__all__ = [
    "PReLU",
    "celu",
    "elu",
    "gelu",
    "glu",
    "hard_sigmoid",
    "hard_silu",
    "hard_swish",
    "hard_tanh",
    "identity",
    "leaky_relu",
    "log_sigmoid",
    "log_softmax",
    "logsumexp",
    "mish",
    "normalize",
    "one_hot",
    "relu",
    "relu6",
    "selu",
    "sigmoid",
    "silu",
    "soft_sign",
    "softmax",
    "softplus",
    "sparse_plus",
    "sparse_sigmoid",
    "squareplus",
    "standardize",
    "swish",
    "tanh",
]

normalize = standardize


class PReLU(Module):
    """The rectifier with a learned slope for negative inputs: ``y = x`` where ``x >= 0``, else ``slope * x``.

    Parameter: ``negative_slope``, one number, or one a channel where ``negative_slope_init`` has as many
    (He and others, 2015, https://arxiv.org/abs/1502.01852).

    Attributes:
      param_dtype: what the slope is kept in.
      negative_slope_init: the first value of the slope, or the first values of the slopes of the last axis.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> layer = nn.PReLU()
      >>> variables = {"params": {"negative_slope": 0.5}}
      >>> layer.apply(variables, jnp.array([-2.0, 3.0])).tolist()
      [-1.0, 3.0]
    """

    param_dtype: DTypeLike = jnp.float32
    negative_slope_init: float | Sequence[float] | np.ndarray[Any, Any] = 0.01

    @compact
    def __call__(self, inputs: Array) -> Array:
        """Return ``inputs``, of any shape and floating-point dtype, rectified.

        Raises:
          ArgumentError: ``negative_slope_init`` is neither a number nor numbers, or the input is no array.
        """
        inputs = array(inputs, "inputs", self)
        first: Any = self.negative_slope_init
        if isinstance(first, str) or not hasattr(first, "__len__"):
            first = number(first, "negative_slope_init", self)
        first = np.asarray(first)
        shape: tuple[int, ...] = first.shape
        if shape and shape != inputs.shape[inputs.ndim - len(shape) :]:
            expected = f"a number, or numbers of the last axes of the input, of shape {inputs.shape}"
            raise refused(self.negative_slope_init, "negative_slope_init", self, expected)
        slope = self.param("negative_slope", constant(first), shape, self.param_dtype)
        return _rectify(inputs, slope)


@jitted(arrays=2)
def _rectify(inputs: Array, slope: Array) -> Array:
    if slope.ndim:  # one a channel, on the last axis
        slope = jnp.expand_dims(slope, range(inputs.ndim - slope.ndim))
    return jnp.where(inputs >= 0, inputs, cast(slope, inputs.dtype) * inputs)
