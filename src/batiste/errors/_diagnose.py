"""Warnings of diagnosis: a program is traced again."""

from __future__ import annotations

from batiste.errors._base import BatisteWarning

__all__ = ["RetraceWarning"]


class RetraceWarning(BatisteWarning):
    """A function that ``batiste.diagnose.watch_retraces`` watches is traced, and so compiled, again."""
