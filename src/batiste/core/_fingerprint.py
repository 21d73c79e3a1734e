"""Identity by value: what makes two blueprints, initialisers or optimisers the same thing.

Python compares functions, and bound methods of equal objects, by identity: ``optax.adam(1e-3)`` written twice is two
different things, and ``jax.jit`` traces twice. ``fingerprint`` gives a hashable value that two objects share when
nothing that they can compute with differs:

* plain values by type and value (so that ``1``, ``1.0`` and ``True`` differ);
* containers, dataclasses and modules by their class and what they hold, dicts in their order;
* functions by their code, defaults, closure and attributes, and by what the globals they name are *now*;
* classes by themselves and by what their body holds now: methods, and the settings that are kept on them;
* partials and bound methods by their parts; small arrays by their bytes.

What code can reach has to be known through and through. A function that reaches anything else (an object of an unknown
class, a file, the clock, a module as a whole, an import of its own) is equal to itself alone, and its fingerprint is
not ``is_by_value``. What libraries hold (``_known.py``) does not change and counts by itself.

A fingerprint never comes without that certainty: what is kept for longer than a call is kept by ``kept``, for things
that are ``Valued``, and those are equal only if both are known by value.
"""

from __future__ import annotations

import builtins
import dataclasses
import enum
import functools
import sys
import types
from collections.abc import Callable, Hashable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Any, Final, Protocol, TypeVar, cast

import jax
import jax.core
import numpy as np

from batiste.core._code import Mentions, mentions
from batiste.core._known import (
    DESCRIPTORS,
    IMPURE_BUILTINS,
    READS,
    RULES,
    attributes,
    is_only_added_to,
    is_trusted,
    members,
    root,
)
from batiste.core._trace import is_extended

__all__ = ["UNKNOWN", "ByIdentity", "Fingerprint", "Valued", "fingerprint", "kept"]

_PLAIN = frozenset({int, float, complex, str, bytes, bool, type(None), type(Ellipsis), slice, range})
_SMALL_ARRAY_BYTES = 1 << 16

_MOST_NODES = 20_000
_BUILTINS: Final[Mapping[str, Any]] = types.MappingProxyType(vars(builtins))


class _Unknown:
    """The type of ``UNKNOWN``: what holds it is not known by value.

    Example:
      >>> from batiste import core
      >>> [core.fingerprint((1, held)).is_by_value for held in (2, core.UNKNOWN)]
      [True, False]
    """

    __slots__ = ()


UNKNOWN: Final = _Unknown()
"""Within what ``__fingerprint__`` returns: the object computes with something that is not named there."""


class _UnknownError(Exception):
    """Code reaches something that is not known to be a value."""


class ByIdentity:
    """Stands for an object by its identity, and keeps it alive so that the identity stays its own.

    Example:
      >>> from batiste import core
      >>> one, two = [1], [1]
      >>> core.ByIdentity(one) == core.ByIdentity(one)
      True
      >>> core.ByIdentity(one) == core.ByIdentity(two)
      False
    """

    __slots__ = ("target",)

    def __init__(self, target: Any) -> None:
        self.target = target

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ByIdentity) and other.target is self.target

    def __hash__(self) -> int:
        return id(self.target)


class Fingerprint:
    """The value of an object as a hashable.

    Attributes:
      is_by_value: whether every part is known by value, and none by identity. Only then may equality stand for
        computing the same.
      has_tracer: whether some part is a tracer, so that it means something in one trace only.

    Example:
      >>> from batiste import core
      >>> one, two = core.fingerprint({"width": 3}), core.fingerprint({"width": 3})
      >>> one.is_by_value, one.is_surely(two), one.doubted().is_surely(two)
      (True, True, False)
    """

    __slots__ = ("_hash", "_key", "has_tracer", "is_by_value")

    def __init__(self, key: Hashable, *, is_by_value: bool, has_tracer: bool, hashed: int | None = None) -> None:
        self._key = key
        self._hash = hash(key) if hashed is None else hashed
        self.is_by_value = is_by_value
        self.has_tracer = has_tracer

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Fingerprint) and self._key == other._key)

    def __hash__(self) -> int:
        return self._hash

    def doubted(self) -> Fingerprint:
        """Return the same fingerprint of an object that is not known by value any more."""
        return Fingerprint(self._key, is_by_value=False, has_tracer=self.has_tracer, hashed=self._hash)

    def with_hash(self, value: int) -> Fingerprint:
        """Return the same fingerprint with a hash that objects which are equal now and then will share."""
        return Fingerprint(self._key, is_by_value=self.is_by_value, has_tracer=self.has_tracer, hashed=value)

    def is_surely(self, other: Fingerprint) -> bool:
        """Return whether two objects of these fingerprints are known to compute the same."""
        return self.is_by_value and other.is_by_value and self == other


class Valued:
    """Something that computes as its ``value`` says: equal to another that is known to compute the same.

    Example:
      >>> from batiste import core
      >>> one, two, three = (core.Valued(core.fingerprint(each)) for each in (3, 3, 4))
      >>> one == two, one == three
      (True, False)
    """

    __slots__ = ("__weakref__", "value")

    def __init__(self, value: Fingerprint) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return self is other or (type(other) is type(self) and self.value.is_surely(cast("Valued", other).value))

    def __hash__(self) -> int:
        return hash(self.value)

    def __fingerprint__(self) -> Any:
        """Return the fingerprint, for what holds this."""
        return self.value


V_contra = TypeVar("V_contra", bound=Valued, contravariant=True)
R_co = TypeVar("R_co", covariant=True)


class _OfValued(Protocol[V_contra, R_co]):
    def __call__(self, valued: V_contra, /) -> R_co: ...


def kept(maxsize: int) -> Callable[[_OfValued[V_contra, R_co]], _OfValued[V_contra, R_co]]:
    """Return a decorator of a function of something valued, which keeps the last ``maxsize`` results.

    Only results for what is known by value are kept; for anything else the function runs each time.

    Example:
      >>> from batiste import core
      >>> @core.kept(maxsize=8)
      ... def described(valued):
      ...     print("computed")
      ...     return "a number"
      >>> [described(core.Valued(core.fingerprint(3))) for _ in range(2)]
      computed
      ['a number', 'a number']
    """

    def decorate(function: _OfValued[V_contra, R_co]) -> _OfValued[V_contra, R_co]:
        remembered = functools.lru_cache(maxsize)(function)

        @functools.wraps(cast("Any", function))
        def call(valued: V_contra, /) -> R_co:
            return remembered(valued) if valued.value.is_by_value else function(valued)

        return call

    return decorate


def fingerprint(value: Any) -> Fingerprint:
    """Return the identity of ``value`` by value, as it is now.

    Args:
      value: any object: a number, a container, a dataclass, a function, a partial, an optimiser. A class can say what
        its instances count by with a method ``__fingerprint__``, with ``fingerprint_by_place = True`` that one instance
        in two places differs from two equal ones, and with ``fingerprint_skips`` which names of its body say nothing
        that is not in its other names.

    Returns:
      A hashable. Where it ``is_by_value``, an object with an equal one computes the same; where it is not, some part
      counts by its identity.

    Example:
      >>> import optax
      >>> from batiste import core
      >>> one, two = (core.fingerprint(optax.adam(1e-3)) for _ in range(2))
      >>> one == two, one.is_by_value
      (True, True)
      >>> core.fingerprint(1) == core.fingerprint(1.0)
      False
    """
    walk = _Walk()
    return Fingerprint(walk.result(value), is_by_value=walk.is_by_value, has_tracer=walk.has_tracer)


class _Walk:
    """One walk over an object and what it holds.

    Every compound value becomes a node: a tuple of plain values and of the numbers of nodes met before. Equal nodes
    have one number, so that what is held in many places (functions that name functions that name functions) is
    written, and compared, once.

    Data and code differ: an unknown part of data counts by its identity, and the rest by value. Code that reaches
    something unknown is unknown as a whole, since what it does with it cannot be told.
    """

    def __init__(self) -> None:
        self.is_by_value = True
        self.has_tracer = False
        self._numbers: dict[Hashable, int] = {}
        self._done: dict[int, tuple[Any, int]] = {}  # by identity, with the object itself to keep it alive
        self._places: dict[int, int] = {}  # how many objects that count by their place came before
        self._open: dict[int, int] = {}  # objects on the way down, for cycles
        self._lowest = sys.maxsize  # the highest object on the way down that what is being walked leads back to
        self._in_code = False
        self._by_identity: set[int] = set()  # objects that data hold and that are not known

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
            if self._in_code and id(value) in self._by_identity:
                raise _UnknownError
            return done[1]
        depth = self._open[id(value)] = len(self._open)
        lowest, self._lowest = self._lowest, sys.maxsize
        before = len(self._numbers), len(self._done)
        try:
            node = self._compound(value, kind)
        except (_UnknownError, RecursionError):
            if self._in_code:
                raise
            for table, size in zip((self._numbers, self._done), before, strict=True):  # what was seen on the way
                while len(table) > size:
                    table.popitem()
            self._lowest = sys.maxsize
            node = self._identity(value)
        finally:
            del self._open[id(value)]
        number = self._numbers.setdefault(node, len(self._numbers))
        if self._lowest >= depth:  # it leads back to nothing above it, so it is the same wherever it is met
            self._done[id(value)] = (value, number)
            self._lowest = sys.maxsize
        self._lowest = min(lowest, self._lowest)
        return number

    def _identity(self, value: Any) -> Hashable:
        if self._in_code:
            raise _UnknownError
        self.is_by_value = False
        self._by_identity.add(id(value))
        return ByIdentity(value)

    def _compound(self, value: Any, kind: Any) -> Hashable:
        if len(self._numbers) > _MOST_NODES:
            raise _UnknownError
        if isinstance(value, jax.core.Tracer):
            self.has_tracer = True
            return self._identity(value)
        if value is UNKNOWN:
            return self._identity(value)
        if isinstance(value, ByIdentity):
            return value
        if isinstance(value, Fingerprint):
            return self._inner(value)
        custom = getattr(kind, "__fingerprint__", None)
        if custom is not None and not isinstance(value, type):
            by_place = getattr(kind, "fingerprint_by_place", False)
            place = self._places.setdefault(id(value), len(self._places)) if by_place else None
            return (self.key(kind), place, self.key(custom(value)))
        if isinstance(value, type):
            return self._class(value)
        if isinstance(value, types.FunctionType | types.BuiltinFunctionType):
            return self._function(value)
        if isinstance(value, types.MethodType):
            return (kind, self.key(value.__func__), self.key(value.__self__))
        if isinstance(value, functools.partial):
            part = cast("functools.partial[Any]", value)
            return (self.key(kind), *map(self.key, (part.func, part.args, part.keywords, vars(part))))
        if isinstance(value, types.ModuleType):
            return self._module(value)
        if isinstance(value, enum.Enum):
            held = {name: held for name, held in vars(value).items() if name not in {"_sort_order_", "__objclass__"}}
            return (self.key(kind), self.key(held))
        if isinstance(value, np.ufunc):
            return ByIdentity(value)
        found = self._descriptor(value)
        return self._instance(value, kind) if found is None else found

    def _inner(self, value: Fingerprint) -> Hashable:
        self.has_tracer |= value.has_tracer
        if not value.is_by_value:
            if self._in_code:
                raise _UnknownError
            self.is_by_value = False
        return (Fingerprint, value)

    # Data

    def _instance(self, value: Any, kind: Any) -> Hashable:
        container = self._container(value, kind)
        if container is not None:
            return container
        if isinstance(value, np.ndarray | np.generic | jax.Array):
            return self._array(value, kind)
        if dataclasses.is_dataclass(value):
            return (self.key(kind), *((name, self.key(held)) for name, held in attributes(value)))
        if root(kind.__module__) in {"jax", "jaxlib"} and callable(value) and hasattr(value, "__wrapped__"):
            wrapped: Any = cast("Any", value).__wrapped__  # a jitted function, or one with a derivative of its own
            if is_trusted(getattr(wrapped, "__module__", "")):
                return ByIdentity(value)
            rules = {name: held for name, held in vars(value).items() if name in RULES}
            return (ByIdentity(kind), self.key(wrapped), self.key(rules))
        if is_trusted(kind.__module__):
            if kind.__hash__ not in (None, object.__hash__):
                return (kind, value)
            if root(kind.__module__) == "optax":  # objects of optax are options with methods: MultiSteps
                return (kind, self.key(vars(value)))
        return self._identity(value)

    def _container(self, value: Any, kind: type) -> Hashable | None:
        if isinstance(value, tuple | list):
            held: Iterable[Any] = map(self.key, cast("tuple[Any, ...]", value))
        elif isinstance(value, Mapping):  # its order counts: a program may walk over it
            pairs = cast("Mapping[Any, Any]", value).items()
            held = ((self.key(name), self.key(inner)) for name, inner in pairs)
        elif isinstance(value, AbstractSet):
            held = (frozenset(map(self._apart, cast("AbstractSet[Any]", value))),)
        else:
            return None
        if kind.__module__ == "builtins":
            return (kind, *held)
        return (self.key(kind), *held, *((name, self.key(more)) for name, more in attributes(value)))

    def _apart(self, value: Any) -> Hashable:
        """Return a key that does not depend on what was walked before: the order of a set is no part of it."""
        walk = _Walk()
        walk._in_code = self._in_code
        key = walk.result(value)
        self.is_by_value &= walk.is_by_value
        self.has_tracer |= walk.has_tracer
        return key

    def _array(self, value: Any, kind: Any) -> Hashable:
        is_numpy = bool(issubclass(kind, (np.ndarray, np.generic)))
        is_data = is_numpy or (value.is_fully_addressable and not is_extended(value.dtype) and not value.is_deleted())
        if is_data and value.nbytes <= _SMALL_ARRAY_BYTES and not value.dtype.hasobject:
            how = None if is_numpy else (value.weak_type, value.sharding)
            return (self.key(kind), value.shape, value.dtype, np.asarray(value).tobytes(), how)
        return self._identity(value)

    # Code

    def _function(self, function: Any) -> Hashable:
        was_in_code, self._in_code = self._in_code, True
        try:
            if isinstance(function, types.BuiltinFunctionType):
                return self._builtin(function)
            names = mentions(function.__code__)
            is_ours = is_trusted(str(function.__globals__.get("__name__", "")))
            if names.imports and not is_ours:
                raise _UnknownError
            own = (ByIdentity(function.__globals__),) if is_ours else self._globals(function, names)
            defaults = (self.key(function.__defaults__), self.key(function.__kwdefaults__))
            cells = self._cells(function, names, is_trusted=is_ours)
            more = self.key(vars(function)) if vars(function) else None
            return (types.FunctionType, function.__code__, cells, defaults, more, own)
        finally:
            self._in_code = was_in_code

    def _builtin(self, function: types.BuiltinFunctionType) -> Hashable:
        owner: Any = function.__self__  # a module or a class, or an object that may change: rng.normal
        name = owner.__name__ if isinstance(owner, types.ModuleType) else getattr(owner, "__module__", "")
        if not isinstance(owner, types.ModuleType | type | None) or not is_trusted(name or "builtins"):
            raise _UnknownError
        if name == "builtins" and function.__name__ in IMPURE_BUILTINS:
            raise _UnknownError
        return ByIdentity(function)

    def _cells(self, function: types.FunctionType, names: Mentions, *, is_trusted: bool) -> Hashable:
        return tuple(
            self._cell(name, cell, names, is_trusted=is_trusted)
            for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
        )

    def _cell(self, name: str, cell: types.CellType, names: Mentions, *, is_trusted: bool) -> Hashable:
        try:
            content = cell.cell_contents
        except ValueError:  # the name is not bound yet
            return "unbound"
        chains = [chain for chain in names.free if chain[0] == name]
        if isinstance(content, types.ModuleType):
            return tuple(self._reached(content, chain[1:]) for chain in chains)
        if is_only_added_to(content, chains):
            return ByIdentity(content)
        if is_trusted and name in names.rebound and np.ndim(content) == 0 and not isinstance(content, jax.core.Tracer):
            return ("number", float(content))  # a schedule of optax makes an array of a number when it is first used
        return self.key(content)

    def _globals(self, function: types.FunctionType, names: Mentions) -> Hashable:
        space = function.__globals__
        return tuple((chain, self._global(space, chain, names.globals)) for chain in names.globals)

    def _global(self, space: Mapping[str, Any], chain: tuple[str, ...], chains: Iterable[tuple[str, ...]]) -> Hashable:
        if chain[0] in space:
            value = space[chain[0]]
            if is_only_added_to(value, [other for other in chains if other[0] == chain[0]]):
                return ByIdentity(value)
            return self._reached(value, chain[1:])
        if chain[0] in IMPURE_BUILTINS:
            raise _UnknownError
        return None if chain[0] in _BUILTINS else "unbound"

    def _reached(self, value: Any, attributes: tuple[str, ...]) -> Hashable:
        """Return the key of what a dotted name leads to, where modules are on the way."""
        while isinstance(value, types.ModuleType):
            is_ours = is_trusted(value.__name__)
            if not attributes or (not is_ours and root(value.__name__) in sys.stdlib_module_names):
                return self._module(value)
            name, attributes = attributes[0], attributes[1:]
            if is_ours and name in READS:
                raise _UnknownError
            if name not in vars(value) and not (is_ours and hasattr(value, name)):
                raise _UnknownError
            value = getattr(value, name)
            if is_ours and not isinstance(value, types.ModuleType):
                return self.key(value) if type(value) in _PLAIN else ByIdentity(value)
        return self.key(value)

    def _module(self, module: types.ModuleType) -> Hashable:
        """Return the key of a module as a whole, of which anything may be read."""
        if not is_trusted(module.__name__) or root(module.__name__) == "numpy":
            raise _UnknownError
        return ByIdentity(module)

    def _class(self, kind: Any) -> Hashable:
        name = str(kind.__module__)
        if is_trusted(name):
            changeable = root(name) == "batiste" and hasattr(kind, "fingerprint_by_place")  # a layer's method, patched
            return (
                (ByIdentity(kind), tuple(map(ByIdentity, cast("dict[str, Any]", vars(kind)).values())))
                if changeable
                else ByIdentity(kind)
            )
        if root(name) in sys.stdlib_module_names and name != "__main__":
            return self._identity(kind)
        was_in_code, self._in_code = self._in_code, True
        try:
            classes: tuple[Any, ...] = (cast("Any", type(kind)), *kind.__mro__[1:])
            above = tuple(map(self.key, classes))
            return (ByIdentity(kind), above, tuple((name, self.key(member)) for name, member in members(kind)))
        finally:
            self._in_code = was_in_code

    def _descriptor(self, value: Any) -> Hashable | None:
        match value:
            case staticmethod() | classmethod():
                wrapper: Any = value  # pyright: ignore[reportUnknownVariableType] - of any signature
                return (cast("Any", type)(wrapper), self.key(wrapper.__func__))
            case property():
                return (property, *map(self.key, (value.fget, value.fset, value.fdel)))
            case functools.cached_property():
                return (functools.cached_property, self.key(cast("Any", value).func))
            case _:
                return ByIdentity(value) if isinstance(value, DESCRIPTORS) else None
