"""Tables of a module's layers: ``flax.linen.summary``.

The rows and the table behind the text are batiste's own, and not for programs to build.
"""

from __future__ import annotations

from batiste.nn import (
    tabulate,
)

__all__ = [
    "tabulate",
]
