"""The models in Haiku: functions transformed into a pair of pure functions."""

from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp

from benchmarks.models.contract import EXPANSION, Model, Spec, Tree, bottlenecks, flatten
from benchmarks.models.raw import EPSILON_BATCH, EPSILON_LAYER, MOMENTUM, attend, max_pool, padding

ROOT = "net"
NAMES = {"kernel": "w", "scale": "scale"}


class MLP(hk.Module):
    def __init__(self, spec: Spec) -> None:
        super().__init__(name=ROOT)
        self.spec = spec

    def __call__(self, x: jax.Array) -> jax.Array:
        for index in range(self.spec.depth):
            x = hk.Linear(self.spec.width, name=f"dense_{index}")(x)
        return x


class Attention(hk.Module):
    def __init__(self, heads: int) -> None:
        super().__init__(name="attention")
        self.heads = heads

    def __call__(self, x: jax.Array) -> jax.Array:
        batch, length, width = x.shape

        def project(name: str) -> jax.Array:
            return hk.Linear(width, name=name)(x).reshape(batch, length, self.heads, width // self.heads)

        return hk.Linear(width, name="out")(attend(project("query"), project("key"), project("value")))


def layer_norm(name: str) -> hk.LayerNorm:
    return hk.LayerNorm(-1, create_scale=True, create_offset=True, eps=EPSILON_LAYER, name=name)


class Block(hk.Module):
    def __init__(self, heads: int, name: str) -> None:
        super().__init__(name=name)
        self.heads = heads

    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        x = x + Attention(self.heads)(layer_norm("norm_1")(x))
        y = hk.Linear(EXPANSION * width, name="up")(layer_norm("norm_2")(x))
        return x + hk.Linear(width, name="down")(jax.nn.gelu(y))


class Transformer(hk.Module):
    def __init__(self, spec: Spec) -> None:
        super().__init__(name=ROOT)
        self.spec = spec

    def __call__(self, x: jax.Array) -> jax.Array:
        for index in range(self.spec.depth):
            x = Block(self.spec.heads, name=f"h_{index}")(x)
        return layer_norm("norm")(x)


def conv(features: int, size: int, name: str, stride: int = 1) -> hk.Conv2D:
    return hk.Conv2D(features, size, stride, padding=padding(size), with_bias=False, name=name)


def batch_norm(name: str) -> hk.BatchNorm:
    return hk.BatchNorm(create_scale=True, create_offset=True, decay_rate=MOMENTUM, eps=EPSILON_BATCH, name=name)


class Bottleneck(hk.Module):
    def __init__(self, features: int, stride: int, name: str) -> None:
        super().__init__(name=name)
        self.features, self.stride = features, stride

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        outputs = self.features * EXPANSION
        y = jax.nn.relu(batch_norm("norm_1")(conv(self.features, 1, "conv_1")(x), is_training=train))
        y = jax.nn.relu(batch_norm("norm_2")(conv(self.features, 3, "conv_2", self.stride)(y), is_training=train))
        y = batch_norm("norm_3")(conv(outputs, 1, "conv_3")(y), is_training=train)
        if x.shape != y.shape:
            x = batch_norm("norm_project")(conv(outputs, 1, "conv_project", self.stride)(x), is_training=train)
        return jax.nn.relu(x + y)


class ResNet(hk.Module):
    def __init__(self, spec: Spec) -> None:
        super().__init__(name=ROOT)
        self.spec = spec

    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = batch_norm("stem_norm")(conv(self.spec.width, 7, "stem", 2)(x), is_training=train)
        x = max_pool(jax.nn.relu(x))
        for name, _, features, stride in bottlenecks(self.spec):
            x = Bottleneck(features, stride, name)(x, train=train)
        return hk.Linear(self.spec.classes, name="head")(jnp.mean(x, (1, 2)))


class Haiku(Model):
    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.stateful = spec.kind == "resnet"
        if self.stateful:
            self.transformed: Any = hk.transform_with_state(lambda x, *, train: ResNet(spec)(x, train=train))
        else:

            def forward(x: jax.Array) -> jax.Array:  # modules can only be made inside
                return (MLP if spec.kind == "mlp" else Transformer)(spec)(x)

            self.transformed = hk.without_apply_rng(hk.transform(forward))

    def init(self, key: jax.Array, x: jax.Array) -> Any:
        if self.stateful:
            return self.transformed.init(key, x, train=True)
        return self.transformed.init(key, x)

    def pack(self, params: Tree, stats: Tree) -> tuple[Any, Any]:
        packed: Tree = {}
        for path, leaf in flatten(params).items():
            module, _, name = path.rpartition("/")
            is_norm = "norm" in module.rpartition("/")[2]
            renamed = NAMES.get(name) or ("offset" if is_norm else "b")
            value = leaf.reshape(1, 1, 1, -1) if is_norm and self.stateful else leaf
            packed.setdefault(f"{ROOT}/{module}", {})[renamed] = value
        state: Tree = {}
        for path, leaf in flatten(stats).items():
            module, _, name = path.rpartition("/")
            value = leaf.reshape(1, 1, 1, -1)
            average = {"counter": jnp.zeros((), jnp.int32), "hidden": value, "average": value + 0}
            state[f"{ROOT}/{module}/~/{name}_ema"] = average
        return packed, state

    def apply(self, params: Any, state: Any, x: jax.Array) -> jax.Array:
        if self.stateful:
            return self.transformed.apply(params, state, None, x, train=False)[0]
        return self.transformed.apply(params, x)

    def train(self, params: Any, state: Any, x: jax.Array) -> tuple[jax.Array, Any]:
        if self.stateful:
            return self.transformed.apply(params, state, None, x, train=True)
        return self.apply(params, state, x), state


def build(spec: Spec) -> Haiku:
    return Haiku(spec)
