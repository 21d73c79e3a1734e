"""An encoder and decoder in the manner of Whisper (Radford et al., 2022): log-mel frames in, tokens out."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen import make_causal_mask


def sinusoidal_embedding_init(key, shape, dtype=jnp.float32):
    length, channels = shape
    log_timescale_increment = np.log(10000) / (channels // 2 - 1)
    inv_timescales = jnp.exp(-log_timescale_increment * jnp.arange(channels // 2))
    scaled_time = jnp.arange(length).reshape(-1, 1) * inv_timescales.reshape(1, -1)
    return jnp.concatenate([jnp.sin(scaled_time), jnp.cos(scaled_time)], axis=1).astype(dtype)


class Layer(nn.Module):
    width: int
    heads: int
    is_decoder: bool = False

    def setup(self):
        self.self_attn_layer_norm = nn.LayerNorm(epsilon=1e-5)
        self.self_attn = nn.MultiHeadDotProductAttention(self.heads, decode=False)
        if self.is_decoder:
            self.encoder_attn_layer_norm = nn.LayerNorm(epsilon=1e-5)
            self.encoder_attn = nn.MultiHeadDotProductAttention(self.heads)
        self.final_layer_norm = nn.LayerNorm(epsilon=1e-5)
        self.fc1 = nn.Dense(4 * self.width)
        self.fc2 = nn.Dense(self.width)

    def __call__(self, x, encoded=None, mask=None):
        y = self.self_attn_layer_norm(x)
        x = x + self.self_attn(y, y, mask=mask)
        if encoded is not None:
            x = x + self.encoder_attn(self.encoder_attn_layer_norm(x), encoded)
        return x + self.fc2(nn.gelu(self.fc1(self.final_layer_norm(x)), approximate=False))


class Encoder(nn.Module):
    width: int

    def setup(self):
        self.conv1 = nn.Conv(self.width, kernel_size=(3,), padding=1)
        self.conv2 = nn.Conv(self.width, kernel_size=(3,), strides=2, padding=1)
        self.embed_positions = nn.Embed(16, self.width, embedding_init=sinusoidal_embedding_init)
        self.layers = [Layer(self.width, 2) for _ in range(2)]
        self.layer_norm = nn.LayerNorm(epsilon=1e-5)

    def __call__(self, features):
        x = nn.gelu(self.conv1(features), approximate=False)
        x = nn.gelu(self.conv2(x), approximate=False)
        x = x + jax.lax.stop_gradient(self.embed_positions(jnp.arange(x.shape[1])))
        for layer in self.layers:
            x = layer(x)
        return self.layer_norm(x)


class Decoder(nn.Module):
    width: int
    vocab: int

    def setup(self):
        self.embed_tokens = nn.Embed(self.vocab, self.width)
        self.embed_positions = nn.Embed(16, self.width)
        self.layers = [Layer(self.width, 2, is_decoder=True) for _ in range(2)]
        self.layer_norm = nn.LayerNorm(epsilon=1e-5)

    def __call__(self, tokens, encoded):
        x = self.embed_tokens(tokens) + self.embed_positions(jnp.arange(tokens.shape[1]))
        for layer in self.layers:
            x = layer(x, encoded, make_causal_mask(tokens))
        return self.embed_tokens.attend(self.layer_norm(x))


class Whisper(nn.Module):
    width: int
    vocab: int

    def setup(self):
        self.encoder = Encoder(self.width)
        self.decoder = Decoder(self.width, self.vocab)

    def encode(self, features):
        return self.encoder(features)

    def decode(self, tokens, encoded):
        return self.decoder(tokens, encoded)

    def __call__(self, features, tokens):
        return self.decode(tokens, self.encode(features))


def build():
    features = jax.random.normal(jax.random.key(3), (2, 12, 5))
    tokens = jax.random.randint(jax.random.key(4), (2, 4), 0, 17)
    return Whisper(8, 17), (features, tokens), {}, False, {"params": jax.random.key(0)}
