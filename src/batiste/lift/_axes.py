"""How a transform treats the axes of arguments, results and variables."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Generic, TypeAlias, TypeVar

import jax
import jax.numpy as jnp

from batiste.core import CollectionFilter, add_axis, remove_axis
from batiste.module import Blueprint

__all__ = [
    "AxisSpec",
    "In",
    "Out",
    "VariableAxes",
    "broadcast",
    "in_axis",
    "is_array_like",
    "move_in",
    "move_out",
    "out_axis",
    "size_along",
    "static_args",
]

T = TypeVar("T")


class _Broadcast:
    """The type of ``broadcast``."""

    def __repr__(self) -> str:
        return "broadcast"


broadcast = _Broadcast()
"""As an axis of ``scan``: the same value in every step."""


@dataclasses.dataclass(frozen=True)
class In(Generic[T]):
    """An axis for variables on the way in; on the way out they are not collected.

    Attributes:
      axis: the axis, or None.
    """

    axis: T


@dataclasses.dataclass(frozen=True)
class Out(Generic[T]):
    """An axis for variables on the way out; on the way in they are not handed to the body.

    Attributes:
      axis: the axis, or None.
    """

    axis: T


AxisSpec: TypeAlias = int | None | In[Any] | Out[Any]
"""An axis, None for a variable that all share, or one for the way in or out alone."""

VariableAxes: TypeAlias = Mapping[CollectionFilter, AxisSpec]
"""The axis of the variables of each collection, by collection filter."""


def in_axis(spec: AxisSpec) -> Any:
    """Return the axis on the way in."""
    return spec.axis if isinstance(spec, In | Out) else spec


out_axis = in_axis


def move_in(tree: Any, axis: int | None, metadata: Mapping[Any, Any]) -> Any:
    """Tell boxes that the body does not see the lifted axis."""
    return tree if axis is None else remove_axis(tree, axis, dict(metadata))


def move_out(tree: Any, axis: int | None, metadata: Mapping[Any, Any]) -> Any:
    """Tell boxes that the lifted axis is there again outside of the body."""
    return tree if axis is None else add_axis(tree, axis, dict(metadata))


def static_args(tree: Any) -> tuple[list[Any], Any]:
    """Split arguments into arrays, and a function that puts arrays back between all that is not an array.

    Python numbers, flags, strings and modules stay what they are: only arrays pass through the transform.
    """
    leaves, treedef = jax.tree.flatten(tree)
    is_array = [is_array_like(leaf) for leaf in leaves]
    arrays = [leaf for leaf, mark in zip(leaves, is_array, strict=True) if mark]
    others = [None if mark else leaf for leaf, mark in zip(leaves, is_array, strict=True)]

    def fill(new: list[Any]) -> Any:
        rest = iter(new)
        return jax.tree.unflatten(treedef, [next(rest) if m else o for m, o in zip(is_array, others, strict=True)])

    return arrays, fill


def is_array_like(leaf: Any) -> bool:
    """Return whether a leaf of arguments is an array; a module never is, even with a field ``dtype``."""
    return not isinstance(leaf, Blueprint) and hasattr(leaf, "dtype") and hasattr(leaf, "shape")


def size_along(tree: Any, axes: Any) -> set[int]:
    """Return the extents of the arrays of ``tree`` along the axes that ``axes``, a prefix of it, gives."""
    found: set[int] = set()

    def visit(axis: Any, part: Any) -> None:
        if isinstance(axis, int):
            found.update(jnp.shape(leaf)[axis] for leaf in jax.tree.leaves(part))

    jax.tree.map(visit, axes, tree, is_leaf=lambda a: a is None or isinstance(a, int | _Broadcast))
    return found
