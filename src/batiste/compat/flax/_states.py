"""State dicts: how containers become nests of dicts with strings as keys, and come back.

Each type of container has a **handler**, a pair of functions, found by its exact type. Those of Python's and JAX's own
containers are at the end of this file; the dataclasses of ``batiste.struct`` share one; named tuples share another. A
value without a handler is a leaf. ``serialization.py`` offers all this, and makes bytes of it.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, cast

import jax

from batiste.compat.flax._context import entered, keys_walked
from batiste.errors import HandlerRegisteredError, StateDictError, StateDictKeysError

__all__ = [
    "current_path",
    "handlers_by_type",
    "from_state_dict",
    "is_serializable",
    "load_mapping",
    "register_serialization_state",
    "save_mapping",
    "to_state_dict",
]

_STRUCT_MARK = "__batiste_struct__"

_Save = Callable[[Any], Any]
_Load = Callable[[Any, Any], Any]


def current_path() -> str:
    """Return the path of the value that a handler is at work on: its keys, joined by ``/``."""
    return "/".join(keys_walked())


class _NamedTuple:
    """The key under which the handler of all named tuples is registered."""


class _Handlers:
    """The handlers by exact type; a subclass of a container has none unless it is registered itself."""

    def __init__(self) -> None:
        self.by_type: dict[Any, tuple[_Save, _Load]] = {}

    def add(self, kind: Any, save: _Save, load: _Load, *, override: bool) -> None:
        if not override and self.of_type(kind) is not None:
            raise HandlerRegisteredError(kind=getattr(kind, "__qualname__", repr(kind)))
        self.by_type[kind] = save, load

    def of_type(self, kind: Any) -> tuple[_Save, _Load] | None:
        found = self.by_type.get(kind)
        if found is None and isinstance(kind, type) and _STRUCT_MARK in vars(kind):
            return _save_struct, _load_struct
        return found

    def of(self, value: Any) -> tuple[_Save, _Load] | None:
        kind: Any = cast("Any", type(value))
        if isinstance(value, tuple) and hasattr(kind, "_fields"):
            kind = _NamedTuple
        return self.of_type(kind)


_HANDLERS = _Handlers()


def handlers_by_type() -> dict[Any, tuple[_Save, _Load]]:
    """Return the handlers, by type: the very dict, which may be changed."""
    return _HANDLERS.by_type


def register_serialization_state(
    ty: type[Any], ty_to_state_dict: _Save, ty_from_state_dict: _Load, override: bool = False
) -> None:
    """Tell how instances of a type become a state dict, and come back from one.

    Args:
      ty: the type. Its subclasses are not meant.
      ty_to_state_dict: takes an instance and returns a dict, which is used as it is: a value that has a handler of its
        own is to go through ``to_state_dict`` first.
      ty_from_state_dict: takes a target instance and a state dict and returns a new instance.
      override: whether a type that has a handler may be given another.

    Raises:
      HandlerRegisteredError: the type has a handler and ``override`` is False.
    """
    _HANDLERS.add(ty, ty_to_state_dict, ty_from_state_dict, override=override)


def is_serializable(target: Any) -> bool:
    """Return whether a type, or that of a value, has a handler of its own. A named tuple has none: all share one."""
    kind = cast("Any", target if isinstance(target, type) else type(target))
    return _HANDLERS.of_type(kind) is not None


def to_state_dict(target: Any) -> Any:
    """Return the state dict of a tree; a value without a handler is a leaf and is returned as it is.

    Raises:
      StateDictError: a handler returns a dict with a key that is no string, or a dict has two keys that read the same.
    """
    handler = _HANDLERS.of(target)
    if handler is None:
        return target
    state = handler[0](target)
    if not isinstance(state, dict):
        return state
    states = cast("dict[Any, Any]", state)
    odd = [key for key in states if not isinstance(key, str)]
    if odd:
        what = f"the handler of {type(target).__qualname__} returned the key {odd[0]!r}, which is no string"
        raise StateDictError(what=what, where=_where(), cure="Return a dict whose keys are strings.")
    return states


def from_state_dict(target: Any, state: Any, name: str = ".") -> Any:
    """Return a tree like ``target`` with the values of a state dict.

    Shapes and dtypes are those of the state dict, whatever the target's are.

    Args:
      target: a tree of the wanted structure; a value without a handler stands for any value.
      state: what ``to_state_dict`` or ``msgpack_restore`` returned.
      name: what the root is called in messages.

    Raises:
      StateDictKeysError: a key, field or element of the target is not in the state dict, or one too many is.
    """
    handler = _HANDLERS.of(target)
    if handler is None:
        return state
    with entered(name):
        return handler[1](target, state)


# The containers that are handled from the start.


def _where() -> str:
    return current_path() or "the root"


def _keys_error(kind: Any, missing: set[str], unknown: set[str]) -> StateDictKeysError:
    parts = [
        f"{', '.join(sorted(keys))} {where}"
        for keys, where in ((missing, "only in the target"), (unknown, "only in the state dict"))
        if keys
    ]
    return StateDictKeysError(kind=kind, where=_where(), difference="; ".join(parts))


def _state_keys(kind: str, state: Any) -> set[str]:
    if not isinstance(state, Mapping):
        raise StateDictKeysError(
            kind=kind, where=_where(), difference=f"the state dict has a {type(state).__name__} there"
        )
    return set(cast("Mapping[str, Any]", state))


def save_mapping(target: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the state dict of a mapping.

    Raises:
      StateDictError: two keys read the same once they are strings.
    """
    twice = [text for text, count in Counter(map(str, target)).items() if count > 1]
    if twice:
        what = f"two keys of a {type(target).__name__} read {twice[0]!r} once they are strings"
        raise StateDictError(what=what, where=_where(), cure="Rename one: a state dict has strings as keys.")
    saved: dict[str, Any] = {}
    for key, value in target.items():
        with entered(str(key)):
            saved[str(key)] = to_state_dict(value)
    return saved


def load_mapping(target: Mapping[Any, Any], state: Any) -> dict[Any, Any]:
    """Return a dict with the keys of a mapping and the values of a state dict, whose other keys are left.

    Raises:
      StateDictKeysError: a key is not in the state dict.
    """
    missing = {str(key) for key in target} - _state_keys(type(target).__name__, state)
    if missing:
        raise _keys_error(type(target).__name__, missing, set())
    return {key: from_state_dict(value, state[str(key)], name=str(key)) for key, value in target.items()}


def _save_sequence(target: list[Any] | tuple[Any, ...]) -> dict[str, Any]:
    return save_mapping(dict(enumerate(target)))


def _load_sequence(target: list[Any] | tuple[Any, ...], state: Any) -> list[Any]:
    wanted = {str(index) for index in range(len(target))}
    found = _state_keys(type(target).__name__, state)
    if wanted != found:
        kind = f"{type(target).__name__} of length {len(target)}"
        raise _keys_error(kind, wanted - found, found - wanted)
    return [from_state_dict(value, state[str(index)], name=str(index)) for index, value in enumerate(target)]


def _save_named_tuple(target: Any) -> dict[str, Any]:
    return save_mapping(target._asdict())


def _load_named_tuple(target: Any, state: Any) -> Any:
    kind = cast("Any", type(target))
    found = _state_keys(kind.__qualname__, state)
    if found == {"name", "fields", "values"}:  # before 2020 Flax wrote the names of the fields beside their values
        order = range(len(state["fields"]))
        state = {state["fields"][str(index)]: state["values"][str(index)] for index in order}
        found = set(state)
    wanted: set[str] = set(kind._fields)
    if wanted != found:
        raise _keys_error(kind.__qualname__, wanted - found, found - wanted)
    return kind(**{name: from_state_dict(getattr(target, name), state[name], name=name) for name in kind._fields})


def _data_fields(target: Any) -> list[str]:
    declared = dataclasses.fields(target)
    return [field.name for field in declared if field.init and _is_data(field.metadata)]


def _is_data(metadata: Mapping[str, Any]) -> bool:
    return metadata.get("pytree_node", True) and not metadata.get("static", False)


def _save_struct(target: Any) -> dict[str, Any]:
    return save_mapping({name: getattr(target, name) for name in _data_fields(target)})


def _load_struct(target: Any, state: Any) -> Any:
    kind = type(target).__qualname__
    wanted, found = set(_data_fields(target)), _state_keys(kind, state)
    if wanted != found:
        raise _keys_error(kind, wanted - found, found - wanted)
    values = {name: from_state_dict(getattr(target, name), state[name], name=name) for name in _data_fields(target)}
    return dataclasses.replace(target, **values)


def _save_partial(target: Any) -> dict[str, Any]:
    return save_mapping({"args": target.args, "keywords": target.keywords})


def _load_partial(target: Any, state: Any) -> Any:
    loaded = load_mapping({"args": target.args, "keywords": target.keywords}, state)
    return jax.tree_util.Partial(target.func, *loaded["args"], **loaded["keywords"])


register_serialization_state(dict, save_mapping, load_mapping)
register_serialization_state(list, _save_sequence, _load_sequence)
register_serialization_state(tuple, _save_sequence, lambda target, state: tuple(_load_sequence(target, state)))
register_serialization_state(_NamedTuple, _save_named_tuple, _load_named_tuple)
register_serialization_state(jax.tree_util.Partial, _save_partial, _load_partial)
