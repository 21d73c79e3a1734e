"""Errors and warnings of diagnosis: a pattern matches no module, a program is traced again, the profiler is busy."""

from __future__ import annotations

from batiste.errors._base import BatisteError, BatisteWarning

__all__ = ["NoSuchModuleError", "ProfilerBusyError", "RetraceWarning"]


class NoSuchModuleError(BatisteError, KeyError):
    """A pattern over module paths matches no module that the model calls."""

    code = "diagnose/no-such-module"
    message = "{where} was given the pattern {pattern!r}, which matches no module that {model} calls."
    hint = "{nearest}`batiste.diagnose.summary(model, x)` lists every path."


class ProfilerBusyError(BatisteError, RuntimeError):
    """JAX has one profiler in a process, and it is running already."""

    code = "diagnose/profiler-busy"
    message = "profile cannot start JAX's profiler: {reason}."
    hint = "End the trace that is being taken (`jax.profiler.stop_trace()`, a `jax.profiler.trace` around) first."


class RetraceWarning(BatisteWarning):
    """A function that ``batiste.diagnose.watch_retraces`` watches is traced, and so compiled, again."""
