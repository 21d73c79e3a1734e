"""The blueprint as a value: which fields it has, when two are equal, and how it is written.

A module class is a dataclass. Two modules are equal if they have the same class, the same field values and the same
name; lists, dicts and functions among the fields count by what they hold and do. A bound module is equal to itself
alone. What ``typing`` notes on an instance of a generic class, ``Model[int](4)``, is for type checkers and does
not count.
"""

from __future__ import annotations

import dataclasses
import inspect
import types
from typing import Any, cast

from batiste._annotations import own_annotations
from batiste.core import UNKNOWN, Fingerprint, fingerprint
from batiste.errors import ReservedModuleAttributeError
from batiste.module._adopt import has_modules
from batiste.module._blueprint import UNSPECIFIED, Blueprint
from batiste.module._constructor import make_constructor, needs_dataclass_constructor

__all__ = [
    "are_equal",
    "blueprint_fields",
    "class_defaults",
    "counted_values",
    "describe",
    "make_dataclass",
    "value_of",
]

_OWN = frozenset({"name", "parent"})
_UNCOMPARED = frozenset({"__orig_class__", "_state", "_value", "name", "parent", "scope"})
_LINE = 100
_PLAIN = frozenset({bool, bytes, complex, float, int, str, type(None)})


def make_dataclass(cls: type[Blueprint], module: type[Blueprint], *, kw_only: bool) -> None:
    """Turn a new subclass of ``module``, which is Module, into a dataclass.

    Raises:
      ReservedModuleAttributeError: if it defines a name that modules need for themselves.
    """
    annotated = own_annotations(cls)
    if "name" in annotated and cls.__dict__.get("name") is None:  # said once more, which Flax allows
        del annotated["name"]
        cls.__annotations__ = annotated
        if "name" in cls.__dict__:
            del cls.name
    taken = sorted((_OWN | {"scope"}) & set(annotated) | {n for n in ("parent", "scope") if n in cls.__dict__})
    if taken:
        raise ReservedModuleAttributeError(path=cls.__name__, names=", ".join(map(repr, taken)))
    is_ours = "__init__" not in cls.__dict__ and not needs_dataclass_constructor(cls, module)
    dataclasses.dataclass(init=not is_ours, eq=False, repr=False, kw_only=kw_only)(cls)
    fields = dataclasses.fields(cls)  # pyright: ignore[reportArgumentType]
    held: dict[str, Any] = cast("Any", cls).__dataclass_fields__
    for name in ("parent", "name"):  # last, as in Flax
        held[name] = held.pop(name)
    if is_ours:
        cls.__init__ = make_constructor(cls, fields)
    taking = [field for field in fields if field.init and field.name not in _OWN]
    cls.blueprint_names_ = tuple(field.name for field in taking)
    cls.slotted_fields_ = tuple(
        name for name in cls.blueprint_names_ if isinstance(getattr(cls, name, None), types.MemberDescriptorType)
    )
    cls.adoptable_fields_ = tuple(
        (field.name, UNSPECIFIED if has_modules(field.default) else field.default) for field in taking
    )


def blueprint_fields(module: Blueprint) -> dict[str, Any]:
    """Return the values that the constructor takes, without name and parent.

    Example:
      >>> from batiste import module, nn
      >>> fields = module.blueprint_fields(nn.Dropout(0.5, name="drop"))
      >>> fields["rate"], "name" in fields
      (0.5, False)
    """
    values = module.__dict__
    return {name: values[name] if name in values else getattr(module, name) for name in module.blueprint_names_}


def class_defaults(cls: type[Blueprint]) -> dict[str, Any]:
    """Return the default value of each field that has one."""
    fields = dataclasses.fields(cls)  # pyright: ignore[reportArgumentType]
    return {field.name: field.default for field in fields if field.default is not dataclasses.MISSING}


def compared_values(module: Blueprint) -> tuple[tuple[str, Any], ...]:
    """Return what the blueprint computes with, by name: its fields, and whatever else its construction has set.

    Fields with ``compare=False`` are left out, and so is what a cached property keeps.
    """
    fields = _fields_of(module)
    values = module.__dict__ if module.scope is None else blueprint_fields(module)
    return tuple(
        (name, value)
        for name, value in sorted(values.items())
        if name not in _UNCOMPARED
        and (fields[name].compare if name in fields else not _is_property(type(module), name))
    )


def _fields_of(module: Blueprint) -> dict[str, dataclasses.Field[Any]]:
    return cast("Any", type(module)).__dataclass_fields__


def _is_property(kind: type, name: str) -> bool:
    return hasattr(cast("Any", type(inspect.getattr_static(kind, name, None))), "__set__")


def counted_values(module: Blueprint) -> tuple[Any, ...]:
    """Return what two modules that compute the same have in common.

    A field that is not compared may be computed with all the same, so that a class that has one is not known by value.
    """
    is_whole = all(field.compare for name, field in _fields_of(module).items() if name not in _UNCOMPARED)
    return (module.name, module.scope, *compared_values(module), None if is_whole else UNKNOWN)


def value_of(module: Blueprint) -> Fingerprint:
    """Return the module's identity by value; from then on the unbound module does not change."""
    held = module.__dict__.get("_value")
    if held is None:
        # Equal modules have one hash for good, whatever the globals that their code names become: it is made of the
        # plain fields alone.
        plain = tuple((name, repr(value)) for name, value in compared_values(module) if type(value) in _PLAIN)
        held = fingerprint(module).with_hash(hash((type(module), module.name, plain)))
        module.__dict__["_value"] = held
    return held


def are_equal(module: Blueprint, other: Blueprint) -> bool:
    """Return whether two modules are one description: the same class, and fields that are equal now."""
    return value_of(module) == value_of(other) or fingerprint(module) == fingerprint(other)


def describe(module: Blueprint) -> str:
    """Return the call that makes the module, without the fields that have their default value."""
    fields = _fields_of(module)
    shown = [
        f"{n}={_written(v)}" for n, v in blueprint_fields(module).items() if fields[n].repr and _differs(fields[n], v)
    ]
    if module.__dict__.get("name") is not None:
        shown.append(f"name={module.name!r}")
    line = f"{type(module).__name__}({', '.join(shown)})"
    if len(line) <= _LINE and "\n" not in line:
        return line
    inner = ",\n".join(shown).replace("\n", "\n    ")
    return f"{type(module).__name__}(\n    {inner},\n)"


def _written(value: Any) -> str:
    if callable(value) and not isinstance(value, Blueprint) and hasattr(value, "__name__"):
        return str(value.__name__)
    return repr(value)


def _differs(field: dataclasses.Field[Any], value: Any) -> bool:
    if field.default is not dataclasses.MISSING:
        default = field.default
    elif field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    else:
        return True
    if value is default:
        return False
    try:
        return not (type(value) is type(default) and fingerprint(value) == fingerprint(default))
    except TypeError:
        return True
