"""The errors of ``batiste.importers``: what a state dict holds, what a model wants, and what the mapping says of both.

An import fails as a whole and says all that is wrong at once, one thing a line with both sides, because a mapping is
mended from the whole list and never from its first entry.
"""

from __future__ import annotations

from typing import ClassVar

from batiste.errors._base import BatisteError

__all__ = [
    "ExportMismatchError",
    "ImportMismatchError",
    "ImporterError",
    "MappingFileError",
    "MappingRuleError",
    "NestedStateDictError",
    "NotAStateDictError",
    "TiedTensorsError",
    "UnknownMappingError",
    "UnmatchedRuleError",
]


class ImporterError(BatisteError):
    """The base of the errors of ``batiste.importers``."""

    code: ClassVar[str] = "importers/error"


class ImportMismatchError(ImporterError):
    """Some tensor has no leaf, some leaf has no tensor, or the two differ."""

    code = "importers/mismatch"
    message = "{source} does not fill the target; what is wrong: {count}\n{lines}"
    hint = (
        "Add rules for what is missing, or name what is meant: `ignore=` for tensors that are not wanted, `keep=` for "
        'leaves that stay as they are in the target, `dtype="cast"` for other dtypes.'
    )


class ExportMismatchError(ImporterError):
    """Some leaf has no rule that leads back to a tensor."""

    code = "importers/export"
    message = "The variables cannot be written as a state dict; what is wrong: {count}\n{lines}"
    hint = "Give every leaf a rule, or name those that are not wanted with `ignore=`."


class MappingRuleError(ImporterError):
    """A rule of a mapping cannot be read, or cannot be read backwards."""

    code = "importers/rule"
    message = "The rule {rule} cannot work: {reason}."
    hint = "{cure}"


class UnmatchedRuleError(ImporterError):
    """A rule applies to no tensor at all."""

    code = "importers/unmatched-rule"
    message = "{source} has no tensors for these:\n{lines}"
    hint = "Correct the pattern, or leave it out; a rule that need not apply says so with `optional=True`."


class NestedStateDictError(ImporterError):
    """A file holds several state dicts, or none under the name that was given."""

    code = "importers/nested"
    message = "{source} has {found}."
    hint = "Say which one is meant, as in `nested={example!r}`."


class NotAStateDictError(ImporterError):
    """What was given holds something that is no tensor, or two tensors of one name."""

    code = "importers/state-dict"
    message = "{source} cannot be taken for the weights of a model: {reason}."
    hint = "A state dict has tensors by their names; PyTorch's `model.state_dict()` is one."


class TiedTensorsError(ImporterError):
    """Tensors that a mapping calls one and the same have different values."""

    code = "importers/tied"
    message = "These are said to be tied, and differ:\n{lines}"
    hint = "Give each a leaf of its own: take `same_as=` or `tied=True` away from the rule."


class MappingFileError(ImporterError):
    """A file is no mapping."""

    code = "importers/mapping-file"
    message = "{path} is not a mapping: {reason}."
    hint = 'A mapping is JSON: `{{"rules": [{{"source": "fc", "target": "params/fc", "layout": "linear"}}]}}`.'


class UnknownMappingError(ImporterError):
    """There is neither a file nor a ready mapping of this name."""

    code = "importers/unknown-mapping"
    message = "There is no mapping {name!r}: no file, and no ready mapping.{near}"
    hint = "Ready mappings are {known}."
