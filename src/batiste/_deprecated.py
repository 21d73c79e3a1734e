"""Names that are on their way out: they work as ever, and say what to write instead and until when.

How long a name lives after that is in ``SUPPORT.md``. The warning is a ``DeprecationWarning`` at the caller's line.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import ParamSpec, TypeVar

__all__ = ["deprecated"]

P = ParamSpec("P")
R = TypeVar("R")


def deprecated(name: str, *, since: str, until: str, instead: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator for a function that is to go.

    Args:
      name: the public name, as users write it: ``"nn.old_name"``.
      since: the version that warns first.
      until: the version that does not have it any more.
      instead: what to write instead.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        text = f"{name} is deprecated since batiste {since} and goes in {until}: write {instead}"

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            warnings.warn(text, DeprecationWarning, stacklevel=2)
            return function(*args, **kwargs)

        return call

    return decorate
