"""Sharding: names of axes, rules and specs that do not fit their arrays or the mesh."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import P

from batiste import shard
from batiste.errors import (
    AbstractMeshError,
    AxisNamesError,
    AxisRankError,
    DuplicateAxisNameError,
    IndivisibleAxisError,
    LogicalRulesError,
    ManualAxisError,
    MeshAxesError,
    PartitioningUnspecifiedError,
    PartitionNameMismatchError,
    PartitionRulesError,
    PartitionSpecError,
    PipelineError,
    ShadowedRuleError,
    UnboxedLeavesError,
    UnknownLogicalAxisError,
    UnknownMeshAxisError,
)
from tests.errors.rows import raises


@raises(AbstractMeshError, "('batch', None)", "no devices", "jax.set_mesh(mesh)")
def an_array_on_a_mesh_without_devices():
    rows, mesh = jnp.ones((8, 8)), jax.sharding.AbstractMesh((8,), ("data",))
    with jax.sharding.use_abstract_mesh(mesh):
        shard.with_logical_constraint(rows, ("batch", None), (("batch", "data"),))


@raises(AxisNamesError, "'batch' does not name the axes", "it is one name", "one name for each axis")
def one_name_for_all_axes():
    shard.logical_to_mesh_axes("batch")


@raises(AxisRankError, "names 3 axes", "(8, 8)")
def more_names_than_axes():
    mesh = jax.make_mesh((8,), ("data",))
    names = ("batch", None, None)
    shard.with_logical_constraint(jnp.ones((8, 8)), names, (("batch", "data"),), mesh=mesh)


@raises(DuplicateAxisNameError, "the name 'batch' to more than one axis")
def one_name_twice():
    shard.logical_to_mesh_axes(("batch", "batch"), (("batch", "data"),))


@raises(IndivisibleAxisError, "equal parts", "(6,)")
def six_rows_on_eight_devices():
    mesh = jax.make_mesh((8,), ("data",))
    shard.specs({"a": jnp.ones(6)}, {"a": P("data")}, mesh)


@raises(LogicalRulesError, "{'batch': 'data'} is not a rule", "pairs in order of precedence")
def rules_as_a_dict():
    shard.logical_to_mesh_axes(("batch",), {"batch": "data"})


@raises(ManualAxisError, "'data'", "inside of shard_map")
def a_constraint_within_shard_map():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

    def body(x):
        return shard.with_logical_constraint(x, ("batch", None), (("batch", "data"),))

    jax.shard_map(body, mesh=mesh, in_specs=P("data"), out_specs=P("data"))(jnp.ones((8, 8)))


@raises(MeshAxesError, "'data=3,fsdp=-1'", "8 devices", "at most one -1")
def a_mesh_that_does_not_fit_the_devices():
    shard.mesh("data=3,fsdp=-1")


@raises(PartitionNameMismatchError, "the axis 0", "'layers'", "('embed',)")
def an_axis_with_another_name_is_removed():
    shard.Partitioned(jnp.ones(2), ("embed",)).remove_axis(0, {"partition_name": "layers"})


@raises(PartitioningUnspecifiedError, "('embed',)", "nn.PARTITION_NAME")
def an_axis_without_a_name_is_added():
    shard.Partitioned(jnp.ones(2), ("embed",)).add_axis(0, {})


@raises(PartitionRulesError, "is not a rule over paths", "in order of precedence")
def rules_over_paths_as_a_list():
    shard.specs({"a": jnp.ones(2)}, [P()])


@raises(PartitionSpecError, "a (8,)", "2 entries for 1 axes")
def a_spec_of_another_rank():
    shard.specs({"a": jnp.ones(8)}, {"a": P("data", "model")})


@raises(PipelineError, "3 microbatches are no multiple of 2 stages")
def three_microbatches_in_two_stages():
    layers, rows = jnp.ones((4, 8, 8)), jnp.ones((6, 8))
    with jax.set_mesh(jax.make_mesh((2,), ("stage",), devices=jax.devices()[:2])):
        shard.Pipeline(3)(lambda x, w: (x @ w, None), rows, layers)


@raises(ShadowedRuleError, "'kernel', after '**'", "narrower pattern first")
def a_rule_below_a_wider_one():
    shard.specs({"kernel": jnp.ones(2)}, {"**": P(), "kernel": P("data")})


@raises(UnboxedLeavesError, "These 1 leaves", "kernel", "nn.with_partitioning")
def a_tree_without_boxes():
    shard.specs({"kernel": jnp.ones(2)}, None)


@raises(UnknownLogicalAxisError, "'bacth'", "Did you mean 'batch'?", '("bacth", None)')
def a_misspelt_axis():
    shard.logical_to_mesh_axes(("bacth",), (("batch", "data"),))


@raises(UnknownMeshAxisError, "'data'", "'dta'", "Did you mean 'data'?")
def a_misspelt_mesh_axis():
    mesh = jax.make_mesh((8,), ("data",))
    shard.specs({"a": np.ones(8)}, {"a": P("dta")}, mesh)
