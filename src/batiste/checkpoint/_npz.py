"""NumPy's ``.npz`` files, without pickles: read only.

The file is a zip of ``.npy`` members; their names are the paths, with slashes between levels. A member says its shape
and its size before its data, and both are checked before anything is allocated. A dtype that NumPy does not know is
written by ``numpy.savez`` as raw bytes: two bytes an element are taken for bfloat16, anything else is refused.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from batiste.checkpoint._arrays import BYTES_BY_DTYPE, as_bytes, dtype_by_name
from batiste.checkpoint._directory import allowance
from batiste.checkpoint._manifest import Manifest, check_paths
from batiste.checkpoint._types import Box, Damage, NumpyArray, Record
from batiste.errors import CheckpointFormatError, RefusedCheckpointError
from batiste.tree import join_path

__all__ = ["NpzSource"]


class NpzSource:
    """An ``.npz`` file, opened: its members are listed, their data is not read.

    Raises:
      CheckpointFormatError: if it is no zip of ``.npy`` members.
      RefusedCheckpointError: if a member needs pickle, or says that it is larger than it can be.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._members: dict[str, str] = {}
        records: dict[str, Record] = {}
        try:
            with zipfile.ZipFile(path) as archive:
                entries = [entry for entry in archive.infolist() if entry.filename.endswith(".npy")]
                total, stored = sum(entry.file_size for entry in entries), path.stat().st_size
                if total > allowance(stored, compressed=True):
                    raise _refused(path, f"its {stored} bytes would become {total}")
                for entry in entries:
                    name = join_path(entry.filename.removesuffix(".npy").split("/"))
                    with archive.open(entry) as member:
                        shape, dtype, _ = _read_header(member, path, name)
                        size = math.prod(shape) * BYTES_BY_DTYPE[dtype]
                        if member.tell() + size != entry.file_size:
                            raise _refused(path, f"{name!r} has {entry.file_size} bytes and says {size}")
                    records[name] = Record(shape, dtype, size)
                    self._members[name] = entry.filename
        except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
            cure = "Look for the whole file: this one is cut or damaged."
            raise CheckpointFormatError(path=path, reason=f"it is no .npz file ({error})", cure=cure) from None
        check_paths(records, str(path))
        self._manifest = Manifest(dict(sorted(records.items())), storage={"format": "npz"})

    @property
    def path(self) -> Path:
        """Where the file is."""
        return self._path

    @property
    def manifest(self) -> Manifest:
        """What it holds."""
        return self._manifest

    def read(self, path: str, box: Box | None = None) -> NumpyArray | Damage:
        """Read one array; a box of it is cut out of the whole. The checksum of the zip is checked."""
        record = self._manifest.records[path]
        try:
            with zipfile.ZipFile(self._path) as archive, archive.open(self._members[path]) as member:
                shape, dtype, fortran = _read_header(member, self._path, path)
                if (shape, dtype) != (record.shape, record.dtype):
                    return Damage(path, "the file has changed since it was opened")
                array = np.empty(shape[::-1] if fortran else shape, dtype_by_name(dtype))
                view = as_bytes(array)
                done = 0
                while part := member.read(min(1 << 20, max(1, len(view) - done))):
                    view[done : done + len(part)] = part
                    done += len(part)
        except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, OSError) as error:
            return Damage(path, str(error))
        array = np.asarray(array.T, order="C") if fortran else array
        return array if box is None else array[box]

    def read_many(self, paths: Iterable[str]) -> Iterator[tuple[str, NumpyArray | Damage]]:
        """Read whole arrays, one at a time."""
        for path in paths:
            yield path, self.read(path)

    def check_files(self, *, whole: bool) -> list[Damage]:
        """Nothing is left to check: the zip keeps a checksum for each array."""
        del whole
        return []


def _read_header(member: Any, path: Path, name: str) -> tuple[tuple[int, ...], str, bool]:
    version = npy.read_magic(member)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = read(member)
    found: Any = dtype
    if found.hasobject:
        raise _refused(path, f"{name!r} holds Python objects, which only pickle could read")
    known = "bfloat16" if found == np.dtype("V2") else found.name
    if known not in BYTES_BY_DTYPE or not found.isnative:
        raise _refused(path, f"{name!r} has the dtype {found.str!r}")
    return tuple(shape), known, bool(fortran)


def _refused(path: Path, reason: str) -> RefusedCheckpointError:
    return RefusedCheckpointError(path=path, reason=reason, cure="Save numeric arrays with `numpy.savez`.")
