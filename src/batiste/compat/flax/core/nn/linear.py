"""Linear layers, convolutions and embeddings as functions of a scope: ``flax.core.nn.linear``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from batiste.errors import EmbeddingIdsError
from batiste.nn import Conv, ConvTranspose, Dense, DenseGeneral
from batiste.nn.initializers import lecun_normal, variance_scaling, zeros
from batiste.struct import dataclass

__all__ = [
    "Embedding",
    "conv",
    "conv_transpose",
    "default_embed_init",
    "default_kernel_init",
    "dense",
    "dense_general",
    "embedding",
]

default_kernel_init = lecun_normal()
"""Draws kernels."""

default_embed_init = variance_scaling(1.0, "fan_in", "normal", out_axis=0)
"""Draws tables of embeddings."""


def dense_general(
    scope: Any,
    inputs: Any,
    features: int | Sequence[int],
    axis: int | Sequence[int] = -1,
    batch_dims: Sequence[int] = (),
    bias: bool = True,
    dtype: Any = jnp.float32,
    kernel_init: Callable[..., Any] = default_kernel_init,
    bias_init: Callable[..., Any] = zeros,
    precision: Any = None,
) -> Any:
    """Return a linear map of any axes: ``linen.DenseGeneral``.

    Along the batch axes the kernels begin as copies of one, where ``linen.DenseGeneral`` draws each.

    Args:
      scope: where ``kernel`` and ``bias`` stand.
      inputs: the input.
      features: how many numbers come out, for each axis that comes out.
      axis: the axes to sum over.
      batch_dims: the axes with a map of their own: the first ones.
      bias: whether a bias is added.
      dtype: what to compute in.
      kernel_init: draws a kernel ``[inputs, features]``.
      bias_init: draws a bias ``[features]``.
      precision: how exactly products are computed.

    Raises:
      AxesError: an axis is out of range, named twice, or both contracted and a batch axis.
      BatchAxesError: ``batch_dims`` are not the leading axes in order.
    """
    copies = math.prod(inputs.shape[axis] for axis in batch_dims) if batch_dims else 1
    layer = DenseGeneral(
        features,
        axis=axis,
        batch_dims=batch_dims,
        use_bias=bias,
        dtype=dtype,
        kernel_init=_repeated(kernel_init, copies),
        bias_init=_repeated(bias_init, copies),
        precision=precision,
        parent=scope,
    )
    return layer(inputs)


def _repeated(init: Callable[..., Any], copies: int) -> Callable[..., Any]:
    """Return an initialiser that draws once and puts as many copies as there are batch entries one after another."""
    if copies == 1:
        return init

    def repeated(key: Any, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        one = init(key, (shape[0] // copies, *shape[1:]), dtype)
        return jnp.concatenate([one] * copies)

    return repeated


def dense(
    scope: Any,
    inputs: Any,
    features: int,
    bias: bool = True,
    dtype: Any = jnp.float32,
    precision: Any = None,
    kernel_init: Callable[..., Any] = default_kernel_init,
    bias_init: Callable[..., Any] = zeros,
) -> Any:
    """Return a linear map of the last axis: ``linen.Dense``.

    Args:
      scope: where ``kernel`` and ``bias`` stand.
      inputs: ``[batch..., inputs]``.
      features: how many numbers come out.
      bias: whether a bias is added.
      dtype: what to compute in.
      precision: how exactly products are computed.
      kernel_init: draws the kernel.
      bias_init: draws the bias.
    """
    layer = Dense(
        features,
        use_bias=bias,
        dtype=dtype,
        precision=precision,
        kernel_init=kernel_init,
        bias_init=bias_init,
        parent=scope,
    )
    return layer(inputs)


def conv(
    scope: Any,
    inputs: Any,
    features: int,
    kernel_size: Sequence[int],
    strides: Sequence[int] | None = None,
    padding: Any = "SAME",
    input_dilation: Sequence[int] | None = None,
    kernel_dilation: Sequence[int] | None = None,
    feature_group_count: int = 1,
    bias: bool = True,
    dtype: Any = jnp.float32,
    precision: Any = None,
    kernel_init: Callable[..., Any] = default_kernel_init,
    bias_init: Callable[..., Any] = zeros,
) -> Any:
    """Return a convolution of ``inputs`` ``[batch, spatial..., channels]``: ``linen.Conv``.

    Args:
      scope: where ``kernel`` and ``bias`` stand.
      inputs: the input.
      features: how many channels come out.
      kernel_size: the kernel's extent along each spatial axis.
      strides: the step along each.
      padding: ``"SAME"``, ``"VALID"``, or for each a pair ``(low, high)``.
      input_dilation: the spacing of the input along each.
      kernel_dilation: the spacing of the kernel along each.
      feature_group_count: how many groups of channels are convolved apart.
      bias: whether a bias is added.
      dtype: what to compute in.
      precision: how exactly products are computed.
      kernel_init: draws the kernel.
      bias_init: draws the bias.
    """
    layer = Conv(
        features,
        kernel_size,
        strides=strides,
        padding=padding,
        input_dilation=input_dilation,
        kernel_dilation=kernel_dilation,
        feature_group_count=feature_group_count,
        use_bias=bias,
        dtype=dtype,
        precision=precision,
        kernel_init=kernel_init,
        bias_init=bias_init,
        parent=scope,
    )
    return layer(inputs)


def conv_transpose(
    scope: Any,
    inputs: Any,
    features: int,
    kernel_size: Sequence[int],
    strides: Sequence[int] | None = None,
    padding: Any = "SAME",
    kernel_dilation: Sequence[int] | None = None,
    bias: bool = True,
    dtype: Any = jnp.float32,
    precision: Any = None,
    kernel_init: Callable[..., Any] = default_kernel_init,
    bias_init: Callable[..., Any] = zeros,
) -> Any:
    """Return a transposed convolution of ``inputs`` ``[batch, spatial..., channels]``: ``linen.ConvTranspose``.

    Args:
      scope: where ``kernel`` and ``bias`` stand.
      inputs: the input.
      features: how many channels come out.
      kernel_size: the kernel's extent along each spatial axis.
      strides: the step along each.
      padding: ``"SAME"``, ``"VALID"``, or for each a pair ``(low, high)``.
      kernel_dilation: the spacing of the kernel along each.
      bias: whether a bias is added.
      dtype: what to compute in.
      precision: how exactly products are computed.
      kernel_init: draws the kernel.
      bias_init: draws the bias.
    """
    layer = ConvTranspose(
        features,
        kernel_size,
        strides=strides,
        padding=padding,
        kernel_dilation=kernel_dilation,
        use_bias=bias,
        dtype=dtype,
        precision=precision,
        kernel_init=kernel_init,
        bias_init=bias_init,
        parent=scope,
    )
    return layer(inputs)


@dataclass
class Embedding:
    """A table of embeddings.

    Attributes:
      table: ``[rows, features]``.
    """

    table: Any

    def lookup(self, indices: Any) -> Any:
        """Return the rows with these numbers, ``[batch..., features]`` for ``[batch...]``.

        Raises:
          EmbeddingIdsError: if they are no integers.
        """
        if not jnp.issubdtype(indices.dtype, jnp.integer):
            raise EmbeddingIdsError(path="Embedding.lookup", dtype=indices.dtype)
        return self.table[indices]

    def attend(self, query: Any) -> Any:
        """Return the product of ``[batch..., features]`` with each row, ``[batch..., rows]``."""
        return query @ self.table.T


def embedding(
    scope: Any, num_embeddings: int, features: int, init_fn: Callable[..., Any] = default_embed_init
) -> Embedding:
    """Return a table of embeddings, to look up rows and to attend.

    Args:
      scope: where ``table`` stands.
      num_embeddings: how many rows there are.
      features: how many numbers are in a row.
      init_fn: draws the table.
    """
    return Embedding(scope.param("table", init_fn, (num_embeddings, features)))
