"""The models that are measured, once for libraries with Linen's interface and once in raw JAX.

Both compute the same function of the same nested dict, so that outputs can be compared before anything is timed.
"""

from typing import Any

import jax
import jax.numpy as jnp

WIDTH, HEADS = 128, 4
BATCH, LENGTH = 2, 32


def transformer(nn: Any, blocks: int) -> Any:
    """Return a pre-norm transformer (d 128, 4 heads) for a library with Linen's interface."""

    class Attention(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            batch, length, width = x.shape

            def project(name: str) -> jax.Array:
                return nn.Dense(width, name=name)(x).reshape(batch, length, HEADS, width // HEADS)

            query, key, value = project("query"), project("key"), project("value")
            return nn.Dense(width, name="out")(attend(query, key, value))

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            x = x + Attention(name="attention")(nn.LayerNorm(name="norm_1")(x))
            y = nn.Dense(4 * WIDTH, name="up")(nn.LayerNorm(name="norm_2")(x))
            return x + nn.Dense(WIDTH, name="down")(jax.nn.gelu(y))

    class Transformer(nn.Module):
        blocks: int

        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            for index in range(self.blocks):
                x = Block(name=f"h_{index}")(x)
            return nn.LayerNorm(name="norm")(x)

    return Transformer(blocks)


def mlp(nn: Any, depth: int) -> Any:
    """Return ``depth`` dense layers of width 16 for a library with Linen's interface."""

    class MLP(nn.Module):
        depth: int

        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            for index in range(self.depth):
                x = nn.Dense(16, name=f"dense_{index}")(x)
            return x

    return MLP(depth)


def attend(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """Return attention over ``[batch, length, heads, depth]``, heads joined."""
    weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", query, key) / query.shape[-1] ** 0.5)
    mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, value)
    return mixed.reshape(*mixed.shape[:2], -1)


def raw_dense(params: Any, x: jax.Array) -> jax.Array:
    """Return a dense layer as one writes it by hand."""
    return jnp.dot(x, params["kernel"]) + params["bias"]


def raw_norm(params: Any, x: jax.Array) -> jax.Array:
    """Return a layer norm as one writes it by hand, with Linen's formula for the variance."""
    mean = jnp.mean(x, -1, keepdims=True)
    variance = jnp.maximum(jnp.mean(jnp.square(x), -1, keepdims=True) - jnp.square(mean), 0.0)
    return (x - mean) * (jax.lax.rsqrt(variance + 1e-6) * params["scale"]) + params["bias"]


def raw_transformer(variables: Any, x: jax.Array) -> jax.Array:
    """Return what ``transformer`` computes, in raw JAX."""
    params = variables["params"]
    batch, length, width = x.shape
    for index in range(len(params) - 1):
        block = params[f"h_{index}"]
        y, attention = raw_norm(block["norm_1"], x), block["attention"]
        query, key, value = (
            raw_dense(attention[name], y).reshape(batch, length, HEADS, width // HEADS)
            for name in ("query", "key", "value")
        )
        x = x + raw_dense(attention["out"], attend(query, key, value))
        y = raw_norm(block["norm_2"], x)
        x = x + raw_dense(block["down"], jax.nn.gelu(raw_dense(block["up"], y)))
    return raw_norm(params["norm"], x)


def raw_mlp(variables: Any, x: jax.Array) -> jax.Array:
    """Return what ``mlp`` computes, in raw JAX."""
    for index in range(len(variables["params"])):
        x = raw_dense(variables["params"][f"dense_{index}"], x)
    return x


def raw_init(key: jax.Array, blocks: int) -> dict[str, Any]:
    """Return the variables of the transformer, made one after the other in raw JAX."""
    draw = jax.nn.initializers.lecun_normal()

    def dense(key: jax.Array, fan_in: int, fan_out: int) -> dict[str, jax.Array]:
        return {"kernel": draw(key, (fan_in, fan_out)), "bias": jnp.zeros(fan_out)}

    def norm() -> dict[str, jax.Array]:
        return {"scale": jnp.ones(WIDTH), "bias": jnp.zeros(WIDTH)}

    params: dict[str, Any] = {"norm": norm()}
    for index, block_key in enumerate(jax.random.split(key, blocks)):
        keys = jax.random.split(block_key, 6)
        attention = {n: dense(k, WIDTH, WIDTH) for n, k in zip(("query", "key", "value", "out"), keys[:4], strict=True)}
        params[f"h_{index}"] = {
            "attention": attention,
            "norm_1": norm(),
            "norm_2": norm(),
            "up": dense(keys[4], WIDTH, 4 * WIDTH),
            "down": dense(keys[5], 4 * WIDTH, WIDTH),
        }
    return {"params": params}
