"""Names for objects that nothing else tells apart: each call of ``uuid()`` gives an id that no other object has.

A copy of an id, shallow or deep, is a new id: it belongs to the copied object.
"""

from __future__ import annotations

import itertools
from typing import Any

__all__ = ["FlaxId", "UUIDManager", "uuid"]


class FlaxId:
    """An id: equal to another one exactly if the number is the same.

    Attributes:
      id: the number.
    """

    def __init__(self, rawid: int) -> None:
        self.id = rawid

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FlaxId) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"FlaxId({self.id})"

    def __copy__(self) -> FlaxId:
        return uuid()

    def __deepcopy__(self, memo: dict[int, Any]) -> FlaxId:
        del memo
        return uuid()


class UUIDManager:
    """Hands out ids, numbered from 1; from several threads at once too."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)  # one step of C: two threads never get the same number

    def __call__(self) -> FlaxId:
        """Return an id that this manager has not given before."""
        return FlaxId(next(self._numbers))


uuid = UUIDManager()
"""The manager that the whole process shares."""
