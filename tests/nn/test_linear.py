"""Dense, DenseGeneral and Einsum against Linen's, and what is ours alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen
from jax import lax

from batiste import nn
from tests.nn.oracle import assert_same, compare

X = np.random.default_rng(0).normal(size=(2, 4, 6)).astype(np.float32)
BF16 = jnp.bfloat16

DENSE = {
    "default": (X, {}),
    "one axis": (X[0, 0], {}),
    "no bias": (X, {"use_bias": False}),
    "integers": (np.arange(12).reshape(2, 6), {}),
    "compute in bfloat16": (X, {"dtype": BF16}),
    "all in bfloat16": (jnp.asarray(X, BF16), {"param_dtype": BF16}),
    "promoted": (jnp.asarray(X, BF16), {}),
    "float16 by name": (X, {"dtype": "float16"}),
    "complex": (X + 1j * X, {}),
    "precision": (X, {"precision": lax.Precision.HIGHEST}),
    "precision pair": (X, {"precision": ("high", "highest")}),
}


@pytest.mark.parametrize(("inputs", "options"), DENSE.values(), ids=DENSE)
def test_dense(inputs, options):
    compare(nn.Dense(3, **options), linen.Dense(3, **options), inputs)


def test_dense_with_initialisers():
    ours = nn.Dense(3, kernel_init=nn.initializers.normal(0.02), bias_init=nn.initializers.uniform())
    theirs = linen.Dense(3, kernel_init=linen.initializers.normal(0.02), bias_init=linen.initializers.uniform())
    compare(ours, theirs, X)


def half_products(inputs, kernel, dimensions, precision=None):
    return lax.dot_general(inputs, kernel, dimensions, precision=precision) / 2


def to_float16(*arrays, dtype=None):
    del dtype
    return [None if array is None else jnp.asarray(array, jnp.float16) for array in arrays]


REPLACED = {
    "dot_general": {"dot_general": half_products},
    "promote_dtype": {"promote_dtype": to_float16},
    "dot_general_cls": {"dot_general_cls": lambda: half_products},
}


@pytest.mark.parametrize("options", REPLACED.values(), ids=REPLACED)
@pytest.mark.parametrize("layer", ["Dense", "DenseGeneral"])
def test_replaced_parts(layer, options):
    compare(getattr(nn, layer)(3, **options), getattr(linen, layer)(3, **options), X)


GENERAL = {
    "default": {"features": 3},
    "two features": {"features": (3, 5)},
    "list of features": {"features": [3, 5], "use_bias": False},
    "two axes": {"features": 3, "axis": (1, -1)},
    "two axes the other way round": {"features": 3, "axis": (-1, 0)},
    "first axis": {"features": (2, 2), "axis": 0},
    "batch axis": {"features": (3, 5), "axis": -1, "batch_dims": (0,)},
    "batch axes": {"features": 3, "axis": (-1,), "batch_dims": (0, 1)},
    "no axis": {"features": 3, "axis": ()},
    "batch axis and two axes": {"features": 3, "axis": (-2, -1), "batch_dims": (0,), "dtype": BF16},
    "drawn in the matrix's shape": {
        "features": (3, 5),
        "kernel_init": jax.nn.initializers.orthogonal(),
        "bias_init": jax.nn.initializers.normal(),
    },
}


@pytest.mark.parametrize("options", GENERAL.values(), ids=GENERAL)
def test_dense_general(options):
    compare(nn.DenseGeneral(**options), linen.DenseGeneral(**options), X)


EINSUM = {
    "matrix": ((6, 5), "abc,cd->abd", {}),
    "heads": ((6, 7, 8), "abc,cde->abde", {}),
    "heads swapped": ((6, 7, 8), "abc,cde->ebda", {}),
    "shared axis": ((2, 6, 8), "bld,bdh->blh", {}),
    "spaces": ((6, 5), " a b c , c d -> a b d ", {}),
    "ellipsis": ((6, 8), "...a,ab->...b", {}),
    "ellipsis in the middle": ((6, 8), "a...b,bc->ca...", {}),
    "ellipsis in both": ((4, 6, 8), "...ab,...bc->...ac", {"use_bias": True}),
    "ellipsis in the kernel": ((6, 5, 8), "zab,bc...->za...c", {}),
    "kernel axis of one": ((1, 6, 8), "abc,acd->abd", {}),
    "no bias": ((6, 5), "abc,cd->abd", {"use_bias": False}),
    "scalar bias": ((6, 5), "abc,cd->ab", {}),
    "bfloat16": ((6, 5), "abc,cd->abd", {"dtype": BF16}),
    "element type": ((6, 5), "abc,cd->abd", {"dtype": BF16, "preferred_element_type": jnp.float32}),
    "promote_dtype": ((6, 5), "abc,cd->abd", {"promote_dtype": to_float16}),
}


@pytest.mark.parametrize(("shape", "equation", "options"), EINSUM.values(), ids=EINSUM)
def test_einsum(shape, equation, options):
    x = X[:1] if equation.startswith("...ab") else X
    x = np.concatenate([x] * 4).transpose(1, 0, 2) if equation.startswith("...ab") else x
    compare(nn.Einsum(shape, equation, **options), linen.Einsum(shape, equation, **options), x)


def test_einsum_equation_in_the_call():
    x = jnp.asarray(X)
    layer = nn.Einsum((6, 5))
    variables = layer.init(jax.random.key(0), x, "abc,cd->abd")
    expected = nn.Einsum((6, 5), "abc,cd->abd").apply(variables, x)
    assert_same(layer.apply(variables, x, einsum_str="abc,cd->abd"), expected)


def test_eager_dense_is_close_to_linens():
    variables = nn.Dense(3).init(jax.random.key(0), X)
    assert_same(nn.Dense(3).apply(variables, X), linen.Dense(3).apply(variables, X), exact=False)


def test_a_weakly_typed_input_gives_a_strongly_typed_output():
    x = jnp.full((2, 6), 2.0)
    assert jnp.asarray(2.0).weak_type
    weak = jax.lax.broadcast(jnp.asarray(2.0), (2, 6))
    for module, oracle in ((nn.Dense(3), linen.Dense(3)), (nn.LayerNorm(use_scale=False, use_bias=False),) * 2):
        variables = module.init(jax.random.key(0), x)
        assert module.apply(variables, weak).weak_type == oracle.apply(variables, weak).weak_type
