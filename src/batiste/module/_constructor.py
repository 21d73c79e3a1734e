"""The constructor of a module class: what ``dataclasses`` would write, without calling ``__setattr__`` for each field.

Modules are made anew at every call of their parent, so their constructor is on the way of every trace. The one that is
made here puts the fields into the instance's dict at once. Its signature, defaults and order are a dataclass's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, cast

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
    own = [each for each in cls.__mro__ if each is not object and not issubclass(base, each)]
    if cls.__setattr__ is not base.__setattr__ or any(
        "InitVar" in str(kind) for each in own for kind in vars(each).get("__annotations__", {}).values()
    ):
        return True
    fields = {name for each in own for name in vars(each).get("__annotations__", {})}
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
        (keyword if field.kw_only else positional).append(parameter)
        annotations[name] = field.type
    body.append(f"{this}.__post_init__()")
    arguments = ", ".join([this, *positional, *(["*", *keyword] if keyword else [])])
    source = f"def __init__({arguments}):\n  " + "\n  ".join(body)
    exec(source, space)  # noqa: S102 - as `dataclasses` does: the source is made of the names of fields
    constructor: Any = space["__init__"]
    constructor.__qualname__ = f"{cls.__qualname__}.__init__"
    constructor.__module__ = cls.__module__
    constructor.__annotations__ = annotations
    return constructor
