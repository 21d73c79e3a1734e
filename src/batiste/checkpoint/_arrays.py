"""Arrays on their way to and from bytes: host copies, digests, dtypes by name, random keys as their data.

The digest of a leaf is that of its bytes in C order, little endian, whatever the format stores; so one leaf has one
digest in a directory, in a single file, sharded or not.

To open a checkpoint and to read what needs no device takes NumPy alone: JAX is imported by the functions that need it,
and before anyone has loaded it, no array is one of its own.
"""

from __future__ import annotations

import math
import mmap
import sys
import types
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, cast

import ml_dtypes
import numpy as np
import xxhash

from batiste.checkpoint._types import Form, NumpyArray, Record
from batiste.errors import RefusedCheckpointError, RemoteShardsError
from batiste.tree import LazyArray

if TYPE_CHECKING:
    import jax

__all__ = [
    "BYTES_BY_DTYPE",
    "as_bytes",
    "copy_of",
    "describe_array",
    "digest_array",
    "digest_bytes",
    "dtype_by_name",
    "form_of",
    "in_form",
    "is_jax_array",
    "is_key",
    "is_key_dtype",
    "is_plain_array",
    "key_data",
    "to_host",
    "wrap_key",
]

_LARGE: Final = 1 << 20
_NAMES: Final = (
    "bool",
    "int2",
    "int4",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint2",
    "uint4",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "float32",
    "float64",
    "bfloat16",
    "complex64",
    "complex128",
    "float4_e2m1fn",
    "float8_e3m4",
    "float8_e4m3",
    "float8_e4m3b11fnuz",
    "float8_e4m3fn",
    "float8_e4m3fnuz",
    "float8_e5m2",
    "float8_e5m2fnuz",
    "float8_e8m0fnu",
)
_DTYPES: Final[Mapping[str, np.dtype[Any]]] = types.MappingProxyType(
    {name: np.dtype(getattr(ml_dtypes, name, name)) for name in _NAMES}
)

BYTES_BY_DTYPE: Final[Mapping[str, int]] = types.MappingProxyType(
    {name: dtype.itemsize for name, dtype in _DTYPES.items()}
)
"""The dtypes that can be saved, with the size of an element in NumPy."""


def dtype_by_name(name: str) -> np.dtype[Any]:
    """Return the dtype of a name that is one of ``BYTES_BY_DTYPE``."""
    return _DTYPES[name]


def in_form(array: NumpyArray, form: Form | None) -> Any:
    """Return an array from the disk as what was saved: a scalar of NumPy, or an array in a byte order of its own."""
    if form is None:
        return array
    return array[()] if form == "scalar" else array.astype(array.dtype.newbyteorder(form))


def form_of(leaf: Any) -> Form | None:
    """Return what a leaf is for NumPy beside an array in the machine's byte order; None for all other leaves."""
    if isinstance(leaf, np.generic):
        return "scalar"
    if not isinstance(leaf, np.ndarray):
        return None
    dtype = cast("NumpyArray", leaf).dtype
    return None if dtype.isnative else "big" if dtype.str[0] == ">" else "little"


def is_plain_array(leaf: Any) -> bool:
    """Return whether a leaf is an array of NumPy and no more: none with a mask, and no matrix."""
    return type(leaf) in (np.ndarray, np.memmap)


def is_key_dtype(dtype: Any) -> bool:
    """Return whether a dtype is that of typed random keys."""
    if isinstance(dtype, np.dtype):
        return False
    import jax

    return bool(jax.numpy.issubdtype(dtype, jax.dtypes.prng_key))


def is_key(leaf: Any) -> bool:
    """Return whether a leaf is an array of typed random keys."""
    return is_jax_array(leaf) and is_key_dtype(leaf.dtype)


def is_jax_array(leaf: Any) -> bool:
    """Return whether a leaf is an array of JAX."""
    jax = sys.modules.get("jax")
    return jax is not None and isinstance(leaf, jax.Array)


def key_data(key: jax.Array) -> tuple[jax.Array, str]:
    """Return the raw data of typed random keys, ``uint32[..., n]``, and the name of their implementation."""
    import jax

    return jax.random.key_data(key), str(jax.random.key_impl(key))


def wrap_key(data: Any, implementation: str) -> jax.Array:
    """Return typed random keys with this raw data.

    Raises:
      RefusedCheckpointError: if JAX has no such keys.
    """
    import jax

    try:
        return cast("Any", jax.random).wrap_key_data(jax.numpy.asarray(data), impl=implementation)
    except (ValueError, TypeError) as error:
        reason = f"random keys {data.dtype}{list(data.shape)} cannot be of {implementation!r} in this JAX"
        cure = "Register that implementation first, or read their data: `checkpoint.open(path).lazy(leaf)`."
        raise RefusedCheckpointError(path="A leaf", reason=reason, cure=cure) from error


def describe_array(array: Any, key: str | None = None) -> Record | None:
    """Return the record of an array without its digest, or None where its dtype cannot be saved."""
    dtype = np.dtype(array.dtype).name
    if dtype not in BYTES_BY_DTYPE:
        return None
    shape = tuple(int(extent) for extent in array.shape)
    return Record(shape, dtype, math.prod(shape) * BYTES_BY_DTYPE[dtype], key=key)


def to_host(array: Any, path: str) -> NumpyArray:
    """Return an array in host memory, in C order and the machine's byte order, copied only where it must be.

    An array of another device is brought over as a new CPU array, so that no copy stays cached in the original.

    Raises:
      RemoteShardsError: if some shards are on other processes.
    """
    if isinstance(array, LazyArray):
        host = array.read()
    elif is_jax_array(array):
        if not array.is_fully_addressable:
            raise RemoteShardsError(path=path)
        host = np.asarray(_on_cpu(array))
    else:
        host = cast("NumpyArray", array)
    return np.asarray(host, dtype=host.dtype.newbyteorder("="), order="C")


def _on_cpu(array: jax.Array) -> jax.Array:
    import jax

    if len(array.devices()) == 1 and next(iter(array.devices())).platform == "cpu":
        return array
    try:
        return jax.device_put(array, cast("Any", jax.local_devices(backend="cpu"))[0])
    except RuntimeError:  # the process was started without the CPU backend
        return array


def copy_of(array: jax.Array) -> jax.Array | None:
    """Return a copy of a large array that JAX makes while the program goes on; None where there is no such way.

    A program that takes the memory of the array waits for the copy. For 200 MB this returns after a tenth of the time
    that NumPy copies them in. A small array is copied by NumPy in less time than JAX takes to begin.
    """
    import jax

    if array.nbytes < _LARGE or not array.is_fully_addressable:
        return None
    if all(device.platform == "cpu" for device in array.devices()):
        one = array.addressable_shards[0].data if array.is_fully_replicated else array  # of copies JAX would take one
        return jax.device_put(one, cast("Any", jax.local_devices(backend="cpu"))[0], may_alias=False)
    there = _on_cpu(array)
    return None if there is array else there


def as_bytes(array: NumpyArray) -> memoryview:
    """Return the bytes of an array in C order, without a copy."""
    return memoryview(cast("Any", array.reshape(-1).view(np.uint8)))


def digest_array(array: NumpyArray) -> str:
    """Return the digest of an array that is in C order."""
    return xxhash.xxh3_128_hexdigest(as_bytes(array))


def digest_bytes(*parts: bytes | mmap.mmap) -> str:
    """Return the digest of these bytes, one after the other."""
    state = xxhash.xxh3_128()
    for part in parts:
        state.update(part)
    return state.hexdigest()
