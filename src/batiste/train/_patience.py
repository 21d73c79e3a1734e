"""Early stopping as a value: the best number so far and how long ago it was, beside the rest of the state.

A counter on the side is lost when a run is interrupted. This one is a pytree, to be put into ``state.extras``, where it
is saved, sharded and restored with the rest.
"""

from __future__ import annotations

from typing import Any, Self

import jax.numpy as jnp

from batiste._arguments import choice, number, whole_number
from batiste.struct import PyTreeNode, field
from batiste.typing import Array

__all__ = ["Patience"]


class Patience(PyTreeNode):
    """How long a number has not become better.

    ``state.replace(extras={**state.extras, "patience": train.Patience.of(5)})`` puts one into a state.

    Attributes:
      best: the best number so far; infinity before the first.
      waited: how many numbers have come since.
      limit: after how many it is time to stop; static.
      least: how much better a number must be to count; static.
      mode: ``"min"`` or ``"max"``: which is better; static.

    Example:
      >>> from batiste import train
      >>> patience = train.Patience.of(2)
      >>> for loss in (1.0, 0.5, 0.6, 0.7):
      ...     patience = patience.update(loss)
      >>> float(patience.best), bool(patience.is_over)
      (0.5, True)
    """

    best: Array
    waited: Array
    limit: int = field(pytree_node=False)
    least: float = field(pytree_node=False)
    mode: str = field(pytree_node=False)

    @classmethod
    def of(cls, limit: int, *, least: float = 0.0, mode: str = "min") -> Self:
        """Return the value before the first number.

        Args:
          limit: how many numbers in a row may be no better, from 1 on.
          least: how much better a number must be to count.
          mode: ``"min"`` where less is better, else ``"max"``.

        Raises:
          ArgumentError: one of them cannot work.
        """
        limit = whole_number(limit, "limit", "Patience.of", low=1)
        least = float(number(least, "least", "Patience.of", low=0))
        choice(mode, "mode", "Patience.of", ("min", "max"))
        worst = jnp.inf if mode == "min" else -jnp.inf
        return cls(jnp.full((), worst, jnp.float32), jnp.zeros((), jnp.int32), limit, least, mode)

    def update(self, value: Any) -> Self:
        """Return the value after one more number; NaN is never better.

        Args:
          value: a number, or an array without axes, traced too.
        """
        now = jnp.asarray(value, jnp.float32)
        is_better = now < self.best - self.least if self.mode == "min" else now > self.best + self.least
        return self.replace(best=jnp.where(is_better, now, self.best), waited=jnp.where(is_better, 0, self.waited + 1))

    @property
    def is_over(self) -> Array:
        """Whether it is time to stop."""
        return self.waited >= self.limit
