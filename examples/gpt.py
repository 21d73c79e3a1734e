"""A character GPT, trained on eight plays of Shakespeare, that writes a ninth.

    python -m examples.gpt

It has what a language model has: a block that `nn.Repeat` stacks, rotary attention that keeps a cache, a held-out
tenth of the text, a warm-up and a decay of the learning rate, checkpoints in `runs/gpt` (a run that was interrupted
goes on), and sampling.

Measured on 2 CPU cores (256 s of CPU time): after 600 steps a loss of 1.775 for a character of the held-out tenth, 2.56
bits. A sample:

    How you some they!
    'Alonger I mode my speoks my been conster
    Vears be are you the brucknice thing possion he,
"""

import lzma
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from batiste import TrainState, generate, nn, train

CONTEXT = 128  # characters that a window has
SEEN = 64  # characters that a token sees; a layer above sees further
DATA = Path(__file__).parent / "data"
TEXT = lzma.decompress((DATA / "shakespeare.txt.xz").read_bytes()).decode()
CHARACTERS = sorted(set(TEXT))
NUMBERS = {character: number for number, character in enumerate(CHARACTERS)}


class Block(nn.Module):
    decode: bool = False

    @nn.compact
    def __call__(self, x):
        attention = nn.GroupedQueryAttention(num_heads=4, window=SEEN, decode=self.decode, name="attention")
        x = x + attention(nn.RMSNorm()(x))
        y = nn.gelu(nn.Dense(4 * x.shape[-1], name="up")(nn.RMSNorm()(x)))
        return x + nn.Dense(x.shape[-1], name="down")(y)


class GPT(nn.Module):
    width: int = 128
    depth: int = 4
    decode: bool = False  # whether to keep a cache

    @nn.compact
    def __call__(self, tokens):  # [batch, length]
        x = nn.Embed(len(CHARACTERS), self.width)(tokens)
        x = nn.Repeat(Block(decode=self.decode), self.depth, name="block")(x)
        return nn.Dense(len(CHARACTERS), name="head")(nn.RMSNorm()(x))  # [batch, length, character]


def loss_fn(model, windows):
    logits = model(windows[:, :-1])
    return optax.softmax_cross_entropy_with_integer_labels(logits, windows[:, 1:])


def encode(text):
    return np.array([NUMBERS[character] for character in text], np.int32)


def decode(tokens):
    return "".join(CHARACTERS[token] for token in np.asarray(tokens))


def split(text):
    """Return the first nine tenths as one array of characters, and the last as windows."""
    tokens = encode(text)
    cut = len(tokens) * 9 // 10
    held_out = tokens[cut:]
    return tokens[:cut], held_out[: len(held_out) // CONTEXT * CONTEXT].reshape(-1, CONTEXT)


def windows_of(tokens, batch):
    """Return the data: a function from the number of steps done to a batch of windows, anywhere in the text."""

    def windows(step):
        starts = np.random.default_rng(step).integers(len(tokens) - CONTEXT, size=(batch, 1))
        return tokens[starts + np.arange(CONTEXT)]

    return windows


def new_state(steps):
    rate = optax.warmup_cosine_decay_schedule(0.0, 4e-3, warmup_steps=max(1, steps // 20), decay_steps=steps)
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, b2=0.99, mask=train.matching("**/kernel")))
    return TrainState.init(GPT(), tx, jax.random.key(0), jnp.zeros((1, CONTEXT), jnp.int32))


def sample(params, prompt="HAMLET.\n", characters=300):
    found = generate(
        GPT(decode=True),
        {"params": params},
        encode(prompt)[None],
        max_new_tokens=characters,
        temperature=0.8,
        key=jax.random.key(0),
    )
    return decode(found.tokens[0])


def main(steps=600, batch=16, run="runs/gpt"):
    tokens, held_out = split(TEXT)
    step = train.make_step(loss_fn)
    state = train.fit(step, new_state(steps), windows_of(tokens, batch), steps=steps, run=run, log=train.show)
    loss = train.evaluate(state, held_out, step, batch_size=64)["loss"]
    print(f"loss of text that it has not seen: {loss:.3f} for a character")
    print(sample(state.params))
    return loss


if __name__ == "__main__":
    main()
