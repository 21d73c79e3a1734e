"""NumPy's ``.npz`` files, without pickles.

The file is a zip of ``.npy`` members; their names are the paths, with slashes between levels. A member says its shape
and its size before its data, and both are checked before anything is allocated. A dtype that NumPy does not know is
written by ``numpy.savez`` as raw bytes: two bytes an element are taken for bfloat16. A member that is no array of
numbers (text, dates, records, Python objects, other raw bytes, another file) is an opaque entry.

A file that batiste saved is an ordinary one: ``numpy.load`` gives the same arrays by the same names, plain values as
arrays without axes, random keys as their data, and dtypes that it does not know as raw bytes. Its manifest lies
between the last member and the table at the end of the zip, where no zip reader looks; the comment of the zip says
where, and has the digest of the *frame*, which is all that is neither data nor manifest. So nothing is lost, every bit
can be checked, and ``numpy.load(...).files`` has only the arrays.
"""

from __future__ import annotations

import contextlib
import io
import lzma
import math
import os
import re
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import numpy as np
from numpy.lib import format as npy

from batiste.checkpoint._arrays import BYTES_BY_DTYPE, as_bytes, digest_array, digest_bytes, dtype_by_name
from batiste.checkpoint._directory import allowance
from batiste.checkpoint._manifest import MAX_MANIFEST_BYTES, Manifest, check_depth
from batiste.checkpoint._types import Box, Damage, NumpyArray, Record
from batiste.checkpoint._unchanged import Unchanged
from batiste.errors import CheckpointFormatError, DamagedCheckpointError, RefusedCheckpointError
from batiste.tree import join_path

__all__ = ["NpzSource", "dtype_words", "read_npy_header", "write_npz"]

_COMMENT: Final = re.compile(rb"batiste\.checkpoint ([0-9]{20}) ([0-9]{20}) ([0-9a-f]{32})")
_COMMENT_LENGTH: Final = 93
_END_LENGTH: Final = 22
_DIGEST_LENGTH: Final = 32
_MOST_HEADER: Final = 1 << 16
_MOST_INT: Final = 1 << 63
_BAD_DATA: Final = (zipfile.BadZipFile, zlib.error, lzma.LZMAError)
_BROKEN: Final = (*_BAD_DATA, EOFError, ValueError, NotImplementedError, RuntimeError)


def write_npz(file_path: Path, manifest: Manifest, fetch: Callable[[str], NumpyArray], *, compress: bool) -> None:
    """Write a file, one leaf at a time, and fill in the digests of the manifest's records.

    Args:
      file_path: where.
      manifest: what is written; the digests of its records are set here.
      fetch: returns the array at a path, in C order.
      compress: whether to compress the members.
    """
    method = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with file_path.open("wb") as file, zipfile.ZipFile(file, "w", method, allowZip64=True) as archive:
        for path, record in manifest.records.items():
            array = _plain_array(record.value) if record.kind is not None else fetch(path)
            if array is None:
                continue
            if record.kind is None:
                record.digest = digest_array(array)
            head = io.BytesIO()
            npy.write_array_header_1_0(head, npy.header_data_from_array_1_0(array.view(_stored_dtype(array.dtype))))
            entry = zipfile.ZipInfo(_member(path))
            entry.compress_type = method
            with archive.open(entry, "w", force_zip64=True) as member:
                member.write(head.getvalue())
                member.write(array.tobytes() if record.kind is not None else as_bytes(array))
        text = manifest.to_text().encode()
        start = file.tell()  # where the table will be
        archive.comment = b"batiste.checkpoint %020d %020d %s" % (start, len(text), b"0" * _DIGEST_LENGTH)
    with file_path.open("r+b") as file:
        _insert(file, start, text)
        with zipfile.ZipFile(file) as archive:
            digest = _frame_digest(file, archive, _members(manifest).values(), start, len(text))
        file.seek(-_DIGEST_LENGTH, os.SEEK_END)
        file.write(digest.encode())


def _insert(file: BinaryIO, start: int, text: bytes) -> None:
    """Put something before the table of a zip, which begins at ``start``, and say at its end where it now begins.

    The end of a zip is in https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, sections 4.3.14 to 4.3.16. What
    is long enough for fields of 64 bits has them before the insertion too: Python writes them from 2 GiB on.
    """
    file.seek(start)
    table = bytearray(file.read())
    end = len(table) - _END_LENGTH - _COMMENT_LENGTH
    moved = [(end + 16, "<L")]
    if table.startswith(b"PK\x06\x07", end - 20):
        moved.append((end - 12, "<Q"))
        moved.append((int(struct.unpack_from("<Q", table, end - 12)[0]) - start + 48, "<Q"))
    for at, form in moved:
        place = int(struct.unpack_from(form, table, at)[0])
        if (form, place) != ("<L", 0xFFFFFFFF):  # which stands for the field of 64 bits
            struct.pack_into(form, table, at, place + len(text))
    file.seek(start)
    file.write(text)
    file.write(table)


class NpzSource:
    """An ``.npz`` file, opened: its members are listed, their data is not read.

    Raises:
      CheckpointFormatError: if it is no zip of ``.npy`` members.
      DamagedCheckpointError: if batiste saved it and it is not as it was.
      RefusedCheckpointError: if a member says that it is larger than it can be, or if no member is an array of numbers.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            with path.open("rb") as file, zipfile.ZipFile(file) as archive:
                self._unchanged = Unchanged(path, opened=file)
                entries = [entry for entry in archive.infolist() if not entry.is_dir()]
                total, stored = sum(entry.file_size for entry in entries), os.fstat(file.fileno()).st_size
                if any(entry.compress_size > stored for entry in entries):
                    raise _refused(path, f"a member would have more than its {stored} bytes")
                if total > allowance(stored, compressed=True):
                    raise _refused(path, f"its {stored} bytes would become {total}")
                text = self._manifest_text(archive, file)
                records = {} if text is not None else self._foreign(archive, entries)
        except PermissionError:
            raise
        except (*_BROKEN, OSError) as error:  # a place outside the file is an invalid argument to the system
            cure = "Look for the whole file: this one is cut or damaged."
            raise CheckpointFormatError(path=path, reason=f"it is no .npz file ({error})", cure=cure) from None
        if text is None:
            check_depth(records, str(path))
            if self._opaque and not records:
                first, what = next(iter(self._opaque.items()))
                raise _refused(path, f"{first!r} is {what}, which only pickle could read, and it holds nothing else")
            ordered = dict(sorted(records.items()))
            self._manifest = Manifest(ordered, storage={"format": "npz"}, opaque=self._opaque)
            return
        self._manifest = Manifest.from_text(text, str(path))
        self._members = _members(self._manifest)
        self._check_table({entry.filename: entry.file_size for entry in entries})

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
        try:
            with self._archive() as (_, archive):
                array = self._read(archive, path)
        except (*_BROKEN, OSError) as error:
            return Damage(path, str(error))
        return array if box is None or isinstance(array, Damage) else array[box]

    def read_many(self, paths: Iterable[str]) -> Iterator[tuple[str, NumpyArray | Damage]]:
        """Read whole arrays, one at a time."""
        with contextlib.ExitStack() as stack:
            try:
                _, archive = stack.enter_context(self._archive())
            except (*_BROKEN, OSError) as error:
                yield from ((path, Damage(path, str(error))) for path in paths)
                return
            for path in paths:
                yield path, self._read(archive, path)

    def check_files(self, *, whole: bool) -> list[Damage]:
        """Check the frame of a file that batiste saved; all else has digests of its own, or a checksum of the zip."""
        del whole
        if self._frame is None:
            return []
        start, length, digest = self._frame
        try:
            with self._archive() as (file, archive):
                same = _frame_digest(file, archive, self._members.values(), start, length) == digest
        except (*_BROKEN, OSError) as error:
            return [Damage("the zip", str(error))]
        return [] if same else [Damage("the zip", "it is not as it was written")]

    @contextlib.contextmanager
    def _archive(self) -> Generator[tuple[BinaryIO, zipfile.ZipFile]]:
        with self._unchanged.open() as raw, io.BufferedReader(cast("Any", raw)) as file, zipfile.ZipFile(file) as found:
            yield cast("BinaryIO", file), found

    def _manifest_text(self, archive: zipfile.ZipFile, file: BinaryIO) -> str | None:
        """The manifest that the comment tells of; None where the file is not one of batiste."""
        self._frame: tuple[int, int, str] | None = None
        comment = archive.comment
        if len(comment) != _COMMENT_LENGTH and not comment.startswith(b"batiste"):
            return None
        found = _COMMENT.fullmatch(comment)
        start, length = (int(found[1]), int(found[2])) if found is not None else (-1, -1)
        if not (0 < length <= MAX_MANIFEST_BYTES and 0 <= start <= os.fstat(file.fileno()).st_size - length):
            raise _damaged(self._path, "the comment of the zip has changed")
        self._frame = start, length, found[3].decode() if found is not None else ""
        file.seek(start)
        return file.read(length).decode(errors="replace")

    def _foreign(self, archive: zipfile.ZipFile, entries: list[zipfile.ZipInfo]) -> dict[str, Record]:
        """The records of a file that batiste did not save, each from the header of its member."""
        records: dict[str, Record] = {}
        self._members: dict[str, str] = {}
        self._opaque: dict[str, str] = {}
        for entry in entries:
            name = join_path(entry.filename.removesuffix(".npy").split("/"))
            if name in records or name in self._opaque:
                raise _refused(self._path, f"two members have the name {name!r}")
            with archive.open(entry) as member:
                try:
                    shape, found, _ = read_npy_header(member)
                except (EOFError, ValueError) as error:
                    if entry.filename.endswith(".npy"):
                        message = f"{name!r}: {error}"
                        raise ValueError(message) from None
                    self._opaque[name] = "a file that is no array"
                    continue
                dtype = "bfloat16" if found == np.dtype("V2") else found.newbyteorder("=").name
                if found.hasobject or dtype not in BYTES_BY_DTYPE:
                    self._opaque[name] = dtype_words(found)
                    continue
                size = math.prod(shape) * BYTES_BY_DTYPE[dtype]
                if member.tell() + size != entry.file_size:
                    raise _refused(self._path, f"{name!r} has {entry.file_size} bytes and says {size}")
            records[name] = Record(shape, dtype, size)
            self._members[name] = entry.filename
        return records

    def _check_table(self, sizes: Mapping[str, int]) -> None:
        """Compare the table of the zip with the manifest."""
        for path, member in self._members.items():
            size = self._manifest.records[path].bytes
            if not size < sizes.get(member, 0) <= size + _MOST_HEADER:
                raise _damaged(self._path, f"its table and the manifest do not agree on {path!r}")

    def _read(self, archive: zipfile.ZipFile, path: str) -> NumpyArray | Damage:
        record = self._manifest.records[path]
        dtype = dtype_by_name(record.dtype)
        try:
            with archive.open(self._members[path]) as member:
                shape, found, fortran = read_npy_header(member)
                if shape != record.shape or found.newbyteorder("=") != _stored_dtype(dtype):
                    return Damage(path, "the file and what is known of it do not agree")
                array = np.empty(shape[::-1] if fortran else shape, dtype)
                view = as_bytes(array)
                done = 0
                while part := member.read(min(1 << 20, max(1, len(view) - done))):
                    view[done : done + len(part)] = part
                    done += len(part)
        except (*_BROKEN, OSError, KeyError) as error:
            return Damage(path, str(error))
        if done != len(view):
            return Damage(path, "the file ends within it")
        if not found.isnative:
            array = array.byteswap()
        return np.asarray(array.T, order="C") if fortran else array


def _frame_digest(file: BinaryIO, archive: zipfile.ZipFile, arrays: Iterable[str], start: int, length: int) -> str:
    """The digest of what is neither the data of an array nor manifest: heads, plain values, the table at the end."""
    parts: list[bytes] = []
    held = set(arrays)
    ordered = sorted(archive.infolist(), key=lambda entry: entry.header_offset)
    ends = [*(entry.header_offset for entry in ordered[1:]), start]
    for entry, end in zip(ordered, ends, strict=False):
        data = entry.compress_size if entry.filename in held else 0
        file.seek(entry.header_offset)
        parts.append(file.read(max(0, end - data - entry.header_offset)))
    file.seek(start + length)
    parts.append(file.read()[:-_DIGEST_LENGTH])
    return digest_bytes(*parts)


def _members(manifest: Manifest) -> dict[str, str]:
    """The names of the members that hold arrays, by path."""
    return {path: _member(path) for path, record in manifest.records.items() if record.kind is None}


def _member(path: str) -> str:
    """The name of the member that holds a leaf; NumPy's own for the one array that has no name."""
    return f"{path or 'arr_0'}.npy"


def _stored_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype that NumPy has for this one: itself, or raw bytes."""
    return dtype if dtype.type.__module__ == "numpy" else np.dtype(f"V{dtype.itemsize}")


def _plain_array(value: Any) -> NumpyArray | None:
    """A plain value as NumPy has it; None where only Python has it."""
    is_long = isinstance(value, int) and not -_MOST_INT <= value < _MOST_INT
    return None if is_long or isinstance(value, bytes) else np.asarray(value)


def dtype_words(dtype: np.dtype[Any]) -> str:
    """Return what an array is whose elements are no numbers."""
    if dtype.hasobject:
        return "an array of Python objects"
    kinds = {"U": "text", "S": "bytes", "M": "dates", "m": "durations"}
    what = "records" if dtype.names else kinds.get(dtype.kind, f"dtype {dtype.name}")
    return f"an array of {what}"


def read_npy_header(member: Any) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
    """Read what is before the data.

    Raises:
      ValueError: if it is no header, or one that says that it is longer than any.
    """
    is_first = npy.read_magic(member) == (1, 0)
    length = member.read(2 if is_first else 4)
    count = int.from_bytes(length, "little")
    if count > _MOST_HEADER:
        message = f"the header of an array would have {count} bytes"
        raise ValueError(message)
    read = npy.read_array_header_1_0 if is_first else npy.read_array_header_2_0
    try:
        shape, fortran, dtype = read(io.BytesIO(length + member.read(count)))
    except tokenize.TokenError as error:
        raise ValueError(*error.args) from error
    return tuple(shape), dtype, bool(fortran)


def _refused(path: Path, reason: str) -> RefusedCheckpointError:
    return RefusedCheckpointError(path=path, reason=reason, cure="Save numeric arrays with `numpy.savez`.")


def _damaged(path: Path, reason: str) -> DamagedCheckpointError:
    return DamagedCheckpointError(path=path, count=1, lines=f"  the zip: {reason}")
