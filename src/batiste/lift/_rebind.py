"""Putting bound modules over the frame of a transform's body, and back.

Each module among the arguments, and each module that its fields hold, gets a copy whose scope stands at the same path
of the new frame. A module with a ``setup`` runs it again there, so that what ``setup`` reads comes from the new frame.
A module in the midst of a compact method goes on numbering its submodules in the copy, and the original goes on from
there afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from batiste.core import Frame, Start
from batiste.module import Blueprint, ModuleState, blueprint_fields, map_modules

__all__ = ["Rebinder", "modules_in"]

_PRIVATE = frozenset({"_state", "_value", "scope", "parent"})


def modules_in(arguments: Any) -> list[Blueprint]:
    """Return every module among nested arguments, each once, after those that its fields hold, by name."""
    seen: set[int] = set()
    found: list[Blueprint] = []

    def visit(_: str, module: Any) -> Any:
        if id(module) not in seen:
            seen.add(id(module))
            for _, value in sorted(blueprint_fields(module).items()):
                map_modules(visit, value)
            found.append(module)
        return module

    map_modules(visit, arguments)
    return found


class Rebinder:
    """Replaces modules by copies over another frame."""

    def __init__(self, frame: Frame, starts: Mapping[tuple[str, ...], Start]) -> None:
        self._frame = frame
        self._starts = starts
        self._copies: dict[int, tuple[Any, Any]] = {}

    def replace(self, arguments: Any) -> Any:
        """Return nested arguments with every bound module replaced by its copy."""
        if not modules_in(arguments):
            return arguments
        return map_modules(self._replaced, arguments, freeze=False)

    def hand_back(self) -> None:
        """Let the originals that are in the midst of a method go on from where their copies ended."""
        for original, copied in self._copies.values():
            state: ModuleState = original._state
            if state.in_compact or state.in_setup:
                state.cursors = copied._state.cursors
                state.children.update(copied._state.children)
                for name, held in copied.scope.reservations.items():
                    original.scope.reservations.setdefault(name, set()).update(held)

    def _replaced(self, _: str, module: Any) -> Any:
        if module.scope is None:
            return module
        pair = self._copies.get(id(module))
        if pair is None:
            kind = cast("Any", type(module))
            copied: Any = object.__new__(kind.lifted_from_ or kind)
            self._copies[id(module)] = pair = (module, copied)
            values: dict[str, Any] = copied.__dict__
            state: ModuleState = module._state
            for name, value in module.__dict__.items():
                if name not in _PRIVATE and (state.in_setup or name not in state.assigned):
                    values[name] = map_modules(self._replaced, value)
            values["parent"] = module.parent
            values["scope"] = scope = module.scope.rebuild(self._frame, self._starts)
            values["_state"] = self._state_of(module)
            if state.in_compact or state.in_setup:
                scope.reservations = {name: set(held) for name, held in module.scope.reservations.items()}
        return pair[1]

    def _state_of(self, module: Any) -> ModuleState:
        old: ModuleState = module._state
        state = ModuleState()
        state.is_attached = True
        if old.in_compact or old.in_setup:
            state.in_compact, state.in_setup = old.in_compact, old.in_setup
            state.cursors, state.children = dict(old.cursors), dict(old.children)
            state.is_set_up, state.reuses_names = old.in_setup, old.is_set_up
        return state
