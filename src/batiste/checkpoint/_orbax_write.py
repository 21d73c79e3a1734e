"""Orbax folders, written with TensorStore, on which Orbax stands: Orbax opens them, and each byte is written once.

The layout is the one that ``orbax.checkpoint.v1.save`` leaves: an OCDBT database with each array in the Zarr 3 format
under its name (``NAME/zarr.json``, ``NAME/c/0/0``), and beside it the tables that Orbax reads. Both its interfaces open
it, which the tests hold against the installed one. It is written here because Orbax takes a millisecond a leaf, waits
five minutes for threads of its own where the system refuses a folder, and needs all arrays in memory at once.

An array up to ``WHOLE_BYTES`` that is not compressed is one chunk: its description and its bytes are two entries of the
database. Larger ones are written in chunks that are the shards of the array, cut along the first axes to at most
``_CHUNK_BYTES``. Bytes go through TensorStore's Zarr driver, which writes them from where they are, save those of the
smallest arrays (``_COPIED_BYTES``), for which it takes longer than a copy. All are gathered in transactions of
``_TOGETHER`` bytes: a commit writes the nodes of the database's tree, which takes longer than an array of a megabyte
does. They are atomic, which makes one file of each: else TensorStore commits in as many rounds as the threads happen to
take (2 to 23 files for 1,000 small arrays beside other work), and each round leaves a node. While one is written, the
next is gathered; no more than these two are in memory, and for an instant one that a thread has not let go of.

Several processes write a database each, ``ocdbt.process_3`` within the folder, as Orbax does. ``merge`` then makes the
folder one database, whose tree refers to their files, so that no array is written twice.
"""

from __future__ import annotations

import base64
import errno
import importlib
import json
import math
import os
import types
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from batiste.checkpoint._arrays import dtype_by_name, is_jax_array
from batiste.checkpoint._orbax import MARK, PlainPath, chunk_key, require, store_dtype, stored_name
from batiste.checkpoint._types import Box, NumpyArray, Record

if TYPE_CHECKING:
    from typing import Self

__all__ = ["WHOLE_BYTES", "ArrayWriter", "Tables", "chunk_shape", "merge", "part_folder", "write_marks"]

WHOLE_BYTES: Final = 1 << 20
"""The size up to which an array that is not compressed is one entry of the database."""

_COPIED_BYTES: Final = 1 << 17
"""The size up to which an array is handed to TensorStore as bytes, which it copies into pieces of 4 KiB.

CPU time of 64 MiB, in arrays of 16 KiB: 74 ms so, and 280 ms through the Zarr driver; of 64 KiB 42 and 73; of 256 KiB
38 and 30; of 512 KiB 33 and 22 (TensorStore 0.1.86, the least of eight).
"""

_CHUNK_BYTES: Final = 1 << 26
_TOGETHER: Final = 1 << 26
_HANDLER: Final = "orbax.checkpoint.experimental.v1._src.handlers.pytree_handler.PyTreeHandler"
_CONFIG: Final[Mapping[str, Any]] = types.MappingProxyType(
    {
        "max_inline_value_bytes": 1024,  # as Orbax has it: descriptions and the smallest arrays lie in the tree's nodes
        "max_decoded_node_bytes": 1 << 20,  # of 16,000 leaves, one is read in 3 ms; in 33 with Orbax's single node
        "manifest_kind": "single",
    }
)


class ArrayWriter:
    """A database of arrays that is being written; as a context it ends complete, or with the error of the system.

    Args:
      folder: where; it must not exist.
      compress: whether to compress the arrays (zstd).
      tables: whether Orbax's tables are written beside them; not for the part of one process.

    Raises:
      OSError: if the system refuses.
    """

    def __init__(self, folder: Path, *, compress: bool, tables: bool = True) -> None:
        require("tensorstore", "orbax-checkpoint", "Saving a directory")
        self._library: Any = importlib.import_module("tensorstore")
        self._folder = folder
        self._compress = compress
        self._tables = Tables() if tables else None
        self._templates: dict[Any, dict[str, Any]] = {}
        self._kinds: dict[tuple[Any, tuple[int, ...], tuple[int, ...]], tuple[bytes, Any]] = {}
        self._transaction: Any = None
        self._gathered: list[NumpyArray] = []
        self._copies: list[Any] = []
        self._size = 0
        self._running: tuple[Any, list[NumpyArray]] | None = None
        folder.mkdir()
        self._place = PlainPath(folder)
        self._context: Any = self._library.Context({"file_io_sync": False})  # all is flushed before it is published
        self._database: Any = {
            "driver": "ocdbt",
            "base": {"driver": "file", "path": f"{self._place.path}/"},
            "config": dict(_CONFIG),
            "assume_config": True,
        }
        self._store: Any = _result(self._library.KvStore.open(self._database, context=self._context))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._commit()
                self._wait()
                if self._tables is not None:
                    self._tables.write(self._folder)
        finally:
            if self._transaction is not None:
                self._transaction.abort()
            running = [] if self._running is None else [self._running[0]]
            for future in (*self._copies, *running):
                future.exception()  # nothing may still write or read when this returns
            self._place.close()

    def add(self, path: str, record: Record, host: NumpyArray, like: Any) -> None:
        """Write one array; its memory may not change before the end.

        Args:
          path: the leaf's path.
          record: what it is; not of size zero.
          host: its values, in C order.
          like: the leaf itself: a JAX array is written in chunks of its shards, and Orbax is told of its sharding.

        Raises:
          OSError: if the system refuses.
        """
        data = host.view(dtype_by_name(store_dtype(record)))
        chunk = chunk_shape(record, like, compress=self._compress)
        if self._tables is not None:
            self._tables.note(path, record, chunk, like)
        self.add_parts(path, record, chunk, [(tuple(slice(0, extent) for extent in data.shape), host)])

    def add_parts(
        self, path: str, record: Record, chunk: tuple[int, ...], parts: Sequence[tuple[Box, NumpyArray]]
    ) -> None:
        """Write boxes of one array, each of whole chunks; their memory may not change before the end.

        Args:
          path: the leaf's path.
          record: what it is; not of size zero.
          chunk: the shape of its chunks, as ``chunk_shape`` gives it.
          parts: boxes and their values, in C order.

        Raises:
          OSError: if the system refuses.
        """
        name = ".".join(stored_name(path))
        dtype = dtype_by_name(store_dtype(record))
        description, spec = self._kind(dtype, record.shape, chunk)
        transaction = self._gathering()
        entries = self._store.with_transaction(transaction)
        entries.write(f"{name}/zarr.json", description)
        arrays = [host.view(dtype) for _, host in parts]
        if record.bytes <= _COPIED_BYTES and not self._compress and chunk == record.shape:
            entries.write(chunk_key(name, arrays[0].ndim), arrays[0].tobytes())
        else:
            options: Any = {"open": True, "assume_metadata": True, "context": self._context}
            place = self._store / f"{name}/"
            store = _result(self._library.open(spec, kvstore=place, transaction=transaction, **options))
            for (box, _), data in zip(parts, arrays, strict=True):
                goal = store if data.shape == record.shape else store[box]
                self._copies.append(goal.write(data, can_reference_source_data_indefinitely=True).copy)
        self._gathered += arrays
        self._size += sum(data.nbytes for data in arrays)
        if self._size >= _TOGETHER:
            self._commit()

    def _gathering(self) -> Any:
        """The transaction that is being gathered."""
        if self._transaction is None:
            self._transaction = self._library.Transaction(atomic=True)
        return self._transaction

    def _commit(self) -> None:
        """Begin to commit what is gathered, once what was gathered before is written."""
        for copy in self._copies:
            _result(copy)
        self._copies = []
        self._wait()
        if self._transaction is not None:
            self._running = self._transaction.commit_async(), self._gathered
        self._transaction, self._gathered, self._size = None, [], 0

    def _wait(self) -> None:
        if self._running is not None:
            _result(self._running[0])
            self._running = None

    def _kind(self, dtype: Any, shape: tuple[int, ...], chunk: tuple[int, ...]) -> tuple[bytes, Any]:
        """The description of arrays of one kind in the Zarr 3 format, as it is stored, and as TensorStore takes it."""
        kind = dtype, shape, chunk
        found = self._kinds.get(kind)
        if found is None:
            grid = {"name": "regular", "configuration": {"chunk_shape": list(chunk)}}
            zstd = [{"name": "zstd", "configuration": {"level": 3}}] if self._compress else []
            template = self._template(dtype)
            codecs = [*template["codecs"], *zstd]
            metadata = {**template, "shape": list(shape), "chunk_grid": grid, "codecs": codecs}
            spec = {"driver": "zarr3", "metadata": metadata, "store_data_equal_to_fill_value": True}
            found = self._kinds[kind] = json.dumps(metadata).encode(), self._library.Spec(spec)
        return found

    def _template(self, dtype: Any) -> dict[str, Any]:
        """The description of an array as TensorStore words it for this dtype."""
        if dtype not in self._templates:
            spec = {"driver": "zarr3", "kvstore": "memory://"}
            made = _result(self._library.open(spec, create=True, dtype=self._library.dtype(dtype), shape=[1]))
            self._templates[dtype] = made.spec().to_json()["metadata"]
        return self._templates[dtype]


class Tables:
    """What Orbax's own tables say of the arrays of a folder."""

    def __init__(self) -> None:
        self._rows: dict[str, Any] = {}
        self._chunks: list[dict[str, Any]] = []
        self._shardings: dict[str, str] = {}

    def note(self, path: str, record: Record, chunk: tuple[int, ...], like: Any) -> None:
        """Add an array.

        Args:
          path: the leaf's path.
          record: what it is.
          chunk: the shape of its chunks.
          like: the leaf itself, of whose sharding Orbax is told.
        """
        names = stored_name(path)
        name = ".".join(names)
        about: dict[str, Any] = {"value_type": "np.ndarray", "skip_deserialize": False}
        as_it_is = is_jax_array(like) and like.dtype == dtype_by_name(store_dtype(record))
        sharding = _sharding_text(like.sharding) if as_it_is else None
        if sharding is not None:
            about = {"value_type": "jax.Array", "skip_deserialize": False, "write_shape": list(chunk)}
            row = {"param_name": name, "write_shape": list(chunk), "chunk_shape": list(chunk), "ext_metadata": None}
            self._chunks.append({"array_metadata": row})
            self._shardings[base64.b64encode(name.encode()).decode()] = sharding
        keys = [{"key": part, "key_type": 2} for part in names]
        self._rows[str(names)] = {"key_metadata": keys, "value_metadata": about}

    def write(self, folder: Path) -> None:
        """Write them.

        Raises:
          OSError: if the system refuses.
        """
        table = {
            "tree_metadata": self._rows,
            "use_ocdbt": True,
            "use_zarr3": True,
            "store_array_data_equal_to_fill_value": True,
            "custom_metadata": None,
        }
        _write_json(folder / "_METADATA", table)
        _write_json(folder / "_sharding", self._shardings)
        (folder / "array_metadatas").mkdir()
        _write_json(folder / "array_metadatas" / "process_0", {"array_metadatas": self._chunks})


def part_folder(folder: Path, process: int) -> Path:
    """Return the folder in which a process writes its database."""
    return folder / f"ocdbt.process_{process}"


def merge(folder: Path, processes: Iterable[int]) -> None:
    """Make one database of those that processes have written; their files stay, and it refers to them.

    Raises:
      OSError: if the system refuses.
    """
    library: Any = importlib.import_module("tensorstore")
    context: Any = library.Context({"file_io_sync": False})
    place = PlainPath(folder)

    def opened(name: str) -> Any:
        base = {"driver": "file", "path": f"{place.path}/{name}"}
        spec: Any = {"driver": "ocdbt", "base": base}
        if not name:
            spec |= {"config": dict(_CONFIG), "assume_config": True}
        return _result(library.KvStore.open(spec, context=context))

    try:
        together = library.Transaction(atomic=True)
        whole = opened("").with_transaction(together)
        for process in processes:
            _result(opened(f"{part_folder(folder, process).name}/").experimental_copy_range_to(whole))
        _result(together.commit_async())
    finally:
        place.close()


def _result(future: Any) -> Any:
    try:
        return future.result()
    except (ValueError, RuntimeError) as error:  # TensorStore's, which name the system's reason in their text
        raise _system_error(str(error)) from error


def write_marks(folder: Path, item: str, seconds: float) -> None:
    """Write what makes a folder an Orbax checkpoint with one item.

    Args:
      folder: that of the checkpoint.
      item: the name of the folder with its arrays.
      seconds: since 1970, when it was saved.

    Raises:
      OSError: if the system refuses.
    """
    at = round(seconds * 1e9)
    about = {
        "item_handlers": {item: _HANDLER},
        "metrics": {},
        "performance_metrics": {},
        "init_timestamp_nsecs": at,
        "commit_timestamp_nsecs": at,
        "custom_metadata": {MARK: True},
    }
    _write_json(folder / "_CHECKPOINT_METADATA", about)
    (folder / "orbax.checkpoint").touch()


def chunk_shape(record: Record, like: Any, *, compress: bool) -> tuple[int, ...]:
    """Return the shape of the chunks: that of a shard, cut along its first axes where it is large.

    Args:
      record: what the array is.
      like: the array itself, whose shards are looked at where it is one of JAX.
      compress: whether the chunks are compressed; else a small array that this process has whole is one chunk.
    """
    shape = record.shape
    sharded = is_jax_array(like) and like.shape == shape
    if record.bytes <= WHOLE_BYTES and not compress and not (sharded and not like.is_fully_addressable):
        return shape
    if sharded:
        shape = tuple(like.sharding.shard_shape(shape))
    size = math.prod(shape) * dtype_by_name(record.dtype).itemsize
    chunk = list(shape)
    for axis, extent in enumerate(shape):
        if size <= _CHUNK_BYTES:
            break
        parts = min(extent, -(-size // _CHUNK_BYTES))
        if shape != record.shape:  # a chunk may not lie in two shards
            parts = next(count for count in range(parts, extent + 1) if extent % count == 0)
        chunk[axis] = -(-extent // parts)
        size = size // extent * chunk[axis]
    return tuple(chunk)


def _sharding_text(sharding: Any) -> str | None:
    """A sharding as Orbax writes it; None where it knows no words for it."""
    from jax.sharding import NamedSharding, SingleDeviceSharding  # which looking at a checkpoint does without

    if isinstance(sharding, SingleDeviceSharding):
        device = str(next(iter(cast("Any", sharding).device_set)))
        return json.dumps({"sharding_type": "SingleDeviceSharding", "device_str": device})
    if not isinstance(sharding, NamedSharding):
        return None
    mesh: Any = sharding.mesh
    spec: Any = sharding.spec
    about: dict[str, Any] = {
        "sharding_type": "NamedSharding",
        "shape": list(mesh.devices.shape),
        "axis_names": list(mesh.axis_names),
        "axis_types": [str(kind) for kind in mesh.axis_types],
        "partition_spec": [list(cast("Any", part)) if isinstance(part, tuple) else part for part in spec],
        "device_mesh": {"mesh": _device_numbers(mesh.devices.tolist())},
    }
    return json.dumps(about)


def _device_numbers(devices: Any) -> Any:
    if isinstance(devices, list):
        return [_device_numbers(each) for each in cast("list[Any]", devices)]
    return {"id": devices.id}


def _write_json(path: Path, body: Any) -> None:
    path.write_text(json.dumps(body), encoding="utf-8")


def _system_error(text: str) -> OSError:
    number = next((number for number in errno.errorcode if os.strerror(number) in text), None)
    return OSError(number, os.strerror(number)) if number else OSError(text[:200])
