"""Folders of zarr arrays that JAX's own ``array_serialization`` has written: read only.

``serialize_with_paths`` leaves a folder for each array (levanter's checkpoints are such), or one OCDBT database with
all of them: paths of folders are paths of leaves. ``pytree_serialization.save`` leaves such a database with numbers as
names, and the tree beside it, ``pytreedef.json``; what the tree says is for JAX to read, with ``flatbuffers``.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from batiste.checkpoint._arrays import BYTES_BY_DTYPE
from batiste.checkpoint._directory import allowance
from batiste.checkpoint._manifest import Manifest, check_depth
from batiste.checkpoint._orbax import ArrayStore, require
from batiste.checkpoint._structure import describe
from batiste.checkpoint._types import Box, Damage, NumpyArray, Record
from batiste.errors import CheckpointFormatError, DamagedCheckpointError, RefusedCheckpointError
from batiste.tree import join_path

__all__ = ["Arrays", "StoreSource", "add_arrays", "find_arrays", "open_arrays", "size_on_disk"]

_TREE: Final = "pytreedef.json"
_STORE: Final = "array_store"
_DATABASE: Final = "manifest.ocdbt"
_MOST_FOLDERS: Final = 100_000


@dataclasses.dataclass(frozen=True, slots=True)
class Arrays:
    """Zarr arrays in a folder.

    Attributes:
      folder: where.
      names: their names there.
      zarr3: whether they are in the Zarr 3 format, else in Zarr 2.
      ocdbt: whether they are together in an OCDBT database.
    """

    folder: Path
    names: tuple[str, ...]
    zarr3: bool
    ocdbt: bool


class StoreSource:
    """Arrays that TensorStore reads, described.

    Args:
      path: the folder.
      manifest: what it holds.
      arrays: the store of each array, and its name there, by path.
    """

    def __init__(self, path: Path, manifest: Manifest, arrays: Mapping[str, tuple[ArrayStore, str]]) -> None:
        self._path = path
        self._manifest = manifest
        self._arrays = arrays

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
        return Damage(path, found.reason) if isinstance(found, Damage) else found

    def read_many(self, paths: Iterable[str]) -> Iterator[tuple[str, NumpyArray | Damage]]:
        """Read whole arrays, one at a time."""
        for path in paths:
            yield path, self.read(path)

    def check_files(self, *, whole: bool) -> list[Damage]:
        """The format keeps no digests."""
        del whole
        return []


def find_arrays(folder: Path) -> list[Arrays]:
    """Return the zarr arrays beneath a folder, those of one kind together; none where there are none."""
    store = folder / _STORE if (folder / _TREE).is_file() else folder
    if (store / _DATABASE).is_file():
        keys = _keys(store)
        found = [
            Arrays(store, tuple(sorted(key.removesuffix(end) for key in keys if key.endswith(end))), zarr3, ocdbt=True)
            for end, zarr3 in (("/.zarray", False), ("/zarr.json", True))
        ]
        return [arrays for arrays in found if arrays.names]
    names: dict[bool, list[str]] = {False: [], True: []}
    databases: list[Arrays] = []
    for count, (place, folders, files) in enumerate(os.walk(folder)):
        if count > _MOST_FOLDERS:
            break
        name = Path(place).relative_to(folder).as_posix()
        if _DATABASE in files and name != ".":
            databases += find_arrays(Path(place))
            folders.clear()
        elif ".zarray" in files or ("zarr.json" in files and _is_array(Path(place, "zarr.json"))):
            names["zarr.json" in files].append(name)
            folders.clear()
        folders.sort()
    apart = [Arrays(folder, tuple(found), zarr3, ocdbt=False) for zarr3, found in names.items() if found]
    return apart + databases


def open_arrays(folder: Path, found: list[Arrays]) -> StoreSource:
    """Open the arrays that ``find_arrays`` has found.

    Raises:
      MissingPackageError: if a package that reads them is not installed.
      DamagedCheckpointError: if an array cannot be opened.
      CheckpointFormatError: if the tree beside them cannot be read.
      RefusedCheckpointError: if they are larger than their size on the disk can stand for.
    """
    manifest = Manifest({}, storage={"format": "zarr"})
    arrays: dict[str, tuple[ArrayStore, str]] = {}
    paths = _tree_paths(folder, manifest) if (folder / _TREE).is_file() else None
    for each in found:
        above = each.folder.relative_to(folder).parts if paths is None else ()
        store = ArrayStore(each.folder, zarr3=each.zarr3, ocdbt=each.ocdbt, sparse=True)
        wanted = {
            (join_path((*above, *(name.split("/") if name != "." else ()))) if paths is None else paths.get(name)): name
            for name in each.names
        }
        add_arrays(folder, manifest, arrays, store, {path: name for path, name in wanted.items() if path is not None})
    lost = [f"  {path}: it is not there" for path in (paths or {}).values() if path not in arrays]
    if lost:
        raise DamagedCheckpointError(path=folder, count=len(lost), lines="\n".join(lost))
    check_depth(manifest.records, str(folder))
    manifest.records = dict(sorted(manifest.records.items())) if paths is None else manifest.records
    return StoreSource(folder, manifest, arrays)


def add_arrays(
    folder: Path,
    manifest: Manifest,
    arrays: dict[str, tuple[ArrayStore, str]],
    store: ArrayStore,
    names: Mapping[str, str],
) -> None:
    """Add arrays of a store, by path, to what a folder holds.

    Raises:
      DamagedCheckpointError: if some cannot be opened.
      RefusedCheckpointError: if they are larger than their size on the disk can stand for.
    """
    found = store.shape_and_dtype(names.values())
    lost: list[str] = []
    for path, name in names.items():
        row = found[name]
        if isinstance(row, Damage):
            lost.append(f"  {path}: {row.reason}")
            continue
        shape, dtype = row
        if dtype not in BYTES_BY_DTYPE:
            manifest.opaque[path] = f"an array of dtype {dtype}"
            continue
        size = BYTES_BY_DTYPE[dtype]
        for extent in shape:
            size *= extent
        manifest.records[path] = Record(shape, dtype, size)
        arrays[path] = store, name
    if lost:
        raise DamagedCheckpointError(path=folder, count=len(lost), lines="\n".join(lost))
    stored = size_on_disk(folder)
    if manifest.bytes > allowance(stored, compressed=True):
        reason = f"it describes {manifest.bytes} bytes of arrays and has {stored} on the disk"
        raise RefusedCheckpointError(path=folder, reason=reason, cure="Do not trust where it came from.")


def size_on_disk(folder: Path) -> int:
    """Return the size of all files beneath a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _is_array(file: Path) -> bool:
    try:
        return json.loads(file.read_bytes()).get("node_type", "array") == "array"
    except (ValueError, AttributeError, RecursionError):
        return False


def _keys(folder: Path) -> list[str]:
    """The names of all that is in an OCDBT database."""
    require("tensorstore", "orbax-checkpoint", "Reading a folder of arrays")
    library: Any = importlib.import_module("tensorstore")
    base = {"driver": "file", "path": f"{folder.as_posix()}/"}
    try:
        found = library.KvStore.open({"driver": "ocdbt", "base": base}).result().list().result()
        return [key.decode() for key in found]
    except (ValueError, OSError) as error:
        reason = f"its database of arrays cannot be read ({str(error).partition('[')[0][:160]})"
        cure = "Look for the whole folder: this one is cut or damaged."
        raise CheckpointFormatError(path=folder, reason=reason, cure=cure) from None


def _is_none(node: Any) -> bool:
    return node is None


def _tree_paths(folder: Path, manifest: Manifest) -> dict[str, str]:
    """The path of each array by its number, out of the tree that JAX has written; containers go to the manifest."""
    require("flatbuffers", "flatbuffers", "Reading a tree that `pytree_serialization` has saved", "files")
    jax: Any = importlib.import_module("jax")
    jax_trees: Any = importlib.import_module("jax.experimental.array_serialization.pytree_serialization")
    try:
        tree = jax_trees.load_pytreedef(folder)
        leaves, form = jax.tree.flatten(tree, is_leaf=_is_none)
    except (
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
        OSError,
        RecursionError,
        struct.error,
    ) as error:
        reason = f"JAX cannot read its {_TREE} ({type(error).__name__}: {str(error)[:160]})"
        raise CheckpointFormatError(
            path=folder, reason=reason, cure="Import what defines the tree's classes."
        ) from None
    numbers = [None if leaf is None else number for number, leaf in enumerate(leaves)]
    described = describe(jax.tree.unflatten(form, numbers))
    manifest.containers.update(described.containers)
    return {str(number): path for path, number in described.leaves.items()}
