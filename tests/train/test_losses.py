"""Cross-entropy in chunks: the numbers and the gradients of the plain one, in less memory."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from batiste.errors import ArgumentError, LossShapeError
from batiste.train import losses
from tests.nn.oracle import drawn

HIDDEN, KERNEL, BIAS = drawn(0, 3, 7, 8), drawn(1, 8, 29), drawn(2, 29)
LABELS = jnp.asarray(np.arange(21).reshape(3, 7))
CHUNKS = ({"token_chunk": 4}, {"token_chunk": 99}, {"vocab_chunk": 8})


def plain(hidden, kernel, bias):
    logits = hidden @ kernel + bias.reshape(1, 1, -1)
    return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS)


@pytest.mark.parametrize("chunk", CHUNKS, ids=str)
def test_it_is_the_plain_one(chunk):
    def chunked(hidden, kernel, bias):
        return losses.chunked_softmax_cross_entropy(hidden, kernel, LABELS, bias, **chunk)

    def weighed(function):
        weights = jnp.arange(21.0).reshape(3, 7)
        return jax.jit(jax.value_and_grad(lambda *args: (function(*args) * weights).sum(), argnums=(0, 1, 2)))

    np.testing.assert_allclose(chunked(HIDDEN, KERNEL, BIAS), plain(HIDDEN, KERNEL, BIAS), rtol=1e-5, atol=1e-5)
    found, wanted = weighed(chunked)(HIDDEN, KERNEL, BIAS), weighed(plain)(HIDDEN, KERNEL, BIAS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), found, wanted)


@pytest.mark.parametrize("chunk", CHUNKS[::2], ids=str)
def test_half_precision_and_large_logits(chunk):
    hidden, kernel = (100 * HIDDEN).astype(jnp.bfloat16), KERNEL.astype(jnp.bfloat16)
    found = losses.chunked_softmax_cross_entropy(hidden, kernel, LABELS, **chunk)
    wanted = plain(hidden.astype(jnp.float32), kernel.astype(jnp.float32), jnp.zeros(29))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-2)


def test_the_logits_are_never_there():
    tokens, features, words = 512, 16, 4096

    def memory(loss):
        gradient = jax.jit(jax.grad(lambda hidden, kernel: loss(hidden, kernel).mean(), argnums=(0, 1)))
        shapes = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((tokens, features), (features, words)))
        return gradient.lower(*shapes).compile().memory_analysis().temp_size_in_bytes

    labels = jnp.zeros(tokens, jnp.int32)
    whole = memory(lambda h, k: optax.softmax_cross_entropy_with_integer_labels(h @ k, labels))
    assert whole >= 4 * tokens * words
    for chunk in ({"token_chunk": 32}, {"vocab_chunk": 256}):
        part = memory(lambda h, k, chunk=chunk: losses.chunked_softmax_cross_entropy(h, k, labels, **chunk))
        assert part < whole / 5


@pytest.mark.parametrize("chunk", CHUNKS[::2], ids=str)
def test_words_of_every_type_and_those_that_there_are_not(chunk):
    labels = np.array([[-100, 29, -1, 0, 28, 5, 6]], np.int8)
    found = losses.chunked_softmax_cross_entropy(HIDDEN[:1], KERNEL, labels, **chunk)
    assert np.isnan(found[0, :3]).all()
    wanted = optax.softmax_cross_entropy_with_integer_labels(HIDDEN[0] @ KERNEL, jnp.asarray(labels[0]))
    np.testing.assert_allclose(found[0, 3:], wanted[3:], rtol=1e-5, atol=1e-5)
    nothing = losses.chunked_softmax_cross_entropy(HIDDEN[:0], KERNEL, labels[:0], **chunk)
    assert nothing.shape == (0, 7)


WRONG = {
    "no words": (LossShapeError, (HIDDEN, KERNEL[:, :0], LABELS), {"vocab_chunk": 4}, "no words"),
    "a table of embeddings": (LossShapeError, (HIDDEN, KERNEL.T, LABELS), {"token_chunk": 4}, "kernel.T"),
    "labels in a row": (LossShapeError, (HIDDEN, KERNEL, LABELS.reshape(-1)), {"token_chunk": 4}, "labels"),
    "labels with fractions": (LossShapeError, (HIDDEN, KERNEL, LABELS * 1.0), {"token_chunk": 4}, "integers"),
    "a short bias": (LossShapeError, (HIDDEN, KERNEL, LABELS, BIAS[:3]), {"token_chunk": 4}, "bias"),
    "no chunk": (ArgumentError, (HIDDEN, KERNEL, LABELS), {}, "vocab_chunk"),
    "both": (ArgumentError, (HIDDEN, KERNEL, LABELS), {"token_chunk": 4, "vocab_chunk": 4}, "vocab_chunk"),
    "nothing at a time": (ArgumentError, (HIDDEN, KERNEL, LABELS), {"vocab_chunk": 0}, "vocab_chunk"),
    "no array": (ArgumentError, (None, KERNEL, LABELS), {"vocab_chunk": 4}, "hidden"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments(name):
    kind, args, options, text = WRONG[name]
    with pytest.raises(kind, match=text):
        losses.chunked_softmax_cross_entropy(*args, **options)
