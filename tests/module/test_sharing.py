"""One module in several places: sharing by reference, calling twice, share_scope."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from tests.module.libraries import calls, raised, same

X = jnp.arange(6.0).reshape(2, 3)


def called_twice(nn):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            layer = nn.Dense(3)
            return layer(layer(x))

    return calls(Model(), X)


def compact_called_twice(nn):
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x):
            scale = self.param("scale", nn.initializers.ones, (1, 3))
            return nn.Dense(3)(nn.Dense(3)(x)) * scale

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            block = Block()
            return block(block(x)) + Block()(x)

    return calls(Model(), X)


def counters_go_on_when_called_twice(nn):
    keys = []

    class Noise(nn.Module):
        @nn.compact
        def __call__(self, x):
            keys.append((self.make_rng("noise"), self.make_rng("noise"), self.make_rng()))
            return x + self.param("bias", nn.initializers.normal(1.0), (1, 3))

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            noise = Noise()
            return noise(noise(x)) + Noise()(x)

    model = Model()
    rngs = {"params": jax.random.key(0), "noise": jax.random.key(1)}
    variables = jax.jit(model.init)(rngs, X)
    keys.clear()
    output = model.apply(variables, X, rngs=rngs)
    return variables, output, list(keys)


def dropout_called_twice(nn):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            drop = nn.Dropout(0.5)
            return drop(x), drop(x), nn.Dropout(0.5)(x)

    return Model().apply({}, jnp.ones((8, 8)), rngs={"dropout": jax.random.key(7)})


def shared_by_fields(nn):
    class Model(nn.Module):
        first: Any
        second: Any

        @nn.compact
        def __call__(self, x):
            first = self.first if callable(self.first) else self.first[1]
            return self.second(first(x))

    layer = nn.Dense(3)
    return calls(Model(layer, layer), X), calls(Model([layer, layer], layer), X)


def shared_in_a_list(nn):
    class Model(nn.Module):
        layers: Any

        @nn.compact
        def __call__(self, x):
            for layer in self.layers:
                x = layer(x)
            return x

    layer = nn.Dense(3)
    return calls(Model([layer, nn.Dense(3), layer]), X)


def shared_between_submodules(nn):
    class Half(nn.Module):
        layer: Any

        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(self.layer(x))

    class Model(nn.Module):
        def setup(self):
            self.layer = nn.Dense(3)
            self.left = Half(self.layer)
            self.right = Half(self.layer)

        def __call__(self, x):
            return self.left(x) + self.right(x)

    class Compact(nn.Module):
        @nn.compact
        def __call__(self, x):
            layer = nn.Dense(3)
            return Half(layer)(x) + Half(layer, name="other")(x)

    return calls(Model(), X), calls(Compact(), X)


def shared_by_the_owner_of_fields(nn):
    class Half(nn.Module):
        layer: Any

        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(self.layer(x))

    class Model(nn.Module):
        left: Any
        right: Any

        @nn.compact
        def __call__(self, x):
            return self.left(x) + self.right(x)

    layer = nn.Dense(3)
    return calls(Model(Half(layer), Half(layer)), X)


def tied_to_the_child_of_a_sibling(nn):
    class Encoder(nn.Module):
        def setup(self):
            self.table = nn.Dense(3)

        def __call__(self, x):
            return self.table(x)

    class Model(nn.Module):
        def setup(self):
            self.encoder = Encoder()

        def __call__(self, x):
            y = self.encoder(x)
            return y, self.encoder.table(y)

    return calls(Model(), X)


def child_of_a_sibling_in_a_field(nn):
    class Encoder(nn.Module):
        def setup(self):
            self.table = nn.Dense(3)

        def __call__(self, x):
            return self.table(x)

    class Decoder(nn.Module):
        table: Any

        @nn.compact
        def __call__(self, x):
            return nn.Dense(2)(self.table(x))

    class Model(nn.Module):
        def setup(self):
            self.encoder = Encoder()
            self.decoder = Decoder(self.encoder.table)

        def __call__(self, x):
            return self.decoder(self.encoder(x))

    return calls(Model(), X)


def a_method_is_passed(nn):
    class Encoder(nn.Module):
        def setup(self):
            self.table = nn.Dense(3)

        def attend(self, x):
            return self.table(x) * 2

    class Decoder(nn.Module):
        attend: Any

        @nn.compact
        def __call__(self, x):
            return nn.Dense(2)(self.attend(x))

    class Model(nn.Module):
        def setup(self):
            self.encoder = Encoder()
            self.decoder = Decoder(self.encoder.attend)

        def __call__(self, x):
            return self.decoder(x)

    return calls(Model(), X)


def wrapper_shares_scope_with_a_field(nn):
    class Wrapper(nn.Module):
        inner: Any

        def setup(self):
            nn.share_scope(self, self.inner)

        @nn.compact
        def __call__(self, x):
            return self.inner(x) + self.param("extra", nn.initializers.ones, (1, 3))

    return calls(Wrapper(nn.Dense(3)), X)


def wrapper_shares_scope_with_what_setup_made(nn):
    class Wrapper(nn.Module):
        def setup(self):
            self.inner = nn.Dense(3)
            nn.share_scope(self, self.inner)

        @nn.compact
        def __call__(self, x):
            low = nn.Dense(2, name="low")(x)
            return self.inner(x) + nn.Dense(3, name="high")(low)

    return calls(Wrapper(), X)


def wrapper_of_a_wrapper(nn):
    class Wrapper(nn.Module):
        inner: Any
        tag: str

        def setup(self):
            nn.share_scope(self, self.inner)

        @nn.compact
        def __call__(self, x):
            return self.inner(x) + self.param(self.tag, nn.initializers.ones, (1, 3))

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return Wrapper(Wrapper(nn.Dense(3), "a"), "b")(x) + Wrapper(nn.Dense(3), "c", name="named")(x)

    return calls(Model(), X)


def child_takes_the_scope_of_its_parent(nn):
    class Child(nn.Module):
        other: Any

        def setup(self):
            nn.share_scope(self, self.other)

        @nn.compact
        def __call__(self, x):
            return x + self.param("of_child", nn.initializers.ones, (1, 3))

    class Model(nn.Module):
        def setup(self):
            self.base = nn.Dense(3)
            self.child = Child(self.base)

        def __call__(self, x):
            return self.child(self.base(x))

    return calls(Model(), X)


def share_scope_unbound(nn):
    return raised(nn, lambda: nn.share_scope(nn.Dense(3), nn.Dense(3)))


def setattr_of_a_field_module_in_setup(nn):
    class Model(nn.Module):
        inner: Any

        def setup(self):
            self.alias = self.inner

        def __call__(self, x):
            return self.alias(self.inner(x))

    return calls(Model(nn.Dense(3)), X)


def only_the_alias_is_used(nn):
    class Model(nn.Module):
        first: Any
        second: Any

        def __call__(self, x):
            return self.second(x)

    layer = nn.Dense(3)
    return calls(Model(layer, layer), X)


PROGRAMS = (
    called_twice, compact_called_twice, counters_go_on_when_called_twice, dropout_called_twice, shared_by_fields,
    shared_in_a_list, shared_between_submodules, shared_by_the_owner_of_fields, tied_to_the_child_of_a_sibling,
    child_of_a_sibling_in_a_field, a_method_is_passed, wrapper_shares_scope_with_a_field,
    wrapper_shares_scope_with_what_setup_made, wrapper_of_a_wrapper, child_takes_the_scope_of_its_parent,
    share_scope_unbound, setattr_of_a_field_module_in_setup, only_the_alias_is_used,
)  # fmt: skip


@pytest.mark.parametrize("program", PROGRAMS)
def test_linen_shares_so(program):
    same(program)
