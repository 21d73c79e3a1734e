"""Boxes: leaves that carry words about an array beside the array.

A box wraps one array and says something about it, most often the logical names of its axes. ``init`` stores what the
initialiser returned, box and all; a module that reads the parameter gets the plain array. A box is a registered pytree
node, so that transforms and optimisers see through it, and reading it has no side effect: it never asks for a mesh.

``add_axis`` and ``remove_axis`` are told by a lifted transform that an axis has come or gone.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, Generic, Self, TypeVar, cast

import jax

__all__ = [
    "AxisMetadata",
    "add_axis",
    "is_axis_metadata",
    "map_axis_meta",
    "remove_axis",
    "replace_boxed",
    "stored_in",
    "unbox",
]

T = TypeVar("T")


class AxisMetadata(Generic[T], metaclass=abc.ABCMeta):
    """The interface of a box: an array and something said of its axes.

    A subclass is registered as a pytree node whose only child is the array.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> box = nn.Partitioned(jnp.ones((2, 3)), names=(None, "model"))
      >>> isinstance(box, nn.AxisMetadata), box.unbox().shape
      (True, (2, 3))
    """

    @abc.abstractmethod
    def unbox(self) -> T:
        """Return the array without the box."""

    @abc.abstractmethod
    def replace_boxed(self, val: Any) -> Any:
        """Return a box like this one around another array."""

    @abc.abstractmethod
    def add_axis(self, index: int, params: dict[Any, Any]) -> Self:
        """Return the box after a transform has put a new axis at ``index``; ``params`` is its ``metadata_params``."""

    @abc.abstractmethod
    def remove_axis(self, index: int, params: dict[Any, Any]) -> Self:
        """Return the box after a transform has taken away the axis at ``index``."""


def stored_in(box: Any) -> Any:
    """Return what is in a box as it is stored: ``unbox`` of one with names of axes may constrain its sharding.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import core, nn
      >>> core.stored_in(nn.Partitioned(jnp.ones(3), names=("model",))).tolist()
      [1.0, 1.0, 1.0]
    """
    return box.value if hasattr(box, "value") else box.unbox()


def is_axis_metadata(value: Any) -> bool:
    """Return whether ``value`` is a box.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import core, nn
      >>> core.is_axis_metadata(nn.Partitioned(jnp.ones(3), names=("model",)))
      True
    """
    return isinstance(value, AxisMetadata)


def map_axis_meta(function: Callable[[AxisMetadata[Any]], Any], tree: Any) -> Any:
    """Apply ``function`` to every box of ``tree`` and leave other leaves alone.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import core, nn
      >>> boxes = {"w": nn.Partitioned(jnp.ones(3), names=("model",)), "b": 0}
      >>> core.map_axis_meta(lambda box: box.names, boxes)
      {'b': 0, 'w': ('model',)}
    """

    def visit(leaf: Any) -> Any:
        return function(cast("AxisMetadata[Any]", leaf)) if isinstance(leaf, AxisMetadata) else leaf

    return jax.tree.map(visit, tree, is_leaf=is_axis_metadata)


def add_axis(tree: Any, index: int, params: dict[Any, Any]) -> Any:
    """Tell every box of ``tree`` that an axis has come at ``index``.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import core, nn
      >>> box = nn.Partitioned(jnp.ones((2, 3)), names=(None, "model"))
      >>> core.add_axis(box, 0, {nn.PARTITION_NAME: "layers"}).names
      ('layers', None, 'model')
    """
    return map_axis_meta(lambda box: box.add_axis(index, params), tree)


def remove_axis(tree: Any, index: int, params: dict[Any, Any]) -> Any:
    """Tell every box of ``tree`` that the axis at ``index`` has gone.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import core, nn
      >>> box = nn.Partitioned(jnp.ones((2, 3)), names=("layers", "model"))
      >>> core.remove_axis(box, 0, {nn.PARTITION_NAME: "layers"}).names
      ('model',)
    """
    return map_axis_meta(lambda box: box.remove_axis(index, params), tree)


def unbox(tree: Any) -> Any:
    """Return ``tree`` with every box replaced by the array in it.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> boxes = {"w": nn.Partitioned(jnp.ones(3), names=("model",))}
      >>> nn.unbox(boxes)["w"].shape
      (3,)
    """
    return map_axis_meta(lambda box: unbox(box.unbox()), tree)


def replace_boxed(tree: Any, updates: Any) -> Any:
    """Put the values of ``updates`` into the boxes of ``tree``; where there is no box the value stands as it is.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import core, nn
      >>> boxes = {"w": nn.Partitioned(jnp.ones(3), names=("model",))}
      >>> core.replace_boxed(boxes, {"w": 2.0})["w"].value
      2.0
    """

    def put(box: Any, value: Any) -> Any:
        if not isinstance(box, AxisMetadata):
            return value
        outer = cast("AxisMetadata[Any]", box)
        held = outer.unbox()
        return outer.replace_boxed(replace_boxed(held, value) if is_axis_metadata(held) else value)

    return jax.tree.map(put, tree, updates, is_leaf=is_axis_metadata)
