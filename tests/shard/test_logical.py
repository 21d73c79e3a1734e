"""From logical names to mesh axes, held to Flax; what Flax takes in silence is an error here."""

import inspect
import threading

import hypothesis.strategies as st
import jax
import pytest
from flax import linen
from flax.linen import spmd
from hypothesis import given
from jax.sharding import NamedSharding, PartitionSpec

from batiste import shard
from batiste.errors import AxisNamesError, DuplicateAxisNameError, LogicalRulesError, UnknownLogicalAxisError
from batiste.shard import RulesFallback
from tests.shard.support import mesh_of

P = PartitionSpec
RULES = (("batch", "data"), ("mlp", "model"), ("heads", "model"), ("embed", None), ("both", ("data", "model")))

axes = st.sampled_from(["x", "y", "z", None, ("x", "y"), ("y", "z"), ("x",)])
rules = st.lists(st.tuples(st.sampled_from("abcd"), axes), max_size=8)


@given(rules, st.lists(st.sampled_from("abcd"), unique=True, max_size=4), st.lists(st.booleans(), min_size=4))
def test_as_flax(rules, names, holes):
    names = [None if hole else name for name, hole in zip(names, holes, strict=False)]
    theirs = linen.logical_to_mesh_axes(names, rules)
    assert shard.logical_to_mesh_axes(names, rules, fallback=RulesFallback.AXIS_IS_UNSHARDED) == theirs
    known = [name for name, _ in rules]
    if all(name is None or name in known for name in names):
        assert shard.logical_to_mesh_axes(names, rules) == theirs
    else:
        with pytest.raises(UnknownLogicalAxisError):
            shard.logical_to_mesh_axes(names, rules)


@pytest.mark.parametrize(
    "names",
    [("batch", "length", "heads", "features"), ("batch", None), (), None, P("batch", "heads"), [None, "heads"]],
    ids=str,
)
def test_the_documented_rules(names):
    rules = (("batch", "X"), ("features", "X"), ("heads", "Y"), ("batch", "Z"), ("length", None))
    assert shard.logical_to_mesh_axes(names, rules) == linen.logical_to_mesh_axes(names, rules)


def test_an_axis_left_open():
    rules = [("seq", P.UNCONSTRAINED), ("mlp", "model")]
    assert shard.logical_to_mesh_axes(("seq", "mlp"), rules) == P(P.UNCONSTRAINED, "model")
    assert shard.logical_to_mesh_axes((P.UNCONSTRAINED, "mlp"), rules) == P(P.UNCONSTRAINED, "model")


def test_a_mistyped_name():
    with pytest.raises(UnknownLogicalAxisError, match="Did you mean 'heads'") as raised:
        shard.logical_to_mesh_axes(("batch", "haeds"), RULES)
    assert raised.value.context["name"] == "haeds"
    assert linen.logical_to_mesh_axes(("batch", "haeds"), RULES) == P("data", None)
    with pytest.raises(UnknownLogicalAxisError, match="there are no rules"):
        shard.logical_to_mesh_axes(("batch",))


def test_taken_axes():
    assert shard.logical_to_mesh_axes(("mlp", "heads"), RULES) == P("model", None)
    assert shard.logical_to_mesh_axes(("both", "heads"), RULES) == P(None, "model")
    with pytest.raises(UnknownLogicalAxisError, match="have taken"):
        shard.logical_to_mesh_axes(("mlp", "heads"), RULES, fallback=RulesFallback.RAISE_ERROR)
    assert shard.logical_to_mesh_axes(("mlp", "heads"), RULES, fallback=RulesFallback.NO_CONSTRAINT) is None


def test_fallbacks_are_flaxs():
    assert [(each.name, each.value) for each in RulesFallback] == [
        (each.name, each.value) for each in spmd.RulesFallback
    ]


def test_names_that_are_none():
    with pytest.raises(AxisNamesError, match="it is one name"):
        shard.logical_to_mesh_axes("batch", RULES)
    with pytest.raises(AxisNamesError, match="is not a logical name"):
        shard.logical_to_mesh_axes((("batch", "mlp"), None), RULES)
    with pytest.raises(AxisNamesError, match="not a sequence"):
        shard.logical_to_mesh({"a": 3}, RULES)
    with pytest.raises(DuplicateAxisNameError, match="'batch'"):
        shard.logical_to_mesh_axes(("batch", "batch"), RULES)


@pytest.mark.parametrize(
    "rules", ["ab", {"batch": "data"}, 3, [("batch",)], [(1, "data")], [("batch", 3)], ["ab"]], ids=str
)
def test_rules_that_are_none(rules):
    with pytest.raises(LogicalRulesError):
        shard.logical_to_mesh_axes(("batch",), rules)


def test_trees():
    tree = {"a": P("batch", "mlp"), "b": (P(), None), "c": [P("embed")]}
    assert shard.logical_to_mesh(tree, RULES) == linen.logical_to_mesh(tree, RULES)
    mesh = mesh_of()
    ours = shard.logical_to_mesh_sharding(tree, mesh, RULES)
    assert ours == linen.logical_to_mesh_sharding(tree, mesh, RULES)
    assert ours["a"] == NamedSharding(mesh, P("data", "model"))


def test_rules_in_effect():
    assert shard.get_logical_axis_rules() == linen.get_logical_axis_rules() == ()
    with shard.logical_axis_rules(RULES):
        assert shard.get_logical_axis_rules() == RULES
        assert shard.logical_to_mesh_axes(("batch",)) == P("data")
        with shard.logical_axis_rules([["batch", ["model"]]]):
            assert shard.get_logical_axis_rules() == (("batch", ("model",)),)
        seen = []
        thread = threading.Thread(target=lambda: seen.append(shard.get_logical_axis_rules()))
        thread.start()
        thread.join()
        assert seen == [()]
        shard.set_logical_axis_rules([("batch", None)])
        assert shard.logical_to_mesh_axes(("batch",)) == P(None)
    assert shard.get_logical_axis_rules() == ()


def test_rules_end_with_an_error():
    with pytest.raises(KeyError), shard.logical_axis_rules(RULES):
        raise KeyError
    assert shard.get_logical_axis_rules() == ()


def test_set_rules():
    try:
        shard.set_logical_axis_rules(RULES)
        with shard.logical_axis_rules(()):
            assert shard.get_logical_axis_rules() == ()
        assert shard.get_logical_axis_rules() == RULES
    finally:
        shard.set_logical_axis_rules(())
    assert shard.get_logical_axis_rules() == ()


def test_other_rules_are_another_program():
    traced = []

    @jax.jit
    def specs(x):
        traced.append(shard.logical_to_mesh_axes(("batch",)))
        return x

    for rules in (RULES, (("batch", "model"),), RULES):
        with shard.logical_axis_rules(rules):
            specs(1.0)
    assert traced == [P("data"), P("model")]


FUNCTIONS = """
    get_logical_axis_rules get_partition_spec get_sharding logical_axis_rules logical_to_mesh logical_to_mesh_axes
    logical_to_mesh_sharding set_logical_axis_rules with_logical_constraint with_logical_partitioning with_partitioning
""".split()  # noqa: SIM905 - a list of names reads best as words


@pytest.mark.parametrize("name", [*FUNCTIONS, "Partitioned", "LogicallyPartitioned"])
def test_signatures_are_flaxs(name):
    """The same parameters in the same order; ours may have more, by keyword.

    One default differs: a name without a rule is an error unless `fallback` allows it.
    """

    def parameters(function):
        found = inspect.signature(function).parameters.values()
        return [(p.name, p.kind, p.default) for p in found if p.kind is not p.KEYWORD_ONLY]

    ours, theirs = parameters(getattr(shard, name)), parameters(getattr(linen, name))
    if name == "with_logical_constraint":
        assert ours.pop() == ("fallback", inspect.Parameter.POSITIONAL_OR_KEYWORD, None)
        assert theirs.pop()[0] == "fallback"
    assert ours == theirs
