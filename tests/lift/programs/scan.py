"""Modules as the body of a loop."""

import jax
import jax.numpy as jnp

from tests.lift.support import (
    OWN,
    body_of,
    case,
    cell,
    compact,
    counter,
    dense,
    key_bits,
    noise,
    row,
    statistics,
)
from tests.nn.oracle import cheap_initializer


@case()
def scan_layers(nn):
    return compact(nn, lambda _, x: nn.scan(cell(nn), length=3, **OWN)()(x, None))


@case()
def scan_layers_along_other_axes(nn):
    options = {"variable_axes": {"params": -1}, "split_rngs": {"params": True}}
    return compact(
        nn, lambda _, x: nn.scan(cell(nn), length=3, reverse=True, out_axes=1, unroll=2, **options)()(x, None)
    )


@case()
def scan_time(nn):
    options = {"variable_broadcast": "params", "split_rngs": {"params": False}, "in_axes": 1, "out_axes": 1}
    return compact(nn, lambda _, x: nn.scan(cell(nn), **options)()(jnp.zeros((3, 4)), jnp.stack([x] * 3, 1)))


@case()
def scan_axes_by_argument(nn):
    def body(_, x):
        def step(layer, carry, a, b):
            carry = {"h": layer(carry["h"]) + a["first"] * a["second"], "n": carry["n"] + 1}
            return carry, (carry["h"], {"sum": b.sum(), "same": a["second"]})

        options = {
            "variable_broadcast": "params",
            "split_rngs": {"params": False},
            "in_axes": ({"first": 0, "second": nn.broadcast}, -1),
            "out_axes": (1, {"sum": 0, "same": nn.broadcast}),
        }
        inputs = {"first": jnp.stack([x, -x]), "second": x}
        return nn.scan(step, **options)(dense(nn)(), {"h": x, "n": jnp.int32(0)}, inputs, jnp.ones((3, 2)))

    return compact(nn, body)


@case()
def scan_reverse_outputs(nn):
    def body(_, x):
        def step(module, carry, x):
            return carry + x.sum(), carry

        loop = nn.scan(step, reverse=True, in_axes=0)
        return loop(_, jnp.float32(0), x)

    return compact(nn, body)


@case()
def scan_some_streams(nn):
    def body(_, x):
        results = []
        for params, noise_ in ((True, False), (False, True)):
            options = {"variable_axes": {"params": 0}, "split_rngs": {"params": params, "noise": noise_}}
            results.append(nn.scan(body_of(nn, noise(nn)), length=2, **options)()(x, None))
        options = {"variable_broadcast": "params", "split_rngs": {"params": False, "noise": True}}
        results.append(nn.scan(body_of(nn, noise(nn)), length=2, **options)()(x, None))
        return results

    return compact(nn, body)


@case()
def scan_stacked_statistics(nn):
    options = {"variable_axes": {"params": 0, "stats": 0}, "split_rngs": {"params": True}}
    return compact(nn, lambda _, x: nn.scan(body_of(nn, statistics(nn)), length=3, **options)()(x, None)[0])


@case()
def scan_carried_statistics(nn):
    options = {"variable_broadcast": "params", "variable_carry": "stats", "split_rngs": {"params": False}}

    def body(module, x):
        layer = statistics(nn)(name="layer")
        if module.is_initializing():
            return layer(x)
        return nn.scan(lambda layer, x, _: (layer(x), x.sum()), length=3, **options)(layer, x, None)

    return compact(nn, body)


@case()
def scan_shared_counter(nn):
    options = {"variable_broadcast": "stats"}

    def body(module, x):
        def step(layer, x, _):
            y = layer(x)
            return x, y

        return nn.scan(step, length=3, **options)(counter(nn)(), x, None)

    return compact(nn, body)


@case()
def scan_stacked_counter(nn):
    options = {"variable_axes": {"stats": 0}}
    return compact(nn, lambda _, x: nn.scan(body_of(nn, counter(nn)), length=3, **options)()(x, None)[0])


@case()
def scan_value_of_a_key(nn):
    def body(module, x):
        class Fixed(nn.Module):
            @nn.compact
            def __call__(self, carry, _):
                scale = self.param("scale", cheap_initializer, (1, 4))
                shift = self.variable("fixed", "shift", lambda: jax.random.uniform(self.make_rng("params"), (1, 4)))
                return carry * scale + shift.value, None

        stacked = {"variable_axes": {"params": 0, "fixed": 0}, "split_rngs": {"params": True}}
        shared = {"variable_axes": {"params": 0}, "variable_broadcast": "fixed", "split_rngs": {"params": False}}
        x = nn.scan(Fixed, length=2, **stacked)()(x, None)[0]
        return nn.scan(Fixed, length=2, **shared)()(x, None)[0]

    return compact(nn, body)


@case()
def scan_of_self_with_submodules(nn):
    def body(module, x):
        def step(module, x, _):
            x = x * row(module.param("scale", cheap_initializer, (4,)), x)
            return dense(nn)()(x), key_bits(module.make_rng("noise"))

        options = {"variable_axes": {"params": 0}, "split_rngs": {"params": True, "noise": True}}
        x, bits = nn.scan(step, length=2, **options)(module, x, None)
        return x, bits, key_bits(module.make_rng("noise"))

    return compact(nn, body)


@case()
def scan_weakly_typed_carry(nn):
    def body(module, x):
        def step(module, carry, x):
            return x.sum() * carry, key_bits(module.make_rng("noise"))

        return nn.scan(step, split_rngs={"noise": False})(module, 1.0, x), key_bits(module.make_rng("noise"))

    return compact(nn, body)


@case()
def scan_no_steps(nn):
    return compact(nn, lambda _, x: nn.scan(cell(nn), length=0, **OWN)()(x, None))


@case()
def scan_one_step(nn):
    return compact(nn, lambda _, x: nn.scan(cell(nn), length=1, **OWN)()(x, None))


@case()
def scan_without_inputs(nn):
    def body(module, x):
        return nn.scan(lambda layer, x: (layer(x), x.sum()), length=2, **OWN)(dense(nn)(), x)

    return compact(nn, body)


@case()
def scan_data_transform(nn):
    def double(variables, keys):
        return jax.tree.map(lambda value: value * 2, variables), keys

    def body(_, x):
        return nn.scan(cell(nn), length=2, data_transform=double, **OWN)()(x, None)

    return compact(nn, body)


@case(exact=False)
def scan_lstm(nn):
    def body(_, x):
        inputs = jnp.stack([x, x * 2, -x], 1)
        lstm = nn.scan(nn.LSTMCell, variable_broadcast="params", split_rngs={"params": False}, in_axes=1, out_axes=1)
        layer = lstm(5, kernel_init=cheap_initializer, recurrent_kernel_init=cheap_initializer)
        return layer((jnp.zeros((3, 5)), jnp.zeros((3, 5))), inputs)

    return compact(nn, body)


@case()
def scan_decode(nn):
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            attention = nn.MultiHeadDotProductAttention(2, decode=True, kernel_init=cheap_initializer)
            return x + attention(x), None

    options = {"variable_axes": {"params": 0, "cache": 0}, "split_rngs": {"params": True}}

    def body(module, x):
        tokens = 4 if module.is_initializing() else 1  # a full cache is NaN here, and is written over in Linen
        return nn.scan(Block, length=2, **options)()(x[:1, None] + jnp.zeros((1, tokens, 4)), None)[0]

    return compact(nn, body)


@case()
def scan_methods(nn):
    class Steps(nn.Module):
        def setup(self):
            self.layer = dense(nn)()

        def forth(self, carry, x):
            carry = self.layer(carry + x)
            return carry, carry

        def back(self, carry, x):
            return self.layer(carry * x), None

    shared = {"variable_broadcast": "params", "split_rngs": {"params": False}}

    def body(_, x):
        steps = nn.scan(Steps, methods={"forth": {"out_axes": 1, **shared}, "back": {"reverse": True, **shared}})()
        inputs = jnp.stack([x, -x])
        return steps.forth(x, inputs), steps.back(x, inputs)

    return compact(nn, body)


@case()
def scan_in_setup(nn):
    class Model(nn.Module):
        def setup(self):
            self.layers = nn.scan(cell(nn), length=2, **OWN)()
            self.loop = nn.scan(cell(nn), variable_broadcast="params", split_rngs={"params": False})(name="named")

        def __call__(self, x):
            return self.layers(self.loop(x, jnp.stack([x, x]))[0], None)

    return Model()


@case(exact=False)
def scan_variables_that_only_go_in_or_come_out(nn):
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            self.sow("sums", "sum", x.sum(), reduce_fn=lambda _, new: new, init_fn=lambda: jnp.float32(0))
            shift = self.get_variable("fixed", "shift", jnp.zeros((4,)))
            return dense(nn)()(x) + row(shift, x), None

    def body(module, x):
        axes = {"params": 0, "sums": nn.Out(0), "fixed": nn.In(1)}
        return nn.scan(Block, length=2, variable_axes=axes, split_rngs={"params": True})()(x, None)

    return compact(nn, body)


@case()
def scan_split_transpose(nn):
    return compact(nn, lambda _, x: nn.scan(cell(nn), length=2, _split_transpose=True, **OWN)()(x, None))


@case()
def scan_without_checking_what_is_constant(nn):
    options = {"variable_broadcast": "params", "split_rngs": {"params": False}, "check_constancy_invariants": False}

    def body(module, x):
        def step(layer, carry, a):
            return layer(carry) * a, carry

        layer = dense(nn)()
        if module.is_initializing():
            return step(layer, x, x)
        return nn.scan(step, out_axes=1, **options)(layer, x, jnp.stack([x, -x]))

    return compact(nn, body)


@case()
def scan_carried_statistics_of_two_steps(nn):
    class Tracked(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            mean = self.variable("stats", "mean", lambda: jnp.zeros((4,)))
            mean.value = 0.5 * mean.value + x.mean(0)
            return dense(nn)()(x) + row(mean.value, x), mean.value

    options = {"variable_broadcast": "params", "variable_carry": "stats", "split_rngs": {"params": False}}

    def body(module, x):
        tracked = Tracked(name="tracked")
        if module.is_initializing():
            return tracked(x, None)
        return nn.scan(lambda layer, x, _: layer(x, _), length=3, **options)(tracked, x, None)

    return compact(nn, body)
