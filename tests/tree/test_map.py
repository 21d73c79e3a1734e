"""Functions, dtypes and labels by pattern."""

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given

from batiste import errors, tree
from tests.tree.support import Reads, same, transformer, trees


def test_map_gives_path_and_leaf():
    assert tree.map({"a": {"b": 1}, "c": (2,)}, lambda path, leaf: f"{path}={leaf}") == {
        "a": {"b": "a/b=1"},
        "c": ("c/0=2",),
    }


def test_map_by_pattern_leaves_the_rest_alone():
    params = transformer(1)
    result = tree.map(params, {"head/*": lambda _, leaf: leaf * 2, "**/bias": lambda _, leaf: leaf * 0})
    assert np.array_equal(result["head"]["bias"], params["head"]["bias"] * 2)
    assert not result["encoder"]["h_0"]["mlp"]["bias"].any()
    assert result["encoder"]["norm"]["scale"] is params["encoder"]["norm"]["scale"]


@given(trees())
def test_map_keeps_the_structure(nested):
    assert same(tree.map(nested, lambda _, leaf: leaf), nested)


def test_map_works_under_jit():
    params = transformer(1)
    scaled = jax.jit(lambda params: tree.map(params, {"head/*": lambda _, leaf: leaf * 2}))(params)
    assert np.array_equal(scaled["head"]["bias"], params["head"]["bias"] * 2)


def test_cast_by_pattern():
    result = tree.cast(transformer(1), {"**/bias": "float16", "encoder/**": jnp.bfloat16})
    dtypes = {path: str(leaf.dtype) for path, leaf in tree.items(result)}
    assert dtypes["encoder/h_0/mlp/bias"] == "float16"
    assert dtypes["encoder/norm/scale"] == "bfloat16"
    assert dtypes["head/kernel"] == "float32"


def test_cast_takes_every_kind_of_array():
    source = Reads(np.ones(3, np.float32))
    nested = {
        "lazy": source.lazy,
        "abstract": jax.ShapeDtypeStruct((2,), jnp.float32),
        "jax": jnp.ones(2),
        "number": 1.0,
        "key": jax.random.key(0),
        "whole": np.arange(3),
        "complex": np.ones(1, np.complex64),
    }
    result = tree.cast({key: nested[key] for key in nested if key != "complex"}, "bfloat16")
    assert {key: str(result[key].dtype) for key in ("lazy", "abstract", "jax", "number", "whole")} == {
        "lazy": "bfloat16",
        "abstract": "bfloat16",
        "jax": "bfloat16",
        "number": "bfloat16",
        "whole": str(np.arange(3).dtype),
    }
    assert result["key"] is nested["key"]
    assert source.boxes == []
    assert np.array_equal(result["lazy"].read(), np.ones(3))
    assert tree.cast(nested["complex"], np.complex64) is nested["complex"]


def test_cast_of_whole_numbers_only_when_told():
    nested = {"step": np.int32(3), "mask": np.array([True]), "key": jax.random.key(0)}
    assert tree.cast(nested, "float32") == nested
    result = tree.cast(nested, "float32", kinds="all")
    assert (result["step"].dtype, result["mask"].dtype, result["key"]) == (np.float32, np.float32, nested["key"])


def test_cast_to_no_dtype_is_an_error():
    with pytest.raises(errors.TreeValueError, match="'bf16'"):
        tree.cast(transformer(1), "bf16")


def test_cast_of_what_is_no_array_is_an_error():
    with pytest.raises(errors.NotAnArrayError, match="a: str"):
        tree.cast({"a": "text", "b": 1.0}, "float32")
    assert tree.cast({"a": "text", "b": np.ones(1)}, {"b": "float16"})["b"].dtype == np.float16


@pytest.mark.parametrize("function", [tree.map, tree.cast, tree.label])
def test_a_rule_that_matches_nothing_is_an_error(function):
    with pytest.raises(errors.UnmatchedPatternError, match=r"'encoder/h_9/\*\*' .nearest: encoder"):
        function(transformer(), {"head/**": "float32", "encoder/h_9/**": "float32"})


def test_label_the_first_match_wins():
    labels = tree.label(transformer(1), {"encoder/norm/**": "frozen", "**/{bias,scale}": "no_decay"}, default="train")
    assert {path: text for path, text in tree.items(labels) if text != "train"} == {
        "encoder/norm/scale": "frozen",
        "encoder/h_0/mlp/bias": "no_decay",
        "head/bias": "no_decay",
    }
    assert jax.tree.structure(labels) == jax.tree.structure(transformer(1))


def test_label_without_default_names_every_leaf_without_a_label():
    with pytest.raises(errors.UnmatchedPathsError, match=r"2 leaves.*\n  head/bias\n  head/kernel\n"):
        tree.label(transformer(), {"encoder/**": "frozen"})
    assert set(tree.flatten(tree.label(transformer(), {"**": "all"})).values()) == {"all"}


def test_label_needs_shapes_only():
    abstract = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, transformer(1)))
    assert jax.tree.structure(tree.label(abstract, {"**": "x"})) == jax.tree.structure(abstract)


@pytest.mark.parametrize("container", [dict, flax.core.freeze], ids=["dict", "FrozenDict"])
def test_frozen_groups_hold_no_optimiser_state_and_do_not_move(container):
    params = jax.tree.map(jnp.asarray, container(transformer(2)))
    labels = tree.label(params, {"encoder/**": "frozen", "**/bias": "no_decay"}, default="train")
    optimiser = optax.multi_transform(
        {"frozen": optax.set_to_zero(), "no_decay": optax.adam(0.1), "train": optax.adamw(0.1)}, labels
    )
    state = optimiser.init(params)
    assert tree.paths(state, "**/encoder/**") == []
    assert tree.paths(state, "**/mu/**") == [
        "inner_states/no_decay/inner_state/0/mu/head/bias",
        "inner_states/train/inner_state/0/mu/head/kernel",
    ]

    @jax.jit
    def step(params, state):
        updates, state = optimiser.update(jax.tree.map(jnp.ones_like, params), state, params)
        return optax.apply_updates(params, updates), state

    moved, _ = step(params, state)
    assert {entry.path for entry in tree.diff(params, moved)} == {"head/bias", "head/kernel"}
