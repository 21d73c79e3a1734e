"""Sequential and BatchApply against Linen's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

from batiste import nn
from tests.nn.oracle import assert_same, cheap_initializer, compare

X = np.random.default_rng(0).normal(size=(2, 4, 6)).astype(np.float32)


def two(x):
    return x, x + 1


def named(x, y):
    return {"y": x, "x": y}


def dense(library, features):
    return library.Dense(features, kernel_init=cheap_initializer)


CHAINS = {
    "layers": lambda n: [dense(n, 4), n.relu, dense(n, 2)],
    "tuple": lambda n: (dense(n, 4), two, lambda x, y: x - 2 * y),
    "dict": lambda n: [two, named, lambda x, y: x - 2 * y],
    "list": lambda n: [lambda x: [x, x + 1], lambda pair: pair[1]],
    "inner module": lambda n: [lambda x: dense(n, x.shape[-1])(x), n.LayerNorm()],
    "one": lambda n: [dense(n, 3)],
    "nested": lambda n: [n.Sequential([dense(n, 3), jnp.sin]), dense(n, 2)],
}


@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
def test_chain(chain):
    compare(nn.Sequential(chain(nn)), linen.Sequential(chain(linen)), X, gradients=False)


@pytest.mark.parametrize("chain", ["layers", "inner module", "nested"])
def test_chain_inside_a_module(chain):
    def make(library):
        class Outer(library.Module):
            @library.compact
            def __call__(self, x):
                return library.Sequential(CHAINS[chain](library))(dense(library, 5)(x))

        return Outer()

    compare(make(nn), make(linen), X, gradients=False)


def test_the_first_layer_takes_any_arguments():
    layer = nn.Sequential([lambda a, b, *, c: a + b * c, jnp.negative])
    assert layer.apply({}, 1, 2, c=3) == -7


def test_batch_apply():
    def f(a, b):
        assert a.ndim == 2
        return a, {"product": jnp.dot(a, b)}

    b = np.arange(6, dtype=np.float32)
    for num_dims, a in ((2, X), (3, X[None])):
        results = [library.BatchApply(f, num_dims)(a, b) for library in (nn, linen)]
        assert_same(*results)
    assert_same(nn.BatchApply(f)(a=X, b=b), linen.BatchApply(f)(a=X, b=b))


def test_batch_apply_of_a_layer():
    class Steps(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.BatchApply(nn.BatchNorm(use_running_average=False))(x)

    variables = Steps().init(jax.random.key(0), X)
    y, _ = Steps().apply(variables, X, mutable=["batch_stats"])
    np.testing.assert_allclose(np.asarray(y).reshape(8, 6).mean(axis=0), 0, atol=1e-5)
