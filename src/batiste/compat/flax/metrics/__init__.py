"""``flax.metrics``: writers of metrics."""

from __future__ import annotations

from batiste._later import later as _later

__all__: list[str] = []

__getattr__, __dir__ = _later(__name__, ("tensorboard",))
