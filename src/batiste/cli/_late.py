"""Modules that load when they are first used, so that ``batiste --help`` answers at once.

The file with the commands (``_app.py``) knows what each takes; what each does is in a file of its own, which needs JAX,
NumPy or Orbax. ``Late`` stands in the place of such a file until one of its names is asked for.
"""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["Late"]


class Late:
    """A module in name, imported when it is first asked for something.

    Args:
      name: the dotted name of the module.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):  # asked by machinery that looks at every object, such as `inspect`
            raise AttributeError(attribute)
        return getattr(importlib.import_module(self._name), attribute)
