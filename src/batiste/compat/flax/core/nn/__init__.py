"""Layers as functions of a scope: ``flax.core.nn``.

``dense(scope, x, 3)`` makes its parameters in the scope, as ``linen.Dense`` does in that of its module;
``scope.child(dense, "first")(x, 3)`` gives them a scope of their own. Where batiste has the layer as a module, that
module stands at the scope and does the work; attention, which differs from today's in Flax too, is in ``attention.py``.
"""

from __future__ import annotations

from batiste.compat.flax.core.nn import attention, linear, normalization, stochastic
from batiste.compat.flax.core.nn.attention import dot_product_attention, multi_head_dot_product_attention
from batiste.compat.flax.core.nn.linear import Embedding, conv, conv_transpose, dense, dense_general, embedding
from batiste.compat.flax.core.nn.normalization import batch_norm, group_norm, layer_norm
from batiste.compat.flax.core.nn.stochastic import dropout
from batiste.compat.flax.linen import activation, initializers
from batiste.nn import (
    avg_pool,
    celu,
    elu,
    gelu,
    glu,
    leaky_relu,
    log_sigmoid,
    log_softmax,
    max_pool,
    relu,
    sigmoid,
    silu,
    soft_sign,
    softmax,
    softplus,
    swish,
    tanh,
)

__all__ = [
    "Embedding",
    "activation",
    "attention",
    "avg_pool",
    "batch_norm",
    "celu",
    "conv",
    "conv_transpose",
    "dense",
    "dense_general",
    "dot_product_attention",
    "dropout",
    "elu",
    "embedding",
    "gelu",
    "glu",
    "group_norm",
    "initializers",
    "layer_norm",
    "leaky_relu",
    "linear",
    "log_sigmoid",
    "log_softmax",
    "max_pool",
    "multi_head_dot_product_attention",
    "normalization",
    "relu",
    "sigmoid",
    "silu",
    "soft_sign",
    "softmax",
    "softplus",
    "stochastic",
    "swish",
    "tanh",
]
