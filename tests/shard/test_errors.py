"""Every error of the package: the smallest program that raises it, its three parts, and the way through a pickle."""

import functools
import pickle

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from batiste import errors, shard
from batiste.errors import _shard as catalogue
from tests.shard.support import abstract, mesh_of

P = PartitionSpec
ONES = jnp.ones((8, 8))
RULES = (("batch", "data"),)


def constrain_abstractly():
    with abstract(mesh_of()):
        shard.with_logical_constraint(ONES, ("batch", None), RULES)


def constrain(*names):
    return functools.partial(shard.with_logical_constraint, logical_axis_resources=names, rules=RULES, mesh=mesh_of())


def constrain_in_shard_map():
    inner = functools.partial(shard.with_logical_constraint, logical_axis_resources=("batch", None), rules=RULES)
    jax.shard_map(inner, mesh=mesh_of(), in_specs=P("data"), out_specs=P("data"))(ONES)


def share_out():
    layers, rows = jnp.ones((4, 8, 8)), jnp.ones((6, 8))
    with jax.set_mesh(jax.make_mesh((2,), ("stage",), devices=jax.devices()[:2])):
        shard.Pipeline(3)(lambda x, w: (x @ w, None), rows, layers)


PROGRAMS = {
    errors.AbstractMeshError: constrain_abstractly,
    errors.AxisNamesError: lambda: shard.logical_to_mesh_axes("batch"),
    errors.AxisRankError: lambda: constrain("batch", None, None)(ONES),
    errors.DuplicateAxisNameError: lambda: shard.logical_to_mesh_axes(("batch", "batch"), RULES),
    errors.IndivisibleAxisError: lambda: constrain("batch", None)(ONES[:6]),
    errors.LogicalRulesError: lambda: shard.logical_to_mesh_axes(("batch",), {"batch": "data"}),
    errors.ManualAxisError: constrain_in_shard_map,
    errors.MeshAxesError: lambda: shard.mesh("data=2,fsdp"),
    errors.PartitionNameMismatchError: lambda: shard.Partitioned(1, ("a",)).remove_axis(0, {"partition_name": "b"}),
    errors.PartitionRulesError: lambda: shard.specs(ONES, [P()]),
    errors.PartitionSpecError: lambda: shard.specs({"a": ONES}, {"a": P("x", "x")}),
    errors.PartitioningUnspecifiedError: lambda: shard.Partitioned(1, ("a",)).add_axis(0, {}),
    errors.PipelineError: share_out,
    errors.ShadowedRuleError: lambda: shard.specs({"a": ONES}, {"**": P(), "a": P("data")}),
    errors.UnboxedLeavesError: lambda: shard.specs({"a": ONES}, None),
    errors.UnknownLogicalAxisError: lambda: shard.logical_to_mesh_axes(("bacth",), RULES),
    errors.UnknownMeshAxisError: lambda: shard.specs({"a": ONES}, {"a": P("rows")}, mesh_of()),
}


def test_every_class_of_the_catalogue_has_a_program():
    classes = {getattr(catalogue, name) for name in catalogue.__all__} - {errors.ShardError}
    assert classes == set(PROGRAMS)
    assert len({kind.code for kind in classes}) == len(classes)


@pytest.mark.parametrize("kind", PROGRAMS, ids=lambda kind: kind.__name__)
def test_the_program_raises_it(kind):
    with pytest.raises(errors.ShardError) as raised:
        PROGRAMS[kind]()
    error = raised.value
    text = str(error)
    assert type(error) is kind
    assert text.endswith(f"[{kind.code}]")
    assert len(text.splitlines()) >= 3
    assert "Array(" not in text
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - its own bytes
    assert (type(again), str(again)) == (kind, text)
