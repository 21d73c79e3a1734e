"""Scopes, and functions of scopes: ``flax.core.scope``.

``Scope`` is in ``_scope.py``. The functions of scopes that are run here see it; scopes of modules are batiste's own,
and may be used together with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from batiste.compat.flax.core._scope import Scope, with_flags
from batiste.compat.flax.core.partial_eval import lazy_init as _lazily
from batiste.compat.flax.typing import (
    Array,
    Collection,
    FrozenVariableDict,
    MutableCollection,
    MutableVariableDict,
    PRNGFoldable,
    PRNGKey,
    RNGSequences,
    VariableDict,
)
from batiste.core import (
    CollectionFilter,
    DenyList,
    Variable,
    filter_to_set,
    fold_numbers,
    group_collections,
    hash_parts,
    in_filter,
    intersect_filters,
    is_filter_empty,
    is_key,
    open_scope,
    subtract_filters,
    union_filters,
)
from batiste.core import Scope as _Scope
from batiste.core import apply as _apply
from batiste.core import init as _init
from batiste.struct import dataclass, field

__all__ = [
    "Array",
    "Collection",
    "CollectionFilter",
    "DenyList",
    "Filter",
    "FrozenVariableDict",
    "LazyRng",
    "MutableCollection",
    "MutableVariableDict",
    "PRNGFoldable",
    "PRNGKey",
    "PRNGSequenceFilter",
    "RNGSequences",
    "Scope",
    "Variable",
    "VariableDict",
    "apply",
    "bind",
    "filter_to_set",
    "group_collections",
    "in_filter",
    "init",
    "intersect_filters",
    "is_filter_empty",
    "lazy_init",
    "subtract_filters",
    "union_filters",
]

Filter: TypeAlias = CollectionFilter
"""A filter over names."""

PRNGSequenceFilter: TypeAlias = CollectionFilter
"""A filter over the names of random streams."""


@dataclass
class LazyRng:
    """A random key with names and numbers that are folded into it when it is asked for.

    Attributes:
      rng: the key.
      suffix: the names and numbers, from the first to the last.
    """

    rng: PRNGKey
    suffix: tuple[PRNGFoldable, ...] = field(pytree_node=False)

    def as_jax_rng(self) -> PRNGKey:
        """Return the key, with the suffix folded in."""
        return fold_numbers(self.rng, [hash_parts(self.suffix, "linen")]) if self.suffix else self.rng

    @staticmethod
    def create(rng: LazyRng | PRNGKey, *suffix: PRNGFoldable) -> LazyRng:
        """Return a key with more to fold in.

        Args:
          rng: a key, lazy or not.
          *suffix: names and numbers.
        """
        if isinstance(rng, LazyRng):
            return LazyRng(rng.rng, rng.suffix + suffix)
        return LazyRng(rng, suffix)

    def clear_suffix(self) -> LazyRng:
        """Return the key with nothing to fold in."""
        return LazyRng(self.rng, ())


def _is_valid_rng(rng: Any) -> bool:  # pyright: ignore[reportUnusedFunction]
    """Return whether a value is a random key: not documented in Flax, but looked at by libraries."""
    return is_key(rng.as_jax_rng() if isinstance(rng, LazyRng) else rng)


def _with_flags(fn: Callable[..., Any], flags: Mapping[str, Any] | None) -> Callable[..., Any]:
    """Return a function of a scope of batiste from one of a scope with flags."""

    def seen(scope: _Scope, *args: Any, **kwargs: Any) -> Any:
        return fn(with_flags(scope, flags or {}), *args, **kwargs)

    seen.__name__ = getattr(fn, "__name__", type(fn).__name__)
    return seen


def bind(
    variables: VariableDict,
    rngs: RNGSequences | None = None,
    mutable: CollectionFilter = False,
    flags: Mapping[str, Any] | None = None,
) -> Scope:
    """Return a scope at the top of variables; its ``close`` ends the call.

    Args:
      variables: collections by name.
      rngs: random keys by stream.
      mutable: which collections may change.
      flags: what ``Scope.get_flag`` returns.

    Raises:
      ApplyScopeInvalidVariablesTypeError: if ``variables`` is no mapping of collections.
      InvalidRngError: if a stream is given something that is no key.
    """
    return with_flags(open_scope(variables, rngs, mutable=mutable, where="bind"), flags or {})


def apply(
    fn: Callable[..., Any], mutable: CollectionFilter = False, flags: Mapping[str, Any] | None = None
) -> Callable[..., Any]:
    """Return a pure function of variables from a function of a scope.

    Args:
      fn: called as ``fn(scope, *args, **kwargs)``.
      mutable: which collections it may change.
      flags: what ``Scope.get_flag`` returns.

    Returns:
      A function ``(variables, *args, rngs=None, **kwargs)`` of what ``fn`` returns, or of a pair of that and the
      changed collections if ``mutable`` is not False.
    """
    return _apply(_with_flags(fn, flags), mutable)


def init(
    fn: Callable[..., Any], mutable: CollectionFilter = True, flags: Mapping[str, Any] | None = None
) -> Callable[..., Any]:
    """Return a function that makes the variables of a function of a scope.

    Args:
      fn: called as ``fn(scope, *args, **kwargs)``.
      mutable: which collections it may make.
      flags: what ``Scope.get_flag`` returns.

    Returns:
      A function ``(rngs, *args, **kwargs)`` of a pair: what ``fn`` returns, and the variables.
    """
    return _init(_with_flags(fn, flags), mutable)


def lazy_init(
    fn: Callable[..., Any], mutable: CollectionFilter = True, flags: Mapping[str, Any] | None = None
) -> Callable[..., Any]:
    """Return a function that makes variables where the inputs may be shapes: ``jax.ShapeDtypeStruct``.

    Args:
      fn: called as ``fn(scope, *args, **kwargs)``.
      mutable: which collections it may make.
      flags: what ``Scope.get_flag`` returns.

    Returns:
      A function ``(rngs, *args, **kwargs)`` of the variables.

    Raises:
      LazyInitError: when it is called, if the value of a variable depends on an input of which only the shape is given.
    """
    made = init(fn, mutable, flags)
    return _lazily(lambda *args, **kwargs: made(*args, **kwargs)[1])
