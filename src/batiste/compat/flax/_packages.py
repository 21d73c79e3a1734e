"""Packages that batiste does not need until a certain part of it is used."""

from __future__ import annotations

import importlib
from typing import Any

from batiste.errors import MissingPackageError

__all__ = ["load"]


def load(name: str, purpose: str, install: str) -> Any:
    """Return a module of a package that may not be installed.

    Args:
      name: the module's dotted name.
      purpose: what needs it, as the beginning of a sentence.
      install: what ``pip install`` takes.

    Raises:
      MissingPackageError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise MissingPackageError(purpose=purpose, package=package, install=install) from error
