"""What a module sees in the place of its variables and streams."""

import functools

import jax

from tests.lift.support import (
    case,
    compact,
    dense,
    key_bits,
    noise,
    statistics,
    times,
)
from tests.nn.oracle import cheap_initializer


@case()
def map_parameters(nn):
    return compact(nn, lambda _, x: nn.map_variables(dense(nn), "params", times(2), times(0.5), init=True)()(x))


@case()
def map_parameters_beside_others(nn):
    collections = ["params", "other"]
    return compact(nn, lambda _, x: nn.map_variables(dense(nn), collections, times(2), times(0.5), init=True)()(x))


@case()
def map_statistics(nn):
    return compact(nn, lambda _, x: nn.map_variables(statistics(nn), "stats", times(2), times(0.5), mutable=True)()(x))


@case()
def map_tied_weights(nn):
    def body(module, x):
        def transposed(variables):
            return jax.tree.map(lambda value: value.T, variables)

        layer = nn.Dense(2, use_bias=False, kernel_init=cheap_initializer, name="encoder")
        code = layer(x)
        decoder = nn.map_variables(nn.Dense, "params", transposed, transposed, init=True)
        return decoder(4, use_bias=False, kernel_init=cheap_initializer)(code)

    return compact(nn, body)


@case()
def fold_streams(nn):
    def body(_, x):
        layer = nn.fold_rngs(noise(nn))()
        x, bits = layer(x)
        return layer(x), bits

    return compact(nn, body)


@case()
def map_variables_of_methods_and_functions(nn):
    class Model(nn.Module):
        @functools.partial(
            nn.map_variables, mapped_collections="params", trans_in_fn=times(2), trans_out_fn=times(0.5), init=True
        )
        @nn.compact
        def __call__(self, x):
            return dense(nn)()(x) * self.param("scale", cheap_initializer, (1, 4))

    def body(_, x):
        mapped = nn.map_variables(lambda layer, x: layer(x), "params", times(3), times(1 / 4), init=True)
        return mapped(dense(nn)(), Model()(x))

    return compact(nn, body)


@case()
def map_variables_that_are_there(nn):
    def body(_, x):
        layer = dense(nn)()
        return layer(x) + nn.map_variables(lambda layer, x: layer(x), "params", times(2))(layer, x)

    return compact(nn, body)


@case()
def map_some_streams(nn):
    def body(_, x):
        mapped = nn.map_variables(noise(nn), "params", times(2), times(0.5), init=True, rngs=["params", "noise"])
        return mapped()(x)

    return compact(nn, body)


@case()
def fold_streams_of_a_function(nn):
    def body(module, x):
        def draw(module):
            return key_bits(module.make_rng("noise")), key_bits(module.make_rng("params"))

        return nn.fold_rngs(draw)(module), nn.fold_rngs(draw)(module), draw(module)

    return compact(nn, body)
