"""`core.scope`: functions of a scope do the same in batiste and in Flax, flags and all."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import core as flax_core

from batiste import nn
from batiste.compat.flax import core, errors
from batiste.core import Scope
from batiste.errors import UnsupportedOptionError
from tests.compat.pairs import assert_same, outcome

RNGS = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
LIBRARIES = (core, flax_core)


def leaves(tree, path=""):
    """Return what is in nested mappings and sequences by path, random keys as their data."""
    if hasattr(tree, "items"):
        tree = dict(tree)
        if not tree:
            return {path: {}}
        return {inner: leaf for name in sorted(tree) for inner, leaf in leaves(tree[name], f"{path}/{name}").items()}
    if isinstance(tree, tuple | list):
        if not tree:
            return {path: ()}
        return {inner: leaf for at, part in enumerate(tree) for inner, leaf in leaves(part, f"{path}[{at}]").items()}
    is_key = isinstance(tree, jax.Array) and jnp.issubdtype(tree.dtype, jax.dtypes.prng_key)
    return {path: jax.random.key_data(tree) if is_key else tree}


def assert_same_in_both(function, *args, **kwargs):
    """Hold that a function that is given a library comes to the same in both; floats within 1e-6."""
    ours, theirs = (functools.partial(function, library, *args, **kwargs) for library in LIBRARIES)
    wanted = outcome(theirs)
    if isinstance(wanted, Exception):
        assert_same(ours, theirs)
        return
    got, wanted = leaves(ours()), leaves(wanted)
    assert list(got) == list(wanted)
    for path, leaf in wanted.items():
        if hasattr(leaf, "shape"):
            assert (got[path].shape, got[path].dtype) == (leaf.shape, leaf.dtype), path
            np.testing.assert_allclose(got[path], leaf, rtol=2e-6, atol=2e-6, err_msg=path)
        else:
            assert got[path] == leaf, path


def dense(scope, x, features):
    kernel = scope.param("kernel", jax.nn.initializers.lecun_normal(), (x.shape[-1], features))
    return x @ kernel


def noisy(scope, x):
    return x + jax.random.normal(scope.make_rng("dropout"), x.shape)


def counted(scope):
    count = scope.variable("counts", "n", lambda: jnp.zeros((), jnp.int32))
    count.value += 1
    return count.value


def model(scope, x):
    x = scope.child(dense)(x, 4)
    x = scope.child(dense, "named")(x, features=3)
    x = scope.child(dense, prefix="more_")(x, 3)
    x = scope.child(dense, features=2)(x)
    tied = scope.child(dense, "tied")
    x = tied(tied(x, 2), 2)
    x = scope.child(noisy)(x) + scope.child(noisy)(x)
    x = noisy(scope.push(prefix="pushed"), noisy(scope, x))
    return x, scope.child(counted)()


def test_init_and_apply():
    x = jnp.ones((2, 3))

    def run(core):
        output, variables = core.init(model)(RNGS, x)
        rngs = {"dropout": jax.random.key(5)}
        return output, variables, core.apply(model, mutable="counts")(variables, x, rngs=rngs)

    assert_same_in_both(run)


def test_children():
    def where(scope, *args, **kwargs):
        return scope.path, args, kwargs

    class Function:
        def __call__(self, scope):
            return scope.path

    def run(core, named_call):
        def inner(scope):
            return (
                scope.child(where)(1, y=2),
                scope.child(where, None, None, named_call, y=5)(1),
                scope.child(where, "named", z=3)(2, z=4),
                scope.child(functools.partial(where, y=4))(2),
                scope.child(Function())(),
                scope.child(lambda scope: scope.path)(),
                scope.push("a").push("b").child(where)(),
                scope.push(prefix="p").path,
                scope.push("a", "", True).path,
                scope.default_name("where_"),
                scope.path_text,
            )

        return core.apply(inner)({})

    for named_call in (True, False):
        assert_same_in_both(run, named_call)


def test_flags():
    def run(core, flags):
        def inner(scope):
            child = scope.push("a")
            found = [
                (at.has_flag("x"), at.get_flag("x", 7), at.get_flag("initializing", 0), at.has_flag("initializing"))
                for at in (scope, child, scope.rewound(), scope.push("b").push("c"))
            ]
            lifted = core.lift.remat(lambda scope: jnp.asarray([scope.get_flag("x", -1)]))(child)
            both = core.lift.remat(lambda scopes: jnp.asarray([at.get_flag("x", -1) for at in scopes]))((scope, child))
            return found, lifted, both

        output, _ = core.init(inner, flags=flags)(RNGS)
        bound = core.bind({}, flags=flags)
        return output, core.apply(inner, flags=flags)({}), bound.get_flag("x", 3), dict(bound.flags)

    for flags in ({"x": 3}, {}, None):
        assert_same_in_both(run, flags)


def test_flag_of_a_module():
    class Asks(nn.Module):
        @nn.compact
        def __call__(self):
            return core.lift.remat(lambda scope: jnp.asarray(scope.has_flag("initializing")))(self.scope)

    assert Asks().init_with_output({})[0]
    assert not Asks().apply({})


def test_temporary():
    def run(core, use):
        scope = core.bind({}, RNGS, mutable=True)
        with scope.temporary() as inside:
            assert inside is scope
            value = inside.param("a", jax.random.normal)
        return value, scope.invalid, use(scope)

    assert_same_in_both(run, lambda scope: None)
    assert_same_in_both(run, lambda scope: scope.param("b", jax.random.normal))
    assert_same_in_both(run, lambda scope: scope.make_rng("dropout"))
    assert_same_in_both(run, lambda scope: scope.push("c"))


def test_the_call_has_ended():
    def run(core):
        kept = []
        core.apply(kept.append)({})
        return kept[0].invalid, kept[0].push("a")

    assert_same_in_both(run)


def test_invalidated_child():
    scope = core.bind({}, RNGS, mutable=True)
    child = scope.push("a")
    child.invalidate()
    assert child.invalid
    assert not scope.invalid
    scope.param("b", jax.random.normal)


VARIABLES = {"params": {"a": jnp.ones(2), "in": {"b": jnp.zeros(3)}}, "stats": {"m": jnp.ones(())}}


USES = (
    lambda scope: scope.param("a", jax.nn.initializers.ones, (2,)),
    lambda scope: scope.param("a", jax.nn.initializers.ones, (3,)),
    lambda scope: scope.param("z", jax.nn.initializers.ones, (3,)),
    lambda scope: scope.push("in").param("b", jax.nn.initializers.ones, (3,)),
    lambda scope: scope.variable(col="stats", name="m").value,
    lambda scope: scope.variable("stats", "k", jnp.ones, (2,)).value,
    lambda scope: scope.variable("stats", "k"),
    lambda scope: scope.variable("other", "k"),
    lambda scope: scope.put_variable(col="stats", name="m", value=jnp.zeros(())),
    lambda scope: scope.put_variable("params", "a", jnp.zeros(2)),
    lambda scope: scope.get_variable(col="params", name="a"),
    lambda scope: scope.get_variable("params", "in"),
    lambda scope: scope.get_variable("params", "nothing", 5),
    lambda scope: (scope.has_variable(col="params", name="a"), scope.has_variable("params", "b")),
    lambda scope: [scope.is_mutable_collection(col=name) for name in ("params", "stats", "other")],
    lambda scope: [scope.is_collection_empty(col=name) for name in ("params", "stats", "other")],
    lambda scope: (scope.has_rng("dropout"), scope.has_rng("other")),
    lambda scope: scope.make_rng("other"),
    lambda scope: scope.make_rng(),
    lambda scope: (scope.reserve("a", "params"), scope.name_reserved("a", col="params"), scope.name_reserved("a")),
    lambda scope: scope.push("in").variables(),
    lambda scope: scope.push("in").mutable_variables(),
    lambda scope: scope.variables(),
    lambda scope: [scope.rewound().make_rng("dropout"), scope.rewound(True).make_rng("dropout")],
    lambda scope: [jax.random.key_data(scope.make_rng("dropout")) for _ in range(3)],
    lambda scope: (scope.push("in").root is scope, scope.push("x").parent is scope, scope.push("y").name),
    lambda scope: (scope == scope.rewound(), scope == scope.push("q"), scope.mutable),
)
"""What is asked of a scope at the top of `VARIABLES`."""


@pytest.mark.parametrize("use", USES, ids=map(str, range(len(USES))))
def test_scopes(use):
    assert_same_in_both(lambda core: use(core.bind(VARIABLES, RNGS, mutable=["stats"])))
    assert_same_in_both(lambda core: core.apply(use, mutable=["stats"])(VARIABLES, rngs=RNGS))


def test_constructor():
    def run(core):
        scope = core.Scope({"params": {"a": jnp.ones(2)}}, RNGS, "top", ["params"], flags={"x": 1})
        scope.put_variable("params", "b", jnp.zeros(1))
        return scope.param("a", jax.nn.initializers.ones, (2,)), scope.variables(), scope.get_flag("x"), scope.name

    assert_same_in_both(run)
    with pytest.raises(UnsupportedOptionError, match=r"parent\.push"):
        core.Scope({}, parent=core.bind({}), name="a")


def test_lazy_init():
    def run(core):
        make = core.lazy_init(dense)
        return make({"params": jax.random.key(0)}, jax.ShapeDtypeStruct((2, 3), jnp.float32), 4)

    assert_same_in_both(run)


def test_wrong_variables():
    assert_same_in_both(lambda core: core.apply(model)({"params": {"params": {"a": 1}}}, jnp.ones((1, 3))))
    assert_same_in_both(lambda core: core.bind(3))
    assert_same_in_both(lambda core: core.apply(model)({}, jnp.ones((1, 3))))


@pytest.mark.parametrize(
    "use",
    [
        lambda scope: (scope.push("a"), scope.push("a")),
        lambda scope: (scope.reserve("a"), scope.param("a", jax.nn.initializers.ones, (2,))),
        lambda scope: (scope.param("a", jax.nn.initializers.ones, (2,)), scope.push("a")),
    ],
    ids=["children", "reserved", "child and parameter"],
)
def test_names_in_use(use):
    """Flax raises a ValueError in its functional core, and NameInUseError in modules."""
    with pytest.raises(ValueError, match="Duplicate"):
        use(flax_core.bind(VARIABLES))
    with pytest.raises(errors.NameInUseError):
        use(core.bind(VARIABLES))


def test_every_scope_is_one():
    class Asks(nn.Module):
        @nn.compact
        def __call__(self):
            return isinstance(self.scope, core.Scope), isinstance(self, core.Scope)

    assert Asks().apply({}) == (True, False)
    assert isinstance(core.bind({}), Scope)
