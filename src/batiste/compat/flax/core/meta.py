"""Boxes around arrays that say what their axes are called: ``flax.core.meta``.

Reading a parameter in a box never asks for a mesh, and constrains nothing (``batiste.shard`` says why), so the
functions by which Flax looks for a mesh are not here.
"""

from __future__ import annotations

from typing import Any, TypeVar

from batiste.compat.flax.typing import LogicalNames
from batiste.core import (
    AxisMetadata,
    add_axis,
    is_axis_metadata,
    map_axis_meta,
    remove_axis,
    replace_boxed,
    unbox,
)
from batiste.shard import PARTITION_NAME, Partitioned, get_partition_spec, get_sharding, with_partitioning

__all__ = [
    "AxisMetadata",
    "LogicalNames",
    "PARTITION_NAME",
    "Partitioned",
    "TAxisMetadata",
    "add_axis",
    "get_partition_spec",
    "get_sharding",
    "is_axis_metadata",
    "map_axis_meta",
    "remove_axis",
    "replace_boxed",
    "unbox",
    "with_partitioning",
]

TAxisMetadata = TypeVar("TAxisMetadata", bound=AxisMetadata[Any])
"""A type of box."""
