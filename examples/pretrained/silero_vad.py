"""silero-vad, which hears whether someone speaks: a short-time Fourier transform, four convolutions and an LSTM cell.

The package `silero-vad` carries its weights in a TorchScript file, which is a program; PyTorch runs it, and its state
dict is all that is taken. (The package's safetensors file holds older weights.)

    python -m examples.pretrained.silero_vad .../silero_vad/data/silero_vad.jit
"""

import sys
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from batiste import nn
from batiste.importers import from_torch, pretrained
from batiste.typing import Array, Variables

CONTEXT = 64
CHUNK = 512
WIDTH = 128

State = tuple[Array, Array]


class SileroVad(nn.Module):
    """A chunk with the end of the one before it, `[batch, 64 + 512]`, to the probability of speech `[batch]`.

    The state is the carry of the LSTM cell, `(memory, hidden)`, each `[batch, 128]`.
    """

    @nn.compact
    def __call__(self, sound: Array, state: State) -> tuple[Array, State]:
        x = jnp.pad(sound, ((0, 0), (0, 64)), mode="reflect")[..., None]  # [batch, time, 1]
        x = nn.Conv(258, 256, strides=128, padding="VALID", use_bias=False, name="stft")(x)
        real, imaginary = jnp.split(x, 2, axis=-1)
        x = jnp.sqrt(real**2 + imaginary**2)
        for number, (features, strides) in enumerate([(128, 1), (64, 2), (64, 2), (128, 1)]):
            x = nn.relu(nn.Conv(features, 3, strides=strides, padding=1, name=f"conv_{number}")(x))
        state, hidden = nn.OptimizedLSTMCell(WIDTH, name="lstm")(state, x[:, 0])
        out = nn.Conv(1, 1, name="out")(nn.relu(hidden)[:, None])
        return nn.sigmoid(out)[:, 0, 0], state


def silence(batch: int = 1) -> State:
    """Return the state before the first chunk."""
    return jnp.zeros((batch, WIDTH)), jnp.zeros((batch, WIDTH))


def load(state_dict: Mapping[str, Any]) -> Any:
    sound = jax.ShapeDtypeStruct((1, CONTEXT + CHUNK), jnp.float32)
    target = jax.eval_shape(SileroVad().init, jax.random.key(0), sound, silence())
    return from_torch(state_dict, target, pretrained.SILERO_VAD)


def listen(variables: Variables, sound: Array) -> Array:
    """Return the probability of speech in each chunk of a sound `[batch, chunks * 512]` at 16 kHz."""
    state, context = silence(len(sound)), jnp.zeros((len(sound), CONTEXT))
    heard = []
    for chunk in jnp.split(sound, sound.shape[1] // CHUNK, axis=1):
        probability, state = SileroVad().apply(variables, jnp.concatenate([context, chunk], axis=1), state)
        context = chunk[:, -CONTEXT:]
        heard.append(probability)
    return jnp.stack(heard, axis=1)


if __name__ == "__main__":
    import torch

    script = torch.jit.load(sys.argv[1], map_location="cpu")
    print(listen(load(script.state_dict()), jnp.zeros((1, 2 * CHUNK))))
