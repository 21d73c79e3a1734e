"""Resemblyzer's voice encoder, which tells speakers apart: three LSTM layers.

The package `resemblyzer` carries its weights in `pretrained.pt`, beside an optimiser's state, which is not read:

    python -m examples.pretrained.resemblyzer .../resemblyzer/pretrained.pt
"""

import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from batiste import nn
from batiste.importers import from_torch, plan_import, pretrained
from batiste.typing import Array

CHANNELS = 40
WIDTH = 256


class VoiceEncoder(nn.Module):
    """Mel spectrograms `[batch, frames, 40]` to unit vectors `[batch, 256]`."""

    @nn.compact
    def __call__(self, mels: Array) -> Array:
        x = mels
        for number in range(3):
            x = nn.RNN(nn.OptimizedLSTMCell(WIDTH, name=f"lstm_{number}"))(x)
        x = nn.relu(nn.Dense(WIDTH, name="linear")(x[:, -1]))
        return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def shapes() -> Any:
    mels = jax.ShapeDtypeStruct((1, 16, CHANNELS), jnp.float32)
    return jax.eval_shape(VoiceEncoder().init, jax.random.key(0), mels)


def load(path: Path | str) -> Any:
    return from_torch(path, shapes(), pretrained.RESEMBLYZER)


if __name__ == "__main__":
    print(plan_import(sys.argv[1], shapes(), pretrained.RESEMBLYZER))
