"""What a method can reach and change: globals that its code names, variables that it closes over, defaults, fields.

Each is turned into a value that is equal as long as nothing has changed, so that two looks can be compared. Arrays
count by their bytes, objects of the user's by their attributes, and generators of random numbers by their state.
"""

from __future__ import annotations

import hashlib
import random
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import jax
import numpy as np

from batiste.module import Blueprint

__all__ = ["GENERATOR", "OWN", "snapshot"]

GENERATOR = "a random generator"
OWN = ("batiste", "jax", "jaxlib", "numpy", "optax", "ml_dtypes", "flax")
_DEPTH = 4
_ENTRIES = 256


def snapshot(roots: Sequence[Any]) -> dict[str, tuple[Any, str, Any]]:
    """Return what a method can reach and change, by name: a value that is equal as long as nothing changes, and words.

    Args:
      roots: a method and its module; or a function.
    """
    found: dict[str, tuple[Any, str, Any]] = {
        "Python's random state": (hash(random.getstate()), "", "random"),
        "NumPy's random state": (_numpy_state(np.random.get_state()), "", "numpy"),  # noqa: NPY002 - the state, not a draw
    }
    for root in roots:
        if isinstance(root, Blueprint):
            for name, value in _attributes(root):
                _add_state(found, f"self.{name}", value)
            for name, value in vars(type(root)).items():
                if not name.startswith("__") and not callable(value) and not _is_descriptor(value):
                    _add_state(found, f"{type(root).__name__}.{name}", value)
        else:
            for name, value in _reached(root):
                _add_state(found, name, value)
    return found


def _attributes(module: Any) -> Iterator[tuple[str, Any]]:
    for name, value in list(module.__dict__.items()):
        if name not in {"scope", "parent", "name", "_state", "_value"} and not name.startswith("_"):
            yield name, value


def _is_descriptor(value: Any) -> bool:
    return hasattr(cast("Any", type(value)), "__get__")


def _reached(function: Any, depth: int = 2) -> Iterator[tuple[str, Any]]:
    """Yield the globals that a function names and the variables that it closes over, those of its helpers too."""
    function = _unwrapped(function)
    code = getattr(function, "__code__", None)
    if code is None:
        return
    names = set(_names(code))
    space = getattr(function, "__globals__", {})
    if str(space.get("__name__", "")).partition(".")[0] in OWN:
        return
    helpers: list[Any] = []
    for name in sorted(names & space.keys()):
        value = space[name]
        helpers.extend(_functions_in(value))
        if not isinstance(value, types.ModuleType | type | types.BuiltinFunctionType | types.FunctionType):
            yield f"the global {name}", value
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=False):
        try:
            value: Any = cell.cell_contents
        except ValueError:  # not yet bound
            continue
        helpers.extend(_functions_in(value))
        if not isinstance(value, types.ModuleType | type | types.FunctionType):
            yield f"the closed-over variable {name}", value
    for name, value in zip(_default_names(code, function), getattr(function, "__defaults__", None) or (), strict=False):
        yield f"the default of {name}", value
    for name, value in (cast("dict[str, Any]", getattr(function, "__kwdefaults__", None) or {})).items():
        yield f"the default of {name}", value
    if depth > 0:
        for helper in helpers:
            yield from _reached(helper, depth - 1)


def _functions_in(value: Any) -> list[Any]:
    """Return a function, the functions in a container, or the ``__call__`` of an object of the user's."""
    if isinstance(value, types.FunctionType | types.MethodType):
        return [value]
    if isinstance(value, Mapping):
        return [one for one in cast("Mapping[Any, Any]", value).values() if isinstance(one, types.FunctionType)]
    if isinstance(value, list | tuple):
        return [one for one in cast("list[Any]", value) if isinstance(one, types.FunctionType)]
    kind = cast("Any", type(value))
    own = kind.__module__.partition(".")[0] not in {*OWN, *sys.stdlib_module_names}
    members = cast("Mapping[str, Any]", vars(kind))
    call = members.get("__call__") if own and not isinstance(value, type) else None
    return [call] if isinstance(call, types.FunctionType) else []


def _default_names(code: types.CodeType, function: Any) -> tuple[str, ...]:
    count = len(getattr(function, "__defaults__", None) or ())
    return code.co_varnames[code.co_argcount - count : code.co_argcount]


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _unwrapped(function: Any) -> Any:
    """Return the function that was written, beneath what wraps a method of a module."""
    for _ in range(_DEPTH * 4):
        if hasattr(function, "func") and hasattr(function, "args"):
            function = function.func
        elif isinstance(function, types.MethodType):
            function = function.__func__
        elif hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        else:
            break
    return function


def _add_state(found: dict[str, tuple[Any, str, Any]], name: str, value: Any) -> None:
    state = _state(value, _DEPTH)
    if state is not None:
        is_plain = isinstance(value, bool | int | float | complex | str | bytes | tuple | None)
        found[name] = (state, _words(value), name if is_plain else id(value))


def _state(value: Any, depth: int) -> Any:
    """Return something that is equal as long as a value has not changed; None for what cannot change."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return (type(value).__name__, repr(value))
    if isinstance(value, np.ndarray):
        array = cast("np.ndarray[Any, Any]", value)
        if array.dtype.hasobject or array.nbytes > 1 << 22:
            return ("array", id(array), array.shape)
        return ("array", array.shape, hashlib.blake2b(np.ascontiguousarray(array).tobytes()).hexdigest())
    if isinstance(value, np.random.Generator):
        return ("generator", repr(value.bit_generator.state))
    if isinstance(value, np.random.RandomState):
        return ("generator", _numpy_state(value.get_state()))
    if isinstance(value, random.Random):
        return ("generator", hash(value.getstate()))
    if isinstance(value, jax.Array | type | types.ModuleType | types.FunctionType | Blueprint):
        return ("object", id(value))
    if depth <= 0:
        return ("object", id(value))
    if isinstance(value, Mapping):
        pairs = list(cast("Mapping[Any, Any]", value).items())
        return ("mapping", len(pairs), tuple((repr(key), _state(item, depth - 1)) for key, item in pairs[:_ENTRIES]))
    if isinstance(value, list | tuple):
        items = cast("list[Any]", value)
        return ("sequence", len(items), tuple(_state(item, depth - 1) for item in items[:_ENTRIES]))
    if isinstance(value, set | frozenset):
        return ("set", frozenset(map(repr, cast("set[Any]", value))))
    if hasattr(value, "__len__") and hasattr(value, "append"):
        return ("sequence", len(value), tuple(_state(item, depth - 1) for item in list(value)[:_ENTRIES]))
    if type(value).__module__.partition(".")[0] in {*OWN, *sys.stdlib_module_names}:
        return ("next", repr(value)) if type(value).__name__ == "count" else ("object", id(value))
    held = getattr(value, "__dict__", None)
    if isinstance(held, dict):
        return ("object", id(value), _state(dict(cast("dict[str, Any]", held)), depth - 1))
    return ("object", id(value))


def _numpy_state(state: Any) -> Any:
    return hashlib.blake2b(
        repr([part.tobytes() if hasattr(part, "tobytes") else part for part in state]).encode()
    ).hexdigest()


def _words(value: Any) -> str:
    if isinstance(value, np.random.Generator | np.random.RandomState | random.Random):
        return GENERATOR
    if isinstance(value, Mapping | list | tuple | set | frozenset) or hasattr(value, "append"):
        kind = cast("Any", type(cast("Any", value))).__name__
        return f"{kind} of {len(cast('Any', value))}"
    if value is None or isinstance(value, bool | int | float | complex | str):
        text = repr(value)
        return text if len(text) <= 40 else f"{text[:37]}..."
    return f"{type(value).__name__}"
