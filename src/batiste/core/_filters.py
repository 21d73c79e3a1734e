"""Collection filters: which collections a call is about, and their algebra.

A filter is one of

* ``True`` or ``False``: every collection, or none;
* a name: just that collection;
* a list, tuple or set of names: each of them;
* ``DenyList(filter)``: every collection that ``filter`` does not accept.

Filters say which collections ``apply`` may change (``mutable=``) and how a lifted transform treats each of them. The
algebra below is closed: the union, intersection and difference of two filters are filters again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeAlias, TypeVar, Union, cast

from batiste.errors import InvalidFilterError

__all__ = [
    "ChangingFilter",
    "CollectionFilter",
    "DenyList",
    "check_filter",
    "filter_to_set",
    "group_collections",
    "in_filter",
    "intersect_filters",
    "is_filter_empty",
    "subtract_filters",
    "union_filters",
]

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, eq=True)
class DenyList:
    """Accepts every collection but those that ``deny`` accepts.

    Attributes:
      deny: a filter of the collections to leave out.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> x = jnp.ones((2, 3))
      >>> layer = nn.BatchNorm(use_running_average=False)
      >>> variables = layer.init(jax.random.key(0), x)
      >>> y, changed = layer.apply(variables, x, mutable=nn.DenyList("params"))
      >>> list(changed)
      ['batch_stats']
    """

    deny: CollectionFilter


CollectionFilter: TypeAlias = Union[bool, str, Collection[str], "DenyList"]
"""Says which collections are meant: all or none, one name, several names, or all but some."""

ChangingFilter: TypeAlias = Union[Literal[True], str, Collection[str], "DenyList"]
"""A collection filter that is not False: something may change."""


def check_filter(collection_filter: Any) -> None:
    """Refuse what is no filter.

    Raises:
      InvalidFilterError: it is none.

    Example:
      >>> from batiste import core, errors
      >>> core.check_filter(["params", "cache"])
      >>> try:
      ...     core.check_filter(3)
      ... except errors.InvalidFilterError:
      ...     print("no filter")
      no filter
    """
    if isinstance(collection_filter, bool | str):
        return
    if isinstance(collection_filter, DenyList):
        check_filter(collection_filter.deny)
        return
    usable = isinstance(collection_filter, Collection) and not isinstance(collection_filter, bytes)
    names = cast("Collection[Any]", collection_filter) if usable else (None,)
    if not all(isinstance(name, str) for name in names):
        raise InvalidFilterError(given=collection_filter)


def in_filter(collection_filter: CollectionFilter, name: str) -> bool:
    """Return whether ``collection_filter`` accepts the collection ``name``.

    Example:
      >>> from batiste import core
      >>> core.in_filter(["params", "cache"], "cache"), core.in_filter(False, "cache")
      (True, False)
    """
    if isinstance(collection_filter, bool):
        return collection_filter
    if isinstance(collection_filter, str):
        return name == collection_filter
    if isinstance(collection_filter, DenyList):
        return not in_filter(collection_filter.deny, name)
    if isinstance(collection_filter, Collection):  # pyright: ignore[reportUnnecessaryIsInstance]
        return name in collection_filter
    raise InvalidFilterError(given=collection_filter)


def filter_to_set(collection_filter: CollectionFilter) -> frozenset[str]:
    """Return the names that a filter without ``True`` or ``DenyList`` accepts.

    Example:
      >>> from batiste import core
      >>> sorted(core.filter_to_set(["params", "cache"]))
      ['cache', 'params']
    """
    allowed, names = _normal(collection_filter)
    return names if allowed else frozenset()


def is_filter_empty(collection_filter: CollectionFilter) -> bool:
    """Return whether the filter accepts no collection at all.

    Example:
      >>> from batiste import core
      >>> core.is_filter_empty([]), core.is_filter_empty("params")
      (True, False)
    """
    allowed, names = _normal(collection_filter)
    return allowed and not names


def union_filters(a: CollectionFilter, b: CollectionFilter) -> CollectionFilter:
    """Return a filter that accepts what ``a`` or ``b`` accepts.

    Example:
      >>> from batiste import core
      >>> sorted(core.union_filters("params", ["cache"]))
      ['cache', 'params']
    """
    (a_allowed, a_names), (b_allowed, b_names) = _normal(a), _normal(b)
    if a_allowed and b_allowed:
        return _build(allowed=True, names=a_names | b_names)
    if a_allowed:
        return _build(allowed=False, names=b_names - a_names)
    if b_allowed:
        return _build(allowed=False, names=a_names - b_names)
    return _build(allowed=False, names=a_names & b_names)


def subtract_filters(a: CollectionFilter, b: CollectionFilter) -> CollectionFilter:
    """Return a filter that accepts what ``a`` accepts and ``b`` does not.

    Example:
      >>> from batiste import core
      >>> core.subtract_filters(["params", "cache"], "cache")
      frozenset({'params'})
    """
    return intersect_filters(a, DenyList(b))


def intersect_filters(a: CollectionFilter, b: CollectionFilter) -> CollectionFilter:
    """Return a filter that accepts what both ``a`` and ``b`` accept.

    Example:
      >>> from batiste import core
      >>> core.intersect_filters(["params", "cache"], "cache")
      frozenset({'cache'})
    """
    (a_allowed, a_names), (b_allowed, b_names) = _normal(a), _normal(b)
    if a_allowed and b_allowed:
        return _build(allowed=True, names=a_names & b_names)
    if a_allowed:
        return _build(allowed=True, names=a_names - b_names)
    if b_allowed:
        return _build(allowed=True, names=b_names - a_names)
    return _build(allowed=False, names=a_names | b_names)


def group_collections(collections: Mapping[str, T], filters: Sequence[CollectionFilter]) -> list[dict[str, T]]:
    """Split collections into one group per filter; the first filter that accepts a collection takes it.

    Args:
      collections: values by collection name.
      filters: filters in order of precedence.

    Returns:
      A dict per filter; collections that no filter accepts are in none of them.

    Example:
      >>> from batiste import core
      >>> held = {"params": 1, "cache": 2, "notes": 3}
      >>> core.group_collections(held, ["params", True])
      [{'params': 1}, {'cache': 2, 'notes': 3}]
    """
    rest: Iterable[tuple[str, T]] = collections.items()
    groups: list[dict[str, T]] = []
    for collection_filter in filters:
        group: dict[str, T] = {}
        left: list[tuple[str, T]] = []
        for name, value in rest:
            if in_filter(collection_filter, name):
                group[name] = value
            else:
                left.append((name, value))
        groups.append(group)
        rest = left
    return groups


def _normal(collection_filter: CollectionFilter) -> tuple[bool, frozenset[str]]:
    """Return ``(True, names)`` for "just these names" and ``(False, names)`` for "all but these names"."""
    if isinstance(collection_filter, bool):
        return not collection_filter, frozenset()
    if isinstance(collection_filter, str):
        return True, frozenset({collection_filter})
    if isinstance(collection_filter, DenyList):
        allowed, names = _normal(collection_filter.deny)
        return not allowed, names
    if isinstance(collection_filter, Collection):  # pyright: ignore[reportUnnecessaryIsInstance]
        return True, frozenset(collection_filter)
    raise InvalidFilterError(given=collection_filter)


def _build(*, allowed: bool, names: frozenset[str]) -> CollectionFilter:
    if allowed:
        return names or False
    return DenyList(names) if names else True
