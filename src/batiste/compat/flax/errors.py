"""The errors by Flax's names: ``flax.errors``.

Where batiste refuses the same mistake as Flax, its class has Flax's name, so ``except flax.errors.NameInUseError``
catches. What they share, ``FlaxError``, is the base of all errors of batiste. A class whose mistake cannot be made in
batiste is here for the programs that name it, and is never raised.
"""

from __future__ import annotations

from batiste.errors import (
    AlreadyExistsError,
    ApplyModuleInvalidMethodError,
    ApplyScopeInvalidVariablesStructureError,
    ApplyScopeInvalidVariablesTypeError,
    AssignSubModuleError,
    BatisteError,
    CallCompactUnboundModuleError,
    CallSetupUnboundModuleError,
    CallShareScopeOnUnboundModuleError,
    CallUnbindOnUnboundModuleError,
    CursorFindError,
    DescriptorAttributeError,
    IncorrectPostInitOverrideError,
    InvalidCheckpointError,
    InvalidFilterError,
    InvalidInstanceModuleError,
    InvalidRngError,
    InvalidScopeError,
    JaxTransformError,
    LazyInitError,
    ModifyScopeVariableError,
    MPACheckpointingRequiredError,
    NameInUseError,
    PartitioningUnspecifiedError,
    ReservedModuleAttributeError,
    ScopeCollectionNotFound,
    ScopeParamNotFoundError,
    ScopeParamShapeError,
    ScopeVariableNotFoundError,
    SetAttributeFrozenModuleError,
    SetAttributeInModuleSetupError,
    TransformTargetError,
)

__all__ = [
    "AlreadyExistsError",
    "ApplyModuleInvalidMethodError",
    "ApplyScopeInvalidVariablesStructureError",
    "ApplyScopeInvalidVariablesTypeError",
    "AssignSubModuleError",
    "CallCompactUnboundModuleError",
    "CallSetupUnboundModuleError",
    "CallShareScopeOnUnboundModuleError",
    "CallUnbindOnUnboundModuleError",
    "CursorFindError",
    "DescriptorAttributeError",
    "FlaxError",
    "ImmutableVariableError",
    "IncorrectPostInitOverrideError",
    "InvalidCheckpointError",
    "InvalidFilterError",
    "InvalidInstanceModuleError",
    "InvalidRngError",
    "InvalidScopeError",
    "JaxTransformError",
    "LazyInitError",
    "MPACheckpointingRequiredError",
    "MPARestoreDataCorruptedError",
    "MPARestoreTargetRequiredError",
    "ModifyScopeVariableError",
    "MultipleMethodsCompactError",
    "NameInUseError",
    "PartitioningUnspecifiedError",
    "ReservedModuleAttributeError",
    "ScopeCollectionNotFound",
    "ScopeParamNotFoundError",
    "ScopeParamShapeError",
    "ScopeVariableNotFoundError",
    "SetAttributeFrozenModuleError",
    "SetAttributeInModuleSetupError",
    "TraceContextError",
    "TransformTargetError",
    "TransformedMethodReturnValueError",
    "TraverseTreeError",
]

FlaxError = BatisteError
"""What all errors of batiste share."""


class ImmutableVariableError(BatisteError):
    """Never raised: it is an error of Flax's NNX."""

    code = "compat/immutable-variable"
    flax_arguments = ("message",)


class MPARestoreDataCorruptedError(BatisteError):
    """Never raised: batiste writes no file beside arrays of several processes whose absence would tell."""

    code = "compat/multiprocess-corrupt"
    flax_arguments = ("step", "path")


class MPARestoreTargetRequiredError(BatisteError):
    """Never raised: a checkpoint with arrays of several processes is restored by Orbax, which has errors of its own."""

    code = "compat/multiprocess-target"
    flax_arguments = ("path", "step", "key")


class MultipleMethodsCompactError(BatisteError):
    """Never raised: several methods of a module may be compact."""

    code = "compat/several-compact"
    flax_arguments = ()


class TraceContextError(BatisteError):
    """Never raised: it is an error of Flax's NNX."""

    code = "compat/trace-context"
    flax_arguments = ("message",)


class TransformedMethodReturnValueError(BatisteError):
    """Never raised: a transformed method may return what its transform can return."""

    code = "compat/transformed-return"
    flax_arguments = ("name",)


class TraverseTreeError(BatisteError):
    """Never raised: what walks through the tree of a cursor is not for programs to call."""

    code = "compat/traverse-tree"
    flax_arguments = ("update_fn", "cond_fn")
