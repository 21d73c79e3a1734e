"""Which token comes next: the likeliest, or a drawn one, out of all or of the likeliest few.

Temperature, ``top_k`` and ``top_p`` are data, so that another value is not another program; whether they are there at
all is not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from batiste.typing import Array

__all__ = ["Sampling"]


@dataclasses.dataclass(frozen=True)
class Sampling:
    """What is done with logits; a static value, whose numbers come with each call.

    Attributes:
      draws: whether tokens are drawn; else the likeliest is taken, the first of several.
      top_k: whether only the likeliest few are.
      top_p: whether only the likeliest are that make up a probability together.
    """

    draws: bool
    top_k: bool
    top_p: bool

    def choose(self, logits: Array, key: Any, numbers: Mapping[str, Any]) -> Array:
        """Return a token for each row of logits ``[batch, vocabulary]``."""
        if not self.draws:
            return jnp.argmax(logits, axis=-1).astype(jnp.int32)
        return jax.random.categorical(key, self.filtered(logits, numbers), axis=-1).astype(jnp.int32)

    def filtered(self, logits: Array, numbers: Mapping[str, Any]) -> Array:
        """Return logits over the temperature, with minus infinity for tokens that are not drawn.

        ``top_p`` after Holtzman and others (2020), https://arxiv.org/abs/1904.09751: the smallest set of tokens whose
        probability is at least ``top_p``, after ``top_k``. The likeliest token always stays.
        """
        logits = logits / numbers["temperature"]
        if not self.top_k and not self.top_p:
            return logits
        order = jnp.argsort(-logits, axis=-1, stable=True)
        rank = jnp.argsort(order, axis=-1)  # of each token, from 0 for the likeliest
        kept = rank < numbers["top_k"] if self.top_k else jnp.ones(logits.shape, bool)
        if self.top_p:
            descending = jnp.take_along_axis(jnp.where(kept, logits, -jnp.inf), order, axis=-1)
            chances = jax.nn.softmax(descending, axis=-1)
            before = jnp.cumsum(chances, axis=-1) - chances
            kept &= jnp.take_along_axis(before, rank, axis=-1) < numbers["top_p"]
        return jnp.where(kept | (rank == 0), logits, -jnp.inf)
