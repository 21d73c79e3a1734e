"""The directory that batiste saves: the arrays as an Orbax checkpoint, and ``batiste.json`` beside them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Final

import numpy as np

from batiste.checkpoint._arrays import dtype_by_name
from batiste.checkpoint._files import digest_file, is_file
from batiste.checkpoint._manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, Manifest
from batiste.checkpoint._orbax import ITEM, ArrayStore, stored_name
from batiste.checkpoint._types import Box, Damage, NumpyArray, Record
from batiste.checkpoint._unchanged import Unchanged
from batiste.errors import RefusedCheckpointError

__all__ = ["DirectorySource", "allowance", "is_vouched"]

_DATA: Final = "d"
_LARGE: Final = 1 << 20
_SMALL: Final = 1 << 20
_TOGETHER: Final = 64


def is_vouched(name: str, size: int) -> bool:
    """Whether a file within the directory needs no digest of its own: a large one in which OCDBT keeps arrays.

    Each array in it has a digest, and OCDBT has checksums of its tables. What a second pass would find besides is
    damage to bytes of which no array is made. OCDBT begins a new file after 64 MB and leaves several that are shorter:
    of 1 GB, up to 200 MB lay in such ones.
    """
    return size > _LARGE and _holds_arrays(name)


def _holds_arrays(name: str) -> bool:
    return PurePosixPath(name).parent.name == _DATA


def allowance(stored: int, *, compressed: bool) -> int:
    """Return how many bytes of arrays so many bytes on the disk may stand for.

    Uncompressed arrays take at least their own size. Compressed ones may be all zeros and small, but not so that a
    file of a few kilobytes fills the memory: a gigabyte is always allowed, and beyond it a hundred times what is on
    the disk.
    """
    return (1 << 30) + 100 * stored if compressed else stored


class DirectorySource:
    """A directory that batiste saved, opened: its manifest is read, its arrays are not.

    Raises:
      DamagedCheckpointError: if the manifest is not as it was written.
      RefusedCheckpointError: if the manifest says what no honest one says.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with (path / MANIFEST_NAME).open("rb") as file:
            self._unchanged = Unchanged(path / MANIFEST_NAME, path, file)
            size = os.fstat(file.fileno()).st_size
            if size > MAX_MANIFEST_BYTES:
                reason = f"{MANIFEST_NAME} has {size} bytes"
                raise RefusedCheckpointError(path=path, reason=reason, cure="No manifest is that long.")
            text = file.read().decode(errors="replace")
        self._manifest = Manifest.from_text(text, str(path))
        for name in self._manifest.files:
            if name.startswith("/") or ".." in name.split("/"):
                reason = f"its manifest names the file {name!r}, outside the directory"
                raise RefusedCheckpointError(path=path, reason=reason, cure="Do not trust where it came from.")
        self._allowance = allowance(
            sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
            compressed=bool(self._manifest.storage.get("compressed")),
        )
        self._unchanged.check()  # these were the files beside that manifest
        self._store: ArrayStore | None = None

    @property
    def path(self) -> Path:
        """Where the directory is."""
        return self._path

    @property
    def manifest(self) -> Manifest:
        """What it holds."""
        return self._manifest

    def read(self, path: str, box: Box | None = None) -> NumpyArray | Damage:
        """Read one array, or a box of it."""
        record = self._manifest.records[path]
        if not record.bytes:
            return _empty(record)
        if record.bytes > self._allowance:
            return self._too_large(path, record)
        found = self._arrays().read(_name(path), record, box)
        self._unchanged.check()
        return _renamed(path, found)

    def read_many(self, paths: Iterable[str]) -> Iterator[tuple[str, NumpyArray | Damage]]:
        """Read whole arrays in order, a few ahead."""
        wanted = list(paths)
        records = self._manifest.records
        readable = [path for path in wanted if 0 < records[path].bytes <= self._allowance]
        arrays = self._arrays().read_many((_name(path), records[path]) for path in readable) if readable else iter(())
        together: list[tuple[str, NumpyArray | Damage]] = []
        size = 0
        for path in wanted:
            record = records[path]
            if not record.bytes:
                found = _empty(record)
            elif record.bytes > self._allowance:
                found = self._too_large(path, record)
            else:
                found = _renamed(path, next(arrays))
                size += record.bytes
            together.append((path, found))
            if size > _SMALL or len(together) == _TOGETHER:
                self._unchanged.check()  # a system call: one for many small arrays
                yield from together
                together, size = [], 0
        self._unchanged.check()
        yield from together

    def check_files(self, *, whole: bool) -> list[Damage]:
        """Check every file, or all but those in which OCDBT keeps arrays."""
        found: list[Damage] = []
        for name, (size, digest) in self._manifest.files.items():
            file = self._path / name
            if not whole and _holds_arrays(name):
                continue
            if not is_file(file):
                found.append(Damage(name, "the file is missing"))
            elif file.stat().st_size != size:
                found.append(Damage(name, f"the file has {file.stat().st_size} bytes instead of {size}"))
            elif digest and digest_file(file)[1] != digest:
                found.append(Damage(name, "the digest of the file does not fit"))
        self._unchanged.check()
        return found

    def _arrays(self) -> ArrayStore:
        if self._store is None:
            whole = self._manifest.storage.get("whole_bytes", 0)
            self._store = ArrayStore(self._path / ITEM, whole_bytes=whole if type(whole) is int else 0)
        return self._store

    def _too_large(self, path: str, record: Record) -> Damage:
        return Damage(path, f"it would take {record.bytes} bytes, more than what is on the disk can stand for")


def _name(path: str) -> str:
    if path and not any(character in path for character in "%.~"):  # nothing in it is escaped, here or there
        return path.replace("/", ".")
    return ".".join(stored_name(path))


def _empty(record: Record) -> NumpyArray:
    return np.empty(record.shape, dtype_by_name(record.dtype))


def _renamed(path: str, found: NumpyArray | Damage) -> NumpyArray | Damage:
    return Damage(path, found.reason) if isinstance(found, Damage) else found
