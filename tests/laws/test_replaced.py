"""A function of JAX that a library replaces is used by every layer from then on, and no more after it is put back.

Every fourth row of ``cases.py`` is tried; ``BATISTE_REPLACED=all`` tries every row.
"""

import collections
import functools
import os
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from batiste import nn
from batiste.core import is_replaced
from tests.laws.cases import CASES
from tests.laws.test_laws import call, variables_of
from tests.nn.oracle import assert_same

FUNCTIONS = {
    jax.lax: (
        "add", "conv_general_dilated", "conv_general_dilated_local", "conv_transpose", "div", "dot_general", "mul",
        "pmean", "reduce_window", "rsqrt", "select", "stop_gradient",
    ),
    jax.numpy: (
        "broadcast_to", "concatenate", "dot", "einsum", "exp", "matmul", "maximum", "mean", "pad", "reshape", "sqrt",
        "square", "subtract", "sum", "take", "tanh", "where",
    ),
    jax.nn: ("relu", "sigmoid", "softmax", "tanh"),
    jax.random: ("bernoulli", "bits", "normal", "uniform"),
}  # fmt: skip
ROWS = list(CASES) if os.environ.get("BATISTE_REPLACED") == "all" else list(CASES)[::4]


@pytest.fixture
def counted(monkeypatch):
    """Return a function that puts counters in the place of JAX's functions, and their counts."""
    counts: collections.Counter[Any] = collections.Counter()

    def counting(module: Any, name: str) -> None:
        real = getattr(module, name)

        @functools.wraps(real)
        def count(*args: Any, **kwargs: Any) -> Any:
            counts[module.__name__, name] += 1
            return real(*args, **kwargs)

        monkeypatch.setattr(module, name, count)

    def replace() -> None:
        for module, names in FUNCTIONS.items():
            for name in names:
                counting(module, name)

    return replace, counts


def run(name):
    case = CASES[name]
    return call(case, variables_of(name), case.args)[0]


def test_each_layer_calls_the_functions_that_are_there_now(counted, monkeypatch):
    replace, counts = counted
    before = {name: run(name) for name in ROWS}

    def calls():
        found = {}
        for name in ROWS:
            counts.clear()
            assert_same(run(name), before[name], exact=False)  # one program, or one for each operation
            found[name] = dict(counts)
        return found

    assert not any(calls().values())
    replace()
    assert is_replaced()
    seen = calls()  # of shapes that were compiled before
    jax.clear_caches()
    assert seen == calls()
    assert sum(map(bool, seen.values())) > len(ROWS) / 2
    monkeypatch.undo()
    assert not is_replaced()
    assert not any(calls().values())  # also of shapes that were first seen while they were replaced


@pytest.mark.parametrize("is_jitted", [False, True])
def test_no_program_from_before_is_used_and_none_is_kept(is_jitted, monkeypatch):
    x = jnp.ones((4, 3))
    variables = nn.Dense(2, kernel_init=nn.initializers.ones).init(jax.random.key(0), x)
    alive = []

    def apply(value):
        alive.append(jax.jit(nn.Dense(2).apply) if is_jitted else nn.Dense(2).apply)
        return float(alive[-1](variables, value)[0, 0])

    assert apply(x) == 3
    real = jax.lax.dot_general
    for factor in (2, 5):
        monkeypatch.setattr(jax.lax, "dot_general", lambda *a, factor=factor, **k: factor * real(*a, **k))
        assert [apply(x), apply(x[:2])] == [3 * factor] * 2
    monkeypatch.undo()
    assert [apply(x), apply(x[:2])] == [3, 3]


def test_a_function_that_a_model_names_counts(monkeypatch):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return jnp.square(x)

    alive = [jax.jit(Model().apply)]
    assert float(alive[-1]({}, jnp.float32(3))) == 9
    monkeypatch.setattr(jnp, "square", lambda x: x)
    alive.append(jax.jit(Model().apply))
    assert float(alive[-1]({}, jnp.float32(3))) == 3
