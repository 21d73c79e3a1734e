"""Frozen dataclasses that are pytrees and have a state dict: ``flax.struct``.

``dataclass`` and ``field`` are those of ``batiste.struct``. Nothing is added for serialization: ``serialization.py``
knows every such class by itself, and takes its data fields for the state dict.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Self, dataclass_transform

from batiste.struct import dataclass, field

__all__ = ["PyTreeNode", "dataclass", "field"]


@dataclass_transform(frozen_default=True, field_specifiers=(field, dataclasses.field))
class PyTreeNode:
    """A base that makes every subclass a pytree dataclass, as ``dataclass`` does.

    Options are given where the class is declared: ``class State(PyTreeNode, kw_only=True)``.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__()
        dataclass(cls, **options)

    if TYPE_CHECKING:  # every subclass gets it from ``dataclass``

        def replace(self, **overrides: Any) -> Self:
            """Return a copy with some fields changed.

            Args:
              **overrides: the new values, by field name.
            """
            ...
