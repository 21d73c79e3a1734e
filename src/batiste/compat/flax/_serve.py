"""Serving ``import flax`` from batiste, and noting what is asked for that is not there.

While a **server** is installed, ``flax`` and every module under it are the modules of ``batiste.compat.flax``: the same
objects, so that a class is one class by whichever name it was reached. What a program asks of them in vain, be it a
module or a name in one, raises as it always does and is noted under Flax's name for it.

``flax.nnx`` is not batiste's. Where Flax is installed, it is Flax's own, made of Flax's files; what it imports from the
rest of ``flax`` is batiste's, so that ``nnx.bridge`` takes batiste's modules.

Processes that the program starts by ``spawn`` or as other programs import Flax as they find it.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any, Self

__all__ = ["Server"]

_THEIRS = "flax"
_OURS = "batiste.compat.flax"
_TYPES = "flax.typing"
_SERVER = "__batiste_server__"


class Server(MetaPathFinder):
    """Finds ``flax`` and the modules under it in batiste; for use in a ``with`` block, or by ``install``.

    Attributes:
      missing: what was asked for and is not there, by Flax's dotted name, in the order of the first asking.
    """

    def __init__(self) -> None:
        self.missing: dict[str, None] = {}
        self._set_aside: dict[str, ModuleType] = {}
        self._types: ModuleType | None = None

    def install(self) -> None:
        """Serve from now on. Modules of an installed Flax that are loaded already are set aside."""
        for name in _loaded(_THEIRS):
            self._set_aside[name] = sys.modules.pop(name)
        for name in _loaded(_OURS):
            self.watch(sys.modules[name])
        sys.meta_path.insert(0, self)

    def uninstall(self) -> None:
        """Serve no longer, and put back what was set aside."""
        sys.meta_path.remove(self)
        for name in _loaded(_THEIRS):
            del sys.modules[name]
        for name in _loaded(_OURS):
            _unwatch(sys.modules[name])
        sys.modules.update(self._set_aside)
        self._set_aside.clear()

    def __enter__(self) -> Self:
        self.install()
        return self

    def __exit__(self, *args: object) -> None:
        self.uninstall()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return how to load a module of Flax, or one of batiste's that stands for it; None leaves others to others."""
        if _is_under(fullname, f"{_THEIRS}.nnx"):
            spec = PathFinder.find_spec(fullname, path if "nnx." in fullname else self._flax_path())
            if spec is None:
                self.note(fullname)
            return spec
        if _is_under(fullname, _THEIRS):
            if importlib.util.find_spec(_ours(fullname)) is not None:
                return ModuleSpec(fullname, _Alias(self))
            self.note(fullname)
        elif fullname == f"{_OURS}.nnx":  # what `from flax import nnx` comes to
            if PathFinder.find_spec(f"{_THEIRS}.nnx", self._flax_path()) is not None:
                return ModuleSpec(fullname, _Alias(self, f"{_THEIRS}.nnx"))
            self.note(f"{_THEIRS}.nnx")
        elif _is_under(fullname, _OURS):
            spec = PathFinder.find_spec(fullname, path, target)
            if spec is not None and spec.loader is not None:
                spec.loader = _Watching(spec.loader, self)
            return spec
        return None

    @staticmethod
    def _flax_path() -> list[str]:
        """Return the folders of the installed Flax, none where there is none."""
        spec = PathFinder.find_spec(_THEIRS)
        return list(spec.submodule_search_locations or []) if spec is not None else []

    def types_of_nnx(self) -> ModuleType | None:
        """Return Flax's own ``flax.typing``, which has names for NNX alone; None where Flax is not installed."""
        if self._types is None and (spec := PathFinder.find_spec(_TYPES, self._flax_path())) and spec.loader:
            self._types = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(self._types)
        return self._types

    def watch(self, module: ModuleType) -> None:
        """Note from now on what is asked of a module in vain; private modules are not for programs."""
        if type(module) is ModuleType and not module.__name__.rpartition(".")[2].startswith("_"):
            vars(module)[_SERVER] = self
            module.__class__ = _Watched  # as "Customizing module attribute access" of Python's reference has it

    def note(self, name: str) -> None:
        """Note that a name was asked for and is not there."""
        self.missing.setdefault(name)


class _Alias(Loader):
    """Loads batiste's module under Flax's name: one object under two names."""

    def __init__(self, server: Server, name: str = "") -> None:
        self._server, self._name = server, name
        self._own_spec: ModuleSpec | None = None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(self._name or _ours(spec.name))
        self._own_spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._own_spec  # the import system has put the one under the other name there
        if _is_under(module.__name__, _OURS):
            self._server.watch(module)


class _Watching(Loader):
    """Loads a module as another loader does, and has it watched."""

    def __init__(self, loader: Loader, server: Server) -> None:
        self._loader = loader
        self._server = server

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._server.watch(module)


class _Watched(ModuleType):
    """A module that notes the names that are asked of it in vain."""

    def __getattr__(self, name: str) -> Any:
        if not (name.startswith("__") and name.endswith("__")):
            server: Server = vars(self)[_SERVER]
            if self.__name__ == _OURS and name == "nnx" and server.find_spec(f"{_THEIRS}.nnx") is not None:
                return importlib.import_module(f"{_THEIRS}.nnx")
            if _theirs(self.__name__) == _TYPES and (own := server.types_of_nnx()) is not None and hasattr(own, name):
                return getattr(own, name)
            server.note(f"{_theirs(self.__name__)}.{name}")
        message = f"module {_theirs(self.__name__)!r} has no attribute {name!r}"
        raise AttributeError(message)


def _unwatch(module: Any) -> None:
    if isinstance(module, _Watched):
        del vars(module)[_SERVER]
        module.__class__ = ModuleType  # pyright: ignore[reportAttributeAccessIssue]


def _loaded(root: str) -> list[str]:
    return [name for name in sys.modules if _is_under(name, root)]


def _is_under(name: str, root: str) -> bool:
    return name == root or name.startswith(f"{root}.")


def _ours(name: str) -> str:
    return _OURS + name.removeprefix(_THEIRS)


def _theirs(name: str) -> str:
    return _THEIRS + name.removeprefix(_OURS)
