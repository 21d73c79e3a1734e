"""`with_logical_constraint` acts or raises under every way of naming a mesh."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from batiste import errors, nn, shard
from batiste.shard import RulesFallback, with_logical_constraint
from tests.shard.support import KINDS, abstract, entered, mesh_of, spec_of

P = PartitionSpec
RULES = (("batch", "data"), ("mlp", "model"), ("both", ("data", "model")), ("whole", None), ("open", P.UNCONSTRAINED))
CASES = {
    ("batch", "mlp"): ("data", "model"),
    ("both", "whole"): (("data", "model"),),
    ("whole", "mlp"): (None, "model"),
    ("open", "mlp"): (None, "model"),
    (None, "batch"): (None, "data"),
}
WAYS = {"set_mesh": jax.set_mesh, "with mesh": entered}


def constrain(x, names=("batch", "mlp"), **options):
    return with_logical_constraint(x, names, RULES, **options)


@pytest.fixture
def x():
    return jnp.arange(64.0).reshape(8, 8)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("names", CASES, ids=str)
@pytest.mark.parametrize("compiled", [True, False])
def test_acts(way, kind, names, compiled, x):
    function = functools.partial(constrain, names=names)
    with WAYS[way](mesh_of(kind)):
        y = (jax.jit(function) if compiled else function)(x)
    assert spec_of(y) == CASES[names]
    np.testing.assert_array_equal(y, x)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("compiled", [True, False])
def test_acts_on_a_mesh_that_is_given(kind, compiled, x):
    function = functools.partial(constrain, mesh=mesh_of(kind))
    assert spec_of((jax.jit(function) if compiled else function)(x)) == ("data", "model")
    with jax.set_mesh(mesh_of(kind)):
        assert spec_of((jax.jit(function) if compiled else function)(x)) == ("data", "model")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("compiled", [True, False])
def test_acts_on_the_mesh_of_the_array(kind, compiled, x):
    """Arrays that lie on a mesh name it, where the program does not."""
    on_mesh = jax.device_put(x, NamedSharding(mesh_of(kind), P("data")))
    function = functools.partial(constrain, names=("whole", "both"))
    assert spec_of((jax.jit(function) if compiled else function)(on_mesh)) == (None, ("data", "model"))


@pytest.mark.parametrize("kind", KINDS)
def test_an_abstract_mesh_is_for_traces(kind, x):
    """With no devices, the constraint is in the program that is traced, and outside of a trace it cannot act."""
    mesh = mesh_of(kind)
    with abstract(mesh):
        text = str(jax.make_jaxpr(constrain)(x))
        assert "sharding_constraint" in text or "reshard" in text
        if kind == "explicit":
            assert jax.typeof(jax.eval_shape(constrain, x)).sharding.spec == P("data", "model")
        with pytest.raises(errors.AbstractMeshError):
            constrain(x)
        on_mesh = jax.device_put(x, NamedSharding(mesh, P()))
        assert spec_of(constrain(on_mesh)) == ("data", "model")
        assert spec_of(jax.jit(constrain)(on_mesh)) == ("data", "model")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_under_transforms(way, kind, x):
    row = functools.partial(constrain, names=("mlp",))
    with WAYS[way](mesh_of(kind)):
        assert spec_of(jax.vmap(row)(x)) == (None, "model")
        assert spec_of(jax.jit(jax.vmap(row))(x)) == (None, "model")
        scanned = jax.jit(lambda x: jax.lax.scan(lambda carry, each: (carry, row(each)), 0.0, x)[1])
        assert spec_of(scanned(x)) == (None, "model")
        for transform in (jax.grad, lambda f: jax.jit(jax.grad(f)), lambda f: jax.grad(jax.checkpoint(f))):
            np.testing.assert_allclose(transform(lambda x: (constrain(x) ** 2).sum())(x), 2 * x)


def test_inside_shard_map(x):
    mesh = mesh_of()
    mapped = functools.partial(jax.shard_map, mesh=mesh, in_specs=P("data"), out_specs=P("data"))
    with pytest.raises(errors.ManualAxisError, match="'data'"):
        mapped(functools.partial(constrain, names=("batch", None)))(x)
    inner = mapped(functools.partial(constrain, names=(None, "mlp")), axis_names={"data"})
    assert spec_of(jax.jit(inner)(x)) == ("data", "model")


def test_without_a_mesh_nothing_is_done(x):
    assert constrain(x) is x
    assert with_logical_constraint(x, ("batch", "mlp")) is x
    assert with_logical_constraint(x, ("no", "rules", "at", "all")) is x
    assert linen.with_logical_constraint(x, ("batch", "mlp"), RULES) is x
    tree = {"a": x, "b": [x]}
    same = constrain(tree, {"a": ("batch", None), "b": None})
    assert same["a"] is x


def test_rules_in_effect(x):
    with jax.set_mesh(mesh_of()), shard.logical_axis_rules(RULES):
        assert spec_of(with_logical_constraint(x, ("batch", None))) == ("data",)
        assert spec_of(with_logical_constraint(x, ("batch", None), [("batch", "model")])) == ("model",)


def test_other_rules_are_another_program(x):
    @jax.jit
    def function(x):
        return with_logical_constraint(x, ("batch", None))

    with jax.set_mesh(mesh_of()):
        for axis in ("data", "model", "data"):
            with shard.logical_axis_rules([("batch", axis)]):
                assert spec_of(function(x)) == (axis,)


def test_trees(x):
    tree = {"a": x, "b": [x, x], "c": x}
    names = {"a": P("batch", "mlp"), "b": ("mlp", "batch"), "c": None}
    with jax.set_mesh(mesh_of()):
        placed = constrain(tree, names)
        theirs = jax.jit(lambda tree: linen.with_logical_constraint(tree, names, RULES))(tree)
    assert placed["c"] is x
    assert jax.tree.map(spec_of, {**placed, "c": x}) == {
        "a": ("data", "model"),
        "b": [("model", "data"), ("model", "data")],
        "c": None,
    }
    for ours, flaxs in zip(jax.tree.leaves(placed)[:3], jax.tree.leaves(theirs)[:3], strict=True):
        assert ours.sharding.is_equivalent_to(flaxs.sharding, 2)


@pytest.mark.parametrize("value", [2.0, np.ones((8, 8)), jax.random.key(0)], ids=["number", "numpy", "key"])
def test_what_is_constrained(value):
    with jax.set_mesh(mesh_of()):
        placed = constrain(value, ("batch", None)[: np.ndim(value)])
    assert len(placed.sharding.device_set) == 8


def test_a_mesh_of_one_axis(x):
    with jax.set_mesh(Mesh(np.array(jax.devices()), ("data",))):
        assert spec_of(constrain(x, ("batch", None))) == ("data",)
        with pytest.raises(errors.UnknownMeshAxisError, match="'model'"):
            constrain(x)


@pytest.mark.parametrize("way", [*WAYS, "mesh=", "the array", "abstract"])
@pytest.mark.parametrize("kind", KINDS)
def test_mistakes_under_every_way(way, kind, x):
    """No way of naming a mesh lets a mistake pass in silence, in a trace or outside."""
    mesh = mesh_of(kind)
    context = {**WAYS, "abstract": abstract}.get(way, lambda _: contextlib.nullcontext())
    options = {"mesh": mesh} if way == "mesh=" else {}
    whole, short = x, x[:6]
    if way == "the array":
        whole, short = jax.device_put((whole, short), NamedSharding(mesh, P()))
    mistakes = {
        errors.UnknownLogicalAxisError: (whole, ("bacth", None), RULES),
        errors.UnknownMeshAxisError: (whole, ("batch", None), (("batch", "rows"),)),
        errors.IndivisibleAxisError: (short, ("batch", None), RULES),
        errors.AxisRankError: (whole, ("batch", None, None), RULES),
        errors.DuplicateAxisNameError: (whole, ("batch", "batch"), RULES),
    }
    with context(mesh):
        for mistake, (array, names, rules) in mistakes.items():
            function = functools.partial(with_logical_constraint, logical_axis_resources=names, rules=rules, **options)
            for each in (function, jax.jit(function)):
                with pytest.raises(mistake):
                    each(array)


def test_a_mesh_without_rules(x):
    """Whoever names a mesh wants the constraint to act."""
    for context in (jax.set_mesh, entered):
        with context(mesh_of()), pytest.raises(errors.UnknownLogicalAxisError, match="there are no rules"):
            with_logical_constraint(x, ("batch", None))
    on_mesh = jax.device_put(x, NamedSharding(mesh_of(), P("data")))
    assert with_logical_constraint(on_mesh, ("batch", None)) is on_mesh  # it only happens to lie there


def test_a_mistyped_name_is_seen_without_a_mesh(x):
    with pytest.raises(errors.UnknownLogicalAxisError, match="Did you mean 'batch'"):
        constrain(x, ("bacth", None))
    with pytest.raises(errors.AxisRankError):
        constrain(x, ("batch", None, None))


def test_fallbacks(x):
    names = ("unheard", "mlp")
    with jax.set_mesh(mesh_of()):
        assert spec_of(constrain(x, names, fallback=RulesFallback.AXIS_IS_UNSHARDED)) == (None, "model")
        assert constrain(x, names, fallback=RulesFallback.NO_CONSTRAINT) is x
        with pytest.raises(errors.UnknownLogicalAxisError):
            constrain(x, names, fallback=RulesFallback.RAISE_ERROR)


def test_errors_say_where(x):
    with jax.set_mesh(mesh_of()), pytest.raises(errors.IndivisibleAxisError) as raised:
        constrain({"a": [x, x[:7]]}, ("batch", None))
    assert "a/1 (7, 8)" in str(raised.value)
    with pytest.raises(errors.AxisNamesError):
        constrain({"a": x}, {"a": "batch"})
    with pytest.raises(errors.AxisNamesError):
        constrain(x, "batch")


class Annotated(nn.Module):
    """A block in the idiom of the field: boxed kernels, constrained activations."""

    @nn.compact
    def __call__(self, x):
        init = shard.with_logical_partitioning(nn.initializers.lecun_normal(), ("embed", "mlp"))
        x = with_logical_constraint(x, ("batch", "embed"))
        x = nn.relu(nn.Dense(8, kernel_init=init)(x))
        return with_logical_constraint(x, ("batch", "mlp"))


@pytest.mark.parametrize("way", [*WAYS, "none"])
def test_an_annotated_model(way, x):
    """The same model runs on a laptop without a mesh, and on a mesh with everything where it belongs."""
    rules = (("batch", "data"), ("mlp", "model"), ("embed", None))
    model = Annotated()
    variables = model.init(jax.random.key(0), x)
    expected = model.apply(variables, x)
    if way == "none":
        return
    with WAYS[way](mesh_of()), shard.logical_axis_rules(rules):
        again = jax.jit(model.init)(jax.random.key(0), x)
        output = jax.jit(model.apply)(variables, x)
    assert jax.tree.structure(again) == jax.tree.structure(variables)
    assert spec_of(output) == ("data", "model")
    np.testing.assert_allclose(output, expected, rtol=1e-6)
