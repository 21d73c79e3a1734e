"""The models in Linen's interface: one source, which batiste and Flax Linen both run.

Submodules have the names of the layout, so that one nested dict of weights serves both.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from benchmarks.models.contract import EXPANSION, Model, Spec, Step, Tree, bottlenecks, loss
from benchmarks.models.raw import EPSILON_BATCH, EPSILON_LAYER, MOMENTUM, attend, causal_attention, max_pool, padding


def make(nn: Any, spec: Spec) -> Any:
    """Return the blueprint that a spec describes, for a library with Linen's interface."""
    match spec.kind:
        case "mlp":
            return mlp(nn, spec)
        case "transformer":
            return transformer(nn, spec)
        case "resnet":
            return resnet(nn, spec)
        case _:
            return gpt2(nn, spec)


def mlp(nn: Any, spec: Spec) -> Any:
    class MLP(nn.Module):
        depth: int
        width: int

        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            for index in range(self.depth):
                x = nn.Dense(self.width, name=f"dense_{index}")(x)
            return x

    return MLP(spec.depth, spec.width)


def transformer_block(nn: Any) -> Any:
    """Return the class of a pre-norm block."""

    class Attention(nn.Module):
        heads: int

        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            batch, length, width = x.shape

            def project(name: str) -> jax.Array:
                return nn.Dense(width, name=name)(x).reshape(batch, length, self.heads, width // self.heads)

            query, key, value = project("query"), project("key"), project("value")
            return nn.Dense(width, name="out")(attend(query, key, value))

    class Block(nn.Module):
        heads: int

        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            norm = functools.partial(nn.LayerNorm, epsilon=EPSILON_LAYER)
            width = x.shape[-1]
            x = x + Attention(self.heads, name="attention")(norm(name="norm_1")(x))
            y = nn.Dense(EXPANSION * width, name="up")(norm(name="norm_2")(x))
            return x + nn.Dense(width, name="down")(jax.nn.gelu(y))

    return Block


def transformer(nn: Any, spec: Spec) -> Any:
    block = transformer_block(nn)

    class Transformer(nn.Module):
        blocks: int
        heads: int

        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            for index in range(self.blocks):
                x = block(self.heads, name=f"h_{index}")(x)
            return nn.LayerNorm(epsilon=EPSILON_LAYER, name="norm")(x)

    return Transformer(spec.depth, spec.heads)


def gpt2(nn: Any, spec: Spec) -> Any:
    dense = functools.partial(nn.Dense, dtype=spec.dtype)
    norm = functools.partial(nn.LayerNorm, epsilon=EPSILON_LAYER, dtype=spec.dtype)
    embed = functools.partial(nn.Embed, features=spec.width, dtype=spec.dtype)

    class Attention(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            qkv = dense(3 * spec.width, name="qkv")(x)
            return dense(spec.width, name="out")(causal_attention(qkv, spec.heads, spec.attention))

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            x = x + Attention(name="attention")(norm(name="norm_1")(x))
            y = dense(EXPANSION * spec.width, name="up")(norm(name="norm_2")(x))
            return x + dense(spec.width, name="down")(jax.nn.gelu(y))

    class GPT2(nn.Module):
        @nn.compact
        def __call__(self, tokens: jax.Array) -> jax.Array:
            wte = embed(spec.classes, name="wte")
            x = wte(tokens) + embed(spec.length, name="wpe")(jnp.arange(tokens.shape[-1]))[None]
            for index in range(spec.depth):
                x = Block(name=f"h_{index}")(x)
            return wte.attend(norm(name="norm")(x))

    return GPT2()


def resnet(nn: Any, spec: Spec) -> Any:
    def conv(features: int, size: int, stride: int, name: str) -> Any:
        strides = (stride, stride)
        around = padding(size)
        return nn.Conv(features, (size, size), strides, around, use_bias=False, dtype=spec.dtype, name=name)

    batch_norm = functools.partial(nn.BatchNorm, momentum=MOMENTUM, epsilon=EPSILON_BATCH, dtype=spec.dtype)

    class Bottleneck(nn.Module):
        features: int
        stride: int

        @nn.compact
        def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
            norm = functools.partial(batch_norm, use_running_average=not train)
            y = nn.relu(norm(name="norm_1")(conv(self.features, 1, 1, "conv_1")(x)))
            y = nn.relu(norm(name="norm_2")(conv(self.features, 3, self.stride, "conv_2")(y)))
            y = norm(name="norm_3")(conv(self.features * EXPANSION, 1, 1, "conv_3")(y))
            if x.shape != y.shape:
                x = conv(self.features * EXPANSION, 1, self.stride, "conv_project")(x)
                x = norm(name="norm_project")(x)
            return nn.relu(x + y)

    class ResNet(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
            x = conv(spec.width, 7, 2, "stem")(x)
            x = max_pool(nn.relu(batch_norm(use_running_average=not train, name="stem_norm")(x)))
            for name, _, features, stride in bottlenecks(spec):
                x = Bottleneck(features, stride, name=name)(x, train=train)
            return nn.Dense(spec.classes, name="head", dtype=spec.dtype)(jnp.mean(x, (1, 2)))

    return ResNet()


class InterfaceModel(Model):
    """A blueprint and its variables: nested dicts by collection."""

    def __init__(self, spec: Spec, nn: Any, train_state: Any) -> None:
        super().__init__(spec)
        self.module = make(nn, spec)
        self.train_state = train_state

    def init(self, key: jax.Array, x: jax.Array) -> Any:
        return self.module.init(key, x)

    def pack(self, params: Tree, stats: Tree) -> tuple[Any, Any]:
        return params, {"batch_stats": stats} if stats else {}

    def apply(self, params: Any, state: Any, x: jax.Array) -> jax.Array:
        return self.module.apply({"params": params, **state}, x)

    def train(self, params: Any, state: Any, x: jax.Array) -> tuple[jax.Array, Any]:
        if not state:
            return self.apply(params, state, x), state
        return self.module.apply({"params": params, **state}, x, train=True, mutable=["batch_stats"])

    def bind(self, params: Any, state: Any) -> Callable[[jax.Array], jax.Array]:
        return functools.partial(self.module.apply, {"params": params, **state})

    def training(self, params: Any, state: Any, optimizer: optax.GradientTransformation) -> tuple[Step, Any]:
        """Return a step over the library's ``TrainState``; for models without running statistics."""
        if state:
            return super().training(params, state, optimizer)

        @functools.partial(jax.jit, donate_argnums=0)
        def step(carry: Any, x: jax.Array, y: jax.Array) -> tuple[Any, jax.Array]:
            def objective(params: Any) -> jax.Array:
                return loss(carry.apply_fn({"params": params}, x), y)

            value, grads = jax.value_and_grad(objective)(carry.params)
            return carry.apply_gradients(grads=grads), value

        return step, self.train_state.create(apply_fn=self.module.apply, params=params, tx=optimizer)
