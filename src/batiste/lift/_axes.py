"""How a transform treats the axes of arguments, results and variables."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeAlias, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np

from batiste._arguments import mapping, refused, whole_number
from batiste.core import CollectionFilter, Variable, add_axis, check_filter, remove_axis
from batiste.errors import LiftAxisSizeError
from batiste.module import Blueprint

__all__ = [
    "AxisSpec",
    "In",
    "Out",
    "VariableAxes",
    "broadcast",
    "described",
    "first_entry",
    "from_front",
    "in_axis",
    "is_array_like",
    "is_axis",
    "is_shared_axis",
    "is_traceable",
    "merged",
    "metadata",
    "move_in",
    "move_out",
    "out_axis",
    "per_argument",
    "size_along",
    "static_args",
    "table",
    "the_size",
    "to_front",
    "traced_args",
    "without_modules",
]

T = TypeVar("T")


class Broadcast:
    """The type of ``broadcast``.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> class Sum(nn.Module):
      ...     def __call__(self, carry, x, scale):
      ...         return carry + scale * x, None
      >>> scanned = nn.scan(Sum, in_axes=(0, nn.broadcast))
      >>> scanned().apply({}, 0.0, jnp.arange(3.0), 10.0)[0].item()
      30.0
    """

    def __repr__(self) -> str:
        return "broadcast"


broadcast = Broadcast()
"""As an axis of ``scan``: the same value in every step."""


@dataclasses.dataclass(frozen=True)
class In(Generic[T]):
    """An axis for variables on the way in; on the way out they are not collected.

    Attributes:
      axis: the axis, or None.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> Many = nn.vmap(nn.Dense, variable_axes={"params": nn.In(0)})
      >>> kernels = {"kernel": jnp.ones((2, 3, 1))}
      >>> Many(1, use_bias=False).apply({"params": kernels}, jnp.ones((2, 3))).tolist()
      [[3.0], [3.0]]
    """

    axis: T


@dataclasses.dataclass(frozen=True)
class Out(Generic[T]):
    """An axis for variables on the way out; on the way in they are not handed to the body.

    Attributes:
      axis: the axis, or None.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> class Note(nn.Module):
      ...     def __call__(self, x):
      ...         self.sow("notes", "x", x)
      ...         return x
      >>> Many = nn.vmap(Note, variable_axes={"notes": nn.Out(0)})
      >>> Many().apply({}, jnp.ones((2, 3)), mutable="notes")[1]["notes"]["x"][0].shape
      (2, 3)
    """

    axis: T


AxisSpec: TypeAlias = int | In[Any] | Out[Any] | None
"""An axis, None for a variable that all share, or one for the way in or out alone."""

VariableAxes: TypeAlias = Mapping[CollectionFilter, AxisSpec]
"""The axis of the variables of each collection, by collection filter."""


def table(value: Any, argument: str, where: str) -> dict[Any, Any]:
    """Return axes by collections, ``variable_axes``, or flags by streams, ``split_rngs``, as a dict.

    Raises:
      ArgumentError: they are something else.
      InvalidFilterError: a key is no filter.
    """
    flags = argument == "split_rngs"
    what = "a dict from streams to True or False" if flags else "a dict from collections to axes"
    found = dict(mapping(value, argument, where, what=what))
    for key, entry in found.items():
        check_filter(key)
        if flags:
            if not isinstance(entry, bool | np.bool_) and entry not in (0, 1):
                raise refused(entry, f"{argument}[{key!r}]", where, "True or False")
            continue
        axis: Any = cast("In[Any]", entry).axis if isinstance(entry, In | Out) else entry
        if not is_shared_axis(axis):
            whole_number(axis, f"{argument}[{key!r}]", where, low=None)
    return found


def metadata(value: Any, where: str) -> dict[Any, Any]:
    """Return what boxes are told of an axis as a dict.

    Raises:
      ArgumentError: it is something else.
    """
    return dict(mapping(value, "metadata_params", where, what="a dict of what boxes are told"))


def in_axis(spec: AxisSpec) -> int | None:
    """Return the axis on the way in; None if variables are shared or do not go in."""
    return None if isinstance(spec, Out) else spec.axis if isinstance(spec, In) else spec


def out_axis(spec: AxisSpec) -> int | None:
    """Return the axis on the way out; None if variables are shared or do not come out."""
    return None if isinstance(spec, In) else spec.axis if isinstance(spec, Out) else spec


def move_in(tree: Any, axis: int | None, metadata: Mapping[Any, Any]) -> Any:
    """Tell boxes that the body does not see the lifted axis."""
    return tree if axis is None else remove_axis(tree, axis, dict(metadata))


def move_out(tree: Any, axis: int | None, metadata: Mapping[Any, Any]) -> Any:
    """Tell boxes that the lifted axis is there again outside of the body."""
    return tree if axis is None else add_axis(tree, axis, dict(metadata))


def merged(parts: Iterable[Mapping[Any, Any]]) -> dict[Any, Any]:
    """Return one dict with the entries of all."""
    whole: dict[Any, Any] = {}
    for part in parts:
        whole.update(part)
    return whole


def to_front(tree: Any, axis: int | None) -> Any:
    """Return arrays with one axis moved to the front; as they are if there is none."""
    if axis is None:
        return tree

    def move(array: Any) -> Any:
        return jnp.moveaxis(array, axis, 0)

    return jax.tree.map(move, tree)


def from_front(tree: Any, axis: int | None) -> Any:
    """Return arrays with their first axis moved to ``axis``; as they are if there is none."""
    if axis is None:
        return tree

    def move(array: Any) -> Any:
        return jnp.moveaxis(array, 0, axis)

    return jax.tree.map(move, tree)


def first_entry(tree: Any, axis: int | None) -> Any:
    """Return the first entry of arrays along an axis, or what stands for one along an axis of length 0."""
    if axis is None:
        return tree

    def take(array: Any) -> Any:
        if jnp.shape(array)[axis]:
            return jax.lax.index_in_dim(array, 0, axis, keepdims=False)
        if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
            data = jnp.sum(jax.random.key_data(array), axis)
            return cast("Any", jax.random.wrap_key_data(data, impl=jax.random.key_impl(array)))
        return jnp.sum(array, axis, dtype=array.dtype)

    return jax.tree.map(take, tree)


def per_argument(axes: Any, arguments: tuple[Any, ...], transform: str, path: str) -> tuple[Any, ...]:
    """Return an axis, or a tree of axes, for each argument; modules and variables have none.

    Raises:
      LiftAxisSizeError: if there are more or fewer axes than arguments.
    """
    given = (axes,) * len(arguments)
    if isinstance(axes, tuple | list):
        given = tuple(cast("Sequence[Any]", axes))
    if len(given) != len(arguments):
        raise LiftAxisSizeError(
            transform=transform,
            path=path,
            problem=f"{len(given)} in_axes for {len(arguments)} arguments",
            advice="Give one axis for each argument that is mapped or looped over, or one axis for all.",
        )
    if not any(isinstance(leaf, Blueprint | Variable) for leaf in jax.tree.leaves(arguments)):
        return given

    def spread(axis: Any, part: Any) -> Any:
        leaves, treedef = cast("tuple[list[Any], Any]", jax.tree.flatten(part))
        return jax.tree.unflatten(
            treedef, [None if isinstance(leaf, Blueprint | Variable) else axis for leaf in leaves]
        )

    return jax.tree.map(spread, given, arguments, is_leaf=is_axis)


def static_args(tree: Any) -> tuple[list[Any], Callable[[list[Any]], Any]]:
    """Split arguments into arrays, and a function that puts arrays back between all that is not an array.

    Python numbers, flags, strings and modules stay what they are: only arrays pass through the transform.
    """
    return _split(tree, is_array_like)


def traced_args(tree: Any) -> tuple[list[Any], Callable[[list[Any]], Any]]:
    """Split arguments into arrays and Python numbers, and a function that puts such values back between the rest."""
    return _split(tree, is_traceable)


def without_modules(tree: Any) -> tuple[list[Any], Callable[[list[Any]], Any]]:
    """Split off modules and variables; return the rest, and a function that puts such values back between them."""
    return _split(tree, lambda leaf: not isinstance(leaf, Blueprint | Variable))


def _split(tree: Any, is_moving: Callable[[Any], bool]) -> tuple[list[Any], Callable[[list[Any]], Any]]:
    leaves, treedef = cast("tuple[list[Any], Any]", jax.tree.flatten(tree))
    marks = [is_moving(leaf) for leaf in leaves]
    moving = [leaf for leaf, mark in zip(leaves, marks, strict=True) if mark]
    others = [None if mark else leaf for leaf, mark in zip(leaves, marks, strict=True)]

    def fill(new: list[Any]) -> Any:
        rest = iter(new)
        return jax.tree.unflatten(treedef, [next(rest) if m else o for m, o in zip(marks, others, strict=True)])

    return moving, fill


def is_array_like(leaf: Any) -> bool:
    """Return whether a leaf of arguments is an array; a module never is, even with a field ``dtype``."""
    return not isinstance(leaf, Blueprint) and hasattr(leaf, "dtype") and hasattr(leaf, "shape")


def is_traceable(leaf: Any) -> bool:
    """Return whether JAX can trace a leaf of arguments: an array, a Python number or a flag."""
    return isinstance(leaf, bool | int | float | complex) or is_array_like(leaf)


def is_axis(value: Any) -> bool:
    """Return whether ``value`` says of one part of arguments or results how it is looped over."""
    return value is None or isinstance(value, int | Broadcast)


def is_shared_axis(axis: Any) -> bool:
    """Return whether ``axis`` says that every step has the same value."""
    return axis is None or isinstance(axis, Broadcast)


def size_along(tree: Any, axes: Any, transform: str, path: str) -> set[int]:
    """Return the extents of the arrays of ``tree`` along the axes that ``axes``, a prefix of it, gives.

    Raises:
      LiftAxisSizeError: if an array has no such axis.
    """
    found: set[int] = set()

    def visit(axis: Any, part: Any) -> None:
        if not is_shared_axis(axis):
            leaves: list[Any] = jax.tree.leaves(part)
            for leaf in leaves:
                shape = cast("Any", jnp.shape(leaf))
                if not -len(shape) <= axis < len(shape):
                    raise LiftAxisSizeError(
                        transform=transform,
                        path=path,
                        problem=f"the axis {axis} asked of {described(leaf)}",
                        advice="Give None for what is not mapped or looped over, or nested axes for a nested argument.",
                    )
                found.add(int(shape[axis]))

    jax.tree.map(visit, axes, tree, is_leaf=is_axis)
    return found


def described(leaf: Any) -> str:
    """Return what a value is, for a message."""
    return f"an array of shape {jnp.shape(leaf)}" if is_array_like(leaf) else f"an object of type {type(leaf).__name__}"


def the_size(found: set[int], transform: str, path: str, *, option: str) -> int:
    """Return the one extent of a lifted axis.

    Args:
      found: the extents that arguments, variables and options tell.
      transform: the transform's name.
      path: where it stands.
      option: the argument that says the extent.

    Raises:
      LiftAxisSizeError: if there is none, or more than one.
    """
    if len(found) != 1:
        told = f"the extents {', '.join(map(str, sorted(found)))}"
        raise LiftAxisSizeError(
            transform=transform,
            path=path,
            problem=told if found else "no argument and no variable that tells the extent of its axis",
            advice=f"Give {option}=, and make every argument and variable with that axis as long along it.",
        )
    return next(iter(found))
