"""What a train state must know of an Optax transformation: when two are the same, and which arguments one reads.

An Optax transformation is a pair of closures, which Python compares by identity: ``optax.adam(1e-3)`` made twice is two
things, and a jitted step traces twice. ``by_value`` gives the same pair with equality by value, so that a rebuilt state
finds the compiled step. A learning rate inside a closure is part of that value: another one is another program, unless
``optax.inject_hyperparams`` makes it data.

Extra arguments (``value=`` for ``reduce_on_plateau``) pass down through chains that take any name, so that a wrong one
disappears without a word. ``named_arguments`` reads the signatures below a transformation to find the right ones.

Optax is not imported here: its transformations are taken as what they are, objects with ``init`` and ``update``.
"""

from __future__ import annotations

import functools
import inspect
import types
from typing import TYPE_CHECKING, Any, TypeVar

from batiste.core import Fingerprint, fingerprint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["by_value", "named_arguments"]

T = TypeVar("T")


def by_value(tx: T) -> T:
    """Return a transformation that does the same and compares by value.

    Args:
      tx: an ``optax.GradientTransformation`` or one of its subclasses; anything else is returned as it is.

    Returns:
      An instance of a subclass of ``tx``'s own class. Two are equal if nothing that they compute with is known to
      differ: code, closures, defaults.
    """
    given: Any = tx
    if isinstance(given, _ByValue) or getattr(given, "_fields", None) != ("init", "update"):
        return tx
    made: Any = _value_class(given.__class__)(*given)
    made.value = fingerprint(tuple(given))  # now, before use: a schedule of Optax may convert what its closure holds
    return made


class _ByValue:
    """Equality by fingerprint, put before a named tuple of functions.

    Two with the very same functions are equal in any case, so that the hash is that of the functions' code alone.
    """

    value: Fingerprint

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, _ByValue) or type(other) is not type(self):
            return False
        functions, others = _functions(self), _functions(other)
        return all(a is b for a, b in zip(functions, others, strict=True)) or self.value == other.value

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(tuple(getattr(function, "__code__", None) for function in _functions(self)))

    def __reduce__(self) -> tuple[Any, ...]:
        plain: Any = type(self).__mro__[2]
        return by_value, (plain(*_functions(self)),)


def _functions(pair: Any) -> tuple[Any, ...]:
    return tuple(pair)


@functools.cache
def _value_class(kind: type[Any]) -> type[Any]:
    return type(kind.__name__, (_ByValue, kind), {"__module__": kind.__module__, "__doc__": kind.__doc__})


def named_arguments(update: Callable[..., Any]) -> tuple[set[str], bool]:
    """Return the extra arguments that an ``update`` function, or one that it calls, has in its signature.

    Args:
      update: the ``update`` of a transformation.

    Returns:
      The names, and whether there may be others: some function below takes any name and may look into it, or is a
      factory that makes a transformation at the time of the update.
    """
    own = _extra_parameters(update)
    if own is None:
        return set(), True
    names, takes_any = own
    if not takes_any:
        return names, False
    walk = _Walk()
    walk.visit(update)
    return walk.names, walk.may_be_others


class _Walk:
    """A walk over the functions that a function can reach through its closure."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.may_be_others = False
        self._seen: dict[int, Any] = {}

    def visit(self, value: Any) -> None:
        if id(value) in self._seen:
            return
        self._seen[id(value)] = value
        for part in self._parts(value):
            self.visit(part)

    def _parts(self, value: Any) -> Iterable[Any]:
        holder: Any = value  # the same object, which `match` does not narrow to a container of unknown things
        match value:
            case types.FunctionType():
                self._read(value)
                return [cell.cell_contents for cell in value.__closure__ or () if cell != types.CellType()]
            case types.MethodType():
                return [value.__func__, value.__self__]
            case functools.partial(func=func, args=args, keywords=keywords):
                return [func, *args, *keywords.values()]
            case tuple() | list():
                return holder
            case dict():
                return holder.values()
            case _ if hasattr(value, "update") and hasattr(value, "__dict__"):  # an optimiser written as a class
                return holder.__dict__.values()
            case _:
                return []

    def _read(self, function: types.FunctionType) -> None:
        extra = _extra_parameters(function)
        if extra is None:
            return
        names, takes_any = extra
        if "GradientTransformation" in str(function.__annotations__.get("return", "")):
            self.may_be_others = True
            return
        if takes_any or "update" in function.__name__:
            self.names |= names
        self.may_be_others |= takes_any and function.__module__.partition(".")[0] != "optax"


def _extra_parameters(function: Callable[..., Any]) -> tuple[set[str], bool] | None:
    """Return the parameters after ``(updates, state, params)`` and whether any other name is taken."""
    try:
        parameters = list(inspect.signature(function, follow_wrapped=False).parameters.values())
    except (TypeError, ValueError):
        return None
    named = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
    named.update(p.name for p in parameters[3:] if p.kind is p.POSITIONAL_OR_KEYWORD and p.name != "params")
    return named, any(p.kind is p.VAR_KEYWORD for p in parameters)
