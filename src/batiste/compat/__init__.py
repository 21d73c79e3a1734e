"""Other libraries' module layouts over batiste, so that programs written for them run on it.

``batiste.compat.flax`` has the modules and names of Flax: ``from flax import linen as nn`` becomes
``from batiste.compat.flax import linen as nn``, and the file needs no other change.
"""

from __future__ import annotations

__all__: list[str] = []
