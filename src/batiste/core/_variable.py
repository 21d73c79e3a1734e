"""``Variable``: a reference to one entry of a collection, by scope and name."""

from __future__ import annotations

from typing import Any, Generic, Protocol, TypeVar

from batiste.core._boxes import is_axis_metadata, replace_boxed, unbox

__all__ = ["Variable"]

T = TypeVar("T")


class VariableStore(Protocol):
    """What a variable needs of its scope."""

    def get_variable(self, collection: str, name: str, default: Any = ..., /) -> Any:
        """Return the stored value."""
        ...

    def put_variable(self, collection: str, name: str, value: Any, /) -> None:
        """Store a value."""
        ...

    def is_mutable_collection(self, collection: str, /) -> bool:
        """Return whether the collection may be written."""
        ...


class Variable(Generic[T]):
    """A reference to one variable; reading and assigning ``value`` reads and writes the collection.

    Attributes:
      scope: the scope that holds the variable.
      collection: the collection's name.
      name: the variable's name within the scope.
      unbox: whether ``value`` is the array inside of a box (``AxisMetadata``) rather than the box.

    Example:
      >>> from batiste import nn
      >>> class Counter(nn.Module):
      ...     @nn.compact
      ...     def __call__(self):
      ...         count = self.variable("state", "count", lambda: 0)
      ...         count.value += 1
      ...         return count.value
      >>> Counter().apply({"state": {"count": 4}}, mutable="state")
      (5, {'state': {'count': 5}})
    """

    __slots__ = ("collection", "name", "scope", "unbox")

    def __init__(self, scope: VariableStore, collection: str, name: str, *, unbox: bool = True) -> None:
        self.scope = scope
        self.collection = collection
        self.name = name
        self.unbox = unbox

    @property
    def value(self) -> T:
        """The value; assigning it needs a mutable collection.

        Raises:
          ModifyScopeVariableError: on assignment, if the collection is not mutable in this call.
        """
        value: Any = self.scope.get_variable(self.collection, self.name)
        return unbox(value) if self.unbox else value

    @value.setter
    def value(self, value: T) -> None:
        if self.unbox:
            held: Any = self.scope.get_variable(self.collection, self.name)
            if is_axis_metadata(held):
                self.scope.put_variable(self.collection, self.name, replace_boxed(held, value))
                return
        self.scope.put_variable(self.collection, self.name, value)

    def is_mutable(self) -> bool:
        """Return whether assigning ``value`` is allowed in this call."""
        return self.scope.is_mutable_collection(self.collection)

    def __repr__(self) -> str:
        return f"Variable({self.collection!r}, {self.name!r})"
