"""Paths: how they are written, and that a tree and its leaves by path are the same thing."""

import collections
import dataclasses
from typing import NamedTuple

import flax
import jax
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batiste import errors, tree
from tests.tree.support import same, transformer, trees


class Point(NamedTuple):
    x: object
    y: object


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class State:
    params: object
    step: object


def test_paths_of_every_kind_of_container():
    nested = {
        "dict": {"b": 1, "a": 2},
        "integers": {0: 3, 10: 4, 2: 5},
        "tuple": (6, [7, 8]),
        "named": Point(9, 10),
        "dataclass": State({"w": 11}, 12),
        "empty": {},
        "none": None,
    }
    assert tree.paths(nested) == [
        "dataclass/params/w",
        "dataclass/step",
        "dict/a",
        "dict/b",
        "integers/0",
        "integers/2",
        "integers/10",
        "named/x",
        "named/y",
        "tuple/0",
        "tuple/1/0",
        "tuple/1/1",
    ]
    assert list(tree.flatten(nested).values()) == jax.tree.leaves(nested)
    assert tree.items(nested) == list(tree.flatten(nested).items())


def test_a_bare_leaf_has_the_empty_path():
    assert tree.flatten(5) == {"": 5}
    assert tree.unflatten({"": 5}) == 5
    assert tree.get(5, "") == 5


def test_names_with_slashes_and_tildes_are_escaped():
    nested = {"a/b": 1, "~": {"": 2, "~1": 3}}
    assert tree.flatten(nested) == {"a~1b": 1, "~0/~": 2, "~0/~01": 3}
    assert tree.unflatten(tree.flatten(nested)) == nested


def test_path_string_takes_jax_key_paths():
    ((key_path, _),) = jax.tree_util.tree_flatten_with_path({"a/b": [Point(None, 1)]})[0]
    assert tree.path_string(key_path) == "a~1b/0/y"


@given(st.lists(st.text("ab/~ä0 1", max_size=4), max_size=5))
def test_split_and_join_are_inverse(parts):
    assert tree.split_path(tree.join_path(parts)) == tuple(parts)


@given(st.lists(st.lists(st.text("a/~01", max_size=3), max_size=3), max_size=6))
def test_different_names_have_different_paths(lists):
    assert len({tree.join_path(parts) for parts in lists}) == len({tuple(parts) for parts in lists})


@given(trees())
def test_flatten_and_unflatten_are_inverse(nested):
    assert same(tree.unflatten(tree.flatten(nested)), nested)
    assert list(tree.flatten(tree.unflatten(tree.flatten(nested)))) == list(tree.flatten(nested))


def test_unflatten_like_gives_the_containers_back():
    params = {"enc": {0: np.ones(2), 11: np.ones(2)}, "list": [np.ones(1), (np.ones(1),)], "e": {}, "n": None}
    state = optax.chain(optax.clip(1.0), optax.adam(1e-3), optax.trace(0.9)).init(params)
    for nested in (params, state, flax.core.freeze(transformer()), collections.OrderedDict(b=1, a=Point(1, None))):
        assert same(tree.unflatten(tree.flatten(nested), like=nested), nested)
        assert type(tree.unflatten(tree.flatten(nested), like=nested)) is type(nested)


def test_unflatten_like_falls_back_to_dicts_where_the_containers_do_not_fit():
    assert tree.unflatten({"a/0": 1}, like={"a": (1, 2)}) == {"a": {"0": 1}}
    assert tree.unflatten({"a/0": 1, "a/1": 2, "a/2": 3}, like={"a": [1, 2]}) == {"a": {"0": 1, "1": 2, "2": 3}}
    assert tree.unflatten({"a/7": 1}, like={"a": {3: 0}}) == {"a": {7: 1}}
    assert tree.unflatten({"a/x": 1, "a/3": 2}, like={"a": {3: 0}}) == {"a": {"x": 1, "3": 2}}


def test_unflatten_rejects_leaves_beneath_leaves():
    for flat in ({"a": 1, "a/b": 2}, {"a/b/c": 2, "a": 1}, {"": 1, "a": 2}):
        with pytest.raises(errors.PathConflictError):
            tree.unflatten(flat)


def test_a_leaf_that_is_no_array_is_kept_as_it_is():
    leaf = object()
    assert tree.unflatten({"a/b": leaf})["a"]["b"] is leaf


def test_get_finds_leaves_and_subtrees():
    nested = {"a": (Point(1, {"z": 2}), None)}
    assert tree.get(nested, "a/0/y/z") == 2
    assert tree.get(nested, "a/0/y") == {"z": 2}
    assert tree.get(nested, "") is nested
    assert tree.get(nested, "a/1") is None
    assert tree.get(nested, "a/1/b", default=7) == 7
    assert tree.get(nested, "b", default=None) is None


def test_get_names_the_nearest_path():
    with pytest.raises(KeyError, match="Did you mean 'head/kernel'") as raised:
        tree.get(transformer(), "head/kernl")
    assert isinstance(raised.value, errors.PathNotFoundError)


def test_a_dict_whose_keys_have_no_order_is_named():
    for function in (tree.flatten, lambda nested: tree.select(nested, "**")):
        with pytest.raises(errors.MixedKeysError, match=r"'a/b'.*int, str"):
            function({"a": {"b": {0: 1, "x": 2}}})


class Twins:
    def __init__(self, left, right):
        self.both = (left, right)


def test_two_leaves_of_one_path_are_an_error():
    key = jax.tree_util.DictKey("same")
    jax.tree_util.register_pytree_with_keys(
        Twins, lambda node: ([(key, child) for child in node.both], None), lambda _, children: Twins(*children)
    )
    for function in (tree.flatten, lambda nested: tree.select(nested, "**"), lambda nested: tree.get(nested, "t/same")):
        with pytest.raises(errors.DuplicatePathError, match="'t/same'"):
            function({"t": Twins(1, 2)})
