"""``generate``: the one function, and what its arguments may be.

What goes on within the compiled program is in ``_loop.py``; how a token is chosen in ``_choose.py``; what is asked of a
model in ``_model.py``.
"""

from __future__ import annotations

import types
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from batiste._arguments import array, mapping, number, refused, whole_number, whole_numbers
from batiste.core import is_key, is_tracer
from batiste.errors import GenerationModelError, GenerationPromptError, GenerationResultError
from batiste.generation._choose import Sampling
from batiste.generation._loop import Plan, run
from batiste.generation._model import Decoder
from batiste.typing import Array, ArrayLike, Key, Variables

__all__ = ["Generated", "generate"]


class Generated(NamedTuple):
    """What was generated.

    Attributes:
      tokens: ``[batch, length + max_new_tokens]``: prompt, continuation, padding.
      lengths: ``[batch]``: how many tokens are not padding; an end token counts.
      scores: ``[batch]``: the log-probability of the continuation, without temperature and filters.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> from batiste.generation import generate
      >>> class Zero(nn.Module):
      ...     def __call__(self, tokens):
      ...         return jax.nn.one_hot(0 * tokens, 4)
      >>> prompt = jnp.array([[2, 3]])
      >>> found = generate(Zero(), {}, prompt, max_new_tokens=2, cache=False)
      >>> found.tokens.shape, found.lengths.tolist(), found.scores.shape
      ((1, 4), [4], (1,))
    """

    tokens: Array
    lengths: Array
    scores: Array


def generate(
    model: Any,
    variables: Variables,
    prompt: ArrayLike,
    *,
    max_new_tokens: int,
    lengths: ArrayLike | None = None,
    key: Key | None = None,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    beams: int = 1,
    length_penalty: float = 0.0,
    end_token: int | Sequence[int] | None = None,
    pad_token: int | None = None,
    cache: bool = True,
    **options: Any,
) -> Generated:
    """Continue prompts, in one compiled program that keeps keys and values in the collection ``cache``.

    The model is any with ``init`` and ``apply`` as Linen has them that keeps a cache, ``Model(decode=True)``, and takes
    tokens ``[batch, length]`` to logits ``[batch, length, vocabulary]``. Each sequence is continued as if it were
    alone: prompts of different lengths are padded at their ends, and ``lengths`` says where.

    The program depends on the shape of the prompt, on ``max_new_tokens`` and on which options are there, and on nothing
    else: other prompts, temperatures and keys compile nothing. With ``lengths``, how much of the prompts goes in before
    the first turn is a power of two, so that there are few programs.

    Args:
      model: the blueprint.
      variables: its variables; a ``cache`` in them is left out, and a new one begun.
      prompt: ``[batch, length]``, integers, at least one token each.
      max_new_tokens: how many tokens are added to each at most.
      lengths: ``[batch]``, how many tokens of each prompt count; None for all.
      key: a random key; needed where tokens are drawn.
      temperature: what logits are divided by before a token is drawn; 0 takes the likeliest.
      top_k: how many of the likeliest tokens may be drawn; None for all.
      top_p: the probability that the tokens which may be drawn have together; None for all.
      beams: how many continuations are kept at a time; the best is returned. Not with a temperature.
      length_penalty: beams are ranked by their score over ``length ** length_penalty``.
      end_token: the token that ends a sequence, or several.
      pad_token: what comes after the end; None takes the end token, or 0.
      cache: False for a model without a cache, which is then called with all tokens for each new one.
      **options: further arguments of the model, such as ``train=False`` or ``method=``.

    Returns:
      Tokens, lengths and scores.

    Raises:
      ArgumentError: an argument is not in its domain.
      GenerationPromptError: prompt or lengths are not of these shapes, or no integers.
      GenerationModelError: the model keeps no cache, or does not return logits.
      GenerationResultError: logits were NaN: of the parameters, or of a cache that is too short.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> from batiste.generation import generate
      >>> class Count(nn.Module):  # after n comes n + 1
      ...     def __call__(self, tokens):
      ...         return jax.nn.one_hot(tokens + 1, 10)
      >>> prompt = jnp.array([[2, 3]])
      >>> found = generate(Count(), {}, prompt, max_new_tokens=3, cache=False)
      >>> found.tokens.tolist()
      [[2, 3, 4, 5, 6]]
    """
    if isinstance(model, type) or not callable(getattr(model, "apply", None)):
        raise GenerationModelError(problem="it has no init and apply", cure="Give a blueprint: Model(...), made.")
    mapping(variables, "variables", "generate", what="variables by collection", advice='Give {"params": params}.')
    tokens, counts = _checked_prompt(prompt, lengths)
    new = whole_number(max_new_tokens, "max_new_tokens", "generate", low=1)
    count = whole_number(beams, "beams", "generate", low=1)
    sampling, numbers = _checked_sampling(key, temperature, top_k, top_p, count)
    numbers["length_penalty"] = jnp.float32(number(length_penalty, "length_penalty", "generate"))
    ends = () if end_token is None else whole_numbers(end_token, "end_token", "generate")
    pad = (ends[0] if ends else 0) if pad_token is None else whole_number(pad_token, "pad_token", "generate")
    batch, longest = tokens.shape
    static = {name: value for name, value in options.items() if not _is_array(value)}
    inputs = {name: value for name, value in options.items() if _is_array(value)}
    value = None if isinstance(model.apply, types.MethodType) else model.apply
    decoder = Decoder(model, value, longest + new, tuple(static.items()), bool(cache))
    shapes = decoder.check_cache(batch, inputs)
    start = _start(counts, longest)
    plan = Plan(decoder, sampling, new, start, decoder.takes_prompts(shapes), ends, pad, count)
    kept = {name: tree for name, tree in variables.items() if name != "cache"}
    full = jnp.full(batch, longest, jnp.int32) if counts is None else jnp.asarray(counts, jnp.int32)
    found = Generated(*run(plan, kept, tokens, full, key if sampling.draws else None, numbers, inputs))
    if not is_tracer(found.scores) and bool(jnp.isnan(found.scores).any()):
        raise GenerationResultError(total=longest + new)
    return found


def _start(counts: Any, longest: int) -> int:
    """Return how many tokens go in before the first turn: all prompts have one more."""
    if counts is None:
        return longest - 1
    if is_tracer(counts):
        return 0
    least = int(np.min(np.asarray(counts))) - 1
    return longest - 1 if least == longest - 1 else (1 << least.bit_length()) >> 1


def _is_array(value: Any) -> bool:
    return isinstance(value, jax.Array | np.ndarray)


def _checked_prompt(prompt: Any, lengths: Any) -> tuple[Array, Any]:
    tokens = jnp.asarray(array(prompt, "prompt", "generate"))
    problem = cure = ""
    if tokens.ndim != 2 or 0 in tokens.shape:
        problem = f"the prompt has the shape {tokens.shape}, and is to be [batch, length] with a token at least"
        cure = "Give prompt[None] for a single sequence; to begin from nothing, a prompt of one beginning token."
    elif not jnp.issubdtype(tokens.dtype, jnp.integer):
        problem, cure = f"the prompt is of dtype {tokens.dtype}", "Give the numbers of tokens, as integers."
    elif lengths is not None:
        counts: Any = lengths if is_tracer(lengths) else np.asarray(array(lengths, "lengths", "generate"))
        if counts.shape != tokens.shape[:1] or not jnp.issubdtype(counts.dtype, jnp.integer):
            problem = f"lengths are {counts.dtype}{list(counts.shape)} for {tokens.shape[0]} prompts"
            cure = "Give one whole number for each prompt."
        elif not is_tracer(counts) and (counts.min() < 1 or counts.max() > tokens.shape[1]):
            problem = f"lengths go from {counts.min()} to {counts.max()}, and prompts have {tokens.shape[1]} places"
            cure = "A prompt has one token at least, and is padded at its end."
        else:
            return tokens.astype(jnp.int32), counts
    if problem:
        raise GenerationPromptError(problem=problem, cure=cure)
    return tokens.astype(jnp.int32), None


def _checked_sampling(
    key: Any, temperature: Any, top_k: Any, top_p: Any, beams: int
) -> tuple[Sampling, dict[str, Any]]:
    """Return how tokens are chosen, and the numbers that go with it."""
    numbers: dict[str, Any] = {}
    if is_tracer(temperature):
        heat: Any = temperature
        draws = True
    else:
        heat = number(temperature, "temperature", "generate", low=0)
        draws = heat > 0
    if key is not None and not is_key(key):
        raise refused(key, "key", "generate", "a random key", "Make one: jax.random.key(0).")
    if draws and key is None:
        advice = "Give key=jax.random.key(0), or temperature=0 for the likeliest tokens."
        raise refused(key, "key", "generate", "a random key where tokens are drawn", advice)
    if draws and beams > 1:
        raise refused(beams, "beams", "generate", "1 where tokens are drawn", "Leave temperature=0 with beams.")
    for name, value in (("top_k", top_k), ("top_p", top_p)):
        if value is not None and not draws:
            advice = "It is of use where tokens are drawn: give a temperature, such as 1.0, and a key."
            raise refused(value, name, "generate", "None without a temperature", advice)
    if draws:
        numbers["temperature"] = jnp.asarray(heat, jnp.float32)
    if top_k is not None:
        numbers["top_k"] = jnp.int32(whole_number(top_k, "top_k", "generate", low=1))
    if top_p is not None:
        numbers["top_p"] = jnp.float32(number(top_p, "top_p", "generate", above=0, high=1))
    return Sampling(bool(draws), top_k is not None, top_p is not None), numbers
