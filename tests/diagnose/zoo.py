"""Sound models in the style of public Linen code, under Flax's own names: what no tool may have a finding on."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from batiste.compat.flax import linen as nn
from batiste.compat.flax import struct


class ResNetBlock(nn.Module):
    filters: int
    conv: Any
    norm: Any
    act: Any
    strides: tuple[int, int] = (1, 1)

    @nn.compact
    def __call__(self, x):
        residual = x
        y = self.conv(self.filters, (3, 3), self.strides)(x)
        y = self.act(self.norm()(y))
        y = self.conv(self.filters, (3, 3))(y)
        y = self.norm(scale_init=nn.initializers.zeros_init())(y)
        if residual.shape != y.shape:
            residual = self.conv(self.filters, (1, 1), self.strides, name="conv_proj")(residual)
            residual = self.norm(name="norm_proj")(residual)
        return self.act(residual + y)


class ImageNetResNet(nn.Module):
    stages: tuple[int, ...] = (1, 1)
    filters: int = 4

    @nn.compact
    def __call__(self, x, train=True):
        conv = functools.partial(nn.Conv, use_bias=False)
        norm = functools.partial(nn.BatchNorm, use_running_average=not train, momentum=0.9, epsilon=1e-5)
        x = conv(self.filters, (7, 7), (2, 2), padding=[(3, 3), (3, 3)], name="conv_init")(x)
        x = nn.relu(norm(name="bn_init")(x))
        x = nn.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")
        for i, size in enumerate(self.stages):
            for j in range(size):
                strides = (2, 2) if i > 0 and j == 0 else (1, 1)
                x = ResNetBlock(self.filters * 2**i, conv, norm, nn.relu, strides)(x)
        return nn.Dense(5)(jnp.mean(x, axis=(1, 2)))


@struct.dataclass
class TransformerConfig:
    vocab: int = 11
    emb: int = 8
    heads: int = 2
    mlp: int = 16
    layers: int = 2
    max_len: int = 12
    dropout: float = 0.1
    deterministic: bool = False


def sinusoidal(max_len):
    def init(_, shape, dtype=np.float32):
        width = shape[-1]
        table = np.zeros((max_len, width), dtype=np.float32)
        position = np.arange(0, max_len)[:, np.newaxis]
        scale = -np.log(10000.0) / (width // 2 - 1)
        div = np.exp(np.arange(0, width // 2) * scale)
        table[:, : width // 2] = np.sin(position * div)
        table[:, width // 2 : 2 * (width // 2)] = np.cos(position * div)
        return jnp.array(table[np.newaxis])

    return init


class AddPositionEmbs(nn.Module):
    config: TransformerConfig

    @nn.compact
    def __call__(self, x):
        return x + sinusoidal(self.config.max_len)(None, (1, self.config.max_len, x.shape[-1]))[:, : x.shape[1], :]


class MlpBlock(nn.Module):
    config: TransformerConfig

    @nn.compact
    def __call__(self, x):
        c = self.config
        y = nn.relu(nn.Dense(c.mlp, bias_init=nn.initializers.normal(stddev=1e-6))(x))
        y = nn.Dropout(rate=c.dropout)(y, deterministic=c.deterministic)
        y = nn.Dense(x.shape[-1], bias_init=nn.initializers.normal(stddev=1e-6))(y)
        return nn.Dropout(rate=c.dropout)(y, deterministic=c.deterministic)


class DecoderBlock(nn.Module):
    config: TransformerConfig

    @nn.compact
    def __call__(self, x, encoded=None, mask=None):
        c = self.config
        attend = functools.partial(
            nn.MultiHeadDotProductAttention,
            num_heads=c.heads, use_bias=False, broadcast_dropout=False, dropout_rate=c.dropout,
            deterministic=c.deterministic,
        )  # fmt: skip
        y = attend(name="self")(nn.LayerNorm()(x), mask=mask)
        x = x + nn.Dropout(rate=c.dropout)(y, deterministic=c.deterministic)
        if encoded is not None:
            x = x + attend(name="cross")(nn.LayerNorm()(x), encoded)
        return x + MlpBlock(c)(nn.LayerNorm()(x))


class LM1B(nn.Module):
    config: TransformerConfig = TransformerConfig()

    @nn.compact
    def __call__(self, tokens):
        c = self.config
        mask = nn.combine_masks(nn.make_attention_mask(tokens > 0, tokens > 0), nn.make_causal_mask(tokens))
        embed = nn.Embed(c.vocab, c.emb, embedding_init=nn.initializers.normal(stddev=1.0))
        y = jnp.pad(tokens, ((0, 0), (1, 0)))[:, :-1]
        y = AddPositionEmbs(c)(embed(y))
        y = nn.Dropout(rate=c.dropout)(y, deterministic=c.deterministic)
        for i in range(c.layers):
            y = DecoderBlock(c, name=f"block_{i}")(y, mask=mask)
        y = nn.LayerNorm(name="norm")(y)
        return embed.attend(y) / jnp.sqrt(y.shape[-1])


class WMT(nn.Module):
    config: TransformerConfig = TransformerConfig()

    def setup(self):
        c = self.config
        self.shared = nn.Embed(c.vocab, c.emb, embedding_init=nn.initializers.normal(stddev=1.0))
        self.encoder = [DecoderBlock(c) for _ in range(2)]
        self.decoder = [DecoderBlock(c) for _ in range(2)]
        self.norm_encoder, self.norm_decoder = nn.LayerNorm(), nn.LayerNorm()

    def encode(self, inputs):
        x = self.shared(inputs)
        for block in self.encoder:
            x = block(x)
        return self.norm_encoder(x)

    def decode(self, encoded, targets):
        y = self.shared(jnp.pad(targets, ((0, 0), (1, 0)))[:, :-1])
        for block in self.decoder:
            y = block(y, encoded, nn.make_causal_mask(targets))
        return self.shared.attend(self.norm_decoder(y))

    def __call__(self, inputs, targets):
        return self.decode(self.encode(inputs), targets)


class DecoderLSTM(nn.RNNCellBase):
    vocab: int
    size: int
    teacher_force: bool

    @nn.compact
    def __call__(self, carry, x):
        lstm_state, last = carry
        x = x if self.teacher_force else last
        lstm_state, y = nn.LSTMCell(self.size)(lstm_state, x)
        logits = nn.Dense(self.vocab)(y)
        key = self.make_rng("lstm")
        predicted = jax.nn.one_hot(jax.random.categorical(key, logits), self.vocab)
        return (lstm_state, predicted), (logits, predicted)

    @property
    def num_feature_axes(self):
        return 1


class Seq2seq(nn.Module):
    hidden: int = 6
    vocab: int = 7
    teacher_force: bool = True

    @nn.compact
    def __call__(self, encoder_inputs, decoder_inputs):
        encoder = nn.RNN(nn.LSTMCell(self.hidden), return_carry=True, name="encoder")
        decoder = nn.RNN(
            DecoderLSTM(self.vocab, self.hidden, self.teacher_force), split_rngs={"params": False, "lstm": True},
            name="decoder",
        )  # fmt: skip
        state, _ = encoder(encoder_inputs, seq_lengths=jnp.array([3, 5]))
        return decoder(decoder_inputs[:, :-1], initial_carry=(state, decoder_inputs[:, 0]))


class VAE(nn.Module):
    latents: int = 3

    def setup(self):
        self.fc1, self.fc2_mean, self.fc2_logvar = nn.Dense(8), nn.Dense(self.latents), nn.Dense(self.latents)
        self.fc3, self.fc4 = nn.Dense(8), nn.Dense(10)

    def decode(self, z):
        return self.fc4(nn.relu(self.fc3(z)))

    def generate(self, z):
        return nn.sigmoid(self.decode(z))

    def __call__(self, x):
        h = nn.relu(self.fc1(x))
        mean, logvar = self.fc2_mean(h), self.fc2_logvar(h)
        z = mean + jnp.exp(0.5 * logvar) * jax.random.normal(self.make_rng("reparam"), logvar.shape)
        return self.decode(z), mean, logvar


class ActorCritic(nn.Module):
    outputs: int = 4

    @nn.compact
    def __call__(self, x):
        x = x.astype(jnp.float32) / 255.0
        x = nn.relu(nn.Conv(4, (8, 8), strides=(4, 4), name="conv1")(x))
        x = nn.relu(nn.Conv(8, (4, 4), strides=(2, 2), name="conv2")(x))
        x = nn.relu(nn.Dense(16, name="hidden")(x.reshape((x.shape[0], -1))))
        logits = nn.Dense(self.outputs, name="logits")(x)
        return nn.log_softmax(logits), nn.Dense(1, name="value")(x)


class GATLayer(nn.Module):
    features: int
    heads: int = 2

    @nn.compact
    def __call__(self, x, adjacency):
        h = nn.Dense(self.features * self.heads, use_bias=False)(x).reshape(x.shape[0], self.heads, self.features)
        source = self.param("a_source", nn.initializers.glorot_uniform(), (self.heads, self.features))
        target = self.param("a_target", nn.initializers.glorot_uniform(), (self.heads, self.features))
        scores = jnp.einsum("nhf,hf->nh", h, source)[:, None] + jnp.einsum("nhf,hf->nh", h, target)[None]
        scores = jnp.where(adjacency[..., None], nn.leaky_relu(scores, 0.2), -1e9)
        return jnp.einsum("nmh,mhf->nhf", nn.softmax(scores, axis=1), h).mean(1)


class GAT(nn.Module):
    @nn.compact
    def __call__(self, x, adjacency):
        x = nn.elu(GATLayer(6)(x, adjacency))
        x = nn.Dropout(0.2)(x, deterministic=False)
        return GATLayer(3)(x, adjacency)


class Down(nn.Module):
    features: int

    @nn.compact
    def __call__(self, x, train):
        for _ in range(2):
            x = nn.Conv(self.features, (3, 3), use_bias=False)(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        return x


class UNet(nn.Module):
    @nn.compact
    def __call__(self, x, train=True):
        skips = []
        for features in (4, 8):
            x = Down(features)(x, train)
            skips.append(x)
            x = nn.max_pool(x, (2, 2), (2, 2))
        x = Down(8)(x, train)
        for features, skip in zip((8, 4), reversed(skips), strict=True):
            x = nn.ConvTranspose(features, (2, 2), (2, 2))(x)
            x = Down(features)(jnp.concatenate([x, skip], axis=-1), train)
        return nn.Conv(2, (1, 1))(x)


class EncoderBlock(nn.Module):
    @nn.compact
    def __call__(self, x, deterministic):
        y = nn.LayerNorm()(x)
        y = nn.SelfAttention(2, dropout_rate=0.1)(y, deterministic=deterministic)
        x = x + nn.Dropout(0.1)(y, deterministic=deterministic)
        y = nn.gelu(nn.Dense(16)(nn.LayerNorm()(x)))
        return x + nn.Dense(x.shape[-1])(nn.Dropout(0.1)(y, deterministic=deterministic))


class ViT(nn.Module):
    @nn.compact
    def __call__(self, x, train=True):
        x = nn.Conv(8, (4, 4), (4, 4), padding="VALID", name="embedding")(x)
        n, h, w, c = x.shape
        x = x.reshape(n, h * w, c)
        cls = self.param("cls", nn.initializers.zeros, (1, 1, c))
        x = jnp.concatenate([jnp.tile(cls, [n, 1, 1]), x], axis=1)
        x = x + self.param("pos_embedding", nn.initializers.normal(stddev=0.02), (1, x.shape[1], c))
        for layer in range(2):
            x = EncoderBlock(name=f"encoderblock_{layer}")(x, deterministic=not train)
        x = nn.LayerNorm(name="encoder_norm")(x)[:, 0]
        return nn.Dense(3, name="head", kernel_init=nn.initializers.zeros)(x)


class MixerBlock(nn.Module):
    @nn.compact
    def __call__(self, x):
        y = jnp.swapaxes(nn.LayerNorm()(x), 1, 2)
        y = nn.Dense(y.shape[-1])(nn.gelu(nn.Dense(8)(y)))
        x = x + jnp.swapaxes(y, 1, 2)
        return x + nn.Dense(x.shape[-1])(nn.gelu(nn.Dense(8)(nn.LayerNorm()(x))))


class Mixer(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(6, (2, 2), strides=(2, 2), name="stem")(x)
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        for _ in range(2):
            x = MixerBlock()(x)
        return nn.Dense(3, kernel_init=nn.initializers.zeros)(nn.LayerNorm()(x).mean(axis=1))


class WaveNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Conv(6, (1,))(x)
        total = 0.0
        for dilation in (1, 2, 4):
            y = nn.Conv(12, (2,), kernel_dilation=(dilation,), padding=[(dilation, 0)])(x)
            gate, value = jnp.split(y, 2, axis=-1)
            y = nn.tanh(value) * nn.sigmoid(gate)
            total = total + nn.Conv(6, (1,), name=f"skip_{dilation}")(y)
            if dilation != 4:
                x = x + nn.Conv(6, (1,), name=f"res_{dilation}")(y)
        return nn.Conv(5, (1,))(nn.relu(total))


class Coupling(nn.Module):
    flip: bool

    @nn.compact
    def __call__(self, x):
        a, b = jnp.split(x, 2, axis=-1)
        if self.flip:
            a, b = b, a
        h = nn.tanh(nn.Dense(8)(a))
        shift, log_scale = jnp.split(nn.Dense(2 * b.shape[-1], kernel_init=nn.initializers.normal(0.01))(h), 2, axis=-1)
        log_scale = nn.tanh(log_scale)
        b = b * jnp.exp(log_scale) + shift
        return jnp.concatenate([b, a] if self.flip else [a, b], axis=-1), log_scale.sum(-1)


class RealNVP(nn.Module):
    @nn.compact
    def __call__(self, x):
        total = jnp.zeros(x.shape[0])
        for i in range(4):
            x, log_det = Coupling(i % 2 == 1)(x)
            total = total + log_det
        return x, jax.scipy.stats.norm.logpdf(x).sum(-1) + total


class Experts(nn.Module):
    @nn.compact
    def __call__(self, x):
        probabilities = nn.softmax(nn.Dense(4, use_bias=False, name="router")(x))
        gate, index = jax.lax.top_k(probabilities, 2)
        dense = functools.partial(
            nn.vmap, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=None, out_axes=1, axis_size=4
        )
        h = dense(MlpExpert)(name="experts")(x)
        chosen = jnp.take_along_axis(h, index[..., None], axis=1)
        self.sow("losses", "balance", jnp.mean(probabilities, 0).var(), reduce_fn=lambda _, b: b, init_fn=lambda: 0.0)
        return x + jnp.sum(chosen * (gate / gate.sum(-1, keepdims=True))[..., None], axis=1)


class MlpExpert(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(x.shape[-1])(nn.relu(nn.Dense(12)(x)))


class MoE(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.LayerNorm()(Experts()(nn.Dense(8)(x)))
        return nn.Dense(3)(Experts()(x))


class GRUScan(nn.Module):
    @nn.compact
    def __call__(self, x):
        scan = nn.scan(nn.GRUCell, variable_broadcast="params", split_rngs={"params": False}, in_axes=1, out_axes=1)
        cell = scan(features=6)
        carry = cell.initialize_carry(jax.random.key(0), x[:, 0].shape)
        _, y = cell(carry, x)
        return nn.Dense(3)(y)


class TiedAE(nn.Module):
    @nn.compact
    def __call__(self, x):
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (x.shape[-1], 4))
        bias = self.param("bias", nn.initializers.zeros_init(), (x.shape[-1],))
        return nn.sigmoid(jnp.dot(nn.relu(jnp.dot(x, kernel)), kernel.T) + bias)


class TimeBlock(nn.Module):
    features: int

    @nn.compact
    def __call__(self, x, temb):
        h = nn.Conv(self.features, (3, 3))(nn.swish(nn.GroupNorm(num_groups=2)(x)))
        h = h + nn.Dense(self.features)(nn.swish(temb))[:, None, None, :]
        h = nn.swish(nn.GroupNorm(num_groups=2)(h))
        h = nn.Dropout(0.1, deterministic=False)(h)
        h = nn.Conv(self.features, (3, 3), kernel_init=nn.initializers.zeros)(h)
        if x.shape[-1] != self.features:
            x = nn.Conv(self.features, (1, 1), name="shortcut")(x)
        return x + h


class DiffusionUNet(nn.Module):
    @nn.compact
    def __call__(self, x, t):
        frequencies = jnp.exp(jnp.arange(4) * -(jnp.log(10000.0) / 3))
        temb = t[:, None].astype(jnp.float32) * frequencies[None]
        temb = jnp.concatenate([jnp.sin(temb), jnp.cos(temb)], axis=-1)
        temb = nn.Dense(8)(nn.swish(nn.Dense(8)(temb)))
        h = nn.Conv(4, (3, 3))(x)
        first = nn.remat(TimeBlock)(4)(h, temb)
        h = TimeBlock(8)(nn.avg_pool(first, (2, 2), (2, 2)), temb)
        b, height, width, c = h.shape
        flat = nn.GroupNorm(num_groups=2)(h).reshape(b, height * width, c)
        h = h + nn.SelfAttention(1)(flat).reshape(h.shape)
        h = jax.image.resize(h, (b, 2 * height, 2 * width, c), "nearest")
        h = TimeBlock(4)(jnp.concatenate([h, first], -1), temb)
        return nn.Conv(1, (3, 3), kernel_init=nn.initializers.zeros)(nn.swish(nn.GroupNorm(num_groups=2)(h)))


class ScannedBlock(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        y = nn.SelfAttention(2, deterministic=False, dropout_rate=0.1)(nn.LayerNorm()(x))
        x = x + nn.Dropout(0.1, deterministic=False)(y)
        return x + nn.Dense(8)(nn.gelu(nn.Dense(16)(nn.LayerNorm()(x)))), None


class ScannedTransformer(nn.Module):
    @nn.compact
    def __call__(self, x):
        block = nn.remat(ScannedBlock, prevent_cse=False)
        layers = nn.scan(block, variable_axes={"params": 0}, split_rngs={"params": True, "dropout": True}, length=3)
        x, _ = layers(name="layers")(nn.Dense(8)(x), None)
        return nn.Dense(3)(nn.LayerNorm()(x))


def _floats(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


_rng = np.random.default_rng(1)
_TOKENS = _rng.integers(1, 11, (2, 6))
_ONE_HOT = np.eye(7, dtype=np.float32)[_rng.integers(0, 7, (2, 5))]

MODELS = {
    "resnet": (ImageNetResNet(), (_floats(3, 16, 16, 3),)),
    "lm1b": (LM1B(), (_TOKENS,)),
    "wmt": (WMT(), (_TOKENS, _TOKENS[:, ::-1])),
    "seq2seq": (Seq2seq(), (_ONE_HOT, _ONE_HOT[:, ::-1])),
    "vae": (VAE(), (_floats(4, 10),)),
    "ppo": (ActorCritic(), (_rng.integers(0, 255, (3, 20, 20, 2), dtype=np.uint8),)),
    "gat": (GAT(), (_floats(5, 4), np.eye(5, dtype=bool) | (_rng.random((5, 5)) < 0.5))),
    "unet": (UNet(), (_floats(2, 8, 8, 1),)),
    "vit": (ViT(), (_floats(3, 8, 8, 3),)),
    "mixer": (Mixer(), (_floats(3, 8, 8, 3),)),
    "wavenet": (WaveNet(), (_floats(2, 12, 3),)),
    "flow": (RealNVP(), (_floats(6, 4),)),
    "moe": (MoE(), (_floats(8, 5),)),
    "gru": (GRUScan(), (_floats(2, 7, 4),)),
    "tied": (TiedAE(), (_floats(6, 8),)),
    "diffusion": (DiffusionUNet(), (_floats(2, 8, 8, 1), np.array([3, 70]))),
    "scanned": (ScannedTransformer(), (_floats(2, 5, 4),)),
}
STREAMS = ("params", "dropout", "lstm", "reparam")


def rngs():
    return {name: jax.random.key(number) for number, name in enumerate(STREAMS)}
