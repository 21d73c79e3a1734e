"""The error of an argument outside of its domain, whatever takes it: a layer, a function, a rule, a command.

``batiste._arguments`` raises it, and puts its text together. What concerns several arguments at once, or an argument
and the arrays beside it, has a class of its own in the file of its package.
"""

from __future__ import annotations

from typing import Any

from batiste.errors._base import BatisteError, BatisteWarning

__all__ = ["ArgumentError", "AxesWarning"]


class ArgumentError(BatisteError, TypeError, ValueError):
    """An argument, or a field of a layer, is not in its domain; also a ``TypeError`` and a ``ValueError``.

    It is of both kinds because Python, NumPy and JAX raise now the one and now the other for the same mistake.

    Args:
      where: the path of the layer, or the name of the function or class.
      **context: what the message and the hint name.
    """

    code = "argument/domain"
    message = "{where} was given {argument}={given}, but it takes {expected}."
    hint = "{advice}"

    def __init__(self, *, where: str | tuple[str, ...], **context: Any) -> None:
        super().__init__(where=where if isinstance(where, str) else "/" + "/".join(where), **context)


class AxesWarning(BatisteWarning):
    """The axes of an input are most likely not those that were meant: an axis is missing, or a batch is pooled over."""
