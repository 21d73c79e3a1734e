"""The note that an exception gets when it leaves a method of a module: where in the model it happened, and with what.

Any exception may pass: one of batiste, of JAX, of Optax or of Python itself. It stays what it is, and so does its
traceback; the innermost module that it leaves adds one note with its path, its options and the shapes and dtypes that
the method was given. Values of arrays are never looked at, and the note is text, which keeps no array alive. Where a
mistake is known by the exception, a second sentence says what to write instead.

Nothing here runs unless an exception is on its way.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator, Mapping
from types import CodeType, TracebackType
from typing import Any, cast

import jax
import jax.numpy as jnp

from batiste.core import CONCRETIZATION_ERRORS, is_tracer
from batiste.errors import BatisteError, ModuleListError, ModuleNotCallableError, TracedFlagError
from batiste.module._blueprint import Blueprint
from batiste.module._variables import where

__all__ = ["explain", "not_callable", "options_of", "shape_text"]

_START = "In the module "
_SILENT = (StopIteration, StopAsyncIteration)  # they end loops, and are no mistakes
_MOST = 8  # entries of a container that are written
_LONGEST = 60  # characters of one value
_OWN = ("parent", "name")
_WRAPPERS = "batiste.module._wrap"
_NOTING = frozenset({"_run_plain", "_run_compact", "_run_setup", "run_noted", "__get__"})
_LAYERS = "batiste.nn."
_CLASSES = re.compile(r"'(?:[\w.<>]+\.)?(\w+)'")
_LIST_METHODS = frozenset({"append", "extend", "insert", "remove", "pop", "clear", "reverse", "sort"})
_NOT_CALLABLE = re.compile(r"'(\w+)' object is not callable")
_LIST_ERRORS = re.compile(r"'tuple' object does not support item|can only concatenate tuple \(not \"list\"\)")


def explain(
    error: Exception, module: Blueprint, function: Any, name: str, args: Any, kwargs: Any
) -> BatisteError | None:
    """Add the note to an exception that leaves a method of ``module``, unless a module further inside has done so.

    Args:
      error: the exception.
      module: the module whose method it leaves.
      function: the method as it was written.
      name: the method's name.
      args: the positional arguments, without the module.
      kwargs: the keyword arguments.

    Returns:
      An error of the catalogue to raise from this one, where what was done is certain; else None.
    """
    if isinstance(error, _SILENT):
        return None
    notes: list[str] = getattr(error, "__notes__", [])
    held = [note for note in notes if note.startswith(_START)]
    if held and _came_through_module(error.__traceback__):
        return None
    for note in held:  # of an earlier time that the same object was raised
        notes.remove(note)
    own = _certain(error, module, function, args, kwargs)
    (own or error).add_note(_text(own or error, module, function, name, args, kwargs))
    return own


def _came_through_module(traceback: TracebackType | None) -> bool:
    """Return whether an exception has left another module's method before: the frame that is noting comes first.

    An object that is raised once more still has the frames of the first time; those were not called from here.
    """
    inner = traceback.tb_next if traceback is not None else None
    while inner is not None and traceback is not None:
        frame = inner.tb_frame
        if frame.f_code.co_name in _NOTING and frame.f_globals.get("__name__") == _WRAPPERS:
            caller = frame.f_back
            while caller is not None and caller is not traceback.tb_frame:
                caller = caller.f_back
            if caller is not None:
                return True
        inner = inner.tb_next
    return False


def _text(error: Exception, module: Blueprint, function: Any, name: str, args: Any, kwargs: Any) -> str:
    kind = type(module).__name__
    place = "(unbound)" if module.scope is None else f"at {module.scope.path_text}"
    try:
        if isinstance(error, BatisteError) and len(place) > 4 and place[3:] in str(error):
            place = ""  # the message has it
        named = list(_named(function, args, kwargs))
        given = ", ".join(f"{argument}={text}" if argument else text for argument, text, _ in named)
        text = f"{kind}({options_of(module)}){place and ' '}{place}, whose {name} was given {given or 'no inputs'}."
        hint = _hint(error, module, named)
    except Exception:  # noqa: BLE001 - what fails while it is described must not hide what failed
        return f"{_START}{kind} {place}"
    return f"{_START}{text}\n  {hint}" if hint else f"{_START}{text}"


# --- what was given, in words


def _named(function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Yield the name, the text and the value of each argument."""
    code: CodeType | None = getattr(inspect.unwrap(function), "__code__", None)
    names = code.co_varnames[1 : code.co_argcount] if code is not None else ()
    for index, value in enumerate(args):
        yield names[index] if index < len(names) else "", shape_text(value), value
    for key, value in kwargs.items():
        yield key, shape_text(value), value


def shape_text(value: Any, depth: int = 3) -> str:
    """Return what a value is for people: dtype and shape of an array, a Python value as it is, the type of the rest."""
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return _cut(repr(value))
    if isinstance(value, Blueprint):
        return f"{type(value).__name__}(...)"
    if hasattr(value, "shape") and hasattr(value, "dtype") and not isinstance(value, type):
        dtype = getattr(value.dtype, "name", value.dtype)
        return f"{dtype}[{','.join(map(str, value.shape))}]"
    if isinstance(value, Mapping):
        items = list(cast("Mapping[Any, Any]", value).items())
        return _joined([f"{key!r}: {shape_text(item, depth - 1)}" for key, item in items[:_MOST]], items, depth, "{}")
    if isinstance(value, list):
        elements = cast("list[Any]", value)
        return _joined([shape_text(item, depth - 1) for item in elements[:_MOST]], elements, depth, "[]")
    if isinstance(value, tuple):
        entries = cast("tuple[Any, ...]", value)
        return _joined([shape_text(item, depth - 1) for item in entries[:_MOST]], entries, depth, "()")
    if isinstance(value, type) or callable(value):
        return str(getattr(value, "__name__", type(value).__name__))
    return type(value).__name__


def _joined(texts: list[str], items: Any, depth: int, brackets: str) -> str:
    if depth <= 0 and items:
        return f"{brackets[0]}...{brackets[1]}"
    more = ", ..." if len(items) > len(texts) else "," if brackets == "()" and len(texts) == 1 else ""
    return f"{brackets[0]}{', '.join(texts)}{more}{brackets[1]}"


def options_of(module: Blueprint) -> str:
    """Return the fields of a module that are not the class's defaults, as its constructor takes them."""
    values = module.__dict__
    shown: list[str] = []
    for field in dataclasses.fields(cast("Any", module)):
        if field.name in _OWN or not (field.init and field.repr) or field.name not in values:
            continue
        value = values[field.name]
        if not _is_default(value, field.default):
            shown.append(f"{field.name}={shape_text(value, 2)}")
    return ", ".join(shown)


def _is_default(value: Any, default: Any) -> bool:
    if value is default:
        return True
    kind = cast("Any", type(value))
    is_plain = issubclass(kind, bool | int | float | str | tuple)
    return is_plain and kind is type(default) and shape_text(value) == shape_text(default)


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


# --- what to write instead


def _hint(error: BaseException, module: Blueprint, named: list[tuple[str, str, Any]]) -> str:
    """Return what to write instead, where the exception tells which mistake it is, and has no hint of its own."""
    if isinstance(error, BatisteError):
        return ""
    if isinstance(error, CONCRETIZATION_ERRORS):
        return _hint_of_values([*named, *_fields(module)])
    if isinstance(error, TypeError | ValueError) and _differ_in_batch(named):
        return (
            "The carry and the inputs of a cell have the same batch axes. Under nn.scan, in_axes is the axis of time: "
            "1 for inputs [batch, time, features]."
        )
    if isinstance(error, TypeError) and (kind := _module_in(str(error), module)):
        return f"{kind} is a layer, and was not called: write {kind}(...)(x)."
    if isinstance(error, TypeError) and (called := _NOT_CALLABLE.fullmatch(str(error))):
        fields = [(n, value) for n, _, value in _fields(module) if type(value).__name__ == called[1]]
        if fields:
            name, value = fields[0]
            return f"The field {name}={value!r} is called: give the function itself{_function_named(value, name)}."
    if isinstance(error, TypeError) and _LIST_ERRORS.search(str(error)):
        names = [n for n, value in module.__dict__.items() if isinstance(value, tuple) and n in module._state.assigned]
        if names:
            return (
                f"If that is self.{names[0]}: lists that are assigned to a module become tuples. Make the list first, "
                f"then assign it whole."
            )
    return ""


def _differ_in_batch(named: list[tuple[str, str, Any]]) -> bool:
    """Return whether a cell was given a carry, and inputs with other axes before the last one."""
    given = {name: value for name, _, value in named}
    carry: list[Any] = jax.tree.leaves(given.get("carry"))
    inputs: list[Any] = jax.tree.leaves(given.get("inputs"))
    return any(jnp.shape(a)[:-1] != jnp.shape(b)[:-1] for a in carry for b in inputs)


def _function_named(value: Any, field: str) -> str:
    """Return how a function is written that a text names, or nothing."""
    homes = {"jax.nn": jax.nn, "jnp": jnp}
    found = next((home for home, names in homes.items() if isinstance(value, str) and hasattr(names, value)), None)
    return "" if found is None else f", {field}={'nn' if found == 'jax.nn' else found}.{value}"


def _module_in(text: str, module: Blueprint) -> str:
    """Return the class of a submodule that an error of Python or JAX about a value of the wrong type names, or ""."""
    named = _CLASSES.findall(text)
    held = {} if module.scope is None else module.scope.names
    children = {type(child).__name__ for child in held.values() if isinstance(child, Blueprint)}
    return next((kind for kind in named if kind in children), "")


def _hint_of_values(named: list[tuple[str, str, Any]]) -> str:
    flags = _traced(named)
    if not flags:
        return (
            "The value of an array is not known while JAX traces: choose between values with jnp.where(condition, a, "
            "b), between computations with nn.cond or jax.lax.cond."
        )
    return (
        f"Here {_listed(flags)} is a traced array. What Python looks at must be static: jax.jit(..., "
        f"static_argnames={_listed(flags)}), and for nn.remat and nn.jit static_argnums, which count the module as 0."
    )


def _traced(named: list[tuple[str, str, Any]]) -> dict[str, Any]:
    """Return the arguments that are traced and have no axes: those by which a program would decide."""
    return {name: value for name, _, value in named if name and is_tracer(value) and not value.shape}


def _fields(module: Blueprint) -> Iterator[tuple[str, str, Any]]:
    """Yield the fields of a module as ``_named`` yields arguments."""
    for name in module.blueprint_names_:
        yield name, "", module.__dict__.get(name)


def _listed(names: Mapping[str, Any]) -> str:
    """Return names as an argument ``static_argnames`` has them."""
    return repr(next(iter(names))) if len(names) == 1 else repr(tuple(names))


def _certain(error: Exception, module: Blueprint, function: Any, args: Any, kwargs: Any) -> BatisteError | None:
    """Return the error of the catalogue for a mistake that the error of Python or JAX is certain of."""
    if isinstance(error, jax.errors.TracerBoolConversionError) and not isinstance(error, TracedFlagError):
        if not type(module).__module__.startswith(_LAYERS):
            return None
        flags = _traced([*_named(function, args, kwargs), *_fields(module)])
        given = ", ".join(shape_text(flag) for flag in flags.values())
        return TracedFlagError(path=where(module), names=_listed(flags), given=given) if flags else None
    if isinstance(error, TypeError) and (called := _NOT_CALLABLE.fullmatch(str(error))):
        held = [module.__dict__, {} if module.scope is None else module.scope.names]
        found = next(_held(held, called[1]), None)
        return None if found is None or callable(found) else not_callable(found)
    if not (isinstance(error, AttributeError) and isinstance(error.obj, tuple) and error.name in _LIST_METHODS):
        return None
    held = cast("Any", error.obj)
    names = [name for name, value in module.__dict__.items() if value is held]
    names = [name for name in names if name in module._state.assigned] or (names if held else [])
    if not names:
        return None
    return ModuleListError(path=where(module), name=names[0], call=f"{names[0]}.{error.name}")


def _held(value: Any, kind: str) -> Iterator[Blueprint]:
    """Yield the modules of a class of this name in nested containers."""
    if isinstance(value, Blueprint):
        if type(value).__name__ == kind:
            yield value
    elif isinstance(value, Mapping | list | tuple):
        entries = cast("Any", value.values() if isinstance(value, Mapping) else value)
        for entry in entries:
            yield from _held(entry, kind)


def not_callable(module: Blueprint) -> BatisteError:
    """Return the error for a module that is called, and whose class has no ``__call__``."""
    own = [n for n, value in vars(type(module)).items() if hasattr(value, "is_wrapped_method") and n != "setup"]
    advice = "Write the method as __call__"
    if own:
        is_outermost = module.scope is None or not module.scope.path
        way = f"name it in init and apply: method={own[0]!r}" if is_outermost else f"write .{own[0]}(...)"
        advice += f", or {way}"
    return ModuleNotCallableError(path=where(module), advice=f"{advice}.")
