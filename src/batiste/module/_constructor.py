"""The constructor of a module class: what ``dataclasses`` would write, without calling ``__setattr__`` for each field.

Modules are made anew at every call of their parent, so their constructor is on the way of every trace. The one that is
made here puts the fields into the instance's dict at once. Its signature, defaults and order are a dataclass's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

__all__ = ["make_constructor", "needs_dataclass_constructor"]

_NO_VALUE: Any = object()


def needs_dataclass_constructor(cls: type) -> bool:
    """Return whether the class has ``InitVar`` fields, which only ``dataclasses`` knows how to pass on."""
    return any(
        "InitVar" in str(kind) for base in cls.__mro__ for kind in vars(base).get("__annotations__", {}).values()
    )


def make_constructor(cls: type, fields: Iterable[dataclasses.Field[Any]]) -> Callable[..., None]:
    """Return ``__init__`` for a dataclass.

    Args:
      cls: the class.
      fields: its fields, in order.

    Raises:
      TypeError: if a field without a default follows one with a default, as ``dataclasses`` has it.
    """
    space: dict[str, Any] = {"_NO_VALUE": _NO_VALUE}
    positional: list[str] = []
    keyword: list[str] = []
    body = ["d = self.__dict__"]
    annotations: dict[str, Any] = {"return": None}
    had_default = ""
    for field in fields:
        name, parameter = field.name, field.name
        if field.default_factory is not dataclasses.MISSING:
            space[f"_make_{name}"] = field.default_factory
            parameter = f"{name}=_NO_VALUE"
            value = f"_make_{name}() if {name} is _NO_VALUE else {name}" if field.init else f"_make_{name}()"
            body.append(f"d[{name!r}] = {value}")
        elif field.init:
            if field.default is not dataclasses.MISSING:
                space[f"_default_{name}"] = field.default
                parameter = f"{name}=_default_{name}"
            body.append(f"d[{name!r}] = {name}")
        if not field.init:
            continue
        if parameter == name and had_default and not field.kw_only:
            msg = f"non-default argument {name!r} follows default argument {had_default!r}"
            raise TypeError(msg)
        if parameter != name and not field.kw_only:
            had_default = name
        (keyword if field.kw_only else positional).append(parameter)
        annotations[name] = field.type
    body.append("self.__post_init__()")
    arguments = ", ".join(["self", *positional, *(["*", *keyword] if keyword else [])])
    source = f"def __init__({arguments}):\n  " + "\n  ".join(body)
    exec(source, space)  # noqa: S102 - as `dataclasses` does: the source is made of the names of fields
    constructor: Any = space["__init__"]
    constructor.__qualname__ = f"{cls.__qualname__}.__init__"
    constructor.__module__ = cls.__module__
    constructor.__annotations__ = annotations
    return constructor
