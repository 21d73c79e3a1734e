"""Layers as one array and one by one: values, every kind of derivative, and how many kernels there are to compile."""

from __future__ import annotations

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from batiste.core import stack, unstack

COUNT = 7


def trees(shape: tuple[int, ...] = (2, 3)) -> list[Any]:
    rng = np.random.default_rng(0)
    return [{"a": jnp.asarray(rng.normal(size=shape), jnp.float32), "n": jnp.int32(index)} for index in range(COUNT)]


def floats() -> list[jax.Array]:
    return [tree["a"] for tree in trees()]


def plain(arrays: list[jax.Array]) -> jax.Array:
    return jnp.sum(jnp.sin(jnp.stack(arrays)) * jnp.arange(1.0, COUNT + 1)[:, None, None])


def ours(arrays: list[jax.Array]) -> jax.Array:
    return jnp.sum(jnp.sin(stack(arrays)) * jnp.arange(1.0, COUNT + 1)[:, None, None])


@pytest.mark.parametrize("jit", [False, True])
def test_unstack_is_the_inverse_of_stack(jit: bool) -> None:
    def both(trees: list[Any]) -> tuple[Any, list[Any]]:
        stacked = stack(trees)
        return stacked, unstack(stacked, COUNT)

    stacked, again = (jax.jit(both) if jit else both)(trees())
    assert stacked["a"].shape == (COUNT, 2, 3)
    assert stacked["n"].tolist() == list(range(COUNT))
    jax.tree.map(np.testing.assert_array_equal, again, trees())


@pytest.mark.parametrize(
    "derive",
    [
        jax.grad,
        jax.jacfwd,
        jax.hessian,
        lambda f: jax.jacrev(jax.grad(f)),
        lambda f: jax.grad(jax.checkpoint(f)),
        lambda f: lambda arrays: jax.jvp(jax.grad(f), (arrays,), (arrays,)),
        lambda f: lambda arrays: jax.linearize(f, arrays)[1](arrays),
        lambda f: lambda arrays: jax.vmap(jax.grad(f))([jnp.stack([each, 2 * each]) for each in arrays]),
    ],
    ids=["grad", "jacfwd", "hessian", "revrev", "remat", "hvp", "linearize", "vmap"],
)
def test_every_derivative_is_that_of_jnp_stack(derive: Any) -> None:
    found, expected = jax.jit(derive(ours))(floats()), jax.jit(derive(plain))(floats())
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, expected)


def test_gradients_with_respect_to_some_layers_are_those_of_jnp_stack() -> None:
    first, *rest = floats()
    found = jax.jit(jax.grad(lambda each: ours([each, *rest])))(first)
    np.testing.assert_array_equal(found, jax.jit(jax.grad(lambda each: plain([each, *rest])))(first))


def test_random_keys_are_taken_apart() -> None:
    keys = jax.random.split(jax.random.key(0), COUNT)
    apart = jax.jit(lambda keys: unstack(keys, COUNT))(keys)
    assert [jax.random.key_data(key).tolist() for key in apart] == jax.random.key_data(keys).tolist()


def kernels(function: Any, *arguments: Any) -> list[str]:
    """Return the bodies of the compiled kernels that cut something out, without the numbers of their names."""
    text = jax.jit(function).lower(*arguments).compile().as_text()
    bodies: list[str] = re.findall(r"^%(?:fused|wrapped)_\S+ \(.*?^}", text, re.MULTILINE | re.DOTALL)
    return [re.sub(r"[._]\d+|metadata=\{.*?\}", "", body) for body in bodies if "slice(" in body]


def test_layers_of_one_shape_are_taken_apart_by_equal_kernels() -> None:
    """XLA's CPU backend compiles equal kernels once: what differs between two slices is an operand."""
    stacked = jnp.ones((COUNT, 8, 16))
    found = kernels(lambda array: unstack(jnp.sin(array), COUNT), stacked)
    assert (len(found), len(set(found))) == (COUNT, 1)
    written_in = kernels(lambda array: jnp.unstack(jnp.sin(array)), stacked)
    assert len(set(written_in)) == COUNT  # what the test is about is there to be found


def test_the_gradient_of_stack_is_cut_by_equal_kernels() -> None:
    layers = [jnp.ones((8, 16)) for _ in range(COUNT)]

    def loss(join: Any) -> Any:
        return lambda layers: jnp.sum(jnp.sin(join(layers)) ** 2)

    assert len(set(kernels(jax.grad(loss(stack)), layers))) == 1
    assert len(set(kernels(jax.grad(loss(jnp.stack)), layers))) == COUNT
