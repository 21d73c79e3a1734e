"""The errors for modules that are used before, or outside of, what binds them: which mistake it is, and its fix.

The same call fails for several reasons: a layer that was made beside the model and not handed to it, one that setup
has put into a container afterwards, one that a constructor of the user's own keeps, a blueprint that is called at the
top. The module, and the module that is being run, tell which.
"""

from __future__ import annotations

from typing import Any, cast

from batiste.errors import (
    BatisteError,
    BlueprintAsArrayError,
    CallCompactUnboundModuleError,
    IncorrectPostInitOverrideError,
    LayerInputError,
    UnknownModuleAttributeError,
    nearest,
)
from batiste.module._blueprint import Blueprint
from batiste.module._context import CURRENT
from batiste.module._notes import shape_text
from batiste.module._variables import where

__all__ = ["incomplete", "missing_attribute", "refuse_array_field", "unbound_call"]

_GENERATED = "<string>"  # where the constructors that dataclasses and batiste write come from
_WHOLE = frozenset({"int", "bool", "str"})
_NUMBERS = frozenset({"bool", "float", "int", "str"})


def unbound_call(module: Blueprint, method: str) -> CallCompactUnboundModuleError:
    """Return the error for a method that needs variables, called on a module that is not bound.

    Example:
      >>> from batiste import module, nn
      >>> type(module.unbound_call(nn.Dense(3), "__call__")).__name__
      'CallCompactUnboundModuleError'
    """
    kind, current = type(module).__name__, CURRENT.get()
    caller = current if isinstance(current, Blueprint) and current is not module and current.scope is not None else None
    if isinstance(module.parent, Blueprint):
        advice = (
            f"setup of {where(module.parent)} has made it, and not assigned it: assign layers to attributes of self, "
            f"lists and dicts of them as a whole once they are full, self.layers = [{kind}(...), ...]."
        )
    elif caller is None:
        advice = "Write variables = model.init(key, x), then model.apply(variables, x)."
    else:
        held = [name for name, value in caller.__dict__.items() if value is module and name != "parent"]
        if held and held[0] not in caller.blueprint_names_:
            advice = (
                f"{type(caller).__name__} has it as {held[0]!r} from its construction; what is bound are fields, and "
                f"what setup assigns. Declare the arguments as fields (width: int) in place of __init__, and make the "
                f"layer in setup, self.{held[0]} = {kind}(...), or in a method marked @nn.compact."
            )
        else:
            advice = (
                f"It was made outside of {where(caller)}, which calls it. Make it there, in setup or in a method "
                f"marked @nn.compact, or hand it over as a field: layer: nn.Module, and self.layer(x)."
            )
    return CallCompactUnboundModuleError(path=kind, method=method, advice=advice)


def incomplete(module: Any) -> IncorrectPostInitOverrideError:
    """Return the error for a module whose constructor has not been run to its end."""
    kind = cast("Any", type(module))
    for base in kind.__mro__:
        if "__init__" in vars(base) and issubclass(base, Blueprint):
            code = getattr(vars(base)["__init__"], "__code__", None)
            if code is not None and code.co_filename != _GENERATED:
                advice = (
                    f"A module is a dataclass, whose constructor is written for it: declare the arguments as fields "
                    f"of {base.__name__} (width: int), without __init__, and make layers in setup or in a method "
                    f"marked @nn.compact."
                )
                return IncorrectPostInitOverrideError(path=base.__name__, method="__init__", advice=advice)
        if "__post_init__" in vars(base):
            break
    advice = "End it with super().__post_init__(), after the fields have their values."
    return IncorrectPostInitOverrideError(path=kind.__name__, method="__post_init__", advice=advice)


def missing_attribute(module: Blueprint, name: str) -> BatisteError:
    """Return the error for an attribute that a module does not have.

    What JAX asks of all that is no array, right before it refuses it, tells that it was given a module as an array.
    """
    kind = type(module).__name__
    path = kind if module.scope is None else where(module)
    if name == "__jax_array__":
        return BlueprintAsArrayError(path=path, kind=kind)
    known = [n for n in (*dir(type(module)), *module.__dict__) if not n.startswith("_")]
    bound = "Attributes that setup defines are there only in init, apply and bind."
    return UnknownModuleAttributeError(
        path=path,
        name=name,
        nearest=nearest(name, known),
        advice=bound if module.scope is None else f"Define it as a field, or in setup: self.{name} = ...",
    )


def refuse_array_field(module: Blueprint, name: str, value: Any) -> None:
    """Raise ``LayerInputError`` if the first field of a layer, a plain number or text, was given an array with axes.

    Raises:
      LayerInputError: then the layer was given its input where it is made.
    """
    kind = cast("Any", type(module))
    if module.blueprint_names_[:1] != (name,) or not getattr(value, "ndim", 0):
        return
    told: Any = kind.__dataclass_fields__[name].type
    annotation = told if isinstance(told, str) else getattr(told, "__name__", "")
    if annotation not in (_NUMBERS if kind.__module__.startswith("batiste.nn.") else _WHOLE):
        return
    parent = module.parent
    raise LayerInputError(
        path=where(parent) if isinstance(parent, Blueprint) else kind.__name__,
        kind=kind.__name__,
        name=name,
        annotation=annotation,
        given=shape_text(value),
    )
