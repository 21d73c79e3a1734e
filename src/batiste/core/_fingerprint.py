"""Identity by value: what makes two blueprints, initialisers or optimisers the same thing.

Python compares functions, and bound methods of equal objects, by identity: ``optax.adam(1e-3)`` written twice is two
different things, and ``jax.jit`` traces twice. ``fingerprint`` gives a hashable value that is equal for two objects
exactly when nothing that they can compute with differs:

* plain values by type and value (so that ``1``, ``1.0`` and ``True`` differ);
* containers and dataclasses by what they hold, dicts in their order;
* functions by their code, defaults, closure and the globals they name;
* partials and bound methods by their parts; small NumPy arrays by their bytes.

What cannot be known to stay as it is (an object of an unknown class, a function that reads a mutable global) counts as
itself, by identity. ``is_by_value`` tells the two apart: only a fingerprint that is by value all the way down may
stand for the object in a cache that outlives a call.
"""

from __future__ import annotations

import dataclasses
import dis
import enum
import functools
import itertools
import sys
import types
from collections.abc import Hashable, Mapping
from collections.abc import Set as AbstractSet
from typing import Any, cast

import jax
import jax.core
import numpy as np

from batiste.core._trace import is_extended

__all__ = ["Fingerprint", "fingerprint"]

_PLAIN = frozenset({int, float, complex, str, bytes, bool, type(None), type(Ellipsis), slice, range})
_TRUSTED = frozenset({"jax", "numpy", "ml_dtypes", "optax", "batiste", "math", "functools", "operator", "builtins"})
_SMALL_ARRAY_BYTES = 1 << 16


class _ByIdentity:
    """Stands for an object by its identity, and keeps it alive so that the identity stays its own."""

    __slots__ = ("target",)

    def __init__(self, target: Any) -> None:
        self.target = target

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ByIdentity) and other.target is self.target

    def __hash__(self) -> int:
        return id(self.target)


class Fingerprint:
    """The value of an object as a hashable.

    Attributes:
      is_by_value: whether every part is known by value, and none by identity.
      has_tracer: whether some part is a tracer, so that it means something in one trace only.
    """

    __slots__ = ("_hash", "_key", "has_tracer", "is_by_value")

    def __init__(self, key: Hashable, *, is_by_value: bool, has_tracer: bool) -> None:
        self._key = key
        self._hash = hash(key)
        self.is_by_value = is_by_value
        self.has_tracer = has_tracer

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, Fingerprint) and self._hash == other._hash and self._key == other._key
        )

    def __hash__(self) -> int:
        return self._hash


def fingerprint(value: Any) -> Fingerprint:
    """Return the identity of ``value`` by value.

    Args:
      value: any object: a number, a container, a dataclass, a function, a partial, an optimiser. A class can say what
        its instances count by with a method ``__fingerprint__``, and with ``fingerprint_by_place = True`` that one
        instance in two places differs from two equal ones.

    Returns:
      A hashable that equals the fingerprint of another object if and only if nothing that either can compute with is
      known to differ.
    """
    walk = _Walk()
    return Fingerprint(walk.result(value), is_by_value=walk.is_by_value, has_tracer=walk.has_tracer)


class _Walk:
    """One walk over an object and what it holds.

    Every compound value becomes a node: a tuple of plain values and of the numbers of nodes met before. Equal nodes
    have one number, so that what is held in many places (functions that name functions that name functions) is
    written, and compared, once.
    """

    def __init__(self) -> None:
        self.is_by_value = True
        self.has_tracer = False
        self._numbers: dict[Hashable, int] = {}
        self._done: dict[int, tuple[Any, int]] = {}  # by identity, with the object itself to keep it alive
        self._places: dict[int, int] = {}  # how many objects that count by their place came before
        self._open: dict[int, int] = {}  # objects on the way down, for cycles
        self._lowest = sys.maxsize  # the highest object on the way down that what is being walked leads back to

    def result(self, value: Any) -> Hashable:
        top = self.key(value)
        return (top, tuple(self._numbers))

    def key(self, value: Any) -> Hashable:
        kind = cast("Any", type(value))
        if kind in _PLAIN:
            return (kind, repr(value)) if kind in (float, complex, slice) else (kind, value)
        mark = self._open.get(id(value))
        if mark is not None:
            self._lowest = min(self._lowest, mark)
            return ("cycle", mark)
        done = self._done.get(id(value))
        if done is not None:
            return done[1]
        depth = self._open[id(value)] = len(self._open)
        lowest, self._lowest = self._lowest, sys.maxsize
        try:
            node = self._compound(value, kind)
        finally:
            del self._open[id(value)]
        number = self._numbers.setdefault(node, len(self._numbers))
        if self._lowest >= depth:  # it leads back to nothing above it, so it is the same wherever it is met
            self._done[id(value)] = (value, number)
            self._lowest = sys.maxsize
        self._lowest = min(lowest, self._lowest)
        return number

    def _compound(self, value: Any, kind: Any) -> Hashable:
        if isinstance(value, jax.core.Tracer):
            self.has_tracer = True
            return self._identity(value)
        custom = getattr(kind, "__fingerprint__", None)
        if custom is not None and not isinstance(value, type):
            by_place = getattr(kind, "fingerprint_by_place", False)
            place = self._places.setdefault(id(value), len(self._places)) if by_place else None
            return (kind, place, self.key(custom(value)))
        if isinstance(value, types.BuiltinFunctionType):
            owner: Any = value.__self__
            if not (owner is None or isinstance(owner, types.ModuleType | type)):
                self.is_by_value = False  # a method of an object that may change: rng.normal
            return _ByIdentity(value)
        if isinstance(value, type | types.ModuleType | enum.Enum | np.ufunc):
            return _ByIdentity(value)
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if isinstance(value, types.MethodType):
            return (kind, self.key(value.__func__), self.key(value.__self__))
        if isinstance(value, functools.partial):
            part = cast("functools.partial[Any]", value)
            return (kind, self.key(part.func), self.key(part.args), self.key(part.keywords))
        container = self._container(value, kind)
        if container is not None:
            return container
        if isinstance(value, np.ndarray | np.generic | jax.Array):
            return self._array(value, kind)
        if dataclasses.is_dataclass(value):
            return (kind, *(self.key(getattr(value, f.name, None)) for f in dataclasses.fields(value) if f.compare))
        return self._other(value, kind)

    def _container(self, value: Any, kind: type) -> Hashable | None:
        if isinstance(value, tuple | list):
            return (kind, *map(self.key, cast("tuple[Any, ...]", value)))
        if isinstance(value, Mapping):  # its order counts: a program may walk over it
            return (kind, *((self.key(k), self.key(v)) for k, v in cast("Mapping[Any, Any]", value).items()))
        if isinstance(value, AbstractSet):
            return (kind, frozenset(map(self._apart, cast("AbstractSet[Any]", value))))
        return None

    def _apart(self, value: Any) -> Hashable:
        """Return a key that does not depend on what was walked before: the order of a set is no part of it."""
        walk = _Walk()
        key = walk.result(value)
        self.is_by_value &= walk.is_by_value
        self.has_tracer |= walk.has_tracer
        return key

    def _array(self, value: Any, kind: Any) -> Hashable:
        is_numpy = bool(issubclass(kind, (np.ndarray, np.generic)))
        is_data = is_numpy or (value.is_fully_addressable and not is_extended(value.dtype))
        if is_data and value.nbytes <= _SMALL_ARRAY_BYTES and value.dtype != np.dtype(object):
            how = None if is_numpy else (value.weak_type, value.sharding)
            return (kind, value.shape, value.dtype, np.asarray(value).tobytes(), how)
        return self._identity(value)

    def _function(self, function: types.FunctionType) -> Hashable:
        code = function.__code__
        cells = tuple(self._cell(cell) for cell in function.__closure__ or ())
        defaults = (self.key(function.__defaults__), self.key(function.__kwdefaults__))
        return (types.FunctionType, code, cells, defaults, self._globals(function, code))

    def _cell(self, cell: types.CellType) -> Hashable:
        try:
            return self.key(cell.cell_contents)
        except ValueError:  # an empty cell: the name is not bound yet
            return self._identity(cell)

    def _globals(self, function: types.FunctionType, code: types.CodeType) -> Hashable:
        names = function.__globals__
        if str(names.get("__name__", "")).partition(".")[0] in _TRUSTED:
            return _ByIdentity(names)
        mentioned = [name for name in _names(code) if name in names]
        if any(names[name] is np for name in mentioned) and _uses_numpy_random(code, names):
            self.is_by_value = False
        return (_ByIdentity(names), *(self._global(names[name]) for name in mentioned))

    def _global(self, value: Any) -> Hashable:
        if isinstance(value, types.ModuleType):
            if value.__name__.partition(".")[0] not in _TRUSTED or value is np.random:
                self.is_by_value = False
            return _ByIdentity(value)
        return self.key(value)

    def _other(self, value: Any, kind: type) -> Hashable:
        if kind.__module__.partition(".")[0] in {"jax", "jaxlib"} and callable(value):
            wrapped = getattr(value, "__wrapped__", None)
            if wrapped is not None:  # a jitted or custom-derivative function
                return (kind, self.key(wrapped))
        hashes_by_value = kind.__hash__ not in (None, object.__hash__)
        if hashes_by_value and kind.__module__.partition(".")[0] in _TRUSTED | {"jaxlib"}:
            return (kind, value)
        if kind.__module__.partition(".")[0] == "optax":  # objects of optax are options with methods: MultiSteps
            return (kind, self.key(vars(value)))
        return self._identity(value)

    def _identity(self, value: Any) -> Hashable:
        self.is_by_value = False
        return _ByIdentity(value)


def _names(code: types.CodeType) -> list[str]:
    """Return every global or attribute name that the code, or code within it, mentions."""
    found = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found.update(_names(constant))
    return sorted(found)


def _uses_numpy_random(code: types.CodeType, names: dict[str, Any]) -> bool:
    """Return whether the code reads ``np.random``, whose functions return something else each time."""
    steps = list(dis.get_instructions(code))
    inner = [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    return any(
        step.argval == "random" and before.opname == "LOAD_GLOBAL" and names.get(before.argval) is np
        for before, step in itertools.pairwise(steps)
    ) or any(_uses_numpy_random(each, names) for each in inner)
