"""JAX's state of tracing: ``flax.core.tracers``."""

from __future__ import annotations

from typing import Any

from batiste.core import current_trace

__all__ = ["check_trace_level", "current_trace"]


def check_trace_level(base_level: Any) -> None:
    """Do nothing, as Flax's does: scopes check on their own whether they are used in a transform that began later.

    Args:
      base_level: what ``current_trace`` returned.
    """
    del base_level
