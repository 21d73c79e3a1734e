"""What a layer costs before it runs: never more equations than Linen's, nor has its gradient; few calls to a value."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

from batiste import nn

X = np.ones((2, 5, 6), np.float32)
IMAGES = np.ones((2, 5, 6, 4), np.float32)
MASK = np.ones((2, 5, 6), bool)
BF16 = jnp.bfloat16

LAYERS = {
    "Dense": (lambda n: n.Dense(3), X, {}),
    "Dense in bfloat16": (lambda n: n.Dense(3, dtype=BF16), X, {}),
    "DenseGeneral": (lambda n: n.DenseGeneral((3, 2), axis=(-2, -1)), X, {}),
    "Einsum": (lambda n: n.Einsum((6, 3), "abc,cd->abd"), X, {}),
    "Conv": (lambda n: n.Conv(3, (2, 2)), IMAGES, {}),
    "causal Conv": (lambda n: n.Conv(3, (2,), padding="CAUSAL"), X[0], {}),
    "ConvLocal": (lambda n: n.ConvLocal(3, (2,)), X, {}),
    "ConvTranspose": (lambda n: n.ConvTranspose(3, (2,), padding="CIRCULAR"), X, {}),
    "Embed": (lambda n: n.Embed(5, 3), np.ones((2, 3), np.int32), {}),
    "LayerNorm": (lambda n: n.LayerNorm(), X, {}),
    "LayerNorm in bfloat16": (lambda n: n.LayerNorm(dtype=BF16), jnp.asarray(X, BF16), {}),
    "LayerNorm with a mask": (lambda n: n.LayerNorm(), X, {"mask": MASK}),
    "RMSNorm": (lambda n: n.RMSNorm(), X, {}),
    "GroupNorm": (lambda n: n.GroupNorm(2), X, {}),
    "InstanceNorm": (lambda n: n.InstanceNorm(), X, {}),
    "BatchNorm": (lambda n: n.BatchNorm(use_running_average=False), X, {}),
    "BatchNorm in evaluation": (lambda n: n.BatchNorm(use_running_average=True), X, {}),
    "Dropout": (lambda n: n.Dropout(0.5, deterministic=False), X, {}),
    "PReLU": (lambda n: n.PReLU(), X, {}),
    "WeightNorm": (lambda n: n.WeightNorm(n.Dense(3)), X, {}),
    "SpectralNorm": (lambda n: n.SpectralNorm(n.Dense(3)), X, {"update_stats": True}),
}


def count(jaxpr):
    """Return how many equations a program has, those of functions in it included."""
    inner = [value for equation in jaxpr.eqns for value in equation.params.values()]
    return len(jaxpr.eqns) + sum(count(value.jaxpr) for value in inner if hasattr(value, "jaxpr"))


@pytest.mark.parametrize(("make", "x", "kwargs"), LAYERS.values(), ids=LAYERS)
def test_no_more_equations_than_linen(make, x, kwargs):
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    variables = jax.eval_shape(lambda: make(linen).init(rngs, x, **kwargs))

    def loss(library, params, others, x):
        streams = {"dropout": rngs["dropout"]}
        given = {"params": params, **others}
        y, updates = make(library).apply(given, x, rngs=streams, mutable=["batch_stats"], **kwargs)
        return jnp.sum(y.astype(jnp.float32)), updates

    params, others = variables.get("params", {}), {name: v for name, v in variables.items() if name != "params"}
    for differentiated in (lambda f: f, lambda f: jax.grad(f, has_aux=True)):
        ours, theirs = (
            jax.make_jaxpr(differentiated(lambda p, o, x, library=library: loss(library, p, o, x)))(params, others, x)
            for library in (nn, linen)
        )
        more = 3 if "mask" in kwargs else 0  # where a mask leaves nothing to average, Linen divides by zero
        assert count(ours.jaxpr) <= count(theirs.jaxpr) + more


MOST_CALLS = 15
"""Calls of Python functions, JAX's own included, from `self.param(...)` to the array."""


@pytest.mark.parametrize("how", [lambda f: f, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize("depth", [0, 2])
def test_the_walk_to_a_parameter(how, depth):
    walks = []

    def walked(ask):
        calls = []
        sys.setprofile(lambda frame, event, _: event == "call" and calls.append(frame.f_code.co_qualname))
        try:
            return ask()
        finally:
            sys.setprofile(None)
            walks.append(calls[1:])  # after the call of `ask`

    class Leaf(nn.Module):
        @nn.compact
        def __call__(self, x):
            init = nn.initializers.lecun_normal()
            kernel = walked(lambda: self.param("kernel", init, (6, 3), jnp.float32))
            return x @ kernel, walked(lambda: self.param("bias", nn.initializers.zeros, (3,), jnp.float32))

    class Level(nn.Module):
        inner: nn.Module

        @nn.compact
        def __call__(self, x):
            return self.inner(x)

    model = Leaf()
    for _ in range(depth):
        model = Level(model)
    variables = model.init(jax.random.key(0), X)
    walks.clear()
    how(model.apply)(variables, X)
    kernel, bias = walks
    assert "Scope.param" in " ".join(kernel)
    assert len(kernel) <= MOST_CALLS, kernel
    assert len(bias) <= MOST_CALLS, bias
