"""Transforms in one another."""

import jax
import jax.numpy as jnp

from tests.lift.support import (
    OWN,
    body_of,
    case,
    cell,
    clipped,
    compact,
    dense,
    noise,
    statistics,
    times,
)


@case()
def vmap_of_scan_of_remat(nn):
    loop = {"length": 2, **OWN}

    def body(_, x):
        inner = nn.scan(nn.remat(cell(nn)), **loop)
        return nn.vmap(inner, variable_axes={"params": 1}, split_rngs={"params": True}, in_axes=(0, None))()(x, None)

    return compact(nn, body)


@case()
def scan_of_vmap(nn):
    def body(module, x):
        def step(layers, x, _):
            return layers(x), None

        layers = nn.vmap(dense(nn), **OWN)(name="layers")
        return nn.scan(step, length=2, **OWN)(layers, x, None)[0]

    return compact(nn, body)


@case()
def scan_of_scan(nn):
    def body(_, x):
        inner = nn.scan(
            body_of(nn, noise(nn)), variable_axes={"params": 0}, split_rngs={"params": True, "noise": True}, length=2
        )
        outer = nn.scan(inner, variable_axes={"params": 0}, split_rngs={"params": True, "noise": False}, length=2)
        return outer()(x, None)

    return compact(nn, body)


@case()
def jit_in_scan(nn):
    options = {"variable_axes": {"params": 0}, "split_rngs": {"params": True, "noise": True}}
    return compact(nn, lambda _, x: nn.scan(body_of(nn, nn.jit(noise(nn))), length=2, **options)()(x, None))


@case()
def remat_in_remat(nn):
    def body(_, x):
        return nn.remat(nn.remat(lambda layer, x: layer(layer(x))))(statistics(nn)(), x)

    return compact(nn, body)


@case()
def remat_of_vmap_of_remat(nn):
    return compact(nn, lambda _, x: nn.remat(nn.vmap(nn.remat(dense(nn)), **OWN))()(x))


@case(exact=False)
def remat_scan_of_layers(nn):
    return compact(nn, lambda _, x: nn.remat_scan(dense(nn), lengths=(2, 2))()(x))


@case(exact=False)
def remat_scan_of_a_function(nn):
    def body(_, x):
        return nn.remat_scan(lambda layer, x: layer(x), lengths=(3,))(dense(nn)(), x)

    return compact(nn, body)


@case()
def gradient_in_scan(nn):
    def body(_, x):
        def step(layer, x, _):
            y, pull = nn.vjp(lambda layer, x: layer(x), layer, x)
            params, cotangent = pull(jnp.ones_like(y))
            return y + cotangent, sum(jnp.sum(leaf) for leaf in jax.tree.leaves(params))

        if _.is_initializing():
            return dense(nn)(name="layer")(x), None
        loop = nn.scan(step, length=2, variable_broadcast="params", split_rngs={"params": False})
        return loop(dense(nn)(name="layer"), x, None)

    return compact(nn, body)


@case()
def cond_in_scan_in_cond(nn):
    def body(module, x):
        def step(layer, x, _):
            return nn.cond(x.sum() > 0, lambda layer, x: layer(x), lambda layer, x: -layer(x), layer, x), None

        def loop(layer, x):
            if module.is_initializing():
                return layer(x)
            return nn.scan(step, length=2, variable_broadcast="params", split_rngs={"params": False})(layer, x, None)[0]

        return nn.cond(x.sum() < 1, loop, lambda layer, x: layer(x), dense(nn)(), x)

    return compact(nn, body)


@case()
def custom_gradient_in_scan(nn):
    def body(_, x):
        def step(layer, x, _):
            return clipped(nn)(layer, x), None

        return nn.scan(step, length=2, **OWN)(dense(nn)(), x, None)[0]

    return compact(nn, body)


@case()
def map_variables_in_vmap(nn):
    def body(_, x):
        doubled = nn.map_variables(dense(nn), "params", times(2), times(0.5), init=True)
        return nn.vmap(doubled, **OWN)()(x)

    return compact(nn, body)


@case()
def vmap_in_map_variables(nn):
    def body(_, x):
        layers = nn.vmap(dense(nn), **OWN)
        return nn.map_variables(layers, "params", times(2), times(0.5), init=True)()(x)

    return compact(nn, body)


@case()
def vmap_of_jit_of_remat(nn):
    return compact(nn, lambda _, x: nn.vmap(nn.jit(nn.remat(dense(nn))), **OWN)()(x))


@case()
def jit_of_vmap_with_keys(nn):
    options = {"variable_axes": {"params": 0}, "split_rngs": {"params": True, "noise": True}}
    return compact(nn, lambda _, x: nn.jit(nn.vmap(noise(nn), **options))()(x))


@case()
def derivative_of_a_loop(nn):
    def body(_, x):
        def forward(layers, x):
            return layers(x, None)[0].sum()

        layers = nn.scan(nn.remat(cell(nn)), length=2, **OWN)()
        value, pull = nn.vjp(forward, layers, x)
        return value, pull(jnp.ones_like(value)), nn.grad(forward, layers, x)

    return compact(nn, body)


@case()
def derivative_in_vmap_and_remat(nn):
    def body(_, x):
        class Slope(nn.Module):
            @nn.compact
            def __call__(self, x):
                y, moved = nn.jvp(lambda layer, x: layer(x), dense(nn)(), (x,), (x,), {})
                return y + moved + nn.grad(lambda layer, x: layer(x).sum(), dense(nn)(), x)[0]

        return nn.remat(Slope)()(x) + nn.vmap(Slope, **OWN)()(x)

    return compact(nn, body)


@case()
def derivative_of_a_derivative(nn):
    def body(_, x):
        def slope(layer, x):
            return nn.grad(lambda layer, x: layer(x).sum(), layer, x)[0].sum()

        return nn.grad(slope, dense(nn)(), x)

    return compact(nn, body)


@case()
def custom_gradient_in_remat_and_jit(nn):
    def body(_, x):
        def call(layer, x):
            return clipped(nn)(layer, x)

        return nn.remat(call)(dense(nn)(), x) + nn.jit(call)(dense(nn)(), x)

    return compact(nn, body)


@case()
def branches_in_vmap_and_remat(nn):
    class Branch(nn.Module):
        @nn.compact
        def __call__(self, x):
            layer = dense(nn)()
            return nn.cond(x.sum() > 0, lambda layer, x: layer(x), lambda layer, x: layer(-x), layer, x)

    return compact(nn, lambda _, x: nn.vmap(Branch, **OWN)()(x) + nn.remat(Branch)()(x))


@case()
def map_variables_of_a_loop(nn):
    def body(_, x):
        loop = nn.map_variables(nn.scan(cell(nn), length=2, **OWN), "params", times(2), times(0.5), init=True)
        return loop()(x, None)[0]

    return compact(nn, body)


@case()
def folded_streams_in_a_loop(nn):
    options = {"variable_axes": {"params": 0}, "split_rngs": {"params": True, "noise": True}, "length": 2}
    return compact(nn, lambda _, x: nn.scan(body_of(nn, nn.fold_rngs(noise(nn))), **options)()(x, None))


@case(exact=False)
def remat_scan_of_vmap(nn):
    return compact(nn, lambda _, x: nn.remat_scan(nn.vmap(dense(nn), **OWN), lengths=(2,))()(x))


@case(gradients=False)
def while_in_jit_in_scan(nn):
    def body(module, x):
        def until(layer, x):
            return nn.while_loop(lambda _, state: state[0] < 2, lambda m, s: (s[0] + 1, m(s[1])), layer, (0, x))[1]

        def step(layer, x, _):
            return nn.jit(until)(layer, x), None

        layer = dense(nn)(name="layer")
        if module.is_initializing():
            return layer(x)
        shared = {"variable_broadcast": "params", "split_rngs": {"params": False}}
        return nn.scan(step, length=2, **shared)(layer, x, None)[0]

    return compact(nn, body)
