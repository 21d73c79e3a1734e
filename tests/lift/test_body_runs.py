"""How often the body of a transform runs in ``init`` and in ``apply``: as often as in Flax, where bodies may count it.

Libraries refuse a body that runs more often than they think (aqtp), and whoever traces pays for each run.
"""

import flax.linen
import jax
import jax.numpy as jnp
import pytest

from batiste import nn

X, KEY = jnp.ones((3, 4)), jax.random.key(0)
SPLIT = {"params": True, "dropout": True}
SAME = {"params": False, "dropout": True}


def dense(linen, seen):
    """Return a function of a module, a class, and a class with a carry, which note that they run."""

    def layer(module, x):
        seen.append(1)
        return linen.Dropout(0.5, deterministic=False)(linen.Dense(4, name="dense")(x))

    class Layer(linen.Module):
        @linen.compact
        def __call__(self, x):
            return layer(self, x)

    class Step(linen.Module):
        @linen.compact
        def __call__(self, carry, x):
            return layer(self, carry), None

    return layer, Layer, Step


def scanned(linen, kind, **options):
    return lambda x: linen.scan(kind, length=3, **options)()(x, None)[0]


def stacked_scan(linen, kind, **options):
    return scanned(linen, kind, variable_axes={"params": 0}, split_rngs=SPLIT, **options)


def own_derivative(linen, layer, module, x):
    def forward(module, x):
        return linen.vjp(layer, module, x)

    return linen.custom_vjp(layer, forward, lambda pull, cotangent: pull(cotangent))(module, x)


def total(layer):
    return lambda module, x: layer(module, x).sum()


def chosen(n, layer, module, x):
    return n.cond(True, layer, lambda m, x: -layer(m, x), module, x)


BODIES = {
    "remat": lambda n, f, kind, step, m, x: n.remat(kind)()(x),
    "jit": lambda n, f, kind, step, m, x: n.jit(kind)()(x),
    "vmap, each its own": lambda n, f, kind, step, m, x: n.vmap(kind, variable_axes={"params": 0}, split_rngs=SPLIT)()(
        x
    ),
    "vmap, shared": lambda n, f, kind, step, m, x: n.vmap(kind, variable_axes={"params": None}, split_rngs=SAME)()(x),
    "scan, each its own": lambda n, f, kind, step, m, x: stacked_scan(n, step)(x),
    "scan, shared": lambda n, f, kind, step, m, x: scanned(n, step, variable_broadcast="params", split_rngs=SAME)(x),
    "scan, in one pass": lambda n, f, kind, step, m, x: stacked_scan(n, step, check_constancy_invariants=False)(x),
    "scan of remat": lambda n, f, kind, step, m, x: stacked_scan(n, n.remat(step))(x),
    "remat_scan": lambda n, f, kind, step, m, x: n.remat_scan(kind, lengths=(2, 2))()(x),
    "vmap of scan": lambda n, f, kind, step, m, x: n.vmap(
        n.scan(step, variable_axes={"params": 0}, split_rngs=SPLIT, length=3),
        variable_axes={"params": 1},
        split_rngs=SPLIT,
        in_axes=(0, None),
    )()(x, None)[0],
    "vjp": lambda n, f, kind, step, m, x: n.vjp(f, m, x)[0],
    "jvp": lambda n, f, kind, step, m, x: n.jvp(f, m, (x,), (x,), {})[0],
    "grad": lambda n, f, kind, step, m, x: n.grad(total(f), m, x)[0],
    "value_and_grad": lambda n, f, kind, step, m, x: n.value_and_grad(total(f), m, x)[0],
    "custom_vjp": lambda n, f, kind, step, m, x: own_derivative(n, f, m, x),
    "jit of vjp": lambda n, f, kind, step, m, x: n.jit(lambda m, x: n.vjp(f, m, x)[0])(m, x),
    "vjp of custom_vjp": lambda n, f, kind, step, m, x: n.vjp(lambda m, x: own_derivative(n, f, m, x), m, x)[0],
    "map_variables": lambda n, f, kind, step, m, x: n.map_variables(f, "other")(m, x),
    "map_variables, made": lambda n, f, kind, step, m, x: n.map_variables(f, "params", init=True)(m, x),
    "add_metadata_axis": lambda n, f, kind, step, m, x: n.add_metadata_axis(kind, {"params": 0, "other": 1})()(x),
    "cond": lambda n, f, kind, step, m, x: chosen(n, f, m, x),
    "switch": lambda n, f, kind, step, m, x: n.switch(1, [f, f, f], m, x),
    "switch of cond": lambda n, f, kind, step, m, x: n.switch(0, [f, lambda m, x: chosen(n, f, m, x)], m, x),
    "remat of cond": lambda n, f, kind, step, m, x: n.remat(lambda m, x: chosen(n, f, m, x))(m, x),
    "jit of cond": lambda n, f, kind, step, m, x: n.jit(lambda m, x: chosen(n, f, m, x))(m, x),
    "grad of cond": lambda n, f, kind, step, m, x: n.grad(total(lambda m, x: chosen(n, f, m, x)), m, x)[0],
    "vmap of cond": lambda n, f, kind, step, m, x: n.vmap(
        lambda m, x: chosen(n, f, m, x), variable_axes={"params": 0}, split_rngs=SPLIT
    )(m, x),
    "scan of cond": lambda n, f, kind, step, m, x: n.scan(
        lambda m, c, _: (chosen(n, f, m, c), None), variable_axes={"params": 0}, split_rngs=SPLIT, length=3
    )(m, x, None)[0],
    "cond of remat and vjp": lambda n, f, kind, step, m, x: n.cond(
        False, n.remat(f), lambda m, x: n.vjp(f, m, x)[0], m, x
    ),
    "fold_rngs": lambda n, f, kind, step, m, x: n.fold_rngs(kind)()(x),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_body_runs_as_often_as_in_flax(name):
    runs = []
    for linen in (flax.linen, nn):
        seen = []
        layer, kind, step = dense(linen, seen)

        class Model(linen.Module):
            @linen.compact
            def __call__(self, x, linen=linen, layer=layer, kind=kind, step=step):
                return BODIES[name](linen, layer, kind, step, self, x)

        model = Model()
        variables = jax.eval_shape(model.init, {"params": KEY, "dropout": KEY}, X)
        runs.append([len(seen)])
        seen.clear()
        jax.eval_shape(lambda v, model=model: model.apply(v, X, rngs={"dropout": KEY}), variables)
        runs[-1].append(len(seen))
    assert runs[0] == runs[1]


def test_a_value_that_depends_on_data_takes_a_second_run():
    seen = []

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            def body(module, x):
                seen.append(1)
                module.variable("stats", "mean", x.mean)
                return nn.Dense(4, name="dense")(x)

            return nn.vjp(body, self, x)[0]

    assert Model().init(KEY, X)["stats"]["mean"] == 1
    assert len(seen) == 2


def test_two_axes_of_metadata_are_both_told():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            kernel_init = nn.with_partitioning(nn.initializers.ones, ("a", "b"))
            told = nn.add_metadata_axis(nn.Dense, {"params": 0, "other": 1}, {nn.PARTITION_NAME: "layers"})
            return told(4, kernel_init=kernel_init)(x)

    variables = Model().init(KEY, X)
    (layer,) = variables["params"].values()
    assert layer["kernel"].names == ("layers", "a", "b")
    assert Model().apply(variables, X).shape == (3, 4)


def test_a_loop_without_jit_makes_the_same_values():
    layer, _, step = dense(nn, [])

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return stacked_scan(nn, step)(nn.vjp(layer, self, x)[0])

    keys = {"params": KEY, "dropout": KEY}
    compiled = Model().init(keys, X)
    with jax.disable_jit():
        plain = Model().init(keys, X)
    assert jax.tree.all(jax.tree.map(jnp.allclose, compiled, plain))
