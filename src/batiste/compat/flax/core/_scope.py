"""The scope of ``flax.core``: batiste's own with what Flax's has beside it.

A **second look** at a scope (``with_flags``) stands at the same place of the same call, and shares names, variables and
counts of keys with the first: what is done through one is seen through the other. It has flags, which go down to its
children, and an end of its own (``temporary``). ``scope.py`` makes them, and ``lift.py`` carries their flags through
transforms.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable, Mapping
from typing import Any

import jax

from batiste.compat.flax.core.frozen_dict import FrozenDict
from batiste.compat.flax.typing import RNGSequences, VariableDict
from batiste.core import CollectionFilter, Variable, open_scope
from batiste.core import Scope as _Scope
from batiste.errors import InvalidScopeError, UnsupportedOptionError

__all__ = ["Scope", "with_flags"]


class _EveryScope(type):
    """Takes every scope of batiste for an instance."""

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, _Scope)


class Scope(_Scope, metaclass=_EveryScope):
    """A cursor at one path of the variables of a call, with Flax's names and flags.

    Args:
      variables: collections by name. They are not changed.
      rngs: random keys by stream.
      name: what the scope is called.
      mutable: which collections may change.
      parent: not given by programs: a scope below another one is made by its ``push``.
      path: likewise.
      debug_path: accepted for Flax's signature.
      flags: what ``get_flag`` returns, here and below.

    Raises:
      UnsupportedOptionError: if ``parent`` or ``path`` is given.
    """

    __slots__ = ("_has_ended", "flags")
    flags: FrozenDict[str, Any]

    def __init__(
        self,
        variables: VariableDict,
        rngs: RNGSequences | None = None,
        name: str | None = None,
        mutable: CollectionFilter = False,
        parent: _Scope | None = None,
        path: Iterable[str] = (),
        debug_path: Iterable[str] = (),
        flags: Mapping[str, Any] | None = None,
    ) -> None:
        del debug_path
        if parent is not None or tuple(path):
            raise UnsupportedOptionError(
                path="Scope",
                argument="parent",
                given=repr(parent),
                problem="a scope below another one is made by that one",
                advice="Write parent.push(name).",
            )
        super().__init__(open_scope(variables, rngs, mutable=mutable, where="Scope").frame)
        self.name = name
        self.flags = FrozenDict(flags or {})
        self._has_ended = False

    def __eq__(self, other: object) -> bool:
        """Two looks at one place of one call are equal."""
        return isinstance(other, _Scope) and other.frame is self.frame and other.path == self.path

    def __hash__(self) -> int:
        return hash((id(self.frame), self.path))

    # --- flags

    def has_flag(self, key: str) -> bool:
        """Return whether there is a flag."""
        return key in self.flags or (key == "initializing" and self.is_initializing)

    def get_flag(self, key: str, default: Any = None) -> Any:
        """Return a flag, or ``default`` where there is none."""
        return True if key == "initializing" and self.is_initializing else self.flags.get(key, default)

    # --- its end

    @property
    def mutable(self) -> CollectionFilter:
        """Which collections may change."""
        return self.frame.mutable

    @property
    def invalid(self) -> bool:
        """Whether the scope refuses to work."""
        return self._has_ended or not self.frame.is_open

    def invalidate(self) -> None:
        """Let the scope refuse to work from now on."""
        self._has_ended = True

    @contextlib.contextmanager
    def temporary(self) -> Generator[Scope]:
        """Return a context manager at whose end the scope refuses to work."""
        try:
            yield self
        finally:
            self.invalidate()

    def check_open(self) -> None:
        """Raise ``InvalidScopeError`` if the scope has been invalidated, or the call that made it has ended."""
        if self._has_ended:
            raise InvalidScopeError(path=self.path_text)
        super().check_open()

    # --- where it stands

    def push(  # pyright: ignore[reportIncompatibleMethodOverride] - Flax takes `reuse` by position
        self, name: str | None = None, prefix: str = "", reuse: bool = False
    ) -> Scope:
        """Return the scope of a child.

        Args:
          name: the child's name; without one it is ``prefix`` and the first free number.
          prefix: the beginning of a name that is made up.
          reuse: whether the name may be taken already, for a second look at the same child.

        Raises:
          NameInUseError: if the name is taken.
        """
        return with_flags(super().push(name, prefix, reuse=reuse), self.flags)

    def child(  # pyright: ignore[reportIncompatibleMethodOverride] - the arguments have Flax's names
        self,
        fn: Callable[..., Any],
        name: str | None = None,
        prefix: str | None = None,
        named_call: bool = True,
        **partial_kwargs: Any,
    ) -> Callable[..., Any]:
        """Return a function bound to a child scope; called several times, it uses the same variables.

        Args:
          fn: called as ``fn(scope, *args, **partial_kwargs, **kwargs)``.
          name: the child's name; without one it is the function's name and a number.
          prefix: the beginning of a name that is made up.
          named_call: whether operations carry the child's name.
          **partial_kwargs: arguments that are filled in.
        """
        if name is None and prefix is None:
            prefix = f"{fn.__name__}_" if hasattr(fn, "__name__") else ""
        scope = self.push(name, prefix or "")

        def bound(*args: Any, **kwargs: Any) -> Any:
            with jax.named_scope(scope.name or "") if named_call else contextlib.nullcontext():
                return fn(scope.rewound(), *args, **{**partial_kwargs, **kwargs})

        return bound

    def rewound(self, rewind_rngs: bool = False) -> Scope:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return a scope at the same place with no names taken.

        Args:
          rewind_rngs: whether keys are drawn from the beginning, too.
        """
        return with_flags(super().rewound(rewind_rngs=rewind_rngs), self.flags)

    # --- Flax's names of arguments

    def name_reserved(self, name: str, col: str | None = None) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return whether a variable of ``col`` (None: a child) may no longer be called ``name``."""
        return super().name_reserved(name, col)

    def reserve(self, name: str, col: str | None = None, *, holder: object = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take a name for a child (``col`` None) or for a variable of a collection.

        Raises:
          NameInUseError: if it is taken.
        """
        self.check_open()
        super().reserve(name, col, holder=holder)

    def is_mutable_collection(self, col: str) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return whether variables of ``col`` may change in this call."""
        return super().is_mutable_collection(col)

    def is_collection_empty(self, col: str) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return whether ``col`` has nothing at or below this scope."""
        return super().is_collection_empty(col)

    def has_variable(self, col: str, name: str) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return whether the variable is there."""
        return super().has_variable(col, name)

    def get_variable(self, col: str, name: str, default: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return a variable's value, boxes included, or ``default`` where there is none."""
        return super().get_variable(col, name, default)

    def put_variable(self, col: str, name: str, value: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Store a value in a collection that may change.

        Raises:
          ModifyScopeVariableError: if the collection is not mutable in this call.
        """
        super().put_variable(col, name, value)

    def variable(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        col: str,
        name: str,
        init_fn: Callable[..., Any] | None = None,
        *init_args: Any,
        unbox: bool = True,
        **init_kwargs: Any,
    ) -> Variable[Any]:
        """Return a reference to a variable, which is entered if it is not there and the collection may change.

        Args:
          col: the collection's name.
          name: the variable's name, within this scope.
          init_fn: called as ``init_fn(*init_args, **init_kwargs)``, without a key, when the variable is entered.
          *init_args: arguments of ``init_fn``.
          unbox: whether a box (``AxisMetadata``) is taken off when the value is read.
          **init_kwargs: keyword arguments of ``init_fn``.

        Raises:
          ScopeCollectionNotFound: if the collection has nothing for this scope and may not change.
          ScopeVariableNotFoundError: if the variable is not there and may not be made.
          NameInUseError: if the name is taken.
        """
        return super().variable(col, name, init_fn, *init_args, unbox=unbox, **init_kwargs)


def with_flags(scope: _Scope, flags: Mapping[str, Any]) -> Scope:
    """Return a second look at a scope that has flags: what is done through one is seen through the other."""
    seen = object.__new__(Scope)
    for slot in _Scope.__slots__:
        if slot == "__weakref__":
            continue
        setattr(seen, slot, getattr(scope, slot))
    seen.flags = FrozenDict(flags)
    seen._has_ended = False
    return seen
