"""T5 (Raffel et al., 2019) in the manner of T5X: partitioning annotations, relative positions, scanned encoder."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import struct
from flax.linen import partitioning as nn_partitioning
from jax import lax

param_with_axes = nn_partitioning.param_with_axes
with_sharding_constraint = nn_partitioning.with_sharding_constraint


@struct.dataclass
class T5Config:
    vocab_size: int = 23
    emb_dim: int = 8
    num_heads: int = 2
    head_dim: int = 4
    mlp_dim: int = 16
    num_layers: int = 2
    dropout_rate: float = 0.1
    mlp_activations: tuple[str, ...] = ("gelu", "linear")
    dtype: Any = jnp.float32


def _convert_to_activation_function(name: str) -> Callable:
    return (lambda x: x) if name == "linear" else getattr(nn, name)


class T5LayerNorm(nn.Module):
    epsilon: float = 1e-6
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        x = jnp.asarray(x, jnp.float32)
        mean2 = jnp.mean(lax.square(x), axis=-1, keepdims=True)
        y = jnp.asarray(x * lax.rsqrt(mean2 + self.epsilon), self.dtype)
        scale = param_with_axes("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32, axes=("embed",))
        return y * jnp.asarray(scale, self.dtype)


class DenseGeneral(nn.Module):
    features: tuple[int, ...]
    kernel_axes: tuple[str, ...]
    num_axes: int = 1

    @nn.compact
    def __call__(self, inputs):
        axes = tuple(range(inputs.ndim - self.num_axes, inputs.ndim))
        shape = tuple(inputs.shape[ax] for ax in axes) + self.features
        flat = (np.prod([inputs.shape[ax] for ax in axes]).item(), np.prod(self.features).item())
        init = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
        kernel = param_with_axes("kernel", init, flat, jnp.float32, axes=self.kernel_axes)
        kernel = jnp.reshape(kernel, shape)
        return lax.dot_general(inputs, kernel, ((axes, tuple(range(self.num_axes))), ((), ())))


class RelativePositionBiases(nn.Module):
    num_buckets: int
    num_heads: int

    @nn.compact
    def __call__(self, qlen, klen):
        distance = np.arange(klen)[None, :] - np.arange(qlen)[:, None]
        buckets = np.clip(distance + self.num_buckets // 2, 0, self.num_buckets - 1)
        table = param_with_axes(
            "rel_embedding",
            nn.initializers.normal(1.0),
            (self.num_heads, self.num_buckets),
            jnp.float32,
            axes=("heads", "relpos_buckets"),
        )
        one_hot = jnp.asarray(buckets[..., None] == np.arange(self.num_buckets), jnp.float32)
        return jnp.einsum("qkb,hb->hqk", one_hot, table)[None]


class MultiHeadDotProductAttention(nn.Module):
    config: T5Config

    @nn.compact
    def __call__(self, inputs_q, inputs_kv, mask, bias, deterministic):
        cfg = self.config
        inner = (cfg.num_heads, cfg.head_dim)
        query = DenseGeneral(inner, ("embed", "joined_kv"), name="query")(inputs_q)
        key = DenseGeneral(inner, ("embed", "joined_kv"), name="key")(inputs_kv)
        value = DenseGeneral(inner, ("embed", "joined_kv"), name="value")(inputs_kv)
        query = with_sharding_constraint(query, ("batch", "length", "heads", "kv"))
        full = nn.combine_masks(mask)
        added = lax.select(full > 0, jnp.zeros(full.shape), jnp.full(full.shape, -1e10))
        added = added if bias is None else added + bias
        rng = None if deterministic or cfg.dropout_rate == 0.0 else self.make_rng("dropout")
        x = nn.dot_product_attention(
            query,
            key,
            value,
            bias=added,
            dropout_rng=rng,
            dropout_rate=cfg.dropout_rate,
            deterministic=deterministic,
        )
        return DenseGeneral((inputs_q.shape[-1],), ("joined_kv", "embed"), 2, name="out")(x)


class MlpBlock(nn.Module):
    config: T5Config

    @nn.compact
    def __call__(self, inputs, deterministic):
        cfg = self.config
        activations = []
        for idx, act_fn in enumerate(cfg.mlp_activations):
            x = DenseGeneral((cfg.mlp_dim,), ("embed", "mlp"), name=f"wi_{idx}")(inputs)
            activations.append(_convert_to_activation_function(act_fn)(x))
        x = activations[0] * activations[1]
        x = nn.Dropout(cfg.dropout_rate, broadcast_dims=(-2,))(x, deterministic=deterministic)
        x = with_sharding_constraint(x, ("batch", "length", "mlp"))
        return DenseGeneral((inputs.shape[-1],), ("mlp", "embed"), name="wo")(x)


class EncoderLayer(nn.Module):
    config: T5Config

    @nn.compact
    def __call__(self, inputs, mask, bias, deterministic):
        x = T5LayerNorm(name="pre_attention_layer_norm")(inputs)
        x = inputs + MultiHeadDotProductAttention(self.config, name="attention")(x, x, mask, bias, deterministic)
        y = T5LayerNorm(name="pre_mlp_layer_norm")(x)
        return x + MlpBlock(self.config, name="mlp")(y, deterministic), None


class DecoderLayer(nn.Module):
    config: T5Config

    @nn.compact
    def __call__(self, inputs, encoded, decoder_mask, cross_mask, bias, deterministic):
        x = T5LayerNorm(name="pre_self_attention_layer_norm")(inputs)
        attend = MultiHeadDotProductAttention(self.config, name="self_attention")
        x = inputs + attend(x, x, decoder_mask, bias, deterministic)
        y = T5LayerNorm(name="pre_cross_attention_layer_norm")(x)
        cross = MultiHeadDotProductAttention(self.config, name="encoder_decoder_attention")
        y = x + cross(y, encoded, cross_mask, None, deterministic)
        z = T5LayerNorm(name="pre_mlp_layer_norm")(y)
        return y + MlpBlock(self.config, name="mlp")(z, deterministic)


class Transformer(nn.Module):
    config: T5Config

    @nn.compact
    def __call__(self, encoder_tokens, decoder_tokens, deterministic=False):
        cfg = self.config
        table = param_with_axes(
            "token_embedder", nn.initializers.normal(1.0), (cfg.vocab_size, cfg.emb_dim), axes=("vocab", "embed")
        )
        encoder_mask = nn.make_attention_mask(encoder_tokens > 0, encoder_tokens > 0)
        decoder_mask = nn.combine_masks(
            nn.make_attention_mask(decoder_tokens > 0, decoder_tokens > 0), nn.make_causal_mask(decoder_tokens)
        )
        cross_mask = nn.make_attention_mask(decoder_tokens > 0, encoder_tokens > 0)
        x = jnp.take(table, encoder_tokens, axis=0)
        bias = RelativePositionBiases(8, cfg.num_heads, name="encoder_relpos")(x.shape[-2], x.shape[-2])
        layer = nn_partitioning.remat(EncoderLayer, prevent_cse=False, static_argnums=(3,))
        x, _ = nn_partitioning.scan_with_axes(
            layer,
            variable_axes={"params": 1},
            split_rngs={"params": True, "dropout": True},
            in_axes=(nn.broadcast, nn.broadcast, nn.broadcast),
            length=cfg.num_layers,
            axis_name="layers",
        )(config=cfg, name="encoder")(x, encoder_mask, bias, deterministic)
        encoded = T5LayerNorm(name="encoder_norm")(x)
        y = jnp.take(table, decoder_tokens, axis=0)
        bias = RelativePositionBiases(8, cfg.num_heads, name="decoder_relpos")(y.shape[-2], y.shape[-2])
        for lyr in range(cfg.num_layers):
            y = DecoderLayer(cfg, name=f"layers_{lyr}")(y, encoded, decoder_mask, cross_mask, bias, deterministic)
        y = T5LayerNorm(name="decoder_norm")(y)
        return DenseGeneral((cfg.vocab_size,), ("embed", "vocab"), name="logits_dense")(y)


def build():
    source = jax.random.randint(jax.random.key(3), (2, 6), 0, 23)
    target = jax.random.randint(jax.random.key(4), (2, 5), 0, 23)
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    return Transformer(T5Config()), (source, target), {}, ["params_axes"], rngs
