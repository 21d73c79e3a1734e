"""Whether a function of JAX has been replaced: libraries do, to quantise, to count, to debug.

What batiste keeps by value was computed with JAX's functions as they were. As long as one of them is another, nothing
that is kept is used, and nothing is kept.
"""

from __future__ import annotations

import inspect
import operator
import re
import types
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from batiste._annotations import own_annotations
from batiste.core._code import mentions

__all__ = ["Watch", "is_replaced", "watch"]

Watch: TypeAlias = tuple[tuple[Any, Callable[[Any], Any], Any], ...]
"""Namespaces, each with what takes some names out of it, and what these were bound to; functions, and their code."""


_CODE: Final = operator.attrgetter("__code__")
_WORD: Final = re.compile(r"[A-Za-z_]\w*")
_MODULES: Final = (jax, lax, jnp, jax.nn, jax.random, jax.nn.initializers)
_KNOWN: Final[Mapping[int, Mapping[str, Any]]] = MappingProxyType(
    {
        id(module): MappingProxyType(
            {name: value for name, value in vars(module).items() if callable(value) and not isinstance(value, type)}
        )
        for module in _MODULES
    }
)
"""By module, the functions of JAX as they were when batiste was loaded."""


def _watched(module: types.ModuleType, names: Iterable[str]) -> Watch:
    known = _KNOWN[id(module)]
    found = [name for name in names if name in known]
    if not found:
        return ()
    take = operator.itemgetter(*found)
    plain = tuple(known[name] for name in found if isinstance(known[name], types.FunctionType))
    return ((vars(module), take, take(known)), (plain, _codes, _codes(plain)))


def _codes(functions: tuple[types.FunctionType, ...]) -> list[types.CodeType]:
    """Return the code of functions: libraries replace it in place, so that every name of the function is replaced."""
    return list(map(_CODE, functions))


_ALL: Final[Watch] = tuple(
    each
    for module in _MODULES
    for each in _watched(module, _KNOWN[id(module)])
    if each[1] is not _codes or module is lax  # the code of all functions takes three times as long to look at
)


def is_replaced(watched: Watch = _ALL) -> bool:
    """Return whether a public function of JAX, or one of those that are watched, is another than it was.

    Example:
      >>> from unittest import mock
      >>> import jax.numpy as jnp
      >>> from batiste import core
      >>> core.is_replaced()
      False
      >>> with mock.patch.object(jnp, "dot", lambda x, y: 0):
      ...     core.is_replaced()
      True
    """
    try:
        for space, take, known in watched:
            if take(space) != known:
                return True
    except KeyError:  # one is gone
        return True
    return False


def watch(function: types.FunctionType) -> Watch:
    """Return the functions of JAX that a function of batiste names, and those that batiste's own below it name.

    Args:
      function: the function. Methods of the classes that it names, in its code or its annotations, count as below it.

    Example:
      >>> from unittest import mock
      >>> import jax.numpy as jnp
      >>> from batiste import core
      >>> watched = core.watch(core.unstack)
      >>> with mock.patch.object(jnp, "unstack", lambda array: []):
      ...     core.is_replaced(watched)
      True
    """
    found: dict[int, set[str]] = {}
    seen: set[Any] = set()
    waiting = [function]
    while waiting:
        each = waiting.pop()
        if each in seen:
            continue
        seen.add(each)
        space = each.__globals__
        chains = mentions(each.__code__).globals
        _note(chains, space, found)
        names = {chain[0] for chain in chains}.union(
            *(_WORD.findall(str(kind)) for kind in own_annotations(each).values())
        )
        waiting += [below for name in names for below in _functions_of(space.get(name))]
    return tuple(each for module in _MODULES for each in _watched(module, sorted(found.get(id(module), ()))))


def _functions_of(value: Any) -> list[types.FunctionType]:
    """Return a function of batiste, or the methods of a class of batiste, without what wraps them."""
    if not str(getattr(value, "__module__", "")).startswith("batiste."):
        return []
    members = vars(value).values() if isinstance(value, type) else (value,)
    plain = (inspect.unwrap(member) for member in members if callable(member))
    return [member for member in plain if isinstance(member, types.FunctionType)]


def _note(chains: Iterable[tuple[str, ...]], space: Mapping[str, Any], found: dict[int, set[str]]) -> None:
    """Add the attributes of JAX's modules that dotted names lead to, by module."""
    for first, *rest in chains:
        value = space.get(first)
        for name in rest:
            if not isinstance(value, types.ModuleType):
                break
            if id(value) in _KNOWN:
                found.setdefault(id(value), set()).add(name)
            value = getattr(value, name, None)
