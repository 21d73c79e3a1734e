"""Pooling against Linen's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen
from flax.linen import pooling
from jax import lax

from batiste import nn
from tests.nn.oracle import assert_same

X1 = np.random.default_rng(0).normal(size=(2, 7, 3)).astype(np.float32)
X2 = np.random.default_rng(1).normal(size=(2, 5, 6, 3)).astype(np.float32)

CASES = {
    "one axis": (X1, (2,), {}),
    "strides": (X2, (2, 3), {"strides": (2, 1)}),
    "same": (X2, (2, 2), {"strides": (2, 2), "padding": "SAME"}),
    "padded": (X2, (2, 3), {"padding": ((1, 0), (2, 1))}),
    "no batch axis": (X2[0], (2, 2), {"padding": "SAME"}),
    "two batch axes": (X2[None], (2, 2), {}),
    "integers": ((X2 * 9).astype(np.int32), (2, 2), {}),
    "bfloat16": (jnp.asarray(X2, jnp.bfloat16), (2, 2), {"padding": "SAME"}),
}


def value_and_gradient(function, x):
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        return function(x)
    return function(x), jax.grad(lambda x: jnp.sum(function(x).astype(jnp.float32) ** 2))(x)


@pytest.mark.parametrize("name", ["avg_pool", "max_pool", "min_pool"])
@pytest.mark.parametrize(("x", "window", "options"), CASES.values(), ids=CASES)
def test_pools(name, x, window, options):
    x = jnp.asarray(x)
    ours, theirs = getattr(nn, name), getattr(pooling, name)
    results = jax.jit(lambda x: [value_and_gradient(lambda x, f=f: f(x, window, **options), x) for f in (ours, theirs)])
    assert_same(*results(x))


@pytest.mark.parametrize(("x", "window", "options"), CASES.values(), ids=CASES)
def test_mean_of_what_is_there(x, window, options):
    results = [f(jnp.asarray(x), window, **options, count_include_pad=False) for f in (nn.avg_pool, linen.avg_pool)]
    assert_same(*results)


@pytest.mark.parametrize("strides", [None, (2, 1)], ids=["no strides", "strides"])
def test_pool(strides):
    for init, reduce_fn in ((0.0, lax.add), (-np.inf, lax.max), (1.0, lax.mul)):
        results = [f(X2, init, reduce_fn, (2, 2), strides, [(1, 1), (0, 0)]) for f in (nn.pool, linen.pool)]
        assert_same(*results)


def test_two_batch_axes_and_explicit_padding():
    """Linen cannot pad an input with two batch axes; ours pools each example as it would alone."""
    pooled = nn.max_pool(X2[None], (2, 2), padding=((1, 0), (0, 1)))
    assert_same(pooled[0], nn.max_pool(X2, (2, 2), padding=((1, 0), (0, 1))))
