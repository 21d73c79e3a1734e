"""Changes to nested immutable structures, written as assignments: ``flax.cursor``.

A cursor stands for a place in a structure: ``c["a"].b`` for the attribute ``b`` of the entry ``"a"``. Assigning through
cursors, or calling ``set``, notes the change and leaves the structure alone; ``build()`` makes the changed structure. A
cursor reads as the value at its place in arithmetic and comparisons. It knows dicts, frozen dicts, lists, tuples, named
tuples and dataclasses; what is below anything else stays as it is.

``apply_update``, ``find`` and ``find_all`` go through a structure and name each place by its keys, joined by ``/``.
"""

from __future__ import annotations

import copy
import dataclasses
import enum
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any, Generic, NamedTuple, Protocol, TypeAlias, TypeVar, cast, runtime_checkable

from batiste.compat.flax._operators import ValueOperators
from batiste.compat.flax.core.frozen_dict import FrozenDict
from batiste.errors import (
    CursorAttributeError,
    CursorFindError,
    CursorIndexError,
    CursorIterationError,
    CursorKeyError,
)

__all__ = ["AccessType", "Cursor", "Indexable", "Key", "ParentKey", "cursor", "is_named_tuple"]

A = TypeVar("A")

Key: TypeAlias = Any
"""What a place is reached by: a key, an index or the name of an attribute."""


class AccessType(enum.Enum):
    """How a place is reached from the one above it."""

    ITEM = enum.auto()
    ATTR = enum.auto()


@dataclasses.dataclass
class ParentKey(Generic[A]):
    """Where a cursor hangs.

    Attributes:
      parent: the cursor above.
      key: the key or the name by which this one is reached.
      access_type: whether by index or by attribute.
    """

    parent: Cursor[A]
    key: Any
    access_type: AccessType


@runtime_checkable
class Indexable(Protocol):
    """What can be indexed."""

    def __getitem__(self, key: Any, /) -> Any: ...


def is_named_tuple(obj: Any) -> bool:
    """Return whether something is an instance of a named tuple."""
    return isinstance(obj, tuple) and hasattr(cast("Any", obj), "_fields")


def cursor(obj: A) -> Cursor[A]:
    """Return a cursor at the root of a structure."""
    return Cursor(obj, None)


class Cursor(ValueOperators, Generic[A]):
    """A place in a structure, and the changes noted at it and below.

    Args:
      obj: the value at the place.
      parent_key: where the cursor hangs; None for the root.
    """

    _obj: A
    _parent_key: ParentKey[Any] | None
    _changes: dict[Any, Cursor[Any]]

    def __init__(self, obj: A, parent_key: ParentKey[A] | None) -> None:
        # `self.x = ...` notes a change
        vars(self).update(_obj=obj, _parent_key=parent_key, _changes={})

    @property
    def _root(self) -> Cursor[Any]:
        return self if self._parent_key is None else self._parent_key.parent._root

    @property
    def _path(self) -> str:
        hung = self._parent_key
        if hung is None:
            return ""
        step = f"[{hung.key!r}]" if hung.access_type is AccessType.ITEM else f".{hung.key}"
        return hung.parent._path + step

    def __getitem__(self, key: Any) -> Cursor[Any]:
        if key in self._changes:
            return self._changes[key]
        if not isinstance(self._obj, Indexable):
            raise CursorIndexError(kind=type(self._obj).__name__, path=self._path or "cursor", key=key)
        if isinstance(self._obj, Mapping) and key not in self._obj:
            entries = cast("Mapping[Any, Any]", self._obj)
            known = ", ".join(map(repr, entries)) or "none"
            raise CursorKeyError(path=self._path or "The root", key=key, known=known)
        return self._below(cast("Any", self._obj)[key], key, AccessType.ITEM)

    def __getattr__(self, name: str) -> Cursor[Any]:
        if name.startswith("__"):  # what Python and NumPy ask every object for
            message = f"{type(self).__name__!r} object has no attribute {name!r}"
            raise AttributeError(message)
        if name in self._changes:
            return self._changes[name]
        if not hasattr(self._obj, name):
            raise CursorAttributeError(path=self._path or "The root", kind=type(self._obj).__name__, key=name)
        return self._below(getattr(self._obj, name), name, AccessType.ATTR)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._note(key, value, AccessType.ITEM)

    def __setattr__(self, name: str, value: Any) -> None:
        self._note(name, value, AccessType.ATTR)

    def _below(self, value: Any, key: Any, access: AccessType) -> Cursor[Any]:
        """Return the cursor at a place below, and keep it: it may be changed."""
        child: Cursor[Any] = Cursor(value, ParentKey(self, key, access))
        self._changes[key] = child
        return child

    def _note(self, key: Any, value: Any, access: AccessType) -> None:
        if isinstance(value, Cursor):  # as after `c["a"] += 1`, or a value read through another cursor
            value = cast("Cursor[Any]", value).build()
        self._below(value, key, access)

    def set(self, value: Any) -> Any:
        """Note a new value at this place, and return the whole structure with all changes noted so far.

        At the root the value itself is returned, and nothing is noted.
        """
        hung = self._parent_key
        if hung is None:
            return value
        hung.parent._note(hung.key, value, hung.access_type)
        return self._root.build()

    def build(self) -> A:
        """Return the structure at this place with the changes noted at it and below. The original stays as it is."""
        changes = {key: child.build() for key, child in self._changes.items()}
        return _rebuilt(self._obj, changes) if changes else self._obj

    def apply_update(self, update_fn: Callable[[str, Any], Any]) -> Cursor[A]:
        """Note ``update_fn(path, value)`` at every place where that is another object, and return this cursor.

        The function is called for containers and for leaves, from the top, with the values of the original structure.
        What is below a replaced value is not gone through.

        Args:
          update_fn: takes a path such as ``"Dense_0/kernel"`` and the value there.
        """

        def go_through(value: Any, path: tuple[_Step, ...]) -> None:
            for key, access, child in _children(value):
                place = (*path, _Step(key, access))
                updated = update_fn(_name(place), child)
                if updated is child:
                    go_through(child, place)
                else:
                    _reached(self, path)._note(key, updated, access)

        go_through(self._obj, ())
        return self

    def find(self, cond_fn: Callable[[str, Any], bool]) -> Cursor[Any]:
        """Return the cursor at the one place where a condition holds.

        What is below a place where it holds is not gone through.

        Args:
          cond_fn: takes a path such as ``"Dense_0/kernel"`` and the value there in the original structure.

        Raises:
          CursorFindError: the condition holds nowhere, or at several places.
        """
        found = self.find_all(cond_fn)
        first, second = next(found, None), next(found, None)
        if first is None:
            raise CursorFindError(found="none", cure="Paths are keys joined by '/', without the root.")
        if second is not None:
            places = f"{first._path} and {second._path} at least"
            raise CursorFindError(found=places, cure="Narrow the condition, or use find_all().")
        return first

    def find_all(self, cond_fn: Callable[[str, Any], bool]) -> Generator[Cursor[Any], None, None]:
        """Yield the cursor at each place where a condition holds.

        What is below such a place is not gone through.

        Args:
          cond_fn: takes a path such as ``"Dense_0/kernel"`` and the value there in the original structure.
        """

        def go_through(value: Any, path: tuple[_Step, ...]) -> Iterator[tuple[_Step, ...]]:
            for key, access, child in _children(value):
                place = (*path, _Step(key, access))
                if cond_fn(_name(place), child):
                    yield place
                else:
                    yield from go_through(child, place)

        for place in go_through(self._obj, ()):
            yield _reached(self, place)

    def __value_behind__(self) -> A:
        return self._obj

    def __iter__(self) -> Iterator[Cursor[Any]]:
        if not isinstance(self._obj, list | tuple):
            raise CursorIterationError(kind=type(self._obj).__name__)
        elements = cast("list[Any]", self._obj)
        return (self[index] for index in range(len(elements)))

    def __reversed__(self) -> Iterator[Cursor[Any]]:
        return reversed(list(iter(self)))

    def __repr__(self) -> str:
        return self._text(0)

    def __str__(self) -> str:
        return str(self._obj)

    def _text(self, indent: int) -> str:
        """Return the object and the changes, one a line, after the first line indented by so many spaces."""
        inner = " " * (indent + 2)
        changes: list[str] = []
        for key, child in self._changes.items():
            label = f"{inner}  {key!r}: "
            changes.append(label + child._text(len(label)))
        noted = "{\n" + ",\n".join(changes) + "\n" + inner + "}" if changes else "{}"
        value = repr(self._obj).replace("\n", "\n" + inner)
        return f"Cursor(\n{inner}_obj={value},\n{inner}_changes={noted}\n{' ' * indent})"


class _Step(NamedTuple):
    """One step of a path: a key, and how it leads on."""

    key: Any
    access: AccessType


def _children(value: Any) -> Iterator[tuple[Any, AccessType, Any]]:
    """Yield key, access and value of each place right below a container; anything else has none."""
    if isinstance(value, dict | FrozenDict):
        for key, child in cast("Mapping[Any, Any]", value).items():
            yield key, AccessType.ITEM, child
    elif is_named_tuple(value):
        for name in value._fields:
            yield name, AccessType.ATTR, getattr(value, name)
    elif isinstance(value, list | tuple):
        for index, child in enumerate(cast("list[Any]", value)):
            yield index, AccessType.ITEM, child
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield field.name, AccessType.ATTR, getattr(value, field.name)


def _reached(start: Cursor[Any], path: tuple[_Step, ...]) -> Cursor[Any]:
    """Return the cursor at the end of a path."""
    for key, access in path:
        start = start[key] if access is AccessType.ITEM else getattr(start, key)
    return start


def _name(path: tuple[_Step, ...]) -> str:
    return "/".join(str(key) for key, _ in path)


def _rebuilt(value: Any, changes: dict[Any, Any]) -> Any:
    """Return a copy of a container with some places changed; anything else is returned as it is."""
    if isinstance(value, FrozenDict):
        return cast("FrozenDict[Any, Any]", value).copy(changes)
    if isinstance(value, dict):
        changed: dict[Any, Any] = copy.copy(cast("dict[Any, Any]", value))
        changed.update(changes)
        return changed
    if is_named_tuple(value):
        names = {value._fields[key] if isinstance(key, int) else key: new for key, new in changes.items()}
        return value._replace(**names)
    if isinstance(value, list | tuple):
        elements = list(cast("list[Any]", value))
        for index, new in changes.items():
            elements[index] = new
        return tuple(elements) if isinstance(value, tuple) else elements
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.replace(cast("Any", value), **changes)
    return value
