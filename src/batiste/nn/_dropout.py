"""Dropout: in training, each value is dropped with a given probability, and the others are scaled up."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from batiste._arguments import array, number
from batiste.errors import DropoutRateError, InputDtypeError
from batiste.module import Module, compact, merge_param
from batiste.nn._axes import sorted_axes
from batiste.nn._jitted import jitted
from batiste.typing import Array, Key

__all__ = ["Dropout"]


class Dropout(Module):
    """Dropout: ``y = x / (1 - rate)`` where a value is kept, else 0, so that the mean stays as it was.

    The random numbers are drawn from the stream ``rng_collection`` (Srivastava and others, "Dropout: a simple way to
    prevent neural networks from overfitting", 2014).

    Attributes:
      rate: the probability to drop a value, in [0, 1].
      broadcast_dims: the axes along which all values are dropped or kept together.
      deterministic: whether nothing is dropped; may be given to the call instead.
      rng_collection: the name of the random stream.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> layer = nn.Dropout(0.5)
      >>> x = jnp.ones((2, 3))
      >>> bool((layer.apply({}, x, deterministic=True) == x).all())
      True
      >>> rngs = {"dropout": jax.random.key(0)}
      >>> y = layer.apply({}, x, deterministic=False, rngs=rngs)
      >>> bool(((y == 0) | (y == 2)).all())
      True
    """

    rate: float
    broadcast_dims: Sequence[int] = ()
    deterministic: bool | None = None
    rng_collection: str = "dropout"

    @compact
    def __call__(self, inputs: Array, deterministic: bool | None = None, rng: Key | None = None) -> Array:
        """Return ``inputs``, of any shape, with values dropped.

        Args:
          inputs: what values are dropped from.
          deterministic: whether nothing is dropped, if the constructor does not say.
          rng: the random key; None draws one from the stream.

        Raises:
          ArgumentError: the rate is no number, or the input is no array.
          DropoutRateError: the rate is no probability.
          AxesError: one of ``broadcast_dims`` is out of range or named twice.
          InputDtypeError: the inputs are integers.
          InvalidRngError: there is no such stream.
        """
        is_still = merge_param("deterministic", self.deterministic, deterministic)
        inputs = array(inputs, "inputs", self)
        if is_still:
            return inputs
        rate = number(self.rate, "rate", self)
        if rate == 0:
            return inputs
        if not 0 <= rate <= 1:
            raise DropoutRateError(path=self.path, given=rate)
        if rate == 1:  # 1 / (1 - rate) would be infinite, and its gradient nan
            return jnp.zeros_like(inputs)
        shared = sorted_axes(self.broadcast_dims, inputs.ndim, argument="broadcast_dims", layer=self)
        key = self.make_rng(self.rng_collection) if rng is None else rng
        try:
            return _drop(inputs, key, float(rate), shared)
        except TypeError as error:
            if jnp.issubdtype(inputs.dtype, jnp.inexact):
                raise
            raise InputDtypeError(path=self.path, dtype=inputs.dtype, expected="a float or complex one") from error


@jitted(arrays=2)
def _drop(inputs: Array, key: Key, rate: float, shared: tuple[int, ...]) -> Array:
    keep = 1.0 - rate
    shape = tuple(1 if axis in shared else extent for axis, extent in enumerate(inputs.shape))
    mask = jnp.broadcast_to(jax.random.bernoulli(key, p=keep, shape=shape), inputs.shape)
    return lax.select(mask, inputs / keep, jnp.zeros_like(inputs))
