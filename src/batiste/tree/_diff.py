"""How two trees differ, in words: one line a leaf, and never the values themselves.

``diff(left, right)`` compares leaves by path and containers by kind. What it finds:

- ``missing``: only the left tree has the leaf; ``extra``: only the right one has it;
- ``shape`` and ``dtype``: both have it, and it is another array;
- ``value``: both have it, and the values are further apart than the tolerance;
- ``container``: both have a container there, of different kinds, or one has a leaf.

What is equal is IEEE's equality, with one exception: NaN is equal to NaN, whatever its payload and sign. So 0.0 equals
-0.0, infinity equals infinity of the same sign, and within a tolerance infinity is close to nothing else. Whole numbers
are compared exactly, however large. Random keys are equal or not: no tolerance applies to their data. Elements that a
masked array hides are equal where both hide them.

Distances: the largest absolute difference of two elements, and that number divided by the largest absolute value on the
left that is finite. Leaves are read one pair at a time, so that two checkpoints need no more memory than their largest
leaf.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, Literal, TypeAlias, cast

import numpy as np

from batiste._arguments import number
from batiste.tree._containers import Node, walk
from batiste.tree._conversion import number_kind
from batiste.tree._lazy import NumpyArray, read_box
from batiste.tree._leaves import dtype_of, is_abstract, is_array, is_key, leaf_text, shape_of
from batiste.tree._names import Parts, join_path
from batiste.tree._patterns import Patterns, as_patterns, check_matched

__all__ = ["Diff", "Difference", "diff"]

Kind: TypeAlias = Literal["missing", "extra", "shape", "dtype", "container", "value"]

_CHUNK = 1 << 20
_WIDE = 8


@dataclasses.dataclass(frozen=True, slots=True)
class Difference:
    """One path at which two trees differ.

    Attributes:
      path: where.
      kind: ``missing``, ``extra``, ``shape``, ``dtype``, ``container`` or ``value``.
      left: what the left tree has there, in words; empty where it has nothing.
      right: what the right tree has there, in words; empty where it has nothing.
      distance: the largest absolute difference of two elements, where both have numbers in one shape.
      relative: the distance divided by the largest absolute value on the left.
      unequal: how many elements differ.

    Example:
      >>> import numpy as np
      >>> from batiste import tree
      >>> left, right = {"w": np.ones(2)}, {"w": np.float64([1, 1.5])}
      >>> (found,) = tree.diff(left, right).differences
      >>> found.path, found.kind, found.distance
      ('w', 'value', 0.5)
    """

    path: str
    kind: Kind
    left: str = ""
    right: str = ""
    distance: float | None = None
    relative: float | None = None
    unequal: int | None = None

    def __str__(self) -> str:
        return f"{self.path or '(root)'}  {self.kind}  {self.detail()}"

    def detail(self) -> str:
        """Return what differs, without the path and the kind."""
        if self.kind in ("missing", "extra"):
            return self.left or self.right
        text = self.left if self.left == self.right else f"{self.left} -> {self.right}"
        if self.distance is None:
            return text if self.unequal is None else f"{text}, {self.unequal} elements"
        return f"{text}, max abs {self.distance:.3g}, relative {self.relative:.3g}, {self.unequal} elements"


@dataclasses.dataclass(frozen=True, slots=True)
class Diff:
    """Every difference of two trees; true where there is one, and readable when printed.

    Attributes:
      differences: sorted by path.
      leaves: how many paths were compared.

    Example:
      >>> import numpy as np
      >>> from batiste import tree
      >>> found = tree.diff({"w": np.ones(2)}, {"w": np.ones(3)})
      >>> bool(found), found.leaves
      (True, 1)
      >>> print(found)
      1 difference in 1 leaf
        w  shape  float64[2] -> float64[3]
    """

    differences: tuple[Difference, ...]
    leaves: int

    def __bool__(self) -> bool:
        return bool(self.differences)

    def __len__(self) -> int:
        return len(self.differences)

    def __iter__(self) -> Iterator[Difference]:
        return iter(self.differences)

    def __str__(self) -> str:
        among = f"{self.leaves} leaf" if self.leaves == 1 else f"{self.leaves} leaves"
        if not self.differences:
            return f"no differences in {among}"
        rows = [(entry.path or "(root)", entry.kind, entry.detail()) for entry in self.differences]
        path_width = max(len(path) for path, _, _ in rows)
        kind_width = max(len(kind) for _, kind, _ in rows)
        lines = [f"  {path:<{path_width}}  {kind:<{kind_width}}  {detail}".rstrip() for path, kind, detail in rows]
        plural = "" if len(rows) == 1 else "s"
        return "\n".join([f"{len(rows)} difference{plural} in {among}", *lines])


def diff(
    left: Any,
    right: Any,
    patterns: Patterns | None = None,
    *,
    values: bool = True,
    rtol: float = 0.0,
    atol: float = 0.0,
) -> Diff:
    """Return how two trees differ.

    Args:
      left: any pytree; lazy and abstract leaves too.
      right: the other one.
      patterns: compare only the paths that match one of these.
      values: whether values are compared; otherwise lazy leaves are not read.
      rtol: two finite elements differ where ``|left - right| > atol + rtol * |left|``.
      atol: see ``rtol``.

    Raises:
      ArgumentError: if a tolerance is no finite number of at least 0.
      UnmatchedPatternError: if a pattern matches no path of either tree.

    Example:
      >>> from batiste import tree
      >>> left, right = {"a": 1, "b": 2}, {"a": 1, "c": 3}
      >>> [(found.path, found.kind) for found in tree.diff(left, right).differences]
      [('b', 'missing'), ('c', 'extra')]
    """
    rtol, atol = number(rtol, "rtol", "diff", low=0), number(atol, "atol", "diff", low=0)
    compiled = None if patterns is None else as_patterns(patterns)
    first, second = walk(left), walk(right)
    if compiled is not None:
        known = dict.fromkeys([*first.leaves, *second.leaves, *first.containers, *second.containers])
        check_matched(compiled, list(map(join_path, known)), unmatched="error")
    found: dict[Parts, Difference] = {}
    compared = 0
    for parts in dict.fromkeys([*first.leaves, *second.leaves, *first.containers, *second.containers]):
        path = join_path(parts)
        if compiled is not None and not any(pattern.matches(path) for pattern in compiled):
            continue
        in_leaves = parts in first.leaves, parts in second.leaves
        compared += any(in_leaves)
        if all(in_leaves):
            entry = _leaf_difference(path, first.leaves[parts], second.leaves[parts], values, (rtol, atol))
        elif parts in first.containers and parts in second.containers:
            entry = _container_difference(path, first.containers[parts], second.containers[parts])
        else:
            entry = _one_sided(
                path,
                _text(first.leaves, first.containers, parts),
                _text(second.leaves, second.containers, parts),
                bare=not any(in_leaves),
            )
        if entry is not None:
            found[parts] = entry
    return Diff(tuple(found[parts] for parts in sorted(found)), compared)


def _text(leaves: dict[Parts, Any], containers: dict[Parts, Node], parts: Parts) -> tuple[str, bool]:
    """What is there in words, and whether it has children of its own to be listed."""
    if parts in leaves:
        return leaf_text(leaves[parts]), False
    if parts in containers:
        return _kind_text(containers[parts]), bool(containers[parts].names)
    return "", False


def _one_sided(path: str, left: tuple[str, bool], right: tuple[str, bool], *, bare: bool) -> Difference | None:
    """A leaf or container that the other tree has not, or has as something else."""
    if left[0] and right[0]:
        return Difference(path, "container", left[0], right[0])
    text, has_children = left if left[0] else right
    if bare and has_children:
        return None  # its leaves are listed one by one
    return Difference(path, "missing", left=text) if left[0] else Difference(path, "extra", right=text)


def _container_difference(path: str, left: Node, right: Node) -> Difference | None:
    texts = _kind_text(left), _kind_text(right)
    if texts[0] != texts[1]:
        if left.is_mapping and right.is_mapping and not (left.names and right.names):
            texts = texts[0].removesuffix(_WHOLE_KEYS), texts[1].removesuffix(_WHOLE_KEYS)
        return Difference(path, "container", texts[0], texts[1]) if texts[0] != texts[1] else None
    if left.kind is right.kind:
        return None
    modules = [f"{texts[0]} of {kind.__module__}" for kind in (left.kind, right.kind)]
    return Difference(path, "container", modules[0], modules[1])


_WHOLE_KEYS = " with integer keys"


def _kind_text(node: Node) -> str:
    container: Any = node.container
    kind = node.kind
    if container is None:
        return "None"
    if hasattr(kind, "_fields"):
        return f"named tuple {kind.__name__}"
    if dataclasses.is_dataclass(kind):
        return f"dataclass {kind.__name__}"
    whole = bool(node.keys) and all(type(key) is int for key in node.keys)
    return kind.__name__ + (_WHOLE_KEYS if whole else "")


def _leaf_difference(
    path: str, left: Any, right: Any, values: bool, tolerance: tuple[float, float]
) -> Difference | None:
    texts = leaf_text(left), leaf_text(right)
    if not (is_array(left) and is_array(right)):
        same = type(left) is type(right) and (not values or _is_equal(left, right))
        return None if same else Difference(path, "value", *texts)
    if shape_of(left) != shape_of(right):
        return Difference(path, "shape", *texts)
    kind: Kind = "value" if _is_one_dtype(left, right) else "dtype"
    if not values or is_key(left) != is_key(right) or is_abstract(left) or is_abstract(right):
        return Difference(path, kind, *texts) if kind == "dtype" else None
    if is_key(left):
        unequal, distance, relative = _unequal_keys(left, right), None, None
    elif type(left) is int and type(right) is int:
        unequal, distance, relative = _integer_distance(left, right, *tolerance)
    else:
        unequal, distance, relative = _distance(left, right, *tolerance)
    if kind == "value" and not unequal:
        return None
    return Difference(path, kind, *texts, distance, relative, unequal)


def _is_one_dtype(left: Any, right: Any) -> bool:
    """Whether two leaves have one dtype; the order of its bytes in memory is not part of it."""
    if type(left) is int and type(right) is int:
        return True  # however large
    one, two = (_native_dtype(dtype_of(leaf)) for leaf in (left, right))
    return bool(one == two)


def _native_dtype(dtype: Any) -> Any:
    return cast("Any", dtype).newbyteorder("=") if isinstance(dtype, np.dtype) else dtype


def _is_equal(left: Any, right: Any) -> bool:
    """Whether two objects of Python are the same or say that they are equal; one that cannot say it is not."""
    try:
        return left is right or bool(left == right)
    except (TypeError, ValueError):
        return False


def _unequal_keys(left: Any, right: Any) -> int:
    """How many random keys differ."""
    import jax

    one, two = (read_box(jax.random.key_data(keys)) for keys in (left, right))
    if one.shape != two.shape or str(jax.random.key_impl(left)) != str(jax.random.key_impl(right)):
        return math.prod(shape_of(left))
    return int(np.count_nonzero((one != two).any(axis=-1)))


def _integer_distance(left: int, right: int, rtol: float, atol: float) -> tuple[int, float, float]:
    """As ``_distance``, for integers of Python, which may be larger than any dtype."""
    gap = abs(left - right)
    unequal = int(gap > Fraction(atol) + Fraction(rtol) * abs(left))
    relative = Fraction(gap, abs(left)) if left else Fraction(0)
    return unequal, _as_float(Fraction(gap)), _as_float(relative) if left or not gap else math.inf


def _as_float(number: Fraction) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf


def _distance(left: Any, right: Any, rtol: float, atol: float) -> tuple[int, float | None, float | None]:
    """How many elements differ, the largest difference, and that in relation to the largest value on the left."""
    one, two, unequal = _without_masked(left, right)
    if "none" in (number_kind(one.dtype), number_kind(two.dtype)):
        return unequal + _unequal_objects(one, two), None, None
    distance, largest = 0.0, 0.0
    flat = one.reshape(-1), two.reshape(-1)
    for start in range(0, one.size, _CHUNK):
        first, second = (_native(part[start : start + _CHUNK]) for part in flat)
        same = first == second if {first.dtype.kind, second.dtype.kind} <= set("biu") else None  # exactly
        first, second = _widened(first), _widened(second)
        if same is None:
            same = (first == second) | (np.isnan(first) & np.isnan(second))
        with np.errstate(invalid="ignore", over="ignore"):
            gap = np.where(same, 0, _gap(first, second))
            same |= _is_close(first, second, gap, rtol, atol)
        unequal += int(same.size - np.count_nonzero(same))
        distance = _larger(distance, float(gap.max()))
        finite = np.abs(first[np.isfinite(first)])
        largest = max(largest, float(finite.max()) if finite.size else 0.0)
    if distance == 0:
        return unequal, distance, 0.0
    return unequal, distance, distance / largest if largest else float("inf")


def _without_masked(left: Any, right: Any) -> tuple[NumpyArray, NumpyArray, int]:
    """Two arrays with zeros where one of them hides an element, and how many are hidden by one alone."""
    one, two = read_box(left), read_box(right)
    if not any(isinstance(leaf, np.ma.MaskedArray) for leaf in (left, right)):
        return one, two, 0
    first, second = (cast("NumpyArray", np.ma.getmaskarray(leaf)) for leaf in (left, right))
    hidden = first | second
    one, two = one.copy(), two.copy()
    one[hidden], two[hidden] = np.zeros((), one.dtype), np.zeros((), two.dtype)
    return one, two, int(np.count_nonzero(first != second))


def _unequal_objects(left: NumpyArray, right: NumpyArray) -> int:
    """How many elements differ of arrays that are no numbers: text, dates, records, objects of Python."""
    if left.dtype == right.dtype and left.dtype.kind in "mM":  # NaT, too, is equal to itself
        return int(np.count_nonzero(left.view(np.int64) != right.view(np.int64)))
    pairs = zip(left.reshape(-1).tolist(), right.reshape(-1).tolist(), strict=True)
    return sum(not _is_equal(one, two) for one, two in pairs)


def _gap(first: NumpyArray, second: NumpyArray) -> NumpyArray:
    """The absolute differences; of complex numbers by parts, so that equal infinities in one do not hide the other."""
    if first.dtype.kind != "c" and second.dtype.kind != "c":
        return np.abs(first - second)
    real = np.where(np.real(first) == np.real(second), 0, np.real(first) - np.real(second))
    imaginary = np.where(np.imag(first) == np.imag(second), 0, np.imag(first) - np.imag(second))
    return cast("NumpyArray", np.hypot(real, imaginary))


def _is_close(first: NumpyArray, second: NumpyArray, gap: NumpyArray, rtol: float, atol: float) -> NumpyArray:
    """Where two finite numbers are within the tolerance."""
    limit = atol + rtol * np.abs(first)
    finite = np.isfinite(first) & np.isfinite(second)
    close: NumpyArray = finite & (gap <= limit)
    large = finite & ~(np.isfinite(gap) & np.isfinite(limit))
    if large.any():  # a quarter of each number has a difference and a magnitude that do not overflow
        one, two = first[large] / 4, second[large] / 4
        close[large] = _gap(one, two) <= atol / 4 + rtol * np.abs(one)
    return close


def _larger(one: float, other: float) -> float:
    return other if np.isnan(other) or other > one else one


def _native(array: NumpyArray) -> NumpyArray:
    """The same numbers in a dtype that NumPy itself has."""
    if array.dtype.type.__module__ == "numpy":
        return array
    return array.astype(np.int64 if number_kind(array.dtype) == "int" else np.float64)


def _widened(array: NumpyArray) -> NumpyArray:
    """The same numbers in a dtype that holds their differences exactly enough."""
    if array.dtype.kind in "cf" and array.dtype.itemsize > _WIDE:
        return array
    if array.dtype.kind == "c":
        return array.astype(np.complex128)
    wide = np.longdouble if array.dtype.kind in "iu" and array.dtype.itemsize == _WIDE else np.float64
    return cast("NumpyArray", array.astype(wide))
