"""Dataclasses with fields that are given by keyword only: ``flax.linen.kw_only_dataclasses``.

Python's own dataclasses have had them since 3.10, and batiste's modules use those.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field

__all__ = ["KW_ONLY", "dataclass", "field"]
