"""A language model of the shape of Llama 3, from a toy to 405 billion parameters, in plain layers of batiste.

The blueprint is the paper's (https://arxiv.org/abs/2407.21783, table 3): RMS normalisation before each part, rotary
positions, attention with fewer heads of keys and values than of queries, and a gated MLP with ``silu``. It knows
nothing of devices: the names that it gives to the axes of activations stand for mesh axes only where rules say so.

    python examples/llama.py                      # trains a toy model on a text, and goes on with it
    batiste plan examples.llama:llama_70b --input "tokens:int32[64,8192]" --mesh fsdp=32,tensor=8 \
        --rules fsdp+tensor --optimizer adamw --hbm 80GB

``HUGGING_FACE`` maps the names of a Hugging Face checkpoint of a Llama to the paths here, for ``importers.from_torch``.
Llama 3.1 also stretches the angles of positions for long texts, which is not here: logits are those of Llama 3.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import optax

from batiste import TrainState, nn
from batiste.importers import AttentionIn, AttentionOut, Embedding, LayerNorm, Linear


@dataclasses.dataclass(frozen=True)
class Config:
    vocab: int = 128
    layers: int = 2
    features: int = 64
    hidden: int = 192
    heads: int = 4
    kv_heads: int = 2
    rotary_base: float = 500_000.0
    epsilon: float = 1e-5
    dtype: str = "float32"  # to compute in
    param_dtype: str = "float32"
    remat: bool = False
    max_length: int = 128  # of the cache


TOY = Config()
LLAMA_8B = Config(128_256, 32, 4096, 14_336, 32, 8, dtype="bfloat16", remat=True, max_length=8192)
LLAMA_70B = dataclasses.replace(LLAMA_8B, layers=80, features=8192, hidden=28_672, heads=64)
LLAMA_405B = dataclasses.replace(LLAMA_8B, layers=126, features=16_384, hidden=53_248, heads=128)

HUGGING_FACE = (
    ("model.embed_tokens", "params/embed", Embedding()),
    ("model.layers.*.input_layernorm", "params/h_{1}/attention_norm", LayerNorm()),
    ("model.layers.*.self_attn.q_proj", "params/h_{1}/attention/query", AttentionIn()),
    ("model.layers.*.self_attn.k_proj", "params/h_{1}/attention/key", AttentionIn()),
    ("model.layers.*.self_attn.v_proj", "params/h_{1}/attention/value", AttentionIn()),
    ("model.layers.*.self_attn.o_proj", "params/h_{1}/attention/out", AttentionOut()),
    ("model.layers.*.post_attention_layernorm", "params/h_{1}/mlp_norm", LayerNorm()),
    ("model.layers.*.mlp.{gate,up,down}_proj", "params/h_{1}/mlp/{2}", Linear()),
    ("model.norm", "params/norm", LayerNorm()),
    ("lm_head", "params/head", Linear()),
)


class MLP(nn.Module):
    config: Config

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        config = self.config
        dense = functools.partial(nn.Dense, use_bias=False, dtype=config.dtype, param_dtype=config.param_dtype)
        gated = nn.silu(dense(config.hidden, name="gate")(x)) * dense(config.hidden, name="up")(x)
        gated = nn.with_logical_constraint(gated, ("batch", None, "mlp"))
        return dense(config.features, name="down")(gated)


class Block(nn.Module):
    config: Config
    decode: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        config = self.config
        dtypes = {"dtype": config.dtype, "param_dtype": config.param_dtype}
        norm = functools.partial(nn.RMSNorm, epsilon=config.epsilon, **dtypes)
        attention = nn.GroupedQueryAttention(
            num_heads=config.heads,
            num_kv_heads=config.kv_heads,
            rotary_base=config.rotary_base,
            decode=self.decode,
            max_length=config.max_length,
            name="attention",
            **dtypes,
        )
        x = x + attention(norm(name="attention_norm")(x))
        x = x + MLP(config, name="mlp")(norm(name="mlp_norm")(x))
        return nn.with_logical_constraint(x, ("batch", "sequence", "embed"))


class Llama(nn.Module):
    config: Config
    decode: bool = False  # whether to keep a cache of the tokens so far

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        config = self.config
        dtypes = {"dtype": config.dtype, "param_dtype": config.param_dtype}
        x = nn.Embed(config.vocab, config.features, name="embed", **dtypes)(tokens)
        x = nn.with_logical_constraint(x, ("batch", "sequence", "embed"))
        block = Block(config, self.decode)
        x = nn.Repeat(block, config.layers, name="h", remat=config.remat and not self.decode)(x)
        x = nn.RMSNorm(epsilon=config.epsilon, name="norm", **dtypes)(x)
        return nn.Dense(config.vocab, use_bias=False, name="head", **dtypes)(x)


def llama_toy() -> Llama:
    return Llama(TOY)


def llama_8b() -> Llama:
    return Llama(LLAMA_8B)


def llama_70b() -> Llama:
    return Llama(LLAMA_70B)


def llama_405b() -> Llama:
    return Llama(LLAMA_405B)


def loss_fn(logits: jax.Array, tokens: jax.Array) -> jax.Array:
    """The mean cross-entropy of each token after the first, given those before it."""
    logits = logits[:, :-1].astype(jnp.float32)
    return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()


@jax.jit
def train_step(state: TrainState, tokens: jax.Array) -> tuple[TrainState, jax.Array]:
    def loss(params: Any) -> jax.Array:
        return loss_fn(state.apply_fn({"params": params}, tokens), tokens)

    value, grads = jax.value_and_grad(loss)(state.params)
    return state.apply_gradients(grads=grads), value


@functools.partial(jax.jit, static_argnames=("model", "length", "temperature"))
def generate(
    model: Llama, params: Any, prompt: jax.Array, key: jax.Array, length: int, temperature: float = 0.0
) -> jax.Array:
    """Continue a prompt ``[batch, tokens]`` by ``length`` tokens; the likeliest ones where the temperature is 0."""
    model = model.clone(decode=True)
    logits, state = model.apply({"params": params}, prompt, mutable=["cache"])

    def sample(key: jax.Array, logits: jax.Array) -> jax.Array:
        if temperature == 0.0:
            return logits.argmax(-1)
        return jax.random.categorical(key, logits.astype(jnp.float32) / temperature)

    def step(carry: tuple[jax.Array, Any], key: jax.Array) -> tuple[tuple[jax.Array, Any], jax.Array]:
        token, cache = carry
        logits, state = model.apply({"params": params, "cache": cache}, token[:, None], mutable=["cache"])
        return (sample(key, logits[:, -1]), state["cache"]), token

    first, *keys = jax.random.split(key, length + 1)
    _, tokens = jax.lax.scan(step, (sample(first, logits[:, -1]), state["cache"]), jnp.stack(keys))
    return jnp.concatenate([prompt, tokens.T], axis=1)


def main(steps: int = 200) -> TrainState:
    text = "so much depends upon a red wheel barrow glazed with rain water beside the white chickens. " * 4
    data = jnp.array(list(text.encode()), jnp.int32)
    model = Llama(TOY)
    state = TrainState.init(model, optax.adamw(3e-3), jax.random.key(0), jnp.zeros((1, 32), jnp.int32))
    for number in range(steps):
        starts = jax.random.randint(jax.random.key(number), (16, 1), 0, len(data) - 32)
        state, loss = train_step(state, data[starts + jnp.arange(32)])
        if number % 50 == 0 or number == steps - 1:
            print(f"step {number}: loss {loss:.3f}")
    prompt = jnp.array([list(b"so much depends")], jnp.int32)
    tokens = generate(model, state.params, prompt, jax.random.key(1), 40)
    print(bytes(tokens[0].tolist()).decode())
    return state


if __name__ == "__main__":
    main()
