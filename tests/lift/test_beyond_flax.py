"""What works here and not in Linen: keywords everywhere, loops that make what they carry, boxes in nested loops."""

import copy
import functools
import pickle

import jax
import jax.numpy as jnp
import pytest

from batiste import nn
from batiste.lift import In, Out
from tests.lift.support import KEYS, OWN, QUICKLY, SHARED, X, dense, row
from tests.nn.oracle import assert_same, cheap_initializer

Dense = dense(nn)
INNER = {"variable_broadcast": "params", "split_rngs": {"params": False}}


class Scaled(nn.Module):
    @nn.compact
    def __call__(self, x, *, by, wide=False, more=None):
        x = Dense(5 if wide else 4)(x) * by
        return x if more is None else x + more["shift"]


class Step(nn.Module):
    @nn.compact
    def __call__(self, carry, x, *, by, double=False):
        carry = Dense()(carry + x) * by * (2 if double else 1)
        return carry, carry


def model(body):
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return body(x)

    return Model()


def holding(make):
    """Return a model that is one layer."""

    def body(x):
        layer = make()
        return layer(x)

    return model(body)


def run(*bodies):
    """Return the results of models, whose first leaves have the same names, with one set of variables."""
    variables = model(bodies[0]).init(KEYS, X)
    run = jax.jit(lambda v: [model(body).apply(v, X, rngs=KEYS) for body in bodies], compiler_options=QUICKLY)
    return run(variables)


def same(*bodies):
    first, *others = run(*bodies)
    for other in others:
        assert_same(other, first, exact=False)


def test_keywords_of_vmap_are_mapped_if_they_are_arrays():
    layer = nn.vmap(Scaled, **SHARED, keep_name=True)
    more = {"shift": X}
    same(
        lambda x: Scaled()(x, by=2.0, more=more),
        lambda x: layer()(x, by=2.0, more=more),
        lambda x: layer()(x, by=2.0, wide=False, more={"shift": X}),
    )


def test_keywords_of_scan_are_the_same_in_every_step():
    inputs = jnp.stack([X, -X])

    def plain(x):
        step, outputs = Step(), []
        for each in inputs:
            x, output = step(x, each, by=X, double=True)
            outputs.append(output)
        return x, jnp.stack(outputs)

    same(plain, lambda x: nn.scan(Step, **INNER, keep_name=True)()(x, inputs, by=X, double=True))


@pytest.mark.parametrize(
    "transform",
    [
        functools.partial(nn.remat, static_argnames="wide"),
        functools.partial(nn.jit, static_argnames=("wide",)),
        nn.fold_rngs,
        functools.partial(nn.map_variables, init=True),
    ],
)
def test_keywords_that_are_no_arrays(transform):
    same(
        lambda x: Scaled()(x, by=2.0, wide=True),
        lambda x: transform(Scaled, keep_name=True)()(x, by=2.0, wide=True),
        lambda x: transform(Scaled, keep_name=True)()(x=x, by=2.0, wide=True),
    )


def test_keywords_of_functions_and_methods():
    class Model(nn.Module):
        @functools.partial(nn.remat, static_argnames="wide")
        @nn.compact
        def __call__(self, x, *, wide):
            return nn.jit(lambda layer, x, *, by: layer(x) * by)(Dense(5 if wide else 4), x, by=2.0)

    variables = Model().init(KEYS, X, wide=True)
    assert Model().apply(variables, X, wide=True).shape == (3, 5)
    assert list(variables["params"]) == ["Dense_0"]


def test_keywords_of_remat_scan():
    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x, *, by):
            return Dense()(x) * by

    def looped(x):
        return nn.remat_scan(Layer, lengths=(2,), keep_name=True)(name="layers")(x, by=2.0)

    variables = model(looped).init(KEYS, X)
    assert jax.tree.map(jnp.shape, variables["params"]["layers"]["Dense_0"]) == {"bias": (2, 4), "kernel": (2, 4, 4)}


def test_a_compact_method_that_is_lifted_before_it_is_marked():
    class Model(nn.Module):
        @nn.compact
        @nn.remat
        def __call__(self, x):
            return Dense()(x) * self.param("scale", cheap_initializer, (1, 4))

    assert list(Model().init(KEYS, X)["params"]) == ["Dense_0", "scale"]


class Tracked(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        mean = self.variable("stats", "mean", jnp.zeros, (4,))
        mean.value = 0.5 * mean.value + x.mean(0)
        return Dense()(x) + row(mean.value, x), mean.value


def test_a_loop_makes_what_it_carries():
    options = {"variable_carry": "stats", **INNER}

    def plain(x):
        layer, outputs = Tracked(), []
        for _ in range(3):
            x, output = layer(x, None)
            outputs.append(output)
        return x, jnp.stack(outputs)

    def looped(x):
        return nn.scan(Tracked, length=3, **options, keep_name=True)()(x, None)

    wanted, got = (jax.jit(model(body).init_with_output)(KEYS, X) for body in (plain, looped))
    assert_same(got, wanted, exact=False)
    assert_same(model(looped).init(KEYS, X), wanted[1], exact=False)
    wanted, got = (model(body).apply(wanted[1], X, mutable=["stats"]) for body in (plain, looped))
    assert_same(got, wanted, exact=False)


def test_boxes_in_nested_loops_name_each_axis():
    init = nn.with_logical_partitioning(cheap_initializer, ("in", "out"))
    layer = functools.partial(nn.Dense, 4, kernel_init=init)

    def loops(told):
        return nn.remat_scan(layer, lengths=(2, 3), metadata_params=told)(name="layers")

    told = [{nn.PARTITION_NAME: "blocks"}, {nn.PARTITION_NAME: "layers"}]
    named = holding(lambda: loops(told))
    variables = named.init(KEYS, X)
    kernel = variables["params"]["layers"]["kernel"]
    assert kernel.names == ("blocks", "layers", "in", "out")
    assert kernel.value.shape == (2, 3, 4, 4)
    shared = holding(lambda: loops({nn.PARTITION_NAME: None}))
    assert shared.init(KEYS, X)["params"]["layers"]["kernel"].names == (None, None, "in", "out")
    assert named.apply(variables, X).shape == X.shape


def test_boxes_take_an_axis_from_the_end():
    init = nn.with_partitioning(cheap_initializer, ("in", "out"))
    told = {nn.PARTITION_NAME: "heads"}
    options = {"variable_axes": {"params": -1}, "split_rngs": {"params": True}, "metadata_params": told}
    heads = holding(lambda: nn.vmap(nn.Dense, **options)(4, kernel_init=init))
    kernel = heads.init(KEYS, X)["params"]["VmapDense_0"]["kernel"]
    assert kernel.names == ("in", "out", "heads")
    assert kernel.value.shape == (4, 4, 3)


def test_branches_that_write_different_variables_are_traced_once():
    calls = []

    class Counted(nn.Module):
        @nn.compact
        def __call__(self, x):
            calls.append(1)
            seen = self.variable("stats", "seen", jnp.zeros, ())
            seen.value += x.sum()
            return x

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            counted = Counted()
            if self.is_initializing():
                return counted(x)

            def inner(counted, x):
                return nn.cond(True, lambda c, x: c(x), lambda _, x: -x, counted, x)

            x = nn.cond(x.sum() > 0, inner, lambda _, x: x, counted, x)
            return nn.switch(2, [lambda c, x: c(x), lambda _, x: x, lambda c, x: c(c(x))], counted, x)

    variables = Model().init(KEYS, X)
    calls.clear()
    _, changed = Model().apply(variables, abs(X), mutable="stats")
    assert len(calls) == 4
    assert changed["stats"]["Counted_0"]["seen"] == pytest.approx(float(3 * abs(X).sum()), rel=1e-5)


def test_an_error_of_the_body_stays_what_it_is():
    """No error is told from another by its words."""

    def failing(error):
        def body(module, carry, *_):
            module.put_variable("stats", "seen", carry.sum())
            raise error

        return body

    class Model(nn.Module):
        error: Exception

        @nn.compact
        def __call__(self, x):
            body, own = failing(self.error), {"variable_axes": {"stats": None}, "split_rngs": {}}
            if isinstance(self.error, TypeError):
                return nn.scan(body, variable_carry="stats", length=2)(self, x)
            return nn.vmap(body, **own)(self, x)

    for error in (TypeError("carry"), ValueError("out_axes[1] of vmap")):
        with pytest.raises(type(error), match=r"^" + str(error).replace("[", r"\[")) as caught:
            Model(error).apply({"stats": {"seen": jnp.zeros(())}}, X, mutable="stats")
        assert caught.value is error


def test_one_way_axes_are_public():
    options = {"variable_axes": {"params": 0, "seen": Out(0), "given": In(None)}, "split_rngs": {"params": True}}

    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x):
            self.sow("seen", "x", x)
            return Dense()(x) + self.get_variable("given", "shift", 0.0)

    layers = holding(lambda: nn.vmap(Layer, **options, keep_name=True)(name="layers"))
    variables = layers.init(KEYS, X)
    given = {"layers": {"shift": jnp.float32(3)}}
    plain, _ = layers.apply(variables, X, mutable=["seen"])
    shifted, seen = layers.apply({**variables, "given": given}, X, mutable=["seen", "given"])
    assert_same(shifted, plain + 3, exact=False)
    assert list(seen) == ["seen"] or seen.get("given") == given


def test_a_lifted_class_is_one_class():
    assert nn.vmap(Dense, **OWN) is nn.vmap(Dense, **OWN)
    assert nn.vmap(Dense, **OWN) is not nn.vmap(Dense, **SHARED)
    assert issubclass(nn.remat(Dense), Dense)
    assert nn.remat(Dense)() == nn.remat(Dense)()


class NamedLifted(nn.remat(nn.Dense)):
    """A class of its own, found by its name."""


@pytest.mark.parametrize(
    "module",
    [
        nn.remat(nn.Dense)(3),
        nn.jit(nn.remat(nn.Dense))(3),
        nn.vmap(nn.Dense, variable_axes={"params": 0}, split_rngs={"params": True})(3),
        nn.Sequential([nn.remat(nn.Dense)(2)]),
        NamedLifted(3),
    ],
    ids=repr,
)
def test_lifted_modules_pickle(module):
    for copied in (pickle.loads(pickle.dumps(module)), copy.deepcopy(module), copy.copy(module)):  # noqa: S301 - ours
        assert type(copied) is type(module)
        assert copied == module
        assert hash(copied) == hash(module)
