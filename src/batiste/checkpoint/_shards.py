"""Checkpoints in several files with an index, as Hugging Face writes them: read only.

The index (``model.safetensors.index.json``, ``pytorch_model.bin.index.json``) says which file holds which tensor. A
tensor that its file does not hold is an error when the checkpoint is opened, not a hole in the tree.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final, cast

from batiste.checkpoint._files import is_file
from batiste.checkpoint._manifest import MAX_MANIFEST_BYTES, Manifest, check_depth
from batiste.checkpoint._source import Source
from batiste.checkpoint._types import Box, Damage, NumpyArray, Record
from batiste.errors import CheckpointFormatError, DamagedCheckpointError, RefusedCheckpointError
from batiste.tree import join_path

__all__ = ["INDEX_ENDING", "ShardedSource", "find_index"]

INDEX_ENDING: Final = ".index.json"


def find_index(folder: Path) -> Path | None:
    """Return the index of a folder with sharded weights, safetensors before others; None where there is none."""
    formats = (".safetensors", ".bin", ".msgpack")
    found = [index for name in formats for index in sorted(folder.glob(f"*{name}{INDEX_ENDING}"))]
    return found[0] if found else None


class ShardedSource:
    """Several files under one index, opened as one checkpoint.

    Args:
      index: the index file.
      open_file: opens one of the files.

    Raises:
      CheckpointFormatError: if the index is not one.
      RefusedCheckpointError: if the index names files outside its folder.
      DamagedCheckpointError: if files or tensors are missing.
    """

    def __init__(self, index: Path, open_file: Callable[[Path], Source]) -> None:
        self._path = index.parent
        names = _read_index(index)
        missing = [f"  {name}: the file is missing" for name in set(names.values()) if not is_file(self._path / name)]
        if missing:
            raise DamagedCheckpointError(path=self._path, count=len(missing), lines="\n".join(sorted(missing)))
        sources = {name: open_file(self._path / name) for name in sorted(set(names.values()))}
        self._sources: dict[str, Source] = {}
        records: dict[str, Record] = {}
        holes: list[str] = []
        for tensor, name in sorted(names.items()):
            path = next((path for path in _paths(tensor) if path in sources[name].manifest.records), None)
            if path is None and any(name_ in sources[name].manifest.opaque for name_ in _paths(tensor)):
                continue
            if path is None:
                holes.append(f"  {tensor}: the index says {name}, which does not have it")
                continue
            self._sources[path] = sources[name]
            records[path] = sources[name].manifest.records[path]
        if holes:
            raise DamagedCheckpointError(path=self._path, count=len(holes), lines="\n".join(holes))
        check_depth(records, str(index))
        opaque = {path: what for source in sources.values() for path, what in source.manifest.opaque.items()}
        words = {name: value for source in sources.values() for name, value in source.manifest.metadata.items()}
        self._manifest = Manifest(
            records, metadata=words, storage={"format": "shards", "files": sorted(sources)}, opaque=opaque
        )

    @property
    def path(self) -> Path:
        """The folder of the index."""
        return self._path

    @property
    def manifest(self) -> Manifest:
        """What all the files hold together."""
        return self._manifest

    def read(self, path: str, box: Box | None = None) -> NumpyArray | Damage:
        """Read one array, or a box of it."""
        return self._sources[path].read(path, box)

    def read_many(self, paths: Iterable[str]) -> Iterator[tuple[str, NumpyArray | Damage]]:
        """Read whole arrays, one at a time."""
        for path in paths:
            yield path, self.read(path)

    def check_files(self, *, whole: bool) -> list[Damage]:
        """The formats keep no digests."""
        del whole
        return []


def _paths(tensor: str) -> tuple[str, str]:
    """The paths that a tensor's name may have: slashes as levels (safetensors, Flax), or all one name (PyTorch)."""
    return join_path(tensor.split("/")), join_path([tensor])


def _read_index(index: Path) -> dict[str, str]:
    names: Any = None
    if index.stat().st_size <= MAX_MANIFEST_BYTES:
        with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
            names = json.loads(index.read_bytes())["weight_map"]
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in cast("Any", names).values()):
        cure = 'An index has `"weight_map": {"tensor": "file"}`.'
        raise CheckpointFormatError(path=index, reason="it is no index of weights", cure=cure)
    found = cast("dict[str, str]", names)
    itself = next((tensor for tensor, name in found.items() if name.endswith(INDEX_ENDING)), None)
    if itself is not None:
        reason = f"it says that {itself!r} is in {found[itself]!r}, which is an index too"
        raise RefusedCheckpointError(path=index, reason=reason, cure="An index names the files that hold tensors.")
    outside = next((name for name in found.values() if Path(name).name != name or name in ("", ".", "..")), None)
    if outside is not None:
        reason = f"the index names the file {outside!r}, outside its folder"
        raise RefusedCheckpointError(path=index, reason=reason, cure="Do not trust where it came from.")
    return found
