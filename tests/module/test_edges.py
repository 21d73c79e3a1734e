"""Behaviour at the edges of Linen's modules: names of adopted modules, interceptors, perturbations, generic classes."""

import functools
from typing import Generic, TypeVar

import flax.linen
import jax
import jax.numpy as jnp
import pytest

import batiste.nn
from batiste import nn
from tests.module.libraries import same

KEY = jax.random.key(0)
X = jnp.linspace(-1.0, 1.0, 6).reshape(2, 3)
T = TypeVar("T")


def shapes(tree):
    return jax.tree.map(jnp.shape, tree)


def kept_names_of_fields(nn):
    class Model(nn.Module):
        inner: nn.Module
        more: list
        preserve_adopted_names = True

        def __call__(self, x):
            return sum(layer(x) for layer in (self.inner, *self.more))

    return shapes(Model(nn.Dense(3, name="one"), [nn.Dense(3), nn.Dense(3, name="two")]).init(KEY, X))


def kept_names_beside_setup(nn):
    class Model(nn.Module):
        inner: nn.Module
        preserve_adopted_names = True

        def setup(self):
            self.last = nn.Dense(2, name="head")

        def __call__(self, x):
            return self.last(self.inner(x))

    return shapes(Model(nn.Dense(3, name="one")).init(KEY, X))


def kept_names_are_inherited_and_switched_off(nn):
    class Base(nn.Module):
        inner: nn.Module
        preserve_adopted_names = True

        def __call__(self, x):
            return self.inner(x)

    class Off(Base):
        preserve_adopted_names = False

    class Below(Base):
        pass

    return [shapes(kind(nn.Dense(3, name="one")).init(KEY, X)) for kind in (Base, Off, Below)]


def interceptors_of_unbound_modules(nn):
    class Base(nn.Module):
        def twice(self, x):
            return 2 * x

        @nn.nowrap
        def plain(self, x):
            return self.twice(x)

        @nn.compact
        def __call__(self, x):
            return nn.Dense(2)(self.plain(x))

    class Sub(Base):
        def twice(self, x):
            return super().twice(x) + 1

    seen = []

    def note(tag):
        def interceptor(next_method, args, kwargs, context):
            seen.append((tag, type(context.module).__name__, context.method_name, context.module.scope is None))
            return next_method(*args, **kwargs) * (3 if tag == "a" else 5)

        return interceptor

    with nn.intercept_methods(note("a")), nn.intercept_methods(note("b")):
        results = [Base().twice(X), Base().plain(X), Sub().plain(X), Sub().init_with_output(KEY, X)[0]]
    return results, list(dict.fromkeys(seen))  # init may run a model twice


def perturbations_with_setup(nn):
    class Model(nn.Module):
        def setup(self):
            self.layer = nn.Dense(3)

        def __call__(self, x):
            return self.perturb("h", self.layer(x)) ** 2

    variables = Model().init(KEY, X)
    zeros = variables["perturbations"]

    def loss(zeros):
        return Model().apply({**variables, "perturbations": zeros}, X).sum()

    return shapes(variables), jax.grad(loss)(zeros), Model().apply({"params": variables["params"]}, X)


def perturbations_by_one_name(nn):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return self.perturb("h", self.perturb("h", nn.Dense(3)(x)), collection="other")

    variables = Model().init(KEY, X)
    return variables, Model().apply({**variables, "other": {"h": X}}, X)


PROGRAMS = (
    kept_names_of_fields, kept_names_beside_setup, kept_names_are_inherited_and_switched_off,
    interceptors_of_unbound_modules, perturbations_with_setup, perturbations_by_one_name,
)  # fmt: skip


@pytest.mark.filterwarnings("ignore::batiste.errors.AdoptedNameWarning")
@pytest.mark.parametrize("program", PROGRAMS)
def test_as_in_linen(program):
    same(program)


def missing_perturbation(nn):
    class Model(nn.Module):
        def __call__(self, x):
            return self.perturb("h", x)

    Model().apply({"perturbations": {"other": X}}, X)


def perturbation_of_another_shape(nn):
    class Model(nn.Module):
        def __call__(self, x):
            return self.perturb("h", x)

    Model().apply(Model().init(KEY, X), jnp.ones((5, 3)))


def hashed_while_bound(nn):
    hash(nn.Dense(2).bind({}))


def no_layers(nn):
    nn.Sequential([]).init(KEY, X)


def unexpected_field(nn):
    nn.Dense(feature=2)


def missing_field(nn):
    nn.Dense()


def too_many_fields(nn):
    nn.Sequential(nn.relu, nn.relu)


def option_given_nowhere(nn):
    nn.Dropout(0.5).init(KEY, X)


def changed_list(nn):
    class Model(nn.Module):
        def setup(self):
            self.layers = [nn.Dense(2)]
            self.layers.append(nn.Dense(2))

        def __call__(self, x):
            return x

    Model().init(KEY, X)


def carry_of_another_width(nn):
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return nn.Dense(9)(x), None

    nn.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)().init(KEY, X, None)


def flag_that_is_traced(nn):
    jax.jit(lambda flag: nn.Dropout(0.5).apply({}, X, deterministic=flag))(True)


REFUSED = (
    missing_perturbation, perturbation_of_another_shape, hashed_while_bound, no_layers, unexpected_field, missing_field,
    too_many_fields, option_given_nowhere, changed_list, carry_of_another_width, flag_that_is_traced,
)  # fmt: skip


@pytest.mark.parametrize("program", REFUSED)
def test_who_catches_linens_error_catches_ours(program):
    with pytest.raises(Exception) as there:  # noqa: PT011 - its kind is what is asked for
        program(flax.linen)
    kind = next(base for base in type(there.value).__mro__ if base.__module__ in {"builtins", "jax.errors"})
    assert kind is not Exception
    with pytest.raises(kind):
        program(batiste.nn)


class Wide(nn.Module, Generic[T]):
    width: int

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.width)(x)


class Narrow(Wide[T]):
    pass


def test_generic_modules_are_equal_to_plain_ones():
    traces = []

    @functools.partial(jax.jit, static_argnums=0)
    def run(model, variables):
        traces.append(model)
        return model.apply(variables, X)

    variables = Wide(4).init(KEY, X)
    models = [Wide(4), Wide[int](4), Wide[str](4), Wide[int](4).clone(), Wide[int](3).clone(width=4)]
    for model in models:
        run(model, variables)
        assert model == models[0]
        assert hash(model) == hash(models[0])
        assert repr(model) == "Wide(width=4)"
    assert len(traces) == 1
    assert Wide[int](4) != Wide[int](5)
    assert Narrow[int](4) != Wide[int](4)


def test_generic_modules_are_made_in_methods():
    class Model(nn.Module):
        inner: nn.Module

        def setup(self):
            self.second = Wide[int](3)

        @nn.compact
        def __call__(self, x):
            return Wide[int](2)(self.second(self.inner(x)))

    variables = Model(Wide[str](5)).init(KEY, X)
    plain = jax.tree.map(jnp.shape, variables["params"])
    assert sorted(plain) == ["Wide_0", "inner", "second"]
    assert plain["Wide_0"]["Dense_0"]["kernel"] == (3, 2)
