"""Sharding: which axis of which array is split along which axis of the mesh.

Two ways say it, and both are data: rules over paths, for a tree that knows nothing of meshes (``specs``, ``shardings``,
``init``), and names that layers give to their axes, with rules from names to mesh axes (``with_logical_partitioning``,
``with_logical_constraint``, ``logical_axis_rules``). The second has the names and signatures of Flax Linen.

This is the one package that says mesh. It stands below the layers, because ``batiste.nn`` offers the names of Linen
among its own (``nn.with_partitioning``, ``nn.with_logical_constraint``). Of what is below, it needs ``core`` for boxes
and ``tree`` for paths, and no module: it never asks what a model is.
"""

from batiste.shard._boxes import (
    PARTITION_NAME,
    LogicallyPartitioned,
    Partitioned,
    get_partition_spec,
    with_logical_partitioning,
    with_partitioning,
)
from batiste.shard._constrain import with_logical_constraint
from batiste.shard._context import (
    LogicalRules,
    MeshAxes,
    get_logical_axis_rules,
    logical_axis_rules,
    set_logical_axis_rules,
)
from batiste.shard._explain import Explanation, LeafPlacement, explain
from batiste.shard._init import Initialisable, init, init_placed
from batiste.shard._logical import LogicalNames, RulesFallback, logical_to_mesh, logical_to_mesh_axes
from batiste.shard._make import AxisTypes, MeshSizes, mesh, mesh_sizes
from batiste.shard._mesh import AnyMesh, Indivisible
from batiste.shard._pipeline import Pipeline
from batiste.shard._presets import PRESETS, preset
from batiste.shard._rules import Cut, Rule, Rules
from batiste.shard._specs import PathRules, Unmatched, get_sharding, logical_to_mesh_sharding, shardings, specs

__all__ = [
    "AnyMesh",
    "AxisTypes",
    "Cut",
    "Explanation",
    "Indivisible",
    "Initialisable",
    "LeafPlacement",
    "LogicalNames",
    "LogicalRules",
    "LogicallyPartitioned",
    "MeshAxes",
    "MeshSizes",
    "PARTITION_NAME",
    "PRESETS",
    "Partitioned",
    "PathRules",
    "Pipeline",
    "Rule",
    "Rules",
    "RulesFallback",
    "Unmatched",
    "explain",
    "get_logical_axis_rules",
    "get_partition_spec",
    "get_sharding",
    "init",
    "init_placed",
    "logical_axis_rules",
    "logical_to_mesh",
    "logical_to_mesh_axes",
    "logical_to_mesh_sharding",
    "mesh",
    "mesh_sizes",
    "preset",
    "set_logical_axis_rules",
    "shardings",
    "specs",
    "with_logical_constraint",
    "with_logical_partitioning",
    "with_partitioning",
]
