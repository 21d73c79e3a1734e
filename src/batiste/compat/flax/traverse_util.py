"""Flat dicts and traversals: nested dicts seen as one level, and places in a tree to read and update.

``flatten_dict`` gives each leaf of a nested dict its **path**, a tuple of keys or, with ``sep``, one string;
``unflatten_dict`` is its inverse. Only dicts and frozen dicts are walked into: a list is a leaf. An empty dict has no
leaf, so it is lost unless it is kept as ``empty_node``.

A **traversal** names places in a structure, and ``iterate`` and ``update`` read and change what is there. They are
deprecated in Flax, and stay here for programs that use them. Trees with globs, renaming and merging are
``batiste.tree``'s.
"""

from __future__ import annotations

import abc
import copy
import dataclasses
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self, cast

import jax

from batiste.compat.flax.core.frozen_dict import FrozenDict, freeze
from batiste.errors import (
    FlatKeyError,
    FlaxDeprecationWarning,
    NotADictError,
    TraversalError,
    TraversalValuesError,
)
from batiste.struct import dataclass

__all__ = [
    "ModelParamTraversal",
    "Traversal",
    "TraverseAttr",
    "TraverseCompose",
    "TraverseEach",
    "TraverseFilter",
    "TraverseId",
    "TraverseItem",
    "TraverseMerge",
    "TraverseTree",
    "empty_node",
    "flatten_dict",
    "path_aware_map",
    "t_identity",
    "unflatten_dict",
]


@dataclass
class _EmptyNode:
    """What stands for an empty dict in a flat one."""


empty_node = _EmptyNode()
"""What stands for an empty dict in a flat one; ``unflatten_dict`` makes an empty dict of it."""


def flatten_dict(
    xs: Any,
    keep_empty_nodes: bool = False,
    is_leaf: Callable[[tuple[Any, ...], Any], bool] | None = None,
    sep: str | None = None,
) -> dict[Any, Any]:
    """Return a dict from the path of each leaf to the leaf.

    Args:
      xs: a nested dict or frozen dict.
      keep_empty_nodes: whether an empty dict becomes an ``empty_node`` or nothing.
      is_leaf: takes a path, a tuple of keys, and the dict there; where it says True, the dict is not walked into.
      sep: what joins the keys, which must be strings, to a path that is one string. None leaves paths as tuples.

    Raises:
      NotADictError: ``xs`` is no dict.
    """
    if not isinstance(xs, dict | FrozenDict):
        raise _not_a_dict(flatten_dict, "nested dict or a FrozenDict", xs)

    def named(path: tuple[Any, ...]) -> Any:
        return path if sep is None else _joined(path, sep)

    def walk(path: tuple[Any, ...], node: Any) -> Iterator[tuple[Any, Any]]:
        if not isinstance(node, dict | FrozenDict) or (is_leaf is not None and is_leaf(path, node)):
            yield named(path), node
            return
        entries = cast("Mapping[Any, Any]", node)
        if not entries and keep_empty_nodes and path:  # an empty root has no path to be kept under
            yield named(path), empty_node
        for key in entries:
            yield from walk((*path, key), entries[key])

    return dict(walk((), xs))


def unflatten_dict(xs: Any, sep: str | None = None) -> dict[Any, Any]:
    """Return the nested dict that a flat one stands for.

    Args:
      xs: a dict from paths to leaves.
      sep: what joins the keys of a path that is one string. None takes paths as tuples.

    Raises:
      NotADictError: ``xs`` is no dict.
      FlatKeyError: a key is no path, or one path leads through the leaf of another.
    """
    if not isinstance(xs, dict):
        raise _not_a_dict(unflatten_dict, "flat dict", xs)
    nested: dict[Any, Any] = {}
    for key, leaf in cast("dict[Any, Any]", xs).items():
        path = _parts(key, sep)
        node = nested
        for part in path[:-1]:
            inner = node.setdefault(part, {})
            if not isinstance(inner, dict):
                reason = f"it leads through {part!r}, which is a leaf"
                raise FlatKeyError(key=key, reason=reason, cure="Leave one of the two out.")
            node = cast("dict[Any, Any]", inner)
        node[path[-1]] = {} if leaf is empty_node else leaf
    return nested


def path_aware_map(f: Callable[[tuple[Any, ...], Any], Any], nested_dict: Any) -> dict[Any, Any]:
    """Return a nested dict with ``f(path, leaf)`` in the place of each leaf; empty dicts stay.

    Raises:
      NotADictError: ``nested_dict`` is no dict.
    """
    flat = flatten_dict(nested_dict, keep_empty_nodes=True)
    return unflatten_dict({path: leaf if leaf is empty_node else f(path, leaf) for path, leaf in flat.items()})


def _joined(path: tuple[Any, ...], sep: str) -> str:
    odd = [key for key in path if not isinstance(key, str)]
    if odd:
        reason = f"{odd[0]!r} is no string, and cannot be joined with {sep!r}"
        raise FlatKeyError(key=path, reason=reason, cure="Leave sep out: paths are then tuples of any keys.")
    return sep.join(path)


def _parts(key: Any, sep: str | None) -> tuple[Any, ...]:
    if sep is not None:
        if not isinstance(key, str):
            reason = f"it is no string, and cannot be split at {sep!r}"
            raise FlatKeyError(key=key, reason=reason, cure="Leave sep out where paths are tuples.")
        return tuple(key.split(sep))
    try:
        path = tuple(key)
    except TypeError:
        path = ()
    if not path:
        reason = "it names no place"
        raise FlatKeyError(key=key, reason=reason, cure="Use a tuple of keys, or pass sep for paths that are strings.")
    return path


def _not_a_dict(function: Callable[..., Any], wanted: str, given: Any) -> NotADictError:
    cure = "Convert it first, as with flax.serialization.to_state_dict."
    return NotADictError(function=function.__name__, wanted=wanted, given=type(given).__name__, cure=cure)


# Traversals


class Traversal(abc.ABC):
    """Places in a structure.

    A subclass says how to ``iterate`` over what is there and how to ``update`` it. Traversals are combined by attribute
    and index (``t.name``, ``t[key]``), ``each``, ``tree``, ``filter``, ``compose`` and ``merge``.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Say that Flax has deprecated traversals."""
        del args, kwargs
        text = (
            "Flax has deprecated traversals: use optax.masked, or path_aware_map, to treat parameters by their names."
        )
        warnings.warn(text, FlaxDeprecationWarning, stacklevel=2)
        return super().__new__(cls)

    @abc.abstractmethod
    def update(self, fn: Callable[[Any], Any], inputs: Any) -> Any:
        """Return a structure like ``inputs`` with ``fn`` applied to what is at each place."""

    @abc.abstractmethod
    def iterate(self, inputs: Any) -> Iterator[Any]:
        """Yield what is at each place."""

    def set(self, values: Any, inputs: Any) -> Any:
        """Return a structure like ``inputs`` with other values at the places, in the order of ``iterate``.

        Raises:
          TraversalValuesError: there are more or fewer values than places.
        """
        given = list(values)
        places: list[Any] = []

        def put(old: Any) -> Any:
            places.append(old)
            return given[len(places) - 1] if len(places) <= len(given) else old

        changed = self.update(put, inputs)
        if len(places) != len(given):
            raise TraversalValuesError(given=len(given), places=len(places))
        return changed

    def compose(self, other: Traversal) -> Traversal:
        """Return the places of ``other`` within the places of this one."""
        return _quietly(TraverseCompose, self, other)

    def merge(self, *traversals: Traversal) -> Traversal:
        """Return, within the places of this one, the places of each of several traversals in turn."""
        return self.compose(_quietly(TraverseMerge, *traversals))

    def each(self) -> Traversal:
        """Return every element of the list, the tuple or the dict at each place."""
        return self.compose(_quietly(TraverseEach))

    def tree(self) -> Traversal:
        """Return every leaf of the pytree at each place."""
        return self.compose(_quietly(TraverseTree))

    def filter(self, fn: Callable[[Any], bool]) -> Traversal:
        """Return those places where ``fn`` of what is there is True."""
        return self.compose(_quietly(TraverseFilter, fn))

    def __getattr__(self, attr: str) -> Traversal:
        if attr.startswith("__"):
            message = f"{type(self).__name__!r} object has no attribute {attr!r}"
            raise AttributeError(message)
        return self.compose(_quietly(TraverseAttr, attr))

    def __getitem__(self, key: Any) -> Traversal:
        return self.compose(_quietly(TraverseItem, key))


def _quietly(kind: Callable[..., Traversal], *args: Any) -> Traversal:
    """Make a traversal out of others without saying once more that they are deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FlaxDeprecationWarning)
        return kind(*args)


class TraverseId(Traversal):
    """The one place that is the whole structure."""

    def update(self, fn: Callable[[Any], Any], inputs: Any) -> Any:
        """Return ``fn(inputs)``."""
        return fn(inputs)

    def iterate(self, inputs: Any) -> Iterator[Any]:
        """Yield ``inputs``."""
        yield inputs


class TraverseMerge(Traversal):
    """The places of several traversals, one after another."""

    def __init__(self, *traversals: Traversal) -> None:
        self._traversals = traversals

    def update(self, fn: Callable[[Any], Any], inputs: Any) -> Any:
        """Return ``inputs`` with ``fn`` applied at the places of each traversal in turn."""
        for traversal in self._traversals:
            inputs = traversal.update(fn, inputs)
        return inputs

    def iterate(self, inputs: Any) -> Iterator[Any]:
        """Yield what is at the places of each traversal in turn."""
        for traversal in self._traversals:
            yield from traversal.iterate(inputs)


class TraverseCompose(Traversal):
    """The places of one traversal within those of another."""

    def __init__(self, x: Traversal, y: Traversal) -> None:
        self._outer = x
        self._inner = y

    def update(self, fn: Callable[[Any], Any], inputs: Any) -> Any:
        """Return ``inputs`` with ``fn`` applied at the inner places of each outer place."""
        return self._outer.update(lambda part: self._inner.update(fn, part), inputs)

    def iterate(self, inputs: Any) -> Iterator[Any]:
        """Yield what is at the inner places of each outer place."""
        for part in self._outer.iterate(inputs):
            yield from self._inner.iterate(part)


class TraverseFilter(Traversal):
    """The whole structure where a condition holds, and no place where it does not."""

    def __init__(self, fn: Callable[[Any], bool]) -> None:
        self._condition = fn

    def update(self, fn: Callable[[Any], Any], inputs: Any) -> Any:
        """Return ``fn(inputs)`` where the condition holds, else ``inputs``."""
        return fn(inputs) if self._condition(inputs) else inputs

    def iterate(self, inputs: Any) -> Iterator[Any]:
        """Yield ``inputs`` where the condition holds."""
        if self._condition(inputs):
            yield inputs


class TraverseAttr(Traversal):
    """An attribute of an object, a dataclass or a named tuple."""

    def __init__(self, attr: str) -> None:
        self._attr = attr

    def update(self, fn: Callable[[Any], Any], inputs: Any) -> Any:
        """Return a copy of ``inputs`` with ``fn`` applied to the attribute."""
        value = fn(getattr(inputs, self._attr))
        if _is_named_tuple(inputs):
            return inputs._replace(**{self._attr: value})
        if dataclasses.is_dataclass(inputs):
            return dataclasses.replace(cast("Any", inputs), **{self._attr: value})
        changed = copy.copy(inputs)
        setattr(changed, self._attr, value)
        return changed

    def iterate(self, inputs: Any) -> Iterator[Any]:
        """Yield the attribute."""
        yield getattr(inputs, self._attr)


class TraverseItem(Traversal):
    """An entry of a dict, or an element of a sequence; a slice of a tuple or a list is one place for each element."""

    def __init__(self, key: Any) -> None:
        self._key = key

    def update(self, fn: Callable[[Any], Any], inputs: Any) -> Any:
        """Return a copy of ``inputs`` with ``fn`` applied to the entry.

        Raises:
          TraversalError: entries of ``inputs`` cannot be assigned.
        """
        value = fn(inputs[self._key])
        if isinstance(inputs, tuple):
            elements = list(cast("tuple[Any, ...]", inputs))
            elements[self._key] = value
            return type(cast("Any", inputs))(*elements) if _is_named_tuple(inputs) else tuple(elements)
        changed: Any = copy.copy(inputs)
        try:
            changed[self._key] = value
        except (TypeError, ValueError) as error:
            wanted = "dicts, lists, tuples and NumPy arrays"
            raise TraversalError(traversal="An index", given=type(inputs).__name__, wanted=wanted) from error
        return changed

    def iterate(self, inputs: Any) -> Iterator[Any]:
        """Yield the entry, or the elements of a slice one by one."""
        if isinstance(self._key, slice):
            yield from inputs[self._key]
        else:
            yield inputs[self._key]


class TraverseEach(Traversal):
    """Every element of a list or a tuple, or every value of a dict."""

    def update(self, fn: Callable[[Any], Any], inputs: Any) -> Any:
        """Return a structure like ``inputs`` with ``fn`` applied to each element.

        Raises:
          TraversalError: ``inputs`` is neither a list nor a tuple nor a dict.
        """
        if type(inputs) is dict:
            return {key: fn(value) for key, value in cast("dict[Any, Any]", inputs).items()}
        if type(inputs) not in (list, tuple):
            wanted = "lists, tuples and dicts"
            raise TraversalError(traversal="each()", given=type(inputs).__name__, wanted=wanted)
        return type(inputs)([fn(value) for value in inputs])

    def iterate(self, inputs: Any) -> Iterator[Any]:
        """Yield each element, of a dict each value."""
        yield from cast("dict[Any, Any]", inputs).values() if isinstance(inputs, dict) else inputs


class TraverseTree(Traversal):
    """Every leaf of a pytree."""

    def update(self, fn: Callable[[Any], Any], inputs: Any) -> Any:
        """Return the pytree with ``fn`` applied to each leaf."""
        return jax.tree.map(fn, inputs)

    def iterate(self, inputs: Any) -> Iterator[Any]:
        """Yield each leaf."""
        yield from jax.tree.leaves(inputs)


class ModelParamTraversal(Traversal):
    """Those leaves of nested parameters whose name, such as ``/Dense_0/kernel``, and value a function accepts.

    Args:
      filter_fn: takes a name and a value and says whether it is meant.
    """

    def __init__(self, filter_fn: Callable[[str, Any], bool]) -> None:
        self._accepts = filter_fn

    def iterate(self, inputs: Any) -> Iterator[Any]:
        """Yield the accepted leaves in the order of their sorted paths.

        Raises:
          TraversalError: ``inputs`` is no nested dict.
        """
        for path, value in self._flat(inputs).items():
            if value is not empty_node and self._accepts(_name(path), value):
                yield value

    def update(self, fn: Callable[[Any], Any], inputs: Any) -> Any:
        """Return the parameters, as a dict or a frozen dict, with ``fn`` applied to the accepted leaves.

        Raises:
          TraversalError: ``inputs`` is no nested dict.
        """
        changed = {
            path: fn(value) if value is not empty_node and self._accepts(_name(path), value) else value
            for path, value in self._flat(inputs).items()
        }
        nested = unflatten_dict(changed)
        return freeze(nested) if isinstance(inputs, FrozenDict) else nested

    def _flat(self, inputs: Any) -> dict[tuple[Any, ...], Any]:
        if not isinstance(inputs, dict | FrozenDict):
            wanted = "nested dicts of parameters"
            raise TraversalError(traversal="ModelParamTraversal", given=type(inputs).__name__, wanted=wanted)
        flat = flatten_dict(inputs, keep_empty_nodes=True)
        return {path: flat[path] for path in sorted(flat)}


def _name(path: tuple[Any, ...]) -> str:
    return "/" + "/".join(str(key) for key in path)


def _is_named_tuple(value: Any) -> bool:
    return isinstance(value, tuple) and hasattr(cast("Any", value), "_fields")


t_identity = _quietly(TraverseId)
"""The traversal whose only place is the whole structure: where combinations begin."""
