"""Methods: several compact ones, inheritance, properties, static and class methods, nowrap, compact_name_scope."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from tests.module.libraries import calls, raised, same

X = jnp.arange(6.0).reshape(2, 3)


def setup_methods(nn):
    class Autoencoder(nn.Module):
        def setup(self):
            self.encoder = nn.Dense(2)
            self.decoder = nn.Dense(3)

        def encode(self, x):
            return self.encoder(x)

        def decode(self, z):
            return self.decoder(z)

        def __call__(self, x):
            return self.decode(self.encode(x))

    model = Autoencoder()
    variables, output = calls(model, X)
    return (
        variables,
        output,
        model.apply(variables, X, method="encode"),
        model.apply(variables, X, method=Autoencoder.encode),
        model.apply(variables, X, method=model.encode),
        model.apply(variables, X, method=lambda m, x: m.decoder(m.encode(x) + 1)),
        model.init(jax.random.key(0), X, method="encode"),
        model.init(jax.random.key(0), X, method=lambda m, x: m.encoder(x)),
    )


def two_compact_methods(nn):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(x)

        @nn.compact
        def other(self, x):
            return nn.Dense(2, name="other")(x)

    model = Model()
    first = model.init(jax.random.key(0), X)
    second = model.init(jax.random.key(0), X, method="other")
    return first, second, model.apply(second, X, method=Model.other)


def two_compact_methods_share_automatic_names(nn):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return self.other(nn.Dense(3)(x))

        @nn.compact
        def other(self, x):
            return nn.Dense(3)(x)

    class Separate(nn.Module):
        def __call__(self, x):
            return self.first(x), self.second(x), self.first(x)

        @nn.compact
        def first(self, x):
            return nn.Dense(3)(x)

        @nn.compact
        def second(self, x):
            return nn.Dense(3)(x)

    return calls(Model(), X), calls(Separate(), X)


def super_call(nn):
    class Base(nn.Module):
        features: int = 3

        @nn.compact
        def __call__(self, x):
            return nn.Dense(self.features)(x)

    class Derived(Base):
        @nn.compact
        def __call__(self, x):
            before = nn.Dense(3)(x)
            x = super().__call__(before)
            return nn.Dense(2)(x)

    class Again(Derived):
        extra: int = 1

        @nn.compact
        def __call__(self, x):
            return super().__call__(x) + self.param("extra_bias", nn.initializers.ones, (1, 2)) * self.extra

    return calls(Derived(), X), calls(Again(features=3, extra=2), X)


def super_setup(nn):
    class Base(nn.Module):
        def setup(self):
            self.first = nn.Dense(3)

        def __call__(self, x):
            return self.first(x)

    class Derived(Base):
        def setup(self):
            super().setup()
            self.second = nn.Dense(2)

        def __call__(self, x):
            return self.second(super().__call__(x))

    class NoSetup(Base):
        def __call__(self, x):
            return self.first(x) * 2

    return calls(Derived(), X), calls(NoSetup(), X)


def properties(nn):
    class Model(nn.Module):
        features: int = 3

        def setup(self):
            self.layer = nn.Dense(self.features)

        @property
        def kernel(self):
            return self.layer.variables["params"]["kernel"]

        @property
        def twice(self):
            return self.features * 2

        @functools.cached_property
        def three_times(self):
            return self.features * 3

        def __call__(self, x):
            y = self.layer(x)
            return y, self.kernel, self.twice, self.three_times

    model = Model()
    variables, output = calls(model, X)
    return variables, output, model.twice, model.bind(variables).twice, model.three_times


def property_with_submodules(nn):
    class Model(nn.Module):
        def setup(self):
            self.layer = nn.Dense(3)

        @property
        def chosen(self):
            return self.layer

        def __call__(self, x):
            return self.chosen(x)

    return calls(Model(), X)


def static_and_class_methods(nn):
    class Model(nn.Module):
        features: int = 3

        @staticmethod
        def double(x):
            return 2 * x

        @classmethod
        def small(cls, **fields):
            return cls(features=2, **fields)

        @nn.compact
        def __call__(self, x):
            return self.double(nn.Dense(self.features)(x))

    return calls(Model.small(), X), calls(Model.small(name="named"), X), Model.double(3)


def nowrap(nn):
    class Model(nn.Module):
        width: int = 3

        @nn.nowrap
        def layer(self, name):
            return nn.Dense(self.width, name=name)

        @nn.nowrap
        def number(self):
            return self.width + 1

        @nn.compact
        def __call__(self, x):
            return self.layer("second")(self.layer("first")(x)) * self.number()

    return calls(Model(), X), Model().number()


def compact_name_scope(nn):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(3)(x)
            x = self.down(x)
            return nn.Dense(3)(self.up(self.down(x)))

        @nn.compact_name_scope
        def down(self, x):
            return nn.Dense(3)(nn.Dense(3)(x))

        @nn.compact_name_scope
        def up(self, x):
            return nn.Dense(3, name="only")(x)

    class FromSetup(nn.Module):
        def setup(self):
            self.first = nn.Dense(3)

        def __call__(self, x):
            return self.inner(self.first(x))

        @nn.compact_name_scope
        def inner(self, x):
            return nn.Dense(2)(x)

    model = Model()
    return calls(model, X), calls(FromSetup(), X), model.init(jax.random.key(0), X, method="down")


def nested_compact_name_scopes(nn):
    class Model(nn.Module):
        @nn.compact_name_scope
        def inner(self, x):
            return nn.Dense(3)(x)

        @nn.compact_name_scope
        def outer(self, x):
            return nn.Dense(3)(self.inner(nn.Dense(3)(x)))

        @nn.compact
        def __call__(self, x):
            return self.outer(x)

    return calls(Model(), X)


def helper_methods_in_compact(nn):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            for i in range(2):
                x = self.block(x, i)
            return x

        def block(self, x, i):
            return nn.Dense(3, name=f"block_{i}")(x) + self.param(f"bias_{i}", nn.initializers.ones, (1, 3))

    return calls(Model(), X)


def lazy_setup_by_attribute(nn):
    ran = []

    class Inner(nn.Module):
        def setup(self):
            ran.append("inner")
            self.layer = nn.Dense(3)

        def __call__(self, x):
            return self.layer(x)

    class Model(nn.Module):
        def setup(self):
            ran.append("outer")
            self.inner = Inner()
            self.never = Inner()

        def __call__(self, x):
            ran.append("call")
            return self.inner.layer(x)

    variables = jax.jit(Model().init)(jax.random.key(0), X)
    ran.clear()
    return variables, Model().apply(variables, X), list(ran)


def setup_before_a_plain_method(nn):
    class Model(nn.Module):
        def setup(self):
            self.scale = self.param("scale", nn.initializers.ones, ())

        def only(self):
            return self.scale * 2

    return calls(Model(), method="only")


def callable_fields(nn):
    class Model(nn.Module):
        activation: Any = jax.nn.relu
        norm: Any = None

        @nn.compact
        def __call__(self, x):
            x = self.activation(nn.Dense(3)(x))
            return self.norm()(x) if self.norm is not None else x

    return calls(Model(), X), calls(Model(jnp.tanh, functools.partial(nn.Dense, 2)), X)


def wraps_from_outside(nn):
    def doubled(method):
        @functools.wraps(method)
        def wrapper(self, x):
            return 2 * method(self, x)

        return wrapper

    class Model(nn.Module):
        @doubled
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(x)

    class Other(nn.Module):
        @nn.compact
        @doubled
        def __call__(self, x):
            return nn.Dense(3)(x)

    return calls(Model(), X), calls(Other(), X)


def mixins(nn):
    class Scaled:
        def scaled(self, x):
            return x * self.param("scale", nn.initializers.ones, (1, 3))

    class Model(nn.Module, Scaled):
        @nn.compact
        def __call__(self, x):
            return self.scaled(nn.Dense(3)(x))

    class Diamond(Model):
        pass

    return calls(Model(), X), calls(Diamond(), X)


def keyword_and_default_arguments(nn):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x, *more, train=False, scale=1.0, **rest):
            for other in more:
                x = x + other
            return nn.Dense(3)(x) * scale, train, sorted(rest)

    return calls(Model(), X, X, X, train=True, scale=2.0, unknown=3), calls(Model(), x=X)


def submodule_outside_of_compact(nn):
    class Model(nn.Module):
        def __call__(self, x):
            return nn.Dense(3)(x)

    return raised(nn, lambda: Model().init(jax.random.key(0), X))


def compact_generator(nn):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return sum(self.parts(x))

        def parts(self, x):
            layers = [nn.Dense(3) for _ in range(2)]
            return (layer(x) for layer in layers)

    return calls(Model(), X)


PROGRAMS = (
    setup_methods, two_compact_methods, two_compact_methods_share_automatic_names, super_call, super_setup, properties,
    property_with_submodules, static_and_class_methods, nowrap, compact_name_scope, nested_compact_name_scopes,
    helper_methods_in_compact, lazy_setup_by_attribute, setup_before_a_plain_method, callable_fields,
    wraps_from_outside, mixins, keyword_and_default_arguments, submodule_outside_of_compact, compact_generator,
)  # fmt: skip


@pytest.mark.parametrize("program", PROGRAMS)
def test_linen_runs_methods_so(program):
    same(program)
