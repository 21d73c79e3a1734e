"""Checkpoints of T5X: a MessagePack file ``checkpoint``, and a zarr folder for each large array beside it: read only.

In the file, a TensorStore spec stands where a large array is. Specs say where the array was written, a bucket as often
as not; wherever the folder lies now, the array is in it, under the last levels of the path that the spec has.
(https://github.com/google-research/t5x)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from batiste.checkpoint._manifest import Manifest, check_depth
from batiste.checkpoint._msgpack import MsgpackSource, is_msgpack
from batiste.checkpoint._orbax import ArrayStore
from batiste.checkpoint._types import Box, Damage, NumpyArray, Record
from batiste.checkpoint._zarr import StoreSource, add_arrays
from batiste.errors import DamagedCheckpointError

__all__ = ["T5xSource", "is_t5x"]

_FILE: Final = "checkpoint"
_PLACEHOLDER: Final = "PLACEHOLDER://"
_DRIVERS: Final = ("zarr", "zarr3")
_SPEC: Final = "/driver"


def is_t5x(folder: Path) -> bool:
    """Return whether a folder is a checkpoint of T5X; early ones of Orbax have placeholders in the same file."""
    file = folder / _FILE
    if not file.is_file() or (folder / "_METADATA").is_file():
        return False
    with file.open("rb") as opened:
        if not is_msgpack(opened.read(16)):
            return False
    records = MsgpackSource(file).manifest.records.values()
    return not any(row.kind == "str" and row.value.startswith(_PLACEHOLDER) for row in records)


class T5xSource:
    """A checkpoint of T5X, opened: each array was asked for its shape, and none was read.

    Raises:
      CheckpointFormatError: if the file is not MessagePack.
      DamagedCheckpointError: if arrays are missing.
      RefusedCheckpointError: if it describes more than its size on the disk can stand for.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._small = MsgpackSource(path / _FILE)
        written = self._small.manifest
        specs = _specs(written.records)
        records = {leaf: row for leaf, row in written.records.items() if _above(leaf, specs) is None}
        containers = {leaf: row for leaf, row in written.containers.items() if _above(leaf, specs) is None}
        self._manifest = Manifest(records, containers, storage={"format": "t5x"})
        arrays: dict[str, tuple[ArrayStore, str]] = {}
        lost: list[str] = []
        for driver in _DRIVERS:
            names: dict[str, str] = {}
            for leaf, spec in specs.items():
                if spec["driver"] == driver:
                    name = _found(path, spec)
                    lost += [f"  {leaf}: {spec['path'] or 'its folder'} is not there"] if name is None else []
                    names |= {leaf: name} if name is not None else {}
            if names and not lost:
                store = ArrayStore(path, zarr3=driver == "zarr3", ocdbt=False, sparse=True)
                add_arrays(path, self._manifest, arrays, store, names)
        if lost:
            raise DamagedCheckpointError(path=path, count=len(lost), lines="\n".join(lost))
        check_depth(self._manifest.records, str(path))
        self._manifest.records = dict(sorted(self._manifest.records.items()))
        self._large = StoreSource(path, self._manifest, arrays)
        self._names = arrays

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
        return (self._large if path in self._names else self._small).read(path, box)

    def read_many(self, paths: Iterable[str]) -> Iterator[tuple[str, NumpyArray | Damage]]:
        """Read whole arrays, one at a time."""
        for path in paths:
            yield path, self.read(path)

    def check_files(self, *, whole: bool) -> list[Damage]:
        """The format keeps no digests."""
        del whole
        return []


def _specs(records: Mapping[str, Record]) -> dict[str, dict[str, Any]]:
    """The specs by the paths at which they stand."""
    found: dict[str, dict[str, Any]] = {}
    for leaf, row in records.items():
        above = leaf.removesuffix(_SPEC)
        if above == leaf or row.value not in _DRIVERS or f"{above}/kvstore/driver" not in records:
            continue
        places = [records.get(f"{above}/kvstore/path"), records.get(f"{above}/path")]
        texts = [place.value for place in places if place is not None and isinstance(place.value, str)]
        found[above] = {"driver": row.value, "path": "/".join(text.strip("/") for text in texts if text.strip("/"))}
    return found


def _above(leaf: str, specs: Mapping[str, Any]) -> str | None:
    """The spec that a path is or lies in; None where there is none."""
    while leaf:
        if leaf in specs:
            return leaf
        leaf = leaf.rpartition("/")[0]
    return None


def _found(folder: Path, spec: Mapping[str, Any]) -> str | None:
    """The name of the folder with an array: as many of the last levels of its path as lead to one."""
    parts = [part for part in str(spec["path"]).split("/") if part not in ("", ".", "..")]
    table = "zarr.json" if spec["driver"] == "zarr3" else ".zarray"
    names = ("/".join(parts[start:]) for start in range(len(parts)))
    return next((name for name in names if (folder / name / table).is_file()), None)
