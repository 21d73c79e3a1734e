"""Frozen dataclasses that JAX sees through: the containers of states, batches and results.

``@dataclass`` over a class, or ``PyTreeNode`` under it, gives the same thing: a frozen dataclass that is a pytree node,
with a ``replace`` method. A field is either

* **data** (the default): a subtree that ``jax.tree.map``, ``jit`` and ``grad`` walk into, found under its attribute's
  name in key paths; or
* **static** (``field(pytree_node=False)``): a hashable value that is compared with ``==``. Under ``jit`` another value
  means another program.

Every class is registered with ``jax.tree_util.register_dataclass``, so that JAX takes instances apart and puts them
together without running Python functions of ours. ``__init__``, and with it ``__post_init__``, runs when JAX puts one
together, perhaps with tracers or placeholders: convert and check in a class method that makes the instance. A field
with ``init=False`` is no part of the pytree: it is whatever ``__post_init__`` makes of the others.

Instances can be copied and pickled. Where cloudpickle sends a class by value (one of ``__main__``), the class that
arrives is registered there too.

The train state is in ``batiste.train``; modules are dataclasses of another kind, in ``batiste.module``.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Self, TypeVar, dataclass_transform, overload

import jax

from batiste._arguments import mapping, refused
from batiste.errors import FrozenStructError, StructFieldError, StructOptionError, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["PyTreeNode", "dataclass", "field"]

T = TypeVar("T")

_MARK = "__batiste_struct__"
_EMPTY_BODY = frozenset(
    {
        "__abstractmethods__",
        "__doc__",
        "__firstlineno__",
        "__module__",
        "__orig_bases__",
        "__parameters__",
        "__static_attributes__",
        "_abc_impl",
    }
)


def field(pytree_node: bool = True, *, metadata: Mapping[str, Any] | None = None, **options: Any) -> Any:
    """Declare one field of a pytree dataclass.

    Args:
      pytree_node: True for data that JAX walks into, False for a static value: hashable, compared with ``==``.
      metadata: anything to keep beside the field, as in ``dataclasses.field``.
      **options: every other argument of ``dataclasses.field``: ``default``, ``default_factory``, ``kw_only``, ...

    Example:
      >>> import jax
      >>> from batiste import struct
      >>> @struct.dataclass
      ... class Point:
      ...     x: float
      ...     name: str = struct.field(pytree_node=False, default="here")
      >>> jax.tree.leaves(Point(1.0))
      [1.0]
    """
    if metadata is not None:
        mapping(metadata, "metadata", "struct.field", what="a dict")
    return dataclasses.field(metadata={**(metadata or {}), "pytree_node": pytree_node}, **options)


@overload
def dataclass(cls: type[T], /, **options: Any) -> type[T]: ...


@overload
def dataclass(cls: None = None, /, **options: Any) -> Callable[[type[T]], type[T]]: ...


@dataclass_transform(frozen_default=True, field_specifiers=(field, dataclasses.field))
def dataclass(cls: type[T] | None = None, /, **options: Any) -> type[T] | Callable[[type[T]], type[T]]:
    """Make a class a frozen dataclass that is a pytree node and has ``replace``.

    Type checkers know the ``replace`` of a class that inherits from ``PyTreeNode``; otherwise the two are the same.

    Args:
      cls: the class, with annotated fields; None where the decorator is written with arguments.
      **options: the arguments of ``dataclasses.dataclass``, with ``frozen=True`` unless given otherwise.

    Returns:
      The class; a class that is a pytree dataclass already is returned as it is.

    Example:
      >>> import jax
      >>> from batiste import struct
      >>> @struct.dataclass
      ... class Point:
      ...     x: float
      ...     y: float
      >>> jax.tree.map(lambda x: 2 * x, Point(1.0, 2.0))
      Point(x=2.0, y=4.0)
    """
    if cls is None:
        return lambda decorated: dataclass(decorated, **options)
    if not isinstance(cls, type):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise refused(cls, "cls", "struct.dataclass", "a class")
    return _make(cls, options)


@dataclass_transform(frozen_default=True, field_specifiers=(field, dataclasses.field))
class PyTreeNode:
    """A base that makes every subclass a frozen dataclass and a pytree node, as ``dataclass`` does.

    Options are given where the class is declared: ``class State(PyTreeNode, kw_only=True)``.

    Example:
      >>> import jax
      >>> from batiste import struct
      >>> class Point(struct.PyTreeNode):
      ...     x: float
      ...     name: str = struct.field(pytree_node=False, default="here")
      >>> doubled = jax.tree.map(lambda x: 2 * x, Point(x=1.5))
      >>> doubled, doubled.replace(x=0.0).x
      (Point(x=3.0, name='here'), 0.0)
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__()
        if options.get("slots"):
            raise StructOptionError(kind=cls.__name__)
        _make(cls, options)

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed.

        Args:
          **changes: the new values, by field name.

        Raises:
          StructFieldError: a name is no field that the class can be made with.
        """
        return _replace(self, **changes)


def _make(cls: type[T], options: dict[str, Any]) -> type[T]:
    """Make ``cls`` a dataclass, give it ``replace`` and register it, once."""
    if _MARK in vars(cls):
        return cls
    maybe_unfinished = vars(cls).keys() <= _EMPTY_BODY and cls.__doc__ is None
    options = {"frozen": True, **options}
    written = frozenset(vars(cls))
    made: Any = dataclasses.dataclass(**options)(cls)
    if options.get("eq", True) and "__eq__" not in written:
        made.__eq__ = _are_equal
    if options["frozen"]:
        made.__setattr__ = _refuse_assignment
        made.__delattr__ = _refuse_deletion
    if not hasattr(made, "replace"):
        made.replace = _replace
    if maybe_unfinished:
        _register_late(made)
    else:
        _register(made)
    made._flax_dataclass = True  # by which libraries that work with Flax's know such a class
    setattr(made, _MARK, _Registration(made))
    return made


def _are_equal(self: Any, other: Any) -> bool:
    """Return whether both hold the same: one array is equal to itself, as in a tuple, whatever the Python."""
    if other.__class__ is not self.__class__:
        return NotImplemented
    names = [each.name for each in dataclasses.fields(self) if each.compare]
    return tuple(getattr(self, name) for name in names) == tuple(getattr(other, name) for name in names)


def _replace(self: T, **changes: Any) -> T:
    """Return a copy with some fields changed."""
    node: Any = self
    names = [f.name for f in dataclasses.fields(node) if f.init]
    unknown = [name for name in changes if name not in names]
    if unknown:
        raise StructFieldError(
            kind=type(self).__name__,
            given=", ".join(unknown),
            known=", ".join(names),
            nearest="".join(nearest(name, names) for name in unknown[:1]),
        )
    return dataclasses.replace(node, **changes)


def _is_frozen_name(node: Any, name: str) -> bool:
    """Say whether an attribute belongs to the dataclass: all do, save new ones of an ordinary subclass of it."""
    return _MARK in vars(node.__class__) or any(f.name == name for f in dataclasses.fields(node))


def _refuse_assignment(self: Any, name: str, value: Any) -> None:
    if _is_frozen_name(self, name):
        raise FrozenStructError(kind=type(self).__name__, name=name, action="assigned")
    object.__setattr__(self, name, value)


def _refuse_deletion(self: Any, name: str) -> None:
    if _is_frozen_name(self, name):
        raise FrozenStructError(kind=type(self).__name__, name=name, action="deleted")
    object.__delattr__(self, name)


def _field_names(cls: Any) -> tuple[list[str], list[str]]:
    """Return the names of the data fields and of the static fields, in the order of the constructor."""
    data: list[str] = []
    static: list[str] = []
    for declared in dataclasses.fields(cls):
        if declared.init:
            metadata = declared.metadata
            is_data = metadata.get("pytree_node", True) and not metadata.get("static", False)
            (data if is_data else static).append(declared.name)
    return data, static


def _register(cls: type[Any]) -> None:
    jax.tree_util.register_dataclass(cls, *_field_names(cls))


def _register_late(cls: type[Any]) -> None:
    """Register a class whose body is empty, by functions that look its fields up when they run.

    It may be a class that adds nothing to its base, or one that cloudpickle is about to fill: that makes an empty
    class first and sets its attributes, the fields among them, afterwards.
    """

    def flatten_with_keys(node: Any) -> tuple[list[tuple[Any, Any]], Any]:
        data, static = _field_names(cls)
        children = [(jax.tree_util.GetAttrKey(name), getattr(node, name)) for name in data]
        return children, tuple(getattr(node, name) for name in static)

    def flatten(node: Any) -> tuple[list[Any], Any]:
        data, static = _field_names(cls)
        return [getattr(node, name) for name in data], tuple(getattr(node, name) for name in static)

    def unflatten(static_values: Any, children: Any) -> Any:
        data, static = _field_names(cls)
        return cls(**dict(zip(data, children, strict=True)), **dict(zip(static, static_values, strict=True)))

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)


class _Registration:
    """The mark of a registered class, which registers the class again where it is unpickled by value."""

    def __init__(self, cls: type[Any]) -> None:
        self._cls = cls

    def __reduce__(self) -> tuple[Any, ...]:
        return _register_rebuilt, (self._cls, vars(self._cls)["__dataclass_fields__"])


def _register_rebuilt(cls: Any, fields: dict[str, Any]) -> _Registration:
    if _MARK not in vars(cls):
        cls.__dataclass_fields__ = fields
        _register(cls)
    return _Registration(cls)
