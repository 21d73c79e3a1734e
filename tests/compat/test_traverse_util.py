"""Flat dicts and traversals are Flax's."""

import dataclasses
import types
import warnings
from collections import ChainMap, OrderedDict
from typing import Any, NamedTuple

import flax.core
import flax.traverse_util as theirs
import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import batiste.compat.flax.core
import batiste.compat.flax.traverse_util as ours
from batiste.errors import (
    FlatKeyError,
    FlaxDeprecationWarning,
    NotADictError,
    TraversalError,
    TraversalValuesError,
)
from tests.compat.pairs import assert_same, text

NESTED = st.recursive(
    st.dictionaries(st.text("abc", min_size=1, max_size=2), st.integers() | st.none(), max_size=3),
    lambda inner: st.dictionaries(st.text("abc", min_size=1, max_size=2), inner | st.lists(inner), max_size=3),
    max_leaves=6,
)
EXAMPLE = {"a": {"b": 1, "c": {}}, "d": 2, "e": {}, "f": {"g": {}}, "h": [{"i": 3}], "j": None}


def in_both(run):
    assert_same(lambda: run(ours), lambda: run(theirs))


@given(NESTED, st.booleans(), st.sampled_from([None, "/", "."]))
def test_flatten(nested, keep, sep):
    in_both(lambda lib: lib.flatten_dict(nested, keep, sep=sep))
    in_both(lambda lib: lib.flatten_dict(nested, keep, lambda path, value: len(path) > 1, sep))
    in_both(lambda lib: lib.path_aware_map(lambda path, value: (path, value), nested))
    flat = ours.flatten_dict(nested, keep_empty_nodes=True, sep=sep)
    assert ours.unflatten_dict(flat, sep=sep) == nested
    if not keep:
        in_both(lambda lib: lib.unflatten_dict(lib.flatten_dict(nested, sep=sep), sep=sep))


def test_flatten_examples():
    for run in (
        lambda lib: lib.flatten_dict(EXAMPLE, is_leaf=lambda path, value: path == ()),
        lambda lib: lib.flatten_dict({}, keep_empty_nodes=True, sep="/"),
        lambda lib: lib.flatten_dict({1: {2: 3}}),
        lambda lib: lib.flatten_dict({"a": OrderedDict(b=1), "m": types.MappingProxyType({"b": 1}), "c": ChainMap()}),
        lambda lib: lib.unflatten_dict({("a", "b"): 1, ("a", "c"): 2}),
        lambda lib: lib.unflatten_dict({"a/b": 1, "c": 2}, sep="/"),
        lambda lib: lib.unflatten_dict({"ab": 1}),
        lambda lib: lib.unflatten_dict({"": lib.empty_node, "x": lib.empty_node}, sep="/"),
        lambda lib: lib.unflatten_dict({}),
        lambda lib: (lib.empty_node, jax.tree.structure(lib.empty_node), type(lib.empty_node)() == lib.empty_node),
        lambda lib: lib.path_aware_map(lambda path, value: type(value).__name__, EXAMPLE),
    ):
        in_both(run)
    frozen = batiste.compat.flax.core.freeze(EXAMPLE), flax.core.freeze(EXAMPLE)
    assert text(ours.flatten_dict(frozen[0])) == text(theirs.flatten_dict(frozen[1]))
    assert ours.path_aware_map(lambda path, value: value, frozen[0]) == EXAMPLE


def test_the_predicate_sees_the_same():
    seen = {}
    for lib in (ours, theirs):
        calls = seen.setdefault(lib, [])
        lib.flatten_dict(EXAMPLE, sep="/", is_leaf=lambda *call, calls=calls: calls.append(call))
    assert seen[ours] == seen[theirs]


def test_errors_of_flat_dicts():
    for run in (
        lambda lib: lib.flatten_dict(3),
        lambda lib: lib.flatten_dict([1]),
        lambda lib: lib.path_aware_map(lambda path, value: 1, 3),
        lambda lib: lib.unflatten_dict(3),
    ):
        in_both(run)
        with pytest.raises(NotADictError):
            run(ours)
    for run in (
        lambda lib: lib.flatten_dict({1: {2: 3}}, sep="/"),
        lambda lib: lib.unflatten_dict({("a",): 1, ("a", "b"): 2}),
        lambda lib: lib.unflatten_dict({(): 3}),
        lambda lib: lib.unflatten_dict({1: 1}),
        lambda lib: lib.unflatten_dict({(1, 2): 1}, sep="/"),
    ):
        in_both(run)
        with pytest.raises(FlatKeyError):
            run(ours)


class Pair(NamedTuple):
    a: Any
    b: Any


@dataclasses.dataclass
class Point:
    a: Any
    b: Any


DATA = [{"a": 1, "b": [2, 3]}, {"a": 4, "b": [5]}]
TRAVERSALS = {
    "identity": (lambda t: t, 5),
    "each": (lambda t: t.each()["b"][0], DATA),
    "tree": (lambda t: t.tree(), DATA),
    "filter": (lambda t: t.tree().filter(lambda leaf: leaf > 2), DATA),
    "merge": (lambda t: t.merge(t[0]["a"], t[1]["b"][0]), DATA),
    "compose": (lambda t: t.each().compose(t["a"]), DATA),
    "named tuple": (lambda t: t.a, Pair(1, 2)),
    "named tuple by index": (lambda t: t[1], Pair(1, 2)),
    "dataclass": (lambda t: t.b, Point(1, 2)),
    "tuple": (lambda t: t.each(), (1, 2)),
    "tuple by index": (lambda t: t[0], (1, 2)),
    "dict": (lambda t: t.each(), {"a": 1, "b": 2}),
    "array": (lambda t: t[1], np.arange(3)),
    "last of a list": (lambda t: t[-1], [1, 2, 3]),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", TRAVERSALS)
def test_traversals(name):
    make, data = TRAVERSALS[name]
    in_both(lambda lib: list(make(lib.t_identity).iterate(data)))
    in_both(lambda lib: make(lib.t_identity).update(lambda value: value * 10, data))
    count = len(list(make(ours.t_identity).iterate(data)))
    in_both(lambda lib: make(lib.t_identity).set(list(range(count)), data))
    in_both(lambda lib: make(lib.t_identity).set(list(range(count + 1)), data))
    in_both(lambda lib: make(lib.t_identity).set(list(range(count - 1)), data))
    assert type(make(ours.t_identity)).__name__ == type(make(theirs.t_identity)).__name__


def test_a_traversal_leaves_its_input():
    class Plain:
        a = 1

    plain = Plain()
    assert ours.t_identity.a.update(lambda value: value + 1, plain).a == 2
    assert plain.a == 1
    ours.t_identity.each()["b"][0].update(lambda value: 0, DATA)
    assert DATA[0]["b"] == [2, 3]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_model_parameters():
    params = {"Dense": {"kernel": 1, "bias": 2, "e": {}}, "x": {"y": {"kernel": 3}}}
    seen = {}
    for lib, core in ((ours, batiste.compat.flax.core), (theirs, flax.core)):
        calls = seen.setdefault(lib, [])
        kernels = lib.ModelParamTraversal(
            lambda name, value, calls=calls: calls.append((name, value)) or "kernel" in name
        )
        assert list(kernels.iterate(params)) == [1, 3]
        assert kernels.update(lambda value: value * 10, params)["x"] == {"y": {"kernel": 30}}
        assert type(kernels.update(lambda value: value, core.freeze(params))) is core.FrozenDict
        calls.append(text(kernels.update(lambda value: value, core.freeze(params))))
    assert seen[ours] == seen[theirs]
    with pytest.raises(TraversalError):
        ours.ModelParamTraversal(bool).update(str, [1])


def test_errors_of_traversals():
    with pytest.raises(TraversalValuesError, match="1 values for 2 places"):
        ours.t_identity.each().set([1], [1, 2])
    for run in (
        lambda: ours.t_identity.each().update(str, Pair(1, 2)),
        lambda: ours.t_identity.each().update(str, np.arange(3)),
        lambda: ours.t_identity.each().update(str, 3),
        lambda: ours.t_identity["a"].update(str, batiste.compat.flax.core.freeze({"a": 1})),
        lambda: ours.t_identity[0].update(lambda x: x, jax.numpy.ones(2)),
    ):
        with pytest.raises(TraversalError):
            run()
    with warnings.catch_warnings(action="ignore"), pytest.raises(TypeError, match="abstract"):
        ours.Traversal()
    assert not hasattr(ours.t_identity, "__array__")


def test_traversals_are_deprecated():
    with pytest.warns(FlaxDeprecationWarning, match=r"optax\.masked"):
        ours.TraverseTree()
    with warnings.catch_warnings(action="error"):
        ours.t_identity.each()["a"].tree()  # said once, where it begins
