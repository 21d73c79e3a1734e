"""Layers apart and stacked: exact inverses, in Optax states and on disk too."""

from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batiste import errors, tree
from tests.tree.support import Reads, same, transformer, trees


def test_stacked_leaves_have_a_leading_axis():
    params = transformer(3)
    stacked = tree.stack_layers(params, "h")
    assert tree.paths(stacked, "encoder/**") == [
        "encoder/h/attn/out/kernel",
        "encoder/h/attn/query/kernel",
        "encoder/h/mlp/bias",
        "encoder/h/mlp/kernel",
        "encoder/norm/scale",
    ]
    kernel = stacked["encoder"]["h"]["attn"]["query"]["kernel"]
    assert (type(kernel), kernel.shape) == (np.ndarray, (3, 4, 2, 2))
    for index in range(3):
        assert np.array_equal(kernel[index], params["encoder"][f"h_{index}"]["attn"]["query"]["kernel"])


@given(trees(), st.integers(1, 12))
def test_stack_and_unstack_are_inverse(layer, count):
    params = {"x": {f"h_{index}": jax.tree.map(np.copy, layer) for index in range(count)}, "rest": {"a": np.ones(2)}}
    stacked = tree.stack_layers(params, "h", within="x")
    assert same(tree.unstack_layers(stacked, "h", within="x"), params)
    assert same(tree.stack_layers(tree.unstack_layers(stacked, "h", within="x"), "h", within="x"), stacked)


@pytest.mark.parametrize("convert", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
def test_each_kind_of_array_stays_what_it_is(convert):
    params = jax.tree.map(convert, transformer(2))
    stacked = tree.stack_layers(params, "h")
    assert {type(leaf) for leaf in jax.tree.leaves(stacked)} == {type(leaf) for leaf in jax.tree.leaves(params)}
    assert same(tree.unstack_layers(stacked, "h"), params)


def test_random_keys_and_half_precision_are_stacked():
    layer = lambda seed: {"key": jax.random.key(seed), "w": jnp.full(3, seed, jnp.bfloat16)}  # noqa: E731 - short
    params = {f"block_{index}": layer(index) for index in range(3)}
    stacked = tree.stack_layers(params, "block")
    assert (stacked["block"]["key"].shape, stacked["block"]["w"].dtype) == ((3,), jnp.bfloat16)
    assert not tree.diff(tree.unstack_layers(stacked, "block"), params)


def test_several_parents_are_stacked_on_their_own():
    params = {"encoder": transformer(2)["encoder"], "decoder": transformer(5)["encoder"]}
    stacked = tree.stack_layers(params, "h")
    assert stacked["encoder"]["h"]["mlp"]["bias"].shape == (2, 4)
    assert stacked["decoder"]["h"]["mlp"]["bias"].shape == (5, 4)
    assert same(tree.unstack_layers(stacked, "h"), params)
    half = tree.stack_layers(params, "h", within="decoder")
    assert sorted(half["encoder"]) == ["h_0", "h_1", "norm"]
    assert same(tree.unstack_layers(half, "h", within="{decoder,nothing}"), params)


def test_layers_within_layers_are_left_alone():
    params = {f"h_{index}": {"h_0": np.ones(2), "h_1": np.zeros(2)} for index in range(2)}
    assert tree.paths(tree.stack_layers(params, "h")) == ["h/h_0", "h/h_1"]
    assert same(tree.unstack_layers(tree.stack_layers(params, "h"), "h"), params)


def test_a_layer_may_be_one_array():
    assert same(
        tree.stack_layers({"h_0": np.ones(2), "h_1": np.zeros(2)}, "h"), {"h": np.array([[1.0, 1.0], [0.0, 0.0]])}
    )
    unstacked = tree.unstack_layers({"h": np.arange(2.0)}, "h")
    assert (type(unstacked["h_1"]), unstacked["h_1"].shape) == (np.ndarray, ())


def test_names_are_taken_literally():
    params = {"a.b_0": np.ones(1), "a.b_1": np.ones(1), "axb_0": np.ones(1), "a.b_01": np.ones(1)}
    assert tree.paths(tree.stack_layers(params, "a.b")) == ["a.b", "a.b_01", "axb_0"]


def test_containers_within_layers_come_back():
    layer = {"list": [np.ones(1), (np.ones(2),)], "empty": {}, "none": None, "whole": {0: np.ones(1)}}
    params = flax.core.freeze({"e": {"h_0": layer, "h_1": layer, "dropout": {}}})
    stacked = tree.stack_layers(params, "h")
    assert isinstance(stacked, flax.core.FrozenDict)
    assert stacked["e"]["dropout"] == {}
    assert same(tree.unstack_layers(stacked, "h"), params)


def test_optax_states_are_stacked_with_their_parameters():
    params = transformer(3)
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    state = optimiser.init(params)
    stacked = tree.stack_layers({"params": params, "opt": state}, "h")
    assert same(stacked["opt"], optimiser.init(stacked["params"]))
    assert same(tree.unstack_layers(stacked, "h"), {"params": params, "opt": state})
    updates, _ = optimiser.update(stacked["params"], stacked["opt"], stacked["params"])
    assert jax.tree.structure(updates) == jax.tree.structure(stacked["params"])


def test_frozen_groups_in_an_optax_state_are_stacked_along():
    params = transformer(3)

    def state_of(params):
        labels = tree.label(params, {"encoder/**": "frozen"}, default="train")
        return optax.multi_transform({"frozen": optax.set_to_zero(), "train": optax.adam(1e-3)}, labels).init(params)

    state = state_of(params)
    stacked = tree.stack_layers(state, "h")
    assert same(stacked, state_of(tree.stack_layers(params, "h")))
    assert same(tree.unstack_layers(stacked, "h", layers=3), state)
    both = tree.unstack_layers({"params": tree.stack_layers(params, "h"), "opt": stacked}, "h")
    assert same(both["opt"], state)
    with pytest.raises(errors.UnequalLayersError, match="encoder/h: no array says how many layers; give `layers=`"):
        tree.unstack_layers(stacked, "h")


def test_lazy_layers_are_stacked_and_read_a_slice_at_a_time():
    sources = [Reads(np.full((4, 5), index, np.float32)) for index in range(3)]
    lazy = tree.stack_layers({f"h_{index}": source.lazy for index, source in enumerate(sources)}, "h")["h"]
    assert (lazy.shape, [source.boxes for source in sources]) == ((3, 4, 5), [[], [], []])
    assert np.array_equal(lazy[1:, :2].read(), np.stack([source.array for source in sources])[1:, :2])
    assert [source.elements for source in sources] == [0, 10, 10]
    assert np.array_equal(lazy.read(), np.stack([source.array for source in sources]))


def test_a_stacked_lazy_leaf_gives_layers_that_read_their_slice():
    source = Reads(np.arange(60.0).reshape(3, 4, 5))
    layers = tree.unstack_layers({"h": {"w": source.lazy}}, "h")
    assert (layers["h_2"]["w"].shape, source.boxes) == ((4, 5), [])
    assert np.array_equal(layers["h_2"]["w"].read(), source.array[2])
    assert source.elements == 20
    again = tree.stack_layers(layers, "h")["h"]["w"]
    assert np.array_equal(again[0].read(), source.array[0])
    assert source.elements == 40


def test_abstract_layers():
    shapes = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, transformer(2)))
    stacked = tree.stack_layers(shapes, "h")
    assert stacked["encoder"]["h"]["mlp"]["bias"] == jax.ShapeDtypeStruct((2, 4), jnp.float32)
    assert tree.unstack_layers(stacked, "h") == shapes


def test_inside_jit():
    params = jax.tree.map(jnp.asarray, transformer(2))
    there = jax.jit(lambda params: tree.stack_layers(params, "h"))(params)
    assert same(jax.jit(lambda params: tree.unstack_layers(params, "h"))(there), params)


def test_no_layers_is_an_error():
    with pytest.raises(errors.NoLayersError, match=r"stack: .*'hh_0'.* Did you mean 'h_0'"):
        tree.stack_layers(transformer(), "hh")
    with pytest.raises(errors.NoLayersError, match=r"unstack: .*'h'"):
        tree.unstack_layers(transformer(), "h")
    with pytest.raises(errors.NoLayersError):
        tree.stack_layers(transformer(), "h", within="decoder")


def test_missing_numbers_are_listed_for_every_parent():
    nested = {"a": {f"h_{index}": np.ones(1) for index in (0, 1, 3)}, "b": {"h_1": np.ones(1)}}
    with pytest.raises(errors.MissingLayersError) as raised:
        tree.stack_layers(nested, "h")
    assert "a/h: there are 0, 1, 3; 2 is missing" in str(raised.value)
    assert "b/h: there are 1; 0 is missing" in str(raised.value)


def test_layers_that_differ_are_listed():
    first = {"k": np.ones(2), "b": np.ones(2), "t": (np.ones(1),), "e": {}}
    nested = {
        "h_0": first,
        "h_1": first | {"k": np.ones(3)},
        "h_2": {"k": np.ones(2), "c": np.ones(1), "t": (np.ones(1),), "e": {}},
        "h_3": first | {"b": np.ones(2, np.float32)},
        "h_4": first | {"t": [np.ones(1)]},
        "h_5": first | {"e": None},
    }
    with pytest.raises(errors.UnequalLayersError) as raised:
        tree.stack_layers(nested, "h")
    lines = str(raised.value).splitlines()
    assert lines[1:-2] == [
        "  h_1/k: float64[3], in layer 0 float64[2]",
        "  h_2/b: missing",
        "  h_2/c: not in layer 0",
        "  h_3/b: float32[2], in layer 0 float64[2]",
        "  h_4/t: list, in layer 0 tuple",
        "  h_5/e: an empty NoneType, in layer 0 an empty dict",
    ]


@pytest.mark.parametrize(
    "leaves",
    [{"a": np.ones((3, 2)), "b": np.ones(2)}, {"a": np.ones(2), "b": np.float32(1)}, {"a": np.ones((0, 2))}],
    ids=["lengths", "scalar", "none"],
)
def test_unstacking_needs_one_length(leaves):
    with pytest.raises(errors.UnequalLayersError, match="x/h/a: float64"):
        tree.unstack_layers({"x": {"h": leaves}}, "h")


def test_a_given_number_must_be_that_of_the_arrays():
    with pytest.raises(errors.UnequalLayersError, match=r"h/a: float64\[3\]"):
        tree.unstack_layers({"h": {"a": np.ones(3)}}, "h", layers=2)


def test_taken_names_are_listed():
    with pytest.raises(errors.LayerNameTakenError, match="a/h"):
        tree.stack_layers({"a": {"h_0": np.ones(1), "h": np.ones(1)}}, "h")
    with pytest.raises(errors.LayerNameTakenError, match="  h_1\n"):
        tree.unstack_layers({"h": np.ones((2, 1)), "h_1": {"x": np.ones(1)}, "h_7": np.ones(1)}, "h")


def test_what_is_no_array_is_an_error():
    with pytest.raises(errors.NotAnArrayError, match="h_0: str"):
        tree.stack_layers({"h_0": "x"}, "h")


# --- masks and labels for parameters that are kept stacked


def wide(params: Any) -> Any:
    return jax.tree.map(lambda leaf: len(leaf.shape) > 1, params)


PARAMS = {
    "h_0": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)},
    "h_1": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)},
    "norm": {"scale": jnp.ones(3)},
}


def test_a_mask_is_made_of_layers_apart() -> None:
    stacked = tree.stack_layers(PARAMS, "h")
    assert tree.by_layer(wide, "h")(stacked) == {"h": {"kernel": True, "bias": False}, "norm": {"scale": False}}
    assert wide(stacked) == {"h": {"kernel": True, "bias": True}, "norm": {"scale": False}}


def test_labels_may_be_a_prefix() -> None:
    labels = tree.by_layer(lambda _: {"h_0": "slow", "h_1": "slow", "norm": "fast"}, "h")
    assert labels(tree.stack_layers(PARAMS, "h")) == {
        "h": {"kernel": "slow", "bias": "slow"},
        "norm": {"scale": "fast"},
    }


def test_labels_that_differ_between_layers_are_an_error() -> None:
    labels = tree.by_layer(lambda params: tree.label(params, {"h_1/kernel": "frozen", "**": "train"}), "h")
    with pytest.raises(errors.UnequalLayersError, match="h_1/kernel: 'frozen', in layer 0 'train'"):
        labels(tree.stack_layers(PARAMS, "h"))


def test_training_stacked_with_a_mask_is_training_apart() -> None:
    grads = jax.tree.map(lambda leaf: leaf * 0.5, PARAMS)

    def trained(params: Any, grads: Any, mask: Any) -> Any:
        optimizer = optax.adamw(0.1, weight_decay=0.5, mask=mask)
        state = optimizer.init(params)
        for _ in range(2):
            updates, state = jax.jit(optimizer.update)(grads, state, params)
            params = optax.apply_updates(params, updates)
        return params

    apart = trained(PARAMS, grads, wide)
    stacked = trained(tree.stack_layers(PARAMS, "h"), tree.stack_layers(grads, "h"), tree.by_layer(wide, "h"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), tree.unstack_layers(stacked, "h"), apart)
