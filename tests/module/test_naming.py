"""Where variables come to lie: compact and setup, automatic names, submodules in fields and containers."""

import dataclasses
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import pytest

from tests.module.libraries import calls, same

X = jnp.arange(6.0).reshape(2, 3)


class Pair(NamedTuple):
    first: Any
    second: Any


@dataclasses.dataclass
class Holder:
    inner: Any
    size: int = 3


@flax.struct.dataclass
class Struct:
    inner: Any
    more: Any = None


def compact(nn):
    class Model(nn.Module):
        features: int = 3

        @nn.compact
        def __call__(self, x):
            scale = self.param("scale", nn.initializers.ones, (3,))
            return nn.Dense(self.features)(nn.relu(nn.Dense(3)(x))) * scale[None]

    return calls(Model(), X)


def setup(nn):
    class Model(nn.Module):
        def setup(self):
            self.first = nn.Dense(3)
            self.second = nn.Dense(3, use_bias=False)
            self.scale = self.param("scale", nn.initializers.ones, (1, 3))

        def __call__(self, x):
            return self.second(self.first(x)) * self.scale

    return calls(Model(), X)


def setup_defines_more_than_is_used(nn):
    class Model(nn.Module):
        def setup(self):
            self.used = nn.Dense(3)
            self.unused = nn.Dense(3)
            self.table = self.param("table", nn.initializers.zeros, (2,))

        def __call__(self, x):
            return self.used(x)

    return calls(Model(), X)


def nested(nn):
    class Block(nn.Module):
        width: int

        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(nn.tanh(nn.Dense(self.width)(x)))

    class Stack(nn.Module):
        @nn.compact
        def __call__(self, x):
            for width in (3, 4):
                x = x + Block(width)(x)
            return Block(3, name="last")(x)

    return calls(Stack(), X)


def setup_in_compact_in_setup(nn):
    class Inner(nn.Module):
        def setup(self):
            self.dense = nn.Dense(3)

        def __call__(self, x):
            return self.dense(x)

    class Middle(nn.Module):
        @nn.compact
        def __call__(self, x):
            return Inner()(Inner(name="mine")(x))

    class Outer(nn.Module):
        def setup(self):
            self.middle = Middle()
            self.again = Middle(name="renamed")

        def __call__(self, x):
            return self.again(self.middle(x))

    return calls(Outer(), X)


def names_given_and_numbered(nn):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(3, name="first")(x)
            x = nn.Dense(3)(x)
            x = nn.Dense(3, name="second")(x)
            return nn.Dense(3)(x)

    return calls(Model(), X)


def lists_in_setup(nn):
    class Model(nn.Module):
        def setup(self):
            self.layers = [nn.Dense(3), nn.Dense(3)]
            self.mixed = [nn.Dense(3), nn.relu, 4]

        def __call__(self, x):
            for layer in self.layers:
                x = layer(x)
            return self.mixed[1](self.mixed[0](x)) * self.mixed[2], isinstance(self.layers, tuple)

    return calls(Model(), X)


def tuples_in_setup(nn):
    class Model(nn.Module):
        def setup(self):
            self.layers = nn.Dense(3), nn.Dense(3)

        def __call__(self, x):
            return self.layers[1](self.layers[0](x))

    return calls(Model(), X)


def dicts_in_setup(nn):
    class Model(nn.Module):
        def setup(self):
            self.layers = {"a": nn.Dense(3), "b": nn.Dense(3)}

        def __call__(self, x):
            return self.layers["b"](self.layers["a"](x)), sorted(self.layers)

    return calls(Model(), X)


def nested_containers_in_setup(nn):
    class Model(nn.Module):
        def setup(self):
            self.layers = {"a": [nn.Dense(3), (nn.Dense(3), {"x": nn.Dense(3)})], "b": nn.Dense(3)}

        def __call__(self, x):
            first, (second, rest) = self.layers["a"]
            return rest["x"](second(first(x))) + self.layers["b"](x)

    return calls(Model(), X)


def named_modules_in_a_list(nn):
    class Model(nn.Module):
        def setup(self):
            self.layers = [nn.Dense(3, name=f"block_{i}") for i in range(2)]

        def __call__(self, x):
            for layer in self.layers:
                x = layer(x)
            return x

    return calls(Model(), X)


def loop_with_setattr(nn):
    class Model(nn.Module):
        def setup(self):
            for i in range(2):
                setattr(self, f"layer{i}", nn.Dense(3))

        def __call__(self, x):
            return self.layer1(self.layer0(x))

    return calls(Model(), X)


def named_tuple_in_setup(nn):
    class Model(nn.Module):
        def setup(self):
            self.pair = Pair(nn.Dense(3), nn.Dense(3))

        def __call__(self, x):
            return self.pair.second(self.pair.first(x))

    return calls(Model(), X)


def fields_hold_modules(nn):
    class Model(nn.Module):
        encoder: Any
        decoder: Any = None

        @nn.compact
        def __call__(self, x):
            return self.decoder(self.encoder(x)) if self.decoder else self.encoder(x)

    return calls(Model(nn.Dense(3), decoder=nn.Dense(3)), X), calls(Model(nn.Dense(3)), X)


def fields_hold_containers(nn):
    class Model(nn.Module):
        layers: Any
        table: Any

        def __call__(self, x):
            for layer in self.layers:
                x = layer(x)
            return self.table["head"]["x"](x)

    return calls(Model([nn.Dense(3), nn.Dense(3)], {"head": {"x": nn.Dense(3)}}), X)


def fields_hold_named_modules(nn):
    class Model(nn.Module):
        inner: Any

        @nn.compact
        def __call__(self, x):
            return self.inner(x)

    return calls(Model(nn.Dense(3, name="chosen")), X)


def fields_hold_structs(nn):
    class Model(nn.Module):
        held: Any

        @nn.compact
        def __call__(self, x):
            return self.held.inner(x)

    return calls(Model(Struct(nn.Dense(3), more=nn.Dense(3))), X)


def setup_holds_structs(nn):
    class Model(nn.Module):
        def setup(self):
            self.held = Struct(nn.Dense(3), [nn.Dense(3)])

        def __call__(self, x):
            return self.held.more[0](self.held.inner(x))

    return calls(Model(), X)


def passed_to_a_submodule(nn):
    class Inner(nn.Module):
        layer: Any

        @nn.compact
        def __call__(self, x):
            return self.layer(nn.Dense(3)(x))

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return Inner(nn.Dense(3))(x) + Inner(nn.Dense(3, name="given"))(x)

    return calls(Model(), X)


def passed_from_setup(nn):
    class Inner(nn.Module):
        layer: Any

        def __call__(self, x):
            return self.layer(x)

    class Model(nn.Module):
        def setup(self):
            self.shared = nn.Dense(3)
            self.inner = Inner(self.shared)
            self.other = Inner(nn.Dense(3))

        def __call__(self, x):
            return self.inner(x) + self.shared(x) + self.other(x)

    return calls(Model(), X)


def passed_as_an_argument(nn):
    class Inner(nn.Module):
        @nn.compact
        def __call__(self, x, layer):
            return layer(nn.Dense(3)(x))

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            layer = nn.Dense(3)
            return Inner()(x, layer) + layer(x)

    return calls(Model(), X)


def module_in_a_field_of_a_module_in_a_field(nn):
    class Wrap(nn.Module):
        inner: Any

        @nn.compact
        def __call__(self, x):
            return self.inner(x)

    return calls(Wrap(Wrap(Wrap(nn.Dense(3)))), X)


def aliases_in_setup(nn):
    class Model(nn.Module):
        def setup(self):
            self.first = nn.Dense(3)
            self.second = self.first
            self.third = [self.first, nn.Dense(3)]

        def __call__(self, x):
            return self.third[1](self.third[0](self.second(self.first(x))))

    return calls(Model(), X)


def submodule_made_by_a_function(nn):
    def make(features):
        return nn.Dense(features)

    class Model(nn.Module):
        layer_fn: Any

        def setup(self):
            self.layer = self.layer_fn(3)

        @nn.compact
        def __call__(self, x):
            return make(3)(x) + self.layer(x)

    return calls(Model(make), X)


def setup_and_compact_in_one(nn):
    class Model(nn.Module):
        def setup(self):
            self.first = nn.Dense(3)
            self.count = 2

        @nn.compact
        def __call__(self, x):
            for _ in range(self.count):
                x = nn.Dense(3)(x)
            return self.first(x)

    return calls(Model(), X)


def one_name_in_two_collections(nn):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            a = self.param("value", nn.initializers.ones, (1, 3))
            b = self.variable("stats", "value", jnp.zeros, (1, 3))
            return x * a + b.value

    return calls(Model(), X)


def parent_none(nn):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            detached = nn.Dense(3, parent=None)
            inner = nn.Dense(3)
            return inner(x), detached.init(jax.random.key(3), x), detached.parent is None

    return calls(Model(), X)


def parent_given(nn):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3, parent=self)(nn.Dense(3, parent=self, name="named")(x))

    return calls(Model(), X)


def paths(nn):
    found = []

    class Leaf(nn.Module):
        @nn.compact
        def __call__(self, x):
            found.append((self.path, self.name))
            return x

    class Model(nn.Module):
        inner: Any

        def setup(self):
            self.layers = [Leaf(), Leaf(name="named")]

        @nn.compact
        def __call__(self, x):
            for layer in (*self.layers, Leaf(), self.inner):
                x = layer(x)
            return x

    model = Model(Leaf())
    model.apply({}, X)
    return found, model.name


PROGRAMS = (
    compact, setup, setup_defines_more_than_is_used, nested, setup_in_compact_in_setup, names_given_and_numbered,
    lists_in_setup, tuples_in_setup, dicts_in_setup, nested_containers_in_setup, named_modules_in_a_list,
    loop_with_setattr, named_tuple_in_setup, fields_hold_modules, fields_hold_containers, fields_hold_named_modules,
    fields_hold_structs, setup_holds_structs, passed_to_a_submodule, passed_from_setup, passed_as_an_argument,
    module_in_a_field_of_a_module_in_a_field, aliases_in_setup, submodule_made_by_a_function,
    setup_and_compact_in_one, one_name_in_two_collections, parent_none, parent_given, paths,
)  # fmt: skip


@pytest.mark.filterwarnings("ignore::batiste.errors.AdoptedNameWarning")  # Linen says nothing
@pytest.mark.parametrize("program", PROGRAMS)
def test_linen_names_variables_so(program):
    same(program)
