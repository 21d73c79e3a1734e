"""Tables of a module's layers: ``flax.linen.summary``."""

from __future__ import annotations

from batiste.compat.flax.linen._tables import (
    ArrayRepresentation,
    ObjectRepresentation,
    Row,
    Table,
    ValueRepresentation,
    get_flops,
    get_module_table,
    size_and_bytes_of,
)
from batiste.nn import (
    tabulate,
)

__all__ = [
    "Row",
    "Table",
    "tabulate",
]

_get_module_table, _get_flops, _size_and_bytes = get_module_table, get_flops, size_and_bytes_of  # libraries use these
_ArrayRepresentation, _ObjectRepresentation = ArrayRepresentation, ObjectRepresentation
_ValueRepresentation = ValueRepresentation
