"""Attention and its masks: ``flax.linen.attention``."""

from __future__ import annotations

from batiste.compat.flax.linen.linear import (
    default_kernel_init,
)
from batiste.compat.flax.typing import (
    Array,
    DotGeneralT,
    Dtype,
    Initializer,
    PrecisionLike,
    PRNGKey,
    Shape,
)
from batiste.dtypes import (
    promote_dtype,
)
from batiste.nn import (
    DenseGeneral,
    LayerNorm,
    Module,
    MultiHeadAttention,
    MultiHeadDotProductAttention,
    SelfAttention,
    combine_masks,
    compact,
    dot_product_attention,
    dot_product_attention_weights,
    initializers,
    make_attention_mask,
    make_causal_mask,
    merge_param,
)

__all__ = [
    "Array",
    "DenseGeneral",
    "DotGeneralT",
    "Dtype",
    "Initializer",
    "LayerNorm",
    "Module",
    "MultiHeadAttention",
    "MultiHeadDotProductAttention",
    "PRNGKey",
    "PrecisionLike",
    "SelfAttention",
    "Shape",
    "combine_masks",
    "compact",
    "default_kernel_init",
    "dot_product_attention",
    "dot_product_attention_weights",
    "initializers",
    "make_attention_mask",
    "make_causal_mask",
    "merge_param",
    "promote_dtype",
]
