"""Modules that recompute, or are compiled as a part of their own."""

import functools

import jax
import jax.numpy as jnp

from tests.lift.support import (
    OWN,
    case,
    compact,
    dense,
    key_bits,
    noise,
    row,
    statistics,
    two_layers,
)
from tests.nn.oracle import cheap_initializer


@case()
def remat_class(nn):
    return compact(nn, lambda _, x: nn.remat(statistics(nn))()(dense(nn)()(x)))


@case()
def remat_policies(nn):
    def body(_, x):
        for name in ("everything_saveable", "nothing_saveable", "dots_saveable", "checkpoint_dots"):
            x = nn.remat(dense(nn), policy=getattr(jax.checkpoint_policies, name), prevent_cse=False)()(x)
        return x

    return compact(nn, body)


@case()
def remat_static_arguments(nn):
    class Branches(nn.Module):
        @nn.compact
        def __call__(self, x, wide, name="a"):
            return dense(nn)(5 if wide else 4, name=name)(x)

    def body(_, x):
        layer = nn.remat(Branches, static_argnums=(2, 3))
        function = nn.remat(lambda layer, x, wide: layer(x, wide), static_argnums=2)
        return layer()(x, True, "a"), layer()(x, False, "b"), function(Branches(), x, False)

    return compact(nn, body)


@case()
def remat_noise(nn):
    return compact(nn, lambda _, x: nn.checkpoint(noise(nn))()(x))


@case()
def jit_class(nn):
    return compact(nn, lambda _, x: nn.jit(statistics(nn))()(nn.jit(noise(nn))()(x)[0]))


@case()
def jit_static_arguments(nn):
    class Branches(nn.Module):
        @nn.compact
        def __call__(self, x, wide):
            return dense(nn)(5 if wide else 4)(x)

    return compact(nn, lambda _, x: nn.jit(Branches, static_argnums=2)()(x, True))


@case()
def jit_only_some_streams(nn):
    return compact(nn, lambda _, x: nn.jit(noise(nn), rngs=["params", "noise"])()(x))


@case()
def decorated_methods(nn):
    class Model(nn.Module):
        def setup(self):
            self.layer = dense(nn)()
            self.scale = self.param("scale", cheap_initializer, (4,))

        @nn.jit
        def __call__(self, x):
            return self.inner(x) * row(self.scale, x), key_bits(self.make_rng("noise"))

        @nn.remat
        def inner(self, x):
            return self.layer(x) + key_bits(self.make_rng("noise"))[0]

    return Model()


@case()
def decorated_compact_method(nn):
    class Model(nn.Module):
        @functools.partial(nn.vmap, **OWN)
        @nn.compact
        def __call__(self, x):
            return dense(nn)(2)(dense(nn)()(x)) + self.param("scale", cheap_initializer, (2,))

    return Model()


@case()
def decorated_scan_method(nn):
    class Model(nn.Module):
        @functools.partial(nn.scan, variable_broadcast="params", split_rngs={"params": False})
        @nn.compact
        def steps(self, carry, x):
            carry = dense(nn)()(carry + x)
            return carry, carry

        def __call__(self, x):
            return self.steps(x, jnp.stack([x, -x]))

    return Model()


@case()
def methods_by_name(nn):
    def body(_, x):
        one = nn.remat(two_layers(nn), methods=["__call__", "first"])()
        two = nn.jit(two_layers(nn), methods=["first", "scaled"])()
        return one(x) + one.first(x) + two(x) + two.first(x, 2.0)

    return compact(nn, body)


@case()
def functions(nn):
    def body(module, x):
        def call(module, x):
            return dense(nn)()(x) * module.param("scale", cheap_initializer, (1, 4)), key_bits(module.make_rng("noise"))

        x, bits = nn.jit(call)(module, x)
        y, more = nn.remat(lambda layer, x: layer(x))(noise(nn)(), x)
        return y, bits, more, key_bits(module.make_rng("noise"))

    return compact(nn, body)


@case()
def some_collections(nn):
    def body(_, x):
        x = nn.remat(dense(nn), variables="params", rngs="params")()(x)
        return nn.jit(dense(nn), variables=["params", "stats"], rngs=nn.DenyList("noise"))()(x)

    return compact(nn, body)


@case()
def remat_in_setup(nn):
    class Model(nn.Module):
        def setup(self):
            self.one = nn.remat(noise(nn), policy=jax.checkpoint_policies.nothing_saveable)()
            self.two = nn.jit(two_layers(nn), methods=["first"])()

        def __call__(self, x):
            x, bits = self.one(x)
            return self.two.first(x), bits

    return Model()


@case(exact=False)
def remat_scan_options(nn):
    class Layer(nn.Module):
        def setup(self):
            self.inner = dense(nn)()
            self.drop = nn.Dropout(0.5, deterministic=False)

        def __call__(self, x):
            return self.drop(self.inner(x))

    def body(_, x):
        options = {"variable_axes": {"params": 1}, "split_rngs": {"params": True, "dropout": True}}
        x = nn.remat_scan(Layer, lengths=(2,), policy=jax.checkpoint_policies.dots_saveable, **options)(name="layers")(
            x
        )
        options = {"variable_axes": {}, "variable_broadcast": "params", "split_rngs": {"params": False}}
        return nn.remat_scan(dense(nn), lengths=(2, 1), **options)()(x)

    return compact(nn, body)


@case()
def keyword_arguments(nn):
    class Scaled(nn.Module):
        @nn.compact
        def __call__(self, x, *, by, more=None):
            x = dense(nn)()(x) * by
            return x if more is None else x + more["shift"].sum()

    class Branches(nn.Module):
        @nn.compact
        def __call__(self, x, *, wide):
            return dense(nn)(5 if wide else 4)(x)

    def body(_, x):
        x = nn.remat(Scaled)()(x, by=x, more={"shift": x})
        x = nn.jit(Scaled)()(x, by=x)
        return nn.jit(Branches, static_argnames="wide")()(x, wide=True)

    return compact(nn, body)


@case()
def named_calls(nn):
    class Named(nn.Module):
        @nn.named_call
        @nn.compact
        def __call__(self, x):
            return dense(nn)()(x)

    return compact(nn, lambda _, x: Named()(x))
