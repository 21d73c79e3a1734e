"""Sums of trees, leaf by leaf: averages, ways between two trees, task vectors.

Everything here is one weighted sum. Floating leaves take the dtype of the first tree again. NumPy's and lazy leaves are
summed in twice their width, so that neither many small steps nor large numbers are lost on the way; JAX's are summed in
float32 at least. A sum that is itself beyond its dtype is infinite, as IEEE 754 says. Leaves that are not floating
(step counters, random keys, masks) have no sum, and are those of the first tree. A tree with a weight of exactly zero
is not looked into. Lazy leaves give lazy sums, which read only the box that they are asked for; abstract leaves give
abstract ones.

Sources: stochastic weight averaging (Izmailov et al. 2018, https://arxiv.org/abs/1803.05407), model soups (Wortsman et
al. 2022, https://arxiv.org/abs/2203.05482), task vectors (Ilharco et al. 2022, https://arxiv.org/abs/2212.04089).
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from batiste._arguments import refused
from batiste.errors import CastLossError, TreeMismatchError, TreeValueError
from batiste.tree._containers import take_apart
from batiste.tree._conversion import cast_loss, has_range_of, number_kind
from batiste.tree._lazy import LazyArray, combine_lazy, host_parts
from batiste.tree._leaves import (
    check_arrays,
    dtype_of,
    is_abstract,
    is_floating,
    is_key,
    is_traced,
    leaf_text,
    shape_of,
)
from batiste.tree._paths import flatten
from batiste.typing import ArrayLike

__all__ = ["add_scaled", "average", "interpolate"]

_SHORT = 4


def average(trees: Sequence[Any], *, weights: Sequence[float] | None = None) -> Any:
    """Return the weighted mean of several trees.

    Args:
      trees: at least one, with the same paths and shapes.
      weights: one number a tree; only their proportions count. Equal where not given.

    Raises:
      CastLossError: if another tree has a wider dtype, and the mean is beyond that of the first one.
      TreeMismatchError: if trees differ in paths or shapes, or the first has no place for what another has (a fraction
        in an integer, an imaginary part); the error lists every leaf.
      ArgumentError: if ``trees`` is no list.
      TreeValueError: if there is no tree, or the weights do not fit.

    Example:
      >>> import numpy as np
      >>> from batiste import tree
      >>> trees = [{"w": np.float32([0, 2])}, {"w": np.float32([4, 4])}]
      >>> tree.average(trees)["w"].tolist()
      [2.0, 3.0]
      >>> tree.average(trees, weights=[3, 1])["w"].tolist()
      [1.0, 2.5]
    """
    if isinstance(trees, Mapping):
        reason, cure = "it is one tree, and a mean is one of several", "Give a list: `average([first, second])`."
        raise TreeValueError(argument="trees", value="a mapping", reason=reason, cure=cure)
    if isinstance(trees, str | bytes) or not isinstance(cast("Any", trees), Sequence):
        raise refused(trees, "trees", "average", "a list of trees")
    if not trees:
        raise TreeValueError(argument="trees", value="empty", reason="there is nothing to average", cure="Give a tree.")
    if weights is not None and np.ndim(cast("Any", weights)) != 1:
        reason, cure = "it is no sequence of numbers", "Give one number a tree."
        raise TreeValueError(argument="weights", value=repr(weights), reason=reason, cure=cure)
    parts = [1.0] * len(trees) if weights is None else [_number(weight, "weights") for weight in weights]
    largest = max(map(abs, parts), default=0.0)
    shares = [part / largest for part in parts] if 0 < largest < math.inf else parts
    total = sum(shares)
    if len(parts) != len(trees) or total == 0 or not math.isfinite(total):
        raise TreeValueError(
            argument="weights",
            value=repr(parts),
            reason=f"there are {len(trees)} trees, and the weights must be finite and have a sum other than zero",
            cure="Give one number a tree.",
        )
    return _weighted_sum(trees, shares, total)


def interpolate(first: Any, second: Any, weight: float | ArrayLike) -> Any:
    """Return ``(1 - weight) * first + weight * second``: ``first`` at 0, ``second`` at 1.

    Args:
      first: a tree; the result has its dtypes, and its leaves that are not floating.
      second: a tree with the same paths and shapes.
      weight: a finite scalar, a traced one too; outside of 0 to 1 it extrapolates.

    Raises:
      CastLossError: if ``second`` has a wider dtype, and the result is beyond that of ``first``.
      TreeMismatchError: if the trees differ in paths or shapes, or the first has no place for what the second has; the
        error lists every leaf.
      TreeValueError: if the weight is no finite scalar.

    Example:
      >>> import numpy as np
      >>> from batiste import tree
      >>> first, second = {"w": np.float32([0, 2])}, {"w": np.float32([4, 4])}
      >>> tree.interpolate(first, second, 0.25)["w"].tolist()
      [1.0, 2.5]
    """
    number = _scalar(weight, "weight")
    return _weighted_sum([first, second], [1 - number, number])


def add_scaled(tree: Any, other: Any, scale: float | ArrayLike) -> Any:
    """Return ``tree + scale * other``.

    With ``add_scaled(tuned, base, -1.0)`` as a task vector, ``add_scaled(base, vector, 0.5)`` goes half the way again.

    Args:
      tree: a tree; the result has its dtypes, and its leaves that are not floating.
      other: a tree with the same paths and shapes.
      scale: a finite scalar, a traced one too.

    Raises:
      CastLossError: if ``other`` has a wider dtype, and the result is beyond that of ``tree``.
      TreeMismatchError: if the trees differ in paths or shapes, or the first has no place for what the other has; the
        error lists every leaf.
      TreeValueError: if the scale is no finite scalar.

    Example:
      >>> import numpy as np
      >>> from batiste import tree
      >>> base, change = {"w": np.float32([0, 2])}, {"w": np.float32([4, 4])}
      >>> tree.add_scaled(base, change, 0.5)["w"].tolist()
      [2.0, 4.0]
    """
    return _weighted_sum([tree, other], [1.0, _scalar(scale, "scale")])


def _scalar(weight: Any, argument: str) -> Any:
    """A weight as a number of Python, or as an array of JAX whose dtype has fractions."""
    if np.shape(weight) != ():
        reason, cure = f"it has the shape {np.shape(weight)}", "Give one number for the whole tree."
        raise TreeValueError(argument=argument, value="an array", reason=reason, cure=cure)
    if isinstance(weight, jax.Array) and not jnp.issubdtype(weight.dtype, jnp.complexfloating):
        return weight.astype(jnp.promote_types(weight.dtype, np.float32))  # 1 - weight is exact enough, and signed
    return _number(weight, argument)


def _number(weight: Any, argument: str) -> float:
    cure = "Give a number."
    try:
        if isinstance(weight, str | bytes):
            raise TypeError  # noqa: TRY301 - it would be read as a number
        number = float(weight)
    except (TypeError, ValueError) as error:
        if isinstance(error, jax.errors.ConcretizationTypeError):
            raise
        raise TreeValueError(argument=argument, value=repr(weight), reason="it is no real number", cure=cure) from None
    if not math.isfinite(number):
        raise TreeValueError(argument=argument, value=repr(number), reason="it is not finite", cure=cure)
    return number


def _weighted_sum(trees: Sequence[Any], weights: Sequence[Any], total: float | None = None) -> Any:
    """The sum, or the mean where the total of the weights is given."""
    flat = [flatten(tree) for tree in trees]
    for leaves in flat:
        check_arrays(leaves, "a sum of trees")
    for number, leaves in enumerate(flat[1:], start=1):
        _check_equal(flat[0], leaves, number, is_used=not _is_zero(weights[number]))
    sums = [_sum(path, [leaves[path] for leaves in flat], weights, total) for path in flat[0]]
    return take_apart(trees[0])[1](sums)


def _check_equal(first: dict[str, Any], other: dict[str, Any], number: int, *, is_used: bool) -> None:
    lines = [f"  {path}: only in tree 0" for path in first if path not in other]
    lines += [f"  {path}: only in tree {number}" for path in other if path not in first]
    paths = len(lines)
    shared = [path for path in first if path in other]
    sizes = [path for path in shared if shape_of(first[path]) != shape_of(other[path])]
    kinds = [path for path in shared if is_used and not _has_place_for(first[path], other[path])]
    lines += [
        f"  {path}: {leaf_text(first[path])} in tree 0, {leaf_text(other[path])} in tree {number}"
        for path in dict.fromkeys([*sizes, *kinds])
    ]
    if not lines:
        return
    if paths:
        cure = _cure_of_paths(first, other, number)
    elif sizes:
        cure = "Make them of models of one size, or leave these leaves out of all trees with `batiste.tree.exclude`."
    else:
        cure = 'Give tree 0 numbers of the wider kind first: `batiste.tree.cast(tree, "float32", kinds="all")`.'
    raise TreeMismatchError(number=number, lines="\n".join(lines), cure=cure)


def _cure_of_paths(first: dict[str, Any], other: dict[str, Any], number: int) -> str:
    """What to do about trees with different paths: a level too many, layers apart and stacked, or something else."""
    for above, beneath, which in ((other, first, number), (first, other, 0)):
        levels = {path.partition("/")[0] for path in above}
        if len(levels) == 1 and {path.partition("/")[2] for path in above} == set(beneath):
            return f"Tree {which} has its leaves beneath another level: give what it has at {levels.pop()!r}."
    plain = [{re.sub(r"_[0-9]+(?=/|$)", "", path) for path in paths} for paths in (first, other)]
    if plain[0] == plain[1]:
        return "Bring the layers of both to one layout, with `batiste.tree.stack_layers` or `unstack_layers`."
    return (
        "Give trees of one model: `batiste.tree.exclude` leaves out what only one of them has, and `rename` moves what "
        "has another name there."
    )


def _has_place_for(leaf: Any, other: Any) -> bool:
    """Whether a sum in the dtype of the one leaf can have what is of the other: fractions, imaginary parts."""
    one, two = ("none" if is_key(each) else number_kind(np.dtype(dtype_of(each))) for each in (leaf, other))
    if "none" in (one, two):
        return one == two
    return two in ("bool", "int", one) or one == "complex"


def _sum(path: str, leaves: list[Any], weights: Sequence[Any], total: float | None) -> Any:
    """The weighted sum or mean of leaves of one shape, in the first one's dtype."""
    first = leaves[0]
    if not is_floating(first):
        return first
    shape, dtype = shape_of(first), dtype_of(first)
    if any(is_abstract(leaf) for leaf in leaves):
        return jax.ShapeDtypeStruct(shape, dtype)
    pairs = [(leaf, weight) for leaf, weight in zip(leaves, weights, strict=True) if not _is_zero(weight)]
    if not pairs:
        pairs = [(first, 0.0)]
    terms, factors = [leaf for leaf, _ in pairs], [weight for _, weight in pairs]
    wide = functools.reduce(_promoted, (_wide(dtype_of(leaf)) for leaf in terms), _wide(dtype))
    line = "" if all(has_range_of(dtype, dtype_of(leaf)) for leaf in terms) else f"  {path}: the sum as {dtype.name}"
    is_lazy = any(isinstance(leaf, LazyArray) for leaf in terms)
    if not is_lazy and _is_for_jax(dtype, terms, factors):
        return _sum_in_jax(line, terms, factors, (wide, dtype), total)
    numbers = [factor if isinstance(factor, int | float) else np.asarray(factor) for factor in factors]

    def summed(arrays: list[Any]) -> Any:
        found = _added(arrays, numbers, _doubled(wide), total)
        if line and (loss := cast_loss(np.asarray(found), dtype)):
            raise CastLossError(count=1, lines=f"{line}: {loss}")
        return found.astype(dtype)

    if is_lazy:
        return combine_lazy(summed, terms, shape, dtype)
    return summed([np.asanyarray(leaf) for leaf in terms])


def _is_for_jax(dtype: np.dtype[Any], terms: Sequence[Any], factors: Sequence[Any]) -> bool:
    """Whether JAX computes a sum: where one of its arrays takes part, and it can hold the dtype of the result."""
    own = [value for value in (*terms, *factors) if isinstance(value, jax.Array)]
    return bool(own) and (jax.dtypes.canonicalize_dtype(dtype) == dtype or any(map(is_traced, own)))


def _sum_in_jax(
    line: str,
    terms: Sequence[Any],
    factors: Sequence[Any],
    dtypes: tuple[np.dtype[Any], np.dtype[Any]],
    total: float | None,
) -> jax.Array:
    wide, dtype = (jax.dtypes.canonicalize_dtype(each) for each in dtypes)
    for leaf in terms:  # NumPy's doubles become single, where JAX has no others
        kind = jax.dtypes.canonicalize_dtype(dtype_of(leaf))
        loss = "" if isinstance(leaf, jax.Array) else cast_loss(np.asarray(leaf), kind)
        if loss:
            raise CastLossError(count=1, lines=f"{line or '  a leaf'}, of {leaf_text(leaf)}: {loss}")
    scalars = [factor if isinstance(factor, int | float) else jnp.asarray(factor, wide) for factor in factors]
    arrays = [jnp.asarray(leaf) for leaf in terms]
    if total is not None:
        scalars = [factor / total for factor in scalars]
    is_bounded = total is not None and wide == dtype and min(scalars) >= 0
    found = _bounded_mean(arrays, scalars, dtype) if is_bounded else _added(arrays, scalars, wide)
    for part in host_parts(found) if line else ():
        if loss := cast_loss(part, dtype):
            raise CastLossError(count=1, lines=f"{line}: {loss}")
    return found.astype(dtype)


def _bounded_mean(arrays: Sequence[jax.Array], shares: Sequence[Any], dtype: Any) -> jax.Array:
    """The mean of which no rounding makes an infinity: shares of the largest number may add up to a little more."""
    half = _added(arrays, [share / 2 for share in shares], dtype)
    info = cast("Any", jnp.finfo(dtype))
    largest = float(info.max) / 2

    def bounded(part: jax.Array) -> jax.Array:
        return jnp.where(jnp.isinf(part), part, jnp.clip(part, -largest, largest)) * 2

    if not jnp.issubdtype(dtype, jnp.complexfloating):
        return bounded(half)
    return jax.lax.complex(bounded(half.real), bounded(half.imag))


def _added(arrays: Sequence[Any], weights: Sequence[Any], dtype: np.dtype[Any], total: float | None = None) -> Any:
    """The sum in a dtype, divided by a total; of complex numbers by parts, so that infinite ones leave others alone."""
    if dtype.kind == "c":
        real = np.dtype(f"f{dtype.itemsize // 2}")
        parts = [_added([getattr(array, part) for array in arrays], weights, real, total) for part in ("real", "imag")]
        return _complex(parts[0], parts[1], dtype)
    found = arrays[0].astype(dtype) * weights[0]
    for array, weight in zip(arrays[1:], weights[1:], strict=True):
        found = found + array.astype(dtype) * weight
    return found if total is None else found / total


def _complex(real: Any, imaginary: Any, dtype: np.dtype[Any]) -> Any:
    if isinstance(real, jax.Array):
        return jax.lax.complex(real, cast("jax.Array", imaginary))
    made = np.empty(np.shape(real), dtype)
    made.real, made.imag = real, imaginary
    return np.ma.array(made, mask=cast("Any", real).mask) if isinstance(real, np.ma.MaskedArray) else made


def _is_zero(weight: Any) -> bool:
    return isinstance(weight, int | float) and weight == 0


def _promoted(one: np.dtype[Any], other: np.dtype[Any]) -> np.dtype[Any]:
    return np.promote_types(one, other)


def _wide(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype that values of ``dtype`` are summed in: four bytes at least."""
    whole = not jnp.issubdtype(dtype, jnp.inexact)
    return np.dtype(np.float32) if whole or dtype.itemsize < _SHORT else dtype


def _doubled(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype of twice the width, where the machine has one."""
    wider = {"f4": np.float64, "f8": np.longdouble, "c8": np.complex128, "c16": np.clongdouble}
    return np.dtype(wider.get(dtype.str[1:], dtype))
