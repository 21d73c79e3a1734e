"""`linen.partitioning` and `linen.spmd`: logical names of axes, compared with Flax's, every public function."""

import contextlib
import inspect

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as flax_linen
from flax.linen import partitioning as flax_partitioning
from flax.linen import spmd as flax_spmd
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from batiste.compat.flax import core, linen
from batiste.compat.flax.core import lift
from batiste.compat.flax.linen import partitioning, spmd
from batiste.errors import CallUnboundModuleError, PartitionNameMismatchError
from batiste.lift import In, Out
from tests.compat.test_core_scope import leaves
from tests.nn.oracle import drawn

BOTH = ((linen, partitioning), (flax_linen, flax_partitioning))
RNGS = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
X = drawn(2, 2, 4)
RULES = (("batch", "data"), ("embed", "model"), ("heads", None), ("embed", "data"))


@pytest.fixture(autouse=True)
def rules_of_users(users_rules):
    """Flax's own code broadcasts by rank."""


def metadata_as_names(tree):
    """Return a tree with the names in place of both libraries' `AxisMetadata`."""
    return jax.tree.map(
        lambda leaf: repr(leaf.names) if hasattr(leaf, "names") else leaf,
        tree,
        is_leaf=lambda leaf: hasattr(leaf, "names"),
    )


def assert_same_in_both(function):
    """Hold that a function that is given `linen` and `linen.partitioning` comes to the same in both."""
    got, wanted = (leaves(metadata_as_names(function(*libraries))) for libraries in BOTH)
    assert list(got) == list(wanted)
    for path, leaf in wanted.items():
        if hasattr(leaf, "shape"):
            assert (got[path].shape, got[path].dtype) == (leaf.shape, leaf.dtype), path
            np.testing.assert_allclose(got[path], leaf, rtol=2e-6, atol=2e-6, err_msg=path)
        else:
            assert got[path] == leaf, path


def block(linen, partitioning):
    """Return a class with annotated parameters and variables in two submodules."""

    class Inner(linen.Module):
        @linen.compact
        def __call__(self, x):
            normal = linen.initializers.normal(1.0)
            kernel = partitioning.param_with_axes("kernel", normal, (4, 4), jnp.float32, axes=("embed", "heads"))
            plain = partitioning.param_with_axes("plain", normal, (4,))
            seen = partitioning.variable_with_axes("stats", "seen", jnp.zeros, (4,), axes=("embed",))
            seen.value += jnp.sum(x, 0) if x.ndim == 2 else x
            return partitioning.with_sharding_constraint(jnp.tanh(x @ kernel) + plain, ("batch", "embed")[-x.ndim :])

    class Block(linen.Module):
        @linen.compact
        def __call__(self, x, _=None):
            x = Inner(name="one")(x)
            return Inner(name="two")(linen.Dropout(0.5, deterministic=False)(x)), None

    return Block


def run(model, *args):
    """Return the variables, and what comes of `apply` with all but the parameters mutable."""
    variables = model.init(RNGS, *args)
    rngs = {"dropout": jax.random.key(7)}
    return variables, model.apply(variables, *args, mutable=["stats", "params_axes", "stats_axes"], rngs=rngs)


def test_annotated():
    assert_same_in_both(lambda linen, partitioning: run(block(linen, partitioning)(), X))


def test_axis_names():
    def names(linen, partitioning):
        variables = block(linen, partitioning)().init(RNGS, X)
        return jax.tree.map(
            str,
            [partitioning.get_axis_names(variables[name]) for name in ("params_axes", "stats_axes")],
            is_leaf=lambda leaf: isinstance(leaf, PartitionSpec),
        )

    assert_same_in_both(names)
    metadata = {
        "a_axes": partitioning.AxisMetadata(names=("x", None)),
        "b": {"axes_axes": partitioning.AxisMetadata(())},
    }
    specs = partitioning.get_axis_names(metadata)
    assert specs == {"a": PartitionSpec("x", None), "b": {"axes": PartitionSpec()}}


SCANS = {
    "each": {"variable_axes": {"params": 1, "stats": 0}, "axes_collections": ("params", "stats")},
    "named": {"variable_axes": {"params": 1, "stats": 0}, "axis_name": "deep"},
    "shared": {"variable_broadcast": "params", "variable_axes": {"stats": 0}, "axes_collections": ()},
    "backwards": {"variable_axes": {"params": 0, "stats": 0}, "reverse": True, "unroll": 2},
}


@pytest.mark.parametrize("case", SCANS)
def test_scan_with_axes(case):
    def looped(linen, partitioning):
        options = {"length": 3, "in_axes": linen.broadcast, "split_rngs": {"params": True, "dropout": True}}
        options |= SCANS[case]
        if case == "shared":
            options["split_rngs"] = {"params": False, "dropout": True}
            options["variable_axes"] = {"stats": 0, "stats_axes": 0, "params_axes": 0}
        return partitioning.scan_with_axes(block(linen, partitioning), **options)

    assert_same_in_both(lambda linen, partitioning: run(looped(linen, partitioning)(), X, None))


@pytest.mark.parametrize("axis", [0, 1])
def test_vmap_with_axes(axis):
    def mapped(linen, partitioning):
        return partitioning.vmap_with_axes(
            block(linen, partitioning),
            variable_axes={"params": axis, "stats": 0},
            split_rngs={"params": axis is not None, "dropout": True},
            partitioning_axis_names={"params": "layers", "stats": "layers"},
            axis_size=2,
            in_axes=0,
        )()

    assert_same_in_both(lambda linen, partitioning: run(mapped(linen, partitioning), X))


@pytest.mark.parametrize(("axis", "shape"), [(-1, ("embed", "heads", "deep")), (None, ("embed", "heads"))])
def test_axes_that_flax_does_not_take(axis, shape):
    """Flax puts the name of the axis -1 before the last one, and then misses it; for None it fails."""
    mapped = partitioning.vmap_with_axes(
        Annotated,
        variable_axes={"params": axis},
        split_rngs={"params": axis is not None},
        partitioning_axis_names={"params": "deep"},
    )()
    variables = mapped.init(RNGS, X)
    assert variables["params_axes"]["kernel_axes"].names == shape
    assert variables["params"]["kernel"].ndim == len(shape)
    assert mapped.apply(variables, X).shape == X.shape


class Annotated(linen.Module):
    @linen.compact
    def __call__(self, x):
        return x @ partitioning.param_with_axes("kernel", jax.random.normal, (4, 4), axes=("embed", "heads"))


def test_in_and_out():
    assert partitioning.ScanIn is In is lift.In
    assert partitioning.ScanOut is Out is lift.Out

    def looped(linen, partitioning):
        return partitioning.scan_with_axes(
            block(linen, partitioning),
            variable_axes={"params": 1, "stats": partitioning.ScanOut(0), "stats_axes": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=linen.broadcast,
            length=3,
        )()

    assert_same_in_both(lambda linen, partitioning: looped(linen, partitioning).init(RNGS, X, None))


def test_remat():
    def powers(linen, partitioning):
        class Power(linen.Module):
            @linen.compact
            def __call__(self, x, n, flip):
                y = linen.Dense(4)(x) ** (2 if flip else n)
                return linen.Dropout(0.5, deterministic=False)(y)

        policy = jax.checkpoint_policies.dots_saveable
        layer = partitioning.remat(Power, static_argnums=(1, 2), policy=policy, prevent_cse=False)()
        variables = layer.init(RNGS, X, 3, False)

        def loss(variables):
            return jnp.sum(layer.apply(variables, X, 3, True, rngs={"dropout": jax.random.key(3)}))

        return variables, jax.value_and_grad(loss)(variables)

    assert_same_in_both(powers)
    last = partitioning.remat(block(linen, partitioning), static_argnums=-1)
    assert last().init(RNGS, X, None).keys() == block(linen, partitioning)().init(RNGS, X).keys()


def test_core_remat_static():
    def body(scope, x, n):
        return x * scope.param("a", jax.random.normal, (4,)) + sum(range(n))

    got = core.init(partitioning.core_remat_static(body, static_argnums=1))(RNGS, X, 3)
    wanted = flax.core.init(flax_partitioning.core_remat_static(body, static_argnums=(1,)))(RNGS, X, 3)
    jax.tree.map(np.testing.assert_array_equal, got, wanted)


def test_nested_as_in_t5x():
    def deep(linen, partitioning):
        layer = partitioning.remat(block(linen, partitioning), prevent_cse=False, static_argnums=(1,))
        looped = partitioning.scan_with_axes(
            layer,
            variable_axes={"params": 1, "stats": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=linen.broadcast,
            length=2,
        )

        class Model(linen.Module):
            @linen.compact
            def __call__(self, x):
                x, _ = looped(name="encoder")(x, None)
                return looped(name="decoder")(x, None)

        return run(Model(), X)

    assert_same_in_both(deep)


def test_variable_with_axes():
    def kept(linen, partitioning):
        class Keeps(linen.Module):
            @linen.compact
            def __call__(self):
                variable = partitioning.variable_with_axes("cache", "k", jnp.ones, (2, 3), axes=("batch", None))
                other = partitioning.variable_with_axes("cache", "plain", jnp.zeros, ())
                variable.value = 2 * variable.value
                return variable.value, variable.is_mutable(), variable.axes, type(variable).__name__, other.axes

        return Keeps().init_with_output({}), Keeps().apply({}, mutable=True)

    assert_same_in_both(kept)


def test_outside_of_a_module():
    with pytest.raises((AssertionError, ValueError)):
        flax_partitioning.param_with_axes("a", jnp.ones, ())
    with pytest.raises(CallUnboundModuleError, match="param_with_axes"):
        partitioning.param_with_axes("a", jnp.ones, ())
    with pytest.raises(CallUnboundModuleError, match="variable_with_axes"):
        partitioning.variable_with_axes("stats", "a", jnp.ones, ())


def test_another_module():
    def given(linen, partitioning):
        class Outer(linen.Module):
            @linen.compact
            def __call__(self):
                return partitioning.param_with_axes("a", linen.initializers.ones, (2,), axes=("embed",), module=self)

        return Outer().init_with_output(RNGS)

    assert_same_in_both(given)


def test_names_that_differ():
    looped = partitioning.scan_with_axes(
        block(linen, partitioning),
        variable_axes={"params": 0, "stats": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=linen.broadcast,
        length=2,
    )()
    variables = looped.init(RNGS, X, None)
    variables["params_axes"]["one"]["kernel_axes"] = partitioning.AxisMetadata(("deep", "embed", "heads"))
    with pytest.raises(PartitionNameMismatchError, match="deep"):
        looped.apply(variables, X, None, mutable=["stats", "params_axes"], rngs=RNGS)


# Rules


NAMES = (("batch", "embed"), ("batch", "unknown"), (None, "embed"), ("embed", "batch"), ("heads",), (), None)


@pytest.mark.parametrize("rules", [RULES, (), None, (("unknown", "data"), ("batch", ("data", "model")))], ids=str)
def test_logical_to_mesh(rules):
    for names in NAMES:
        got, wanted = (module.logical_to_mesh_axes(names, rules) for module in (spmd, flax_spmd))
        assert got == wanted, names
        assert linen.logical_to_mesh_axes(names, rules) == wanted
    tree = {"a": PartitionSpec("batch", "unknown"), "b": [PartitionSpec("embed"), PartitionSpec()]}
    assert spmd.logical_to_mesh(tree, rules) == flax_spmd.logical_to_mesh(tree, rules)
    mesh = auto_mesh()
    got, wanted = (module.logical_to_mesh_sharding(tree, mesh, rules) for module in (spmd, flax_spmd))
    assert got == wanted


def test_rules_in_effect():
    def rules(linen, partitioning):
        found = [partitioning.get_axis_rules()]
        with partitioning.axis_rules(RULES):
            found.append(partitioning.get_axis_rules())
            with partitioning.axis_rules((("batch", None),)):
                found += [partitioning.get_axis_rules(), str(partitioning.logical_to_mesh_axes(("batch",)))]
            found.append(str(partitioning.logical_to_mesh_axes(("batch",))))
        partitioning.set_axis_rules(RULES[:1])
        found.append(linen.get_logical_axis_rules())
        partitioning.set_axis_rules(())
        return [*found, partitioning.get_axis_rules()]

    assert_same_in_both(rules)


def auto_mesh():
    return jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)


@pytest.mark.parametrize("how", ["no mesh", "set_mesh"])
@pytest.mark.parametrize("names", [("batch", "embed"), ("batch", "unknown"), None], ids=str)
def test_constraint_without_rules(how, names):
    """A model with names runs as it is where there are no rules, mesh or not; `batiste.nn` would raise."""
    x = jnp.ones((8, 8))
    with jax.set_mesh(auto_mesh()) if how == "set_mesh" else contextlib.nullcontext():
        for module in (spmd, flax_spmd):
            assert module.with_logical_constraint(x, names) is x
            assert module.with_logical_constraint(x, names, ()) is x


@pytest.mark.parametrize("fallback", spmd.RulesFallback)
def test_constraint_with_rules(fallback):
    """A name that has no rule means what `fallback` says; by default an axis that is not split."""
    x = jnp.ones((8, 8))
    mesh = auto_mesh()
    options = {"rules": RULES[:2], "mesh": mesh}
    for names in (("batch", "embed"), ("batch", "unknown"), ("unknown", "embed")):
        for given in ({}, {"fallback": fallback}):
            theirs = {"fallback": flax_spmd.RulesFallback[fallback.name]} if given else {}
            if given and fallback is spmd.RulesFallback.RAISE_ERROR and "unknown" in names:
                for module, last in ((spmd, given), (flax_spmd, theirs)):
                    with pytest.raises(Exception, match="unknown"):
                        module.with_logical_constraint(x, names, **options, **last)
                continue
            got = spmd.with_logical_constraint(x, names, **options, **given)
            wanted = flax_spmd.with_logical_constraint(x, names, **options, **theirs)
            assert isinstance(got.sharding, NamedSharding) == isinstance(wanted.sharding, NamedSharding)
            assert got.sharding.is_equivalent_to(wanted.sharding, 2), (names, given)


def test_constraints_within_a_model():
    """Under rules and a mesh, parameters and values lie where their names say."""
    x = jnp.tile(X, (4, 1))

    class Model(linen.Module):
        @linen.compact
        def __call__(self, x):
            kernel = partitioning.param_with_axes("kernel", jax.random.normal, (4, 6), axes=("other", "embed"))
            return partitioning.with_sharding_constraint(x @ kernel, ("batch", "embed"))

    with jax.set_mesh(auto_mesh()), partitioning.axis_rules(RULES):
        variables = jax.jit(Model().init)(RNGS, x)
        y = jax.jit(Model().apply)(variables, x)
    assert y.sharding.spec == PartitionSpec("data", "model")
    assert variables["params_axes"]["kernel_axes"].names == ("other", "embed")
    np.testing.assert_allclose(y, x @ variables["params"]["kernel"], rtol=1e-5)


def test_signatures():
    for ours, theirs in ((partitioning, flax_partitioning), (spmd, flax_spmd)):
        functions = [name for name in dir(theirs) if inspect.isfunction(getattr(theirs, name)) and name[0] != "_"]
        assert len(functions) > 5
        for name in functions:
            wanted = inspect.signature(getattr(theirs, name)).parameters
            got = inspect.signature(getattr(ours, name)).parameters
            assert list(got) == list(wanted), name
            for parameter in wanted:
                kinds = got[parameter].kind, wanted[parameter].kind
                assert kinds[0] == kinds[1], (name, parameter)
