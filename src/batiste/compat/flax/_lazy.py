"""Modules that are loaded when they are first asked for.

In Flax, ``import flax`` brings ``flax.linen``, ``flax.serialization`` and others with it, and ``flax.core`` the names
of its submodules. Here they load at the first use, which keeps ``import batiste.compat.flax`` quick and lets modules of
the package import each other's files in any order.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

__all__ = ["later"]

_NONE: Mapping[str, str] = MappingProxyType({})


def later(
    package: str, submodules: Iterable[str], names: Mapping[str, str] = _NONE
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the ``__getattr__`` and ``__dir__`` of a package whose parts load late.

    Args:
      package: the package's dotted name.
      submodules: the submodules that are its attributes without being imported.
      names: for each name of a submodule that is also the package's, the submodule. It is bound at its first use.
    """
    modules = frozenset(submodules)

    def load(name: str) -> Any:
        if name in modules:
            full = f"{package}.{name}"
            if importlib.util.find_spec(full) is not None:
                return importlib.import_module(full)
        elif name in names and importlib.util.find_spec(f"{package}.{names[name]}") is not None:
            value = getattr(importlib.import_module(f"{package}.{names[name]}"), name)
            setattr(sys.modules[package], name, value)
            return value
        message = f"module {package!r} has no attribute {name!r}"
        raise AttributeError(message)

    def listed() -> list[str]:
        return sorted({*vars(sys.modules[package]), *modules, *names})

    return load, listed
