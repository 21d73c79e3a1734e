"""A state with arrays of NumPy that JAX holds in fewer bits goes on from its own checkpoint, to the bits."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from batiste import checkpoint, train

LEAVES = {
    "float64": lambda: np.ones(2),
    "int64": lambda: np.arange(3),
    "uint64": lambda: np.arange(2, dtype=np.uint64),
    "complex128": lambda: np.ones(2, np.complex128),
    "float32": lambda: np.ones(2, np.float32),
    "float64 scalar": lambda: np.float64(1.5),
    "int64 scalar": lambda: np.int64(7),
    "float32 scalar": lambda: np.float32(1.5),
    "no axes": lambda: np.array(1.5),
    "int": lambda: 3,
    "float": lambda: 1.5,
    "a half": lambda: jnp.ones(2, jnp.bfloat16),
}


def step(state, batch):
    return jax.tree.map(lambda leaf: leaf + 1, state), {"loss": batch.mean()}


def batch(n):
    return np.full(3, n, np.float32)


def state():
    return collections.OrderedDict((name, make()) for name, make in reversed(LEAVES.items()))


def fit(steps, **options):
    return train.fit(step, state(), batch, steps=steps, compile_cache=False, log=None, **options)


def test_it_goes_on_from_its_own_checkpoint(tmp_path):
    whole = fit(4)
    fit(2, run=checkpoint.Manager(tmp_path))
    again = fit(4, run=checkpoint.Manager(tmp_path))
    assert list(again) == list(whole)
    for name in LEAVES:
        assert again[name].dtype == whole[name].dtype, name
        assert np.array_equal(np.asarray(again[name]), np.asarray(whole[name])), name


@pytest.mark.parametrize("name", ["float64", "int64", "float64 scalar"])
def test_what_the_body_puts_into_the_state_does_not_change_its_types(tmp_path, name):
    def loop(steps):
        run = checkpoint.Manager(tmp_path)
        return train.Loop(step, state(), batch, steps=steps, run=run, save_every=1, compile_cache=False, log=None)

    first = loop(2)
    for _ in first:
        first.state = collections.OrderedDict(first.state)
        first.state[name] = LEAVES[name]()
    second = loop(3)
    for _ in second:
        pass
    assert np.array_equal(np.asarray(second.state[name]), np.asarray(LEAVES[name]() + 1))
