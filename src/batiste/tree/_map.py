"""What is done to each leaf by the pattern that its path matches: a function, a dtype, a label.

The structure stays exactly what it is. Rules are a mapping from pattern to value, tried in order; the first that
matches a path decides, and a path that no rule matches is left alone (``map``, ``cast``) or gets the default
(``label``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeAlias
from typing import cast as cast_type

import jax
import jax.numpy as jnp
import numpy as np

from batiste._arguments import choice, function, mapping
from batiste.errors import TreeValueError, UnmatchedPathsError
from batiste.tree._containers import take_apart
from batiste.tree._lazy import LazyArray
from batiste.tree._leaves import check_arrays, dtype_of, is_floating, is_key
from batiste.tree._paths import flatten
from batiste.tree._patterns import PatternLike, Unmatched, first_match
from batiste.typing import DTypeLike

__all__ = ["LeafFunction", "cast", "label", "map"]

LeafFunction: TypeAlias = Callable[[str, Any], Any]
"""A function of a path and the leaf there."""


def map(  # noqa: A001 - `tree.map` is what JAX calls it too
    tree: Any, rules: LeafFunction | Mapping[PatternLike, LeafFunction], *, unmatched: Unmatched = "error"
) -> Any:
    """Return the tree with a function of path and leaf in place of each leaf that a rule matches.

    Args:
      tree: any pytree.
      rules: one function for all leaves, or pattern to function, in order of precedence. A lazy leaf is given as it is:
        ``leaf.map(...)`` keeps it lazy.
      unmatched: whether a pattern that matches nothing is an error.

    Raises:
      ArgumentError: if a rule is no function, or ``unmatched`` neither of the two.
      UnmatchedPatternError: if a pattern matches no path.
    """
    leaves = flatten(tree)
    if isinstance(rules, Mapping):
        functions = first_match(cast_type("Mapping[PatternLike, LeafFunction]", rules), leaves, unmatched=unmatched)
    else:
        functions = dict.fromkeys(leaves, rules)
    for rule in functions.values():
        function(rule, "rules", "map", what="a function of path and leaf, or a mapping from patterns to such functions")
    return _replaced(tree, {path: new(path, leaves[path]) for path, new in functions.items()})


def cast(
    tree: Any,
    dtypes: DTypeLike | Mapping[PatternLike, DTypeLike],
    *,
    kinds: Literal["floating", "all"] = "floating",
    unmatched: Unmatched = "error",
) -> Any:
    """Return the tree with its floating leaves in other dtypes; lazy leaves are converted when they are read.

    Args:
      tree: any pytree of arrays.
      dtypes: one dtype for all, or pattern to dtype, in order of precedence.
      kinds: ``"floating"`` leaves integers, booleans and random keys as they are; ``"all"`` converts all but the keys.
      unmatched: whether a pattern that matches nothing is an error.

    Raises:
      ArgumentError: if ``kinds`` or ``unmatched`` is none of the above.
      NotAnArrayError: if a leaf that a rule matches is not an array; the error lists all.
      TreeValueError: if a dtype is none.
      UnmatchedPatternError: if a pattern matches no path.
    """
    choice(kinds, "kinds", "cast", ("floating", "all"))
    leaves = flatten(tree)
    if isinstance(dtypes, Mapping):
        known = {pattern: _dtype(dtype) for pattern, dtype in dtypes.items()}
        found = first_match(known, leaves, unmatched=unmatched)
    else:
        found = dict.fromkeys(leaves, _dtype(dtypes))
    check_arrays({path: leaves[path] for path in found}, "`cast`")
    new = {
        path: _converted(leaves[path], dtype)
        for path, dtype in found.items()
        if is_floating(leaves[path]) or (kinds == "all" and not is_key(leaves[path]))
    }
    return _replaced(tree, new)


def label(
    tree: Any, rules: Mapping[PatternLike, str], *, default: str | None = None, unmatched: Unmatched = "error"
) -> Any:
    """Return a tree of the same structure with a label for each leaf, as ``optax.multi_transform`` takes it.

    Args:
      tree: any pytree, such as parameters; abstract arrays are good enough.
      rules: pattern to label, in order of precedence.
      default: the label of a leaf that no pattern matches.
      unmatched: whether a pattern that matches nothing is an error.

    Raises:
      ArgumentError: if ``rules`` is no mapping, or ``unmatched`` neither of the two.
      UnmatchedPathsError: if no pattern matches a leaf and there is no default; the error lists all such leaves.
      UnmatchedPatternError: if a pattern matches no path; the error names the nearest ones.
    """
    mapping(rules, "rules", "label", what="a mapping from patterns to labels")
    leaves = flatten(tree)
    labels = first_match(rules, leaves, unmatched=unmatched)
    bare = [path for path in leaves if path not in labels]
    if bare and default is None:
        lines = "\n".join(f"  {path}" for path in bare)
        cure = 'Pass `default=`, or add a last pattern that takes the rest, as in `{..., "**": "train"}`.'
        raise UnmatchedPathsError(count=len(bare), lines=lines, cure=cure)
    return _replaced(tree, dict.fromkeys(leaves, default) | labels)


def _replaced(tree: Any, new: Mapping[str, Any]) -> Any:
    """The same structure with other leaves at some paths."""
    put_together = take_apart(tree)[1]
    return put_together(new.get(path, leaf) for path, leaf in flatten(tree).items())


def _dtype(dtype: DTypeLike) -> np.dtype[Any]:
    try:
        return jnp.dtype(dtype)
    except TypeError:
        reason = "that is not the name of a dtype"
        cure = "Write it out, as in 'bfloat16', or give a JAX or NumPy dtype."
        raise TreeValueError(argument="dtype", value=repr(dtype), reason=reason, cure=cure) from None


def _converted(leaf: Any, dtype: np.dtype[Any]) -> Any:
    if dtype_of(leaf) == dtype:
        return leaf
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf.update(dtype=dtype)
    if isinstance(leaf, LazyArray | jax.Array):
        return leaf.astype(dtype)
    return np.asarray(leaf).astype(dtype)
