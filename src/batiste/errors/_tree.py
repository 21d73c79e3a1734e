"""The errors of ``batiste.tree``: paths, patterns and the algebra over nested arrays.

An error that concerns several leaves names them all, one a line, with both sides and no array values: the whole list is
what one needs in order to fix the call, and the first entry alone never is.
"""

from __future__ import annotations

from typing import ClassVar

from batiste.errors._base import BatisteError

__all__ = [
    "AdapterMismatchError",
    "AdapterTargetError",
    "AmbiguousKernelError",
    "CastLossError",
    "DuplicatePathError",
    "LayerNameTakenError",
    "LazyIndexError",
    "LazyReadError",
    "MergeConflictError",
    "MissingLayersError",
    "MixedKeysError",
    "NoLayersError",
    "NotAnArrayError",
    "PathConflictError",
    "PathNotFoundError",
    "PatternSyntaxError",
    "RenameCollisionError",
    "RenameTemplateError",
    "TreeError",
    "TreeMismatchError",
    "TreeValueError",
    "UnequalLayersError",
    "UnmatchedPathsError",
    "UnmatchedPatternError",
]


class TreeError(BatisteError):
    """The base of the errors of ``batiste.tree``."""

    code: ClassVar[str] = "tree/error"


class PathNotFoundError(TreeError, KeyError):
    """A path was asked for that the tree does not have."""

    code = "tree/path-not-found"
    message = "There is nothing at the path {path!r}.{near}"
    hint = "`batiste.tree.paths(tree)` lists every path; pass `default=` where the path may be absent."


class PathConflictError(TreeError):
    """One path names a leaf, and another path passes through it as through a container."""

    code = "tree/path-conflict"
    message = "A leaf cannot have other leaves beneath it:\n{lines}"
    hint = "Rename one of the two, or leave it out."


class DuplicatePathError(TreeError):
    """Two leaves of one tree have the same path, because a container gives two children one name."""

    code = "tree/duplicate-path"
    message = "The path {path!r} names two leaves of this tree."
    hint = "Give each child of the container its own key in its pytree registration."


class MixedKeysError(TreeError):
    """A dict has keys that cannot be put in one order, such as 0 and 'bias'."""

    code = "tree/mixed-keys"
    message = "The dict at {path!r} has keys of several kinds ({kinds}), which have no common order."
    hint = "Use strings for all of them, or integers for all of them."


class PatternSyntaxError(TreeError):
    """A glob is not well formed."""

    code = "tree/pattern-syntax"
    message = "The pattern {pattern!r} cannot be read: {reason}."
    hint = (
        "A glob knows `*` and `?` within a level, `**` for any number of levels, `[abc]`, `[!a-z]` and `{{a,b}}`; "
        "a backslash takes the next character as it is."
    )


class UnmatchedPatternError(TreeError):
    """A pattern matches no path of the tree."""

    code = "tree/unmatched-pattern"
    message = "No path of this tree matches:\n{lines}"
    hint = 'Correct the pattern, or pass `unmatched="ignore"` where it may match nothing.'


class UnmatchedPathsError(TreeError):
    """A leaf belongs to no group, and there is no default."""

    code = "tree/unmatched-paths"
    message = "No pattern matches these {count} leaves, so nothing says what they are:\n{lines}"
    hint = "{cure}"


class RenameTemplateError(TreeError):
    """A new name refers to a wildcard that its pattern does not have."""

    code = "tree/rename-template"
    message = "The new name {template!r} of the pattern {pattern!r} cannot be filled in: {reason}."
    hint = (
        "`{{1}}` is what the first wildcard of the pattern matched, `{{0}}` the whole path; write `{{{{` for a brace."
    )


class RenameCollisionError(TreeError):
    """A renaming gives several leaves the same path."""

    code = "tree/rename-collision"
    message = "After the renaming, paths would name more than one leaf, or a leaf and a container:\n{lines}"
    hint = "Keep the leaves apart with a capture: `{{1}}` is what the first wildcard matched."


class MergeConflictError(TreeError):
    """Trees that are merged have leaves at the same paths."""

    code = "tree/merge-conflict"
    message = "These {count} paths come from more than one tree:\n{lines}"
    hint = 'Exclude them from one tree, or pass `overwrite="last"` (or "first") to say which tree wins.'


class TreeMismatchError(TreeError, ValueError):
    """Trees that are combined leaf by leaf differ in their paths, shapes or kinds of numbers."""

    code = "tree/mismatch"
    message = "The trees cannot be combined leaf by leaf: tree 0 and tree {number} differ.\n{lines}"
    hint = "{cure}"


class TreeValueError(TreeError):
    """An argument has a value that cannot work."""

    code = "tree/value"
    message = "`{argument}` is {value}: {reason}."
    hint = "{cure}"


class CastLossError(TreeError, ValueError):
    """Numbers have no place in the dtype that they would be cast to, be they rounded or not."""

    code = "tree/cast-loss"
    message = "A cast may round numbers, and {count} of these would lose more than that:\n{lines}"
    hint = (
        "Choose a dtype of larger range, leave these leaves out by pattern, or say first with `batiste.tree.map` what "
        "the numbers are to become, as in `jnp.clip(leaf, -65504, 65504)`, `leaf.real` or `jnp.rint(leaf)`. "
        "`checkpoint.restore` and `from_torch` give the leaves as they are stored where no target is given."
    )


class NotAnArrayError(TreeError):
    """A leaf is not an array where an array is needed."""

    code = "tree/not-an-array"
    message = "{function} needs arrays, and these {count} leaves are none:\n{lines}"
    hint = "Leave them out with `batiste.tree.select` or `exclude`."


class NoLayersError(TreeError):
    """There is no layer of the given name to stack or to unstack."""

    code = "tree/no-layers"
    message = "There is nothing to {verb}: no level of this tree is named {wanted!r}.{near}"
    hint = "Give the name that all layers share: `h` stands for `h_0`, `h_1`, ... apart and for `h` stacked."


class MissingLayersError(TreeError):
    """The numbers of the layers have gaps."""

    code = "tree/missing-layers"
    message = "The layers are not numbered 0, 1, 2, ... without a gap:\n{lines}"
    hint = "Give every layer its number with `batiste.tree.rename` first."


class LayerNameTakenError(TreeError):
    """Layers cannot be stacked or unstacked under a name that something else has."""

    code = "tree/layer-name-taken"
    message = "Names that the layers would have are taken:\n{lines}"
    hint = "Rename or exclude what has the name, or narrow `within=` to the levels that hold the layers."


class UnequalLayersError(TreeError):
    """Layers that should be stacked or unstacked differ from each other."""

    code = "tree/unequal-layers"
    message = "These leaves differ between layers, so that no one array holds them:\n{lines}"
    hint = "Layers are stacked only where all have the same leaves, shapes and dtypes."


class LazyIndexError(TreeError, IndexError):
    """An index that a lazy array does not take."""

    code = "tree/lazy-index"
    message = "The index {index} does not fit a lazy array of shape {shape}: {reason}."
    hint = "A lazy array takes integers, slices and `...`; read it first (`array.read()`) for anything else."


class LazyReadError(TreeError):
    """The reader of a lazy array returned something else than was announced."""

    code = "tree/lazy-read"
    message = "A lazy array promised {promised} and its reader returned {returned}."
    hint = "The file is damaged, or the shape and dtype given to `LazyArray` are not those of the data."


class AdapterTargetError(TreeError):
    """A low-rank adapter was asked for on a leaf that is not a floating kernel of at least two axes."""

    code = "tree/adapter-target"
    message = "These {count} leaves cannot have a low-rank adapter:\n{lines}"
    hint = "Narrow the pattern to kernels, such as `**/kernel`."


class AmbiguousKernelError(TreeError):
    """A kernel has more than two axes, and nothing says which of them are inputs."""

    code = "tree/ambiguous-kernel"
    message = "These {count} kernels have several axes, and nothing says which are inputs and which outputs:\n{lines}"
    hint = (
        'Say how many axes are inputs, as in `inputs={{"**/query/kernel": 1, "**/out/kernel": 2}}`, '
        "and how many leading axes are layers, as in `stacked=1`."
    )


class AdapterMismatchError(TreeError):
    """Adapters do not fit the parameters that they are merged into."""

    code = "tree/adapter-mismatch"
    message = "These adapters do not fit the parameters:\n{lines}"
    hint = "Adapters belong to the parameters that `lora_init` was given: same paths, same layout."
