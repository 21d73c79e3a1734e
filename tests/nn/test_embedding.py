"""Embed against Linen's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

from batiste import nn
from tests.nn.oracle import Mode, assert_same, compare

IDS = np.array([[0, 4, 2], [-1, 1, 3]], np.int32)
BF16 = jnp.bfloat16


def to_float16(*arrays, dtype=None, inexact=False):
    del dtype, inexact
    return [jnp.asarray(array, jnp.float16) for array in arrays]


OPTIONS = {
    "default": {},
    "bfloat16": {"dtype": BF16},
    "all in bfloat16": {"param_dtype": BF16},
    "promote_dtype": {"promote_dtype": to_float16},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("count", [5, 1], ids=["table", "one row"])
def test_look_up(count, options):
    compare(nn.Embed(count, 3, **options), linen.Embed(count, 3, **options), np.clip(IDS, -count, count - 1))


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_attend(options):
    x = np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32)
    mode = Mode(method="attend")
    compare(nn.Embed(5, 3, **options), linen.Embed(5, 3, **options), x, modes=[mode], init=mode)


def test_products_with_integers_are_refused():
    table = {"params": {"embedding": np.ones((5, 3), np.float32)}}
    for library in (nn, linen):
        with pytest.raises(ValueError, match="int32"):
            library.Embed(5, 3, dtype=jnp.int32).apply(table, np.ones(3, np.float32), method="attend")


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int32])
def test_any_integers(kind):
    compare(nn.Embed(5, 3), linen.Embed(5, 3), np.abs(IDS).astype(kind))


def test_an_id_out_of_range_gives_nan():
    layer = nn.Embed(5, 3)
    variables = layer.init(jax.random.key(0), IDS)
    x = np.array([5])
    assert_same(layer.apply(variables, x), linen.Embed(5, 3).apply(variables, x))
    assert np.isnan(layer.apply(variables, x)).all()
