"""Linear layers, embeddings and convolutions: ``flax.linen.linear``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from batiste.compat.flax.linen._helpers import canonicalize_tuple, conv_dimension_numbers, normalize_axes
from batiste.compat.flax.typing import (
    Array,
    ConvGeneralDilatedT,
    DotGeneralT,
    Dtype,
    Initializer,
    LaxPadding,
    PaddingLike,
    PrecisionLike,
    PRNGKey,
    PromoteDtypeFn,
    Shape,
)
from batiste.dtypes import promote_dtype
from batiste.errors import PaddingError
from batiste.nn import (
    Conv,
    ConvLocal,
    ConvTranspose,
    Dense,
    DenseGeneral,
    Einsum,
    Embed,
    Module,
    compact,
    initializers,
)

__all__ = [
    "Array",
    "Conv",
    "ConvGeneralDilatedT",
    "ConvLocal",
    "ConvTranspose",
    "Dense",
    "DenseGeneral",
    "DotGeneralT",
    "Dtype",
    "Einsum",
    "Embed",
    "Initializer",
    "LaxPadding",
    "Module",
    "PRNGKey",
    "PaddingLike",
    "PrecisionLike",
    "PromoteDtypeFn",
    "Shape",
    "canonicalize_padding",
    "compact",
    "default_embed_init",
    "default_kernel_init",
    "initializers",
    "promote_dtype",
]

default_kernel_init = initializers.lecun_normal()
"""The initialiser of kernels, where none is given."""

default_embed_init = initializers.variance_scaling(1.0, "fan_in", "normal", out_axis=0)
"""The initialiser of an embedding's table, where none is given."""


def canonicalize_padding(padding: PaddingLike, rank: int) -> LaxPadding:
    """Return a padding as ``jax.lax`` takes it: a name, or a pair for each spatial axis.

    Args:
      padding: a name, one number for all sides of all axes, or for each axis a number for both sides or a pair.
      rank: how many spatial axes there are.

    Raises:
      PaddingError: it is nothing of that.
    """
    if isinstance(padding, str):
        return padding
    if isinstance(padding, int):
        return [(padding, padding)] * rank
    if isinstance(cast("Any", padding), Sequence) and len(padding) == rank:
        pairs = [(each, each) if isinstance(each, int) else tuple(each) for each in padding]
        if all(len(pair) == 2 for pair in pairs):
            return cast("list[tuple[int, int]]", pairs)
    problem = f"that is no padding of {rank} spatial axes"
    advice = "Give a name, a number, or for each spatial axis a number or a pair of numbers."
    raise PaddingError(path="canonicalize_padding", given=padding, problem=problem, advice=advice)


_canonicalize_tuple = canonicalize_tuple
_conv_dimension_numbers = conv_dimension_numbers
_normalize_axes = normalize_axes
