"""How two trees differ, in words."""

import collections
from typing import NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given

from batiste import tree
from tests.tree.support import Reads, transformer, trees


class Pair(NamedTuple):
    left: object
    right: object


def only(left, right, **options):
    """The one difference of two trees."""
    (entry,) = tree.diff(left, right, **options)
    return entry


@given(trees())
def test_a_tree_does_not_differ_from_itself(nested):
    found = tree.diff(nested, jax.tree.map(np.copy, nested))
    assert not found
    assert len(found) == 0
    assert str(found).startswith(f"no differences in {len(tree.paths(nested))} lea")


def test_every_kind_in_a_line_each_without_values():
    left = {
        "same": np.ones(2),
        "gone": np.full(3, 7.125, np.float32),
        "shape": np.ones((2, 3)),
        "dtype": np.full(4, 1 / 3, np.float32),
        "value": np.array([1.0, 2.0, 4.0]),
        "container": (np.ones(1),),
    }
    right = {
        "same": np.ones(2),
        "new": {"er": np.ones(1, np.int8)},
        "shape": np.ones((3, 2)),
        "dtype": np.full(4, 1 / 3, np.float32).astype(jnp.bfloat16),
        "value": np.array([1.0, 2.5, 3.0]),
        "container": [np.ones(1)],
    }
    found = tree.diff(left, right)
    assert found
    assert str(found).splitlines() == [
        "6 differences in 7 leaves",
        "  container  container  tuple -> list",
        "  dtype      dtype      float32[4] -> bfloat16[4], max abs 0.000651, relative 0.00195, 4 elements",
        "  gone       missing    float32[3]",
        "  new/er     extra      int8[1]",
        "  shape      shape      float64[2, 3] -> float64[3, 2]",
        "  value      value      float64[3], max abs 1, relative 0.25, 2 elements",
    ]
    assert [entry.kind for entry in found] == ["container", "dtype", "missing", "extra", "shape", "value"]
    assert str(next(iter(found))) == "container  container  tuple -> list"


def test_distances_are_numbers_to_compute_with():
    entry = only({"a": np.array([1.0, -4.0])}, {"a": np.array([1.5, -4.0])})
    assert (entry.distance, entry.relative, entry.unequal) == (0.5, 0.125, 1)
    entry = only(np.zeros(2), np.array([0.0, 2.0]))
    assert (entry.path, entry.distance, entry.relative) == ("", 2.0, np.inf)
    assert str(entry).startswith("(root)  value")


def test_tolerances():
    left, right = {"a": np.array([100.0, 1.0])}, {"a": np.array([101.0, 1.0])}
    assert not tree.diff(left, right, rtol=0.01)
    assert not tree.diff(left, right, atol=1.0)
    assert tree.diff(left, right, rtol=0.009)


def test_not_a_number_equals_itself_and_differs_from_numbers():
    nan, inf = np.nan, np.inf
    assert not tree.diff(np.array([nan, inf, -inf]), np.array([nan, inf, -inf]))
    entry = only(np.array([nan, 1.0]), np.array([1.0, 1.0]))
    assert np.isnan(entry.distance)
    assert entry.unequal == 1
    assert only(np.array([inf]), np.array([-inf])).distance == inf


def test_large_integers_are_told_apart():
    entry = only(np.array([2**62], np.int64), np.array([2**62 + 1], np.int64))
    assert (entry.distance, entry.unequal) == (1.0, 1)


@pytest.mark.parametrize(
    "dtype", ["bool", "int8", "uint32", "float16", "bfloat16", "float8_e4m3fn", "complex64", "int4"]
)
def test_every_dtype(dtype):
    one, two = jnp.zeros(3, dtype), jnp.zeros(3, dtype).at[1].set(jnp.ones((), dtype))
    assert not tree.diff(one, jnp.zeros(3, dtype))
    assert only(one, two).distance == 1.0


def test_long_arrays_are_compared_in_pieces():
    one, two = np.zeros((1100, 1000), np.float32), np.zeros((1100, 1000), np.float32)
    two[0, 0], two[-1, -1] = 1, 2
    entry = only(one, two)
    assert (entry.distance, entry.unequal) == (2.0, 2)


def test_random_keys():
    assert not tree.diff(jax.random.key(0), jax.random.key(0))
    assert only(jax.random.key(0), jax.random.key(1)).kind == "value"
    assert only(jax.random.key(0), jax.random.key(0, impl="rbg")).kind == "dtype"
    assert only(jax.random.key(0), np.uint32(0)).kind == "dtype"


def test_leaves_that_are_no_arrays():
    assert not tree.diff({"a": "x"}, {"a": "x"})
    assert only({"a": "x"}, {"a": "y"}).kind == "value"
    assert str(tree.diff({"a": "x"}, {"a": np.ones(2)})).endswith("a  value  str -> float64[2]")


def test_abstract_leaves_have_no_values():
    abstract = jax.ShapeDtypeStruct((2,), np.float32)
    assert not tree.diff(abstract, np.ones(2, np.float32))
    assert only(abstract, np.ones(2, np.int32)).kind == "dtype"


def test_lazy_leaves_are_read_only_for_their_values():
    one, two = Reads(np.ones(3)), Reads(np.zeros(3))
    assert not tree.diff({"a": one.lazy}, {"a": two.lazy}, values=False)
    assert one.boxes == two.boxes == []
    assert only({"a": one.lazy}, {"a": two.lazy}).distance == 1.0
    assert one.boxes == two.boxes == [None]
    assert only({"a": one.lazy}, {"a": np.ones(4)}).kind == "shape"
    assert one.boxes == [None]


def test_some_paths_only():
    left, right = {"a": 1, "b": 2}, {"a": 3, "b": 4}
    found = tree.diff(left, right, "a")
    assert ([entry.path for entry in found], found.leaves) == (["a"], 1)


@pytest.mark.parametrize(
    ("left", "right", "text"),
    [
        ({}, None, "dict -> None"),
        ({"x": 1}, flax.core.freeze({"x": 1}), "dict -> FrozenDict"),
        ({"0": 1}, {0: 1}, "dict -> dict with integer keys"),
        ((1, 2), Pair(1, 2), "tuple -> named tuple Pair"),
        (optax.EmptyState(), None, "named tuple EmptyState -> None"),
        (np.ones(2), {"x": np.ones(2)}, "float64[2] -> dict"),
        (np.ones(2), None, "float64[2] -> None"),
        ({"x": 1}, collections.OrderedDict(x=1), "dict -> OrderedDict"),
    ],
    ids=str,
)
def test_kinds_of_containers(left, right, text):
    found = [entry for entry in tree.diff({"at": left}, {"at": right}) if entry.kind == "container"]
    assert [(entry.path, entry.detail()) for entry in found] == [("at", text)]


def test_kinds_with_one_name_are_told_apart_by_their_modules():
    other = collections.namedtuple("Pair", ["left", "right"], module="elsewhere")  # noqa: PYI024 - made by name
    assert only(Pair(1, 2), other(1, 2)).detail().endswith("-> named tuple Pair of elsewhere")


def test_an_empty_mapping_has_no_kind_of_keys():
    assert [entry.kind for entry in tree.diff({0: 1}, {})] == ["missing"]


def test_empty_containers_count():
    assert [str(entry) for entry in tree.diff({"a": 1, "e": {}}, {"a": 1, "n": None})] == [
        "e  missing  dict",
        "n  extra  None",
    ]
    assert not tree.diff(optax.adam(1e-3).init(transformer(1)), optax.adam(1e-3).init(transformer(1)))
