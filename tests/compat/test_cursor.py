"""Cursors are Flax's: the same text, the same structures built, the same places found."""

import copy
import pickle
import types
from collections import OrderedDict, defaultdict
from typing import Any, NamedTuple

import flax.core
import flax.cursor as theirs
import flax.struct
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

import batiste.compat.flax.core
import batiste.compat.flax.cursor as ours
import batiste.compat.flax.struct
from batiste.errors import (
    CursorAttributeError,
    CursorFindError,
    CursorIndexError,
    CursorIterationError,
    CursorKeyError,
)
from tests.compat.pairs import assert_same


class Pair(NamedTuple):
    p: Any
    q: Any


@batiste.compat.flax.struct.dataclass
class Node:
    a: Any
    b: Any = batiste.compat.flax.struct.field(pytree_node=False, default=3)


PARAMS = {
    "Dense_0": {"kernel": np.ones(2), "bias": np.zeros(2)},
    "Dense_1": {"kernel": 1, "bias": 2},
    "l": [Pair(1, {"e": {}}), (Node(5, {"z": 6}),)],
}
NESTED = st.recursive(
    st.integers(1, 3),
    lambda inner: (
        st.dictionaries(st.text("abc", min_size=1, max_size=1), inner, max_size=3)
        | st.lists(inner, max_size=3)
        | st.lists(inner, max_size=2).map(tuple)
        | st.builds(Pair, inner, inner)
        | st.builds(Node, inner)
    ),
    max_leaves=8,
)


def in_both(run):
    assert_same(lambda: run(ours), lambda: run(theirs))


@given(NESTED)
def test_updates_and_searches(tree):
    in_both(lambda lib: lib.cursor(tree))
    in_both(lambda lib: lib.cursor(tree).apply_update(lambda path, value: value + 1 if value == 2 else value))
    in_both(lambda lib: lib.cursor(tree).apply_update(lambda path, value: 7 if "1" in path else value).build())
    in_both(lambda lib: [c._path for c in lib.cursor(tree).find_all(lambda path, value: value == 2)])
    in_both(lambda lib: [c.set(9) for c in lib.cursor(tree).find_all(lambda path, value: len(path) > 2)])
    in_both(lambda lib: lib.cursor(tree).find(lambda path, value: value == 3).set("found"))


def all_seen(lib):
    seen = []
    lib.cursor(PARAMS).apply_update(lambda path, value: seen.append((path, type(value).__name__)) or value)
    list(lib.cursor(PARAMS).find_all(lambda path, value: seen.append((path, type(value).__name__))))
    return seen


def test_the_functions_see_the_same():
    in_both(all_seen)


def assign(lib):
    c = lib.cursor(PARAMS)
    c["Dense_1"]["kernel"] = 7
    c["l"][0].p += 5
    c["l"][0].q["e"]["n"] = 1
    c["l"][1][0].a = 8
    c["l"][-1][0].b["z"] *= 2
    return c, str(c), c.build(), c["l"].build(), PARAMS


def replace_then_change(lib):
    c = lib.cursor({"a": {"b": 1}})
    c["a"]["b"] = 3
    c["a"] = {"z": 1}
    c["a"]["y"] = 2
    return c, c.build()


def set_returns_the_whole(lib):
    c = lib.cursor({"a": {"b": 1}, "d": 3})
    c["d"] = 10
    return c["a"]["b"].set(5), c.build(), c["a"].set({"q": 1}), c["a"], lib.cursor(1).set(2)


def containers(lib):
    built = []
    for tree, key in (
        (OrderedDict(a=1, b=2), "a"), (defaultdict(int, a=1), "a"), ([1, 2], 0), ((1, 2), -1), (Pair(1, 2), 0),
        ({"a": 1}, "new"), (types.MappingProxyType({"a": 1}), "a"), (np.arange(3), 0), (jnp.arange(3), 0),
    ):  # fmt: skip
        c = lib.cursor({"tree": tree})
        c["tree"][key] = 9
        built.append(c.build())
    return built


def iterated(lib):
    c = lib.cursor({"a": [1, 2, 3], "t": (4, 5)})
    for index, element in enumerate(c["a"]):
        c["a"][index] = element * 10
    return c.build(), list(c["t"]), list(reversed(c["t"])), len(c["a"]), 20 in c["a"]


def arithmetic(lib):
    x, y = lib.cursor({"x": 7, "y": 2})["x"], lib.cursor(2)
    return [
        x + 1, 1 + x, x - y, 5 - x, x * y, 2 * x, x / y, 1 / x, x // y, 9 // x, x % y, 9 % x, x**y, 2**x, divmod(x, y),
        divmod(9, x), x << 1, 1 << y, x >> 1, 9 >> y, x & 3, 3 & x, x | 8, 8 | x, x ^ 1, 1 ^ x, -x, +x, abs(x), ~x,
        round(x), x == 7, x != 7, x < 8, x <= 7, x > y, x >= y, x == lib.cursor(7), lib.cursor("a") + "b",
        lib.cursor(np.eye(2)) @ np.ones(2), lib.cursor([1]) == [1],
    ]  # fmt: skip


@pytest.mark.parametrize(
    "run",
    [assign, replace_then_change, set_returns_the_whole, containers, iterated, arithmetic],
    ids=lambda run: run.__name__,
)
def test_examples(run):
    in_both(run)


def test_frozen_dicts():
    built = []
    for lib, core in ((ours, batiste.compat.flax.core), (theirs, flax.core)):
        c = lib.cursor(core.freeze({"a": {"b": 1}, "c": 2}))
        c["a"]["b"] += 4
        built.append(repr(c) + repr(c.build()))
    assert built[0] == built[1]


def test_optimiser_states():
    state = optax.adam(0.1).init({"w": jnp.ones(2)})

    def doubled(lib):
        return lib.cursor(state).apply_update(lambda path, value: value + 2 if path.endswith("mu/w") else value).build()

    in_both(doubled)
    assert doubled(ours)[0].mu["w"].tolist() == [2.0, 2.0]


def test_small_things():
    for run in (
        lambda lib: [lib.is_named_tuple(value) for value in (Pair(1, 2), (1, 2), Pair, 3)],
        lambda lib: list(lib.AccessType),
        lambda lib: lib.ParentKey(1, 2, lib.AccessType.ITEM),
        lambda lib: [isinstance(value, lib.Indexable) for value in ([], 3)],
        lambda lib: lib.cursor({"a": [1]})["a"][0]._path + lib.cursor(Node(1)).a._path,
    ):
        in_both(run)


@pytest.mark.parametrize(
    ("run", "error"),
    [
        (lambda lib: lib.cursor({"a": 3})["a"][0], CursorIndexError),
        (lambda lib: lib.cursor({"a": 3})["b"], CursorKeyError),
        (lambda lib: lib.cursor(Node(1)).c, CursorAttributeError),
        (lambda lib: list(lib.cursor({"a": 3})), CursorIterationError),
        (lambda lib: lib.cursor(PARAMS).find(lambda path, value: False), CursorFindError),
    ],
    ids=["index", "key", "attribute", "iteration", "find"],
)
def test_errors(run, error):
    in_both(run)
    with pytest.raises(error):
        run(ours)


def test_several_found():
    with pytest.raises(CursorFindError, match=r"\['Dense_0'\]\['kernel'\] and \['Dense_1'\]\['kernel'\]"):
        ours.cursor(PARAMS).find(lambda path, value: "kernel" in path)


def test_pythons_errors():
    c = ours.cursor({"a": 1})
    with pytest.raises(TypeError, match="unhashable"):
        hash(c)
    with pytest.raises(AttributeError):
        del c["a"]


def test_better_than_flax():
    c = ours.cursor({"a": 1, "d": 3})
    c["a"] = c["d"]  # Flax builds a structure with a cursor in it
    assert c.build() == {"a": 3, "d": 3}
    assert bool(ours.cursor(1))  # Flax asks an integer for its length
    assert not ours.cursor(0)
    assert copy.deepcopy(c).build() == pickle.loads(pickle.dumps(c)).build() == c.build()  # noqa: S301 - Flax recurses
    assert (np.ones(2) + ours.cursor([np.ones(2)])[0]).tolist() == [2.0, 2.0]
