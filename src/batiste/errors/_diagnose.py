"""Errors and warnings of diagnosis: a pattern matches no module, a program is traced again."""

from __future__ import annotations

from batiste.errors._base import BatisteError, BatisteWarning

__all__ = ["NoSuchModuleError", "RetraceWarning"]


class NoSuchModuleError(BatisteError, KeyError):
    """A pattern over module paths matches no module that the model calls."""

    code = "diagnose/no-such-module"
    message = "{where} was given the pattern {pattern!r}, which matches no module that {model} calls."
    hint = "{nearest}`batiste.diagnose.summary(model, x)` lists every path."


class RetraceWarning(BatisteWarning):
    """A function that ``batiste.diagnose.watch_retraces`` watches is traced, and so compiled, again."""
