"""Flax's MessagePack files (``flax.serialization.to_bytes``, ``flax_model.msgpack``, ``checkpoint_100``), read.

Writing them is ``_msgpack_write.py``'s.

The file is one MessagePack map of maps. It is walked here by its lengths, in a memory map, without unpacking: what
comes out is where the bytes of each array are, so that opening a file of many gigabytes costs only its skeleton, and a
length that points outside the file is an error and never an allocation.
(https://github.com/msgpack/msgpack/blob/master/spec.md)

What Flax adds: extension 1 is an array, itself the MessagePack of ``(shape, dtype name, bytes)``; 2 is a complex
number, ``(real, imaginary)``; 3 is a NumPy scalar, like an array. An array above 1 GiB is a map with
``__msgpack_chunked_array__``, its ``shape`` and its ``chunks``, flat pieces in order. Lists and tuples are maps from
"0", "1", ...
"""

from __future__ import annotations

import dataclasses
import math
import mmap
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, cast

import numpy as np

from batiste.checkpoint._arrays import BYTES_BY_DTYPE, as_bytes, dtype_by_name
from batiste.checkpoint._manifest import MAX_DEPTH, Manifest
from batiste.checkpoint._types import Box, Damage, NumpyArray, PythonKind, Record
from batiste.checkpoint._unchanged import Unchanged
from batiste.errors import CheckpointFormatError, RefusedCheckpointError
from batiste.tree import join_path

__all__ = ["CHUNKED", "MsgpackSource", "is_msgpack", "read_map"]

CHUNKED: Final = "__msgpack_chunked_array__"
_NUMBERS: Final[Mapping[int, str]] = MappingProxyType(
    {
        0xCA: ">f",
        0xCB: ">d",
        0xCC: ">B",
        0xCD: ">H",
        0xCE: ">I",
        0xCF: ">Q",
        0xD0: ">b",
        0xD1: ">h",
        0xD2: ">i",
        0xD3: ">q",
    }
)
_LENGTHS: Final[Mapping[int, tuple[str, str]]] = MappingProxyType(
    {
        0xC4: ("bytes", ">B"),
        0xC5: ("bytes", ">H"),
        0xC6: ("bytes", ">I"),
        0xC7: ("ext", ">B"),
        0xC8: ("ext", ">H"),
        0xC9: ("ext", ">I"),
        0xD9: ("str", ">B"),
        0xDA: ("str", ">H"),
        0xDB: ("str", ">I"),
        0xDC: ("list", ">H"),
        0xDD: ("list", ">I"),
        0xDE: ("map", ">H"),
        0xDF: ("map", ">I"),
    }
)


@dataclasses.dataclass(frozen=True, slots=True)
class _Span:
    """Bytes of the file that were not copied."""

    begin: int
    end: int


@dataclasses.dataclass(frozen=True, slots=True)
class _Array:
    """An array in the file: one span, or several that follow each other in C order."""

    shape: tuple[int, ...]
    dtype: str
    spans: tuple[_Span, ...]
    is_scalar: bool = False


class _Broken(Exception):
    """The bytes are not MessagePack as Flax writes it."""


class _Walker:
    """Reads MessagePack from a buffer; long byte strings stay where they are, as spans."""

    def __init__(self, buffer: Any, begin: int, end: int, depth: int = 0) -> None:
        self._buffer = buffer
        self._end = end
        self._depth = depth
        self.at = begin

    def whole_map(self) -> dict[str, Any]:
        """Read a map that is all there is."""
        made = self.value()
        if not isinstance(made, dict) or self.at != self._end:
            message = f"it ends at byte {self.at} of {self._end}"
            raise _Broken(message)
        return cast("dict[str, Any]", made)

    def value(self) -> Any:
        """Read one value."""
        code = self._take(1)[0]
        if code <= 0x7F or code >= 0xE0:
            return code if code <= 0x7F else code - 0x100
        if code <= 0xBF:
            kind, length = (
                ("map", code & 15) if code <= 0x8F else ("list", code & 15) if code <= 0x9F else ("str", code & 31)
            )
            return self._sized(kind, length)
        if code in (0xC0, 0xC2, 0xC3):
            return {0xC0: None, 0xC2: False, 0xC3: True}[code]
        if code in _NUMBERS:
            return self._number(_NUMBERS[code])
        if 0xD4 <= code <= 0xD8:
            return self._sized("ext", 1 << (code - 0xD4))
        if code in _LENGTHS:
            kind, form = _LENGTHS[code]
            return self._sized(kind, self._number(form))
        message = f"byte {code:#x} at {self.at - 1}"
        raise _Broken(message)

    def _sized(self, kind: str, length: int) -> Any:
        if kind == "ext":
            return self._extension(self._number(">b"), length)
        if length > self._end - self.at:  # every item of a list or a map takes a byte at least
            message = f"a {kind} of length {length} at {self.at} of {self._end}"
            raise _Broken(message)
        if kind == "bytes":
            self.at += length
            return _Span(self.at - length, self.at)
        if kind == "str":
            return bytes(self._take(length)).decode()
        if self._depth >= MAX_DEPTH:
            message = "it is nested too deeply"
            raise _Broken(message)
        self._depth += 1
        made: Any = [self.value() for _ in range(length)] if kind == "list" else self._map(length)
        self._depth -= 1
        return made

    def _map(self, length: int) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for _ in range(length):
            key = self.value()
            if type(key) not in (str, int) or str(key) in made:
                message = f"a key of type {type(key).__name__}, or twice the same"
                raise _Broken(message)
            made[str(key)] = self.value()
        return made

    def _extension(self, code: int, length: int) -> Any:
        self._skip(length)
        parts = _Walker(self._buffer, self.at - length, self.at, self._depth).value()
        if code == 2 and isinstance(parts, list):
            real, imaginary = cast("list[Any]", parts)
            return complex(real, imaginary)
        if code not in (1, 3) or not isinstance(parts, list):
            message = f"extension {code}"
            raise _Broken(message)
        shape, dtype, span = cast("list[Any]", parts)
        found = _Array(tuple(shape), "bool" if dtype == "bool_" else dtype, (span,), is_scalar=code == 3)
        _check(found)
        return found

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _take(self, count: int) -> Any:
        self._skip(count)
        return self._buffer[self.at - count : self.at]

    def _skip(self, count: int) -> None:
        if count > self._end - self.at:
            message = f"{count} bytes at {self.at} of {self._end}"
            raise _Broken(message)
        self.at += count


def is_msgpack(head: bytes) -> bool:
    """Return whether a file that begins with these bytes may be a MessagePack map with strings as keys."""
    if not head:
        return False
    skip = 1 if 0x80 <= head[0] <= 0x8F else {0xDE: 3, 0xDF: 5}.get(head[0], 0)
    return head[:1] == b"\x80" or (
        bool(skip) and len(head) > skip and (0xA0 <= head[skip] <= 0xBF or head[skip] in (0xD9, 0xDA))
    )


def read_map(path: Path) -> dict[str, Any]:
    """Return the map that a file is, with arrays as ``_Array`` and byte strings as ``_Span``.

    Raises:
      CheckpointFormatError: if it is not MessagePack as Flax writes it.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as buffer:
        walker = _Walker(buffer, 0, len(buffer))
        try:
            made = walker.whole_map()
        except (_Broken, ValueError, TypeError, KeyError) as error:
            reason = f"it is not MessagePack as Flax writes it: {error}"
            raise CheckpointFormatError(
                path=path, reason=reason, cure="Look for the whole file: this one is cut or damaged."
            ) from None
    return made


class MsgpackSource:
    """A Flax MessagePack file, opened: where its arrays are is known, and nothing of them is read.

    Raises:
      CheckpointFormatError: if it is not MessagePack as Flax writes it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._arrays: dict[str, _Array] = {}
        self._manifest = Manifest({}, storage={"format": "msgpack"})
        self._unchanged = Unchanged(path)
        self._collect(read_map(path), ())
        self._manifest.records = dict(sorted(self._manifest.records.items()))

    @property
    def path(self) -> Path:
        """Where the file is."""
        return self._path

    @property
    def manifest(self) -> Manifest:
        """What it holds."""
        return self._manifest

    def read(self, path: str, box: Box | None = None) -> NumpyArray | Damage:
        """Read one array; a box of it is cut out of the whole."""
        found = self._arrays[path]
        array = np.empty(found.shape, dtype_by_name(found.dtype))
        flat = as_bytes(array)
        with self._unchanged.open() as file:
            at = 0
            for span in found.spans:
                file.seek(span.begin)
                end = at + span.end - span.begin
                while at < end:
                    count = cast("Any", file).readinto(flat[at:end])
                    if not count:
                        return Damage(path, "the file ends within it")
                    at += count
        return array if box is None else array[box]

    def read_many(self, paths: Iterable[str]) -> Iterator[tuple[str, NumpyArray | Damage]]:
        """Read whole arrays, one at a time."""
        for path in paths:
            yield path, self.read(path)

    def check_files(self, *, whole: bool) -> list[Damage]:
        """The format keeps no digests."""
        del whole
        return []

    def _collect(self, node: Any, parts: tuple[str, ...]) -> None:
        path = join_path(parts)
        if isinstance(node, list):
            node = {str(index): child for index, child in enumerate(cast("list[Any]", node))}
        if isinstance(node, dict):
            found = cast("dict[str, Any]", node)
            if CHUNKED in found:
                node = self._chunked(found)
            else:
                if not found:
                    self._manifest.containers[path] = {"kind": "dict"}
                for name, child in found.items():
                    self._collect(child, (*parts, name))
                return
        if node is None:
            self._manifest.containers[path] = {"kind": "none"}
        elif isinstance(node, _Array):
            self._arrays[path] = node
            size = sum(span.end - span.begin for span in node.spans)
            form = "scalar" if node.is_scalar and not node.shape else None
            self._manifest.records[path] = Record(node.shape, node.dtype, size, form=form)
        else:
            if isinstance(node, _Span):
                with self._unchanged.open() as file:
                    file.seek(node.begin)
                    node = file.read(node.end - node.begin)
            kind = cast("PythonKind", type(node).__name__)
            self._manifest.records[path] = Record((), "python", 0, kind=kind, value=node)

    def _chunked(self, node: dict[str, Any]) -> _Array:
        try:
            shape = tuple(node["shape"][str(axis)] for axis in range(len(node["shape"])))
            chunks: list[_Array] = [node["chunks"][str(index)] for index in range(len(node["chunks"]))]
            found = _Array(shape, chunks[0].dtype, tuple(span for chunk in chunks for span in chunk.spans))
            _check(found)
        except (_Broken, KeyError, TypeError, IndexError, AttributeError) as error:
            raise RefusedCheckpointError(
                path=self._path,
                reason=f"an array in chunks is not well formed: {error}",
                cure="Flax writes no such file.",
            ) from None
        return found


def _check(array: _Array) -> None:
    """Raise unless shape, dtype and number of bytes fit each other."""
    spans: tuple[Any, ...] = array.spans
    honest = (
        array.dtype in BYTES_BY_DTYPE
        and all(type(extent) is int and extent >= 0 for extent in array.shape)
        and all(isinstance(span, _Span) for span in spans)
    )
    size = sum(span.end - span.begin for span in spans) if honest else -1
    if not honest or math.prod(array.shape) * BYTES_BY_DTYPE[array.dtype] != size:
        message = f"an array of dtype {array.dtype!r} and shape {array.shape} with {size} bytes"
        raise _Broken(message)
