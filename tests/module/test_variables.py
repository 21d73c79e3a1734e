# ruff: noqa: PLW0108 - models are written as their users write them, with lambdas
"""What a module does with its variables: param, variable, sow, perturb, has, get, put, keys, mutability."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.module.libraries import calls, raised, same

X = jnp.arange(6.0).reshape(2, 3)
SHAPES = (3, [1, 3], np.array([1, 3]), np.int32(3), jnp.array(3))


class Average:
    """A running mean, written once for both libraries."""

    @staticmethod
    def of(nn):
        class Mean(nn.Module):
            @nn.compact
            def __call__(self, x):
                initialized = self.has_variable("stats", "mean")
                mean = self.variable("stats", "mean", lambda shape: jnp.zeros(shape), (1, 3))
                if initialized and self.is_mutable_collection("stats"):
                    mean.value = 0.9 * mean.value + 0.1 * x.mean(0, keepdims=True)
                return x - mean.value

        return Mean()


def parameters(nn):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            kernel = self.param("kernel", nn.initializers.lecun_normal(), (3, 3))
            bias = self.param("bias", lambda key, n: jnp.full((1, n), 2.0), 3)
            named = self.param("named", lambda key, shape, value: jnp.full(shape, value), shape=(1, 3), value=5)
            whole = self.param("whole", lambda key: {"a": jnp.ones(()), "b": [jnp.zeros(2), jnp.ones(1)]})
            for number, shape in enumerate(SHAPES):
                named += self.param(f"shape {number}", nn.initializers.ones, shape).reshape(1, 3)
            return x @ kernel + bias + named + whole["a"]

    return calls(Model(), X)


def variables_of_other_collections(nn):
    model = Average.of(nn)
    variables = model.init(jax.random.key(0), X)
    unchanged = model.apply(variables, X)
    output, state = model.apply(variables, X, mutable=["stats"])
    output2, state2 = model.apply({**variables, **state}, X, mutable="stats")
    everything = model.apply(variables, X, mutable=True)
    denied = model.apply(variables, X, mutable=nn.DenyList("params"))
    return variables, unchanged, output, state, output2, state2, everything, denied


def immutable(nn):
    class Model(nn.Module):
        def __call__(self, x):
            self.put_variable("stats", "mean", x)

    return raised(nn, lambda: Model().apply({"stats": {"mean": X}}, X))


def mutable_filters(nn):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            for collection in ("a", "b", "c"):
                count = self.variable(collection, "count", lambda: jnp.zeros((), jnp.int32))
                if self.is_mutable_collection(collection):
                    count.value += 1
            return [self.is_mutable_collection(c) for c in ("a", "b", "c", "params")]

    model = Model()
    variables = model.init({}, X)
    filters = [
        False, True, "a", ["a"], ("a", "b"), {"a", "c"}, [], "unknown", nn.DenyList("a"), nn.DenyList(["a", "b"]),
        nn.DenyList(True), nn.DenyList(False), nn.DenyList(nn.DenyList("b")),
    ]  # fmt: skip
    made = [model.init({}, X, mutable=f) for f in (["a", "b", "c"], nn.DenyList("d"), True)]
    made.append(raised(nn, lambda: model.init({}, X, mutable="a")))
    return variables, [model.apply(variables, X, mutable=f) for f in filters], made


def mutable_makes_collections(nn):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            cache = self.variable("cache", "last", jnp.zeros, (2, 3))
            cache.value = x
            return cache.value

    return Model().apply({}, X, mutable=["cache"]), Model().apply({"params": {}}, X, mutable=["cache", "other"])


def has_get_put(nn):
    class Inner(nn.Module):
        def __call__(self, x):
            seen = [
                self.has_variable("params", "kernel"),
                self.has_variable("cache", "a"),
                self.has_variable("nothing", "a"),
                self.get_variable("cache", "a"),
                self.get_variable("cache", "b", 5),
                self.get_variable("nothing", "b"),
            ]
            self.put_variable("cache", "b", x)
            self.put_variable("new", "c", {"d": x})
            return seen, self.get_variable("new", "c"), self.has_variable("new", "c")

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return Inner(name="inner")(x), self.variables

    variables = {"params": {"inner": {"kernel": X}}, "cache": {"inner": {"a": X}}}
    return Model().apply(variables, X, mutable=["cache", "new"])


def variables_property(nn):
    class Inner(nn.Module):
        @nn.compact
        def __call__(self, x):
            nn.Dense(3)(x)
            self.variable("stats", "v", jnp.zeros, (1,))
            return self.variables

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            before = sorted(self.variables)
            return before, Inner()(x), self.variables

    return Model().init_with_output(jax.random.key(0), X)


def sow_appends(nn):
    class Inner(nn.Module):
        def __call__(self, x):
            stored = self.sow("intermediates", "h", x)
            self.sow("intermediates", "h", x + 1)
            self.sow("losses", "l2", jnp.sum(x), reduce_fn=lambda a, b: a + b, init_fn=lambda: jnp.zeros(()))
            self.sow("losses", "l2", jnp.sum(x), reduce_fn=lambda a, b: a + b, init_fn=lambda: jnp.zeros(()))
            self.sow("last", "x", x, reduce_fn=lambda a, b: b, init_fn=lambda: None)
            return stored

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            inner = Inner()
            return inner(x), inner(x), Inner(name="other")(x)

    model = Model()
    given = {"intermediates": {"Inner_0": {"h": (X,)}}}
    return (
        model.init({}, X),
        model.init({}, X, mutable=True),
        model.apply({}, X),
        model.apply({}, X, mutable=["intermediates"]),
        model.apply({}, X, mutable=["intermediates", "losses", "last"]),
        model.apply(given, X, mutable=["intermediates"]),
    )


def sow_takes_a_name(nn):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            self.sow("intermediates", "h", x)
            return nn.Dense(3, name="h")(x)

    return raised(nn, lambda: Model().init(jax.random.key(0), X, mutable=True))


def sow_beside_a_parameter(nn):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            w = self.param("w", nn.initializers.ones, (1, 3))
            self.sow("intermediates", "w", x)
            return x * w

    return Model().init(jax.random.key(0), X, mutable=True)


def perturb(nn):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(3)(x)
            x = self.perturb("hidden", x)
            x, branch = self.perturb("tree", (jnp.sin(x), {"branch": x}))
            return jnp.sum(self.perturb("out", x, collection="others") ** 2) + jnp.sum(branch["branch"])

    model = Model()
    variables = model.init(jax.random.key(0), X)

    def loss(perturbations, params):
        return model.apply({"params": params, "perturbations": perturbations}, X)

    grads = jax.grad(loss)(variables["perturbations"], variables["params"])
    return variables, model.apply({"params": variables["params"]}, X), grads, model.apply(variables, X)


def keys_by_path_and_count(nn):
    class Inner(nn.Module):
        @nn.compact
        def __call__(self):
            self.param("w", nn.initializers.ones, ())
            return self.make_rng("noise"), self.make_rng(), self.make_rng("noise"), self.make_rng("other")

    class Model(nn.Module):
        def setup(self):
            self.inner = Inner()

        @nn.compact
        def __call__(self):
            own = self.make_rng("noise")
            return own, self.inner(), Inner()(), Inner(name="named")(), self.make_rng("noise"), self.has_rng("noise")

    model = Model()
    three = {"params": jax.random.key(0), "noise": jax.random.key(1), "other": jax.random.key(2)}
    raw = {"params": jax.random.PRNGKey(0), "noise": jax.random.PRNGKey(1)}
    variables = model.init(three)
    return (
        [model.init_with_output(rngs) for rngs in (three, raw, jax.random.key(3), jax.random.PRNGKey(3))],
        [model.apply(variables, rngs=rngs) for rngs in (three, raw, {"params": jax.random.key(0)}, jax.random.key(3))],
        raised(nn, lambda: model.apply(variables, rngs={"noise": jax.random.key(0)})),
        raised(nn, lambda: model.apply(variables)),
    )


def is_initializing(nn):
    class Model(nn.Module):
        @nn.compact
        def __call__(self):
            first = not self.has_variable("params", "w")
            self.param("w", nn.initializers.ones, ())
            return self.is_initializing(), first

    model = Model()
    output, variables = model.init_with_output(jax.random.key(0))
    return (
        output,
        model.apply(variables),
        model.apply(variables, mutable=True),
        model.apply({}, mutable=True, rngs=jax.random.key(0)),
    )


def params_may_be_made_by_apply(nn):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(nn.Dense(3)(x))

    model = Model()
    variables = model.init(jax.random.key(0), X)
    part = {"params": {"Dense_0": variables["params"]["Dense_0"]}}
    return model.apply(part, X, mutable=["params"], rngs=jax.random.key(1)), raised(nn, lambda: model.apply(part, X))


def missing_and_wrong(nn):
    class Model(nn.Module):
        width: int = 3

        @nn.compact
        def __call__(self, x):
            return nn.Dense(self.width)(x)

    model = Model()
    variables = model.init(jax.random.key(0), X)
    kernel = variables["params"]["Dense_0"]["kernel"]
    return [
        raised(nn, run)
        for run in (
            lambda: model.apply({"params": {}}, X),
            lambda: model.apply({"params": {"Dense_0": {"kernel": kernel}}}, X),
            lambda: model.apply(variables["params"], X),
            lambda: model.apply({"params": variables}, X),
            lambda: model.apply({}, X),
            lambda: model.apply({"params": None}, X),
            lambda: model.apply({**variables, "others": kernel}, X),
            lambda: Model(4).apply(variables, X),
            lambda: model.apply(variables, X[:, :2]),
        )
    ]


def a_read_only_variable(nn):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return self.variable("consts", "table").value + x

    return Model().apply({"consts": {"table": X}}, X), [
        raised(nn, lambda v=v: Model().apply(v, X)) for v in ({}, {"consts": {}}, {"consts": {"other": X}})
    ]


def numbers_in_variables(nn):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            for number, first in enumerate((2, 0.5, jnp.asarray(2), jnp.full((), 0.5), jnp.ones((), jnp.float16))):
                count = self.variable("counts", f"count {number}", lambda first=first: first)
                count.value = count.value * 2
            return x

    counts = Model().init({}, X)["counts"]
    return counts, {name: (type(value), getattr(value, "weak_type", None)) for name, value in counts.items()}


def trees_in_variables(nn):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            cache = self.variable("cache", "kv", lambda: {"k": jnp.zeros((2, 3)), "v": [jnp.zeros(3)]})
            held = cache.value
            held["k"] = x  # the caller's copy
            before = cache.value["k"]
            cache.value = {"k": x, "v": [jnp.ones(3)]}
            return before, cache.value

    model = Model()
    variables = model.init({}, X)
    return variables, model.apply(variables, X, mutable=["cache"])


PROGRAMS = (
    parameters, variables_of_other_collections, immutable, mutable_filters, mutable_makes_collections, has_get_put,
    variables_property, sow_appends, sow_takes_a_name, sow_beside_a_parameter, perturb, keys_by_path_and_count,
    is_initializing, params_may_be_made_by_apply, missing_and_wrong, a_read_only_variable, numbers_in_variables,
    trees_in_variables,
)  # fmt: skip


@pytest.mark.parametrize("program", PROGRAMS)
def test_linen_keeps_variables_so(program):
    same(program)
