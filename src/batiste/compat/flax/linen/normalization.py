"""Normalisation layers: ``flax.linen.normalization``."""

from __future__ import annotations

from dataclasses import field

from batiste.compat.flax.linen._helpers import canonicalize_axes, compute_stats, l2_normalize, normalize, squared_size
from batiste.compat.flax.typing import (
    Array,
    Axes,
    Dtype,
    Initializer,
    PRNGKey,
    Shape,
)
from batiste.dtypes import (
    canonicalize_dtype,
)
from batiste.nn import (
    BatchNorm,
    GroupNorm,
    InstanceNorm,
    LayerNorm,
    Module,
    RMSNorm,
    SpectralNorm,
    WeightNorm,
    compact,
    initializers,
    map_variables,
    merge_param,
)

__all__ = [
    "Array",
    "Axes",
    "BatchNorm",
    "Dtype",
    "GroupNorm",
    "Initializer",
    "InstanceNorm",
    "LayerNorm",
    "Module",
    "PRNGKey",
    "RMSNorm",
    "Shape",
    "SpectralNorm",
    "WeightNorm",
    "canonicalize_dtype",
    "compact",
    "field",
    "initializers",
    "map_variables",
    "merge_param",
]

_abs_sq = squared_size
_canonicalize_axes = canonicalize_axes
_compute_stats = compute_stats
_l2_normalize = l2_normalize
_normalize = normalize
