"""Dropout as a function of a scope: ``flax.core.nn.stochastic``."""

from __future__ import annotations

from typing import Any

from batiste.nn import Dropout

__all__ = ["dropout"]


def dropout(scope: Any, inputs: Any, rate: float, deterministic: bool = False, rng: Any = None) -> Any:
    """Return the input with some values dropped and the others scaled up.

    Args:
      scope: draws from the stream ``dropout`` if there is no ``rng``.
      inputs: of any shape.
      rate: the chance of each value to be dropped, in [0, 1].
      deterministic: whether nothing is dropped.
      rng: a random key.

    Raises:
      DropoutRateError: if ``rate`` is no probability.
      InvalidRngError: if there is no key.
    """
    return Dropout(rate, parent=scope)(inputs, deterministic=deterministic, rng=rng)
