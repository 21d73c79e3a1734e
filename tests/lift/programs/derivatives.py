"""Derivatives within a model."""

import jax
import jax.numpy as jnp

from tests.lift.support import (
    case,
    clipped,
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
def vjp_of_a_layer(nn):
    def body(_, x):
        def forward(layer, x):
            return layer(x), x.sum()

        y, pull, aux = nn.vjp(forward, statistics(nn)(), x, has_aux=True)
        params, cotangent = pull(jnp.ones_like(y))
        return y, params, cotangent, aux

    return compact(nn, body)


@case()
def vjp_of_other_collections(nn):
    def body(module, x):
        layer = statistics(nn)()
        y, pull = nn.vjp(lambda layer, x: layer(x), layer, x, vjp_variables="stats")
        if module.is_initializing():
            return y
        variables, cotangent = pull(jnp.ones_like(y))
        return y, variables["stats"]["mean"], cotangent

    return compact(nn, body)


@case()
def vjp_of_several_scopes(nn):
    class Around(nn.Module):
        second: nn.Module
        first: nn.Module

        @nn.compact
        def __call__(self, x):
            return dense(nn)()(self.first(self.second(x)))

    def body(module, x):
        around = Around(dense(nn)(3, name="one"), dense(nn)(name="two"))
        if module.is_initializing():
            return around(x)
        y, pull = nn.vjp(lambda around, x: around(x), around, x, multi_scope=True)
        variables, cotangent = pull(jnp.ones_like(y))
        assert isinstance(variables, list)
        return y, [jax.tree.leaves(each) for each in variables], cotangent

    return compact(nn, body)


@case()
def jvp_of_a_layer(nn):
    def body(module, x):
        layer = dense(nn)()
        moved = {} if module.is_initializing() else {"params": jax.tree.map(jnp.ones_like, layer.variables["params"])}
        return nn.jvp(lambda layer, x: layer(x), layer, (x,), (x * 2,), moved)

    return compact(nn, body)


@case()
def gradients_of_a_layer(nn):
    def body(_, x):
        layer = statistics(nn)()
        (value, aux), both = nn.value_and_grad(lambda m, a, b: (m(a * b).sum(), a), layer, x, x * 2, has_aux=True)
        one, aux_of_grad = nn.grad(lambda m, a: (m(a).sum(), a.sum()), layer, x, has_aux=True)
        return value, aux, both, one, aux_of_grad, nn.grad(lambda m, a: m(a).sum(), layer, x)

    return compact(nn, body)


@case()
def custom_gradient(nn):
    return compact(nn, lambda _, x: clipped(nn)(dense(nn)(), x))


@case()
def custom_gradient_with_fixed_arguments(nn):
    def body(_, x):
        def call(layer, scale, x):
            return layer(x) * scale

        def forward(layer, scale, x):
            y, pull = nn.vjp(lambda layer, x: layer(x), layer, x)
            return y * scale, pull

        def backward(scale, pull, cotangent):
            params, *inputs = pull(cotangent * scale)
            return (params, *(each * 2 for each in inputs))

        return nn.custom_vjp(call, forward, backward, nondiff_argnums=(1,))(dense(nn)(), 3.0, x)

    return compact(nn, body)


@case()
def derivatives_in_methods_of_setup(nn):
    class Model(nn.Module):
        def setup(self):
            self.layers = two_layers(nn)()
            self.scale = self.param("scale", cheap_initializer, (1, 4))

        def __call__(self, x):
            y, pull = nn.vjp(Model.inner, self, x)
            return y, pull(y), nn.grad(lambda module, x: module.inner(x).sum(), self, x)

        def inner(self, x):
            return self.layers(x) * self.scale

    return Model()


@case()
def derivatives_with_keys(nn):
    def body(module, x):
        def forward(layer, x):
            y, bits = layer(x)
            return y.sum(), bits

        layer = noise(nn)()
        one = nn.value_and_grad(forward, layer, x, has_aux=True)
        two = nn.grad(forward, layer, x, has_aux=True, rngs=["noise", "params"])
        return one, two, key_bits(module.make_rng("noise"))

    return compact(nn, body)


@case()
def derivatives_by_trees(nn):
    def body(_, x):
        def forward(layer, a, b):
            return layer(a["one"] * row(b, x)) + a["two"][0]

        layer = dense(nn)()
        y, pull = nn.vjp(forward, layer, {"one": x, "two": (x * 2,)}, x[0])
        return y, pull(y), nn.grad(lambda *given: forward(*given).sum(), layer, {"one": x, "two": (x,)}, x[0])

    return compact(nn, body)


@case()
def jvp_of_a_whole_module(nn):
    def body(module, x):
        def call(module, x):
            return dense(nn)(name="layer")(x) * module.param("scale", cheap_initializer, (1, 4))

        if module.is_initializing():
            return call(module, x)
        tangents = {"params": jax.tree.map(jnp.ones_like, module.variables["params"])}
        return nn.jvp(call, module, (x,), (x,), tangents)

    return compact(nn, body)


@case()
def custom_gradient_by_other_collections(nn):
    def body(module, x):
        def forward(layer, x):
            return nn.vjp(lambda layer, x: layer(x), layer, x, vjp_variables=["params", "stats"])

        def backward(pull, cotangent):
            variables, inputs = pull(cotangent)
            signs = jax.tree.map(lambda leaf: leaf if leaf.dtype == jax.dtypes.float0 else jnp.sign(leaf), variables)
            return signs, inputs

        layer = statistics(nn)()
        if module.is_initializing():
            return layer(x)
        custom = nn.custom_vjp(lambda layer, x: layer(x), forward, backward, grad_vars=["params", "stats"])
        return custom(layer, x)

    return compact(nn, body)


@case()
def gradients_by_nothing(nn):
    def body(_, x):
        layer = dense(nn)()
        return nn.value_and_grad(lambda layer: layer(x).sum(), layer), nn.grad(lambda layer: layer(x).sum(), layer)

    return compact(nn, body)
