"""Conditionals and loops until."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.lift.support import (
    case,
    compact,
    dense,
    key_bits,
    row,
    statistics,
)


@case()
def cond_of_a_layer(nn):
    def body(_, x):
        layer = statistics(nn)()
        return nn.cond(x[0, 0] < 0, lambda layer, x: layer(x), lambda layer, x: layer(x * 2), layer, x)

    return compact(nn, body)


@case()
def cond_with_keys(nn):
    def body(module, x):
        def draw(module, x):
            return x + jax.random.uniform(module.make_rng("noise"), x.shape), key_bits(module.make_rng("noise"))

        return nn.cond(True, draw, draw, module, x), key_bits(module.make_rng("noise"))

    return compact(nn, body)


@case()
def switch_over_layers(nn):
    def body(module, x):
        layers = [dense(nn)(name=f"layer_{index}") for index in range(3)]
        branches = [lambda module, layers, x, index=index: layers[index](x) for index in range(3)]
        if module.is_initializing():
            return [layer(x) for layer in layers]
        return nn.switch(jnp.int32(1), branches, module, layers, x)

    return compact(nn, body)


@case(gradients=False)
def while_counting(nn):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            def test(module, state):
                return module.variables["state"]["count"] < 5

            def step(module, state):
                count = module.variable("state", "count", lambda: jnp.int32(0))
                count.value += 1
                x, _ = state
                return dense(nn)()(x), key_bits(module.make_rng("noise"))

            if self.is_initializing():
                return step(self, (x, None))
            split = {"params": False, "noise": True}
            first = (x, jnp.zeros(2, jnp.uint32))
            return nn.while_loop(test, step, self, first, carry_variables="state", split_rngs=split)

    return Model()


@case(gradients=False)
def while_with_the_same_keys(nn):
    def body(module, x):
        def step(module, state):
            index, bits = state
            return index + 1, bits.at[index].set(key_bits(module.make_rng("noise")))

        first = (0, jnp.zeros((3, 2), jnp.uint32))
        return nn.while_loop(lambda _, state: state[0] < 3, step, module, first, split_rngs={"noise": False})

    return compact(nn, body)


@case()
def cond_in_setup_and_methods(nn):
    class Model(nn.Module):
        def setup(self):
            self.layers = [dense(nn)(), dense(nn)()]
            self.statistics = statistics(nn)()

        def __call__(self, x):
            x = self.statistics(x)
            if self.is_initializing():
                return self.layers[0](self.layers[1](x))
            return nn.cond(x.sum() > 0, Model.first, lambda module, x: module.layers[1](x), self, x)

        def first(self, x):
            return self.layers[0](x)

    return Model()


@case()
def cond_that_writes(nn):
    def body(module, x):
        layer = statistics(nn)()

        def write(layer, x):
            return layer(x) + layer(x * 2)

        if module.is_initializing():
            return layer(x)
        return nn.cond(x.sum() > 100, write, write, layer, x)

    return compact(nn, body)


@case()
def cond_of_some_collections(nn):
    def body(module, x):
        def draw(layer, x):
            assert not layer.has_rng("noise")
            return layer(x)

        layer = dense(nn)()
        if module.is_initializing():
            return layer(x)
        return nn.cond(True, draw, lambda _, x: x, layer, x, variables="params", rngs="params")

    return compact(nn, body)


@case()
def switch_on_init(nn):
    def body(module, x):
        def branch(scale):
            return lambda layer, x, shift: layer(x * scale) + shift["by"]

        layer = dense(nn)()
        index = jnp.int32(7)  # clamped
        return nn.switch(index, [branch(scale) for scale in (1.0, 2.0, 3.0)], layer, x, {"by": x})

    return compact(nn, body)


@case()
def what_is_made_in_a_branch_that_is_known(nn):
    inits = [nn.initializers.normal(), nn.initializers.ones, lambda key, shape: jnp.arange(4.0)]

    def body(module, x):
        def early(number):  # each has an initialiser of its own, and draws keys of its own
            def branch(module, x):
                return x * row(module.param("scale", inits[number], (4,)), x) + dense(nn)(name="layer")(x)

            return branch

        def late(module, x):  # a value that is computed, and one that is written after it was made
            total = module.variable("state", "total", x.sum)
            seen = module.variable("state", "seen", jnp.zeros, ())
            seen.value += total.value
            return row(module.param("shift", lambda key: x[0] * 2), x)

        def noted(module, x):
            module.variable("state", "total", jnp.ones, ())
            module.variable("state", "seen", jnp.zeros, ())
            return row(module.param("shift", nn.initializers.normal(), (4,)), x)

        def within(choice):
            return lambda module, x: nn.cond(choice, late, noted, module, x)

        x = nn.switch(7, [early(1), early(2), early(0)], module, x)  # clamped
        return x + nn.switch(np.int32(1), [within(False), within(True)], module, x)

    return compact(nn, body)


@case()
def what_is_noted_in_one_branch_and_computed_in_another(nn):
    def body(module, x):
        def late(module, x):
            seen = module.variable("state", "seen", jnp.zeros, ())
            seen.value += x.sum()
            return row(module.param("shift", lambda key: x[0] * 2), x)

        def noted(module, x):
            module.variable("state", "seen", jnp.zeros, ())
            return row(module.param("shift", nn.initializers.normal(), (4,)), x)

        return nn.cond(False, late, noted, module, x) + nn.cond(0.0, lambda *_: 1.0, lambda *_: 2.0, module, x)

    return compact(nn, body)


@case()
def modules_among_operands(nn):
    def body(module, x):
        layers = [dense(nn)(name="one"), dense(nn)(name="two")]
        if module.is_initializing():
            return layers[1](layers[0](x))
        fold = lambda module, layers, x: layers[0](x)  # noqa: E731
        return nn.cond(x.sum() > 0, fold, lambda module, layers, x: layers[1](x), module, layers, x)

    return compact(nn, body)


@case()
def a_branch_alone_writes(nn):
    def body(module, x):
        norm = nn.BatchNorm(use_running_average=False)
        if module.is_initializing():
            return norm(x)
        return nn.cond(x[0, 0] < 0, lambda norm, x: norm(x), lambda norm, x: x * 2, norm, x)

    return compact(nn, body)


@case()
def one_of_three_branches_writes(nn):
    def body(module, x):
        count = module.variable("state", "count", jnp.zeros, ())

        def write(module, x):
            module.put_variable("state", "count", module.get_variable("state", "count") + x.sum())
            return x

        return nn.switch(jnp.int32(1), [lambda module, x: x, write, lambda module, x: -x], module, x), count.value

    return compact(nn, body)
