"""Initialisers: JAX's values under Linen's keys, and identity by value."""

import copy
import inspect
import pickle

import cloudpickle
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen
from flax.linen import initializers as theirs

from batiste import nn
from batiste.nn import initializers as ours
from tests.nn.oracle import assert_same

FACTORIES = {
    "constant": {"value": 3},
    "delta_orthogonal": {"scale": 2.0},
    "glorot_normal": {"in_axis": 0, "out_axis": (1, 2)},
    "glorot_uniform": {},
    "he_normal": {"dtype": jnp.bfloat16},
    "he_uniform": {},
    "kaiming_normal": {"in_axis": [0, 1]},
    "kaiming_uniform": {},
    "lecun_normal": {"batch_axis": (0,)},
    "lecun_uniform": {},
    "normal": {"stddev": 0.02},
    "orthogonal": {"column_axis": 0},
    "truncated_normal": {"stddev": 0.5, "lower": -1.0},
    "uniform": {"scale": 2},
    "variance_scaling": {"scale": 2.0, "mode": "fan_avg", "distribution": "uniform"},
    "xavier_normal": {},
    "xavier_uniform": {},
}


@pytest.mark.parametrize("name", FACTORIES)
def test_values_are_those_of_linen(name):
    for options in (FACTORIES[name], {}):
        if name in {"constant", "variance_scaling"} and not options:
            continue
        mine, other = (getattr(module, name)(**options) for module in (ours, theirs))
        key = jax.random.key(1, impl="rbg")  # compiles faster than JAX's default
        assert_same(mine(key, (3, 4, 5)), other(key, (3, 4, 5)))
        if "orthogonal" not in name:  # JAX decomposes no matrix in half precision
            assert_same(mine(key, (3, 4, 5), jnp.bfloat16), other(key, (3, 4, 5), jnp.bfloat16))


@pytest.mark.parametrize("name", ["zeros", "ones"])
def test_constants(name):
    mine, other = getattr(ours, name), getattr(theirs, name)
    assert_same(mine(None, (2, 3)), other(None, (2, 3)))
    assert_same(mine(jax.random.key(0), (2,), jnp.int32), other(jax.random.key(0), (2,), jnp.int32))
    assert getattr(ours, f"{name}_init")() is mine
    assert getattr(nn, name) is mine
    assert repr(mine) == name


def test_names_are_those_of_linen():
    public = {name for name in dir(theirs) if not name.startswith("_")}
    assert public <= set(ours.__all__)
    assert set(FACTORIES) | {"Initializer", "zeros", "ones", "zeros_init", "ones_init"} == public


@pytest.mark.parametrize("name", FACTORIES)
def test_signatures_are_those_of_linen(name):
    mine, other = (inspect.signature(getattr(module, name)) for module in (ours, theirs))
    assert [(p.name, p.default, p.kind) for p in mine.parameters.values()] == [
        (p.name, p.default, p.kind) for p in other.parameters.values()
    ]


@pytest.mark.parametrize("name", FACTORIES)
def test_equal_by_value(name):
    factory, options = getattr(ours, name), FACTORIES[name]
    first, second = factory(**options), factory(**options)
    assert first == second
    assert hash(first) == hash(second)
    assert len({first, second}) == 1
    pickled = pickle.loads(pickle.dumps(first))  # noqa: S301 - its own bytes
    for made in (pickled, copy.deepcopy(first), cloudpickle.loads(cloudpickle.dumps(first))):
        assert made == first
        assert_same(made(jax.random.key(0), (3, 4, 5)), first(jax.random.key(0), (3, 4, 5)))
    assert first.honours_shape


DIFFERENT = {
    "integer and float": (ours.constant(1), ours.constant(1.0)),
    "integer and Boolean": (ours.constant(1), ours.constant(True)),
    "Python and NumPy": (ours.constant(1.0), ours.constant(np.float32(1.0))),
    "signs of zero": (ours.constant(0.0), ours.constant(-0.0)),
    "arrays": (ours.constant(np.arange(3)), ours.constant(np.arange(3) + 1)),
    "arrays of two dtypes": (ours.constant(np.arange(3)), ours.constant(np.arange(3.0))),
    "arguments": (ours.normal(0.02), ours.normal(0.01)),
    "dtypes": (ours.normal(0.02), ours.normal(0.02, jnp.bfloat16)),
    "factories": (ours.normal(0.01), ours.uniform(0.01)),
    "constants": (ours.zeros, ours.ones),
    "kinds": (ours.zeros, "zeros"),
}


@pytest.mark.parametrize(("first", "second"), DIFFERENT.values(), ids=DIFFERENT)
def test_different_by_value(first, second):
    assert first != second


def test_arrays_count_by_value():
    assert ours.constant(np.arange(3.0)) == ours.constant(np.arange(3.0))
    assert ours.constant(float("nan")) == ours.constant(float("nan"))


def test_repr_is_what_was_written():
    assert repr(ours.normal(0.02)) == "normal(stddev=0.02)"
    assert repr(ours.lecun_normal()) == "lecun_normal()"
    assert repr(ours.truncated_normal(0.5, jnp.bfloat16, upper=1.0)) == (
        "truncated_normal(stddev=0.5, dtype='bfloat16', upper=1.0)"
    )
    assert "kernel_init=he_normal()" in repr(nn.Dense(3, kernel_init=ours.he_normal()))


def test_equal_modules_are_equal():
    first, second = (nn.Dense(3, kernel_init=ours.normal(0.02)) for _ in range(2))
    assert first == second
    assert hash(first) == hash(second)
    assert nn.Dense(3, kernel_init=ours.normal(0.01)) != first


def test_flattened():
    init = nn.DenseGeneral((2, 3), kernel_init=ours.orthogonal())
    kernel = init.init(jax.random.key(0), np.ones((1, 6), np.float32))["params"]["kernel"]
    np.testing.assert_allclose(kernel.reshape(6, 6) @ kernel.reshape(6, 6).T, np.eye(6), atol=1e-5)


RANDOM_LAYERS = {
    "Dense": (lambda n: n.Dense(3), (2, 6)),
    "DenseGeneral": (lambda n: n.DenseGeneral((3, 2), axis=(-2, -1)), (1, 2, 3)),
    "Einsum": (lambda n: n.Einsum((6, 3), "ab,bc->ac"), (2, 6)),
    "Conv": (lambda n: n.Conv(3, (2,)), (1, 4, 3)),
    "ConvLocal": (lambda n: n.ConvLocal(3, (2,), padding="VALID"), (1, 3, 3)),
    "ConvTranspose": (lambda n: n.ConvTranspose(3, (2,)), (1, 4, 3)),
}


@pytest.mark.parametrize(("make", "shape"), RANDOM_LAYERS.values(), ids=RANDOM_LAYERS)
def test_default_values_are_linens(make, shape):
    """The bits of Linen's under `jax.jit`; a generator that compiles fast stands for JAX's default one."""
    x, key = np.ones(shape, np.float32), jax.random.key(3, impl="rbg")
    assert_same(make(nn).init(key, x), jax.jit(make(linen).init)(key, x))


def test_default_values_of_embed_are_linens():
    x, key = np.ones((2,), np.int32), jax.random.key(3)
    values = nn.Embed(5, 3).init(key, x)
    assert_same(values, jax.jit(linen.Embed(5, 3).init)(key, x))
    assert_same(values, linen.Embed(5, 3).init(key, x), exact=False)
