"""References to variables: ``flax.core.variables``."""

from __future__ import annotations

from batiste.core import Variable

__all__ = ["Variable"]
