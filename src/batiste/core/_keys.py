"""Random keys: one stream per name, one key per path and count.

A scope never splits a key. It folds into the stream's base key a 32-bit number made from the path since that base key
was given and from how often the stream was asked at that path. A key therefore depends on where it is drawn and not on
what was drawn elsewhere before.

Two schemes make that number:

* ``"linen"`` (the default): SHA-1 over the names and the count written one after the other, as Flax Linen does, bit
  for bit. Its known weakness is kept with it: ``ab/cdef`` and ``abc/def`` are the same text, hence the same keys
  (google/flax issue 2157).
* ``"separated"``: each part is preceded by its length and kind, so that distinct paths are distinct texts.

Keys may be typed (``jax.random.key``) or raw (``jax.random.PRNGKey``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self, TypeAlias, cast

import jax
import jax.numpy as jnp
import numpy as np

from batiste.errors import InvalidRngError, UnknownKeySchemeError, nearest
from batiste.typing import Array, Key

__all__ = [
    "KeyScheme",
    "LayerName",
    "check_key_scheme",
    "fold_numbers",
    "hash_parts",
    "is_key",
    "is_threefry",
    "streams_from",
]

KeyScheme: TypeAlias = Literal["linen", "separated"]
"""How a path and a count become a number: as Flax Linen does it, or so that distinct paths are distinct texts."""

_RAW_KEY_SHAPES = ((2,), (4,))  # threefry2x32; rbg and unsafe_rbg


class LayerName(str):
    """A name that stands for several: that of a layer in a body which is traced once for all layers.

    A number that depends on it differs from layer to layer. ``number`` notes which numbers are asked for, and hands out
    those of the layer that ``row`` belongs to; without a row, in a first trace, zeros.

    Attributes:
      names: the names of the layers.
      row: the numbers of one layer, ``uint32[numbers]``, in the order in which they were first asked for.

    Example:
      >>> from batiste import core
      >>> name = core.LayerName(["layers_0", "layers_1"])
      >>> name, int(core.hash_parts((name, 1), "linen"))
      ('layers_0', 0)
      >>> numbers = [core.hash_parts((layer, 1), "linen") for layer in name.names]
      >>> name.table()[:, 0].tolist() == numbers
      True
    """

    __slots__ = ("_asked", "names", "row")

    names: tuple[str, ...]
    row: Any

    def __new__(cls, names: Sequence[str]) -> Self:
        made = super().__new__(cls, names[0])
        made.names, made.row = tuple(names), None
        made._asked = {}
        return made

    _asked: dict[tuple[int, tuple[str | int, ...], KeyScheme], int]

    def number(self, place: int, parts: tuple[str | int, ...], scheme: KeyScheme) -> Any:
        """Return the number for ``parts``, in which this name is at ``place``."""
        index = self._asked.setdefault((place, parts, scheme), len(self._asked))
        return np.uint32(0) if self.row is None else self.row[index]

    def table(self) -> Any:
        """Return all numbers that were asked for: ``uint32[layers, numbers]``."""
        rows: list[list[Any]] = [
            [hash_parts((*parts[:place], name, *parts[place + 1 :]), scheme) for place, parts, scheme in self._asked]
            for name in self.names
        ]
        if not any(isinstance(number, jax.Array) for row in rows for number in row):
            return np.array(rows, np.uint32).reshape(len(self.names), len(self._asked))
        return jnp.stack([jnp.stack([jnp.asarray(number, jnp.uint32) for number in row]) for row in rows])


def hash_parts(parts: tuple[str | int, ...], scheme: KeyScheme) -> int:
    """Return the 32-bit number that stands for a path and a count.

    Args:
      parts: names from the outermost to the innermost, and the count. Where one is a ``LayerName``, the number is that
        of the layer which is being run: an array in a trace.
      scheme: ``"linen"`` or ``"separated"``.

    Example:
      >>> from batiste import core
      >>> one, other = ("ab", 1), ("a", "b", 1)
      >>> core.hash_parts(one, "linen") == core.hash_parts(other, "linen")
      True
      >>> core.hash_parts(one, "separated") == core.hash_parts(other, "separated")
      False
    """
    for place in range(len(parts) - 1, -1, -1):  # the innermost first: its table asks for those further out
        part = parts[place]
        if type(part) is LayerName:
            return part.number(place, parts, scheme)
    digest = hashlib.sha1(usedforsecurity=False)
    for part in parts:
        if isinstance(part, str):
            data, kind = part.encode(), b"s"
        else:
            data, kind = part.to_bytes((part.bit_length() + 7) // 8, "big"), b"i"
        if scheme == "separated":
            digest.update(kind + len(data).to_bytes(4, "big"))
        digest.update(data)
    return int.from_bytes(digest.digest()[:4], "big")


def fold_numbers(key: Key, numbers: Sequence[int] | Array) -> Key:
    """Fold 32-bit numbers, Python's or an array ``uint32[n]``, into ``key`` one after the other.

    Example:
      >>> import jax
      >>> from batiste import core
      >>> key = jax.random.key(0)
      >>> by_hand = jax.random.fold_in(jax.random.fold_in(key, 1), 2)
      >>> bool(core.fold_numbers(key, [1, 2]) == by_hand)
      True
    """
    for index in range(len(numbers)):
        number = numbers[index]
        key = jax.random.fold_in(key, np.uint32(number) if isinstance(number, int) else number)
    return key


def check_key_scheme(scheme: str) -> None:
    """Raise ``UnknownKeySchemeError`` unless ``scheme`` names a key scheme.

    Example:
      >>> from batiste import core, errors
      >>> core.check_key_scheme("linen")
      >>> try:
      ...     core.check_key_scheme("linnen")
      ... except errors.UnknownKeySchemeError as error:
      ...     print("'linen'" in str(error))
      True
    """
    if scheme not in {"linen", "separated"}:
        raise UnknownKeySchemeError(given=scheme, nearest=nearest(str(scheme), ["linen", "separated"]))


def is_key(value: Any) -> bool:
    """Return whether ``value`` is one random key: typed and of rank 0, or raw data of one.

    Example:
      >>> import jax
      >>> from batiste import core
      >>> key = jax.random.key(0)
      >>> core.is_key(key), core.is_key(jax.random.split(key)), core.is_key(0)
      (True, False, False)
    """
    if not isinstance(value, jax.Array | np.ndarray):
        return False
    array = cast("jax.Array", value)
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        return array.shape == ()
    return array.dtype == np.uint32 and array.shape in _RAW_KEY_SHAPES


def _unwrapped(value: Any) -> Any:
    """Return the key in an object that other libraries put around one, or the value as it is."""
    if hasattr(value, "as_jax_rng"):
        return value.as_jax_rng()
    return getattr(value, "rng", value)


def is_threefry(key: Key) -> bool:
    """Return whether a random key, typed or raw, is one of Threefry, whose bits do not depend on how it is mapped."""
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return str(jax.random.key_impl(key)) == "threefry2x32"
    return key.shape[-1:] == (2,)


def streams_from(rngs: Any, where: str) -> dict[str, Array]:
    """Return the random streams that ``rngs`` gives: a mapping by name, a single key for ``params``, or ``None``.

    Args:
      rngs: a mapping from stream names to keys, one key, or ``None``.
      where: the module that the error names.

    Raises:
      InvalidRngError: if a value is not a random key.

    Example:
      >>> import jax
      >>> from batiste import core
      >>> key = jax.random.key(0)
      >>> list(core.streams_from(key, "Model"))
      ['params']
      >>> list(core.streams_from({"params": key, "dropout": key}, "Model"))
      ['params', 'dropout']
    """
    if rngs is None:
        return {}
    named = cast("Mapping[Any, Any]", rngs) if isinstance(rngs, Mapping) else {"params": rngs}
    streams: dict[str, Array] = {}
    for name, each in named.items():
        if not isinstance(name, str):
            advice = "Name each stream: rngs={'params': jax.random.key(0), 'dropout': jax.random.key(1)}."
            raise InvalidRngError(path=where, problem=f"a stream is called {name!r}", nearest="", advice=advice)
        key = each if is_key(each) else _unwrapped(each)
        if not is_key(key):
            given = f"an array of shape {jnp.shape(key)}" if hasattr(key, "shape") else f"{key!r}"
            problem = f"the stream {name!r} was given {given}, which is no random key"
            advice = "Give one key per stream: rngs={'params': jax.random.key(0), 'dropout': jax.random.key(1)}."
            raise InvalidRngError(path=where, problem=problem, nearest="", advice=advice)
        streams[name] = jnp.asarray(key) if isinstance(key, np.ndarray) else key
    return streams
