# ruff: noqa: PLW0108 - models are written as their users write them, with lambdas
"""What is asked of JAX's traces: which trace is current, what depends on what, and what a program can do without."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from batiste.core._trace import call_jaxpr, current_trace, depends_on, has_tracer, is_eager, is_tracer, without_unused


def test_traces_are_told_apart():
    here = current_trace()
    assert here == current_trace()
    assert is_eager(here)
    seen = []

    def run(x):
        seen.append((current_trace(), is_eager(current_trace()), is_tracer(x), has_tracer({"a": [x]})))
        return x

    for transform in (jax.jit, jax.grad, lambda f: lambda x: jax.vmap(f)(x[None])):
        transform(run)(jnp.float32(1))
    for trace, eager, tracer, held in seen:
        assert trace != here
        assert not eager
        assert tracer
        assert held
    assert not is_tracer(jnp.ones(2))
    assert not has_tracer({"a": 1, "b": jnp.ones(2)})


def swap(carry, _):
    return (carry[1], carry[0], carry[2]), carry[2]


DEPENDENCE = {
    "sum": (lambda x, y: (x + y, x * 2, y), [True, True, False]),
    "constant": (lambda x, y: (jnp.ones(2), x), [False, True]),
    "shape": (lambda x, y: (y * x.shape[0],), [False]),
    "jit": (lambda x, y: jax.jit(lambda a, b: (a + 1, b + 1))(x, y), [True, False]),
    "nested jit": (lambda x, y: jax.jit(lambda a, b: jax.jit(lambda c, d: (d, c))(a, b))(x, y), [False, True]),
    "checkpoint": (lambda x, y: jax.checkpoint(lambda a, b: (jnp.sin(a), b))(x, y), [True, False]),
    "relu": (lambda x, y: (jax.nn.relu(x), jax.nn.relu(y)), [True, False]),
    "scan": (
        lambda x, y: jax.lax.scan(swap, (x[0], y[0], y[1]), None, 3)[0],
        [True, True, False],
    ),
    "scan's results": (lambda x, y: jax.lax.scan(swap, (x[0], y[0], y[1]), None, 3)[1], [False]),
    "scan's inputs": (lambda x, y: jax.lax.scan(lambda c, r: (c * 2, r), y[0], x), [False, True]),
    "while": (
        lambda x, y: jax.lax.while_loop(lambda c: c[0] < 1, lambda c: (c[0] + 1, c[1] * 2), (x[0], y[0])),
        [True, True],
    ),
    "cond": (lambda x, y: jax.lax.cond(x[0] > 0, lambda: y, lambda: y + 1), [True]),
    "unused": (lambda x, y: (y, x - x), [False, True]),
    "dead": (lambda x, y: ((x * 2)[0] * 0 + y[0], y), [True, False]),
}


@pytest.mark.parametrize("name", DEPENDENCE)
def test_depends_on(name):
    function, expected = DEPENDENCE[name]
    closed_jaxpr = jax.make_jaxpr(function)(jnp.ones(2), jnp.ones(2))
    assert depends_on(closed_jaxpr.jaxpr, [True, False]) == expected
    assert depends_on(closed_jaxpr.jaxpr, [False, False]) == [False] * len(expected)


def test_without_unused():
    ran = []

    def function(x, y):
        jax.debug.callback(lambda value: ran.append("debug"), x)
        jax.experimental.io_callback(lambda value: ran.append("io"), None, x)
        kept = jax.pure_callback(lambda value: (ran.append("kept"), value)[1], x, x)
        jnp.sin(x @ y)
        return jnp.sin(kept), 3.0, x

    closed_jaxpr = jax.make_jaxpr(function)(jnp.ones((2, 2)), jnp.ones((2, 2)))
    slim = without_unused(closed_jaxpr)
    assert {equation.primitive.name for equation in slim.jaxpr.eqns} == {"pure_callback", "sin"}
    assert not slim.jaxpr.effects
    x = jnp.arange(4.0).reshape(2, 2)
    for run in (call_jaxpr, jax.jit(call_jaxpr, static_argnums=0)):
        ran.clear()
        sine, three, same = run(slim, x, x)
        jax.effects_barrier()
        np.testing.assert_allclose(sine, jnp.sin(x), rtol=1e-6)
        assert three == 3
        np.testing.assert_array_equal(same, x)
        assert set(ran) == {"kept"}
