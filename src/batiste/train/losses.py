"""Losses that never hold the whole table of logits.

A language model's logits, one for each token and each word, are often the largest array of its training: 8192
tokens and 128 000 words in float32 are 4 GB, and their gradient as much again. Here the product of the last layer is
part of the loss, and is made chunk by chunk: of the tokens, or of the vocabulary. What a chunk has made is thrown away,
and made again for the gradient, which costs one more product of the last layer.
"""

from __future__ import annotations

from typing import Any, cast

import jax
import jax.numpy as jnp

from batiste._arguments import array, refused, whole_number
from batiste.dtypes import reduction_dtype
from batiste.errors import LossShapeError
from batiste.typing import Array, ArrayLike

__all__ = ["chunked_softmax_cross_entropy"]


def chunked_softmax_cross_entropy(
    hidden: ArrayLike,
    kernel: ArrayLike,
    labels: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    token_chunk: int | None = None,
    vocab_chunk: int | None = None,
) -> Array:
    """Return ``-log softmax(hidden @ kernel + bias)[label]`` of each token, without all logits at one time.

    Logits and sums are in float32 at least, whatever the inputs are in. By tokens, the logits are those of one chunk of
    tokens at a time; by vocabulary those of all tokens and one chunk of words, with a running maximum and sum
    (Milakov and Gimelshein 2018, https://arxiv.org/abs/1805.02867).

    Args:
      hidden: ``[..., features]``.
      kernel: ``[features, vocabulary]``; of a tied embedding its transpose, ``embedding.T``.
      labels: ``[...]``, integers from 0 to ``vocabulary - 1``; of any other the loss is NaN.
      bias: ``[vocabulary]``, or None.
      token_chunk: how many tokens at a time; exactly one of the two is given.
      vocab_chunk: how many words at a time.

    Returns:
      ``[...]``, one loss for each token; give it to ``train.metrics.Mean.of(losses, where=is_token)``.

    Raises:
      ArgumentError: a chunk is no number from 1 on, both are given or none, or an input is no array.
      LossShapeError: shapes do not fit, or labels are no integers.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste.train import losses
      >>> hidden, labels = jnp.ones((2, 5, 3)), jnp.zeros((2, 5), int)
      >>> kernel = jnp.zeros((3, 8))  # so that all 8 words are as likely
      >>> of = losses.chunked_softmax_cross_entropy
      >>> loss = of(hidden, kernel, labels, token_chunk=5)
      >>> loss.shape, bool(jnp.allclose(loss, jnp.log(8.0)))
      ((2, 5), True)
    """
    name = "chunked_softmax_cross_entropy"
    inputs = ((hidden, "hidden"), (kernel, "kernel"), (labels, "labels"))
    hidden, kernel, labels = (jnp.asarray(array(each, argument, name)) for each, argument in inputs)
    _check(hidden, kernel, labels)
    if (token_chunk is None) == (vocab_chunk is None):
        advice = "Write token_chunk=1024, or vocab_chunk=8192."
        raise refused(token_chunk, "token_chunk", name, "a chunk of tokens, or vocab_chunk= one of words", advice)
    wide = reduction_dtype(jnp.result_type(hidden.dtype, kernel.dtype))
    given = None if bias is None else jnp.asarray(array(bias, "bias", name))
    if given is not None and given.shape != kernel.shape[1:]:
        raise LossShapeError(
            problem=f"the bias has the shape {given.shape}, and the vocabulary {kernel.shape[1]} words"
        )
    offsets = jnp.zeros(kernel.shape[1], wide) if given is None else given.astype(wide)
    flat, targets = hidden.reshape(-1, hidden.shape[-1]), labels.reshape(-1).astype(jnp.int32)
    if token_chunk is not None:
        size = min(whole_number(token_chunk, "token_chunk", name, low=1), max(1, len(targets)))
        losses = _by_tokens(flat, kernel, targets, offsets, size)
    else:
        size = min(whole_number(vocab_chunk, "vocab_chunk", name, low=1), kernel.shape[1])
        losses = _by_vocabulary(flat, kernel, targets, offsets, size)
    known = (targets >= 0) & (targets < kernel.shape[1])
    return jnp.where(known, losses, jnp.nan).reshape(labels.shape)


def _check(hidden: Array, kernel: Array, labels: Array) -> None:
    problem = ""
    if kernel.ndim != 2 or hidden.ndim == 0 or hidden.shape[-1] != kernel.shape[0]:
        problem = f"hidden {hidden.shape} and kernel {kernel.shape} have no product [..., vocabulary]"
        if kernel.ndim == 2 and hidden.shape[-1:] == kernel.shape[1:]:
            problem += "; the kernel looks transposed, so give kernel.T"
    elif labels.shape != hidden.shape[:-1]:
        problem = f"labels have the shape {labels.shape}, and there are tokens {hidden.shape[:-1]}"
    elif not kernel.shape[1]:
        problem = f"the kernel {kernel.shape} has no words"
    elif not jnp.issubdtype(labels.dtype, jnp.integer):
        problem = f"labels are of dtype {labels.dtype}, and the numbers of words are integers"
    if problem:
        raise LossShapeError(problem=problem)


def _logits(hidden: Array, kernel: Array, offsets: Array) -> Array:
    product: Any = cast("Any", jnp).matmul(hidden, kernel, preferred_element_type=offsets.dtype)
    return product + offsets[None, :]


def _by_tokens(hidden: Array, kernel: Array, labels: Array, offsets: Array, size: int) -> Array:
    count = len(labels)
    short = -count % size
    rows = jnp.pad(hidden, ((0, short), (0, 0))).reshape(-1, size, hidden.shape[-1])
    targets = jnp.pad(labels, (0, short)).reshape(-1, size)

    @jax.checkpoint
    def of_chunk(part: Array, own: Array) -> Any:
        logits = _logits(part, kernel, offsets)
        picked = jnp.take_along_axis(logits, own[:, None], axis=-1)[:, 0]
        return jax.nn.logsumexp(logits, axis=-1) - picked

    def chunk(carry: None, xs: tuple[Array, Array]) -> tuple[None, Array]:
        return carry, cast("Any", of_chunk)(*xs)

    losses: Any = cast("Any", jax.lax).scan(chunk, None, (rows, targets))[1]
    return losses.reshape(-1)[:count]


def _by_vocabulary(hidden: Array, kernel: Array, labels: Array, offsets: Array, size: int) -> Array:
    features, words = kernel.shape
    short = -words % size
    columns = jnp.pad(kernel, ((0, 0), (0, short))).reshape(features, -1, size).swapaxes(0, 1)
    # What is padded is as small as can be, and not minus infinity, whose difference to itself is NaN.
    floor = float(cast("Any", jnp.finfo(offsets.dtype)).min) / 2
    rows = jnp.pad(offsets, (0, short), constant_values=floor).reshape(-1, size)

    @jax.checkpoint
    def added(
        carry: tuple[Array, Array, Array], part: Array, offset: Array, start: Array
    ) -> tuple[Array, Array, Array]:
        largest, total, picked = carry
        logits = _logits(hidden, part, offset)
        new = jnp.maximum(largest, jax.lax.stop_gradient(logits.max(axis=-1)))
        total = total * jnp.exp(largest - new) + jnp.exp(logits - new[:, None]).sum(axis=-1)
        place = labels - start
        inside = (place >= 0) & (place < size)
        own = jnp.take_along_axis(logits, jnp.clip(place, 0, size - 1)[:, None], axis=-1)[:, 0]
        return new, total, jnp.where(inside, own, picked)

    def chunk(carry: Any, xs: Any) -> tuple[Any, None]:
        return cast("Any", added)(carry, *xs), None

    count = len(labels)
    start = (jnp.full(count, floor), jnp.zeros(count, offsets.dtype), jnp.zeros(count, offsets.dtype))
    starts = jnp.arange(len(rows)) * size
    largest, total, picked = jax.lax.scan(chunk, start, (columns, rows, starts))[0]
    return largest + jnp.log(total) - picked
