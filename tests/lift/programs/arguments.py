"""Variables handed to a body as arguments, and names that a body makes once more."""

import jax.numpy as jnp

from tests.lift.support import case, compact
from tests.nn.oracle import cheap_initializer


def counter(module, shape=()):
    return module.variable("counts", "n", jnp.zeros, shape)


@case()
def written_variables_as_arguments(nn):
    def add(_, held, x):
        held["n"].value += x.sum()
        return x * held["n"].value

    def nested(module, held, x):
        return nn.remat(add)(module, held, x) + nn.jit(add)(module, held, x)

    def body(module, x):
        held = {"n": counter(module), "other": [x]}
        return nn.jit(nested)(module, held, x), held["n"].value

    return compact(nn, body)


@case()
def written_variables_in_loops(nn):
    def add(_, held, x):
        held.value += x.sum()
        return x * held.value

    def step(_, carry, x, held):
        held.value += 1.0
        return carry + held.value, x

    def body(module, x):
        rows = counter(module, (len(x),))
        mapped = nn.vmap(add, variable_axes={"counts": 0}, in_axes=(None, 0))(module, rows, x)
        steps = module.variable("steps", "n", jnp.zeros, ())
        scan = nn.scan(step, variable_carry="steps", in_axes=(0, nn.broadcast))
        return mapped, scan(module, 0.0, x, steps), rows.value, steps.value

    return compact(nn, body)


@case(gradients=False)
def names_made_once_more(nn):
    def layer(module, x):
        module.variable("counts", "n", jnp.zeros, ())
        return nn.Dense(4, kernel_init=cheap_initializer, name="layer")(x)

    def body(module, x):
        y = nn.jit(layer)(module, layer(module, x))
        y = nn.switch(1, [layer, layer], module, nn.remat(layer)(module, y))
        return nn.while_loop(lambda _, c: c[0] < 2, lambda m, c: (c[0] + 1, layer(m, c[1])), module, (0, y))

    return compact(nn, body)


@case(mutable=["params"], gradients=False)
def map_variables_that_may_change(nn):
    def layer(_, x):
        y = nn.Dense(4, kernel_init=cheap_initializer, name="layer")(x)
        return nn.Dropout(0.5, deterministic=False)(y)

    return compact(nn, nn.map_variables(layer, "params", init=True, mutable=True))
