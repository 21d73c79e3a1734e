"""Frozen dicts: nested dicts that cannot be changed, that hash, and that JAX sees through.

A frozen dict keeps its entries as plain dicts and shows each nested dict as a frozen one when it is asked for it, so
that freezing and unfreezing copy the dicts and never what lies in them. JAX walks the entries in the order of their
sorted keys, as it walks a dict, and key paths read the same.

``copy``, ``pop``, ``unfreeze`` and ``pretty_repr`` take frozen and plain dicts alike. ``init`` and ``apply`` return
plain dicts; frozen ones are for programs that ask for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, KeysView, Mapping, ValuesView
from types import MappingProxyType
from typing import Any, Self, TypeVar, cast

import jax

from batiste.compat.flax._states import load_mapping, register_serialization_state, save_mapping
from batiste.errors import FrozenDictError, NotADictError

__all__ = [
    "FrozenDict",
    "FrozenKeysView",
    "FrozenValuesView",
    "copy",
    "freeze",
    "pop",
    "pretty_repr",
    "unfreeze",
]

K = TypeVar("K")
V = TypeVar("V")

_NOTHING: Mapping[Any, Any] = MappingProxyType({})


class FrozenKeysView(KeysView[K]):
    """The keys of a frozen dict."""

    def __repr__(self) -> str:
        return f"frozen_dict_keys({list(self)})"


class FrozenValuesView(ValuesView[V]):
    """The values of a frozen dict."""

    def __repr__(self) -> str:
        return f"frozen_dict_values({list(self)})"


@jax.tree_util.register_pytree_with_keys_class
class FrozenDict(Mapping[K, V]):
    """A dict that cannot be changed.

    It is made as a dict is, from a mapping, pairs or keywords, and copies the dicts in it: a later change to what was
    given does not show.
    """

    __slots__ = ("_dict", "_hash")

    _dict: dict[K, Any]
    _hash: int | None

    def __init__(self, *args: Any, __unsafe_skip_copy__: bool = False, **kwargs: Any) -> None:
        given: dict[Any, Any] = dict(*args, **kwargs)
        self._dict = given if __unsafe_skip_copy__ else self._thawed(given)
        self._hash = None

    @staticmethod
    def _thawed(entries: Any) -> dict[Any, Any]:
        """Copy nested dicts, frozen ones as plain ones."""
        plain = cast("dict[Any, Any]", entries._dict if isinstance(entries, FrozenDict) else entries)
        thawed = FrozenDict._thawed
        return {key: thawed(value) if isinstance(value, dict | FrozenDict) else value for key, value in plain.items()}

    def __getitem__(self, key: K) -> V:
        return _shown(self._dict[key])

    def __setitem__(self, key: K, value: V) -> None:
        raise FrozenDictError(key=key)

    def __contains__(self, key: object) -> bool:
        return key in self._dict

    def __iter__(self) -> Iterator[K]:
        return iter(self._dict)

    def __len__(self) -> int:
        return len(self._dict)

    def __repr__(self) -> str:
        return self.pretty_repr()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.unfreeze(),)

    def __hash__(self) -> int:
        if self._hash is None:
            together = 0
            for entry in self.items():  # in whatever order: the same entries have the same hash
                together ^= hash(entry)
            self._hash = together
        return self._hash

    def __eq__(self, other: object) -> bool:
        return Mapping.__eq__(self, other)

    def pretty_repr(self, num_spaces: int = 4) -> str:
        """Return the entries, one a line, nested dicts indented by ``num_spaces`` more."""
        return f"FrozenDict({_block(self._dict, num_spaces)})"

    def copy(self, add_or_replace: Mapping[K, V] = _NOTHING) -> Self:
        """Return a frozen dict with some entries added or replaced."""
        return type(self)({**self._dict, **add_or_replace})

    def keys(self) -> FrozenKeysView[K]:
        """Return the keys, in the order they were given."""
        return FrozenKeysView(self)

    def values(self) -> FrozenValuesView[V]:
        """Return the values, nested dicts frozen."""
        return FrozenValuesView(self)

    def items(self) -> Iterator[tuple[K, V]]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Yield keys with their values, nested dicts frozen."""
        for key in self._dict:
            yield key, self[key]

    def pop(self, key: K) -> tuple[Self, V]:
        """Return a frozen dict without an entry, and the entry's value.

        Raises:
          KeyError: there is no such entry.
        """
        value = self[key]
        return type(self)({other: rest for other, rest in self._dict.items() if other != key}), value

    def unfreeze(self) -> dict[K, V]:
        """Return the entries as a plain dict of plain dicts."""
        return _rebuilt(self._dict)

    def tree_flatten_with_keys(self) -> tuple[tuple[tuple[Any, Any], ...], tuple[K, ...]]:
        """Return the children with their key paths, and the keys: as JAX does for a dict, sorted."""
        keys = tuple(sorted(cast("Any", self._dict)))
        return tuple((jax.tree_util.DictKey(key), self._dict[key]) for key in keys), keys

    @classmethod
    def tree_unflatten(cls, keys: tuple[K, ...], values: tuple[Any, ...]) -> Self:
        """Return the frozen dict that JAX took apart."""
        return cls(dict(zip(keys, values, strict=True)), __unsafe_skip_copy__=True)


def freeze(xs: Mapping[Any, Any]) -> FrozenDict[Any, Any]:
    """Return a dict as a frozen one, nested dicts included.

    Raises:
      NotADictError: ``xs`` is neither a mapping nor pairs.
    """
    try:
        return FrozenDict(xs)
    except (TypeError, ValueError) as error:
        raise _not_a_dict(freeze, xs) from error


def unfreeze(x: Mapping[Any, Any]) -> dict[Any, Any]:
    """Return a plain copy of a frozen or plain dict, nested dicts included; anything else is returned as it is."""
    if isinstance(x, FrozenDict):
        return x.unfreeze()
    if isinstance(x, dict):
        return {key: unfreeze(value) for key, value in x.items()}
    return cast("dict[Any, Any]", x)


def copy(x: Mapping[Any, Any], add_or_replace: Mapping[Any, Any] = _NOTHING) -> Any:
    """Return a copy of a frozen or plain dict, of the same kind, with some entries added or replaced.

    Raises:
      NotADictError: ``x`` is no dict.
    """
    if isinstance(x, FrozenDict):
        return cast("Any", x).copy(add_or_replace)
    if isinstance(x, dict):
        return {**_rebuilt(x), **add_or_replace}
    raise _not_a_dict(copy, x)


def pop(x: Mapping[Any, Any], key: Any) -> tuple[Any, Any]:
    """Return a frozen or plain dict of the same kind without an entry, and the entry's value. ``x`` stays as it is.

    Raises:
      NotADictError: ``x`` is no dict.
      KeyError: there is no such entry.
    """
    if isinstance(x, FrozenDict):
        return cast("Any", x).pop(key)
    if isinstance(x, dict):
        rest = _rebuilt(x)
        value = rest.pop(key)
        return rest, value
    raise _not_a_dict(pop, x)


def pretty_repr(x: Any, num_spaces: int = 4) -> str:
    """Return a nested dict as text, one entry a line; anything else as ``repr`` has it."""
    if isinstance(x, FrozenDict):
        return cast("FrozenDict[Any, Any]", x).pretty_repr()
    return _block(cast("dict[Any, Any]", x), num_spaces) if isinstance(x, dict) else repr(x)


def _rebuilt(entries: dict[Any, Any]) -> dict[Any, Any]:
    """Copy every container that JAX knows; the entries come out in the order of their sorted keys."""
    return cast("dict[Any, Any]", jax.tree.map(_same, entries))


def _same(leaf: Any) -> Any:
    return leaf


def _shown(value: Any) -> Any:
    return cast("Any", FrozenDict)(value, __unsafe_skip_copy__=True) if isinstance(value, dict) else value


def _block(entries: Mapping[Any, Any], spaces: int) -> str:
    """Return `{`, a line for each entry, `}`; nested dicts as blocks, indented."""
    if not entries:
        return "{}"
    lines = [f"{key}: {pretty_repr(value, spaces)}," for key, value in entries.items()]
    inner = "\n".join(lines).replace("\n", "\n" + " " * spaces)
    return "{\n" + " " * spaces + inner + "\n}"


def _not_a_dict(function: Callable[..., Any], given: Any) -> NotADictError:
    wanted, kind = "dict or a FrozenDict", type(given).__name__
    return NotADictError(function=function.__name__, wanted=wanted, given=kind, cure="Give a nested dict.")


def _load(target: Mapping[Any, Any], state: Any) -> FrozenDict[Any, Any]:
    return FrozenDict(load_mapping(target, state))


register_serialization_state(FrozenDict, save_mapping, _load)
