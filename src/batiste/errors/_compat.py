"""The errors of ``batiste.compat``: what a program written for another library did that cannot work.

Where Flax has a class for the mistake, ours has its name. Where Flax raises one of Python's own errors, ours is one of
them too, so that an ``except`` clause written for Flax still catches it.
"""

from __future__ import annotations

from batiste.errors._base import BatisteError, BatisteWarning

__all__ = [
    "AlreadyExistsError",
    "ArrayBytesError",
    "BackendModeError",
    "BatchSizesError",
    "CorruptBytesError",
    "CursorAttributeError",
    "CursorFindError",
    "CursorIndexError",
    "CursorIterationError",
    "CursorKeyError",
    "FlagExistsError",
    "FlagIgnoredWarning",
    "FlagTruthError",
    "FlagValueError",
    "FlatKeyError",
    "FlaxDeprecationWarning",
    "FrozenDictError",
    "HandlerRegisteredError",
    "InvalidCheckpointError",
    "MPACheckpointingRequiredError",
    "MissingCheckpointError",
    "NotADictError",
    "OrbaxTargetError",
    "ReplicaAxisError",
    "ScanAxesError",
    "StateDictError",
    "StateDictKeysError",
    "TraversalError",
    "TraversalValuesError",
    "UnknownFlagError",
    "UnserializableError",
]


class FlaxDeprecationWarning(BatisteWarning, DeprecationWarning):
    """A part of Flax is used that Flax itself has deprecated; it works as it does there."""


# Frozen dicts and flat dicts


class FrozenDictError(BatisteError, ValueError):
    """An entry of a frozen dict is assigned; also a ``ValueError``, as in Flax."""

    code = "compat/frozen-dict"
    message = "{key!r} cannot be assigned: a FrozenDict is immutable."
    hint = "Make a changed copy: frozen.copy({{{key!r}: value}})."


class NotADictError(BatisteError, TypeError, AssertionError):
    """Something that is no dict is given where a dict or a frozen dict belongs; also a ``TypeError``."""

    code = "compat/not-a-dict"
    message = "{function} takes a {wanted}, not a {given}."
    hint = "{cure}"


class FlatKeyError(BatisteError, TypeError):
    """A key of a flat dict is no path, or it leads through a leaf; also a ``TypeError``."""

    code = "compat/flat-key"
    message = "The key {key!r} cannot be placed: {reason}."
    hint = "{cure}"


class TraversalError(BatisteError, ValueError):
    """A traversal meets a value that it cannot walk into; also a ``ValueError``."""

    code = "compat/traversal"
    message = "{traversal} cannot walk into a {given}."
    hint = "It takes {wanted}."


class TraversalValuesError(BatisteError, ValueError):
    """``Traversal.set`` is given more or fewer values than there are places; also a ``ValueError``."""

    code = "compat/traversal-values"
    message = "Traversal.set was given {given} values for {places} places."
    hint = "Give one value for each item that iterate() yields, in its order."


# State dicts and bytes


class StateDictError(BatisteError, ValueError):
    """A tree cannot become a state dict; also a ``ValueError``."""

    code = "compat/state-dict"
    message = "No state dict can be made: {what}, at {where}."
    hint = "{cure}"


class StateDictKeysError(StateDictError):
    """A state dict has other keys, fields or elements than the target it should fill."""

    code = "compat/state-dict-keys"
    message = "The state dict does not fit the target at {where}, a {kind}: {difference}."
    hint = "Give a target of the structure that was saved, or read the bare state dict with msgpack_restore."


class HandlerRegisteredError(BatisteError, ValueError):
    """A type is given a second pair of serialization functions; also a ``ValueError``."""

    code = "compat/handler-registered"
    message = "{kind} already has functions that make and read its state dict."
    hint = "Pass override=True to replace them."


class ArrayBytesError(BatisteError, ValueError):
    """An array holds what has no bytes: Python objects, records or typed random keys; also a ``ValueError``."""

    code = "compat/array-bytes"
    message = "An array of dtype {dtype} cannot be written."
    hint = "{cure}"


class UnserializableError(BatisteError, TypeError):
    """A value of a type that cannot be written stands in a state dict; also a ``TypeError``."""

    code = "compat/unserializable"
    message = "A value of type {kind} cannot be written."
    hint = "{cure}"


class CorruptBytesError(BatisteError, ValueError):
    """Bytes are not what ``msgpack_serialize`` writes; also a ``ValueError``."""

    code = "compat/corrupt-bytes"
    message = "The {length} bytes cannot be read: {reason}."
    hint = "Look for the whole file: these are cut, damaged, or of another format."


# Cursors


class CursorFindError(BatisteError):
    """A search finds no object, or more than one."""

    code = "compat/cursor-find"
    flax_arguments = ("cursor", "cursor2")
    message = "find() needs a condition that holds for one object; it holds for {found}."
    hint = "{cure}"


class CursorIndexError(BatisteError, TypeError):
    """A cursor is indexed where its object cannot be; also a ``TypeError``."""

    code = "compat/cursor-index"
    message = "A {kind} cannot be indexed, so {path}[{key!r}] is nothing."
    hint = "Index into dicts, lists, tuples and arrays only."


class CursorKeyError(BatisteError, KeyError):
    """A cursor is asked for a key that its dict does not have; also a ``KeyError``."""

    code = "compat/cursor-key"
    message = "{path} has no key {key!r}."
    hint = "Its keys are: {known}."


class CursorAttributeError(BatisteError, AttributeError):
    """A cursor is asked for an attribute that its object does not have; also an ``AttributeError``."""

    code = "compat/cursor-attribute"
    message = "{path} is a {kind}, which has no attribute {key!r}."
    hint = "Use cursor[{key!r}] for an entry, and cursor.{key} for an attribute."


class CursorIterationError(BatisteError, NotImplementedError):
    """A cursor over something other than a list or a tuple is iterated; also a ``NotImplementedError``."""

    code = "compat/cursor-iteration"
    message = "A cursor over a {kind} cannot be iterated: only lists and tuples can."
    hint = "Iterate over the keys yourself, and index the cursor with them."


# Configuration


class UnknownFlagError(BatisteError, LookupError):
    """A switch of that name does not exist; also a ``LookupError``."""

    code = "compat/unknown-flag"
    message = "There is no configuration switch {name!r}.{nearest}"
    hint = "print(config) lists them all."


class FlagExistsError(BatisteError, RuntimeError):
    """A switch of that name is declared already; also a ``RuntimeError``."""

    code = "compat/flag-exists"
    message = "The configuration switch {name!r} is declared already."
    hint = "Choose another name, or config.update({name!r}, value)."


class FlagValueError(BatisteError, ValueError):
    """An environment variable holds no value that a switch can have; also a ``ValueError``."""

    code = "compat/flag-value"
    message = "The environment variable {name} is {value!r}, which is no {wanted}."
    hint = "Set it to {cure}, or unset it."


class FlagTruthError(BatisteError, TypeError):
    """A switch itself is taken for true or false; also a ``TypeError``."""

    code = "compat/flag-truth"
    message = "The switch {name!r} is an object, and neither true nor false."
    hint = "Ask for its value: {name}.value."


class FlagIgnoredWarning(BatisteWarning):
    """A switch is set that says something to Flax and nothing to batiste."""


# Files


class AlreadyExistsError(BatisteError):
    """A file is copied or renamed onto one that is there."""

    code = "compat/already-exists"
    flax_arguments = ("path",)
    message = "{path} exists already, and nothing is overwritten unasked."
    hint = "Pass overwrite=True, or choose another path."


class BackendModeError(BatisteError, ValueError):
    """Files are asked for in a way that is none of ``BackendMode``; also a ``ValueError``."""

    code = "compat/backend-mode"
    message = "{given!r} is no way to reach files."
    hint = "Use BackendMode.DEFAULT for this machine's files, or BackendMode.TF for those that TensorFlow reaches."


class InvalidCheckpointError(BatisteError):
    """A checkpoint is saved at a step that is not above the newest one's."""

    code = "compat/outdated-checkpoint"
    flax_arguments = ("path", "step")
    message = "Step {step} would be saved at {path}, but a checkpoint of that step or a later one is there."
    hint = "Pass overwrite=True, which removes the later ones, or save at a higher step."


class MissingCheckpointError(BatisteError, ValueError):
    """There is no checkpoint of the step that was asked for; also a ``ValueError``."""

    code = "compat/missing-checkpoint"
    message = "There is no checkpoint at {path}."
    hint = "available_steps() lists the steps that there are."


class OrbaxTargetError(BatisteError, ValueError):
    """Orbax is given something that is not a tree with leaves; also a ``ValueError``."""

    code = "compat/orbax-target"
    message = "Orbax saves trees of arrays, and the target is {given}."
    hint = "Wrap it, as in {{'value': target}}, or config.update('flax_use_orbax_checkpointing', False)."


class MPACheckpointingRequiredError(BatisteError):
    """An array that lies on several processes is saved to, or restored from, a MessagePack file."""

    code = "compat/multiprocess-array"
    flax_arguments = ("path", "step")
    message = "{path} {what}, and a MessagePack file holds whole arrays only."
    hint = "Save and restore with Orbax: config.update('flax_use_orbax_checkpointing', True)."


# Devices


class BatchSizesError(BatisteError, ValueError):
    """The arguments of a padded function have no single batch size; also a ``ValueError``."""

    code = "compat/batch-sizes"
    message = "The arguments have {found}, and need one batch size between them."
    hint = "Give arrays of equal first axis, and name the others in static_argnums or static_argnames."


class ReplicaAxisError(BatisteError, TypeError):
    """A leaf has no axis of devices; also a ``TypeError``."""

    code = "compat/replica-axis"
    message = "{function} needs arrays with a leading axis of devices, and {path} is a {given}."
    hint = "{cure}"


class ScanAxesError(BatisteError, ValueError):
    """No axis to scan over is given, or one more than once; also a ``ValueError``."""

    code = "compat/scan-axes"
    message = "The axes {axes} cannot be scanned over: {reason}."
    hint = "Name at least one axis, and none twice."
