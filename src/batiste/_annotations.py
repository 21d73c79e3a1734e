"""Annotations as they stand in a class or function, whatever Python keeps them as.

Up to Python 3.13 a class's own annotations are a dict in its namespace. From 3.14 on they are made by a function when
they are first asked for, and a name that is not known yet is then no mistake.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any

__all__ = ["own_annotations"]


def own_annotations(target: type | Callable[..., Any]) -> dict[str, Any]:
    """Return a copy of the annotations of a class's own body, or of a function, by name; none is evaluated."""
    if sys.version_info >= (3, 14):
        import annotationlib

        return annotationlib.get_annotations(target, format=annotationlib.Format.FORWARDREF)
    return inspect.get_annotations(target)
