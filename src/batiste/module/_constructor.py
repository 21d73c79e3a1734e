"""The constructor of a module class: what ``dataclasses`` would write, without calling ``__setattr__`` for each field.

Modules are made anew at every call of their parent, so their constructor is on the way of every trace. The one that is
made here puts the fields into the instance's dict at once. Its signature, defaults and order are a dataclass's.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable
from typing import Any, cast

from batiste._annotations import own_annotations
from batiste.errors import ExtraArgumentsError, MissingFieldsError, UnknownFieldError, nearest

__all__ = ["make_constructor", "needs_dataclass_constructor"]

_NO_VALUE: Any = object()
_PREFIX = "__batiste_"  # of the names that the constructor uses beside those of the fields


def needs_dataclass_constructor(cls: type, base: type) -> bool:
    """Return whether fields have to be set as ``dataclasses`` sets them.

    ``InitVar`` fields, which only it knows how to pass on, and fields whose setting is somebody's business: a
    ``__setattr__`` of the user's, or a descriptor (a slot, a property) of the field's name.

    Args:
      cls: the class.
      base: the class whose ``__setattr__`` sets what is not bound as a plain object would.
    """
    own = [each for each in cls.__mro__ if each is not object and each not in base.__mro__]
    annotations = [own_annotations(each) for each in own]
    if cls.__setattr__ is not base.__setattr__ or any(
        "InitVar" in str(kind) for annotated in annotations for kind in annotated.values()
    ):
        return True
    fields = {name for annotated in annotations for name in annotated}
    return any(hasattr(cast("Any", type(vars(each).get(name))), "__set__") for each in own for name in fields)


def make_constructor(cls: type, fields: Iterable[dataclasses.Field[Any]]) -> Callable[..., None]:
    """Return ``__init__`` for a dataclass.

    Args:
      cls: the class.
      fields: its fields, in order.

    Raises:
      TypeError: if a field without a default follows one with a default, as ``dataclasses`` has it.
    """
    fields = list(fields)
    values, unset = f"{_PREFIX}values", f"{_PREFIX}unset"
    this = f"{_PREFIX}self" if any(field.name == "self" for field in fields) else "self"
    space: dict[str, Any] = {unset: _NO_VALUE}
    required: list[str] = []
    positional: list[str] = []
    keyword: list[str] = []
    body = [f"{values} = {this}.__dict__"]
    annotations: dict[str, Any] = {"return": None}
    had_default = ""
    for field in fields:
        name, parameter = field.name, field.name
        if field.default_factory is not dataclasses.MISSING:
            make = f"{_PREFIX}make_{name}"
            space[make] = field.default_factory
            parameter = f"{name}={unset}"
            value = f"{make}() if {name} is {unset} else {name}" if field.init else f"{make}()"
            body.append(f"{values}[{name!r}] = {value}")
        elif field.init:
            if field.default is not dataclasses.MISSING:
                space[f"{_PREFIX}default_{name}"] = field.default
                parameter = f"{name}={_PREFIX}default_{name}"
            body.append(f"{values}[{name!r}] = {name}")
        if not field.init:
            continue
        if parameter == name and had_default and not field.kw_only:
            msg = f"non-default argument {name!r} follows default argument {had_default!r}"
            raise TypeError(msg)
        if parameter != name and not field.kw_only:
            had_default = name
        if parameter == name:
            required.append(name)
            parameter = f"{name}={unset}"
        (keyword if field.kw_only else positional).append(parameter)
        annotations[name] = field.type
    body.append(f"{this}.__post_init__()")
    others, more = f"{_PREFIX}others", f"{_PREFIX}more"
    arguments = ", ".join([this, *positional, f"*{others}", *keyword, f"**{more}"])
    space[f"{_PREFIX}refuse"] = _refuse
    missing = "".join(f" or {name} is {unset}" for name in required)
    given = ", ".join(f"{name!r}: {name}" for name in required)
    body.insert(0, f"if {others} or {more}{missing}: {_PREFIX}refuse({this}, {others}, {more}, {{{given}}})")
    source = f"def __init__({arguments}):\n  " + "\n  ".join(body)
    exec(source, space)  # noqa: S102 - as `dataclasses` does: the source is made of the names of fields
    constructor: Any = space["__init__"]
    constructor.__qualname__ = f"{cls.__qualname__}.__init__"
    constructor.__module__ = cls.__module__
    constructor.__annotations__ = annotations
    constructor.__signature__ = _signature(inspect.signature(constructor), required)
    return constructor


def _signature(signature: inspect.Signature, required: list[str]) -> inspect.Signature:
    """Return the signature of a dataclass: without what catches arguments that there are no fields for."""
    rest = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
    kept = [each for each in signature.parameters.values() if each.kind not in rest]
    return signature.replace(
        parameters=[each.replace(default=each.empty) if each.name in required else each for each in kept]
    )


def _refuse(module: Any, others: tuple[Any, ...], more: dict[str, Any], required: dict[str, Any]) -> None:
    """Raise the error for arguments that there is no field for, or for fields without a value.

    Raises:
      UnknownFieldError: for a name that no field has.
      ExtraArgumentsError: for more arguments by position than there are fields.
      MissingFieldsError: for fields that have no default and were not given.
    """
    kind = cast("Any", type(module))
    fields = [field for field in dataclasses.fields(kind) if field.init]
    named = [field.name for field in fields]
    if more:
        name = next(iter(more))
        raise UnknownFieldError(
            path=kind.__name__, name=name, nearest=nearest(name, named), fields=", ".join(sorted(named))
        )
    if not others:
        missing = [name for name, value in required.items() if value is _NO_VALUE]
        example = ", ".join(f"{name}=..." for name in required)
        raise MissingFieldsError(path=kind.__name__, missing=", ".join(map(repr, missing)), example=example)
    positional = [field.name for field in fields if not field.kw_only]
    raise ExtraArgumentsError(
        path=kind.__name__,
        fields=", ".join(positional) or "none",
        given=len(positional) + len(others),
        count=len(positional),
    )
