"""The errors of ``batiste.shard``: names of axes, rules, and the mesh they lead to.

What concerns several leaves is one error that names them all, one a line, with paths and shapes.
"""

from __future__ import annotations

from typing import ClassVar

from batiste.errors._base import BatisteError

__all__ = [
    "AbstractMeshError",
    "AxisNamesError",
    "AxisRankError",
    "DuplicateAxisNameError",
    "IndivisibleAxisError",
    "LogicalRulesError",
    "ManualAxisError",
    "MeshAxesError",
    "PartitionNameMismatchError",
    "PartitionRulesError",
    "PartitionSpecError",
    "PartitioningUnspecifiedError",
    "PipelineError",
    "ShadowedRuleError",
    "ShardError",
    "UnboxedLeavesError",
    "UnknownLogicalAxisError",
    "UnknownMeshAxisError",
]


class ShardError(BatisteError, ValueError):
    """The base of the errors of ``batiste.shard``."""

    code: ClassVar[str] = "shard/error"


class PartitioningUnspecifiedError(ShardError):
    """A transform adds or removes an axis of a box without saying what that axis is called."""

    code = "shard/partitioning-unspecified"
    flax_arguments = ("target",)
    message = "A transform {verb} an axis of a parameter whose axes are named {names}, and does not name that axis."
    hint = 'Name it, as in metadata_params={{nn.PARTITION_NAME: "layers"}}, or None for an axis that is never split.'


class PartitionNameMismatchError(ShardError):
    """A transform removes an axis that the box calls otherwise, or does not have."""

    code = "shard/partition-name-mismatch"
    message = "A transform removes the axis {index}, which it calls {wanted!r}, from a parameter with the axes {names}."
    hint = "Initialise and apply with the same axis and the same {name!r} in metadata_params."


class AxisNamesError(ShardError, TypeError):
    """The names of an array's axes are not written as a sequence with one name for each axis."""

    code = "shard/axis-names"
    message = "{given} does not name the axes of an array: {reason}."
    hint = 'Write one name for each axis, or None: ("batch", None, "embed"), or jax.P("batch", None, "embed").'


class AxisRankError(ShardError):
    """An array has fewer axes than were named."""

    code = "shard/axis-rank"
    message = "{names} names {count} axes, and the array{where} has the shape {shape}."
    hint = "Write one name for each axis of the array, in its order."


class DuplicateAxisNameError(ShardError):
    """One logical name is given to two axes of one array."""

    code = "shard/duplicate-axis-name"
    message = "{names} gives the name {name!r} to more than one axis of an array."
    hint = "Each axis of an array needs a name of its own, so that at most one of them is split along a mesh axis."


class LogicalRulesError(ShardError, TypeError):
    """Rules from logical names to mesh axes are not pairs."""

    code = "shard/logical-rules"
    message = "{given} is not a rule for a logical axis name: {reason}."
    hint = 'Rules are pairs in order of precedence: (("batch", "data"), ("mlp", ("model", "expert")), ("embed", None)).'


class UnknownLogicalAxisError(ShardError):
    """A logical name has no rule, most often because it is mistyped, or no rule that is free."""

    code = "shard/unknown-logical-axis"
    message = "{names} names the axis {name!r}, {problem}.{near}"
    hint = (
        'Give it a rule: ("{name}", "data"), or ("{name}", None) if it is not to be split; '
        "fallback=RulesFallback.AXIS_IS_UNSHARDED takes names without a rule as not split."
    )


class UnknownMeshAxisError(ShardError):
    """A spec or a rule leads to an axis that the mesh does not have."""

    code = "shard/unknown-mesh-axis"
    message = "The mesh has the axes {axes}, and these ask for others:\n{lines}"
    hint = "Correct the name, or make the mesh with that axis: jax.make_mesh(shape, names)."


class IndivisibleAxisError(ShardError):
    """The mesh cuts an axis of an array into parts that would not be equally long."""

    code = "shard/indivisible-axis"
    message = "These axes cannot be cut into equal parts on the mesh {mesh}:\n{lines}"
    hint = "{cure}"


class ManualAxisError(ShardError):
    """A constraint leads to a mesh axis that ``jax.shard_map`` has taken."""

    code = "shard/manual-axis"
    message = (
        "{names} leads to the mesh axis {axis!r}, which is manual here: inside of shard_map each device has its part."
    )
    hint = 'Drop the constraint inside of shard_map, or override its rules there: rules=(("{name}", None), ...).'


class MeshAxesError(ShardError, TypeError):
    """The axes of a mesh cannot be read, or do not fit the devices."""

    code = "shard/mesh-axes"
    message = "{given} are no axes of a mesh: {reason}."
    hint = 'Write each axis with its size, and at most one -1 for the rest: "data=2,fsdp=-1".'


class AbstractMeshError(ShardError):
    """An array is to be placed, and the mesh that is named has no devices."""

    code = "shard/abstract-mesh"
    message = "{names} cannot be placed on the abstract mesh {mesh} outside of a trace: it has no devices."
    hint = (
        "Enter jax.set_mesh(mesh) with a mesh of devices; an abstract mesh is for tracing (jax.eval_shape, jit.trace)."
    )


class PartitionRulesError(ShardError, TypeError):
    """Rules over paths are not a mapping from patterns to specs."""

    code = "shard/partition-rules"
    message = "{given} is not a rule over paths: {reason}."
    hint = 'Write a dict in order of precedence: {{"**/kernel": jax.P("data", "model"), "**": jax.P()}}.'


class ShadowedRuleError(ShardError):
    """A rule is never used, because rules above it take every leaf that it matches."""

    code = "shard/shadowed-rule"
    message = "Rules above these take every leaf that they match:\n{lines}"
    hint = 'Put the narrower pattern first, drop the rule, or pass unmatched="ignore".'


class PartitionSpecError(ShardError):
    """A spec cannot be that of its array: it names more axes than there are, or a mesh axis twice."""

    code = "shard/partition-spec"
    message = "These specs do not fit their arrays:\n{lines}"
    hint = "A spec has at most one entry for each axis of its array, and each mesh axis once. Narrow the pattern."


class UnboxedLeavesError(ShardError):
    """Sharding is asked of the boxes of a tree, and some leaves have none."""

    code = "shard/unboxed-leaves"
    message = "These {count} leaves have no axis names, so nothing says where they lie:\n{lines}"
    hint = "Make them with nn.with_partitioning(init, names), give rules over paths, or pass default=jax.P()."


class PipelineError(ShardError):
    """Layers cannot be run in stages: mesh, layers or batch do not fit, or a layer does what stages cannot."""

    code = "shard/pipeline"
    message = "These layers cannot be run in stages: {problem}."
    hint = (
        "Microbatches are a multiple of the stages, rows a multiple of microbatches and of what cuts them; layers of a "
        "pipeline only turn arrays into arrays. Without a pipeline, leave run= out."
    )
