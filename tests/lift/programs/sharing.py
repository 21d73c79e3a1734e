"""Shared modules, fields, attributes, and classes made from lifted ones."""

import functools

from tests.lift.support import (
    OWN,
    SHARED,
    case,
    compact,
    dense,
    noise,
    row,
    two_layers,
)
from tests.nn.oracle import cheap_initializer


@case()
def shared_module(nn):
    class Around(nn.Module):
        inner: nn.Module

        @nn.compact
        def __call__(self, x):
            return dense(nn)()(self.inner(x))

    def body(_, x):
        inner = dense(nn)(name="inner")
        return nn.remat(Around)(inner)(nn.jit(Around)(inner)(inner(x)))

    return compact(nn, body)


@case()
def modules_among_arguments(nn):
    def body(module, x):
        def call(module, x, layers, last=None):
            return layers["one"](x) + layers["more"][0](x)

        layers = {"one": dense(nn)(name="one"), "more": [dense(nn)(name="two")]}
        vmapped = nn.vmap(lambda module, x, layer: layer(x), in_axes=0, **SHARED)
        return nn.remat(call)(module, x, layers) + vmapped(module, x, dense(nn)(name="three"))

    return compact(nn, body)


@case()
def lifted_attributes(nn):
    class Model(nn.Module):
        def setup(self):
            self.layers = nn.vmap(two_layers(nn), **OWN)()
            self.again = nn.remat(two_layers(nn))()
            self.listed = [nn.jit(dense(nn))(), nn.remat(nn.remat(dense(nn)))()]
            self.made = nn.remat(lambda module: module.param("made", cheap_initializer, (4,)))(self)

        def __call__(self, x):
            for _ in range(2):
                x = self.layers(self.again(x))
            for layer in self.listed:
                x = layer(x)
            return x + row(self.made, x)

    return Model()


@case()
def lifted_module_within_a_body(nn):
    class Around(nn.Module):
        inner: nn.Module

        @nn.compact
        def __call__(self, x):
            return nn.remat(lambda module, x: module.inner(x))(self, x)

    layers = nn.vmap(dense(nn), **OWN)(parent=None)
    return compact(
        nn, lambda _, x: nn.remat(lambda layers, x: layers(x))(nn.vmap(dense(nn), **OWN)(), Around(layers)(x))
    )


@case()
def field_of_a_lifted_class(nn):
    class Around(nn.Module):
        inner: nn.Module
        scale: float = 2.0

        @nn.compact
        def __call__(self, x):
            return self.inner(x) * self.scale

    return nn.vmap(Around, **OWN)(dense(nn)(parent=None), scale=3.0)


@case()
def inherited_from_a_lifted_class(nn):
    class Derived(nn.remat(dense(nn))):
        @nn.compact
        def __call__(self, x):
            return super().__call__(x) + 1

    class Overriding(dense(nn)):
        @nn.remat
        @nn.compact
        def __call__(self, x):
            return super().__call__(x) + dense(nn)()(x)

    return compact(nn, lambda _, x: Derived()(Overriding()(x)))


@case()
def bound_to_arguments(nn):
    return compact(nn, lambda _, x: nn.remat(functools.partial(dense(nn), 5))()(x))


@case()
def properties_and_variables(nn):
    class Inner(nn.Module):
        def setup(self):
            self.layer = dense(nn)()

        @property
        def kernel(self):
            return self.layer.variables["params"]["kernel"]

        def __call__(self, x):
            return self.layer(x)

    def body(_, x):
        inner = nn.remat(Inner)()
        return inner(x) + inner.kernel.sum()

    return compact(nn, body)


@case()
def keys_of_modules_from_elsewhere(nn):
    class Around(nn.Module):
        inner: nn.Module

        @nn.compact
        def __call__(self, x):
            x, bits = noise(nn)()(x)
            return *self.inner(x), bits

    def body(_, x):
        x, *bits = nn.jit(Around)(noise(nn)(name="one"))(x)
        return nn.fold_rngs(Around)(noise(nn)(name="two"))(x), bits

    return compact(nn, body)
