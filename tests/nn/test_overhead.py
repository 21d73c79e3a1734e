"""What a layer costs before it runs: never more equations than Linen's, nor has its gradient."""

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
