"""Single files of other programs: NumPy's ``.npy`` and Equinox's ``.eqx``, HDF5 (Keras's ``.weights.h5``): read only.

A file of Equinox (``tree_serialise_leaves``) is one ``.npy`` after the other, in the order of the model's leaves and
without names; a line of JSON may come before them. Its leaves have numbers as paths, and ``restore`` into a target
takes them in the target's order. A file with one array is that array.

HDF5 is read with ``h5py``: datasets are leaves, groups are levels. A dataset that lies in another file, or that is no
array of numbers, is an opaque entry; links are not followed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import math
import tokenize
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import numpy as np

from batiste.checkpoint._arrays import BYTES_BY_DTYPE, dtype_by_name
from batiste.checkpoint._directory import allowance
from batiste.checkpoint._manifest import Manifest, check_depth
from batiste.checkpoint._npz import dtype_words, read_npy_header
from batiste.checkpoint._orbax import require
from batiste.checkpoint._strided import Readable, Stored, StridedSource, dense, in_file
from batiste.checkpoint._types import Box, NumpyArray, Record
from batiste.errors import CheckpointFormatError, CheckpointMismatchError, RefusedCheckpointError
from batiste.tree import join_path

__all__ = ["NAMELESS", "NUMPY_MAGIC", "in_order", "is_named_npy", "open_hdf5", "open_npy"]

NAMELESS: Final = ("equinox", "npy")
"""The formats without names."""

NUMPY_MAGIC: Final = b"\x93NUMPY"
_MOST_LINE: Final = 1 << 16
_CUT: Final = "Look for the whole file: this one is cut or damaged."


def is_named_npy(path: Path) -> bool:
    """Return whether a file is a line of JSON with arrays of NumPy behind it."""
    with path.open("rb") as file:
        line = file.readline(_MOST_LINE)
        return line[:1] == b"{" and line[-1:] == b"\n" and file.read(len(NUMPY_MAGIC)) == NUMPY_MAGIC


def open_npy(path: Path) -> StridedSource:
    """Open a file of one or more arrays, each with its header; their data is mapped and not read.

    Raises:
      CheckpointFormatError: if a header is none, or if the file ends within an array.
      RefusedCheckpointError: if its only array holds no numbers.
    """
    metadata: dict[str, Any] = {}
    found: list[Stored | str] = []
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(1) == b"{":
            file.seek(0)
            with contextlib.suppress(ValueError, RecursionError):
                metadata = {"header": json.loads(file.readline(_MOST_LINE))}
        else:
            file.seek(0)
        try:
            while file.tell() < size:
                found.append(_next_array(path, file, size))
        except (ValueError, EOFError, OverflowError, tokenize.TokenError) as error:
            reason = f"array {len(found)} in it cannot be read ({error})"
            raise CheckpointFormatError(path=path, reason=reason, cure=_CUT) from None
    alone = len(found) == 1 and not metadata
    manifest = Manifest({}, storage={"format": "npy" if alone else "equinox"}, metadata=metadata)
    if not alone:
        manifest.containers[""] = {"kind": "list", "size": len(found)}
    arrays: dict[str, Readable] = {}
    for number, each in enumerate(found):
        name = "" if alone else str(number)
        if isinstance(each, str):
            manifest.opaque[name] = each
            continue
        arrays[name] = each
        manifest.records[name] = Record(each.shape, each.dtype.newbyteorder("=").name, each.nbytes)
    if not arrays and manifest.opaque:
        reason = f"it is {next(iter(manifest.opaque.values()))}"
        raise RefusedCheckpointError(path=path, reason=reason, cure="Save numeric arrays with `numpy.save`.")
    return StridedSource(path, manifest, arrays)


def _next_array(path: Path, file: BinaryIO, size: int) -> Stored | str:
    """The array that begins where the file is read, or what it is where it holds no numbers."""
    shape, dtype, fortran = read_npy_header(file)
    if dtype.hasobject:
        file.seek(0, 2)  # a pickle of unknown length, and what follows it cannot be found
        return dtype_words(dtype)
    begin = file.tell()
    length = math.prod(shape) * dtype.itemsize
    if length > size - begin:
        message = f"{length} bytes at {begin} of {size}"
        raise ValueError(message)
    file.seek(begin + length)
    kind = dtype_by_name("bfloat16") if dtype == np.dtype("V2") else dtype
    if kind.newbyteorder("=").name not in BYTES_BY_DTYPE:
        return dtype_words(dtype)
    return Stored(shape, kind, in_file(path, begin, begin + length), 0, dense(shape, fortran=fortran))


def in_order(path: Path, old: Manifest, arrays: Sequence[Any], wanted: Iterable[str]) -> StridedSource:
    """Return a file without names as one whose arrays have these paths, in their order.

    Args:
      path: the file.
      old: what it holds.
      arrays: its arrays, lazy.
      wanted: the paths.

    Raises:
      CheckpointMismatchError: if there are not as many.
    """
    names = list(wanted)
    if len(names) != len(old.records) or old.opaque:
        others = f" and {len(old.opaque)} others" if old.opaque else ""
        line = f"  the target has {len(names)} arrays and numbers, the file has {len(old.records)} arrays{others}"
        raise CheckpointMismatchError(path=path, count=abs(len(names) - len(old.records)), lines=line, advice="")
    named: dict[str, Readable] = dict(zip(names, arrays, strict=True))
    records = dict(zip(names, old.records.values(), strict=True))
    manifest = Manifest(records, storage=dict(old.storage), metadata=dict(old.metadata))
    return StridedSource(path, manifest, named)


@dataclasses.dataclass(frozen=True, slots=True)
class _Dataset:
    """A dataset of an HDF5 file."""

    path: Path
    name: str

    def read(self, box: Box | None = None) -> NumpyArray:
        """Read it; the file is opened for each."""
        with importlib.import_module("h5py").File(self.path, "r") as file:
            found = np.asarray(file[self.name][() if box is None else box])
        return np.asarray(found, found.dtype.newbyteorder("="), order="C")


def open_hdf5(path: Path) -> StridedSource:
    """Open an HDF5 file; the data of its datasets is not read.

    Raises:
      MissingPackageError: if h5py is not installed.
      CheckpointFormatError: if it cannot be read.
      RefusedCheckpointError: if it describes more than its size on the disk can stand for.
    """
    require("h5py", "h5py", "Reading an HDF5 file", "files")
    library: Any = importlib.import_module("h5py")
    manifest = Manifest({}, storage={"format": "hdf5"})
    arrays: dict[str, Readable] = {}

    try:
        with library.File(path, "r") as file:
            _add_groups(path, library, file, manifest, arrays)
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, RecursionError) as error:
        reason = f"it is an HDF5 file that cannot be read ({str(error)[:160]})"
        raise CheckpointFormatError(path=path, reason=reason, cure=_CUT) from None
    check_depth([*manifest.records, *manifest.opaque], str(path))
    stored = path.stat().st_size
    if manifest.bytes > allowance(stored, compressed=True):
        reason = f"it describes {manifest.bytes} bytes of arrays and has {stored} on the disk"
        raise RefusedCheckpointError(path=path, reason=reason, cure="Do not trust where it came from.")
    manifest.records = dict(sorted(manifest.records.items()))
    return StridedSource(path, manifest, arrays)


def _add_groups(path: Path, library: Any, file: Any, manifest: Manifest, arrays: dict[str, Readable]) -> None:
    """Add every dataset by each of its names, soft links too, and every group by one."""
    groups: list[tuple[str, Any]] = [("", file)]
    seen = {file}
    while groups:
        above, group = groups.pop()
        for name in group:
            whole = f"{above}{name}"
            link, node = group.get(name, getlink=True), None
            if not isinstance(link, library.ExternalLink):
                node = group.get(name)
            if isinstance(node, library.Dataset):
                _add_dataset(path, whole, node, manifest, arrays)
            elif isinstance(node, library.Group) and node not in seen:
                seen.add(node)
                groups.append((f"{whole}/", node))
            elif isinstance(link, library.SoftLink | library.ExternalLink) and node is None:
                manifest.opaque[join_path(whole.split("/"))] = f"a link to {str(link.path)[:160]!r}, which is not here"
            elif node is None:
                message = f"{whole!r} cannot be opened"
                raise ValueError(message)


def _add_dataset(path: Path, name: str, node: Any, manifest: Manifest, arrays: dict[str, Readable]) -> None:
    leaf = join_path(name.split("/"))
    dtype = cast("np.dtype[Any]", node.dtype)
    if node.shape is None:
        manifest.containers[leaf] = {"kind": "none"}
    elif node.is_virtual or node.external:
        manifest.opaque[leaf] = "a dataset that lies in other files"
    elif dtype.hasobject or dtype.newbyteorder("=").name not in BYTES_BY_DTYPE:
        manifest.opaque[leaf] = "an array of text" if dtype.hasobject else dtype_words(dtype)
    else:
        shape = tuple(int(extent) for extent in node.shape)
        manifest.records[leaf] = Record(shape, dtype.newbyteorder("=").name, math.prod(shape) * dtype.itemsize)
        arrays[leaf] = _Dataset(path, name)
