"""What is dynamic: the keys walked while a state dict is made or restored, and the modules that others cover.

It is kept apart from ``serialization.py`` because it is dynamic: each thread and each task has its own.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

__all__ = ["Covered", "entered", "keys_walked"]

_COVERED: ContextVar[tuple[Any, ...]] = ContextVar("batiste_compat_flax_covered", default=())
_WALKED: ContextVar[tuple[str, ...]] = ContextVar("batiste_compat_flax_path", default=())


def keys_walked() -> tuple[str, ...]:
    """Return the keys from the root to the value at hand."""
    return _WALKED.get()


@contextmanager
def entered(key: str) -> Generator[None]:
    """Note that what runs inside concerns the value under ``key``."""
    token = _WALKED.set((*_WALKED.get(), key))
    try:
        yield
    finally:
        _WALKED.reset(token)


class Covered:
    """The modules that were running when a program put others on top of them (``linen/_stack.py``)."""

    def get(self) -> list[Any]:
        """Return them, from the first to the last."""
        return list(_COVERED.get())

    def set(self, modules: list[Any]) -> None:
        """Take others in their place.

        Args:
          modules: from the first to the last.
        """
        _COVERED.set(tuple(modules))
