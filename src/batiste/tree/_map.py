"""What is done to each leaf by the pattern that its path matches: a function, a dtype, a label.

The structure stays exactly what it is. Rules are a mapping from pattern to value, tried in order; the first that
matches a path decides, and a path that no rule matches is left alone (``map``, ``cast``) or gets the default
(``label``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias
from typing import cast as cast_type

import jax
import jax.numpy as jnp
import numpy as np

from batiste._arguments import choice, function, mapping
from batiste.errors import CastLossError, TreeValueError, UnmatchedPathsError, nearest
from batiste.tree._containers import take_apart
from batiste.tree._conversion import cast_loss, converted, number_kind
from batiste.tree._lazy import LazyArray, host_parts
from batiste.tree._leaves import check_arrays, dtype_of, is_floating, is_key, is_traced, leaf_text
from batiste.tree._paths import flatten
from batiste.tree._patterns import Unmatched, first_match
from batiste.typing import DTypeLike

__all__ = ["LeafFunction", "cast", "label", "map"]

_WRITE_OUT: Final = "Write it out, as in 'bfloat16'"
_SHORT: Final = re.compile(r"(bf|fp|f|i|u|c)([0-9]+)")
_FAMILIES: Final[Mapping[str, str]] = MappingProxyType(
    {"bf": "bfloat", "fp": "float", "f": "float", "i": "int", "u": "uint", "c": "complex"}
)
_DTYPES: Final = (
    "bool",
    "bfloat16",
    "float16",
    "float32",
    "float64",
    "complex64",
    "complex128",
    "int4",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint4",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float8_e4m3fn",
    "float8_e5m2",
    "float8_e4m3b11fnuz",
    "float8_e4m3fnuz",
    "float8_e5m2fnuz",
)

LeafFunction: TypeAlias = Callable[[str, Any], Any]
"""A function of a path and the leaf there."""


def map(  # noqa: A001 - `tree.map` is what JAX calls it too
    tree: Any, rules: LeafFunction | Mapping[Any, LeafFunction], *, unmatched: Unmatched = "error"
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

    Example:
      >>> from batiste import tree
      >>> params = {"up": {"kernel": 1, "bias": 2}}
      >>> tree.map(params, {"**/bias": lambda path, leaf: 10 * leaf})
      {'up': {'bias': 20, 'kernel': 1}}
    """
    leaves = flatten(tree)
    if isinstance(rules, Mapping):
        functions = first_match(cast_type("Mapping[Any, LeafFunction]", rules), leaves, unmatched=unmatched)
    else:
        functions = dict.fromkeys(leaves, rules)
    for rule in functions.values():
        function(rule, "rules", "map", what="a function of path and leaf, or a mapping from patterns to such functions")
    return _replaced(tree, {path: new(path, leaves[path]) for path, new in functions.items()})


def cast(
    tree: Any,
    dtypes: DTypeLike | Mapping[Any, DTypeLike],
    *,
    kinds: Literal["floating", "all"] = "floating",
    unmatched: Unmatched = "error",
) -> Any:
    """Return the tree with its floating leaves in other dtypes; lazy leaves are converted when they are read.

    Numbers are rounded to the nearest one of the new dtype, and what is too small becomes zero. Whatever else would be
    lost is an error: range (a finite number would become infinite, an integer would wrap), signs, fractions, imaginary
    parts, NaN and infinities where the dtype has none. Tracers have no values to look at, and are converted as JAX
    converts them.

    Args:
      tree: any pytree of arrays.
      dtypes: one dtype for all, or pattern to dtype, in order of precedence.
      kinds: ``"floating"`` leaves integers, booleans and random keys as they are; ``"all"`` converts all but the keys.
      unmatched: whether a pattern that matches nothing is an error.

    Raises:
      CastLossError: if a leaf would lose more than precision; the error lists all. Of a lazy leaf, when it is read.
      ArgumentError: if ``kinds`` or ``unmatched`` is none of the above.
      NotAnArrayError: if a leaf that a rule matches is not an array; the error lists all.
      TreeValueError: if a dtype is none, or none of numbers, or JAX holds it only with ``jax_enable_x64``.
      UnmatchedPatternError: if a pattern matches no path.

    Example:
      >>> import numpy as np
      >>> from batiste import tree
      >>> params = {"kernel": np.ones(3, np.float32), "step": np.int32(7)}
      >>> half = tree.cast(params, "bfloat16")
      >>> half["kernel"].dtype, half["step"].dtype
      (dtype(bfloat16), dtype('int32'))
    """
    choice(kinds, "kinds", "cast", ("floating", "all"))
    leaves = flatten(tree)
    if isinstance(dtypes, Mapping):
        known = {pattern: _dtype(dtype) for pattern, dtype in dtypes.items()}
        found = first_match(known, leaves, unmatched=unmatched)
    else:
        found = dict.fromkeys(leaves, _dtype(dtypes))
    check_arrays({path: leaves[path] for path in found}, "`cast`")
    chosen = {
        path: dtype
        for path, dtype in found.items()
        if (is_floating(leaves[path]) or (kinds == "all" and not is_key(leaves[path])))
        and dtype_of(leaves[path]) != dtype
    }
    _check_losses(leaves, chosen)
    return _replaced(tree, {path: _converted(path, leaves[path], dtype) for path, dtype in chosen.items()})


def label(tree: Any, rules: Mapping[Any, str], *, default: str | None = None, unmatched: Unmatched = "error") -> Any:
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

    Example:
      >>> from batiste import tree
      >>> params = {"up": {"kernel": 0, "bias": 0}}
      >>> tree.label(params, {"**/bias": "no_decay"}, default="decay")
      {'up': {'bias': 'no_decay', 'kernel': 'decay'}}
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
    found: Any = None
    try:
        found = None if cast_type("Any", dtype) is None else jnp.dtype(dtype)
    except TypeError:
        reason = "that is not the name of a dtype"
    else:
        reason = "no numbers are of that dtype"
    if found is None or number_kind(found) == "none":
        near = _nearest_dtype(dtype) if isinstance(dtype, str) else ""
        cure = f"{near} Or give a JAX or NumPy dtype." if near else f"{_WRITE_OUT}, or give a JAX or NumPy dtype."
        raise TreeValueError(argument="dtype", value=repr(dtype), reason=reason, cure=cure)
    return found


def _nearest_dtype(name: str) -> str:
    """A question with the dtype that was meant, as far as a name says; "" where it says nothing."""
    short = _SHORT.fullmatch(name.strip().lower())
    full = f"{_FAMILIES[short[1]]}{short[2]}" if short is not None else name.strip().lower()
    return f"Did you mean {full!r}?" if full in _DTYPES else nearest(full, _DTYPES).strip()


def _check_losses(leaves: Mapping[str, Any], dtypes: Mapping[str, np.dtype[Any]]) -> None:
    """Raise for arrays whose values are known and would not survive the cast."""
    lines: list[str] = []
    for path, dtype in dtypes.items():
        leaf = leaves[path]
        if isinstance(leaf, jax.Array) and jax.dtypes.canonicalize_dtype(dtype) != dtype:
            reason = f"{path!r} is an array of JAX, which holds {dtype.name} only with `jax_enable_x64`"
            cure = "Set it, or hand in NumPy's arrays, as `jax.device_get` makes them."
            raise TreeValueError(argument="dtype", value=repr(dtype.name), reason=reason, cure=cure)
        losses = [loss for part in host_parts(leaf) if (loss := cast_loss(part, dtype))]
        lines += [f"  {path}: {leaf_text(leaf)} -> {dtype.name}: {loss}" for loss in losses[:1]]
    if lines:
        raise CastLossError(count=len(lines), lines="\n".join(lines))


def _converted(path: str, leaf: Any, dtype: np.dtype[Any]) -> Any:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf.update(dtype=dtype)
    if isinstance(leaf, LazyArray):
        return leaf.astype(dtype, name=path)
    if isinstance(leaf, jax.Array):
        to_real = jnp.issubdtype(leaf.dtype, jnp.complexfloating) and number_kind(dtype) != "complex"
        return (leaf.real if to_real and not is_traced(leaf) else leaf).astype(dtype)
    return converted(np.asanyarray(leaf), dtype)
