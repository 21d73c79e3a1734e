# ruff: noqa: PLW0108 - models are written as their users write them, with lambdas
"""init, apply, bind and their arguments: results, methods, streams, captures, interceptors, module_paths."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.module.libraries import calls, raised, same

X = jnp.arange(6.0).reshape(2, 3)
KEYS = {"params": jax.random.key(0), "dropout": jax.random.key(1)}


def block(nn):
    class Block(nn.Module):
        rate: float = 0.5

        def setup(self):
            self.first = nn.Dense(3)
            self.drop = nn.Dropout(self.rate)
            self.last = nn.Dense(2)

        def features(self, x):
            return self.drop(self.first(x))

        def __call__(self, x, scale=1.0):
            return self.last(self.features(x)) * scale

    return Block


def init_with_output(nn):
    model = block(nn)()
    output, variables = model.init_with_output(KEYS, X, scale=2.0)
    part, part_variables = model.init_with_output(KEYS, X, method="features")
    return output, variables, part, part_variables, nn.init_with_output(lambda m, x: m.first(x), model)(KEYS, X)


def functions_of_a_bound_module(nn):
    model = block(nn)()
    variables = nn.init(lambda m, x: m.last(m.first(x)), model)(KEYS, X)
    return (
        variables,
        nn.apply(lambda m, x: m.first(x) + 1, model)(variables, X),
        nn.apply(lambda m, x, y: m(x) + y, model, mutable=["intermediates"])(variables, X, 3.0, rngs=KEYS),
        nn.apply(lambda m, x: m.first(x), model, mutable=True, capture_intermediates=True)(variables, X),
    )


def capture_intermediates(nn):
    model = block(nn)()
    variables = model.init(KEYS, X)

    def run(capture, mutable=("intermediates",)):
        return model.apply(variables, X, rngs=KEYS, capture_intermediates=capture, mutable=list(mutable))

    return (
        run(True),
        run(False),
        run(lambda module, name: isinstance(module, nn.Dense)),
        run(lambda module, name: name == "features"),
        run(lambda module, name: module.name == "first"),
        run(True, mutable=("other",)),
        model.init(KEYS, X, capture_intermediates=True),
        model.init(KEYS, X, capture_intermediates=True, mutable=True),
        model.init_with_output(KEYS, X, capture_intermediates=True, mutable=["params", "intermediates"]),
    )


def capture_everything(nn):
    model = block(nn)()
    variables = model.init(KEYS, X)
    return model.apply(variables, X, rngs=KEYS, capture_intermediates=lambda module, name: True)


def capture_of_repeated_calls_and_trees(nn):
    class Twice(nn.Module):
        @nn.compact
        def __call__(self, x):
            layer = nn.Dense(3)
            return {"a": layer(x), "b": (layer(layer(x)), None)}

    model = Twice()
    return model.apply(model.init(KEYS, X), X, capture_intermediates=True, mutable=["intermediates"])


def streams(nn):
    model = block(nn)()
    variables = model.init(KEYS, X)
    return [
        model.apply(variables, X, rngs=rngs)
        for rngs in ({"dropout": jax.random.key(5)}, {"params": jax.random.key(5)}, jax.random.key(5))
    ] + [model.init(jax.random.key(0), X), model.init(jax.random.PRNGKey(0), X)]


def bind_and_unbind(nn):
    class Outer(nn.Module):
        def setup(self):
            self.block = block(nn)(0.0)

        def __call__(self, x):
            return self.block(x)

    model = Outer()
    variables = model.init(KEYS, X)
    bound = model.bind(variables, rngs={"dropout": jax.random.key(2)})
    inner, inner_variables = bound.block.unbind()
    first, first_variables = bound.block.first.unbind()
    again, everything = bound.unbind()
    return (
        bound(X),
        bound.block.first(X),
        bound.block.features(X),
        bound.variables,
        inner_variables,
        inner.apply(inner_variables, X, rngs=KEYS),
        first_variables,
        (first.features, first.name, inner.name, inner.scope is None),
        again.apply(everything, X, rngs=KEYS),
        raised(nn, lambda: model.unbind()),
    )


def bind_mutable(nn):
    class Counter(nn.Module):
        @nn.compact
        def __call__(self):
            count = self.variable("state", "count", lambda: jnp.zeros((), jnp.int32))
            count.value += 1
            return count.value

    bound = Counter().bind({"state": {"count": jnp.int32(4)}}, mutable=["state"])
    return bound(), bound(), bound.variables, Counter().bind({}, mutable=["state"])()


def bind_compact_submodules(nn):
    class Model(nn.Module):
        inner: Any

        def setup(self):
            self.layers = [nn.Dense(3), nn.Dense(3)]

        def __call__(self, x):
            for layer in self.layers:
                x = layer(x)
            return self.inner(x)

    model = Model(nn.Dense(2))
    variables = model.init(KEYS, X)
    bound = model.bind(variables)
    unbound, its_variables = bound.layers[1].unbind()
    return bound.layers[0](X), bound.inner(X), its_variables, unbound.apply(its_variables, X), bound.inner.unbind()[1]


def apply_inside_apply(nn):
    class Outside(nn.Module):
        @nn.compact
        def __call__(self, x):
            y = nn.Dense(3)(x)
            return y + outside.apply(outside_variables, x)

    class Inside(nn.Module):
        @nn.compact
        def __call__(self, x):
            y = nn.Dense(3)(x)
            inner = nn.Dense(2)
            inner(x)
            apart, variables = inner.unbind()
            return y, apart.apply(variables, x), apart.init(jax.random.key(5), x), nn.Dense(3)(x)

    outside = nn.Dense(3)
    outside_variables = outside.init(jax.random.key(4), X)
    return calls(Outside(), X), calls(Inside(), X)


def init_of_a_fresh_module_inside(nn):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            target = nn.Dense(3, parent=None)
            values = self.variable("target", "params", lambda: target.init(jax.random.key(2), x)["params"])
            return nn.Dense(3)(x) + target.apply({"params": values.value}, x)

    return calls(Model(), X)


def interceptors(nn):
    log = []

    def named(tag):
        def interceptor(next_method, args, kwargs, context):
            log.append((tag, "in", type(context.module).__name__, context.method_name, "/".join(context.module.path)))
            result = next_method(*args, **kwargs)
            log.append((tag, "out", context.method_name))
            return result + 1 if tag == "outer" and context.method_name == "__call__" else result

        return interceptor

    model = block(nn)(0.0)
    variables = model.init(KEYS, X)
    with nn.intercept_methods(named("outer")):
        with nn.intercept_methods(named("inner")):
            both = model.apply(variables, X, rngs=KEYS)
        one = model.apply(variables, X, rngs=KEYS)
    none = model.apply(variables, X, rngs=KEYS)
    return both, one, none, log


def interceptor_changes_arguments(nn):
    def double(next_method, args, kwargs, context):
        if isinstance(context.module, nn.Dense):
            return next_method(args[0] * 2, **kwargs)
        return next_method(*args, **kwargs)

    def skip(next_method, args, kwargs, context):
        if context.module.name == "first":
            return context.orig_method(*args, **kwargs) * 3
        return next_method(*args, **kwargs)

    model = block(nn)(0.0)
    variables = model.init(KEYS, X)
    results = []
    for interceptor in (double, skip):
        with nn.intercept_methods(interceptor):
            results.append(model.apply(variables, X, rngs=KEYS))
            results.append(model.apply(variables, X, rngs=KEYS, capture_intermediates=True, mutable=["intermediates"]))
    with nn.intercept_methods(double), nn.intercept_methods(skip):
        results.append(model.apply(variables, X, rngs=KEYS))
    return results


def interceptor_does_not_see_nowrap_and_properties(nn):
    log = []

    class Model(nn.Module):
        def setup(self):
            self.layer = nn.Dense(3)

        @property
        def two(self):
            return 2

        @nn.nowrap
        def hidden(self):
            return 3

        def seen(self):
            return 4

        def __call__(self, x):
            return self.layer(x) * self.two * self.hidden() * self.seen()

    def note(next_method, args, kwargs, context):
        log.append(context.method_name)
        return next_method(*args, **kwargs)

    variables = Model().init(KEYS, X)
    with nn.intercept_methods(note):
        Model().apply(variables, X)
    return log


def module_paths(nn):
    class Inner(nn.Module):
        @nn.compact
        def __call__(self, x):
            layer = nn.Dense(3)
            return layer(layer(x))

    class Model(nn.Module):
        def setup(self):
            self.blocks = [Inner(), Inner()]

        @nn.compact
        def __call__(self, x):
            for inner in self.blocks:
                x = inner(x)
            return nn.Dense(2, name="head")(self.blocks[0](x))

    model = Model()
    found = model.module_paths(KEYS, X)
    repeated = model.module_paths(KEYS, X, show_repeated=True)
    return [
        [(path, type(module).__name__, module.name, module.scope is None) for path, module in paths.items()]
        for paths in (found, repeated)
    ], [found[""].apply(model.init(KEYS, X), X), found["head"].features]


def invalid_method(nn):
    class Model(nn.Module):
        value: int = 3

        def __call__(self, x):
            return x

    return [raised(nn, lambda method=method: Model().apply({}, X, method=method)) for method in (5, object())] + [
        type(error_of(lambda: Model().apply({}, X, method="missing"))).__mro__.__contains__(AttributeError)
    ]


def error_of(run):
    try:
        run()
    except Exception as error:  # noqa: BLE001 - whatever it is
        return error
    return None


def on_the_class(nn):
    class Model(nn.Module):
        def __call__(self, x):
            return x

    return raised(nn, lambda: Model.apply({}, X)), raised(nn, lambda: Model.init(KEYS, X))


def unbound_calls(nn):
    class Plain(nn.Module):
        def double(self, x):
            return 2 * x

    return (
        Plain().double(X),
        raised(nn, lambda: nn.Dense(3)(X)),
        isinstance(error_of(lambda: Plain().variables), ValueError),
    )


def numpy_and_static_arguments(nn):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x, flag, *, mode="a", mask=None, table=None):
            y = nn.Dense(3)(jnp.asarray(x))
            if flag:
                y = y * 2
            if mode == "b":
                y = y + nn.Dense(3, name="b")(jnp.asarray(x))
            if mask is not None:
                y = y * mask
            return y + table["x"] if table is not None else y

    model = Model()
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    return (
        calls(model, array, True),
        calls(model, array, False, mode="b", mask=np.ones((2, 3), np.float32)),
        calls(model, X, flag=True, mask=None, table={"x": np.float32(3), "unused": None}),
    )


def results_of_any_kind(nn):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return {"x": x, "none": None, "text": "t", "list": [1, (2.5, x)]}

    return Model().apply({}, X), Model().init_with_output(KEYS, X), Model().apply({}, X, mutable=["a"])


PROGRAMS = (
    init_with_output, functions_of_a_bound_module, capture_intermediates, capture_everything,
    capture_of_repeated_calls_and_trees, streams, bind_and_unbind, bind_mutable, bind_compact_submodules,
    apply_inside_apply, init_of_a_fresh_module_inside, interceptors,
    interceptor_changes_arguments, interceptor_does_not_see_nowrap_and_properties, module_paths,
    invalid_method, on_the_class, unbound_calls, numpy_and_static_arguments, results_of_any_kind,
)  # fmt: skip


@pytest.mark.parametrize("program", PROGRAMS)
def test_linen_is_called_so(program):
    same(program)
