"""WeightNorm and SpectralNorm against Linen's: names, initial values, updates, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

from batiste import nn
from tests.nn.oracle import Mode, cheap_initializer, compare

X = np.random.default_rng(0).normal(size=(2, 4, 6)).astype(np.float32)
BF16 = jnp.bfloat16
TRAIN = Mode({"update_stats": True}, mutable=["batch_stats"])
EVAL = Mode({"update_stats": False})


def dense(library, features=3, **options):
    return library.Dense(features, kernel_init=cheap_initializer, bias_init=cheap_initializer, **options)


def inner(library):
    """Return a class with several layers, one of them with statistics."""

    class Inner(library.Module):
        @library.compact
        def __call__(self, x):
            x = library.Conv(4, (2,), kernel_init=cheap_initializer)(x)
            x = library.LayerNorm()(x)
            return dense(library)(x)

    return Inner


def outer(library, wrapper, make_wrapped, options):
    """Return a Module that wraps a Module made in it, between two others."""

    class Outer(library.Module):
        @library.compact
        def __call__(self, x, **kwargs):
            x = dense(library, 6)(x)
            x = getattr(library, wrapper)(make_wrapped(library), **options)(x, **kwargs)
            return dense(library, 2)(x)

    return Outer()


def wrapped_dense(library):
    return dense(library)


def wrapped_half_dense(library):
    return dense(library, param_dtype=BF16)


def wrapped_inner(library):
    return inner(library)()


WEIGHT = {
    "default": (wrapped_dense, {}),
    "all variables": (wrapped_inner, {"variable_filter": None}),
    "no variable": (wrapped_inner, {"variable_filter": {"nowhere"}}),
    "own name": (wrapped_dense, {"variable_filter": {"Dense_1"}}),
    "one length": (wrapped_dense, {"feature_axes": None}),
    "both axes": (wrapped_dense, {"feature_axes": (0, 1)}),
    "no scale, bfloat16": (wrapped_dense, {"use_scale": False, "dtype": BF16}),
    "scale": (wrapped_dense, {"scale_init": cheap_initializer, "param_dtype": BF16, "epsilon": 1e-3}),
}


@pytest.mark.parametrize(("make", "options"), WEIGHT.values(), ids=WEIGHT)
def test_weight_norm(make, options):
    compare(*(outer(library, "WeightNorm", make, options) for library in (nn, linen)), X)


def test_weight_norm_on_top():
    compare(*(library.WeightNorm(dense(library)) for library in (nn, linen)), X)


SPECTRAL = {
    "default": (wrapped_dense, {}),
    "steps": (wrapped_dense, {"n_steps": 3, "epsilon": 1e-3}),
    "several variables": (wrapped_inner, {}),
    "bfloat16": (wrapped_dense, {"dtype": BF16}),
    "half weights": (wrapped_half_dense, {"param_dtype": BF16}),
}


@pytest.mark.parametrize(("make", "options"), SPECTRAL.values(), ids=SPECTRAL)
def test_spectral_norm(make, options):
    pair = (outer(library, "SpectralNorm", make, options) for library in (nn, linen))
    compare(*pair, X, modes=[TRAIN], init=Mode(TRAIN.kwargs))


@pytest.mark.parametrize(("make", "options"), [SPECTRAL["default"], SPECTRAL["half weights"]], ids=["single", "half"])
def test_spectral_norm_in_evaluation(make, options):
    pair = (outer(library, "SpectralNorm", make, options) for library in (nn, linen))
    compare(*pair, X, modes=[TRAIN, EVAL], init=EVAL)


def test_spectral_norm_of_other_collections():
    """The wrapped Module writes its own statistics; vectors are kept where they are told to be."""
    mode = Mode({"update_stats": True}, mutable=["batch_stats", "spectral"])

    def make(library):
        class Both(library.Module):
            @library.compact
            def __call__(self, x):
                return library.BatchNorm(use_running_average=False)(dense(library)(x))

        return library.SpectralNorm(Both(), collection_name="spectral")

    compare(make(nn), make(linen), X, modes=[mode], init=Mode({"update_stats": False}))


def test_shared_in_setup():
    def make(library):
        class Shared(library.Module):
            def setup(self):
                self.dense = dense(library, 6)
                self.weight = library.WeightNorm(self.dense)
                self.spectral = library.SpectralNorm(self.dense)

            def __call__(self, x):
                return self.spectral(self.weight(x), update_stats=True)

        return Shared()

    # Not exact: the gradient of the shared kernel is the sum of two, in whatever order JAX adds them up.
    compare(make(nn), make(linen), X, modes=[Mode(mutable=["batch_stats"])], exact=False, tolerance=1e-5)


def test_the_largest_singular_value_is_one():
    layer = nn.SpectralNorm(nn.Dense(3, use_bias=False), n_steps=20)
    variables = layer.init(jax.random.key(0), X, update_stats=True)
    scaled = {**variables, "params": jax.tree.map(lambda kernel: 7 * kernel, variables["params"])}
    _, update = layer.apply(scaled, X, update_stats=True, mutable=["batch_stats"])
    sigma = update["batch_stats"]["layer_instance/kernel/sigma"]
    kernel = np.asarray(scaled["params"]["layer_instance"]["kernel"])
    np.testing.assert_allclose(sigma, np.linalg.svd(kernel)[1][0], rtol=1e-4)


def test_a_name_alone_is_a_filter():
    def init(variable_filter):
        return nn.WeightNorm(dense(nn), variable_filter=variable_filter).init(jax.random.key(0), X)

    assert jax.tree.structure(init("kernel")) == jax.tree.structure(init({"kernel"}))
