"""Orbax directories, read leaf by leaf with TensorStore, on which Orbax stands; ``_orbax_write.py`` writes them.

The arrays of a batiste directory are an ordinary Orbax checkpoint: ``orbax.checkpoint.v1.load`` opens it too. They are
read here without Orbax, which needs to know all leaves and their shardings before it reads one: TensorStore opens one
array, or a box of it, in a fraction of a millisecond, and what is known to be one entry of the database is read as one,
in a tenth of that. These two files are the only ones that know TensorStore.

Names: Orbax joins the levels of a path with dots, so a dot within a name is written ``%2E``.

Arrays are stored uncompressed unless asked for: random weights shrink by a few percent, and saving takes half the time.
A dtype that the storage does not know is stored as its bytes, one an element.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final, cast

import numpy as np

from batiste.checkpoint._arrays import dtype_by_name
from batiste.checkpoint._types import Box, Damage, NumpyArray, Record
from batiste.errors import MissingPackageError
from batiste.tree import split_path

__all__ = ["ITEM", "MARK", "ArrayStore", "PlainPath", "chunk_key", "require", "store_dtype", "stored_name"]

ITEM: Final = "state"
MARK: Final = "batiste"
_BYTES_ONLY: Final = frozenset({"float8_e4m3", "float8_e8m0fnu", "float4_e2m1fn", "int4", "uint4", "int2", "uint2"})
_BATCH_BYTES: Final = 1 << 26
_BATCH_LEAVES: Final = 1024
_TREE_CACHE: Final = 1 << 26


class PlainPath:
    """A path to a folder that TensorStore takes for what it is.

    It reads a backslash as a slash, and has no words for bytes that are not UTF-8: there, the path is that of a link
    beside the system's temporary files, which is gone when it is closed or forgotten.

    Attributes:
      path: the path, with slashes.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder.as_posix()
        self.close: Callable[[], Any] = _do_nothing
        if "\\" in self.path or not _is_text(self.path):
            aside = tempfile.mkdtemp()
            self.close = weakref.finalize(self, shutil.rmtree, aside, ignore_errors=True)
            link = Path(aside, "arrays")
            link.symlink_to(folder, target_is_directory=True)
            self.path = link.as_posix()


def _do_nothing() -> None:
    """What closing a path takes that is the folder's own."""


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def stored_name(path: str) -> tuple[str, ...]:
    """Return the names of the levels as Orbax has them."""
    parts = split_path(path)
    if not parts:
        return ("%root",)
    return tuple(part.replace("%", "%25").replace(".", "%2E").replace("/", "%2F") or "%" for part in parts)


def chunk_key(name: str, rank: int) -> str:
    """Return the key of the first chunk of an array, and of the only one where it has one."""
    return f"{name}/c{'/0' * rank}"


def store_dtype(record: Record) -> str:
    """Return the dtype in which a leaf is stored."""
    return "uint8" if record.dtype in _BYTES_ONLY else record.dtype


def require(module: str, package: str, purpose: str, extra: str = "checkpoint") -> None:
    """Say what is missing where a package is not installed, and which extra of batiste brings it.

    Raises:
      MissingPackageError: if it is not.
    """
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise MissingPackageError(purpose=purpose, package=package, install=f"'batiste[{extra}]'")


class ArrayStore:
    """The arrays of one Orbax folder, by the names that Orbax gives them.

    Args:
      folder: the folder with the arrays.
      zarr3: whether they are in the Zarr 3 format, else in Zarr 2.
      ocdbt: whether they are together in an OCDBT database, else each in a folder of its own.
      sparse: whether chunks of zeros were left out; where they were not, a missing chunk is a loss.
      whole_bytes: the size up to which an array is one entry of the OCDBT database, as it is in memory.
    """

    def __init__(
        self, folder: Path, *, zarr3: bool = True, ocdbt: bool = True, sparse: bool = False, whole_bytes: int = 0
    ) -> None:
        require("tensorstore", "orbax-checkpoint", "Reading an Orbax directory")
        self._library: Any = importlib.import_module("tensorstore")
        self._folder = PlainPath(folder)
        self._whole_bytes = whole_bytes
        self._entries: Any = None
        self._driver = "zarr3" if zarr3 else "zarr"
        self._ocdbt = ocdbt
        self._sparse = sparse
        self._context: Any = self._library.Context({"cache_pool#tree": {"total_bytes_limit": _TREE_CACHE}})

    def shape_and_dtype(self, names: Iterable[str]) -> dict[str, tuple[tuple[int, ...], str] | Damage]:
        """Return the shape and dtype of each array, from its own description."""
        opened = [(name, self._open(name)) for name in names]
        found: dict[str, tuple[tuple[int, ...], str] | Damage] = {}
        for name, future in opened:
            store = _result(name, future)
            if isinstance(store, Damage):
                found[name] = store
            else:
                found[name] = tuple(store.shape), store.dtype.numpy_dtype.name
        return found

    def read(self, name: str, record: Record, box: Box | None = None) -> NumpyArray | Damage:
        """Read one array, or a box of it."""
        started = self._start(name, record, self._begin(name, record), box)
        return started if isinstance(started, Damage) else self._finish(name, record, started, box)

    def read_many(self, wanted: Iterable[tuple[str, Record]]) -> Iterator[NumpyArray | Damage]:
        """Read whole arrays in order; while one batch is handed out, the next is being read."""
        before: list[tuple[str, Record, Any]] = []
        for batch in _batches(wanted):
            opened = [(name, record, self._begin(name, record)) for name, record in batch]
            started = [(name, record, self._start(name, record, future, None)) for name, record, future in opened]
            yield from self._finish_all(before)
            before = started
        yield from self._finish_all(before)

    def _finish_all(self, batch: list[tuple[str, Record, Any]]) -> Iterator[NumpyArray | Damage]:
        batch.reverse()
        while batch:
            name, record, started = batch.pop()
            yield started if isinstance(started, Damage) else self._finish(name, record, started, None)

    def _begin(self, name: str, record: Record) -> Any:
        """Begin to read an array that is one entry, or to open another."""
        if record.bytes > self._whole_bytes:
            return self._open(name)
        try:
            if self._entries is None:
                self._entries = self._library.KvStore.open(self._base(), context=self._context).result()
            return self._entries.read(chunk_key(name, len(record.shape)))
        except (RuntimeError, ValueError) as error:
            return Damage(name, f"it cannot be read ({_reason(error)})")

    def _base(self) -> dict[str, Any]:
        store: dict[str, Any] = {"driver": "file", "path": f"{self._folder.path}/"}
        return {"driver": "ocdbt", "base": store, "cache_pool": "cache_pool#tree"} if self._ocdbt else store

    def _open(self, name: str) -> Any:
        store = self._base()
        store["path"] = f"{store.get('path', '')}{name}/"
        spec = {"driver": self._driver, "kvstore": store, "fill_missing_data_reads": self._sparse}
        try:
            return self._library.open(spec, open=True, context=self._context)
        except (RuntimeError, ValueError) as error:  # a name that is no text
            return Damage(name, f"it cannot be read ({error})")

    def _start(self, name: str, record: Record, future: Any, box: Box | None) -> Any:
        """Begin to read; what the array says of itself is compared with the record before anything is allocated."""
        if record.bytes <= self._whole_bytes:
            return future
        store = _result(name, future)
        if isinstance(store, Damage):
            return store
        if tuple(store.shape) != record.shape or store.dtype.numpy_dtype.name != store_dtype(record):
            found = f"{store.dtype.numpy_dtype.name}{list(store.shape)}"
            return Damage(name, f"it is stored as {found}, and the manifest says {record}")
        chunk = store.chunk_layout.read_chunk.shape or ()
        if math.prod(chunk) > max(1 << 20, 2 * math.prod(record.shape)):
            return Damage(name, f"its chunks of shape {list(chunk)} are larger than the array")
        return (store if box is None else store[box]).read(order="C")

    def _finish(self, name: str, record: Record, started: Any, box: Box | None) -> NumpyArray | Damage:
        found = _result(name, started)
        if isinstance(found, Damage):
            return found
        dtype = dtype_by_name(record.dtype)
        if record.bytes > self._whole_bytes:
            return cast("NumpyArray", np.asarray(found)).view(dtype)
        if found.state != "value":
            return Damage(name, "it cannot be read (the database has no such array)")
        if len(found.value) != record.bytes:
            return Damage(name, f"it is stored as {len(found.value)} bytes, and the manifest says {record}")
        array = np.frombuffer(found.value, dtype).reshape(record.shape)
        return array.copy() if box is None else array[box].copy()


def _batches(wanted: Iterable[tuple[str, Record]]) -> Iterator[list[tuple[str, Record]]]:
    batch: list[tuple[str, Record]] = []
    size = 0
    for name, record in wanted:
        if batch and (size + record.bytes > _BATCH_BYTES or len(batch) == _BATCH_LEAVES):
            yield batch
            batch, size = [], 0
        batch.append((name, record))
        size += record.bytes
    if batch:
        yield batch


def _result(name: str, future: Any) -> Any:
    if isinstance(future, Damage):
        return future
    try:
        return future.result()
    except (ValueError, RuntimeError, OSError) as error:
        return Damage(name, f"it cannot be read ({_reason(error)})")


def _reason(error: Exception) -> str:
    return str(error).partition("[")[0].partition("\n")[0].strip()[:160]
