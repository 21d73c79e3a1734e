"""The version of Flax whose public interface this package follows."""

from __future__ import annotations

__all__: list[str] = []

__version__ = "0.12.8"
