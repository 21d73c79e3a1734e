"""Identity by value: equal programs are equal, and what can compute otherwise differs."""

import dataclasses
import enum
import functools
import math
import types
from typing import Any, NamedTuple

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given

from batiste.core import fingerprint

FACTOR = 2.0


class Point(NamedTuple):
    x: Any
    y: Any


@dataclasses.dataclass(frozen=True)
class Config:
    rate: Any = 0.1
    note: str = dataclasses.field(default="", compare=False)

    def method(self, x):
        return x * self.rate


class Colour(enum.Enum):
    RED = 1


class Plain:
    def method(self, x):
        return x


class Counted:
    """An object that says what it counts by."""

    def __init__(self, value, cache):
        self.value, self.cache = value, cache

    def __fingerprint__(self):
        return self.value


def scaled(by):
    return lambda x: x * by


def defaults(x, by=2.0, *, more=None):
    return x * by


def reads_global(x):
    return x * FACTOR


def recursive(n):
    return n if n == 0 else recursive(n - 1)


def even(n):
    return n == 0 or odd(n - 1)


def odd(n):
    return n != 0 and even(n - 1)


@functools.cache
def cached(x):
    return x


def defined(source, name="f", **names):
    """Return a function from source text, as a notebook's cell defines it."""
    space = {"__name__": "__main__", **names}
    exec(compile(source, "<cell>", "exec"), space)  # noqa: S102 - the cell is a test's own
    return space[name]


def same(one, other):
    return fingerprint(one) == fingerprint(other) and hash(fingerprint(one)) == hash(fingerprint(other))


EQUAL = {
    "int": lambda: 3,
    "text": lambda: "abc",
    "nan": lambda: math.nan,
    "slice": lambda: slice(1, None, 2),
    "list": lambda: [1, [2, "a"], None],
    "dict": lambda: {"a": 1, "b": {"c": (2,)}},
    "set": lambda: {"a", "b", "c", "d", "e", 1, 2, 3},
    "set of tuples": lambda: {("a", (1, 2)), ("b", (1, 2)), ("c", ())},
    "named tuple": lambda: Point(1, [2]),
    "dataclass": lambda: Config([1]),
    "enum": lambda: Colour.RED,
    "type": lambda: Plain,
    "dtype": lambda: np.dtype("float32"),
    "scalar type": lambda: jnp.bfloat16,
    "numpy": lambda: np.arange(6).reshape(2, 3),
    "jax": lambda: jnp.arange(3.0),
    "closure": lambda: scaled(3.0),
    "closure on a closure": lambda: scaled(scaled([1, 2])),
    "lambda": lambda: lambda x: x + 1,
    "partial": lambda: functools.partial(defaults, by=[1, 2]),
    "builtin": lambda: math.sin,
    "cached": lambda: cached,
    "bound method": lambda: Config([2]).method,
    "cycle": lambda: even,
    "recursion": lambda: recursive,
    "own fingerprint": lambda: Counted((1, 2), object()),
    "initialiser": lambda: jax.nn.initializers.normal(0.02),
    "orthogonal": lambda: jax.nn.initializers.orthogonal(2.0),
    "jitted": lambda: jax.jit(scaled(2.0)),
    "shape": lambda: jax.ShapeDtypeStruct((2, 3), jnp.float32),
    "sgd": lambda: optax.sgd(0.1, momentum=0.9),
    "adam": lambda: optax.adam(1e-3),
    "adamw": lambda: optax.adamw(1e-3, weight_decay=0.1, mask={"a": True}),
    "chain": lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(0.1, 100))),
    "schedule": lambda: optax.warmup_cosine_decay_schedule(0.0, 0.1, 10, 100),
    "joined schedules": lambda: optax.join_schedules(
        [optax.linear_schedule(0.0, 1.0, 5), optax.constant_schedule(1.0)], [5]
    ),
    "injected": lambda: optax.inject_hyperparams(optax.adam)(1e-3),
    "several steps": lambda: optax.MultiSteps(optax.adam(1e-3), 4).gradient_transformation(),
    "parts": lambda: optax.partition({"a": optax.adam(1e-3), "b": optax.set_to_zero()}, {"x": "a", "y": "b"}),
}


@pytest.mark.parametrize("name", EQUAL)
def test_made_twice_is_equal(name):
    assert same(EQUAL[name](), EQUAL[name]())


def test_different_things_differ():
    found = {}
    for name, make in EQUAL.items():
        found.setdefault(fingerprint(make()), []).append(name)
    assert [names for names in found.values() if len(names) > 1] == []


DIFFERENT = {
    "1 and 1.0": (1, 1.0),
    "1 and True": (1, True),
    "1.0 and True": (1.0, True),
    "0.0 and -0.0": (0.0, -0.0),
    "text and bytes": ("a", b"a"),
    "tuple and list": ((1,), [1]),
    "nested": ((1, (2,)), (1, 2)),
    "nesting": (((1,), 2), (1, (2,))),
    "None and absent": ((None,), ()),
    "order of a dict": ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    "key and value": ({"a": "b"}, {"b": "a"}),
    "named tuple and tuple": (Point(1, 2), (1, 2)),
    "fields": (Config(0.1), Config(0.2)),
    "dtype": (np.zeros(2, np.float32), np.zeros(2, np.int32)),
    "shape": (np.zeros((2, 1)), np.zeros((1, 2))),
    "numpy and jax": (np.zeros(2, np.float32), jnp.zeros(2)),
    "weak type": (jnp.asarray(1.0), jnp.float32(1.0)),
    "closure": (scaled(2.0), scaled(3.0)),
    "closure's type": (scaled(2), scaled(2.0)),
    "code": (defined("f = lambda x: x + 1"), defined("f = lambda x: x + 2")),
    "constant's type": (defined("f = lambda x: x + 1"), defined("f = lambda x: x + 1.0")),
    "defaults": (defined("def f(x, by=1): return x"), defined("def f(x, by=2): return x")),
    "keyword defaults": (defined("def f(x, *, by=1): return x"), defined("def f(x, *, by=2): return x")),
    "partial's keywords": (functools.partial(defaults, by=1), functools.partial(defaults, by=2)),
    "partial's arguments": (functools.partial(defaults, 1), functools.partial(defaults, 2)),
    "initialisers": (jax.nn.initializers.normal(0.02), jax.nn.initializers.normal(0.01)),
    "variance scaling": (jax.nn.initializers.lecun_normal(), jax.nn.initializers.he_normal()),
    "dtype of an initialiser": (
        jax.nn.initializers.normal(0.02, jnp.float32),
        jax.nn.initializers.normal(0.02, jnp.bfloat16),
    ),
    "learning rates": (optax.adam(1e-3), optax.adam(1e-4)),
    "optimisers": (optax.adam(1e-3), optax.adamw(1e-3)),
    "options": (optax.adam(1e-3, b1=0.9), optax.adam(1e-3, b1=0.8)),
    "schedules": (optax.linear_schedule(0.0, 1.0, 5), optax.linear_schedule(0.0, 1.0, 6)),
    "a rate and a schedule": (optax.sgd(0.1), optax.sgd(optax.constant_schedule(0.1))),
    "chains": (
        optax.chain(optax.clip(1.0), optax.sgd(0.1)),
        optax.chain(optax.sgd(0.1), optax.clip(1.0)),
    ),
    "jitted and not": (jax.jit(defaults), defaults),
    "own fingerprint": (Counted(1, None), Counted(2, None)),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_what_differs_is_different(name):
    one, other = DIFFERENT[name]
    assert not same(one, other)
    assert same(one, one)
    assert same(other, other)


plain = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-3, 3), st.floats(), st.text(max_size=2), st.binary(max_size=2)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.text(max_size=2), inner, max_size=3),
    ),
    max_leaves=8,
)


def spelled(value: Any) -> str:
    """Return text that is equal for two plain values exactly when they are the same, types and order included."""
    return repr(value)


@given(plain, plain)
def test_plain_values_are_equal_as_their_text_is(one, other):
    assert same(one, other) == (spelled(one) == spelled(other))


@given(plain)
def test_closures_are_as_equal_as_what_they_hold(value):
    again = eval(repr(value), {"nan": math.nan, "inf": math.inf})  # noqa: S307 - text of a plain value
    assert same(scaled(value), scaled(again))
    assert same(functools.partial(defaults, value), functools.partial(defaults, again))


def test_a_global_that_changes(monkeypatch):
    before = fingerprint(reads_global)
    assert before == fingerprint(reads_global)
    monkeypatch.setitem(globals(), "FACTOR", 3.0)
    assert before != fingerprint(reads_global)


def test_a_function_that_a_notebook_defines_again():
    space: dict[str, Any] = {"__name__": "__main__"}

    def cell(source):
        exec(compile(source, "<cell>", "exec"), space)  # noqa: S102 - the cell is a test's own

    cell("def helper(x): return x + 1")
    cell("def f(x): return helper(x)")
    before = fingerprint(space["f"])
    cell("def helper(x): return x + 1")
    cell("def f(x): return helper(x)")
    assert fingerprint(space["f"]) == before
    cell("def helper(x): return x + 2")
    assert fingerprint(space["f"]) != before


def test_functions_of_two_namespaces_differ():
    one, other = (defined("def f(x): return g(x)", g=g) for g in (math.sin, math.cos))
    assert not same(one, other)


def test_a_mutable_object_counts_by_identity():
    one, other = Plain(), Plain()
    assert same(one, one)
    assert not same(one, other)
    assert same(one.method, one.method)
    assert not same(one.method, other.method)
    assert not same(scaled(one), scaled(other))


def test_an_object_that_is_gone_is_not_mistaken_for_another():
    held = [fingerprint(Plain()) for _ in range(100)]
    assert len(set(held)) == 100


def test_a_list_counts_by_what_it_holds_now():
    held = [1]
    before = fingerprint(held)
    held.append(2)
    assert fingerprint(held) != before
    held.pop()
    assert fingerprint(held) == before


@pytest.mark.parametrize(
    ("value", "is_by_value"),
    [
        (3, True),
        (scaled(2.0), True),
        (optax.adam(1e-3), True),
        (jax.nn.initializers.normal(), True),
        (jax.jit(defaults), True),
        (np.zeros(3), True),
        (Config(), True),
        (Plain, True),
        (math.sin, True),
        (Plain(), False),
        (Plain().method, False),
        (np.zeros(1 << 14), False),
        (np.array([object()]), False),
        (jax.random.key(0), False),
        (np.random.default_rng(0), False),
        (np.random.default_rng(0).normal, False),
        ([].append, False),
        (scaled(Plain()), False),
        (functools.partial(defaults, Plain()), False),
        (defined("def f(k): return np.random.normal()", np=np), False),
        (defined("def f(k): return [np.random.normal() for _ in range(2)]", np=np), False),
        (defined("def f(k): return random.normal()", random=np.random), False),
        (defined("def f(k): return normal()", normal=np.random.normal), False),
        (defined("def f(k): return np.sqrt(jax.random.normal(k))", np=np, jax=jax), True),
        (defined("def f(k): return user.value", user=types.ModuleType("user")), False),
    ],
    ids=range(25),
)
def test_what_may_change_is_not_by_value(value, is_by_value):
    assert fingerprint(value).is_by_value == is_by_value


def test_a_tracer_is_seen():
    found = []

    @jax.jit
    def run(x):
        found.extend((fingerprint(scaled(x)), fingerprint(scaled(x)), fingerprint(scaled(x + 1))))
        return x

    run(jnp.ones(()))
    assert [one.has_tracer for one in found] == [True] * 3
    assert [one.is_by_value for one in found] == [False] * 3
    assert found[0] != found[1] != found[2]  # a function that reaches it is equal to itself alone
    assert not fingerprint(scaled(2)).has_tracer
    held = {1: found}
    assert not fingerprint(len(held)).has_tracer


def test_cycles():
    one: list[Any] = [1]
    one.append(one)
    other: list[Any] = [1]
    other.append(other)
    assert same(one, other)
    other[0] = 2
    assert not same(one, other)
    assert not same(even, odd)

    def loop(by):
        def inner(x):
            return inner(x) * by

        return inner

    assert same(loop(2), loop(2))
    assert not same(loop(2), loop(3))


def test_what_is_held_in_many_places_is_walked_once():
    source = "def f0(x): return x\ndef f1(x): return x\n"
    source += "".join(f"def f{n}(x): return f{n - 1}(x) + f{n - 2}(x)\n" for n in range(2, 60))
    assert same(defined(source, "f59"), defined(source, "f59"))
    assert not same(defined(source, "f59"), defined(source.replace("return x", "return 2 * x"), "f59"))
    nested: Any = ()
    for _ in range(60):
        nested = (nested, nested)
    again: Any = ()
    for _ in range(60):
        again = (again, again)
    assert same(nested, again)
    assert not same(nested, (nested, nested))


def test_a_fingerprint_says_nothing_of_where_an_object_came_from():
    kept = scaled(2.0)
    assert same([kept, kept], [scaled(2.0), scaled(2.0)])


def test_a_fingerprint_is_equal_to_fingerprints_alone():
    assert fingerprint(3) != 3
    assert len({fingerprint(3), fingerprint(3), fingerprint(4)}) == 2
