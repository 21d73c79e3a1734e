"""Axes of a scan: ``flax.core.axes_scan``. Its loop is not here: ``lift.scan`` has one of its own."""

from __future__ import annotations

from batiste.compat.flax.typing import ScanAxis
from batiste.lift import broadcast

__all__ = ["ScanAxis", "broadcast"]
