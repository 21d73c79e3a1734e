"""Where a state dict is being made or restored: the keys walked so far, for the messages of errors.

It is kept apart from ``serialization.py`` because it is dynamic: each thread and each task has its own.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["entered", "keys_walked"]

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
