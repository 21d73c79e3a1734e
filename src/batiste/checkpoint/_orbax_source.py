"""Checkpoints that Orbax wrote, from any of its interfaces: read only.

``StandardCheckpointer``, ``PyTreeCheckpointer`` (with and without OCDBT), ``CheckpointManager`` (one step's folder),
``orbax.checkpoint.v1.save`` and ``flax.training.checkpoints`` all leave a folder with ``_METADATA``, a JSON table of
the leaves, either at the top or in one folder an item. Several items become the first level of the tree. Earlier
versions of Orbax wrote a MessagePack file ``checkpoint`` instead, with ``PLACEHOLDER://name`` where an array is.

An item that Orbax's own managers write beside the trees comes along too: one array, the state of a random key, and JSON
(the metrics of a step among it), which becomes an entry of the metadata.

Orbax notes sequences, but not whether they were lists, tuples or named tuples: they come back as lists. It keeps no
digests, so nothing here can vouch for the values.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, cast

from batiste.checkpoint._arrays import BYTES_BY_DTYPE
from batiste.checkpoint._directory import allowance
from batiste.checkpoint._manifest import MAX_MANIFEST_BYTES, Manifest, check_paths
from batiste.checkpoint._msgpack import MsgpackSource
from batiste.checkpoint._orbax import MARK, ArrayStore
from batiste.checkpoint._types import Box, Damage, NumpyArray, PythonKind, Record
from batiste.checkpoint._unchanged import Unchanged
from batiste.errors import CheckpointFormatError, DamagedCheckpointError, RefusedCheckpointError
from batiste.tree import join_path

__all__ = ["OrbaxSource", "orbax_items"]

_TABLE: Final = "_METADATA"
_LEGACY: Final = "checkpoint"
_ABOUT: Final = "_CHECKPOINT_METADATA"
_JAX_KEY: Final = "jax_random_key"
_NUMPY_KEY: Final = "np_random_key"
_ONE_ARRAY: Final = "checkpoint"  # what Orbax calls an array that is alone in its folder
_PLACEHOLDER: Final = "PLACEHOLDER://"
_NUMBERS: Final[Mapping[str, PythonKind]] = MappingProxyType({"bool": "bool", "int64": "int", "float64": "float"})
_CURE: Final = "Restore it with the version of Orbax that wrote it, and save it again."


def orbax_items(folder: Path) -> dict[str, Path]:
    """Return the folders with arrays of an Orbax checkpoint, by item; the name is empty for the folder itself."""
    if (folder / _TABLE).is_file() or (folder / _LEGACY).is_file():
        return {"": folder}
    found: dict[str, Path] = {}
    for item in sorted(folder.iterdir()):
        places = [item, item / _JAX_KEY, item / _NUMPY_KEY]
        place = next((place for place in places if (place / _TABLE).is_file()), None)
        if place is not None:
            found[item.name] = place
    if len(found) > 1 and not (folder / _ABOUT).is_file():  # several checkpoints, as in the folder of a run
        found = {name: place for name, place in found.items() if not (place / _ABOUT).is_file()}
    return {"": next(iter(found.values()))} if len(found) == 1 else found


class OrbaxSource:
    """An Orbax checkpoint, opened: each array was asked for its shape, and none was read but Python's numbers.

    Raises:
      CheckpointFormatError: if its tables are not those of Orbax.
      RefusedCheckpointError: if it describes more than its size on the disk can stand for.
      DamagedCheckpointError: if batiste saved it and its manifest is gone, or an array cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._arrays: dict[str, tuple[ArrayStore, str]] = {}
        self._manifest = Manifest({}, storage={"format": "orbax"})
        self._unchanged: list[Unchanged] = []
        try:
            handlers = self._read_metadata()
            for name, folder in orbax_items(path).items():
                prefix = (name,) if name else ()
                table = folder / _TABLE if (folder / _TABLE).is_file() else folder / _LEGACY
                self._unchanged.append(Unchanged(table, path))
                if table.name == _TABLE:
                    item = folder.parent.name if folder.name in (_JAX_KEY, _NUMPY_KEY) else folder.name
                    alone = folder.name == _JAX_KEY or "ArrayCheckpointHandler" in str(handlers.get(item))
                    self._add_item(prefix, folder, alone=alone)
                else:
                    self._add_legacy_item(folder)
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            reason = f"its tables are not those of Orbax ({type(error).__name__}: {error})"
            raise CheckpointFormatError(path=path, reason=reason, cure=_CURE) from None
        check_paths(self._manifest.records, str(path), self._manifest.containers)
        stored = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        if self._manifest.bytes > allowance(stored, compressed=True):
            reason = f"it describes {self._manifest.bytes} bytes of arrays and has {stored} on the disk"
            raise RefusedCheckpointError(path=path, reason=reason, cure="Do not trust where it came from.")

    @property
    def path(self) -> Path:
        """Where it is."""
        return self._path

    @property
    def manifest(self) -> Manifest:
        """What it holds."""
        return self._manifest

    def read(self, path: str, box: Box | None = None) -> NumpyArray | Damage:
        """Read one array, or a box of it."""
        store, name = self._arrays[path]
        found = store.read(name, self._manifest.records[path], box)
        self._check_unchanged()
        return Damage(path, found.reason) if isinstance(found, Damage) else found

    def read_many(self, paths: Iterable[str]) -> Iterator[tuple[str, NumpyArray | Damage]]:
        """Read whole arrays in order, a few ahead where they lie together."""
        wanted = list(paths)
        while wanted:
            store = self._arrays[wanted[0]][0]
            together = next((at for at, path in enumerate(wanted) if self._arrays[path][0] is not store), len(wanted))
            group, wanted = wanted[:together], wanted[together:]
            found = store.read_many((self._arrays[path][1], self._manifest.records[path]) for path in group)
            for path, array in zip(group, found, strict=True):
                self._check_unchanged()
                yield path, Damage(path, array.reason) if isinstance(array, Damage) else array

    def check_files(self, *, whole: bool) -> list[Damage]:
        """Orbax keeps no digests."""
        del whole
        return []

    def _check_unchanged(self) -> None:
        for file in self._unchanged:
            file.check()

    def _read_metadata(self) -> dict[str, str]:
        """Take the metadata of the checkpoint and its JSON items, and return what wrote each item."""
        about: dict[str, Any] = {}
        with contextlib.suppress(ValueError, TypeError, OSError):
            about = _read_json(self._path / _ABOUT)
        mine = about.get("custom_metadata")
        if isinstance(mine, dict):
            if MARK in mine:
                lines = "  batiste.json: the file is missing"
                raise DamagedCheckpointError(path=self._path, count=1, lines=lines)
            self._manifest.metadata = cast("dict[str, Any]", mine)
        for item in sorted(self._path.iterdir()):
            for file in (item / "metadata", item / "metrics"):
                if file.is_file() and not (item / _TABLE).is_file():
                    self._manifest.metadata[item.name] = _parse_json(file)
        handlers = about.get("item_handlers")
        return cast("dict[str, str]", handlers) if isinstance(handlers, dict) else {}

    def _add_item(self, prefix: tuple[str, ...], folder: Path, *, alone: bool) -> None:
        table = _read_json(folder / _TABLE)
        zarr3, ocdbt = bool(table.get("use_zarr3")), bool(table.get("use_ocdbt", (folder / "manifest.ocdbt").is_file()))
        dense = bool(table.get("store_array_data_equal_to_fill_value"))
        store = ArrayStore(folder, zarr3=zarr3, ocdbt=ocdbt, sparse=not dense)
        strings: dict[str, Any] = _read_json(folder / "_strings.json") if (folder / "_strings.json").is_file() else {}
        keys = _key_implementations(folder)
        names: dict[str, str] = {}
        numbers: list[str] = []
        for row in table["tree_metadata"].values():
            levels = [(str(level["key"]), level["key_type"] == 1) for level in row["key_metadata"]]
            parts = prefix if alone and levels == [(_ONE_ARRAY, False)] else (*prefix, *(name for name, _ in levels))
            self._note_sequences(prefix, levels)
            kind = row["value_metadata"]["value_type"]
            name = ".".join(name for name, _ in levels)
            if row["value_metadata"].get("skip_deserialize"):
                empty = {"List": {"kind": "list", "size": 0}, "Tuple": {"kind": "tuple", "size": 0}}
                self._manifest.containers[join_path(parts)] = empty.get(
                    kind, {"kind": "dict" if kind == "Dict" else "none"}
                )
            elif kind == "string":
                self._manifest.records[join_path(parts)] = Record((), "python", 0, kind="str", value=str(strings[name]))
            else:
                names[join_path(parts)] = name
                if kind == "scalar":
                    numbers.append(join_path(parts))
        self._add_arrays(store, names, keys, ocdbt=ocdbt)
        self._read_numbers(numbers)

    def _add_legacy_item(self, folder: Path) -> None:
        source = MsgpackSource(folder / _LEGACY)
        ocdbt = (folder / "manifest.ocdbt").is_file()
        store = ArrayStore(folder, zarr3=False, ocdbt=ocdbt, sparse=True)
        names: dict[str, str] = {}
        for path, record in source.manifest.records.items():
            if record.kind == "str" and record.value.startswith(_PLACEHOLDER):
                names[path] = record.value.removeprefix(_PLACEHOLDER)
            elif record.kind is None:
                reason = f"{path!r} is inside the file {_LEGACY!r}"
                raise CheckpointFormatError(path=self._path, reason=reason, cure=_CURE)
            else:
                self._manifest.records[path] = record
        self._manifest.containers.update(source.manifest.containers)
        self._add_arrays(store, names, {}, ocdbt=ocdbt)

    def _add_arrays(self, store: ArrayStore, names: dict[str, str], keys: dict[str, str], *, ocdbt: bool) -> None:
        for name in names.values():
            if not ocdbt and (name.startswith("/") or ".." in name.split("/")):
                reason = f"it names the array {name!r}, outside its folder"
                raise RefusedCheckpointError(path=self._path, reason=reason, cure="Do not trust where it came from.")
        found = store.shape_and_dtype(names.values())
        lost = [Damage(path, str(row.reason)) for path, name in names.items() if isinstance(row := found[name], Damage)]
        if lost:
            raise DamagedCheckpointError(path=self._path, count=len(lost), lines="\n".join(map(str, lost)))
        for path, name in names.items():
            shape, dtype = cast("tuple[tuple[int, ...], str]", found[name])
            count = 1
            for extent in shape:
                count *= extent
            self._manifest.records[path] = Record(shape, dtype, count * BYTES_BY_DTYPE[dtype], key=keys.get(name))
            self._arrays[path] = store, name

    def _read_numbers(self, paths: list[str]) -> None:
        """Make plain values of what were Python's numbers: Orbax stores them as arrays of 64 bits, and notes it."""
        records = self._manifest.records
        wanted = [path for path in paths if records[path].shape == () and records[path].dtype in _NUMBERS]
        found = list(self.read_many(wanted))
        lost = [array for _, array in found if isinstance(array, Damage)]
        if lost:
            raise DamagedCheckpointError(path=self._path, count=len(lost), lines="\n".join(map(str, lost)))
        for path, array in found:
            if not isinstance(array, Damage):
                records[path] = Record((), "python", 0, kind=_NUMBERS[records[path].dtype], value=array.item())

    def _note_sequences(self, prefix: tuple[str, ...], levels: list[tuple[str, bool]]) -> None:
        for depth, (name, in_sequence) in enumerate(levels):
            if in_sequence:
                parent = join_path((*prefix, *(level for level, _ in levels[:depth])))
                row = self._manifest.containers.setdefault(parent, {"kind": "list", "size": 0})
                row["size"] = max(int(row["size"]), int(name) + 1)


def _key_implementations(folder: Path) -> dict[str, str]:
    """The implementation of each typed random key, by the name of its array."""
    found: dict[str, str] = {}
    for file in sorted((folder / "array_metadatas").glob("process_*")):
        for row in _read_json(file)["array_metadatas"]:
            inner = row["array_metadata"]
            more: dict[str, Any] = inner.get("ext_metadata") or {}
            if more.get("random_key_impl"):
                found[str(inner["param_name"])] = str(more["random_key_impl"])
    about = folder.with_name(f"{_JAX_KEY}_metadata") / "metadata"
    if folder.name == _JAX_KEY and about.is_file() and _read_json(about).get("typed"):
        found[_ONE_ARRAY] = "threefry2x32"  # the only one that Orbax saves so, whatever it was
    return found


def _parse_json(file: Path) -> Any:
    if file.stat().st_size > MAX_MANIFEST_BYTES:
        message = f"{file.name} has {file.stat().st_size} bytes"
        raise ValueError(message)
    return json.loads(file.read_bytes(), parse_constant=str)  # NaN is no JSON, though Python writes it


def _read_json(file: Path) -> dict[str, Any]:
    found = _parse_json(file)
    if not isinstance(found, dict):
        message = f"{file.name} is no JSON object"
        raise TypeError(message)
    return cast("dict[str, Any]", found)
