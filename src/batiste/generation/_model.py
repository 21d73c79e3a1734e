"""The model as generation calls it: tokens in, logits out, a cache in between.

All that is asked of a model is what Linen's convention says: ``init`` with tokens of the full length makes the
collection ``cache``, empty; ``apply`` with ``mutable=["cache"]`` takes the next tokens, and returns logits and the
cache that comes after them. How many axes a cache has, and which of them is the batch, is found by asking for the
caches of two batch sizes.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp

from batiste.errors import GenerationModelError
from batiste.tree import flatten
from batiste.typing import Array

__all__ = ["Decoder"]

_CACHE = "cache"
_ANY_LENGTH = "cached_position"  # beside the other variables of a layer that takes any number of tokens a call


@dataclasses.dataclass(frozen=True)
class Decoder:
    """A model and the options of its calls; a static value.

    Attributes:
      model: the blueprint, which is compared by its value.
      value: its ``apply`` where that is compared by value too, with all that its code reads; else None.
      total: the length of the longest sequence.
      options: further arguments of a call that are no arrays, by name.
      caches: whether there is a cache; without one, a call has all tokens.
    """

    model: Any
    value: Callable[..., Any] | None
    total: int
    options: tuple[tuple[str, Any], ...]
    caches: bool

    def empty_cache(self, batch: int, inputs: Mapping[str, Any]) -> Any:
        """Return the cache before the first token; what else ``init`` makes is never computed."""
        if not self.caches:
            return {}
        tokens = jnp.zeros((batch, self.total), jnp.int32)
        made: Any = self.model.init(jax.random.key(0), tokens, **dict(self.options), **inputs)
        return made.get(_CACHE, {})

    def check_cache(self, batch: int, inputs: Mapping[str, Any]) -> Any:
        """Return the shapes of the cache.

        Raises:
          GenerationModelError: the model makes none.
        """
        shapes: Any = jax.eval_shape(lambda: self.empty_cache(batch, inputs))
        if self.caches and not jax.tree.leaves(shapes):
            problem = "its init makes no collection 'cache'"
            cure = "Give the model that decodes, Model(..., decode=True), or cache=False, which computes all anew."
            raise GenerationModelError(problem=problem, cure=cure)
        return shapes

    def takes_prompts(self, shapes: Any) -> bool:
        """Whether every variable of the cache belongs to a layer that is known to take any number of tokens a call.

        Others, such as a position that a model of your own counts, may count calls and not tokens.
        """
        paths = [path.rpartition("/")[0] for path in flatten(shapes)]
        known = {path.rpartition("/")[0] for path in flatten(shapes) if path.rpartition("/")[2] == _ANY_LENGTH}
        return all(parent in known for parent in paths)

    def batch_axes(self, batch: int, inputs: Mapping[str, Any]) -> Any:
        """Return for each variable of the cache the axis that is the batch; -1 where none is."""
        one, other = (jax.eval_shape(functools.partial(self.empty_cache, size, inputs)) for size in (batch, batch + 1))

        def axis(a: Any, b: Any) -> int:
            return next((at for at, sizes in enumerate(zip(a.shape, b.shape, strict=True)) if sizes[0] != sizes[1]), -1)

        return cast("Any", jax.tree).map(axis, one, other)

    def feed(self, variables: Any, cache: Any, tokens: Array, inputs: Mapping[str, Any]) -> tuple[Array, Any]:
        """Return the logits of the last token, ``[batch, vocabulary]`` in float32, and the cache after it."""
        options: dict[str, Any] = {**dict(self.options), **inputs}
        logits, changed = self.model.apply({**variables, _CACHE: cache}, tokens, mutable=[_CACHE], **options)
        return _last(logits, tokens.shape), changed[_CACHE]

    def whole(self, variables: Any, tokens: Array, at: Any, inputs: Mapping[str, Any]) -> Array:
        """Return the logits at a place of whole sequences, as a model without a cache computes them."""
        logits: Any = self.model.apply(variables, tokens, **dict(self.options), **inputs)
        _last(logits, tokens.shape)
        return logits[:, at].astype(jnp.float32)


def _last(logits: Any, shape: tuple[int, ...]) -> Array:
    found: Any = getattr(logits, "shape", None)
    if found is None or len(found) != 3 or found[:2] != shape:
        problem = f"it was given tokens {shape} and returned {'a tuple' if found is None else found}"
        cure = "Give a model, or method=, that returns logits [batch, length, vocabulary]."
        raise GenerationModelError(problem=problem, cure=cure)
    return logits[:, -1].astype(jnp.float32)
