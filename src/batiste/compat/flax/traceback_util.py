"""Frames of Flax in tracebacks: ``flax.traceback_util``.

batiste's tracebacks show every frame, so there is nothing to hide: these functions are accepted and do nothing. JAX's
own filter is ``jax.config.update("jax_traceback_filtering", ...)``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["api_boundary", "hide_flax_in_tracebacks", "register_exclusion", "show_flax_in_tracebacks"]

C = TypeVar("C", bound=Callable[..., Any])


def register_exclusion(path: str) -> None:
    """Accept a file whose frames Flax would hide."""
    del path


def hide_flax_in_tracebacks() -> None:
    """Accept that Flax's frames be hidden."""


def show_flax_in_tracebacks() -> None:
    """Accept that Flax's frames be shown, as batiste's always are."""


def api_boundary(fun: C, *, repro_api_name: str | None = None, repro_user_func: bool = False) -> C:
    """Return a function as it is; JAX's filter has its own boundary."""
    del repro_api_name, repro_user_func
    return fun
