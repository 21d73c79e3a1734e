"""`core.lift`: every transform of functions of a scope, run in batiste and in Flax."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import core as flax_core

from batiste.compat.flax import core as our_core
from tests.compat.test_core_scope import assert_same_in_both, counted, dense, noisy
from tests.nn.oracle import drawn

RNGS = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
X = drawn(2, 3, 4)


@pytest.fixture(autouse=True)
def rules_of_users(users_rules):
    """Flax's own code broadcasts by rank."""


def run(build, *args, mutable=True, rngs=RNGS):
    """Return what `build(lift)`, a function of a scope, comes to on `init` and on `apply`."""

    def with_library(core):
        function = build(core.lift)
        output, variables = core.init(function)(rngs, *args)
        applied = core.apply(function, mutable=mutable)(variables, *args, rngs={"dropout": jax.random.key(7)})
        return output, variables, applied

    return with_library


def assert_same_lift(build, *args, **options):
    assert_same_in_both(run(build, *args, **options))


def layer(scope, x):
    y = scope.child(dense)(x, x.shape[-1])
    scope.child(counted)()
    return scope.child(noisy)(y)


def test_id_fn_and_axes():
    def of(core):
        return core.lift.id_fn(3), core.lift.In(1).axis, core.lift.Out(axis=2).axis, repr(core.lift.In(1))

    assert_same_in_both(of)


@pytest.mark.parametrize("name", ["remat", "checkpoint"])
def test_plain(name):
    assert_same_lift(lambda lift: getattr(lift, name)(layer), X)
    assert_same_lift(lambda lift: lambda scope, x: scope.child(getattr(lift, name)(layer), "in")(x), X)
    assert_same_lift(lambda lift: lambda scope, x: getattr(lift, name)(noisy)(scope, noisy(scope, x)), X)


def test_remat_options():
    def power(scope, x, n):
        return dense(scope, x, 4) ** n

    assert_same_lift(lambda lift: lift.remat(power, static_argnums=(1,), prevent_cse=False), X, 2)
    policy = jax.checkpoint_policies.dots_saveable

    def build(lift):
        body = lift.remat(power, policy=policy, static_argnums=1, variables=["params"], rngs=["params"])
        return lambda scope, x: lift.vjp(lambda scope, x: jnp.sum(body(scope, x, 3)), scope, x)[1](jnp.ones(()))

    assert_same_lift(build, X)


@pytest.mark.parametrize("name", ["jit", "fold_rngs"])
def test_folded_keys(name):
    """Flax's take the first argument for a key of their cache, and draw the same keys in every child; ours neither."""

    def drawn(scope, which=0):
        return jax.random.key_data(scope.make_rng("params")), scope.param("a", jax.random.normal, (2,))

    def children(lift):
        return lambda scope: [scope.child(getattr(lift, name)(drawn), f"in{n}")(0)[0] for n in range(2)]

    (first, second), variables = our_core.init(children(our_core.lift))(RNGS)
    assert first.tolist() != second.tolist()
    (first, second), wanted = flax_core.init(children(flax_core.lift))(RNGS)
    assert first.tolist() == second.tolist()
    assert jax.tree.structure(variables) == jax.tree.structure(wanted)
    with pytest.raises((TypeError, ValueError), match="hash"):
        flax_core.init(getattr(flax_core.lift, name)(dense))(RNGS, X, 4)
    static = {"static_argnums": 2} if name == "jit" else {}  # the width, which a program cannot trace
    lifted = getattr(our_core.lift, name)(dense, **static)
    got, variables = our_core.init(lifted)(RNGS, X, 4)
    np.testing.assert_allclose(our_core.apply(lifted)(variables, X, 4), got, rtol=1e-6)
    np.testing.assert_allclose(flax_core.apply(dense)(variables, X, 4), got, rtol=1e-6)


def test_jit_options():
    def power(scope, x, n, flip=False):
        y = dense(scope, x, 4) ** n
        return -y if flip else y

    compiled = our_core.lift.jit(power, static_argnums=2, static_argnames="flip", variables=True, rngs=True)
    got, variables = our_core.init(compiled)(RNGS, X, 2, flip=True)
    np.testing.assert_allclose(our_core.apply(power)(variables, X, 2, flip=True), got, rtol=1e-6)


@pytest.mark.parametrize(
    ("variable_axes", "split_rngs", "options"),
    [
        ({"params": 0, "counts": 0}, {"params": True, "dropout": True}, {}),
        ({"params": 1, "counts": 0}, {"params": True, "dropout": False}, {"out_axes": 1}),
        ({"params": None, "counts": None}, {"params": False, "dropout": False}, {"in_axes": 1}),
        ({True: 0}, {True: True}, {"axis_size": 3, "axis_name": "mapped"}),
    ],
)
def test_vmap(variable_axes, split_rngs, options):
    assert_same_lift(lambda lift: lift.vmap(layer, variable_axes, split_rngs, **options), X)
    assert_same_lift(lambda lift: lambda s, x: s.child(lift.vmap(layer, variable_axes, split_rngs, **options))(x), X)


def step(scope, carry, x):
    y = scope.child(layer)(carry + x)
    return y, jnp.sum(y)


def counting_step(scope, carry, x):
    counted(scope)
    y = scope.child(noisy)(scope.child(dense)(carry + x, 4))
    return y, jnp.sum(y)


EACH = {"variable_axes": {"params": 0, "counts": 0}, "split_rngs": {"params": True, "dropout": True}}


@pytest.mark.parametrize(
    "options",
    [
        EACH,
        EACH | {"split_rngs": {"params": True, "dropout": False}},
        EACH | {"reverse": True, "unroll": 2, "length": 3},
    ],
    ids=["each", "one noise", "reverse"],
)
def test_scan(options):
    assert_same_lift(lambda lift: lambda scope, xs: lift.scan(step, **options)(scope, jnp.ones(4), xs), X)


@pytest.mark.parametrize(
    "options",
    [
        {"variable_axes": {"params": 1}, "variable_carry": "counts", "split_rngs": {"params": True, "dropout": False}},
        {"variable_broadcast": "params", "variable_carry": "counts", "split_rngs": {"params": False, "dropout": True}},
    ],
    ids=["stacked", "shared"],
)
def test_scan_with_carried_variables(options):
    def build(lift):
        def looped(scope, xs):
            counted(scope)
            return lift.scan(counting_step, **options)(scope.rewound(), jnp.ones(4), xs)

        return looped

    assert_same_lift(build, X)


def test_scan_with_axes():
    def build(lift):
        def body(scope, carry, x, shared):
            return carry + dense(scope, x, 4) * shared, x

        looped = lift.scan(
            body, variable_broadcast="params", in_axes=(1, lift.broadcast), out_axes=1, split_rngs={"params": False}
        )
        return lambda scope, xs: looped(scope, jnp.zeros(4), xs, 2.0)

    assert_same_in_both(lambda core: run(lambda lift: build(_WithBroadcast(core)), X)(core))


class _WithBroadcast:
    """`lift` with `broadcast`, which Flax has in `core` alone."""

    def __init__(self, core):
        self.scan, self.broadcast = core.lift.scan, core.broadcast


def test_remat_scan():
    def body(scope, x):
        return scope.child(dense)(x, 4)

    def build(lift):
        return lift.remat_scan(body, (2, 3), variable_axes={"params": 0}, split_rngs={"params": True})

    assert_same_lift(build, X)


def test_while_loop():
    def build(lift):
        def loop(scope, x):
            counter = scope.variable("state", "n", lambda: jnp.zeros((), jnp.int32))
            kernel = scope.param("kernel", jax.random.normal, (4, 4))

            def cond_fn(scope, carry):
                return scope.get_variable("state", "n") < 3

            def body_fn(scope, carry):
                scope.put_variable("state", "n", scope.get_variable("state", "n") + 1)
                return carry @ scope.get_variable("params", "kernel") + jnp.ones(4)

            del counter, kernel
            options = {"carry_variables": "state", "broadcast_variables": "params"}
            return lift.while_loop(cond_fn, body_fn, scope, x, **options, split_rngs={"params": False, "dropout": True})

        return loop

    assert_same_lift(build, X, mutable=["state"])


def test_cond_and_switch():
    def build(lift):
        def model(scope, x, which):
            def add(scope, x):
                counted(scope.push("branch"))
                return scope.child(dense, "add")(x, 4)

            def double(scope, x):
                counted(scope.push("branch"))
                return 2 * x

            for branch in (add, double):
                if scope.is_mutable_collection("params"):
                    branch(scope.rewound(), x)
            y = lift.cond(which > 0, add, double, scope, x)
            return y, lift.switch(which, [double, add], scope.rewound(), x)

        return model

    for which in (0, 1):
        assert_same_lift(build, X, which, mutable=["counts"])


def test_gradients():
    def loss(scope, x, y):
        return jnp.sum(scope.child(dense)(x, 4) ** 2) * y

    def with_aux(scope, x, y):
        return loss(scope, x, y), {"x": x}

    def build(lift, has_aux):
        function = with_aux if has_aux else loss

        def model(scope, x):
            primal, pull, *aux = lift.vjp(function, scope, x, 2.0, has_aux=has_aux)
            shared = scope.rewound()
            grads = lift.value_and_grad(function, shared, x, 3.0, has_aux=has_aux)
            return primal, pull(jnp.ones(())), aux, grads

        return model

    for has_aux in (False, True):
        assert_same_lift(functools.partial(build, has_aux=has_aux), X)


def test_jvp():
    def build(lift):
        def model(scope, x):
            function = functools.partial(dense, features=4)
            function(scope.rewound(), x)
            tangents = {"params": {"kernel": jnp.ones((4, 4))}}
            return lift.jvp(function, scope, (x,), (2 * x,), tangents)

        return model

    assert_same_lift(build, X)


def test_custom_vjp():
    def build(lift):
        def forward(scope, x):
            y, pull = lift.vjp(functools.partial(dense, features=4), scope, x)
            return y, pull

        def backward(pull, cotangent):
            params, x = pull(cotangent)
            return jax.tree.map(jnp.sign, params), x

        function = lift.custom_vjp(functools.partial(dense, features=4), forward, backward)

        def model(scope, x):
            _, pull = lift.vjp(lambda scope, x: jnp.sum(function(scope, x)), scope, x)
            return pull(jnp.ones(()))

        return model

    assert_same_lift(build, X)


@pytest.mark.parametrize("init", [False, True])
def test_map_variables(init):
    def transposed(variables):
        return jax.tree.map(jnp.transpose, variables)

    def build(lift):
        mapped = lift.map_variables(
            functools.partial(dense, features=4), "params", transposed, transposed, init=init, mutable=True
        )
        return lambda scope, x: scope.child(mapped, "in")(x)

    # With `init`, Flax's apply changes mutable parameters: it takes what is stored for what has just been made.
    assert_same_lift(build, X, mutable=not init)


def test_swap_collection():
    def build(lift):
        return lift.swap_collection(functools.partial(dense, features=4), "params", "other")

    assert_same_lift(build, X)


def test_several_scopes():
    def build(lift):
        def both(scopes, x):
            one, two = scopes
            return dense(two, dense(one, x, 4), 4)

        def model(scope, x):
            scopes = scope.push("one"), scope.push("two")
            kinds = lift.vmap(both, {"params": 0}, {"params": True}), lift.remat(both)
            return [kind((scopes[0].push(f"k{i}"), scopes[1].push(f"k{i}")), x) for i, kind in enumerate(kinds)]

        return model

    assert_same_lift(build, X)


def test_nested():
    def build(lift):
        inner = lift.remat(step)
        looped = lift.scan(
            inner, variable_axes={"params": 0, "counts": 0}, split_rngs={"params": True, "dropout": True}
        )
        return lift.vmap(looped, {"params": 0, "counts": 0}, {"params": True, "dropout": True}, in_axes=(None, 0))

    assert_same_lift(build, jnp.ones(4), jnp.stack([X, X]))
