"""What batiste adds to the compiled program is nothing: instructions counted beside raw JAX and Flax Linen."""

import functools
import re

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from batiste import nn, tree

KEY = jax.random.key(0)


def instructions(function, *arguments):
    """Return how many instructions the optimised program has, in all its computations."""
    text = jax.jit(function).lower(*arguments).compile().as_text()
    return len(re.findall(r"^\s+(?:ROOT )?%?[\w.-]+ = ", text, re.MULTILINE))


def gradient(function):
    def loss(variables, *inputs):
        return jnp.mean(jnp.square(function(variables, *inputs)))

    return jax.grad(loss)


def mlp(nn):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            for _ in range(4):
                x = nn.relu(nn.Dense(8)(x))
            return x

    return Model()


def block(nn):
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = x + nn.MultiHeadDotProductAttention(num_heads=2)(nn.LayerNorm()(x))
            return x + nn.Dense(x.shape[-1])(nn.gelu(nn.Dense(16)(nn.LayerNorm()(x))))

    return Block()


def convolutions(nn):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            for width in (4, 8):
                x = nn.relu(nn.BatchNorm(use_running_average=True)(nn.Conv(width, (3, 3))(x)))
                x = nn.max_pool(x, (2, 2), strides=(2, 2))
            return nn.Dense(3)(x.reshape(len(x), -1))

    return Model()


MODELS = {
    "mlp": (mlp, jnp.ones((2, 8))),
    "block": (block, jnp.ones((2, 5, 8))),
    "convolutions": (convolutions, jnp.ones((2, 8, 8, 1))),
}


@pytest.mark.parametrize("name", MODELS)
def test_no_more_than_linen(name):
    make, x = MODELS[name]
    ours, theirs = make(nn), make(flax.linen)
    variables = theirs.init(KEY, x)
    assert instructions(ours.apply, variables, x) <= instructions(theirs.apply, variables, x)
    assert instructions(gradient(ours.apply), variables, x) <= instructions(gradient(theirs.apply), variables, x)


def by_hand(variables, x):
    for number in range(4):
        layer = variables["params"][f"Dense_{number}"]
        x = jax.nn.relu(x @ layer["kernel"] + layer["bias"])
    return x


@pytest.mark.usefixtures("users_rules")
def test_no_more_than_by_hand():
    model, x = mlp(nn), jnp.ones((2, 8))
    variables = model.init(KEY, x)
    np.testing.assert_allclose(model.apply(variables, x), by_hand(variables, x), rtol=1e-6)
    assert instructions(model.apply, variables, x) <= instructions(by_hand, variables, x)
    assert instructions(gradient(model.apply), variables, x) <= instructions(gradient(by_hand), variables, x)


@pytest.mark.usefixtures("users_rules")
def test_repeat_is_the_scan_by_hand():
    x = jnp.ones((2, 8))
    model = nn.Repeat(nn.Dense(8), 6, name="h")
    stacked = tree.stack_layers(model.init(KEY, x), "h")

    def scan(variables, x):
        def step(x, layer):
            return x @ layer["kernel"] + layer["bias"], None

        return jax.lax.scan(step, x, variables["params"]["h"])[0]

    np.testing.assert_allclose(jax.jit(model.apply)(stacked, x), scan(stacked, x), rtol=1e-6)
    assert instructions(model.apply, stacked, x) <= instructions(scan, stacked, x)
    assert instructions(gradient(model.apply), stacked, x) <= instructions(gradient(scan), stacked, x)


class Feeds(nn.Module):
    @nn.compact
    def __call__(self, x):
        for number in range(3):
            inner = nn.Dense(16, name=f"up_{number}")(nn.LayerNorm(name=f"norm_{number}")(x))
            x = x + nn.Dense(8, name=f"down_{number}")(nn.gelu(inner))
        return x


def feeds_by_hand(variables, x, *, square_first):
    def dense(name, x):
        return x @ variables["params"][name]["kernel"] + variables["params"][name]["bias"]

    for number in range(3):
        layer = variables["params"][f"norm_{number}"]
        if square_first:
            square = jnp.square(x)
            mean = jnp.mean(x, -1, keepdims=True)
        else:
            mean = jnp.mean(x, -1, keepdims=True)
            square = jnp.square(x)
        variance = jnp.maximum(jnp.mean(square, -1, keepdims=True) - jnp.square(mean), 0)
        y = (x - mean) * (jax.lax.rsqrt(variance + 1e-6) * layer["scale"]) + layer["bias"]
        x = x + dense(f"down_{number}", nn.gelu(dense(f"up_{number}", y)))
    return x


@pytest.mark.usefixtures("users_rules")
def test_the_order_of_square_and_mean_in_a_norm():
    """Nothing but the order of two lines; `nn.LayerNorm` has the better one, and no more than that."""
    x = jax.random.normal(KEY, (2, 5, 8))
    variables = Feeds().init(KEY, x)
    first, last = (functools.partial(feeds_by_hand, square_first=first) for first in (True, False))
    np.testing.assert_allclose(Feeds().apply(variables, x), first(variables, x), rtol=1e-5, atol=1e-6)
    best = instructions(gradient(first), variables, x)
    assert instructions(gradient(Feeds().apply), variables, x) <= best
    assert instructions(gradient(last), variables, x) > 1.1 * best


def test_more_is_counted():
    def twice(x):
        return jnp.sort(x) @ jnp.sort(x) + jnp.sort(-x).sum()

    assert instructions(twice, jnp.ones(9)) > instructions(jnp.sort, jnp.ones(9))
