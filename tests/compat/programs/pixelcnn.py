"""A network in the manner of PixelCNN++ (Salimans et al., 2017): weight norm by hand, shifted convolutions, gates."""

import functools
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax


def concat_elu(x):
    return nn.elu(jnp.concatenate((x, -x), axis=-1))


class ConvWeightNorm(nn.Module):
    features: int
    kernel_size: tuple[int, int]
    strides: tuple[int, int] | None = None
    padding: str | tuple = "VALID"

    @nn.compact
    def __call__(self, inputs):
        strides = self.strides or (1,) * (inputs.ndim - 2)

        def init_fn(key):
            return {
                "direction": nn.initializers.normal(0.05)(key, (*self.kernel_size, inputs.shape[-1], self.features))
            }

        params = self.param("weightnorm_params", lambda key: {**init_fn(key), "scale": jnp.ones(self.features)})
        direction, scale = params["direction"], params["scale"]
        norm = jnp.sqrt(jnp.sum(jnp.square(direction), axis=(0, 1, 2)) + 1e-5)
        conv = partial(
            lax.conv_general_dilated,
            window_strides=strides,
            padding=self.padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        y = conv(inputs, direction * (scale / norm))
        return y + self.param("bias", nn.initializers.zeros, (self.features,))


class ConvDown(nn.Module):
    features: int
    kernel_size: tuple[int, int] = (2, 3)

    @nn.compact
    def __call__(self, x):
        k_h, k_w = self.kernel_size
        padded = jnp.pad(x, ((0, 0), (k_h - 1, 0), ((k_w - 1) // 2, (k_w - 1) // 2), (0, 0)))
        return ConvWeightNorm(self.features, self.kernel_size)(padded)


class ConvDownRight(nn.Module):
    features: int
    kernel_size: tuple[int, int] = (2, 2)

    @nn.compact
    def __call__(self, x):
        k_h, k_w = self.kernel_size
        padded = jnp.pad(x, ((0, 0), (k_h - 1, 0), (k_w - 1, 0), (0, 0)))
        return ConvWeightNorm(self.features, self.kernel_size)(padded)


class GatedResnet(nn.Module):
    conv_module: Callable | None = None
    dropout_p: float = 0.5
    nonlinearity: Callable = concat_elu

    @nn.compact
    def __call__(self, inputs, aux=None, train=True):
        y = self.conv_module(inputs.shape[-1])(self.nonlinearity(inputs))
        if aux is not None:
            y = self.nonlinearity(y + ConvWeightNorm(y.shape[-1], (1, 1))(self.nonlinearity(aux)))
        y = nn.Dropout(rate=self.dropout_p)(self.nonlinearity(y), deterministic=not train)
        a, b = jnp.split(ConvWeightNorm(2 * inputs.shape[-1], (1, 1))(y), 2, axis=-1)
        return inputs + a * nn.sigmoid(b)


ResDown = functools.partial(GatedResnet, conv_module=ConvDown)
ResDownRight = functools.partial(GatedResnet, conv_module=ConvDownRight)


class ResnetUpBlock(nn.Module):
    @nn.compact
    def __call__(self, args, train=True):
        v, h = args
        v = ResDown()(v, train=train)
        return v, ResDownRight()(h, v, train=train)


class PixelCNNPP(nn.Module):
    depth: int = 2
    features: int = 4
    mixture: int = 2

    @nn.compact
    def __call__(self, images, train=True):
        images = jnp.pad(images, ((0, 0), (0, 0), (0, 0), (0, 1)), constant_values=1)
        v = jnp.pad(ConvDown(self.features)(images)[:, :-1], ((0, 0), (1, 0), (0, 0), (0, 0)))
        h = jnp.pad(ConvDownRight(self.features)(images)[:, :, :-1], ((0, 0), (0, 0), (1, 0), (0, 0)))
        for _ in range(self.depth):
            v, h = ResnetUpBlock()((v, h), train=train)
        out = ConvWeightNorm(10 * self.mixture, (1, 1))(nn.elu(h))
        logits, params = jnp.split(out, (self.mixture,), axis=-1)
        return nn.log_softmax(logits), params


def build():
    images = jax.random.uniform(jax.random.key(3), (2, 5, 5, 3), minval=-1.0)
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    return PixelCNNPP(), (images,), {"train": True}, False, rngs
