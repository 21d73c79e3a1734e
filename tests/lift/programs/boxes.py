"""Boxes with names of axes, on their way through transforms."""

import jax.numpy as jnp

from tests.lift.support import case, compact, row, times
from tests.nn.oracle import cheap_initializer


def boxed(nn, *, logical=True, state=True):
    box = nn.with_logical_partitioning if logical else nn.with_partitioning

    class Boxed(nn.Module):
        @nn.compact
        def __call__(self, x):
            kernel = self.param("kernel", box(cheap_initializer, ("in", "out")), (x.shape[-1], 4))
            bias = self.param("bias", box(cheap_initializer, ("out",)), (4,))
            if state:
                bias = bias + self.variable("state", "shift", box(lambda: jnp.ones(4), ("out",))).value
            return jnp.tanh(x @ kernel + row(bias, x))

    return Boxed


def layers(nn, axis_name="layers", **options):
    axes = {"params": 0, "state": 1}
    return {
        "variable_axes": axes,
        "split_rngs": {"params": True},
        "metadata_params": {nn.PARTITION_NAME: axis_name},
        **options,
    }


def looped(nn, layer):
    class Body(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return layer(name="layer")(x), None

    return Body


@case()
def boxes_in_vmap(nn):
    return compact(nn, lambda _, x: nn.vmap(boxed(nn), **layers(nn))()(x))


@case()
def boxes_in_scan(nn):
    return compact(nn, lambda _, x: nn.scan(looped(nn, boxed(nn)), length=2, **layers(nn))()(x, None)[0])


@case()
def boxes_without_a_name_in_scan(nn):
    body = looped(nn, boxed(nn, logical=False))
    return compact(nn, lambda _, x: nn.scan(body, length=2, **layers(nn, None))()(x, None)[0])


@case()
def boxes_in_scan_of_remat(nn):
    body = nn.remat(looped(nn, boxed(nn)), prevent_cse=False)
    return compact(nn, lambda _, x: nn.scan(body, length=2, **layers(nn))()(x, None)[0])


@case()
def boxes_in_scan_of_vmap(nn):
    def body(_, x):
        mapped = nn.vmap(boxed(nn), **layers(nn, "experts"))
        return nn.scan(looped(nn, mapped), length=2, **layers(nn))()(x, None)[0]

    return compact(nn, body)


@case()
def boxes_in_shared_scan(nn):
    options = {"variable_broadcast": ["params", "state"], "split_rngs": {"params": False}}
    return compact(nn, lambda _, x: nn.scan(looped(nn, boxed(nn)), length=2, **options)()(x, None)[0])


@case()
def boxes_in_calls(nn):
    return compact(nn, lambda _, x: nn.jit(boxed(nn))()(nn.remat(boxed(nn))()(x)))


@case()
def boxes_in_map_variables(nn):
    layer = boxed(nn, state=False)
    return compact(nn, lambda _, x: nn.map_variables(layer, "params", times(2), times(0.5), init=True)()(x))


@case()
def boxes_with_an_added_axis(nn):
    options = {"variable_axes": {"params": 0}, "metadata_params": {nn.PARTITION_NAME: "layers"}}
    return compact(nn, lambda _, x: nn.add_metadata_axis(boxed(nn), **options)()(x))


@case()
def boxes_in_derivatives_and_branches(nn):
    def body(_, x):
        y, pull = nn.vjp(lambda layer, x: layer(x), boxed(nn)(), x)
        layer = boxed(nn)()
        y = nn.cond(x.sum() > 0, lambda layer, x: layer(x), lambda layer, x: layer(-x), layer, y)
        return y, pull(y)

    return compact(nn, body)
