"""Single ``.safetensors`` files, written and read here: a header in JSON, then the bytes of all arrays.

The format is small enough to be written from its description (https://github.com/huggingface/safetensors), and writing
it here is what lets a save hold one leaf at a time in memory, flush to the disk, and be right about arrays that are not
contiguous. Any safetensors reader opens the files; only this one checks digests and knows containers.

A file that batiste saved has its manifest in ``__metadata__`` under ``batiste``. Of any other file the names are the
paths, with slashes between levels, and ``__metadata__`` is the user metadata.

Layout: eight bytes for the length of the header (little endian), the header, padded with spaces to a multiple of eight,
then the arrays in C order without gaps, those with the widest elements first.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, Final, cast

import numpy as np

from batiste.checkpoint._arrays import BYTES_BY_DTYPE, as_bytes, digest_array, dtype_by_name
from batiste.checkpoint._manifest import MAX_MANIFEST_BYTES, Manifest, check_paths, looks_like_manifest
from batiste.checkpoint._types import Box, Damage, NumpyArray, Record
from batiste.errors import CheckpointFormatError, DamagedCheckpointError, RefusedCheckpointError
from batiste.tree import join_path

__all__ = ["SafetensorsSource", "is_safetensors", "write_safetensors"]

_ENTRY: Final = "batiste"
_MAX_HEADER: Final = 2 * MAX_MANIFEST_BYTES
_DTYPES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "BOOL": "bool",
        "U8": "uint8",
        "I8": "int8",
        "U16": "uint16",
        "I16": "int16",
        "U32": "uint32",
        "I32": "int32",
        "U64": "uint64",
        "I64": "int64",
        "F16": "float16",
        "BF16": "bfloat16",
        "F32": "float32",
        "F64": "float64",
        "C64": "complex64",
        "F8_E4M3": "float8_e4m3fn",
        "F8_E5M2": "float8_e5m2",
        "F8_E8M0": "float8_e8m0fnu",
        "F8_E4M3FNUZ": "float8_e4m3fnuz",
        "F8_E5M2FNUZ": "float8_e5m2fnuz",
    }
)
_CODES: Final[Mapping[str, str]] = MappingProxyType({name: code for code, name in _DTYPES.items()})


@dataclasses.dataclass(frozen=True, slots=True)
class _Entry:
    """One array in the file: what the header says of it."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def write_safetensors(file_path: Path, manifest: Manifest, fetch: Callable[[str], NumpyArray]) -> None:
    """Write a file, one leaf at a time, and fill in the digests of the manifest's records.

    Args:
      file_path: where.
      manifest: what is written; the digests of its records are set here.
      fetch: returns the array at a path, in C order.
    """
    arrays = {path: record for path, record in manifest.records.items() if record.kind is None}
    order = sorted(arrays, key=lambda path: -BYTES_BY_DTYPE[arrays[path].dtype])
    for record in arrays.values():
        record.digest = "0" * 32  # of the same length as what will be known once all is written
    header = _header(manifest, order)
    with file_path.open("wb") as file:
        file.write(header)
        for path in order:
            array = fetch(path)
            arrays[path].digest = digest_array(array)
            file.write(as_bytes(array))
        file.seek(0)
        file.write(_header(manifest, order))


def is_safetensors(head: bytes) -> bool:
    """Return whether a file that begins with these nine bytes or more is a safetensors file."""
    return len(head) >= 9 and head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] <= _MAX_HEADER


class SafetensorsSource:
    """A safetensors file, opened: its header is read, its arrays are not.

    Raises:
      CheckpointFormatError: if it is no safetensors file.
      DamagedCheckpointError: if batiste saved it and it is not as it was.
      RefusedCheckpointError: if the header and the file contradict each other.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with path.open("rb") as file:
            header, start = _read_header(file, path)
        self._start = start
        metadata = cast("dict[str, Any]", header.pop("__metadata__", None) or {})
        text = metadata.get(_ENTRY)
        if text is None and any(map(looks_like_manifest, metadata.values())):
            raise _damaged(path, "the header", "the name of the manifest has changed")
        try:
            entries = _entries(header, path.stat().st_size - start)
        except (ValueError, TypeError, KeyError) as error:
            if text is not None:
                raise _damaged(path, "the header", str(error)) from None
            raise RefusedCheckpointError(
                path=path, reason=f"its header says what cannot be: {error}", cure="Fetch or write the file again."
            ) from None
        self._ours = text is not None
        if text is None:
            self._manifest = _foreign(entries, metadata, path)
            self._entries = {_foreign_path(name): entry for name, entry in entries.items()}
            return
        self._manifest = Manifest.from_text(text, str(path))
        named = {_name(path): path for path, record in self._manifest.records.items() if record.kind is None}
        if named.keys() != entries.keys():
            raise _damaged(path, "the header", "its names are not those of the manifest")
        self._entries = {named[name]: entry for name, entry in entries.items()}

    @property
    def path(self) -> Path:
        """Where the file is."""
        return self._path

    @property
    def manifest(self) -> Manifest:
        """What it holds."""
        return self._manifest

    def read(self, path: str, box: Box | None = None) -> NumpyArray | Damage:
        """Read one array, or a box of it; of a box, only the pages that it lies on."""
        record = self._manifest.records[path]
        checked = self._checked(path, record, self._path.stat().st_size)
        if isinstance(checked, Damage):
            return checked
        if box is None or not record.shape:
            with self._path.open("rb", buffering=0) as file:
                return _read_whole(file, path, record, self._start + checked.begin)
        mapped = np.memmap(self._path, dtype_by_name(record.dtype), "r", self._start + checked.begin, record.shape)
        return np.array(mapped[box])

    def read_many(self, paths: Iterable[str]) -> Iterator[tuple[str, NumpyArray | Damage]]:
        """Read whole arrays, one at a time."""
        with self._path.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            for path in paths:
                record = self._manifest.records[path]
                found = self._checked(path, record, size)
                if isinstance(found, _Entry):
                    found = _read_whole(file, path, record, self._start + found.begin)
                yield path, found

    def check_files(self, *, whole: bool) -> list[Damage]:
        """Compare the header, byte for byte, with the one that was written for this manifest."""
        del whole
        if not self._ours:
            return []
        with self._path.open("rb") as file:
            same = file.read(self._start) == _header(self._manifest, list(self._entries))
        return [] if same else [Damage("the header", "it is not as it was written")]

    def _checked(self, path: str, record: Record, size: int) -> _Entry | Damage:
        """The entry of a leaf, where header and manifest agree on it and the file is long enough."""
        entry = self._entries[path]
        if entry.end - entry.begin != record.bytes or entry.dtype != _store_dtype(record):
            return Damage(path, "the header and the manifest do not agree on it")
        if size < self._start + entry.end:
            return Damage(path, "the file ends before it")
        return entry


def _header(manifest: Manifest, order: list[str]) -> bytes:
    header: dict[str, Any] = {"__metadata__": {_ENTRY: manifest.to_text()}}
    at = 0
    for path in order:
        record = manifest.records[path]
        dtype = _store_dtype(record)
        width = BYTES_BY_DTYPE[record.dtype] // BYTES_BY_DTYPE[dtype]
        shape = [*record.shape, width] if width > 1 else list(record.shape)
        end = at + record.bytes
        header[_name(path)] = {"dtype": _CODES[dtype], "shape": shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _name(path: str) -> str:
    """The name of a leaf in the header: its path, save where the format has a meaning of its own for that."""
    return f"~{path}" if path in ("", "__metadata__") else path


def _store_dtype(record: Record) -> str:
    return record.dtype if record.dtype in _CODES else "uint8"


def _read_header(file: BinaryIO, path: Path) -> tuple[dict[str, Any], int]:
    size = path.stat().st_size
    head = file.read(8)
    length = int(struct.unpack("<Q", head)[0]) if len(head) == 8 else -1
    if not 0 < length <= min(size - 8, _MAX_HEADER):
        reason = f"its header would be {length} bytes long, and the file has {size}"
        raise CheckpointFormatError(
            path=path, reason=reason, cure="Look for the whole file: this one is cut or damaged."
        )
    try:
        header = json.loads(file.read(length).decode())
    except RecursionError:
        raise RefusedCheckpointError(
            path=path, reason="its header is nested too deeply", cure="No program that writes safetensors does that."
        ) from None
    except ValueError:
        header = None
    if not isinstance(header, dict) or not isinstance(cast("Any", header).get("__metadata__", {}), dict):
        raise _damaged(path, "the header", "it is not JSON as safetensors has it")
    return cast("dict[str, Any]", header), 8 + length


def _entries(header: dict[str, Any], size: int) -> dict[str, _Entry]:
    """The entries of a header, checked against the number of bytes that follow it."""
    entries: dict[str, _Entry] = {}
    for name, row in header.items():
        begin, end = row["data_offsets"]
        shape: tuple[int, ...] = tuple(row["shape"])
        dtype = _DTYPES.get(row["dtype"])
        if dtype is None:
            message = f"{name!r} has the dtype {row['dtype']!r}"
            raise ValueError(message)
        if any(type(number) is not int or number < 0 for number in (begin, end, *shape)):
            message = f"{name!r} has the shape {shape} and the place {begin} to {end}"
            raise ValueError(message)
        count = math.prod(shape) * BYTES_BY_DTYPE[dtype]
        if end - begin != count or end > size:
            message = f"{name!r} has {count} bytes at {begin} to {end} of {size}"
            raise ValueError(message)
        entries[name] = _Entry(dtype, shape, begin, end)
    entries = dict(sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)))
    at = 0
    for entry in entries.values():
        if entry.begin != at:
            message = f"there is a gap or an overlap at byte {min(at, entry.begin)}"
            raise ValueError(message)
        at = entry.end
    if at != size:
        message = f"its arrays end at byte {at} of {size}"
        raise ValueError(message)
    return entries


def _foreign(entries: Mapping[str, _Entry], metadata: dict[str, Any], path: Path) -> Manifest:
    """The manifest of a file that batiste did not save."""
    records = {_foreign_path(name): Record(row.shape, row.dtype, row.end - row.begin) for name, row in entries.items()}
    check_paths(records, str(path))
    return Manifest(dict(sorted(records.items())), metadata=metadata, storage={"format": "safetensors"})


def _foreign_path(name: str) -> str:
    return join_path(name.split("/"))


def _read_whole(file: Any, path: str, record: Record, offset: int) -> NumpyArray | Damage:
    array = np.empty(record.shape, dtype_by_name(record.dtype))
    view = as_bytes(array)
    file.seek(offset)
    done = 0
    while done < len(view):
        count = file.readinto(view[done:])
        if not count:
            return Damage(path, "the file ends within it")
        done += count
    return array


def _damaged(path: Path, where: str, reason: str) -> DamagedCheckpointError:
    return DamagedCheckpointError(path=path, count=1, lines=f"  {where}: {reason}")
