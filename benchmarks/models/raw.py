"""The models in raw JAX, as a good engineer writes them by hand: the limit that libraries are measured against.

`RawScan` is the transformer over stacked arrays, with one hand-written ``lax.scan``.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from benchmarks.models.contract import Model, Spec, Tree, bottlenecks, layout

MOMENTUM, EPSILON_BATCH, EPSILON_LAYER = 0.9, 1e-5, 1e-6


def attend(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """Return attention over ``[batch, length, heads, depth]``, heads joined."""
    weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", query, key) / query.shape[-1] ** 0.5)
    mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, value)
    return mixed.reshape(*mixed.shape[:2], -1)


def causal_attention(qkv: jax.Array, heads: int, implementation: str) -> jax.Array:
    """Return causal self-attention of ``[batch, length, 3 * width]``, by the implementation that is asked for."""
    batch, length, width = qkv.shape
    query, key, value = jnp.split(qkv.reshape(batch, length, 3 * heads, width // (3 * heads)), 3, axis=2)
    chosen: Any = implementation or None
    mixed = jax.nn.dot_product_attention(query, key, value, is_causal=True, implementation=chosen)
    return mixed.reshape(batch, length, -1)


def max_pool(x: jax.Array) -> jax.Array:
    """Return the maximum over 3 x 3 windows of ``[batch, height, width, features]`` with stride 2."""
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), (1, 1), (1, 1), (0, 0)))


def dense(params: Tree, x: jax.Array) -> jax.Array:
    return jnp.dot(x, params["kernel"].astype(x.dtype)) + params["bias"].astype(x.dtype)


def norm(params: Tree, x: jax.Array) -> jax.Array:
    """Return a layer norm, statistics in float32.

    The square is written before the mean: the other way the gradient of a block has more than twice the instructions on
    a CPU, and what is measured beside it would look better than it is.
    """
    wide = x.astype(jnp.float32)
    square = jnp.square(wide)
    mean = jnp.mean(wide, -1, keepdims=True)
    variance = jnp.maximum(jnp.mean(square, -1, keepdims=True) - jnp.square(mean), 0.0)
    result = (wide - mean) * (lax.rsqrt(variance + EPSILON_LAYER) * params["scale"]) + params["bias"]
    return result.astype(x.dtype)


def feed(block: Tree, x: jax.Array) -> jax.Array:
    return x + dense(block["down"], jax.nn.gelu(dense(block["up"], norm(block["norm_2"], x))))


def transformer_block(block: Tree, x: jax.Array, heads: int) -> jax.Array:
    batch, length, width = x.shape
    y, attention = norm(block["norm_1"], x), block["attention"]
    query, key, value = (
        dense(attention[name], y).reshape(batch, length, heads, width // heads) for name in ("query", "key", "value")
    )
    return feed(block, x + dense(attention["out"], attend(query, key, value)))


def gpt2_block(block: Tree, x: jax.Array, spec: Spec) -> jax.Array:
    qkv = dense(block["attention"]["qkv"], norm(block["norm_1"], x))
    return feed(block, x + dense(block["attention"]["out"], causal_attention(qkv, spec.heads, spec.attention)))


def gpt2(params: Tree, tokens: jax.Array, spec: Spec) -> jax.Array:
    wte = params["wte"]["embedding"].astype(spec.dtype)
    x = wte[tokens] + params["wpe"]["embedding"].astype(spec.dtype)
    for index in range(spec.depth):
        x = gpt2_block(params[f"h_{index}"], x, spec)
    return jnp.dot(norm(params["norm"], x), wte.T)


def padding(size: int) -> list[tuple[int, int]]:
    """Return half of a window on each side, as ResNets have it."""
    return [(size // 2, size // 2)] * 2


def conv(params: Tree, x: jax.Array, stride: int = 1) -> jax.Array:
    kernel = params["kernel"].astype(x.dtype)
    axes = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (stride, stride), padding(kernel.shape[0]), dimension_numbers=axes)


def batch_norm(params: Tree, stats: Tree, x: jax.Array, *, train: bool) -> tuple[jax.Array, Tree]:
    """Return the normalised input and the new statistics, which are kept and computed in float32."""
    wide = x.astype(jnp.float32)
    mean, variance = stats["mean"], stats["var"]
    if train:
        square = jnp.square(wide)  # as in `norm`
        mean = jnp.mean(wide, (0, 1, 2))
        variance = jnp.maximum(jnp.mean(square, (0, 1, 2)) - jnp.square(mean), 0.0)
        stats = {
            "mean": MOMENTUM * stats["mean"] + (1 - MOMENTUM) * mean,
            "var": MOMENTUM * stats["var"] + (1 - MOMENTUM) * variance,
        }
    result = (wide - mean) * (lax.rsqrt(variance + EPSILON_BATCH) * params["scale"]) + params["bias"]
    return result.astype(x.dtype), stats


def bottleneck(params: Tree, stats: Tree, x: jax.Array, stride: int, *, train: bool) -> tuple[jax.Array, Tree]:
    new: Tree = {}
    y = x
    for which, step in (("1", 1), ("2", stride), ("3", 1)):
        name = f"norm_{which}"
        y, new[name] = batch_norm(params[name], stats[name], conv(params[f"conv_{which}"], y, step), train=train)
        y = y if which == "3" else jax.nn.relu(y)
    if "conv_project" in params:
        x = conv(params["conv_project"], x, stride)
        x, new["norm_project"] = batch_norm(params["norm_project"], stats["norm_project"], x, train=train)
    return jax.nn.relu(x + y), new


def resnet(params: Tree, stats: Tree, x: jax.Array, spec: Spec, *, train: bool) -> tuple[jax.Array, Tree]:
    new: Tree = {}
    x = conv(params["stem"], x.astype(spec.dtype), 2)
    x, new["stem_norm"] = batch_norm(params["stem_norm"], stats["stem_norm"], x, train=train)
    x = max_pool(jax.nn.relu(x))
    for name, _, _, stride in bottlenecks(spec):
        x, new[name] = bottleneck(params[name], stats[name], x, stride, train=train)
    return dense(params["head"], jnp.mean(x, (1, 2))), new


class Raw(Model):
    """Nested dicts of arrays, and functions of them."""

    def init(self, key: jax.Array, x: jax.Array) -> Any:
        del x
        params, stats = layout(self.spec)
        draw = jax.nn.initializers.lecun_normal()
        embed = jax.nn.initializers.normal(0.02)

        def make(tree: Tree, key: jax.Array) -> Tree:
            made: Tree = {}
            for (name, part), child in zip(tree.items(), jax.random.split(key, len(tree)), strict=True):
                if isinstance(part, dict):
                    made[name] = make(part, child)
                elif name == "kernel":
                    made[name] = draw(child, part)
                elif name == "embedding":
                    made[name] = embed(child, part)
                else:
                    made[name] = jnp.ones(part) if name in {"scale", "var"} else jnp.zeros(part)
            return made

        return {"params": make(params, key), "batch_stats": make(stats, key) if stats else {}}

    def pack(self, params: Tree, stats: Tree) -> tuple[Any, Any]:
        return params, stats

    def apply(self, params: Any, state: Any, x: jax.Array) -> jax.Array:
        spec = self.spec
        if spec.kind == "resnet":
            return resnet(params, state, x, spec, train=False)[0]
        if spec.kind == "gpt2":
            return gpt2(params, x, spec)
        if spec.kind == "mlp":
            for index in range(spec.depth):
                x = dense(params[f"dense_{index}"], x)
            return x
        for index in range(spec.depth):
            x = transformer_block(params[f"h_{index}"], x, spec.heads)
        return norm(params["norm"], x)

    def train(self, params: Any, state: Any, x: jax.Array) -> tuple[jax.Array, Any]:
        if self.spec.kind == "resnet":
            return resnet(params, state, x, self.spec, train=True)
        return super().train(params, state, x)


class RawScan(Raw):
    """The transformer over arrays that are kept stacked, with a hand-written scan."""

    def pack(self, params: Tree, stats: Tree) -> tuple[Any, Any]:
        blocks = [params[f"h_{index}"] for index in range(self.spec.depth)]
        return {"h": jax.tree.map(lambda *each: jnp.stack(each), *blocks), "norm": params["norm"]}, stats

    def apply(self, params: Any, state: Any, x: jax.Array) -> jax.Array:
        del state

        def body(x: jax.Array, block: Tree) -> tuple[jax.Array, None]:
            return transformer_block(block, x, self.spec.heads), None

        return norm(params["norm"], lax.scan(body, x, params["h"])[0])


def build(spec: Spec) -> Raw:
    return Raw(spec)


def build_scan(spec: Spec) -> RawScan:
    return RawScan(spec)
