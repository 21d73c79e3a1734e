"""How two trees differ, in words: one line a leaf, and never the values themselves.

``diff(left, right)`` compares leaves by path and containers by kind. What it finds:

- ``missing``: only the left tree has the leaf; ``extra``: only the right one has it;
- ``shape`` and ``dtype``: both have it, and it is another array;
- ``value``: both have it, and the values are further apart than the tolerance;
- ``container``: both have a container there, of different kinds, or one has a leaf.

Distances: the largest absolute difference of two elements, and that number divided by the largest absolute value on the
left. Two NaN in one place are equal, and so are two equal infinities. Leaves are read one pair at a time, so that two
checkpoints need no more memory than their largest leaf.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal, TypeAlias, cast

import numpy as np

from batiste._arguments import number
from batiste.tree._containers import Node, walk
from batiste.tree._lazy import NumpyArray, read_box
from batiste.tree._leaves import dtype_of, is_abstract, is_array, is_key, leaf_text, shape_of
from batiste.tree._names import Parts, join_path
from batiste.tree._patterns import Patterns, as_patterns, check_matched

__all__ = ["Diff", "Difference", "diff"]

Kind: TypeAlias = Literal["missing", "extra", "shape", "dtype", "container", "value"]

_CHUNK = 1 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class Difference:
    """One path at which two trees differ.

    Attributes:
      path: where.
      kind: ``missing``, ``extra``, ``shape``, ``dtype``, ``container`` or ``value``.
      left: what the left tree has there, in words; empty where it has nothing.
      right: what the right tree has there, in words; empty where it has nothing.
      distance: the largest absolute difference of two elements, where both have values of one shape.
      relative: the distance divided by the largest absolute value on the left.
      unequal: how many elements differ.
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
            return text
        return f"{text}, max abs {self.distance:.3g}, relative {self.relative:.3g}, {self.unequal} elements"


@dataclasses.dataclass(frozen=True, slots=True)
class Diff:
    """Every difference of two trees; true where there is one, and readable when printed.

    Attributes:
      differences: sorted by path.
      leaves: how many paths were compared.
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
      rtol: two elements differ where ``|left - right| > atol + rtol * |left|``.
      atol: see ``rtol``.

    Raises:
      ArgumentError: if a tolerance is no number of at least 0.
      UnmatchedPatternError: if a pattern matches no path of either tree.
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
        same = type(left) is type(right) and (left is right or not values or bool(left == right))
        return None if same else Difference(path, "value", *texts)
    if shape_of(left) != shape_of(right):
        return Difference(path, "shape", *texts)
    kind: Kind = "value" if dtype_of(left) == dtype_of(right) else "dtype"
    if not values or is_key(left) != is_key(right) or is_abstract(left) or is_abstract(right):
        return Difference(path, kind, *texts) if kind == "dtype" else None
    unequal, distance, relative = _distance(_numbers(left), _numbers(right), *tolerance)
    if kind == "value" and not unequal:
        return None
    return Difference(path, kind, *texts, distance, relative, unequal)


def _numbers(leaf: Any) -> NumpyArray:
    if not is_key(leaf):
        return read_box(leaf)
    import jax

    return np.asarray(jax.random.key_data(leaf))


def _distance(left: NumpyArray, right: NumpyArray, rtol: float, atol: float) -> tuple[int, float, float]:
    """How many elements differ, the largest difference, and that in relation to the largest value on the left."""
    if left.shape != right.shape:  # the data of random keys of two kinds
        return max(left.size, right.size), float("nan"), float("nan")
    unequal, distance, largest = 0, 0.0, 0.0
    flat = left.reshape(-1), right.reshape(-1)
    for start in range(0, left.size, _CHUNK):
        first, second = (_widened(part[start : start + _CHUNK]) for part in flat)
        with np.errstate(invalid="ignore", over="ignore"):
            gap = np.abs(first - second)
            limit = atol + rtol * np.abs(first)
            same = (first == second) | (np.isnan(first) & np.isnan(second)) | (gap <= limit)
            gap = np.where((first == second) | (np.isnan(first) & np.isnan(second)), 0, gap)
        unequal += int(same.size - np.count_nonzero(same))
        distance = _larger(distance, float(gap.max()))
        finite = np.abs(first[np.isfinite(first)])
        largest = max(largest, float(finite.max()) if finite.size else 0.0)
    if distance == 0:
        return unequal, distance, 0.0
    return unequal, distance, distance / largest if largest else float("inf")


def _larger(one: float, other: float) -> float:
    return other if np.isnan(other) or other > one else one


def _widened(array: NumpyArray) -> NumpyArray:
    """The same numbers in a dtype that holds their differences exactly enough."""
    if array.dtype.kind == "c":
        return array.astype(np.complex128)
    wide = np.longdouble if array.dtype.kind in "iu" and array.dtype.itemsize == 8 else np.float64
    return cast("NumpyArray", array.astype(wide))
