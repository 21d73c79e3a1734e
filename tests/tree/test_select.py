"""Parts of trees and trees put together."""

import collections
import re
from typing import NamedTuple

import flax
import jax
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batiste import errors, tree
from tests.tree.support import Reads, same, transformer, trees


class Pair(NamedTuple):
    left: object
    right: object


patterns = st.sampled_from(["**", "a/**", "**/kernel", "*", "*/*", "**/h_0/**", "{a,b}/**", re.compile(r".*a.*")])


def test_paths_by_pattern():
    assert tree.paths(transformer(2), "**/mlp/*") == [
        "encoder/h_0/mlp/bias",
        "encoder/h_0/mlp/kernel",
        "encoder/h_1/mlp/bias",
        "encoder/h_1/mlp/kernel",
    ]
    assert tree.paths(transformer(2), ["head/*", re.compile("encoder/norm/.*")]) == [
        "encoder/norm/scale",
        "head/bias",
        "head/kernel",
    ]
    assert tree.paths(transformer(), "nothing") == []


def test_select_and_exclude_share_a_tree_out():
    params = transformer(2)
    kept = tree.select(params, ["head/*", "**/norm/**"])
    assert kept == {"head": params["head"], "encoder": {"norm": params["encoder"]["norm"]}}
    assert tree.paths(tree.exclude(params, ["head/*", "**/norm/**"])) == tree.paths(params, "encoder/h_*/**")


@given(trees(), patterns)
def test_select_keeps_exactly_what_matches(nested, pattern):
    selected = tree.select(nested, pattern, unmatched="ignore")
    rest = tree.exclude(nested, pattern, unmatched="ignore")
    assert tree.paths(selected) == tree.paths(nested, pattern)
    assert sorted(tree.paths(selected) + tree.paths(rest)) == sorted(tree.paths(nested))
    assert same(tree.merge(selected, rest), nested)


@given(trees(), st.lists(patterns, max_size=3))
def test_partition_and_merge_are_inverse(nested, chosen):
    groups = {f"group {number}": pattern for number, pattern in enumerate(chosen)} | {"rest": "**"}
    parts = tree.partition(nested, groups, unmatched="ignore")
    assert list(parts) == list(groups)
    assert sum(len(tree.paths(part)) for part in parts.values()) == len(tree.paths(nested))
    assert same(tree.merge(*parts.values()), nested)


def test_the_first_group_that_matches_has_the_leaf():
    parts = tree.partition(transformer(1), {"bias": "**/bias", "head": "head/**", "rest": "**"})
    assert tree.paths(parts["bias"]) == ["encoder/h_0/mlp/bias", "head/bias"]
    assert tree.paths(parts["head"]) == ["head/kernel"]


def test_a_group_may_have_several_patterns():
    parts = tree.partition({"a": 1, "b": 2, "c": 3}, {"first": ["a", "c"], "rest": "**"})
    assert parts == {"first": {"a": 1, "c": 3}, "rest": {"b": 2}}


def test_leaves_of_no_group_are_all_named():
    with pytest.raises(errors.UnmatchedPathsError, match=r"head/bias\n  head/kernel"):
        tree.partition(transformer(1), {"encoder": "encoder/**"})


@pytest.mark.parametrize("function", [tree.select, tree.exclude])
def test_a_pattern_that_matches_nothing_names_the_nearest_paths(function):
    with pytest.raises(errors.UnmatchedPatternError, match=r"'encodr/\*\*' .*encoder/h_0/") as raised:
        function(transformer(), ["head/**", "encodr/**", "**/kernl"])
    assert "'**/kernl' (nearest: encoder/h_0/attn/out/kernel" in str(raised.value)
    assert "head/**" not in str(raised.value)
    assert tree.select(transformer(), "encodr/**", unmatched="ignore") == {}


def test_a_tree_without_leaves_says_so():
    with pytest.raises(errors.UnmatchedPatternError, match="has no leaves"):
        tree.select({"a": {}}, "**")


def test_parts_of_mappings_keep_their_type_and_integer_keys():
    frozen = tree.select(flax.core.freeze(transformer(1)), "head/**")
    assert isinstance(frozen, flax.core.FrozenDict)
    ordered = tree.exclude(collections.OrderedDict(b=1, a=2, c=3), "a")
    assert (type(ordered), list(ordered)) == (collections.OrderedDict, ["b", "c"])
    default = tree.select(collections.defaultdict(list, a=1, b=2), "a")
    assert (type(default), default.default_factory, dict(default)) == (collections.defaultdict, list, {"a": 1})
    assert tree.select({"m": {0: 1, 2: 3, 10: 4}}, "m/{2,10}") == {"m": {2: 3, 10: 4}}


def test_whole_tuples_stay_and_parts_of_them_become_dicts():
    nested = {"a": (1, Pair(2, 3)), "b": [4]}
    assert tree.select(nested, "**") == nested
    assert tree.select(nested, "a/1/**") == {"a": {"1": Pair(2, 3)}}
    assert tree.select(nested, ["a/0", "**/right", "b/**"]) == {"a": (1, {"right": 3}), "b": [4]}
    assert tree.select(nested, "a/1/right") == {"a": {"1": {"right": 3}}}


def test_optax_states_come_apart_and_together():
    state = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3)).init(transformer(1))
    moments, rest = tree.select(state, "**/mu/**"), tree.exclude(state, "**/mu/**")
    assert tree.paths(moments) == tree.paths(state, "1/0/mu/**")
    assert same(tree.merge(moments, rest, like=state), state)
    assert type(tree.merge(rest, moments, like=state)[1][0]) is type(state[1][0])


def test_children_without_leaves_stay_with_their_siblings():
    nested = {"a": {"x": 1, "e": {}, "n": None}, "b": {"y": 2, "e": {}}}
    assert tree.select(nested, "a/**") == {"a": {"x": 1, "e": {}, "n": None}}
    assert tree.select(nested, "**/y") == {"b": {"y": 2, "e": {}}}
    assert tree.merge({"params": {"w": 1}, "stats": {}}, {"head": {"w": 2}}) == {
        "params": {"w": 1},
        "stats": {},
        "head": {"w": 2},
    }


def test_nothing_is_mutated_and_no_container_is_shared():
    params = transformer(1)
    before = jax.tree.map(lambda leaf: leaf, params)
    for result in (tree.select(params, "**"), tree.merge(params, {"x": 1}), tree.partition(params, {"p": "**"})["p"]):
        result["head"]["new"] = 1
        del result["encoder"]["norm"]
        assert same(params, before)


def test_merge_of_nothing_and_of_one():
    assert tree.merge() == {}
    assert tree.merge({"a": 1}) == {"a": 1}
    assert tree.merge({}, {"a": 1}, {}) == {"a": 1}


def test_merge_names_every_conflict():
    with pytest.raises(errors.MergeConflictError) as raised:
        tree.merge({"a": 1, "b": {"c": 2}, "d": {"e": 3}}, {"f": 4, "a": 5, "b": 6}, {"d": {"e": {"g": 7}}})
    text = str(raised.value)
    assert "These 3 paths" in text
    assert "a (trees 0 and 1)" in text
    assert "b/c (tree 0) and b (tree 1): one is beneath the other" in text
    assert "d/e (tree 0) and d/e/g (tree 2): one is beneath the other" in text


def test_merge_with_a_winner():
    first, second = {"a": 1, "b": {"c": 2, "d": 3}, "e": 4}, {"a": 5, "b": 6, "e": {"f": 7}}
    assert tree.merge(first, second, overwrite="last") == {"a": 5, "b": 6, "e": {"f": 7}}
    assert tree.merge(first, second, overwrite="first") == first
    assert tree.merge((1, 2), {"1": 5}, overwrite="last") == (1, 5)


def test_merge_fills_the_holes_of_a_tree():
    assert tree.merge(Pair(1, None), Pair(None, {"x": 2})) == Pair(1, {"x": 2})
    assert tree.merge({"a": {}}, {"a": 3}) == {"a": 3}


@given(trees(), trees())
def test_merge_is_the_union_of_paths(left, right):
    merged = tree.merge(left, right, overwrite="last")
    flat, last = tree.flatten(merged), tree.flatten(right)
    assert all(flat[path] is leaf for path, leaf in last.items())
    assert set(flat) - set(last) <= set(tree.flatten(left))
    try:
        strict = tree.merge(left, right)
    except errors.MergeConflictError:
        first = tree.flatten(tree.merge(left, right, overwrite="first"))
        assert all(first[path] is leaf for path, leaf in tree.flatten(left).items())
    else:
        assert same(strict, merged)
        assert set(flat) == set(last) | set(tree.flatten(left))


def test_leaves_are_never_looked_into():
    source = Reads(np.ones(3))
    nested = {"a": source.lazy, "b": jax.ShapeDtypeStruct((2,), np.float32)}
    result = tree.merge(tree.select(nested, "a"), tree.exclude(nested, "a"))
    assert result == nested
    assert source.boxes == []
