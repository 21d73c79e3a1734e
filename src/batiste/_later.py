"""Modules that are loaded when they are first asked for.

A package that loads its files late is quick to import: ``batiste.tree`` and ``batiste.checkpoint`` have files that do
without JAX, and a command needs no others. Where Flax brings its submodules as attributes, ``batiste.compat.flax``
loads them at the first use, so that its files may import each other in any order.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

__all__ = ["later"]

_NONE: Mapping[str, tuple[str, ...]] = MappingProxyType({})


def later(
    package: str, submodules: Iterable[str], names: Mapping[str, tuple[str, ...]] = _NONE
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the ``__getattr__`` and ``__dir__`` of a package whose parts load late.

    Args:
      package: the package's dotted name.
      submodules: the submodules that are its attributes without being imported.
      names: for each submodule, or other package by its dotted name, those of its names that are also the package's.
        Each is bound at its first use.
    """
    modules = frozenset(submodules)
    homes = {n: home if "." in home else f"{package}.{home}" for home, taken in names.items() for n in taken}

    def load(name: str) -> Any:
        if name in modules:
            full = f"{package}.{name}"
            if importlib.util.find_spec(full) is not None:
                return importlib.import_module(full)
        elif name in homes and importlib.util.find_spec(homes[name]) is not None:
            value = getattr(importlib.import_module(homes[name]), name)
            setattr(sys.modules[package], name, value)
            return value
        message = f"module {package!r} has no attribute {name!r}"
        raise AttributeError(message)

    def listed() -> list[str]:
        return sorted({*vars(sys.modules[package]), *modules, *homes})

    return load, listed
