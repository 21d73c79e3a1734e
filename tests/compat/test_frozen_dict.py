"""Frozen dicts are those of `flax.core.frozen_dict`: same text, same trees, same equality."""

import copy
import pickle
from collections import OrderedDict

import cloudpickle
import flax.core.frozen_dict as theirs
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import batiste.compat.flax.core.frozen_dict as ours
from batiste.compat.flax import serialization
from batiste.errors import FrozenDictError, NotADictError
from tests.compat.pairs import assert_same, text

LIBRARIES = (ours, theirs)
KEYS = st.text("abc", min_size=1, max_size=2)
NESTED = st.recursive(
    st.dictionaries(KEYS, st.integers() | st.none() | st.lists(st.integers(), max_size=2), max_size=3),
    lambda inner: st.dictionaries(KEYS, inner | st.integers(), max_size=3),
    max_leaves=6,
)
EXAMPLE = {"b": {"c": 1, "a": 2}, "a": {"z": np.arange(6).reshape(2, 3)}, "l": [{"q": 1}], "e": {}}


def in_both(run):
    """Hold that a function of the module gives the same text for either library."""
    assert_same(lambda: run(ours), lambda: run(theirs))


@given(NESTED)
def test_text_and_trees(entries):
    in_both(lambda lib: lib.FrozenDict(entries))
    in_both(lambda lib: lib.FrozenDict(entries).pretty_repr(2))
    in_both(lambda lib: lib.pretty_repr({"outer": lib.freeze(entries), **entries}, 3))
    in_both(lambda lib: lib.unfreeze(lib.freeze(entries)))
    in_both(lambda lib: jax.tree.structure(lib.freeze(entries)))
    in_both(lambda lib: jax.tree_util.tree_flatten_with_path(lib.freeze(entries)))
    in_both(lambda lib: jax.tree.map(str, lib.freeze(entries)))
    in_both(lambda lib: list(lib.freeze(entries).items()))
    in_both(lambda lib: (lib.freeze(entries).keys(), lib.freeze(entries).values()))
    in_both(lambda lib: lib.freeze(entries).copy({"n": {"m": 1}}))
    in_both(lambda lib: [lib.freeze(entries).pop(key) for key in entries])
    in_both(lambda lib: [lib.pop(entries, key) for key in entries])
    in_both(lambda lib: lib.copy(entries, {"n": lib.freeze({"m": 1})}))


@given(NESTED)
def test_equality_and_hash(entries):
    frozen = ours.freeze(entries)
    turned = ours.freeze(dict(reversed(entries.items())))
    assert frozen == entries
    assert frozen == turned
    assert frozen != 3
    assert not frozen != turned  # noqa: SIM202 - both operators are asked
    if not any(isinstance(leaf, list) for leaf in jax.tree.leaves(entries, is_leaf=lambda x: isinstance(x, list))):
        assert hash(frozen) == hash(turned)
        assert {frozen: 1}[turned] == 1


def test_example():
    for run in (
        lambda lib: lib.FrozenDict(EXAMPLE),
        lambda lib: lib.FrozenDict(EXAMPLE)["b"],
        lambda lib: lib.FrozenDict(EXAMPLE).get("nothing"),
        lambda lib: lib.FrozenDict([("a", 1)], b={"c": 3}),
        lambda lib: lib.FrozenDict(),
        lambda lib: lib.FrozenDict[str, int],
        lambda lib: lib.freeze(OrderedDict(b=1, a=OrderedDict(d=1, c=2))),
        lambda lib: {**lib.freeze(EXAMPLE)},
        lambda lib: (len(lib.freeze(EXAMPLE)), "a" in lib.freeze(EXAMPLE), list(lib.freeze(EXAMPLE))),
        lambda lib: lib.unfreeze({"a": lib.freeze({"b": 1}), "c": [lib.freeze({"d": 1})]}),
        lambda lib: (lib.unfreeze(3), lib.pretty_repr(3), lib.pretty_repr({}), lib.pretty_repr({"a": {}})),
        lambda lib: lib.FrozenDict.tree_unflatten(("a", "b"), (1, {"d": 2})),
        lambda lib: lib.FrozenDict(EXAMPLE).tree_flatten_with_keys()[1],
        lambda lib: lib.FrozenDict.__slots__,
    ):
        in_both(run)


def test_copies():
    frozen = ours.freeze({"b": {"c": 1}, "a": 2})
    pickled = pickle.loads(pickle.dumps(frozen))  # noqa: S301 - its own
    for copied in (copy.copy(frozen), copy.deepcopy(frozen), pickled, cloudpickle.loads(cloudpickle.dumps(frozen))):
        assert copied == frozen
        assert type(copied) is ours.FrozenDict


def test_what_is_frozen_stays():
    entries = {"a": {"b": 1}}
    frozen = ours.freeze(entries)
    shared = ours.FrozenDict(entries, __unsafe_skip_copy__=True)
    entries["a"]["b"] = 2
    assert frozen["a"]["b"] == 1
    assert shared["a"]["b"] == 2
    assert type(frozen["a"]) is ours.FrozenDict
    assert type(frozen.unfreeze()["a"]) is dict
    plain = frozen.unfreeze()
    plain["a"]["b"] = 3
    assert frozen["a"]["b"] == 1


def test_pop_leaves_the_dict():
    entries = {"a": 1, "b": 2}
    assert ours.pop(entries, "a") == ({"b": 2}, 1)
    assert entries == {"a": 1, "b": 2}


def test_transforms_see_through():
    params = ours.freeze({"w": jnp.arange(3.0), "b": {"c": jnp.ones(())}})
    grads = jax.jit(jax.grad(lambda p: jnp.sum(p["w"] ** 2) + p["b"]["c"]))(params)
    assert type(grads) is ours.FrozenDict
    assert text(grads) == text(theirs.freeze({"b": {"c": jnp.ones(())}, "w": 2 * jnp.arange(3.0)}))


def test_pythons_errors():
    for lib in LIBRARIES:
        frozen = lib.freeze({"a": 1})
        for error, run in (
            (KeyError, lambda frozen=frozen: frozen["b"]),
            (KeyError, lambda frozen=frozen: frozen.pop("b")),
            (KeyError, lambda lib=lib: lib.pop({"a": 1}, "b")),
            (TypeError, lambda frozen=frozen: frozen.pop("a", 3)),
            (TypeError, lambda lib=lib: hash(lib.freeze({"a": []}))),
            (TypeError, lambda frozen=frozen: frozen | {"b": 1}),
        ):
            with pytest.raises(error):
                run()


def test_errors():
    frozen = ours.freeze({"a": 1})
    with pytest.raises(FrozenDictError, match="'b' cannot be assigned"):
        frozen["b"] = 2
    for run in (ours.freeze, lambda x: ours.copy(x, {}), lambda x: ours.pop(x, "a")):
        with pytest.raises(NotADictError, match="not a int"):
            run(3)
    with pytest.raises(AttributeError):
        del frozen["a"]


def test_state_dict():
    frozen = ours.freeze({"b": {"c": 1}, "l": [1, 2]})
    assert serialization.to_state_dict(frozen) == {"b": {"c": 1}, "l": {"0": 1, "1": 2}}
    restored = serialization.from_state_dict(frozen, {"b": {"c": 3}, "l": {"0": 4, "1": 5}})
    assert type(restored) is ours.FrozenDict
    assert restored == {"b": {"c": 3}, "l": [4, 5]}
