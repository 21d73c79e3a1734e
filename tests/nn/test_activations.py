"""Activations: JAX's own under Linen's names, and PReLU against Linen's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

from batiste import nn
from tests.nn.oracle import compare

X = np.linspace(-2, 2, 12, dtype=np.float32).reshape(3, 4)

NAMES = [
    "celu",
    "elu",
    "gelu",
    "glu",
    "hard_sigmoid",
    "hard_silu",
    "hard_swish",
    "hard_tanh",
    "leaky_relu",
    "log_sigmoid",
    "log_softmax",
    "logsumexp",
    "normalize",
    "one_hot",
    "relu",
    "relu6",
    "selu",
    "sigmoid",
    "silu",
    "soft_sign",
    "softmax",
    "softplus",
    "standardize",
    "swish",
    "tanh",
]
MORE = ["identity", "mish", "sparse_plus", "sparse_sigmoid", "squareplus"]


@pytest.mark.parametrize("name", NAMES)
def test_functions_are_those_of_linen(name):
    assert getattr(nn, name) is getattr(linen, name)


@pytest.mark.parametrize("name", MORE)
def test_functions_are_those_of_jax(name):
    assert getattr(nn, name) is getattr(jax.nn, name)


def test_no_activation_of_linen_is_missing():
    in_both = [name for name in dir(linen.activation) if callable(getattr(jax.nn, name, None))]
    assert set(in_both) <= {*NAMES, *MORE}


OPTIONS = {
    "default": (X, {}),
    "slope": (X, {"negative_slope_init": 0.25}),
    "bfloat16 parameter": (X, {"param_dtype": jnp.bfloat16}),
    "bfloat16 input": (jnp.asarray(X, jnp.bfloat16), {}),
}


@pytest.mark.parametrize(("inputs", "options"), OPTIONS.values(), ids=OPTIONS)
def test_prelu(inputs, options):
    compare(nn.PReLU(**options), linen.PReLU(**options), inputs)
