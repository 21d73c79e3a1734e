"""The stack of running modules, as programs look at Flax's: ``linen.module._context.module_stack``.

batiste keeps the running module only, for each thread and task its own, and a module knows its parent. So the stack is
a **view**: what it shows is made when it is looked at, and what is put on it becomes the running module.
"""

from __future__ import annotations

from collections.abc import MutableSequence
from typing import Any

from batiste.compat.flax._context import Covered
from batiste.module import Blueprint, current_module, set_current_module

__all__ = ["Context", "Stack"]


class Stack(MutableSequence[Any]):
    """None, then the running module with its parents, from the outermost to the innermost."""

    def __init__(self) -> None:
        self._covered = Covered()

    def _shown(self) -> list[Any]:
        shown: list[Any] = []
        module = current_module()
        while isinstance(module, Blueprint):
            shown.append(module)
            module = module.parent
        return [None, *reversed(shown)]

    def __len__(self) -> int:
        return len(self._shown())

    def __getitem__(self, index: Any) -> Any:
        return self._shown()[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        if index in {-1, len(self) - 1}:
            set_current_module(value)

    def __delitem__(self, index: Any) -> None:
        if index in {-1, len(self) - 1}:
            covered: list[Any] = self._covered.get()
            set_current_module(covered[-1] if covered else None)
            self._covered.set(covered[:-1])

    def insert(self, index: int, value: Any) -> None:
        """Put a module on the stack: at the end it becomes the running one; elsewhere it has no effect.

        Args:
          index: the place.
          value: the module, or None.
        """
        if index >= len(self):
            self._covered.set([*self._covered.get(), current_module()])
            set_current_module(value)


class Context:
    """What is dynamic about modules.

    Attributes:
      module_stack: the running modules.
    """

    def __init__(self) -> None:
        self.module_stack = Stack()

    @property
    def interceptor_stack(self) -> tuple[Any, ...]:
        """The interceptors: batiste shows none of them here."""
        return ()

    @property
    def capture_stack(self) -> tuple[Any, ...]:
        """The filters of captured results: batiste shows none of them here."""
        return ()
