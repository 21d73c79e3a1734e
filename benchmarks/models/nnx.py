"""The models in Flax NNX: objects that hold their arrays, split into a graph and its state to be pure functions."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from benchmarks.models.contract import EXPANSION, Model, Spec, Step, Tree, bottlenecks, loss
from benchmarks.models.raw import EPSILON_BATCH, EPSILON_LAYER, MOMENTUM, attend, causal_attention, max_pool, padding


class MLP(nnx.Module):
    def __init__(self, spec: Spec, rngs: nnx.Rngs) -> None:
        self.depth = spec.depth
        for index in range(spec.depth):
            setattr(self, f"dense_{index}", nnx.Linear(spec.width, spec.width, rngs=rngs))

    def __call__(self, x: jax.Array) -> jax.Array:
        for index in range(self.depth):
            x = getattr(self, f"dense_{index}")(x)
        return x


class Attention(nnx.Module):
    def __init__(self, width: int, heads: int, rngs: nnx.Rngs) -> None:
        self.heads = heads
        for name in ("query", "key", "value", "out"):
            setattr(self, name, nnx.Linear(width, width, rngs=rngs))

    def __call__(self, x: jax.Array) -> jax.Array:
        batch, length, width = x.shape
        query, key, value = (
            layer(x).reshape(batch, length, self.heads, width // self.heads)
            for layer in (self.query, self.key, self.value)
        )
        return self.out(attend(query, key, value))


class CausalAttention(nnx.Module):
    def __init__(self, spec: Spec, rngs: nnx.Rngs) -> None:
        self.spec = spec
        self.qkv = nnx.Linear(spec.width, 3 * spec.width, dtype=spec.dtype, rngs=rngs)
        self.out = nnx.Linear(spec.width, spec.width, dtype=spec.dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.out(causal_attention(self.qkv(x), self.spec.heads, self.spec.attention))


def layer_norm(spec: Spec, rngs: nnx.Rngs) -> nnx.LayerNorm:
    dtype = spec.dtype if spec.kind == "gpt2" else None
    return nnx.LayerNorm(spec.width, epsilon=EPSILON_LAYER, dtype=dtype, rngs=rngs)


class Block(nnx.Module):
    def __init__(self, spec: Spec, rngs: nnx.Rngs) -> None:
        width, wide, dtype = spec.width, EXPANSION * spec.width, spec.dtype if spec.kind == "gpt2" else None
        if spec.kind == "gpt2":
            self.attention = CausalAttention(spec, rngs)
        else:
            self.attention = Attention(width, spec.heads, rngs)
        self.norm_1, self.norm_2 = layer_norm(spec, rngs), layer_norm(spec, rngs)
        self.up = nnx.Linear(width, wide, dtype=dtype, rngs=rngs)
        self.down = nnx.Linear(wide, width, dtype=dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x + self.attention(self.norm_1(x))
        return x + self.down(jax.nn.gelu(self.up(self.norm_2(x))))


class Transformer(nnx.Module):
    def __init__(self, spec: Spec, rngs: nnx.Rngs) -> None:
        self.blocks = spec.depth
        for index in range(spec.depth):
            setattr(self, f"h_{index}", Block(spec, rngs))
        self.norm = layer_norm(spec, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        for index in range(self.blocks):
            x = getattr(self, f"h_{index}")(x)
        return self.norm(x)


class GPT2(Transformer):
    def __init__(self, spec: Spec, rngs: nnx.Rngs) -> None:
        super().__init__(spec, rngs)
        self.wte = nnx.Embed(spec.classes, spec.width, dtype=spec.dtype, rngs=rngs)
        self.wpe = nnx.Embed(spec.length, spec.width, dtype=spec.dtype, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = self.wte(tokens) + self.wpe(jnp.arange(tokens.shape[-1]))[None]
        return self.wte.attend(super().__call__(x))


class Convolution(nnx.Conv):
    def __init__(self, spec: Spec, inputs: int, features: int, size: int, stride: int, rngs: nnx.Rngs) -> None:
        window, strides = (size, size), (stride, stride)
        super().__init__(
            inputs, features, window, strides, padding=padding(size), use_bias=False, dtype=spec.dtype, rngs=rngs
        )


def batch_norm(spec: Spec, features: int, rngs: nnx.Rngs) -> nnx.BatchNorm:
    return nnx.BatchNorm(features, momentum=MOMENTUM, epsilon=EPSILON_BATCH, dtype=spec.dtype, rngs=rngs)


class Bottleneck(nnx.Module):
    def __init__(self, spec: Spec, inputs: int, features: int, stride: int, rngs: nnx.Rngs) -> None:
        outputs = features * EXPANSION
        self.conv_1, self.norm_1 = Convolution(spec, inputs, features, 1, 1, rngs), batch_norm(spec, features, rngs)
        self.conv_2 = Convolution(spec, features, features, 3, stride, rngs)
        self.norm_2 = batch_norm(spec, features, rngs)
        self.conv_3, self.norm_3 = Convolution(spec, features, outputs, 1, 1, rngs), batch_norm(spec, outputs, rngs)
        self.projects = inputs != outputs or stride != 1
        if self.projects:
            self.conv_project = Convolution(spec, inputs, outputs, 1, stride, rngs)
            self.norm_project = batch_norm(spec, outputs, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = nnx.relu(self.norm_1(self.conv_1(x)))
        y = nnx.relu(self.norm_2(self.conv_2(y)))
        y = self.norm_3(self.conv_3(y))
        if self.projects:
            x = self.norm_project(self.conv_project(x))
        return nnx.relu(x + y)


class ResNet(nnx.Module):
    def __init__(self, spec: Spec, rngs: nnx.Rngs) -> None:
        self.stem, self.stem_norm = Convolution(spec, 3, spec.width, 7, 2, rngs), batch_norm(spec, spec.width, rngs)
        self.blocks = [name for name, _, _, _ in bottlenecks(spec)]
        outputs = spec.width
        for name, inputs, features, stride in bottlenecks(spec):
            setattr(self, name, Bottleneck(spec, inputs, features, stride, rngs))
            outputs = features * EXPANSION
        self.head = nnx.Linear(outputs, spec.classes, dtype=spec.dtype, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = max_pool(nnx.relu(self.stem_norm(self.stem(x))))
        for name in self.blocks:
            x = getattr(self, name)(x)
        return self.head(jnp.mean(x, (1, 2)))


CLASSES = {"mlp": MLP, "transformer": Transformer, "resnet": ResNet, "gpt2": GPT2}


class NNX(Model):
    def make(self, key: jax.Array | int) -> Any:
        return CLASSES[self.spec.kind](self.spec, nnx.Rngs(key))

    def init(self, key: jax.Array, x: jax.Array) -> Any:
        del x
        return nnx.state(self.make(key))

    def jitted_init(self, key: jax.Array, x: jax.Array) -> Any:
        del x
        return nnx.state(nnx.jit(self.make)(key))

    def pack(self, params: Tree, stats: Tree) -> tuple[Any, Any]:
        model = nnx.eval_shape(lambda: self.make(0))
        if self.spec.kind == "resnet":
            model.eval()
            self.evaluating = nnx.split(model, nnx.Param, ...)[0]
            model.train()
        self.graph, packed, state = nnx.split(model, nnx.Param, ...)
        nnx.replace_by_pure_dict(packed, params)
        nnx.replace_by_pure_dict(state, stats)
        return packed, state

    def apply(self, params: Any, state: Any, x: jax.Array) -> jax.Array:
        graph = self.evaluating if self.spec.kind == "resnet" else self.graph
        return nnx.merge(graph, params, state)(x)

    def train(self, params: Any, state: Any, x: jax.Array) -> tuple[jax.Array, Any]:
        if self.spec.kind != "resnet":
            return self.apply(params, state, x), state
        model = nnx.merge(self.graph, params, state, copy=True)  # the state may be of an outer trace, and is written
        outputs = model(x)
        return outputs, nnx.state(model, nnx.BatchStat)

    def bind(self, params: Any, state: Any) -> Callable[[jax.Array], jax.Array]:
        return self.container(params, state)

    def container(self, params: Any, state: Any) -> Any:
        model = nnx.merge(self.graph, params, state)
        if self.spec.kind == "resnet":
            model.eval()
        return model

    def arrays(self, container: Any) -> Any:
        return nnx.state(container)

    def jit(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return nnx.jit(function)

    def training(self, params: Any, state: Any, optimizer: optax.GradientTransformation) -> tuple[Step, Any]:
        model = nnx.merge(self.graph, params, state)

        @nnx.jit
        def step(model: Any, optimizer: nnx.Optimizer, x: jax.Array, y: jax.Array) -> jax.Array:
            value, grads = nnx.value_and_grad(lambda model: loss(model(x), y))(model)
            optimizer.update(model, grads)
            return value

        def carried(carry: Any, x: jax.Array, y: jax.Array) -> tuple[Any, jax.Array]:
            return carry, step(*carry, x, y)

        return carried, (model, nnx.Optimizer(model, optimizer, wrt=nnx.Param))


def build(spec: Spec) -> NNX:
    return NNX(spec)
