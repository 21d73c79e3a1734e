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
from typing import TYPE_CHECKING, Any, TypeVar, cast

from batiste.core import Fingerprint, current_trace, fingerprint, is_eager, is_replaced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["by_value", "doubt_if_changed", "named_arguments"]

T = TypeVar("T")


def by_value(tx: T) -> T:
    """Return a transformation that does the same and compares by value.

    Args:
      tx: an ``optax.GradientTransformation``, one of its subclasses, or an object of Optax that has the same two
        methods (``optax.MultiSteps``); anything else is returned as it is.

    Returns:
      An instance of a subclass of ``tx``'s own class. Two are equal if they are known to compute the same: code,
      closures, defaults. One whose schedule, say, reads something that may change is equal only to one of the very
      same functions.
    """
    given: Any = tx
    if isinstance(given, _ByValue):
        return tx
    if getattr(given, "_fields", None) == ("init", "update"):
        made: Any = _value_class(given.__class__)(*given)
    elif given.__class__.__module__.partition(".")[0] == "optax" and vars(given):
        made = object.__new__(_value_class(given.__class__))
        vars(made).update(vars(given))
    else:
        return tx
    made.value = fingerprint(_parts(made))
    return made


def doubt_if_changed(tx: Any) -> None:
    """See to it that a step is never taken for one of what its optimiser was before: to be called while it is traced.

    JAX asks for the optimiser's value before it traces, and keeps the program under it. If what the optimiser reads is
    another by the time of the trace, no other optimiser may find that program.
    """
    if not isinstance(tx, _ByValue) or not tx.value.is_by_value or is_eager(current_trace()):
        return
    if is_replaced() or fingerprint(_parts(tx)) != tx.value:
        vars(tx)["value"] = tx.value.doubted()


class _ByValue:
    """Equality by fingerprint, put before a class of optimisers.

    Two with the very same functions are equal in any case, so that the hash is that of the functions' code alone.
    """

    value: Fingerprint

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, _ByValue) or type(other) is not type(self):
            return False
        parts, others = _parts(self), _parts(other)
        if len(parts) == len(others) and all(a is b for a, b in zip(parts, others, strict=True)):
            return True
        return self.value.is_surely(other.value) and not is_replaced()

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash((type(self), *(getattr(part, "__code__", None) for part in _parts(self))))

    def __reduce__(self) -> tuple[Any, ...]:
        return by_value, (_plain(self),)


def _parts(tx: Any) -> tuple[Any, ...]:
    """Return what an optimiser computes with: its two functions, or what it holds."""
    if isinstance(tx, tuple):
        return tuple(cast("tuple[Any, ...]", tx))
    return tuple(_held(tx).values())


def _plain(tx: Any) -> Any:
    """Return the optimiser as Optax made it."""
    kind: Any = type(tx).__mro__[2]
    if isinstance(tx, tuple):
        return kind(*cast("tuple[Any, ...]", tx))
    made = object.__new__(kind)
    vars(made).update(_held(tx))
    return made


def _held(tx: Any) -> dict[str, Any]:
    held = cast("dict[str, Any]", vars(tx))
    return {name: part for name, part in held.items() if name != "value"}


@functools.lru_cache(maxsize=256)
def _value_class(kind: type[Any]) -> type[Any]:
    return type(kind.__name__, (_ByValue, kind), {"__module__": kind.__module__, "__doc__": kind.__doc__})


def named_arguments(update: Callable[..., Any]) -> tuple[set[str], bool]:
    """Return the extra arguments that an ``update`` function, or one that it calls, has in its signature.

    Optax has no word for them: the signature of a chain with ``optax.contrib.reduce_on_plateau`` in it says
    ``**extra_args``, and so does that of a chain without, which drops ``value=`` silently. In the closures of such a
    chain it is found in 0.2 ms, asked once a trace; all seven transformations of Optax 0.2.8 that read some are.

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
