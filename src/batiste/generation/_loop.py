"""The compiled loop over tokens, one for all ways to choose them.

All sequences of a batch go forward together, one token a turn, from a place that each prompt reaches. Where a prompt is
longer, its own token is taken and not the chosen one, so that prompts of different lengths need no padding between
prompt and continuation: what the model sees of a sequence is what it would see of it alone. A sequence that has ended
takes padding until all have ended.

A beam is a sequence of its own to the model. A beam that has ended stays among the others with its score as it is.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp

from batiste.generation._choose import Sampling
from batiste.generation._model import Decoder
from batiste.typing import Array

__all__ = ["Plan", "run"]


@dataclasses.dataclass(frozen=True)
class Plan:
    """All that the program depends on; a static value.

    Attributes:
      decoder: the model.
      sampling: how tokens are chosen, without beams.
      new: how many tokens are added to a prompt at most.
      start: how many tokens of the prompts go in before the first turn.
      at_once: whether they go in together; else one by one.
      ends: the tokens that end a sequence.
      pad: what comes after an end.
      beams: how many beams a sequence has.
    """

    decoder: Decoder
    sampling: Sampling
    new: int
    start: int
    at_once: bool
    ends: tuple[int, ...]
    pad: int
    beams: int


class _Turn(NamedTuple):
    """What goes from turn to turn: rows are sequences, or all beams of the first, then of the second, ..."""

    at: Array  # the last place that has a token in every row
    tokens: Array  # [rows, total]
    cache: Any
    done: Array  # [rows]
    lengths: Array  # [rows], of what is valid
    scores: Array  # [rows], log-probability of what was added


@functools.partial(jax.jit, static_argnums=0)
def run(
    plan: Plan, variables: Any, prompt: Array, lengths: Array, key: Any, numbers: Mapping[str, Any], inputs: Any
) -> tuple[Array, Array, Array]:
    """Return tokens ``[batch, total]``, their lengths ``[batch]`` and the log-probabilities of what was added."""
    decoder = plan.decoder
    batch, longest = prompt.shape
    places = jnp.arange(decoder.total)[None, :]
    wide = jnp.pad(prompt, ((0, 0), (0, decoder.total - longest)))
    tokens = jnp.where(places < lengths[:, None], wide, plan.pad)
    cache = _prefilled(plan, variables, decoder.empty_cache(batch, inputs), tokens, inputs)
    if plan.beams > 1:
        axes: Any = decoder.batch_axes(batch, inputs) if decoder.caches else {}
        tokens, lengths = (jnp.repeat(each, plan.beams, axis=0) for each in (tokens, lengths))
        cache = _mapped(axes, cache, functools.partial(jnp.repeat, repeats=plan.beams))
        advance = functools.partial(_beams, plan, axes, batch)
    else:
        advance = functools.partial(_single, plan, key)
    rows = batch * plan.beams
    turn = _Turn(jnp.int32(plan.start), tokens, cache, jnp.zeros(rows, bool), lengths, jnp.zeros(rows, jnp.float32))
    given = lengths

    def goes_on(turn: _Turn) -> Array:
        return (turn.at < decoder.total - 1) & ~jnp.all(turn.done)

    def body(turn: _Turn) -> _Turn:
        if decoder.caches:
            newest = jax.lax.dynamic_slice_in_dim(turn.tokens, turn.at, 1, axis=1)
            logits, cache = decoder.feed(variables, turn.cache, newest, inputs)
        else:
            logits, cache = decoder.whole(variables, turn.tokens, turn.at, inputs), turn.cache
        return advance(turn._replace(cache=cache), logits, given, numbers)

    last: _Turn = cast("Any", jax.lax).while_loop(goes_on, body, turn)
    if plan.beams == 1:
        return last.tokens, last.lengths, last.scores
    added = jnp.maximum(last.lengths - given, 1).astype(jnp.float32)
    ranked = (last.scores / added ** numbers["length_penalty"]).reshape(batch, plan.beams)
    best = jnp.arange(batch) * plan.beams + jnp.argmax(ranked, axis=-1)
    return last.tokens[best], last.lengths[best], last.scores[best]


def _prefilled(plan: Plan, variables: Any, cache: Any, tokens: Array, inputs: Any) -> Any:
    """Return the cache after the tokens that go in before the first turn."""
    if plan.start == 0 or not plan.decoder.caches:
        return cache
    if plan.at_once:
        return plan.decoder.feed(variables, cache, tokens[:, : plan.start], inputs)[1]

    def one(number: Any, cache: Any) -> Any:
        token = jax.lax.dynamic_slice_in_dim(tokens, number, 1, axis=1)
        return plan.decoder.feed(variables, cache, token, inputs)[1]

    return cast("Any", jax.lax).fori_loop(0, plan.start, one, cache)


def _ends(plan: Plan, tokens: Array) -> Array:
    """Return which tokens end a sequence."""
    found = jnp.zeros(tokens.shape, bool)
    for end in plan.ends:
        found |= tokens == end
    return found


def _single(plan: Plan, key: Any, turn: _Turn, logits: Array, given: Array, numbers: Any) -> _Turn:
    """Return the next turn, of one token for each sequence."""
    place = turn.at + 1
    own = turn.tokens[:, place]
    is_given = place < given
    chosen = plan.sampling.choose(logits, None if key is None else jax.random.fold_in(key, turn.at), numbers)
    is_new = ~is_given & ~turn.done
    token = jnp.where(is_new, chosen, own)
    chance = jnp.take_along_axis(jax.nn.log_softmax(logits), chosen[:, None], axis=-1)[:, 0]
    is_last = _ends(plan, chosen) | (place + 1 >= given + plan.new)
    return _Turn(
        place,
        jax.lax.dynamic_update_slice_in_dim(turn.tokens, token[:, None], place, axis=1),
        turn.cache,
        turn.done | (is_new & is_last),
        jnp.where(is_new, place + 1, turn.lengths),
        turn.scores + jnp.where(is_new, chance, 0),
    )


def _beams(plan: Plan, axes: Any, batch: int, turn: _Turn, logits: Array, given: Array, numbers: Any) -> _Turn:
    """Return the next turn, of the best continuations of all beams of a sequence."""
    del numbers
    place, beams = turn.at + 1, plan.beams
    chances = jax.nn.log_softmax(logits)
    words = chances.shape[-1]
    only_pad = jnp.where(jnp.arange(words) == plan.pad, 0.0, -jnp.inf)[None, :]
    chances = jnp.where(turn.done[:, None], only_pad, chances)
    number = jnp.tile(jnp.arange(beams), batch)
    unborn = (place == given) & (number > 0)  # beams are the same until their prompt ends
    scores = jnp.where(unborn, -jnp.inf, turn.scores)
    best, flat = jax.lax.top_k((scores[:, None] + chances).reshape(batch, beams * words), beams)
    parents = (flat // words + jnp.arange(batch)[:, None] * beams).reshape(-1)
    chosen = (flat % words).reshape(-1).astype(jnp.int32)
    is_given = place < given
    parents = jnp.where(is_given, jnp.arange(batch * beams), parents)
    own = turn.tokens[:, place]
    done = turn.done[parents]
    token = jnp.where(is_given, own, chosen)
    is_new = ~is_given & ~done
    is_last = _ends(plan, chosen) | (place + 1 >= given + plan.new)
    lengths = turn.lengths[parents]
    return _Turn(
        place,
        jax.lax.dynamic_update_slice_in_dim(turn.tokens[parents], token[:, None], place, axis=1),
        _mapped(axes, turn.cache, functools.partial(_taken, parents)),
        done | (is_new & is_last),
        jnp.where(is_new, place + 1, lengths),
        jnp.where(is_given, turn.scores, best.reshape(-1)),
    )


def _taken(parents: Array, leaf: Array, *, axis: int) -> Array:
    return jnp.take(leaf, parents, axis=axis)


def _mapped(axes: Any, cache: Any, function: Any) -> Any:
    """Return a cache with a function of array and axis in the place of each array that has a batch."""

    def changed(leaf: Any, axis: int) -> Any:
        return leaf if axis < 0 else function(leaf, axis=axis)

    return cast("Any", jax.tree).map(changed, cache, axes)
