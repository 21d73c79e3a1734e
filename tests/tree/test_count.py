"""How many numbers and bytes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from batiste import errors, tree
from tests.tree.support import Reads, transformer


def test_totals_of_every_kind_of_array():
    source = Reads(np.ones((2, 3), np.float16))
    nested = {
        "lazy": source.lazy,
        "abstract": jax.ShapeDtypeStruct((4,), jnp.bfloat16),
        "jax": jnp.ones(5),
        "number": 1.5,
        "key": jax.random.split(jax.random.key(0), 2),
        "none": None,
    }
    assert tree.count(nested) == 6 + 4 + 5 + 1 + 2
    assert tree.bytes(nested) == 12 + 8 + 20 + 8 + 16
    assert source.boxes == []


def test_by_pattern():
    assert tree.count(transformer(3), "**/bias") == 3 * 4 + 3
    assert tree.bytes(transformer(3), ["head/*"]) == (4 * 3 + 3) * 4
    assert tree.count(transformer(3), "nothing") == 0


def test_by_prefix():
    params = transformer(2)
    assert tree.totals(params) == {"encoder": tree.Total(9, 108 - 4 + 4, 432), "head": tree.Total(2, 15, 60)}
    assert list(tree.totals(params, 2)) == ["encoder/h_0", "encoder/h_1", "encoder/norm", "head/bias", "head/kernel"]
    assert tree.totals(params, 0) == {"": tree.Total(11, tree.count(params), tree.bytes(params))}
    assert tree.totals(params, patterns="head/bias") == {"head": tree.Total(1, 3, 12)}
    assert tree.totals({}) == {}


def test_what_is_no_array_is_named():
    with pytest.raises(errors.NotAnArrayError, match="2 leaves are none:\n  a: str\n  b/c: object"):
        tree.count({"a": "text", "b": {"c": object()}, "d": 1})


def test_a_negative_depth_is_an_error():
    with pytest.raises(errors.TreeValueError, match="`depth` is -1"):
        tree.totals({}, -1)
