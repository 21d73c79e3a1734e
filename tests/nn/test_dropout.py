"""Dropout against Linen's: the same values dropped, with every option."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

from batiste import nn
from tests.nn.oracle import Mode, assert_same, compare

X = np.random.default_rng(0).normal(size=(2, 4, 6)).astype(np.float32)
TRAIN = Mode({"deterministic": False}, rngs={"dropout": 1})
EVAL = Mode({"deterministic": True})

OPTIONS = {
    "half": {"rate": 0.5},
    "broadcast": {"rate": 0.3, "broadcast_dims": (0, -1)},
    "nothing": {"rate": 0.0},
    "all": {"rate": 1.0},
    "integers": {"rate": 1},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_options(options):
    compare(nn.Dropout(**options), linen.Dropout(**options), X, modes=[TRAIN, EVAL], init=EVAL)


def test_bfloat16():
    compare(nn.Dropout(0.3), linen.Dropout(0.3), jnp.asarray(X, jnp.bfloat16), modes=[TRAIN], init=EVAL)


def test_other_stream():
    mode = Mode(rngs={"noise": 3})
    options = {"rate": 0.4, "deterministic": False, "rng_collection": "noise"}
    compare(nn.Dropout(**options), linen.Dropout(**options), X, modes=[mode], init=mode)


def test_given_key():
    key = jax.random.key(7)
    results = [library.Dropout(0.5).apply({}, X, deterministic=False, rng=key) for library in (nn, linen)]
    assert_same(*results)


def test_each_call_drops_other_values():
    class Twice(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dropout(0.5, deterministic=False)(x), nn.Dropout(0.5, deterministic=False)(x)

    first, second = Twice().apply({}, np.ones(100, np.float32), rngs={"dropout": jax.random.key(0)})
    assert (first != second).any()
    assert set(np.unique(first)) == {0.0, 2.0}
