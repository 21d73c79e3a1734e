"""A U-Net for diffusion (Ho et al., 2020): time embeddings, residual blocks with group norm, attention, skips."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.initializers import variance_scaling


def default_init(scale=1.0):
    return variance_scaling(scale or 1e-10, "fan_avg", "uniform")


class TimeEmbedding(nn.Module):
    dim: int

    @nn.compact
    def __call__(self, t):
        half = self.dim // 2
        freqs = jnp.exp(-jnp.log(10000.0) * jnp.arange(half) / half)
        args = t[:, None] * freqs[None]
        emb = jnp.concatenate([jnp.sin(args), jnp.cos(args)], axis=-1)
        emb = nn.Dense(self.dim * 2, name="dense0")(emb)
        return nn.Dense(self.dim * 2, name="dense1")(nn.swish(emb))


class ResnetBlock(nn.Module):
    out_ch: int | None = None
    dropout: float = 0.1

    @nn.compact
    def __call__(self, x, temb, *, train):
        c = x.shape[-1]
        out_ch = c if self.out_ch is None else self.out_ch
        h = nn.swish(nn.GroupNorm(num_groups=2, name="norm1")(x))
        h = nn.Conv(out_ch, (3, 3), kernel_init=default_init(), name="conv1")(h)
        h += nn.Dense(out_ch, name="temb_proj", kernel_init=default_init())(nn.swish(temb))[:, None, None, :]
        h = nn.swish(nn.GroupNorm(num_groups=2, name="norm2")(h))
        h = nn.Dropout(rate=self.dropout)(h, deterministic=not train)
        h = nn.Conv(out_ch, (3, 3), kernel_init=default_init(0.0), name="conv2")(h)
        if c != out_ch:
            x = nn.Dense(out_ch, kernel_init=default_init(), name="nin_shortcut")(x)
        return x + h


class AttnBlock(nn.Module):
    num_heads: int

    @nn.compact
    def __call__(self, x):
        b, height, width, c = x.shape
        h = nn.GroupNorm(num_groups=None, group_size=4, name="norm")(x).reshape(b, height * width, c)
        h = nn.SelfAttention(self.num_heads, out_kernel_init=default_init(0.0), name="attention")(h)
        return x + h.reshape(x.shape)


class Downsample(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Conv(x.shape[-1], (3, 3), strides=(2, 2), padding="SAME", name="conv")(x)


class Upsample(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.ConvTranspose(x.shape[-1], (4, 4), strides=(2, 2), name="conv")(x)


class UNet(nn.Module):
    ch: int = 8
    ch_mult: tuple[int, ...] = (1, 2)

    @nn.compact
    def __call__(self, x, t, train=True):
        temb = TimeEmbedding(self.ch)(t)
        h = nn.Conv(self.ch, (3, 3), name="conv_in")(x)
        hs = []
        for level, mult in enumerate(self.ch_mult):
            h = ResnetBlock(self.ch * mult, name=f"down_{level}")(h, temb, train=train)
            hs.append(h)
            if level + 1 < len(self.ch_mult):
                h = Downsample(name=f"downsample_{level}")(h)
        h = AttnBlock(2, name="mid_attn_1")(h)
        for level, mult in reversed(list(enumerate(self.ch_mult))):
            skip = hs.pop()
            h = Upsample(name=f"upsample_{level}")(h) if skip.shape[1] != h.shape[1] else h
            h = jnp.concatenate([h, skip], axis=-1)
            h = ResnetBlock(self.ch * mult, name=f"up_{level}")(h, temb, train=train)
        h = nn.swish(nn.GroupNorm(num_groups=2, name="norm_out")(h))
        return nn.Conv(x.shape[-1], (3, 3), name="conv_out")(h)


def build():
    images = jax.random.normal(jax.random.key(3), (2, 8, 8, 3))
    steps = jnp.array([3.0, 70.0])
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    return UNet(), (images, steps), {"train": True}, False, rngs
