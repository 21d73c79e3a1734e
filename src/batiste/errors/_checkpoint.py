"""The errors of ``batiste.checkpoint``: what a file says, what was asked of it, and where the two part.

A mismatch or a damage concerns many leaves at once more often than one, so these errors name them all, one a line, with
both sides and never an array value. A file that cannot be trusted is refused before anything is allocated for it.
"""

from __future__ import annotations

from typing import ClassVar

from batiste.errors._base import BatisteError

__all__ = [
    "CheckpointArgumentError",
    "CheckpointChangedError",
    "CheckpointError",
    "CheckpointExistsError",
    "CheckpointFormatError",
    "CheckpointMismatchError",
    "CheckpointNotFoundError",
    "CheckpointWriteError",
    "DamagedCheckpointError",
    "FormatLossError",
    "MissingPackageError",
    "NoStepError",
    "RefusedCheckpointError",
    "RemoteShardsError",
    "UnknownPolicyError",
    "UnmatchedPolicyError",
    "UnsavableLeafError",
    "UnsavableTreeError",
]


class CheckpointError(BatisteError):
    """The base of the errors of ``batiste.checkpoint``."""

    code: ClassVar[str] = "checkpoint/error"


class CheckpointNotFoundError(CheckpointError, FileNotFoundError):
    """There is no checkpoint at the path."""

    code = "checkpoint/not-found"
    message = "There is no checkpoint at {path}.{near}"
    hint = "{cure}"


class CheckpointFormatError(CheckpointError):
    """The path exists and is none of the formats that can be read."""

    code = "checkpoint/format"
    message = "{path} is not a checkpoint that can be read: {reason}."
    hint = "{cure}"


class CheckpointExistsError(CheckpointError, FileExistsError):
    """Something is already where a checkpoint should be saved."""

    code = "checkpoint/exists"
    message = "{path} already exists, and nothing is overwritten unasked."
    hint = "Choose another path, or pass `overwrite=True`: the old one then stays until the new one is complete."


class CheckpointWriteError(CheckpointError, OSError):
    """The operating system did not let the checkpoint be written."""

    code = "checkpoint/write"
    message = "{path} could not be written: {reason}. What was there before is untouched."
    hint = "{cure}"


class DamagedCheckpointError(CheckpointError):
    """What is on the disk is not what was saved."""

    code = "checkpoint/damaged"
    message = "{path} is damaged, and nothing of it was loaded; not as it was saved: {count}\n{lines}"
    hint = "Restore an earlier step or a copy; `batiste.checkpoint.verify` checks a checkpoint without loading it."


class CheckpointChangedError(DamagedCheckpointError):
    """A checkpoint that is open was replaced, removed or cut by another program."""

    code = "checkpoint/changed"
    message = "{path} is no longer what was opened, and nothing more of it is read: {what}."
    hint = "Open it again; a program that reads what others replace or prune had better copy it first."


class RefusedCheckpointError(CheckpointError):
    """The file asks for something that no honest checkpoint asks for, and is not read any further."""

    code = "checkpoint/refused"
    message = "{path} is refused: {reason}."
    hint = "{cure}"


class CheckpointMismatchError(CheckpointError):
    """The checkpoint and the target differ in paths, shapes or dtypes."""

    code = "checkpoint/mismatch"
    message = "{path} does not fit the target; leaves that differ: {count}\n{lines}"
    hint = (
        "Where this is meant, say so for all leaves or by pattern, as in "
        '`missing={{"params/head/**": "init"}}`, `extra="drop"`, `shape="pad"` or `dtype="cast"`.{advice}'
    )


class UnknownPolicyError(CheckpointError):
    """A restore policy has a value that it does not know."""

    code = "checkpoint/policy"
    message = "`{argument}={value!r}` is not a policy."
    hint = "`{argument}` takes {known}, or a dict from patterns to these."


class UnmatchedPolicyError(CheckpointError):
    """An entry of a restore policy, or of shardings, decides nothing: its pattern matches no leaf, or no such leaf."""

    code = "checkpoint/policy-pattern"
    message = "These entries decide nothing:\n{lines}"
    hint = "Correct the patterns or leave them out: an entry that applies to nothing is a mistyped one."


class CheckpointArgumentError(CheckpointError):
    """An argument has a value that cannot work."""

    code = "checkpoint/argument"
    message = "`{argument}` cannot be {value}: {reason}."
    hint = "{cure}"


class UnsavableLeafError(CheckpointError):
    """A leaf is neither an array nor a plain value."""

    code = "checkpoint/leaf"
    message = "These {count} leaves cannot be saved:\n{lines}"
    hint = "Save arrays, typed random keys, numbers, strings and booleans; leave functions and objects out of the tree."


class UnsavableTreeError(CheckpointError):
    """The containers of a tree cannot be written down so that they come back."""

    code = "checkpoint/tree"
    message = "The container at {path!r} cannot be saved: {reason}."
    hint = "Use dicts with strings or with integers as keys, tuples, lists, named tuples and dataclasses."


class FormatLossError(CheckpointError):
    """The file format that a path asks for has no place for something of what is saved."""

    code = "checkpoint/format-loss"
    message = "{path} would not hold all of this: a Flax MessagePack file has no place for\n{lines}"
    hint = "Save to a folder, `.safetensors` or `.npz`, which hold everything, or leave it out with `lossy=True`."


class RemoteShardsError(CheckpointError):
    """An array has shards on devices of other processes."""

    code = "checkpoint/remote-shards"
    message = "The array at {path!r} has shards on other processes, so this process cannot save all of it."
    hint = "Gather it first (`jax.experimental.multihost_utils.process_allgather`), and save it from one process."


class MissingPackageError(CheckpointError, ImportError):
    """A format needs a package that is not installed."""

    code = "checkpoint/package"
    message = "{purpose} needs the package {package!r}, which is not installed."
    hint = "`pip install {install}`"


class NoStepError(CheckpointError, FileNotFoundError):
    """A run has no checkpoint of the step, or none at all."""

    code = "checkpoint/no-step"
    message = "{folder} has {found}."
    hint = "{cure}"
