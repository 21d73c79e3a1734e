"""Errors of layers: inputs, options and masks that do not fit one another.

Every message names the layer's path in its model, what was given and what was expected. A layer hands over its ``path``
as it has it, a tuple of names; functions, which have none, hand over their name.
"""

from __future__ import annotations

from typing import Any

from batiste.errors._base import BatisteError

__all__ = [
    "AxesError",
    "BatchApplyError",
    "BatchAxesError",
    "ChannelGroupsError",
    "DropoutRateError",
    "EinsumEquationError",
    "EmbeddingIdsError",
    "EmbeddingRangeError",
    "FeatureAxesError",
    "GroupChoiceError",
    "InexactDtypeError",
    "InputDtypeError",
    "InputRankError",
    "KernelMaskShapeError",
    "LayerError",
    "NonMatrixError",
    "NormMaskShapeError",
    "PaddingError",
    "PoolingWindowError",
    "RepeatBlockError",
    "RepeatCarryError",
    "RepeatInputError",
    "RepeatLayersError",
    "SequentialLayersError",
    "SpatialArgumentError",
    "UnsupportedOptionError",
]


class InexactDtypeError(BatisteError, ValueError):
    """A computation that needs fractions is asked for in an integer or Boolean dtype."""

    code = "dtypes/not-inexact"
    message = "dtype={dtype} cannot hold fractions, which this computation needs."
    hint = "Give a floating-point or complex dtype such as jnp.float32 or jnp.bfloat16, or leave dtype=None."


class LayerError(BatisteError, ValueError):
    """The base of the errors of layers and of the functions beside them; each is also a ``ValueError``.

    Some are of another built-in kind, too: the one that Flax Linen, JAX or Python raise for the same mistake.

    Args:
      path: the names from the root of the model to the layer, or the name of a function.
      **context: what the message and the hint name.
    """

    code = "nn/error"
    message = "{path}: {what}"

    def __init__(self, *, path: str | tuple[str, ...], **context: Any) -> None:
        super().__init__(path=path if isinstance(path, str) else "/" + "/".join(path), **context)


class InputRankError(LayerError, IndexError):
    """An input has too few axes."""

    code = "nn/input-rank"
    message = "{path} was given an input of shape {shape}, but needs {expected}."
    hint = "Add the axes that are missing: x[None] adds one in front, x[..., None] one behind."


class InputDtypeError(LayerError, TypeError):
    """An input has a dtype that the layer cannot compute in."""

    code = "nn/input-dtype"
    message = "{path} was given an input of dtype {dtype}, but needs {expected}."
    hint = "Convert it, x.astype(jnp.float32), or apply the layer after the embedding of the integers."


class AxesError(LayerError, IndexError):
    """An axis is out of range or named twice."""

    code = "nn/axes"
    message = "{path} has {argument}={given}, but the input has {rank} axes: {problem}."
    hint = "Name each axis once, from {low} to {high}."


class BatchAxesError(LayerError):
    """``batch_dims`` are not the leading axes of the input."""

    code = "nn/batch-axes"
    message = "{path} has batch_dims={given}, but batch axes must be the first ones of the input, in order."
    hint = "Write batch_dims={expected}, and move those axes to the front of the input with jnp.moveaxis."


class ChannelGroupsError(LayerError):
    """Channels cannot be shared out over groups evenly."""

    code = "nn/channel-groups"
    message = "{path} cannot share {channels} {what} out over {argument}={given} evenly."
    hint = "{argument} must divide {channels}: {divisors} would do."


class GroupChoiceError(LayerError):
    """A group normalisation has both a number of groups and a size of groups, or neither."""

    code = "nn/group-choice"
    message = "{path} has num_groups={num_groups} and group_size={group_size}, but one says what the other is."
    hint = "Give num_groups alone, or group_size together with num_groups=None (num_groups is 32 by default)."


class FeatureAxesError(LayerError):
    """The feature axes and the reduction axes of a normalisation contradict each other."""

    code = "nn/feature-axes"
    message = "{path} has {argument}={given} for an input of shape {shape}: {problem}."
    hint = "{advice}"


class SpatialArgumentError(LayerError):
    """A convolution's option has another number of entries than its kernel has spatial axes."""

    code = "nn/spatial-argument"
    message = "{path} has {argument}={given}, but kernel_size={kernel_size} has {spatial} spatial axes."
    hint = "Give one integer for all spatial axes, or one for each of the {spatial}."


class PaddingError(LayerError, RuntimeError):
    """A padding is unknown, or does not fit the other options."""

    code = "nn/padding"
    message = "{path} has padding={given!r}: {problem}."
    hint = "{advice}"


class KernelMaskShapeError(LayerError):
    """The mask of a masked convolution does not have the kernel's shape."""

    code = "nn/kernel-mask-shape"
    message = "{path} has a mask of shape {given}, but its kernel has shape {expected}."
    hint = "Make the mask with the kernel's shape: jnp.ones({expected})."


class NormMaskShapeError(LayerError):
    """The mask of a normalisation does not broadcast to its input."""

    code = "nn/norm-mask-shape"
    message = "{path} was given a mask of shape {given}, which does not broadcast to the input's shape {expected}."
    hint = "Give a mask with the input's shape, or with extent 1 along the axes that share it: mask[..., None]."


class UnsupportedOptionError(LayerError, NotImplementedError):
    """A layer is asked for something that it cannot do."""

    code = "nn/unsupported-option"
    message = "{path} has {argument}={given}: {problem}."
    hint = "{advice}"


class EinsumEquationError(LayerError):
    """An einsum layer has no equation, has two, or has one that it cannot use."""

    code = "nn/einsum-equation"
    message = "{path} cannot use einsum_str={given!r}: {problem}."
    hint = "Write the input, the kernel and the output, to the constructor or to the call: '...d,dh->...h'."


class EmbeddingIdsError(LayerError):
    """An embedding is looked up with numbers that are no integers."""

    code = "nn/embedding-ids"
    message = "{path} looks up rows by integer ids, but was given {dtype}."
    hint = "Convert them, x.astype(jnp.int32); to multiply vectors with the table, call attend."


class EmbeddingRangeError(LayerError, FloatingPointError):
    """An id is out of the range of an embedding, while JAX looks for nan; also JAX's error for that."""

    code = "nn/embedding-range"
    message = "{path} looks up the id {given}, but has {rows} rows, for ids from 0 to {rows} - 1."
    hint = "Set num_embeddings to the largest id and one more, or clip the ids: jnp.clip(x, 0, {rows} - 1)."


class NonMatrixError(LayerError):
    """Spectral normalisation meets a parameter that is no matrix, and was told not to flatten it."""

    code = "nn/non-matrix"
    message = "{path} has error_on_non_matrix=True, but {name!r} has shape {shape}."
    hint = "Leave error_on_non_matrix=False to take it as a matrix [all other axes, last axis]."


class DropoutRateError(LayerError):
    """A dropout rate is no probability."""

    code = "nn/dropout-rate"
    message = "{path} has rate={given}, but a rate is the probability to drop a value."
    hint = "Give a number from 0 (drop nothing) to 1 (drop all)."


class SequentialLayersError(LayerError):
    """``Sequential`` has no layers, or something else than a sequence of them."""

    code = "nn/sequential-layers"
    message = "{path} cannot chain layers={given}: {problem}."
    hint = "Give a list of layers and functions: Sequential([Dense(64), relu, Dense(10)])."


class BatchApplyError(LayerError):
    """No input of ``BatchApply`` has the axes that are to be merged."""

    code = "nn/batch-apply"
    message = "{path} merges {num_dims} leading axes, but the inputs have shapes {shapes}."
    hint = "{advice}"


class PoolingWindowError(LayerError, AssertionError):
    """A pooling window, its strides or its padding do not fit the input."""

    code = "nn/pooling-window"
    message = "{path} has {argument}={given}: {problem}."
    hint = "{advice}"


class RepeatBlockError(LayerError):
    """``Repeat`` is given no block, something that is no Module, or an option that it does not have."""

    code = "nn/repeat-block"
    message = "{path} cannot repeat its block: {problem}."
    hint = "Write Repeat(Block(...), 12, name='h'), or Repeat([local, local, globe], 8) for a pattern."


class RepeatCarryError(LayerError, TypeError):
    """A layer of ``Repeat`` returns another carry than it was given, so the next layer cannot take it."""

    code = "nn/repeat-carry"
    message = "{path} returns {given} in place of {expected}."
    hint = "Let the block keep shapes and dtypes (dtype= of its layers); put what changes them before or after Repeat."


class RepeatInputError(LayerError):
    """An input or a field of ``Repeat`` does not have one entry for each layer."""

    code = "nn/repeat-input"
    message = "Repeat at {path}: {problem}."
    hint = "Use in_axes=nn.broadcast for what every layer gets whole, 0 for what has an entry for each layer in front."


class RepeatLayersError(LayerError):
    """The variables of the layers of ``Repeat`` differ in structure or shape, or some are missing."""

    code = "nn/repeat-layers"
    message = "Repeat at {path} needs equal layers: {problem}."
    hint = "Give all layers, each as init makes it, or all of them stacked by batiste.tree.stack_layers."
