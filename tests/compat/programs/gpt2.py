"""GPT-2 (Radford et al., 2019): tied embeddings, causal attention by hand, blocks in `setup`, remat and scan."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct


@struct.dataclass
class GPTConfig:
    vocab_size: int = 31
    block_size: int = 16
    num_layers: int = 2
    num_heads: int = 2
    num_embeds: int = 16
    dropout_rate: float = 0.1
    use_bias: bool = True


class SelfAttention(nn.Module):
    config: GPTConfig

    @nn.compact
    def __call__(self, x, mask, deterministic=None):
        cfg = self.config
        b, t, c = x.shape
        deterministic = nn.merge_param("deterministic", None, deterministic)
        qkv = nn.Dense(3 * c, use_bias=cfg.use_bias, name="c_attn", kernel_init=nn.initializers.normal(0.02))(x)
        q, k, v = jnp.split(qkv.reshape(b, t, 3 * cfg.num_heads, c // cfg.num_heads), 3, axis=2)
        scale = 1.0 / jnp.sqrt(k.shape[-1]).astype(x.dtype)
        attn = jnp.einsum("...qhd,...khd->...hqk", q, k) * scale
        attn = jnp.where(mask, attn, jnp.finfo(x.dtype).min)
        attn = jax.nn.softmax(attn).astype(x.dtype)
        attn = nn.Dropout(cfg.dropout_rate)(attn, deterministic=deterministic)
        x = jnp.einsum("...hqk,...khd->...qhd", attn, v).reshape(b, t, c)
        x = nn.Dense(c, use_bias=cfg.use_bias, name="c_proj")(x)
        return nn.Dropout(rate=cfg.dropout_rate)(x, deterministic=deterministic)


class MLP(nn.Module):
    config: GPTConfig

    @nn.compact
    def __call__(self, x, deterministic=None):
        _, _, c = x.shape
        x = nn.Dense(4 * c, name="c_fc")(x)
        x = nn.gelu(x, approximate=True)
        x = nn.Dense(c, name="c_proj")(x)
        return nn.Dropout(self.config.dropout_rate)(x, deterministic)


class Block(nn.Module):
    config: GPTConfig

    def setup(self):
        self.ln_1 = nn.LayerNorm(epsilon=1e-5)
        self.attn = SelfAttention(self.config)
        self.ln_2 = nn.LayerNorm(epsilon=1e-5)
        self.mlp = MLP(self.config)

    def __call__(self, x, mask=None, deterministic=None):
        x = x + self.attn(self.ln_1(x), mask, deterministic)
        return x + self.mlp(self.ln_2(x), deterministic)


class GPT(nn.Module):
    config: GPTConfig

    @nn.compact
    def __call__(self, idx, deterministic=None):
        cfg = self.config
        _, t = idx.shape
        pos = jnp.arange(0, t)[None]
        mask = nn.make_causal_mask(idx, dtype=bool)
        wte = nn.Embed(cfg.vocab_size, cfg.num_embeds, name="wte")
        wpe = nn.Embed(cfg.block_size, cfg.num_embeds, name="wpe")
        x = nn.Dropout(cfg.dropout_rate)(wte(idx) + wpe(pos), deterministic)
        for i in range(cfg.num_layers):
            x = nn.remat(Block, static_argnums=(3,))(cfg, name=str(i))(x, mask, deterministic)
        x = nn.LayerNorm(1e-5, name="ln_f")(x)
        return wte.attend(x)


def build():
    config = dataclasses.replace(GPTConfig(), num_layers=2)
    tokens = jax.random.randint(jax.random.key(3), (2, 9), 0, config.vocab_size)
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    return GPT(config), (tokens,), {"deterministic": False}, False, rngs
