"""A vision transformer (Dosovitskiy et al., 2020): patches, a class token, learned positions, pre-norm blocks."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

Array = Any
PRNGKey = Any
Shape = tuple[int, ...]
Dtype = Any


class AddPositionEmbs(nn.Module):
    posemb_init: Callable[[PRNGKey, Shape, Dtype], Array]
    param_dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, inputs):
        pos_emb_shape = (1, inputs.shape[1], inputs.shape[2])
        pe = self.param("pos_embedding", self.posemb_init, pos_emb_shape, self.param_dtype)
        return inputs + pe


class MlpBlock(nn.Module):
    mlp_dim: int
    out_dim: int | None = None
    dropout_rate: float = 0.1
    kernel_init: Callable = nn.initializers.xavier_uniform()
    bias_init: Callable = nn.initializers.normal(stddev=1e-6)

    @nn.compact
    def __call__(self, inputs, *, deterministic):
        actual_out_dim = inputs.shape[-1] if self.out_dim is None else self.out_dim
        x = nn.Dense(features=self.mlp_dim, kernel_init=self.kernel_init, bias_init=self.bias_init)(inputs)
        x = nn.gelu(x)
        x = nn.Dropout(rate=self.dropout_rate)(x, deterministic=deterministic)
        output = nn.Dense(features=actual_out_dim, kernel_init=self.kernel_init, bias_init=self.bias_init)(x)
        return nn.Dropout(rate=self.dropout_rate)(output, deterministic=deterministic)


class Encoder1DBlock(nn.Module):
    mlp_dim: int
    num_heads: int
    dropout_rate: float = 0.1
    attention_dropout_rate: float = 0.1

    @nn.compact
    def __call__(self, inputs, *, deterministic):
        x = nn.LayerNorm()(inputs)
        x = nn.MultiHeadDotProductAttention(
            kernel_init=nn.initializers.xavier_uniform(),
            broadcast_dropout=False,
            deterministic=deterministic,
            dropout_rate=self.attention_dropout_rate,
            num_heads=self.num_heads,
        )(x, x)
        x = nn.Dropout(rate=self.dropout_rate)(x, deterministic=deterministic)
        x = x + inputs
        y = nn.LayerNorm()(x)
        y = MlpBlock(mlp_dim=self.mlp_dim, dropout_rate=self.dropout_rate)(y, deterministic=deterministic)
        return x + y


class VisionTransformer(nn.Module):
    num_classes: int
    hidden_size: int
    num_layers: int

    @nn.compact
    def __call__(self, inputs, *, train):
        x = nn.Conv(self.hidden_size, (4, 4), strides=(4, 4), padding="VALID", name="embedding")(inputs)
        n, h, w, c = x.shape
        x = jnp.reshape(x, [n, h * w, c])
        cls = self.param("cls", nn.initializers.zeros, (1, 1, c))
        x = jnp.concatenate([jnp.tile(cls, [n, 1, 1]), x], axis=1)
        x = AddPositionEmbs(posemb_init=nn.initializers.normal(stddev=0.02), name="posembed_input")(x)
        x = nn.Dropout(rate=0.1)(x, deterministic=not train)
        for lyr in range(self.num_layers):
            x = Encoder1DBlock(mlp_dim=32, num_heads=2, name=f"encoderblock_{lyr}")(x, deterministic=not train)
        x = nn.LayerNorm(name="encoder_norm")(x)[:, 0]
        x = nn.tanh(nn.Dense(self.hidden_size, name="pre_logits")(x))
        return nn.Dense(self.num_classes, name="head", bias_init=nn.initializers.constant(-2.0))(x)


def build():
    images = jax.random.normal(jax.random.key(3), (2, 8, 8, 3))
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    return VisionTransformer(5, 16, 2), (images,), {"train": True}, False, rngs
