"""``flax.testing``: benchmarks that report what they measured."""

from __future__ import annotations

from batiste.compat.flax.testing.benchmark import Benchmark

__all__ = ["Benchmark"]
