"""Activation functions: those of ``jax.nn`` by their names, and ``PReLU``, the one with a parameter.

The functions are JAX's own; ``normalize`` is the name by which Linen has ``standardize``.
"""

from __future__ import annotations

import jax.numpy as jnp
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

from batiste._arguments import array, number
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

    Parameter: ``negative_slope``, one number (He and others, 2015, https://arxiv.org/abs/1502.01852).

    Attributes:
      param_dtype: what the slope is kept in.
      negative_slope_init: the first value of the slope.
    """

    param_dtype: DTypeLike = jnp.float32
    negative_slope_init: float = 0.01

    @compact
    def __call__(self, inputs: Array) -> Array:
        """Return ``inputs``, of any shape and floating-point dtype, rectified.

        Raises:
          ArgumentError: ``negative_slope_init`` is no number, or the input is no array.
        """
        inputs = array(inputs, "inputs", self)
        first = number(self.negative_slope_init, "negative_slope_init", self)
        slope = self.param("negative_slope", constant(first), (), self.param_dtype)
        return _rectify(inputs, slope)


@jitted(arrays=2)
def _rectify(inputs: Array, slope: Array) -> Array:
    return jnp.where(inputs >= 0, inputs, cast(slope, inputs.dtype) * inputs)
