"""GGUF files, of llama.cpp and its relatives: read only.

The header is simple enough to be read from its description
(https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), within the file's bounds; the package ``gguf`` knows the
quantised types and turns them into single precision, and is needed for these alone. Shapes are NumPy's, the axis that
varies fastest last, so in the reverse order of the file's. Numbers and short texts of the header are metadata.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
import mmap
import struct
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from batiste.checkpoint._arrays import dtype_by_name
from batiste.checkpoint._directory import allowance
from batiste.checkpoint._manifest import Manifest
from batiste.checkpoint._orbax import require
from batiste.checkpoint._strided import Readable, Stored, StridedSource, dense, in_file
from batiste.checkpoint._types import Box, NumpyArray, Record
from batiste.errors import CheckpointFormatError, RefusedCheckpointError
from batiste.tree import join_path

__all__ = ["open_gguf"]

_FORMS: Final[Mapping[int, str]] = MappingProxyType(
    {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
)
_TEXT: Final = 8
_ARRAY: Final = 9
_PLAIN: Final[Mapping[int, str]] = MappingProxyType(
    {
        0: "float32",
        1: "float16",
        24: "int8",
        25: "int16",
        26: "int32",
        27: "int64",
        28: "float64",
        30: "bfloat16",
    }
)
_MOST_TEXT: Final = 4096
_MOST_AXES: Final = 8


@dataclasses.dataclass(frozen=True, slots=True)
class _Quantised:
    """A tensor of a quantised type, read as single precision."""

    path: Path
    shape: tuple[int, ...]
    kind: int
    begin: int

    def read(self, box: Box | None = None) -> NumpyArray:
        """Read all of it, and cut the box out."""
        require("gguf", "gguf", "Reading a quantised tensor of a GGUF file", "files")
        library: Any = importlib.import_module("gguf")
        quants: Any = importlib.import_module("gguf.quants")
        kind = library.GGMLQuantizationType(self.kind)
        form = tuple(int(extent) for extent in quants.quant_shape_to_byte_shape(self.shape, kind))
        data = np.asarray(in_file(self.path, self.begin, self.begin + math.prod(form)).load())
        whole = np.asarray(quants.dequantize(data.reshape(form), kind), np.float32).reshape(self.shape)
        return whole if box is None else whole[box]


class _Header:
    """Reads the header, front to back; whatever points outside of the file is an error."""

    def __init__(self, buffer: Any) -> None:
        self._buffer = buffer
        self.at = 4
        (version,) = struct.unpack("<I", self._take(4))
        self._order = "<" if version & 0xFFFF else ">"
        (version,) = struct.unpack(f"{self._order}I", self._buffer[4:8])
        if version not in (2, 3):
            message = f"version {version}"
            raise ValueError(message)

    @property
    def is_big(self) -> bool:
        """Whether the file is for machines with the most significant byte first."""
        return self._order == ">"

    def number(self, form: str) -> Any:
        """Read a number."""
        return struct.unpack(self._order + form, self._take(struct.calcsize(form)))[0]

    def text(self) -> str:
        """Read a text."""
        return self._take(self.number("Q")).decode()

    def value(self, kind: int, depth: int = 0) -> Any:
        """Read a value; of an array, nothing is kept."""
        if kind in _FORMS:
            return self.number(_FORMS[kind])
        if kind == _TEXT:
            return self.text()
        if kind != _ARRAY or depth > _MOST_AXES:
            message = f"a value of kind {kind}"
            raise ValueError(message)
        inner, count = self.number("I"), self.number("Q")
        if inner in _FORMS:
            self._take(count * struct.calcsize(_FORMS[inner]))
        else:
            for _ in range(count):
                self.value(inner, depth + 1)
        return None

    def _take(self, count: int) -> bytes:
        if count > len(self._buffer) - self.at:
            message = f"{count} bytes at {self.at} of {len(self._buffer)}"
            raise ValueError(message)
        self.at += count
        return bytes(self._buffer[self.at - count : self.at])


def open_gguf(path: Path) -> StridedSource:
    """Open a GGUF file; the data of its tensors is not read.

    Raises:
      CheckpointFormatError: if it is cut, or of a version that is not known.
      RefusedCheckpointError: if it describes more than its size can stand for, or one name twice.
    """
    manifest = Manifest({}, storage={"format": "gguf"})
    arrays: dict[str, Readable] = {}
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as buffer:
        size = len(buffer)
        try:
            header = _Header(buffer)
            tensors, pairs = header.number("Q"), header.number("Q")
            for _ in range(pairs):
                name, kind = header.text(), header.number("I")
                value = header.value(kind)
                if value is not None and (not isinstance(value, str) or len(value) <= _MOST_TEXT):
                    manifest.metadata[name] = value
            rows = [_row(header) for _ in range(tensors)]
            alignment = int(manifest.metadata.get("general.alignment", 32))
            start = -(-header.at // alignment) * alignment
            for name, shape, kind, offset in rows:
                if name in manifest.records:
                    raise _refused(path, f"two tensors have the name {name!r}")
                _add(path, manifest, arrays, (name, shape, kind, start + offset), size, big=header.is_big)
        except (ValueError, struct.error, ZeroDivisionError, OverflowError, TypeError) as error:
            reason = f"it is a GGUF file that cannot be read ({error})"
            cure = "Look for the whole file: this one is cut or damaged."
            raise CheckpointFormatError(path=path, reason=reason, cure=cure) from None
    if manifest.bytes > allowance(size, compressed=True):
        raise _refused(path, f"its {size} bytes would become {manifest.bytes}")
    return StridedSource(path, manifest, arrays)


def _row(header: _Header) -> tuple[str, tuple[int, ...], int, int]:
    """The name of a tensor, its shape, its type, and where it begins behind the header."""
    name = join_path([header.text()])
    axes = header.number("I")
    if axes > _MOST_AXES:
        message = f"a tensor with {axes} axes"
        raise ValueError(message)
    shape = tuple(reversed([header.number("Q") for _ in range(axes)]))
    return name, shape, header.number("I"), header.number("Q")


def _add(
    path: Path,
    manifest: Manifest,
    arrays: dict[str, Readable],
    row: tuple[str, tuple[int, ...], int, int],
    size: int,
    *,
    big: bool,
) -> None:
    name, shape, kind, begin = row
    if kind not in _PLAIN:
        manifest.records[name] = Record(shape, "float32", math.prod(shape) * 4)
        arrays[name] = _Quantised(path, shape, kind, begin)
        return
    dtype = dtype_by_name(_PLAIN[kind])
    length = math.prod(shape) * dtype.itemsize
    if begin + length > size:
        message = f"{name!r} has {length} bytes at {begin} of {size}"
        raise ValueError(message)
    manifest.records[name] = Record(shape, dtype.name, length)
    stored = dtype.newbyteorder(">") if big and dtype.itemsize > 1 else dtype
    arrays[name] = Stored(shape, stored, in_file(path, begin, begin + length), 0, dense(shape))


def _refused(path: Path, reason: str) -> RefusedCheckpointError:
    return RefusedCheckpointError(path=path, reason=reason, cure="Do not trust where it came from.")
