"""The models in Equinox: a model is a tree of arrays, written for one example and mapped over the batch."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from benchmarks.models.contract import EXPANSION, Model, Spec, Step, Tree, bottlenecks, flatten, loss
from benchmarks.models.raw import EPSILON_BATCH, EPSILON_LAYER, MOMENTUM

AXIS = "batch"
NAMES = {"weight": ("kernel", "scale"), "bias": ("bias",)}


class MLP(eqx.Module):
    dense: list[eqx.nn.Linear]

    def __init__(self, spec: Spec, key: jax.Array) -> None:
        keys = jax.random.split(key, spec.depth)
        self.dense = [eqx.nn.Linear(spec.width, spec.width, key=each) for each in keys]

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self.dense:
            x = layer(x)
        return x


class Attention(eqx.Module):
    query: eqx.nn.Linear
    key: eqx.nn.Linear
    value: eqx.nn.Linear
    out: eqx.nn.Linear
    heads: int

    def __init__(self, width: int, heads: int, key: jax.Array) -> None:
        keys = jax.random.split(key, 4)
        self.query, self.key, self.value, self.out = (eqx.nn.Linear(width, width, key=each) for each in keys)
        self.heads = heads

    def __call__(self, x: jax.Array) -> jax.Array:
        length, width = x.shape
        query, key, value = (
            jax.vmap(layer)(x).reshape(length, self.heads, width // self.heads)
            for layer in (self.query, self.key, self.value)
        )
        weights = jax.nn.softmax(jnp.einsum("qhd,khd->hqk", query, key) / query.shape[-1] ** 0.5)
        return jax.vmap(self.out)(jnp.einsum("hqk,khd->qhd", weights, value).reshape(length, width))


class Block(eqx.Module):
    attention: Attention
    norm_1: eqx.nn.LayerNorm
    norm_2: eqx.nn.LayerNorm
    up: eqx.nn.Linear
    down: eqx.nn.Linear

    def __init__(self, width: int, heads: int, key: jax.Array) -> None:
        keys = jax.random.split(key, 3)
        self.attention = Attention(width, heads, keys[0])
        self.norm_1, self.norm_2 = eqx.nn.LayerNorm(width, EPSILON_LAYER), eqx.nn.LayerNorm(width, EPSILON_LAYER)
        self.up = eqx.nn.Linear(width, EXPANSION * width, key=keys[1])
        self.down = eqx.nn.Linear(EXPANSION * width, width, key=keys[2])

    def __call__(self, x: jax.Array) -> jax.Array:
        x = x + self.attention(jax.vmap(self.norm_1)(x))
        y = jax.nn.gelu(jax.vmap(self.up)(jax.vmap(self.norm_2)(x)))
        return x + jax.vmap(self.down)(y)


class Transformer(eqx.Module):
    h: list[Block]
    norm: eqx.nn.LayerNorm

    def __init__(self, spec: Spec, key: jax.Array) -> None:
        self.h = [Block(spec.width, spec.heads, each) for each in jax.random.split(key, spec.depth)]
        self.norm = eqx.nn.LayerNorm(spec.width, EPSILON_LAYER)

    def __call__(self, x: jax.Array) -> jax.Array:
        for block in self.h:
            x = block(x)
        return jax.vmap(self.norm)(x)


def conv(inputs: int, features: int, size: int, stride: int, key: jax.Array) -> eqx.nn.Conv2d:
    return eqx.nn.Conv2d(inputs, features, size, stride, padding=size // 2, use_bias=False, key=key)


def batch_norm(features: int) -> eqx.nn.BatchNorm:
    return eqx.nn.BatchNorm(features, AXIS, eps=EPSILON_BATCH, momentum=MOMENTUM, mode="batch")


class Bottleneck(eqx.Module):
    conv_1: eqx.nn.Conv2d
    norm_1: eqx.nn.BatchNorm
    conv_2: eqx.nn.Conv2d
    norm_2: eqx.nn.BatchNorm
    conv_3: eqx.nn.Conv2d
    norm_3: eqx.nn.BatchNorm
    conv_project: eqx.nn.Conv2d | None
    norm_project: eqx.nn.BatchNorm | None

    def __init__(self, inputs: int, features: int, stride: int, key: jax.Array) -> None:
        keys, outputs = jax.random.split(key, 4), features * EXPANSION
        self.conv_1, self.norm_1 = conv(inputs, features, 1, 1, keys[0]), batch_norm(features)
        self.conv_2, self.norm_2 = conv(features, features, 3, stride, keys[1]), batch_norm(features)
        self.conv_3, self.norm_3 = conv(features, outputs, 1, 1, keys[2]), batch_norm(outputs)
        projects = inputs != outputs or stride != 1
        self.conv_project = conv(inputs, outputs, 1, stride, keys[3]) if projects else None
        self.norm_project = batch_norm(outputs) if projects else None

    def __call__(self, x: jax.Array, state: eqx.nn.State) -> tuple[jax.Array, eqx.nn.State]:
        y, state = self.norm_1(self.conv_1(x), state)
        y, state = self.norm_2(self.conv_2(jax.nn.relu(y)), state)
        y, state = self.norm_3(self.conv_3(jax.nn.relu(y)), state)
        if self.conv_project is not None and self.norm_project is not None:
            x, state = self.norm_project(self.conv_project(x), state)
        return jax.nn.relu(x + y), state


class ResNet(eqx.Module):
    stem: eqx.nn.Conv2d
    stem_norm: eqx.nn.BatchNorm
    pool: eqx.nn.MaxPool2d
    blocks: dict[str, Bottleneck]
    head: eqx.nn.Linear

    def __init__(self, spec: Spec, key: jax.Array) -> None:
        first, last, *keys = jax.random.split(key, 2 + spec.depth)
        self.stem, self.stem_norm = conv(3, spec.width, 7, 2, first), batch_norm(spec.width)
        self.pool = eqx.nn.MaxPool2d(3, 2, padding=1)
        self.blocks = {
            name: Bottleneck(inputs, features, stride, each)
            for (name, inputs, features, stride), each in zip(bottlenecks(spec), keys, strict=True)
        }
        self.head = eqx.nn.Linear(bottlenecks(spec)[-1][2] * EXPANSION, spec.classes, key=last)

    def __call__(self, x: jax.Array, state: eqx.nn.State) -> tuple[jax.Array, eqx.nn.State]:
        x, state = self.stem_norm(self.stem(x), state)
        x = self.pool(jax.nn.relu(x))
        for block in self.blocks.values():
            x, state = block(x, state)
        return self.head(jnp.mean(x, (1, 2))), state


CLASSES: dict[str, Any] = {"mlp": MLP, "transformer": Transformer, "resnet": ResNet}


def name_of(path: tuple[Any, ...]) -> str:
    """Return the name in the layout of a leaf's module: ``.h[0].up.weight`` is ``h_0/up/weight``."""
    parts: list[str] = []
    for key in path:
        match key:
            case jax.tree_util.SequenceKey():
                parts[-1] += f"_{key.idx}"
            case jax.tree_util.DictKey():
                parts[-1] = key.key
            case _:
                parts.append(key.name)
    return "/".join(parts)


class Equinox(Model):
    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        self.stateful = spec.kind == "resnet"

    def input(self, x: jax.Array) -> jax.Array:
        return jnp.moveaxis(x, -1, 1) if self.stateful else x

    def init(self, key: jax.Array, x: jax.Array) -> Any:
        del x
        kind = CLASSES[self.spec.kind]
        made = eqx.nn.make_with_state(kind)(self.spec, key) if self.stateful else kind(self.spec, key)
        return eqx.filter(made, eqx.is_array)

    def jitted_init(self, key: jax.Array, x: jax.Array) -> Any:
        return eqx.filter_jit(self.init)(key, x)

    def pack(self, params: Tree, stats: Tree) -> tuple[Any, Any]:
        kind, state = CLASSES[self.spec.kind], None
        if self.stateful:
            model, state = eqx.nn.make_with_state(kind)(self.spec, jax.random.key(0))
            norms = {"stem_norm": model.stem_norm}
            for name, block in model.blocks.items():
                norms |= {f"{name}/norm_{which}": getattr(block, f"norm_{which}") for which in ("1", "2", "3")}
                norms |= {f"{name}/norm_project": block.norm_project} if block.norm_project is not None else {}
            given = flatten(stats)
            for name, norm in norms.items():
                state = state.set(norm.batch_state_index, (given[f"{name}/mean"], given[f"{name}/var"]))
        else:
            model = eqx.filter_eval_shape(kind, self.spec, jax.random.key(0))
        given = flatten(params)

        def fill(path: tuple[Any, ...], leaf: Any) -> Any:
            module, _, last = name_of(path).rpartition("/")
            name = next(name for name in NAMES[last] if f"{module}/{name}" in given)
            value = given[f"{module}/{name}"]
            if name == "kernel":
                value = value.T if value.ndim == 2 else value.transpose(3, 2, 0, 1)
            return value.reshape(leaf.shape)

        arrays, self.static = eqx.partition(model, lambda leaf: isinstance(leaf, jax.Array | jax.ShapeDtypeStruct))
        if self.stateful:  # markers of the state are arrays of other types
            arrays, markers = eqx.partition(arrays, eqx.is_inexact_array)
            self.static = eqx.combine(markers, self.static)
        self.inference = eqx.nn.inference_mode(self.static)
        return jax.tree_util.tree_map_with_path(fill, arrays), state

    def apply(self, params: Any, state: Any, x: jax.Array) -> jax.Array:
        if self.stateful:
            return self._mapped(eqx.combine(params, self.inference), x, state)[0]
        return self.bind(params, state)(x)

    def train(self, params: Any, state: Any, x: jax.Array) -> tuple[jax.Array, Any]:
        if self.stateful:
            return self._mapped(eqx.combine(params, self.static), x, state)
        return self.apply(params, state, x), state

    @staticmethod
    def _mapped(model: Any, x: jax.Array, state: Any) -> tuple[jax.Array, Any]:
        return jax.vmap(model, axis_name=AXIS, in_axes=(0, None), out_axes=(0, None))(x, state)

    def bind(self, params: Any, state: Any) -> Callable[[jax.Array], jax.Array]:
        del state
        return jax.vmap(eqx.combine(params, self.static))

    def container(self, params: Any, state: Any) -> Any:
        del state
        return eqx.combine(params, self.static)

    def arrays(self, container: Any) -> Any:
        return eqx.filter(container, eqx.is_array)

    def jit(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return eqx.filter_jit(function)

    def training(self, params: Any, state: Any, optimizer: optax.GradientTransformation) -> tuple[Step, Any]:
        if self.stateful:
            return super().training(params, state, optimizer)

        @eqx.filter_jit(donate="all-except-first")
        def step(data: tuple[jax.Array, jax.Array], model: Any, opt_state: Any) -> tuple[Any, Any, jax.Array]:
            x, y = data
            value, grads = eqx.filter_value_and_grad(lambda model: loss(jax.vmap(model)(x), y))(model)
            updates, opt_state = optimizer.update(grads, opt_state, eqx.filter(model, eqx.is_inexact_array))
            return eqx.apply_updates(model, updates), opt_state, value

        def carried(carry: Any, x: jax.Array, y: jax.Array) -> tuple[Any, jax.Array]:
            model, opt_state, value = step((x, y), *carry)
            return (model, opt_state), value

        return carried, (eqx.combine(params, self.static), optimizer.init(params))


def build(spec: Spec) -> Equinox:
    return Equinox(spec)
