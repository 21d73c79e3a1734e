"""Plain transforms of JAX within a module: what is stored there, beside Flax, which leaks what depends on them."""

import flax.linen
import jax
import jax.numpy as jnp
import pytest

from batiste import nn
from batiste.errors import JaxTransformError

KEY, X = jax.random.key(0), jnp.arange(6.0).reshape(2, 3)


def rows(function):
    return lambda x: jax.lax.scan(lambda carry, row: (carry, function(row)), 0, x)[1]


TRANSFORMS = {
    "jit": jax.jit,
    "checkpoint": jax.checkpoint,
    "vmap": jax.vmap,
    "grad": lambda function: jax.grad(lambda x: function(x).sum()),
    "scan": rows,
    "jit of grad": lambda function: jax.jit(jax.grad(lambda x: function(x).sum())),
    "vmap of checkpoint": lambda function: jax.vmap(jax.checkpoint(function)),
}
STORES = {
    "a number": (lambda module, count, outer, inner: setattr(count, "value", count.value + 1), False),
    "an array": (lambda module, count, outer, inner: setattr(count, "value", outer), False),
    "what depends": (lambda module, count, outer, inner: setattr(count, "value", inner), True),
    "a sown array": (lambda module, count, outer, inner: module.sow("sown", "a", outer), False),
    "what is sown and depends": (lambda module, count, outer, inner: module.sow("sown", "a", inner), True),
    "a new variable": (lambda module, count, outer, inner: module.variable("state", "new", lambda: outer), False),
}


def model(nn, transform, store):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            count, outer = self.variable("state", "count", lambda: 0), x + 1

            def within(x):
                store(self, count, outer, x)
                return x

            return transform(within)(x)

    return Model()


@pytest.mark.parametrize("method", ["init", "apply"])
@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_what_outlives_the_transform_is_stored_as_in_flax_and_nothing_else(transform, store, method):
    function, leaks = STORES[store]

    def stored(nn):
        made = model(nn, TRANSFORMS[transform], function)
        if method == "init":
            return made.init(KEY, X)
        return made.apply({"state": {"count": 0}}, X, mutable=True)[1]

    expected = stored(flax.linen)
    assert any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(expected)) == leaks
    if leaks:
        with pytest.raises(JaxTransformError, match="inside a JAX transform"):
            stored(nn)
    else:
        found = stored(nn)
        assert jax.tree.structure(found) == jax.tree.structure(expected)
        assert all(map(jnp.array_equal, jax.tree.leaves(found), jax.tree.leaves(expected)))
