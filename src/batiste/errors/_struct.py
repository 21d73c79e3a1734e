"""Errors of frozen pytree dataclasses: a field assigned, a field that is not there, an option that cannot be."""

from __future__ import annotations

import dataclasses

from batiste.errors._base import BatisteError

__all__ = ["FrozenStructError", "StructFieldError", "StructOptionError"]


class FrozenStructError(BatisteError, dataclasses.FrozenInstanceError):
    """A field of a frozen dataclass is assigned or deleted; also a ``dataclasses.FrozenInstanceError``."""

    code = "struct/frozen"
    message = "{kind}.{name} cannot be {action}: a {kind} is frozen, so that JAX may keep and compare it."
    hint = "Make a changed copy instead: new = old.replace({name}=...)."


class StructFieldError(BatisteError, TypeError):
    """``replace`` is given a name that is no field; also a ``TypeError``."""

    code = "struct/no-such-field"
    message = "{kind}.replace() was given {given}, but {kind} has no such field; its fields are: {known}."
    hint = "Give fields of {kind} only.{nearest}"


class StructOptionError(BatisteError, TypeError):
    """A pytree dataclass is declared with an option that it cannot have; also a ``TypeError``."""

    code = "struct/slots"
    message = "{kind} is a PyTreeNode with slots=True: slots need a second class, which inheriting cannot make."
    hint = "Drop slots=True, or decorate a plain class with @struct.dataclass(slots=True)."
