"""Renaming by pattern, with captures."""

import re

import flax
import numpy as np
import optax
import pytest
from hypothesis import given

from batiste import errors, tree
from tests.tree.support import Reads, same, transformer, trees


def test_captures_fill_the_new_path():
    nested = {"encoder": {"layer_0": {"attn": {"kernel": 1}}, "layer_11": {"bias": 2}}, "head": 3}
    assert tree.rename(nested, {"encoder/layer_*/**": "enc/h_{1}/{2}"}) == {
        "enc": {"h_0": {"attn": {"kernel": 1}}, "h_11": {"bias": 2}},
        "head": 3,
    }


def test_the_first_rule_that_matches_decides():
    rules = {"a/x": "first", "a/*": "rest/{1}"}
    assert tree.rename({"a": {"x": 1, "y": 2}}, rules) == {"first": 1, "rest": {"y": 2}}


def test_regular_expressions_have_numbered_and_named_captures():
    rules = {re.compile(r"layers\.(?P<index>\d+)\.(weight|bias)"): "h_{index}/{2}", "{a,b}": "{{{0}}}"}
    assert tree.rename({"layers.3.weight": 1, "a": 2}, rules) == {"h_3": {"weight": 1}, "{a}": 2}


def test_a_capture_of_no_levels_leaves_no_level():
    assert tree.rename({"x": 1, "a": {"x": 2}}, {"**/x": "new/{1}/x"}) == {"new": {"x": 1, "a": {"x": 2}}}


def test_names_with_slashes_stay_one_level():
    assert tree.rename({"a/b": {"c": 1}}, {"*/c": "{1}/d"}) == {"a/b": {"d": 1}}


@given(trees())
def test_there_and_back(nested):
    there = tree.rename(nested, {"**": "outer/{1}/inner"})
    assert same(tree.rename(there, {"outer/**/inner": "{1}"}), nested)
    assert same(tree.rename(nested, {"**": "{0}"}), nested)


def test_swapping_names_is_no_collision():
    assert tree.rename({"a": 1, "b": 2}, {"a": "b", "b": "a"}) == {"a": 2, "b": 1}


def test_every_collision_is_listed():
    nested = {"a": {"k": 1}, "b": {"k": 2}, "c": {"k": 3}, "d": 4, "e": 5}
    with pytest.raises(errors.RenameCollisionError) as raised:
        tree.rename(nested, {"{a,b}/k": "k", "d": "c/k/deep", "e": "c/k"})
    text = str(raised.value)
    assert "k <- a/k, b/k" in text
    assert "c/k <- c/k, e" in text
    assert "c/k/deep <- d is beneath c/k <- c/k, e" in text


@pytest.mark.parametrize(
    ("template", "reason"),
    [("x/{2}", "no capture `{2}`"), ("x/{name}", "no capture `{name}`"), ("x/{", "no partner"), ("{}", "no capture")],
)
def test_a_template_that_cannot_be_filled_is_an_error(template, reason):
    with pytest.raises(errors.RenameTemplateError, match=re.escape(reason)):
        tree.rename({"a": 1}, {"*": template})


def test_a_rule_that_matches_nothing_is_an_error():
    with pytest.raises(errors.UnmatchedPatternError, match="'encodr/\\*\\*'"):
        tree.rename(transformer(), {"encodr/**": "enc/{1}"})
    assert same(tree.rename(transformer(), {"encodr/**": "enc/{1}"}, unmatched="ignore"), transformer())


def test_containers_move_with_their_leaves():
    state = optax.adam(1e-3).init({"enc": {0: np.ones(2), 1: np.ones(3)}, "head": np.ones(1)})
    renamed = tree.rename(state, {"**/enc/**": "{1}/encoder/{2}"})
    assert type(renamed[0]) is type(state[0])
    assert renamed[1] == optax.EmptyState()
    assert list(renamed[0].mu["encoder"]) == [0, 1]
    moved = tree.rename({"opt": state, "step": 1}, {"opt/**": "training/optimizer/{1}"})
    assert same(moved["training"]["optimizer"], state)


def test_masked_states_are_renamed_whole():
    params = transformer(2)

    def state(params):
        labels = tree.label(params, {"{enc,encoder}/**": "frozen"}, default="train", unmatched="ignore")
        return optax.multi_transform({"frozen": optax.set_to_zero(), "train": optax.adam(1e-3)}, labels).init(params)

    renamed = tree.rename(state(params), {re.compile("(.*)/encoder(/.*)?"): "{1}/enc{2}"}, unmatched="ignore")
    assert same(renamed, state(tree.rename(params, {"encoder/**": "enc/{1}"})))


def test_mappings_keep_their_type():
    renamed = tree.rename(flax.core.freeze(transformer(1)), {"head/**": "top/{1}"})
    assert isinstance(renamed, flax.core.FrozenDict)
    assert tree.paths(renamed, "top/*") == ["top/bias", "top/kernel"]


def test_lazy_leaves_are_moved_unread():
    source = Reads(np.ones(3))
    assert tree.rename({"a": source.lazy}, {"a": "b"})["b"] is source.lazy
    assert source.boxes == []


def test_empty_containers_are_kept():
    assert tree.rename({"a": {"x": 1, "e": {}}, "b": {}}, {"a/x": "c/x"}) == {"a": {"e": {}}, "c": {"x": 1}, "b": {}}
    assert tree.rename({"a": {}, "b": {"x": 1}}, {"b/*": "a/{1}"}) == {"a": {"x": 1}}
