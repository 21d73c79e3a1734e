"""Putting bound modules over the frame of a transform's body, and back.

Each module among the arguments, and each module that its fields hold, gets a copy whose scope stands at the same path
of the new frame. A module with a ``setup`` runs it again there, so that what ``setup`` reads comes from the new frame.
A module in the midst of a compact method goes on numbering its submodules in the copy, and the original goes on from
there afterwards. A ``Variable`` among the arguments becomes one of the new frame.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

from batiste.core import Frame, Scope, Start, Variable
from batiste.module._adopt import map_modules
from batiste.module._blueprint import Blueprint, ModuleState
from batiste.module._fields import blueprint_fields

__all__ = ["Rebinder", "Rebound", "modules_in", "outer_modules", "seen_as", "variable_scopes"]

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


def outer_modules(arguments: Any) -> list[Blueprint]:
    """Return the modules among nested arguments, in order, without those that their fields hold."""
    found: list[Blueprint] = []

    def visit(_: str, module: Any) -> Any:
        found.append(module)
        return module

    map_modules(visit, arguments)
    return found


def variable_scopes(arguments: Any, frame: Frame) -> list[Scope]:
    """Return the scopes in a frame that have the variables among nested arguments."""
    found: list[Scope] = []

    def visit(_: str, held: Any) -> Any:
        if _is_variable(held, frame):
            found.append(held.scope)
        return held

    map_modules(visit, arguments, variables=True)
    return found


def _is_variable(held: Any, frame: Frame) -> bool:
    return isinstance(held, Variable) and isinstance(held.scope, Scope) and held.scope.frame is frame


def seen_as(module: Any, base: type[Blueprint]) -> Any:
    """Return a copy of a bound module that is of a base class of its own, and goes on with its names and its state.

    Example:
      >>> from batiste import module, nn
      >>> class Wide(nn.Dense):
      ...     pass
      >>> seen = module.seen_as(Wide(3).bind({}), nn.Dense)
      >>> type(seen).__name__, seen.features
      ('Dense', 3)
    """
    copied: Any = object.__new__(base)
    for name in module.slotted_fields_:
        object.__setattr__(copied, name, getattr(module, name))
    copied.__dict__.update(module.__dict__)
    return copied


class Rebinder:
    """Replaces modules by copies over another frame.

    A body may be traced when the method that called the transform has ended, so what a module is in the midst of is
    noted when the rebinder is made.
    """

    def __init__(self, modules: Iterable[Any], outside: Frame) -> None:
        self._outside = outside
        self._midst = {id(module): _Midst(module) for module in modules if module.scope is not None}

    def over(self, frame: Frame, starts: Mapping[tuple[str, ...], Start]) -> Rebound:
        """Return copies of the modules over a frame, in which streams begin at ``starts``."""
        return Rebound(self._midst, self._outside, frame, starts)


class _Midst:
    """What a module is in the midst of: numbers given so far, in which method."""

    def __init__(self, module: Any) -> None:
        state: ModuleState = module._state
        self.module = module
        self.in_compact, self.in_setup, self.is_set_up = state.in_compact, state.in_setup, state.is_set_up
        self.numbers = dict(module.scope.numbers)

    @property
    def is_going_on(self) -> bool:
        """Whether names are being given."""
        return self.in_compact or self.in_setup

    def state(self) -> ModuleState:
        """Return the state that a copy begins with."""
        state = ModuleState()
        state.is_attached = True
        if self.is_going_on:
            state.in_compact, state.in_setup = self.in_compact, self.in_setup
            state.is_set_up, state.reuses_names = self.in_setup, self.is_set_up
        return state


def _go_on(module: Any, names: dict[str, Any], numbers: dict[str, int]) -> None:
    module.scope.go_on(names, numbers)


class Rebound:
    """The copies of modules over one frame."""

    def __init__(
        self, midst: dict[int, _Midst], outside: Frame, frame: Frame, starts: Mapping[tuple[str, ...], Start]
    ) -> None:
        self._midst, self._outside, self._frame, self._starts = midst, outside, frame, starts
        self._copies: dict[int, Any] = {}

    def replace(self, arguments: Any) -> Any:
        """Return nested arguments with every bound module replaced by its copy."""
        if not modules_in(arguments) and not variable_scopes(arguments, self._outside):
            return arguments
        return map_modules(self._replaced, arguments, freeze=False, variables=True)

    def endings(self) -> list[Callable[[], None]]:
        """Return what lets the originals in the midst of a method go on from where their copies ended.

        It holds names and numbers only: nothing of the trace of the body.
        """
        return [
            functools.partial(
                _go_on,
                self._midst[key].module,
                {n: type(held) if isinstance(held, Blueprint) else held for n, held in copied.scope.names.items()},
                copied.scope.numbers,
            )
            for key, copied in self._copies.items()
            if self._midst[key].is_going_on
        ]

    def _replaced(self, _: str, module: Any) -> Any:
        if _is_variable(module, self._outside):
            scope = module.scope.rebuild(self._frame, self._starts)
            made: Any = Variable
            return made(scope, module.collection, module.name, unbox=module.unbox)
        if module.scope is None or issubclass(cast("Any", type(module)), Variable):
            return module
        midst = self._midst.get(id(module))
        if midst is None:  # an attribute that setup has just set
            midst = self._midst[id(module)] = _Midst(module)
        if id(module) not in self._copies:
            self._copies[id(module)] = copied = object.__new__(cast("Any", type(module)))
            for name in module.slotted_fields_:
                object.__setattr__(copied, name, getattr(module, name))
            values: dict[str, Any] = copied.__dict__
            assigned = module._state.assigned
            for name, value in module.__dict__.items():
                if name not in _PRIVATE and (midst.in_setup or name not in assigned):
                    values[name] = map_modules(self._replaced, value)
            values["parent"] = module.parent
            values["scope"] = scope = module.scope.rebuild(self._frame, self._starts)
            values["_state"] = midst.state()
            if midst.is_going_on:
                scope.numbers = dict(midst.numbers)  # names of before may be made again, and are then what is there
        return self._copies[id(module)]
