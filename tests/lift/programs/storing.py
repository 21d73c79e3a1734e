"""What is stored beside results, and dtypes."""

import functools

import jax.numpy as jnp
import numpy as np

from tests.lift.support import (
    OWN,
    X,
    case,
    cell,
    compact,
    dense,
    row,
)
from tests.nn.oracle import cheap_initializer


@case(mutable=["intermediates"], capture=True)
def sow_and_capture_in_vmap(nn):
    class Sowing(nn.Module):
        @nn.compact
        def __call__(self, x):
            self.sow("intermediates", "sum", x.sum())
            self.sow("intermediates", "sum", x.sum() * 2)
            return self.perturb("shift", dense(nn)()(x))

    options = {"params": 0, "intermediates": 0, "perturbations": 0}

    def body(_, x):
        one = nn.vmap(Sowing, variable_axes=options, split_rngs={"params": True})()(x)
        return nn.vmap(Sowing, variable_axes=options, split_rngs={"params": True})()(one)

    return compact(nn, body)


@case(mutable=["intermediates"], capture=True)
def sow_and_capture_in_scan(nn):
    class Sowing(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            self.sow("intermediates", "sum", x.sum())
            return self.perturb("shift", dense(nn)()(x)), None

    axes = {"params": 0, "intermediates": 0, "perturbations": 0}
    options = {"variable_axes": axes, "split_rngs": {"params": True}, "length": 2}
    return compact(nn, lambda _, x: nn.scan(Sowing, **options)()(x, None)[0])


@case(mutable=["intermediates"], capture=True)
def sow_and_capture_elsewhere(nn):
    class Sowing(nn.Module):
        @nn.compact
        def __call__(self, x):
            self.sow("intermediates", "sum", x.sum())
            return self.perturb("shift", dense(nn)()(x))

    def body(_, x):
        x = nn.jit(Sowing)()(nn.remat(Sowing)()(x))
        return nn.vjp(lambda layer, x: layer(x), Sowing(), x)[0]

    return compact(nn, body)


@case()
def dropout_in_loops(nn):
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return nn.Dropout(0.5, deterministic=False)(dense(nn)()(x)), None

    def body(_, x):
        options = {"variable_axes": {"params": 0}, "split_rngs": {"params": True, "dropout": True}, "length": 2}
        x = nn.scan(nn.remat(Block), **options)()(x, None)[0]
        shared = {"variable_axes": {"params": 0}, "split_rngs": {"params": True, "dropout": False}}
        return nn.vmap(Block, in_axes=(0, None), **shared)()(x, None)[0]

    return compact(nn, body)


@case()
def has_variable_before_it_is_made(nn):
    class Cached(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            is_there = self.has_variable("cache", "sum")
            held = self.variable("cache", "sum", jnp.zeros, (4,))
            if is_there:
                held.value = held.value + x.reshape(-1, 4).sum(0)
            return x + row(held.value, x) * self.param("scale", cheap_initializer, (1, 1)).reshape((1,) * x.ndim), None

    def body(_, x):
        stacked = {"variable_axes": {"params": 0, "cache": 0}, "split_rngs": {"params": True}}
        x = nn.scan(Cached, length=2, **stacked)()(x, None)[0]
        x = nn.vmap(Cached, in_axes=(0, None), **stacked)()(x, None)[0]
        return nn.remat(Cached)()(x, None)[0]

    return compact(nn, body)


@case(args=(np.arange(12, dtype=np.float32).reshape(3, 4),))
def numpy_inputs(nn):
    return compact(nn, lambda _, x: nn.scan(cell(nn), length=2, **OWN)()(nn.remat(dense(nn))()(x), None))


@case(args=(X.astype(jnp.bfloat16),), exact=False)
def half_precision(nn):
    def body(_, x):
        layer = functools.partial(nn.Dense, dtype=jnp.bfloat16, kernel_init=cheap_initializer)
        return nn.vmap(layer, **OWN)(4)(nn.remat(layer)(4)(x))

    return compact(nn, body)
