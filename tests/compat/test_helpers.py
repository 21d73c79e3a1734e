"""Flax's own helpers that programs import from `flax.linen.normalization` and `flax.linen.linear`."""

import importlib
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

X = np.random.default_rng(0).normal(1, 3, (4, 3, 5)).astype(np.float32)
NAMES = {
    "normalization": ["_abs_sq", "_canonicalize_axes", "_compute_stats", "_l2_normalize", "_normalize"],
    "linear": ["_canonicalize_tuple", "_conv_dimension_numbers", "_normalize_axes"],
}


def both(module, name):
    return [
        getattr(importlib.import_module(f"{home}.linen.{module}"), name) for home in ("batiste.compat.flax", "flax")
    ]


@pytest.mark.parametrize(("module", "name"), [(module, name) for module, names in NAMES.items() for name in names])
def test_same_parameters(module, name):
    ours, theirs = (inspect.signature(function).parameters for function in both(module, name))
    assert list(ours) == list(theirs)
    assert [p.default for p in ours.values()] == [p.default for p in theirs.values()]


def test_axes_and_layouts():
    for arguments in ((3, -1), (4, (0, -2)), (2, [1])):
        ours, theirs = both("normalization", "_canonicalize_axes")
        assert ours(*arguments) == theirs(*arguments)
    for axes in ((-1, 0), (2, 1)):
        ours, theirs = both("linear", "_normalize_axes")
        assert ours(axes, 3) == theirs(axes, 3)
    for value in (3, [1, 2]):
        ours, theirs = both("linear", "_canonicalize_tuple")
        assert ours(value) == theirs(value)
    for shape in ((2, 3, 4), (1, 2, 3, 4), (1, 2, 3, 4, 5)):
        ours, theirs = both("linear", "_conv_dimension_numbers")
        assert ours(shape) == theirs(shape)
    for name in ("_abs_sq", "_l2_normalize"):
        ours, theirs = both("normalization", name)
        np.testing.assert_array_equal(ours(X), theirs(X))
    ours, theirs = both("normalization", "_abs_sq")
    np.testing.assert_array_equal(ours(X + 1j), theirs(X + 1j))


def in_rows(function):
    def mapped(x, *arguments, **options):
        return jax.vmap(lambda row: function(row, *arguments, **options), axis_name="rows")(x)

    return mapped


@pytest.mark.parametrize("dtype", [None, jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_mean": False},
        {"use_fast_variance": False},
        {"mask": X > 0},
        {"axis_name": "rows"},
        {"force_float32_reductions": False},
    ],
    ids=str,
)
def test_statistics(dtype, options):
    x = X if dtype is None else X.astype(dtype)
    ours, theirs = both("normalization", "_compute_stats")
    if "axis_name" in options:
        ours, theirs = in_rows(ours), in_rows(theirs)
    axes = (0,) if "axis_name" in options else (0, -2)
    for found, wanted in zip(ours(x, axes, dtype, **options), theirs(x, axes, dtype, **options), strict=True):
        assert found.dtype == wanted.dtype
        np.testing.assert_allclose(found.astype(jnp.float32), wanted.astype(jnp.float32), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [None, jnp.bfloat16])
@pytest.mark.parametrize("use", [(True, True), (False, True), (True, False), (False, False)], ids=str)
def test_a_layer_of_ones_own(dtype, use):
    def made(home):
        linen = importlib.import_module(f"{home}.linen")
        helpers = importlib.import_module(f"{home}.linen.normalization")

        class Norm(linen.Module):
            @linen.compact
            def __call__(self, x):
                axes = helpers._canonicalize_axes(x.ndim, -1)
                rest = tuple(axis for axis in range(x.ndim) if axis not in axes)
                mean, var = helpers._compute_stats(x, rest, dtype)
                ones, zeros = linen.initializers.ones, linen.initializers.zeros
                return helpers._normalize(
                    self, x, mean, var, rest, axes, dtype, jnp.float32, 1e-5, *use, zeros, ones
                )  # fmt: skip

        return Norm()

    ours, theirs = made("batiste.compat.flax"), made("flax")
    variables = theirs.init(jax.random.key(0), X)
    assert jax.tree.structure(ours.init(jax.random.key(0), X)) == jax.tree.structure(variables)
    variables = jax.tree.map(lambda leaf: leaf * 1.5 + 0.25, variables)
    found, wanted = ours.apply(variables, X), theirs.apply(variables, X)
    assert found.dtype == wanted.dtype
    np.testing.assert_allclose(found.astype(jnp.float32), wanted.astype(jnp.float32), rtol=1e-6, atol=1e-6)
