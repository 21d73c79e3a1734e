"""Modules mapped over an axis."""

import functools

import jax
import jax.numpy as jnp

from tests.lift.support import (
    OWN,
    SHARED,
    case,
    compact,
    dense,
    key_bits,
    noise,
    statistics,
    two_layers,
)
from tests.nn.oracle import cheap_initializer


@case()
def vmap_own_parameters(nn):
    options = {"variable_axes": {"params": 0, "stats": 0}, "split_rngs": {"params": True}}
    return compact(nn, lambda _, x: nn.vmap(statistics(nn), **options)()(x))


@case()
def vmap_other_axes(nn):
    options = {"variable_axes": {"params": -1}, "split_rngs": {"params": True}, "in_axes": 1, "out_axes": -1}
    return compact(nn, lambda _, x: nn.vmap(dense(nn), **options)(5)(x[:, :, None]))


@case()
def vmap_shared_parameters(nn):
    return compact(nn, lambda _, x: nn.vmap(dense(nn), **SHARED)()(x))


@case()
def vmap_same_values_everywhere(nn):
    options = {"variable_axes": {"params": 0}, "split_rngs": {"params": False}}
    return compact(nn, lambda _, x: nn.vmap(dense(nn), **options)()(x))


@case()
def vmap_in_axes_by_argument(nn):
    def body(module, x):
        def call(layer, a, b, c):
            return layer(a) + b["left"] * c, b["right"]

        inputs = {"left": x, "right": x.T}
        mapped = nn.vmap(call, in_axes=(0, {"left": 0, "right": 1}, None), out_axes=(0, 1), **SHARED)
        return mapped(dense(nn)(name="layer"), x, inputs, x[0])

    return compact(nn, body)


@case()
def vmap_without_arguments(nn):
    def draw(module):
        return module.param("w", cheap_initializer, (3,)), key_bits(module.make_rng("params"))

    def body(module, x):
        return nn.vmap(draw, axis_size=5, **OWN)(module), key_bits(module.make_rng("params"))

    return compact(nn, body)


@case()
def vmap_collectives(nn):
    def body(module, x):
        def centred(layer, x):
            return layer(x) - jax.lax.pmean(x, "batch") + jax.lax.axis_index("batch")

        return nn.vmap(centred, axis_name="batch", **SHARED)(dense(nn)(), x)

    return compact(nn, body)


@case(exact=False)
def vmap_batch_norm_over_the_mapped_axis(nn):
    options = {
        "variable_axes": {"params": None, "batch_stats": None},
        "split_rngs": {"params": False},
        "axis_name": "batch",
    }

    class Norm(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.BatchNorm(use_running_average=False, axis_name="batch")(x)

    return compact(nn, lambda _, x: nn.vmap(Norm, **options)()(x[:, None]))


@case(exact=False)
def vmap_batch_norm_of_its_own(nn):
    options = {"variable_axes": {"params": 0, "batch_stats": 1}, "split_rngs": {"params": True}, "in_axes": 1}
    norm = functools.partial(nn.BatchNorm, use_running_average=False)
    return compact(nn, lambda _, x: nn.vmap(norm, **options)()(x[:, :, None]))


@case()
def vmap_some_streams(nn):
    def body(_, x):
        results = []
        for params, noise_ in ((True, False), (False, True)):
            options = {"variable_axes": {"params": 0}, "split_rngs": {"params": params, "noise": noise_}}
            results.append(nn.vmap(noise(nn), **options)()(x))
        results.append(nn.vmap(noise(nn), variable_axes={"params": 0}, split_rngs={True: True})()(x))
        return results

    return compact(nn, body)


@case()
def vmap_variables_that_only_come_out(nn):
    def body(module, x):
        def call(module, x):
            mean = module.variable("stats", "mean", jnp.zeros, (4,))
            mean.value = mean.value + x
            return x * 2

        return nn.vmap(call, variable_axes={"stats": nn.Out(0)}, split_rngs={})(module, x)

    return compact(nn, body)


@case()
def vmap_variables_that_only_go_in(nn):
    def body(module, x):
        if not module.has_variable("fixed", "w"):
            module.variable("fixed", "w", lambda: jnp.arange(12.0).reshape(3, 4))
        return nn.vmap(lambda m, x: x * m.get_variable("fixed", "w"), variable_axes={"fixed": nn.In(0)})(module, x)

    return compact(nn, body)


@case()
def vmap_methods_by_name(nn):
    def body(_, x):
        layers = nn.vmap(two_layers(nn), methods=["__call__", "first"], **OWN)()
        return layers(x) + layers.first(x)

    return compact(nn, body)


@case()
def vmap_methods_with_options(nn):
    methods = {"__call__": {"in_axes": 1, **OWN}, "first": {"in_axes": (1, None), "out_axes": 1, **OWN}}

    def body(_, x):
        layers = nn.vmap(two_layers(nn), methods=methods)()
        inputs = jnp.stack([x, x, x], 1)
        return layers(inputs), layers.first(inputs, jnp.float32(3))

    return compact(nn, body)


@case()
def vmap_of_self_with_submodules(nn):
    def body(module, x):
        def call(module, x):
            x = x * module.param("scale", cheap_initializer, (4,))
            return dense(nn)()(dense(nn)(3)(x))

        return nn.vmap(call, **OWN)(module, x), key_bits(module.make_rng("params"))

    return compact(nn, body)


@case()
def vmap_called_twice(nn):
    def body(_, x):
        layers = nn.vmap(noise(nn), variable_axes={"params": 0}, split_rngs={"params": True, "noise": True})()
        one, bits = layers(x)
        two, more = layers(one)
        return two, bits, more

    return compact(nn, body)


@case()
def vmap_of_vmap(nn):
    inner = {"in_axes": (0, None), **OWN}

    def body(_, x):
        class Product(nn.Module):
            @nn.compact
            def __call__(self, a, b):
                return dense(nn)()(a) * b + key_bits(self.make_rng("params"))[0]

        layers = nn.vmap(nn.vmap(Product, **inner), in_axes=(None, 0), **OWN)
        return layers()(x, x)

    return compact(nn, body)


@case()
def vmap_decorated_methods_of_setup(nn):
    class Model(nn.Module):
        def setup(self):
            self.layers = [dense(nn)(), dense(nn)()]

        @functools.partial(nn.vmap, in_axes=1, out_axes=1, **SHARED)
        def __call__(self, x):
            return self.layers[1](self.once(x))

        @functools.partial(nn.vmap, axis_size=2, in_axes=None, out_axes=-1, **SHARED)
        def twice(self, x):
            return self.layers[0](x)

        def once(self, x):
            return self.twice(x).sum(-1)

    return Model()


@case()
def vmap_names_of_streams(nn):
    options = {"variable_axes": {"params": 0}, "in_axes": None, "axis_size": 2}

    def body(_, x):
        one = nn.vmap(noise(nn), split_rngs={"params": True, ("noise", "dropout"): True}, **options)()(x)
        two = nn.vmap(noise(nn), split_rngs={nn.DenyList("params"): False, "params": True}, **options)()(x)
        return one, two

    return compact(nn, body)


@case()
def vmap_with_a_mesh_axis_name(nn):
    return compact(nn, lambda _, x: nn.vmap(dense(nn), spmd_axis_name="data", axis_name="batch", **OWN)(2)(x))
