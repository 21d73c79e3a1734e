"""How the arrays of an Orbax folder lay when they were saved, in words, from the table that Orbax keeps of it."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, cast

from batiste.checkpoint._orbax import ITEM, stored_name

__all__ = ["saved_shardings"]

_NAME: Final = "_sharding"
_MOST_BYTES: Final = 1 << 28


def saved_shardings(folder: Path, paths: Iterable[str]) -> dict[str, str]:
    """Return for each path the words for its sharding, where there are any.

    Args:
      folder: the folder of the checkpoint; of anything else there is no table.
      paths: the paths of its leaves.
    """
    places = [folder / ITEM / _NAME, folder / _NAME, folder / "default" / _NAME]
    table = next((found for found in map(_table, places) if found is not None), None)
    if table is None:
        return {}
    found = {path: table.get(".".join(stored_name(path))) for path in paths}
    return {path: words for path, words in found.items() if words}


def _table(place: Path) -> dict[str, str] | None:
    """Return the words by the names of arrays; None where there is no table, or one that nobody can read."""
    try:
        if place.stat().st_size > _MOST_BYTES:
            return None
        rows: Any = json.loads(place.read_text(encoding="utf-8"))
        return {
            base64.b64decode(name).decode(): _words(json.loads(row))
            for name, row in cast("Mapping[str, str]", rows).items()
        }
    except (OSError, ValueError, AttributeError, TypeError, KeyError, binascii.Error):
        return None


def _words(about: Mapping[str, Any]) -> str:
    """Return a sharding as people read it: ``(data, -) on data=8``."""
    if about.get("sharding_type") != "NamedSharding":
        return str(about.get("device_str", about.get("sharding_type", "")))
    axes = ["+".join(cast("list[str]", part)) if isinstance(part, list) else "-" if part is None else str(part)
            for part in about["partition_spec"]]  # fmt: skip
    mesh = ", ".join(f"{axis}={size}" for axis, size in zip(about["axis_names"], about["shape"], strict=False))
    return f"({', '.join(axes)}) on {mesh}"
