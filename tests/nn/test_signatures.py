"""The signatures of our layers and functions are those of Linen's: names, order, defaults, kinds."""

import dataclasses
import inspect
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen
from flax.linen import dtypes as linen_dtypes
from flax.linen import pooling as linen_pooling

from batiste import dtypes, nn

LAYERS = [
    "BatchNorm",
    "Conv",
    "ConvLocal",
    "ConvTranspose",
    "Dense",
    "DenseGeneral",
    "Dropout",
    "Einsum",
    "Embed",
    "GroupNorm",
    "InstanceNorm",
    "LayerNorm",
    "PReLU",
    "RMSNorm",
    "Sequential",
    "SpectralNorm",
    "WeightNorm",
]
FUNCTIONS = {
    "avg_pool": (nn.avg_pool, linen.avg_pool),
    "max_pool": (nn.max_pool, linen.max_pool),
    "min_pool": (nn.min_pool, linen_pooling.min_pool),
    "pool": (nn.pool, linen.pool),
    "BatchApply": (nn.BatchApply, linen.BatchApply),
    "promote_dtype": (dtypes.promote_dtype, linen_dtypes.promote_dtype),
    "canonicalize_dtype": (dtypes.canonicalize_dtype, linen_dtypes.canonicalize_dtype),
    "Embed.attend": (nn.Embed.attend, linen.Embed.attend),
}


def plain(default):
    """Return a default in a form that is equal for ours and Linen's."""
    if isinstance(default, types.LambdaType) and not inspect.signature(default).parameters:
        return default()  # Linen's WeightNorm has a function that makes its filter
    if callable(default) and not isinstance(default, type):
        probe = jax.random.key(0)
        try:
            return np.asarray(default(probe, (3, 3), jnp.float32)).tolist()
        except TypeError:
            return getattr(default, "__name__", default)
    return default


def parameters(function):
    return [(p.name, p.kind, plain(p.default)) for p in inspect.signature(function).parameters.values()]


@pytest.mark.parametrize("name", LAYERS)
def test_fields(name):
    def fields(layer):
        found = []
        for field in dataclasses.fields(layer):
            if field.name not in {"parent", "name"}:
                is_made = field.default_factory is not dataclasses.MISSING
                default = field.default_factory() if is_made else field.default
                found.append((field.name, plain(default), field.kw_only))
        return found

    assert fields(getattr(nn, name)) == fields(getattr(linen, name))


@pytest.mark.parametrize("name", LAYERS)
def test_calls(name):
    ours, theirs = getattr(nn, name), getattr(linen, name)
    assert parameters(ours.__call__) == parameters(theirs.__call__)
    assert [name for name, _, _ in parameters(ours)] == [name for name, _, _ in parameters(theirs)]


@pytest.mark.parametrize(("ours", "theirs"), FUNCTIONS.values(), ids=FUNCTIONS)
def test_functions(ours, theirs):
    assert parameters(ours) == parameters(theirs)
