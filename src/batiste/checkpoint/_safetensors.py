"""Single ``.safetensors`` files, written and read here: a header in JSON, then the bytes of all arrays.

The format is small enough to be written from its description (https://github.com/huggingface/safetensors), and writing
it here is what lets a save hold one leaf at a time in memory, flush to the disk, and be right about arrays that are not
contiguous. Any safetensors reader opens the files; only this one checks digests and knows containers.

A file that batiste saved has its manifest in ``__metadata__`` under ``batiste``. Of any other file the names are the
paths, with slashes between levels, and ``__metadata__`` is the user metadata.

Layout: eight bytes for the length of the header (little endian), the header, padded with spaces to a multiple of eight,
then the arrays in C order without gaps, those with the widest elements first. In a file of batiste the header begins
with the manifest, and the manifest has the digest of the rest of the header, the *table*. So the table need not be
read to open the file: it says nothing that the manifest does not say.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, Final, cast

import numpy as np

from batiste.checkpoint._arrays import BYTES_BY_DTYPE, as_bytes, digest_array, digest_bytes, dtype_by_name
from batiste.checkpoint._background import beside
from batiste.checkpoint._manifest import MAX_MANIFEST_BYTES, Manifest, check_depth, looks_like_manifest
from batiste.checkpoint._ranges import read_ranges
from batiste.checkpoint._types import Box, Damage, NumpyArray, Record
from batiste.checkpoint._unchanged import Unchanged
from batiste.errors import CheckpointFormatError, DamagedCheckpointError, RefusedCheckpointError
from batiste.tree import join_path

__all__ = ["SafetensorsSource", "is_safetensors", "write_safetensors"]

_MAX_HEADER: Final = 2 * MAX_MANIFEST_BYTES
_LARGE: Final = 1 << 20
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
_NARROW: Final[Mapping[str, int]] = MappingProxyType({"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6})
_CODES: Final[Mapping[str, str]] = MappingProxyType({name: code for code, name in _DTYPES.items()})


_START: Final = '{"__metadata__":{"batiste":'
_DIGEST: Final = "table_xxh3_128"
_decode: Final = json.JSONDecoder().raw_decode
_dump: Final = json.JSONEncoder(ensure_ascii=False).encode


@dataclasses.dataclass(frozen=True, slots=True)
class _Entry:
    """One array in a file of others: what the header says of it."""

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
    begins = _begins(manifest.records, 0)
    records = manifest.records
    for path in begins:
        records[path].digest = "0" * 32  # of the same length as what will be known once all is written
    table = _table(records, begins)
    manifest.storage[_DIGEST] = digest_bytes(table.encode())
    with file_path.open("wb") as file:
        file.write(_header(manifest, table))
        for path in begins:
            array = fetch(path)
            if array.nbytes < _LARGE:
                records[path].digest = digest_array(array)
                file.write(as_bytes(array))
            else:  # both let other threads run
                digest = beside(functools.partial(digest_array, array))
                file.write(as_bytes(array))
                records[path].digest = digest()
        file.seek(0)
        file.write(_header(manifest, table))


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
            self._unchanged = Unchanged(path, opened=file)
            size = os.fstat(file.fileno()).st_size
            text = _read_header(file, path, size)
            start = file.tell()
        if text.startswith(_START):
            self._manifest = _own(text, path)
            self._begins = _begins(self._manifest.records, start)
            if size - start != self._manifest.bytes:
                reason = f"there are {size - start} bytes of arrays instead of {self._manifest.bytes}"
                raise _damaged(path, "the file", reason)
        else:
            entries, metadata = _foreign(text, size - start, path)
            opaque = {_foreign_path(name): _narrow(row) for name, row in entries.items() if row.dtype in _NARROW}
            entries = {name: row for name, row in entries.items() if row.dtype not in _NARROW}
            self._begins = {_foreign_path(name): start + entry.begin for name, entry in entries.items()}
            records = {
                _foreign_path(name): Record(row.shape, row.dtype, row.end - row.begin) for name, row in entries.items()
            }
            check_depth(records, str(path))
            storage = {"format": "safetensors"}
            self._manifest = Manifest(dict(sorted(records.items())), metadata=metadata, storage=storage, opaque=opaque)

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
        if box is None or not record.shape:
            return next(iter(self.read_many([path])))[1]
        begin = self._begins[path]
        with self._unchanged.open() as file:
            mapped = np.memmap(cast("Any", file), dtype_by_name(record.dtype), "r", begin, record.shape)
            return np.array(mapped[box])

    def read_many(
        self, paths: Iterable[str], *, verify: bool = False, ahead: bool = False
    ) -> Iterator[tuple[str, NumpyArray | Damage]]:
        """Read whole arrays in order, small neighbours together.

        Args:
          paths: the arrays.
          verify: whether to check their digests.
          ahead: whether more than a few may be in memory before they are asked for.
        """
        with self._unchanged.open() as file:
            yield from read_ranges(file, paths, self._manifest.records, self._begins, verify=verify, ahead=ahead)

    def check_files(self, *, whole: bool) -> list[Damage]:
        """Return nothing: the header was checked, byte for byte, when it was read."""
        del whole
        return []


def _begins(records: Mapping[str, Record], start: int) -> dict[str, int]:
    """Where each array of a file of batiste begins, in their order there, if the first begins at ``start``."""
    arrays = {path: -BYTES_BY_DTYPE[record.dtype] for path, record in records.items() if record.kind is None}
    begins: dict[str, int] = {}
    at = start
    for path in sorted(arrays, key=arrays.__getitem__):
        begins[path] = at
        at += records[path].bytes
    return begins


def _table(records: Mapping[str, Record], begins: Mapping[str, int]) -> str:
    """The header after the manifest: name, dtype, shape and place of each array."""
    rows: list[str] = []
    for path, begin in begins.items():
        record = records[path]
        dtype = _store_dtype(record)
        width = BYTES_BY_DTYPE[record.dtype] // BYTES_BY_DTYPE[dtype]
        shape = ",".join(map(str, [*record.shape, width] if width > 1 else record.shape))
        place = f"{begin},{begin + record.bytes}"
        rows.append(f',{_dump(_name(path))}:{{"dtype":"{_CODES[dtype]}","shape":[{shape}],"data_offsets":[{place}]}}')
    return f"}}{''.join(rows)}}}"


def _header(manifest: Manifest, table: str) -> bytes:
    text = f"{_START}{_dump(manifest.to_text())}{table}".encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _name(path: str) -> str:
    """The name of a leaf in the header: its path, save where the format has a meaning of its own for that."""
    return f"~{path}" if path in ("", "__metadata__") else path


def _store_dtype(record: Record) -> str:
    return record.dtype if record.dtype in _CODES else "uint8"


def _read_header(file: BinaryIO, path: Path, size: int) -> str:
    head = file.read(8)
    length = int(struct.unpack("<Q", head)[0]) if len(head) == 8 else -1
    if not 0 < length <= min(size - 8, _MAX_HEADER):
        reason = f"its header would be {length} bytes long, and the file has {size}"
        raise CheckpointFormatError(
            path=path, reason=reason, cure="Look for the whole file: this one is cut or damaged."
        )
    try:
        return file.read(length).decode()
    except ValueError:
        raise _damaged(path, "the header", "it is not UTF-8") from None


def _own(text: str, path: Path) -> Manifest:
    """The manifest of a header that batiste wrote, once every byte of the header is known to be as it was."""
    try:
        found, end = _decode(text, len(_START))
    except ValueError:
        raise _damaged(path, "the header", "its manifest is not JSON") from None
    if type(found) is not str:
        raise _damaged(path, "the header", "its manifest is no text")
    manifest = Manifest.from_text(found, str(path))
    rest = text[end:]
    table = rest.rstrip(" ")
    if len(rest) - len(table) > 7 or digest_bytes(table.encode()) != manifest.storage.get(_DIGEST):
        raise _damaged(path, "the header", "it is not as it was written")
    return manifest


def _foreign(text: str, size: int, path: Path) -> tuple[dict[str, _Entry], dict[str, Any]]:
    """The entries and the metadata of a file that batiste did not save."""
    try:
        header: Any = json.loads(text)
    except RecursionError:
        raise RefusedCheckpointError(
            path=path, reason="its header is nested too deeply", cure="No program that writes safetensors does that."
        ) from None
    except ValueError:
        header = None
    metadata: Any = cast("dict[str, Any]", header).pop("__metadata__", {}) if isinstance(header, dict) else None
    if not isinstance(metadata, dict):
        raise _damaged(path, "the header", "it is not JSON as safetensors has it")
    known = cast("dict[str, Any]", metadata)
    if any(map(looks_like_manifest, known.values())):
        raise _damaged(path, "the header", "it holds a manifest, and is not as batiste wrote it")
    try:
        return _entries(cast("dict[str, Any]", header), size), known
    except (ValueError, TypeError, KeyError) as error:
        reason = f"its header says what cannot be: {error}"
        raise RefusedCheckpointError(path=path, reason=reason, cure="Fetch or write the file again.") from None


def _entries(header: dict[str, Any], size: int) -> dict[str, _Entry]:
    """The entries of a header, checked against the number of bytes that follow it."""
    entries: dict[str, _Entry] = {}
    for name, row in header.items():
        begin, end = row["data_offsets"]
        shape: tuple[int, ...] = tuple(row["shape"])
        code = row["dtype"]
        dtype = _DTYPES.get(code, code)
        if code not in _DTYPES and code not in _NARROW:
            message = f"{name!r} has the dtype {row['dtype']!r}"
            raise ValueError(message)
        if any(type(number) is not int or number < 0 for number in (begin, end, *shape)):
            message = f"{name!r} has the shape {shape} and the place {begin} to {end}"
            raise ValueError(message)
        bits = math.prod(shape) * (_NARROW[code] if code in _NARROW else 8 * BYTES_BY_DTYPE[dtype])
        count = bits // 8 if bits % 8 == 0 else -1
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


def _narrow(entry: _Entry) -> str:
    """What a tensor is whose elements are narrower than a byte."""
    shape = ",".join(map(str, entry.shape))
    return f"{entry.dtype}[{shape}], {_NARROW[entry.dtype]} bits an element, which NumPy has no array for"


def _foreign_path(name: str) -> str:
    return join_path(name.split("/"))


def _damaged(path: Path, where: str, reason: str) -> DamagedCheckpointError:
    return DamagedCheckpointError(path=path, count=1, lines=f"  {where}: {reason}")
