"""State dicts, and their bytes: how Flax keeps trees of arrays, written and read byte for byte as Flax does.

A **state dict** is a nest of dicts with strings as keys and plain values as leaves. ``to_state_dict`` makes one of any
tree whose containers have a **handler**: dicts, lists, tuples, named tuples, ``functools.partial`` of JAX, the
dataclasses of ``struct``, and what ``register_serialization_state`` adds. A list becomes ``{"0": ..., "1": ...}``.
``from_state_dict`` needs a target of the wanted types, and takes its structure from there and its values from the state
dict. It compares keys and lengths, and, as in Flax, neither shapes nor dtypes of arrays.

The **bytes** are MessagePack with three extension types: 1 for arrays, 2 for Python's complex numbers, 3 for NumPy
scalars. An array is the packed triple of shape, dtype name and little-endian data in C order. MessagePack has no
extension above 4 GiB, so an array above ``MAX_CHUNK_SIZE`` bytes that lies in a dict is written as a dict of chunks.

Checkpoints with checks, digests and shardings are ``batiste.checkpoint``'s; that package reads these bytes too.
"""

from __future__ import annotations

import sys
from typing import Any, cast

import jax
import numpy as np

from batiste.compat.flax._packages import load
from batiste.compat.flax._states import (
    current_path,
    from_state_dict,
    handlers_by_type,
    is_serializable,
    load_mapping,
    register_serialization_state,
    save_mapping,
    to_state_dict,
)
from batiste.errors import ArrayBytesError, BatisteError, CorruptBytesError, UnserializableError

__all__ = [
    "MAX_CHUNK_SIZE",
    "current_path",
    "from_bytes",
    "from_state_dict",
    "is_serializable",
    "msgpack_restore",
    "msgpack_serialize",
    "register_serialization_state",
    "to_bytes",
    "to_state_dict",
]

MAX_CHUNK_SIZE = 2**30
"""The number of bytes above which an array in a dict is written in chunks."""

# Not documented in Flax, but used by libraries that register containers of their own.
_STATE_DICT_REGISTRY = handlers_by_type()
_dict_state_dict, _restore_dict = save_mapping, load_mapping

_ARRAY, _COMPLEX, _SCALAR = 1, 2, 3
_CHUNKED, _SHAPE, _CHUNKS = "__msgpack_chunked_array__", "shape", "chunks"


def to_bytes(target: Any) -> bytes:
    """Return the bytes of a tree: those of its state dict.

    Raises:
      ArrayBytesError: an array holds Python objects or records.
    """
    return msgpack_serialize(to_state_dict(target), in_place=True)


def from_bytes(target: Any, encoded_bytes: bytes) -> Any:
    """Return a tree like ``target`` from bytes, or the bare state dict where ``target`` is None.

    Arrays come back as NumPy arrays that may not be written to.

    Raises:
      StateDictKeysError: the structure is another one.
    """
    return from_state_dict(target, msgpack_restore(encoded_bytes))


def msgpack_serialize(pytree: Any, in_place: bool = False) -> bytes:
    """Return the bytes of a nest of dicts, lists and plain values.

    Args:
      pytree: a state dict.
      in_place: whether the dicts may be changed: arrays become NumPy arrays, and large ones dicts of chunks. If not,
        dicts are written in the order of their sorted keys.

    Raises:
      ArrayBytesError: an array holds Python objects, records or typed random keys.
      UnserializableError: a value is neither plain nor an array.
    """
    if not in_place:
        pytree = _sorted_copy(pytree)
    return cast("bytes", _msgpack().packb(_in_chunks(_on_host(pytree)), default=_pack, strict_types=True))


def msgpack_restore(encoded_pytree: bytes) -> Any:
    """Return what bytes hold: dicts, lists, plain values and NumPy arrays that may not be written to.

    Raises:
      CorruptBytesError: the bytes are cut, or are not what ``msgpack_serialize`` writes.
    """
    try:
        restored = _msgpack().unpackb(encoded_pytree, ext_hook=_unpack, raw=False, strict_map_key=False)
        return _out_of_chunks(restored)
    except BatisteError:
        raise
    except (ValueError, TypeError, KeyError) as error:
        raise CorruptBytesError(length=len(encoded_pytree), reason=str(error).rstrip(".")) from error


def _msgpack() -> Any:
    return load("msgpack", "Flax's format of bytes", "batiste[checkpoint]")


# Bytes: what MessagePack is given for what it does not know.


def _pack(value: Any) -> Any:
    extension = _msgpack().ExtType
    if isinstance(value, np.ndarray | jax.Array):
        return extension(_ARRAY, _array_bytes(cast("Any", value)))
    if isinstance(value, np.generic):  # before Python's complex numbers: complex128 is one of them too
        return extension(_SCALAR, _array_bytes(np.asarray(cast("Any", value))))
    if isinstance(value, complex):
        return extension(_COMPLEX, _msgpack().packb((value.real, value.imag)))
    if isinstance(value, int):
        cure = "It has more than 64 bits: write it as text, or as several numbers."
    elif isinstance(value, tuple) or is_serializable(value):
        cure = "Make a state dict of it with to_state_dict first."
    else:
        cure = "Convert it to an array or a plain value, or register its type with register_serialization_state."
    raise UnserializableError(kind=type(cast("Any", value)).__qualname__, cure=cure)


def _unpack(code: int, data: bytes) -> Any:
    if code == _ARRAY:
        return _array_of(data)
    if code == _COMPLEX:
        return complex(*_msgpack().unpackb(data))
    if code == _SCALAR:
        return _array_of(data)[()]
    return _msgpack().ExtType(code, data)


def _array_bytes(value: jax.Array | np.ndarray[Any, Any]) -> bytes:
    """Return shape, dtype name and data, packed."""
    if jax.numpy.issubdtype(value.dtype, jax.dtypes.prng_key):
        raise ArrayBytesError(dtype=value.dtype, cure="Write jax.random.key_data(key), and wrap what is read.")
    array = np.asarray(value)
    if array.dtype.hasobject or array.dtype.fields is not None:
        raise ArrayBytesError(dtype=array.dtype, cure="Write numbers; keep the fields of a record as a dict of arrays.")
    if not _is_little_endian(array.dtype):  # the name says nothing of the order of bytes
        array = array.astype(array.dtype.newbyteorder("<"))
    return cast("bytes", _msgpack().packb((array.shape, array.dtype.name, array.tobytes("C")), use_bin_type=True))


def _is_little_endian(dtype: np.dtype[Any]) -> bool:
    order = sys.byteorder if dtype.byteorder == "=" else {"<": "little", ">": "big"}.get(dtype.byteorder, "little")
    return order == "little"


def _array_of(data: bytes) -> np.ndarray[Any, Any]:
    shape, name, values = _msgpack().unpackb(data, raw=True)
    return cast("Any", np).frombuffer(values, dtype=_dtype_of(name.decode())).reshape(shape, order="C")


def _dtype_of(name: str) -> np.dtype[Any]:
    """Return a dtype by its name; JAX knows bfloat16 and others that NumPy alone does not."""
    if name.startswith("str"):  # NumPy's name of text tells the bits, which it does not read back
        return np.dtype(f"<U{int(name.removeprefix('str')) // 32}")
    if name.startswith("bytes"):
        return np.dtype(f"S{int(name.removeprefix('bytes')) // 8}")
    return jax.numpy.dtype(name)


def _sorted_copy(tree: Any) -> Any:
    """Copy the dicts and lists, not what is in them; the keys in order where they have one, as JAX walks them."""
    if type(tree) is dict:
        nested = cast("dict[Any, Any]", tree)
        try:
            keys = sorted(nested)
        except TypeError:
            keys = list(nested)
        return {key: _sorted_copy(nested[key]) for key in keys}
    if type(tree) is list:
        return [_sorted_copy(value) for value in cast("list[Any]", tree)]
    return tree


def _on_host(tree: Any) -> Any:
    """Replace JAX arrays by NumPy arrays, in the dicts as they are."""
    if isinstance(tree, jax.Array) and not jax.numpy.issubdtype(tree.dtype, jax.dtypes.prng_key):
        return np.asarray(tree)
    if isinstance(tree, dict):
        nested = cast("dict[Any, Any]", tree)
        for key, value in nested.items():
            nested[key] = _on_host(value)
        return nested
    return tree


def _in_chunks(tree: Any) -> Any:
    """Replace large arrays by dicts of chunks, in the dicts as they are."""
    if isinstance(tree, np.ndarray):
        array = cast("np.ndarray[Any, Any]", tree)
        return _chunks_of(array) if array.nbytes > MAX_CHUNK_SIZE else array
    if isinstance(tree, dict):
        nested = cast("dict[Any, Any]", tree)
        for key, value in nested.items():
            nested[key] = _in_chunks(value)
        return nested
    return tree


def _chunks_of(array: np.ndarray[Any, Any]) -> dict[str, Any]:
    length = max(1, MAX_CHUNK_SIZE // array.dtype.itemsize)
    flat = array.reshape(-1)
    chunks = [flat[begin : begin + length] for begin in range(0, flat.size, length)]
    shape = {str(axis): extent for axis, extent in enumerate(array.shape)}
    return {_CHUNKED: True, _SHAPE: shape, _CHUNKS: {str(index): chunk for index, chunk in enumerate(chunks)}}


def _out_of_chunks(tree: Any) -> Any:
    """Join dicts of chunks, in the dicts as they are."""
    if not isinstance(tree, dict):
        return tree
    nested = cast("dict[Any, Any]", tree)
    if _CHUNKED in nested:
        shape = tuple(nested[_SHAPE][str(axis)] for axis in range(len(nested[_SHAPE])))
        chunks = [nested[_CHUNKS][str(index)] for index in range(len(nested[_CHUNKS]))]
        return np.concatenate(chunks).reshape(shape)
    for key, value in nested.items():
        nested[key] = _out_of_chunks(value)
    return nested
