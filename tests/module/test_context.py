# ruff: noqa: PLW0108 - models are written as their users write them, with lambdas
"""What is dynamic: threads, errors, generators, and JAX's transforms around and within calls."""

import concurrent.futures
import contextvars
import threading
from typing import Any

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from batiste import nn
from batiste.errors import (
    CallCompactUnboundModuleError,
    InvalidScopeError,
    JaxTransformError,
    NameInUseError,
)
from batiste.module import Module, compact, intercept_methods
from tests.module.libraries import BATISTE, assert_equal, plain, same

X = jnp.arange(6.0).reshape(2, 3)
KEY = jax.random.key(0)
Dense = BATISTE.Dense


class Wait(Module):
    """Makes a submodule, waits for the other thread in the midst of it, and makes another."""

    barrier: threading.Barrier
    width: int

    @compact
    def __call__(self, x):
        x = Dense(self.width)(x)
        self.barrier.wait(30)
        x = Dense(self.width)(x)
        self.barrier.wait(30)
        return Dense(self.width, name="last")(x)


def test_threads_do_not_see_each_other():
    barrier = threading.Barrier(2)
    models = [Wait(barrier, width) for width in (2, 4)]

    def init(model):
        return model.init(KEY, X)

    def apply(model, variables):
        with intercept_methods(lambda method, args, kwargs, context: method(*args, **kwargs) * model.width):
            return model.apply(variables, X, capture_intermediates=True, mutable=["intermediates"])

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        made = list(pool.map(init, models))
        results = list(pool.map(apply, models, made))
    for model, variables, (output, state) in zip(models, made, results, strict=True):
        assert list(variables["params"]) == ["Dense_0", "Dense_1", "last"]
        assert variables["params"]["Dense_1"]["kernel"].shape == (model.width, model.width)
        assert output.shape == (2, model.width)
        assert set(state["intermediates"]) == {"Dense_0", "Dense_1", "last", "__call__"}
    single = Wait(threading.Barrier(1), 2).init(KEY, X)
    assert_equal(plain(made[0]), plain(single))


def test_a_thread_started_within_a_call_has_no_current_module():
    class Model(Module):
        @compact
        def __call__(self, x):
            found = []
            thread = threading.Thread(target=lambda: found.append(Dense(3).parent))
            thread.start()
            thread.join()
            copied = contextvars.copy_context().run(lambda: Dense(3).parent)
            return found, copied

    found, copied = Model().apply({}, X)
    assert found == [None]
    assert isinstance(copied, Model)


@pytest.mark.parametrize("where", ["setup", "call", "submodule", "property", "interceptor", "thunk"])
def test_an_error_leaves_nothing_behind(where):
    class Inner(Module):
        def __call__(self, x):
            if where == "submodule":
                raise KeyError("stop")
            return x

    class Model(Module):
        def setup(self):
            self.inner = Inner()
            if where == "setup":
                raise KeyError("stop")

        @property
        def value(self):
            if where == "property":
                raise KeyError("stop")
            return 1

        @compact
        def __call__(self, x):
            Dense(3)(x)
            self.inner(x)
            if where == "thunk":
                self.param("w", self.fails)
            if where == "call":
                raise KeyError("stop")
            return x * self.value

        def fails(self, key):
            raise KeyError("stop")

    def interceptor(method, args, kwargs, context):
        if where == "interceptor" and isinstance(context.module, Dense):
            raise KeyError("stop")
        return method(*args, **kwargs)

    def run():
        with intercept_methods(interceptor):
            Model().init(KEY, X)

    with pytest.raises(KeyError, match="stop"):
        run()
    assert Dense(3).parent is None  # no module is being run
    with pytest.raises(CallCompactUnboundModuleError):
        Dense(3)(X)
    assert list(Dense(3).init(KEY, X)["params"]) == ["kernel", "bias"]


def test_an_error_within_a_bound_module_leaves_it_usable():
    class Model(Module):
        @compact
        def __call__(self, x, fail=False):
            y = Dense(3)(x)
            if fail:
                raise KeyError("stop")
            return Dense(2)(y)

    variables = Model().init(KEY, X)
    bound = Model().bind(variables)
    with pytest.raises(KeyError):
        bound(X, fail=True)
    np.testing.assert_array_equal(bound(X), Model().apply(variables, X))


def generators(nn):
    class Model(nn.Module):
        def setup(self):
            self.layers = [nn.Dense(3) for _ in range(3)]

        def steps(self, x):
            for layer in self.layers:
                x = layer(x)
                yield x

        def __call__(self, x):
            return list(self.steps(x)), nn.Dense(3, parent=None).name

    variables = Model().init(KEY, X)
    bound = Model().bind(variables)
    return variables, Model().apply(variables, X), list(bound.steps(X))


def recursion(nn):
    class Tree(nn.Module):
        depth: int

        @nn.compact
        def __call__(self, x):
            if self.depth == 0:
                return nn.Dense(3)(x)
            return Tree(self.depth - 1)(x) + Tree(self.depth - 1, name="right")(x)

    model = Tree(2)
    variables = model.init(KEY, X)
    return variables, model.apply(variables, X)


def applies_within_applies(nn):
    class Inner(nn.Module):
        @nn.compact
        def __call__(self, x):
            self.sow("intermediates", "inner", x)
            return nn.Dense(3)(x)

    inner = Inner()
    inner_variables = inner.init(KEY, X)

    class Outer(nn.Module):
        @nn.compact
        def __call__(self, x):
            first = nn.Dense(3)(x)
            y, state = inner.apply(inner_variables, first, mutable=["intermediates"], capture_intermediates=True)
            z = inner.apply(inner_variables, y)
            bound = inner.bind(inner_variables)
            return nn.Dense(3)(z + bound(x)), state, self.is_initializing(), nn.Dense(3).name is None

    variables = Outer().init(KEY, X)
    return variables, Outer().apply(variables, X, capture_intermediates=True, mutable=["intermediates"])


def transforms_of_apply(nn):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            mean = self.variable("stats", "mean", jnp.zeros, (1, 3))
            if not self.is_initializing():
                mean.value = mean.value + x.mean(0, keepdims=True)
            return nn.Dense(3)(jnp.tanh(nn.Dense(3)(x))) - mean.value

    model = Model()
    variables = model.init(KEY, X)

    def loss(params, x):
        y, state = model.apply({**variables, "params": params}, x, mutable=["stats"])
        return (y**2).sum(), state

    grads = jax.jit(jax.grad(loss, has_aux=True))(variables["params"], X)
    again = jax.grad(jax.checkpoint(lambda p: loss(p, X)[0]))(variables["params"])
    rows = jax.vmap(lambda row: loss(variables["params"], row[None]))(X)
    scanned, _ = jax.lax.scan(
        lambda state, x: ((loss(variables["params"], x[None])[1], None)), {"stats": variables["stats"]}, X
    )
    return grads, again, rows, scanned


PROGRAMS = (generators, recursion, applies_within_applies, transforms_of_apply)


@pytest.mark.parametrize("program", PROGRAMS)
def test_linen_runs_so(program):
    same(program)


class WithinTransform(Module):
    """Calls a submodule within one of JAX's own transforms."""

    transform: str
    count: bool = False

    @compact
    def __call__(self, x):
        layer = Dense(3)
        if self.count:
            self.variable("stats", "mean", lambda: x.mean())
        if self.transform == "jit":
            return jax.jit(lambda x: layer(x))(x)
        if self.transform == "grad":
            return jax.grad(lambda x: layer(x).sum())(x)
        if self.transform == "vmap":
            return jax.vmap(lambda row: layer(row[None])[0])(x)
        return layer(x)


@pytest.mark.parametrize("transform", ["jit", "grad", "vmap"])
def test_init_makes_parameters_within_a_plain_transform(transform):
    expected = plain(WithinTransform("none", count=True).init(KEY, X))
    model = WithinTransform(transform, count=True)
    assert_equal(plain(model.init(KEY, X)), expected)
    assert_equal(plain(jax.jit(model.init)(KEY, X)), expected)
    output, variables = model.init_with_output(KEY, X)
    assert_equal(plain(variables), expected)
    np.testing.assert_array_equal(output, model.apply(variables, X))


@pytest.mark.parametrize("transform", ["grad", "vmap"])
def test_apply_makes_parameters_within_a_plain_transform(transform):
    def made(transform):
        return WithinTransform(transform).apply({}, X, mutable=["params"], rngs=KEY)[1]

    assert_equal(plain(made(transform)), plain(made("none")))


def test_apply_makes_no_parameters_within_jit():
    with pytest.raises(JaxTransformError, match="/Dense_0 makes the variable 'kernel'"):
        WithinTransform("jit").apply({}, X, mutable=["params"], rngs=KEY)


def test_a_value_that_depends_on_a_transform_is_refused():
    class Model(Module):
        @compact
        def __call__(self, x):
            return jax.vmap(lambda row: row * self.variable("stats", "mean", lambda: row.mean()).value)(x)

    with pytest.raises(JaxTransformError, match="/ makes the variable 'mean'"):
        Model().init(KEY, X)


def scaled(linen, depends):
    """A layer whose initialiser closes over an array, which may depend on its input, called beneath `jax.grad`."""

    class Layer(linen.Module):
        @linen.compact
        def __call__(self, x):
            scale = jnp.sqrt(x.sum() ** 2) if depends else jnp.sqrt(jnp.asarray(4.0))
            return (self.param("w", lambda key: scale * jax.random.uniform(key, (4,))) * x).sum()

    class Force(linen.Module):
        transform: Any = jax.grad

        def setup(self):
            self.layer = Layer()

        def __call__(self, x):
            return self.transform(lambda x: self.layer(x))(x)

    return Force


def stacked_vmap(function):
    return lambda x: jax.vmap(function)(jnp.stack([x, x]))


@pytest.mark.parametrize("transform", [jax.grad, jax.hessian, stacked_vmap])
def test_init_keeps_what_does_not_depend_on_the_transform_around_it(transform):
    x = jnp.arange(4.0)
    expected, variables = scaled(flax.linen, False)(transform).init_with_output(KEY, x)
    model = scaled(nn, False)(transform)
    assert_equal(plain(model.init(KEY, x)), plain(variables))
    assert_equal(plain(jax.jit(model.init)(KEY, x)), plain(variables))
    for output, made in (model.init_with_output(KEY, x), jax.jit(model.init_with_output)(KEY, x)):
        assert_equal(plain(made), plain(variables))
        np.testing.assert_allclose(output, expected, rtol=1e-6)


@pytest.mark.parametrize(("transform", "depends"), [(jax.grad, True), (jax.jit, False), (stacked_vmap, True)])
def test_init_refuses_what_would_leak_as_linen_hands_out_tracers(transform, depends):
    x = jnp.arange(4.0)
    leaked = scaled(flax.linen, depends)(transform).init(KEY, x)
    assert any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(leaked))
    model = scaled(nn, depends)(transform)
    for make in (model.init, model.init_with_output, jax.jit(model.init)):
        with pytest.raises(JaxTransformError, match="/layer makes the variable 'w'"):
            make(KEY, x)


def test_reading_parameters_within_a_plain_transform_is_allowed():
    class Model(Module):
        def setup(self):
            self.layer = Dense(3)
            self.scale = self.param("scale", jax.nn.initializers.ones, ())

        def __call__(self, x):
            y = self.layer(x)
            return jax.vmap(jax.jit(lambda row: row * self.scale))(y)

    variables = Model().init(KEY, X)
    assert Model().apply(variables, X).shape == (2, 3)


def test_a_module_that_leaks_out_of_its_call():
    kept = []

    class Model(Module):
        @compact
        def __call__(self, x):
            layer = Dense(3)
            kept.append(layer)
            return layer(x)

    @jax.jit
    def run(variables, x):
        return Model().apply(variables, x)

    variables = Model().init(KEY, X)
    run(variables, X)
    for layer in kept:
        with pytest.raises(InvalidScopeError, match="/Dense_0 is used after the init, apply or transform"):
            layer(X)


def test_a_module_made_within_a_jitted_function_is_fine():
    @jax.jit
    def run(x):
        model = Dense(3)
        return model.apply(model.init(KEY, x), x)

    np.testing.assert_allclose(run(X), Dense(3).apply(Dense(3).init(KEY, X), X), rtol=1e-6)


def test_a_closure_over_a_bound_module_under_jit():
    class Model(Module):
        @compact
        def __call__(self, x):
            return Dense(3)(x)

    variables = Model().init(KEY, X)
    bound = Model().bind(variables)
    np.testing.assert_allclose(jax.jit(lambda x: bound(x))(X), bound(X), rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(lambda row: bound(row[None])[0])(X), bound(X), rtol=1e-6)


def test_names_are_taken_once():
    class Model(Module):
        how: str

        def setup(self):
            self.made = Dense(3) if self.how == "setup" else None

        @compact
        def __call__(self, x):
            if self.how == "setup":
                return Dense(3, name="made")(x)
            if self.how == "twice":
                return Dense(3, name="a")(Dense(3, name="a")(x))
            self.param("a", jax.nn.initializers.ones, ())
            if self.how == "parameter":
                self.param("a", jax.nn.initializers.ones, ())
            return Dense(3, name="a")(x)

    for how, holder in {"setup": "a submodule Dense", "twice": "a submodule Dense", "child": "a variable of 'params'",
                        "parameter": "a variable of 'params'"}.items():  # fmt: skip
        with pytest.raises(NameInUseError, match=f"in Model at /: that name is taken by {holder}"):
            Model(how).init(KEY, X)


def test_a_program_that_was_compiled_without_interceptors_is_not_run_with_them():
    model = Dense(2)
    variables = model.init(jax.random.key(0), jnp.ones((1, 3)))
    apply = jax.jit(model.apply)
    plain = apply(variables, jnp.ones((1, 3)))

    def doubled(following, args, kwargs, _):
        return 2 * following(*args, **kwargs)

    for _ in range(2):
        with intercept_methods(doubled):
            assert jnp.array_equal(apply(variables, jnp.ones((1, 3))), 2 * plain)
        assert jnp.array_equal(apply(variables, jnp.ones((1, 3))), plain)
