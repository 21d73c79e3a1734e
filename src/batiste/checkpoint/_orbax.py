"""Orbax directories: written with Orbax's own v1 interface, read leaf by leaf with TensorStore, on which Orbax stands.

The arrays of a batiste directory are an ordinary Orbax checkpoint: ``orbax.checkpoint.v1.load`` opens it too. They are
read here without Orbax, which needs to know all leaves and their shardings before it reads one: TensorStore opens one
array, or a box of it, in a fraction of a millisecond. This is the only file that knows either library.

Names: Orbax joins the levels of a path with dots, so a dot within a name is written ``%2E``.

Arrays are stored uncompressed unless asked for: random weights shrink by a few percent, and saving takes half the time.
A dtype that the storage does not know is stored as its bytes, one an element.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import importlib.util
import logging
import math
import os
import tempfile
import threading
from collections.abc import Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, cast

import numpy as np

from batiste.checkpoint._arrays import dtype_by_name
from batiste.checkpoint._types import Box, Damage, NumpyArray, Record
from batiste.errors import MissingPackageError
from batiste.tree import split_path

__all__ = ["ITEM", "MARK", "ArrayStore", "store_dtype", "stored_name", "write_arrays"]

ITEM: Final = "state"
MARK: Final = "batiste"
_ALONE: Final = threading.Lock()  # two saves at once in one process take each other's folders in Orbax 0.12
_BYTES_ONLY: Final = frozenset({"float8_e4m3", "float8_e8m0fnu", "float4_e2m1fn", "int4", "uint4", "int2", "uint2"})
_BATCH_BYTES: Final = 1 << 26
_BATCH_LEAVES: Final = 256
_TREE_CACHE: Final = 1 << 26


def write_arrays(folder: Path, arrays: Mapping[str, Any], *, compress: bool) -> None:
    """Write arrays by path as an Orbax checkpoint.

    Args:
      folder: where; it must not exist.
      arrays: JAX or NumPy arrays, none of size zero, with dtypes that ``store_dtype`` gives.
      compress: whether to compress them (zstd).

    Raises:
      OSError: if they could not be written.
    """
    require("orbax.checkpoint", "orbax-checkpoint", "Saving a directory")
    ocp: Any = importlib.import_module("orbax.checkpoint").v1
    tree: dict[str, Any] = {}
    for path, array in arrays.items():
        *levels, name = stored_name(path)
        level = tree
        for part in levels:
            level = level.setdefault(part, {})
        level[name] = array
    context: Any = ocp.Context()
    context.array.saving.use_compression = compress
    context.memory.deepcopy_host_arrays = False  # nobody changes them before this returns
    with _ALONE, _quiet_orbax(), _plain_path(folder) as place:
        try:
            with context:
                ocp.save(place, tree, checkpointable_name=ITEM, custom_metadata={MARK: True})
        except ValueError as error:  # TensorStore's errors, which name the system's reason somewhere in their text
            text = str(error)
            number = next((number for number in errno.errorcode if os.strerror(number) in text), None)
            raise OSError(number, os.strerror(number)) if number else OSError(text[:200]) from error


@contextlib.contextmanager
def _plain_path(folder: Path) -> Generator[Path]:
    """Give a path to the same place without ``*``, ``?`` and ``[``: Orbax takes them for patterns and loses arrays."""
    if not set(str(folder.parent)) & set("*?["):
        yield folder
        return
    with tempfile.TemporaryDirectory() as aside:
        link = Path(aside, "folder")
        link.symlink_to(folder.parent, target_is_directory=True)
        yield link / folder.name


@contextlib.contextmanager
def _quiet_orbax() -> Generator[None]:
    """Keep Orbax from logging, with a page of traceback for each thread, an error that is raised as well."""

    def is_not_orbax(record: logging.LogRecord) -> bool:
        return "orbax" not in record.pathname

    logger = logging.getLogger("absl")
    logger.addFilter(is_not_orbax)
    try:
        yield
    finally:
        logger.removeFilter(is_not_orbax)


def stored_name(path: str) -> tuple[str, ...]:
    """Return the names of the levels as Orbax has them."""
    parts = split_path(path)
    if not parts:
        return ("%root",)
    return tuple(part.replace("%", "%25").replace(".", "%2E").replace("/", "%2F") or "%" for part in parts)


def store_dtype(record: Record) -> str:
    """Return the dtype in which a leaf is stored."""
    return "uint8" if record.dtype in _BYTES_ONLY else record.dtype


def require(module: str, package: str, purpose: str, extra: str | None = None) -> None:
    """Say what is missing where a package is not installed, and which extra of batiste brings it.

    Raises:
      MissingPackageError: if it is not.
    """
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise MissingPackageError(purpose=purpose, package=package, install=f"'batiste[{extra}]'" if extra else package)


class ArrayStore:
    """The arrays of one Orbax folder, by the names that Orbax gives them.

    Args:
      folder: the folder with the arrays.
      zarr3: whether they are in the Zarr 3 format, else in Zarr 2.
      ocdbt: whether they are together in an OCDBT database, else each in a folder of its own.
      sparse: whether chunks of zeros were left out; where they were not, a missing chunk is a loss.
    """

    def __init__(self, folder: Path, *, zarr3: bool = True, ocdbt: bool = True, sparse: bool = False) -> None:
        require("tensorstore", "orbax-checkpoint", "Reading an Orbax directory")
        self._library: Any = importlib.import_module("tensorstore")
        self._folder = folder
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
        started = self._start(name, record, self._open(name), box)
        return started if isinstance(started, Damage) else self._finish(name, record, started)

    def read_many(self, wanted: Iterable[tuple[str, Record]]) -> Iterator[NumpyArray | Damage]:
        """Read whole arrays in order; while one batch is handed out, the next is being read."""
        before: list[tuple[str, Record, Any]] = []
        for batch in _batches(wanted):
            opened = [(name, record, self._open(name)) for name, record in batch]
            started = [(name, record, self._start(name, record, future, None)) for name, record, future in opened]
            yield from self._finish_all(before)
            before = started
        yield from self._finish_all(before)

    def _finish_all(self, batch: list[tuple[str, Record, Any]]) -> Iterator[NumpyArray | Damage]:
        while batch:
            name, record, started = batch.pop(0)
            yield started if isinstance(started, Damage) else self._finish(name, record, started)

    def _open(self, name: str) -> Any:
        store: dict[str, Any] = {"driver": "file", "path": f"{self._folder.as_posix()}/"}
        if self._ocdbt:
            store = {"driver": "ocdbt", "base": store, "path": f"{name}/", "cache_pool": "cache_pool#tree"}
        else:
            store["path"] += f"{name}/"
        spec = {"driver": self._driver, "kvstore": store, "fill_missing_data_reads": self._sparse}
        try:
            return self._library.open(spec, open=True, context=self._context)
        except (RuntimeError, ValueError) as error:  # a name that is no text
            return Damage(name, f"it cannot be read ({error})")

    def _start(self, name: str, record: Record, future: Any, box: Box | None) -> Any:
        """Begin to read; what the array says of itself is compared with the record before anything is allocated."""
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

    def _finish(self, name: str, record: Record, started: Any) -> NumpyArray | Damage:
        array = _result(name, started)
        if isinstance(array, Damage):
            return array
        return cast("NumpyArray", np.asarray(array)).view(dtype_by_name(record.dtype))


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
    except (ValueError, OSError) as error:
        reason = str(error).partition("[")[0].partition("\n")[0].strip()
        return Damage(name, f"it cannot be read ({reason[:160]})")
