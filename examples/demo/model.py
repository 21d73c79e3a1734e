"""The network: two stages of convolutions with batch normalisation and dropout, then a small classifier."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from batiste import nn


class ConvNet(nn.Module):
    """A convolutional network for small grey images.

    ``stride`` is that of the second convolution: 2 makes the rest four times cheaper, for images that are large enough.
    """

    brightest: float
    stride: int = 1
    features: Sequence[int] = (32, 64)
    hidden: int = 128
    classes: int = 10
    dropout: float = 0.2

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        x = images.astype(jnp.float32) / self.brightest  # [batch, height, width, 1]
        for stage, features in enumerate(self.features):
            x = ConvBlock(features)(x, train=train)
            x = ConvBlock(features, stride=1 if stage else self.stride)(x, train=train)
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
        x = x.reshape(len(x), -1)  # [batch, features]
        x = nn.relu(nn.Dense(self.hidden)(x))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        return nn.Dense(self.classes)(x)  # [batch, classes]


class ConvBlock(nn.Module):
    """A convolution of 3 by 3 pixels, normalised over the batch; the normalisation has the bias."""

    features: int
    stride: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = nn.Conv(self.features, (3, 3), strides=self.stride, use_bias=False)(x)
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
        return nn.relu(x)
