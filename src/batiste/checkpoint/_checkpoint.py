"""An opened checkpoint: its manifest in memory, its arrays still on the disk."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from batiste._arguments import text
from batiste.checkpoint._arrays import dtype_by_name, wrap_key
from batiste.checkpoint._detect import open_source
from batiste.checkpoint._manifest import Manifest
from batiste.checkpoint._parts import fits
from batiste.checkpoint._safetensors import SafetensorsSource
from batiste.checkpoint._shardings import saved_shardings
from batiste.checkpoint._source import Source
from batiste.checkpoint._stored import Origin, StoredArray
from batiste.checkpoint._structure import containers_of, rebuild
from batiste.checkpoint._types import Box, Damage, NumpyArray, Record, misfit
from batiste.errors import DamagedCheckpointError, PathNotFoundError, RefusedCheckpointError, nearest
from batiste.tree import Pattern, Patterns, compile_pattern, select

__all__ = ["Checkpoint", "open"]

_LEAVE_OUT: Final = (
    "Take the rest by pattern, as in `checkpoint.open(path)['params/**']` or with `batiste select`, or restore into a "
    "target with `extra='drop'`."
)


class Checkpoint:
    """A checkpoint whose arrays are read when they are asked for.

    ``checkpoint["params/**/kernel"]`` is the part of the tree whose paths match: containers as they were saved, with a
    ``LazyArray`` for each array. Reading a whole array checks its digest; a box of it cannot be checked alone. Typed
    random keys are a few bytes and cannot be NumPy arrays, so a part or a tree has them read, checked and typed.

    A file of another program may hold what is neither an array nor plain: its *opaque* entries, which
    ``manifest.opaque`` lists. A part leaves them out; whoever asks for one, or for the whole tree, is told what it is.

    Args:
      source: the format's reader.

    Example:
      >>> import numpy as np
      >>> from batiste import checkpoint
      >>> variables = {"params": {"kernel": np.ones((2, 3))}}
      >>> checkpoint.save("run.safetensors", variables, step=7)
      >>> opened = checkpoint.open("run.safetensors")
      >>> opened.paths(), opened.step
      (['params/kernel'], 7)
      >>> float(opened["params/kernel"]["params"]["kernel"].read().sum())
      6.0
    """

    def __init__(self, source: Source) -> None:
        self._source = source

    def __getitem__(self, patterns: Patterns) -> Any:
        """Return the part of the tree whose paths match one of the patterns.

        Raises:
          RefusedCheckpointError: if a pattern matches nothing but opaque entries.
          UnmatchedPatternError: if a pattern matches no path.
          DamagedCheckpointError: if a typed random key is not as it was saved.
        """
        wanted = [patterns] if isinstance(patterns, str | re.Pattern | Pattern) else patterns
        compiled = [compile_pattern(pattern) for pattern in wanted]
        matched = [[path for path in self.manifest.records if pattern.matches(path)] for pattern in compiled]
        if not all(matched):
            for pattern, found in zip(compiled, matched, strict=True):
                self.refuse_opaque([path for path in self.manifest.opaque if not found and pattern.matches(path)])
            return select(rebuild(dict.fromkeys(self.manifest.records, 0), {}), patterns)  # which says what is near
        chosen = {path for paths in matched for path in paths}
        return rebuild(
            self._leaves(path for path in self.manifest.records if path in chosen),
            containers_of(chosen, self.manifest.containers),
        )

    def __repr__(self) -> str:
        kind = self.manifest.storage.get("format")
        return f"<Checkpoint {self.path} ({kind}): {len(self.manifest.records)} leaves, {self.manifest.bytes} bytes>"

    @property
    def path(self) -> Path:
        """Where it is."""
        return self._source.path

    @property
    def manifest(self) -> Manifest:
        """All that is known without reading an array."""
        return self._source.manifest

    @property
    def step(self) -> int | None:
        """The training step, where one was saved."""
        return self.manifest.step

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What the user saved with it."""
        return self.manifest.metadata

    @property
    def has_digests(self) -> bool:
        """Whether batiste saved it, so that every bit of it can be checked."""
        return all(record.digest is not None or record.kind is not None for record in self.manifest.records.values())

    def paths(self) -> list[str]:
        """Return the path of every leaf."""
        return list(self.manifest.records)

    def shardings(self) -> dict[str, str]:
        """Return in words how arrays lay when they were saved, by path: ``(data, -) on data=8``; {} where none says."""
        return saved_shardings(self.path, self.manifest.records)

    def lazy(self, path: str) -> StoredArray:
        """Return one array, unread; a typed random key as its data, ``uint32[..., n]``.

        Raises:
          ArgumentError: if it is no text.
          PathNotFoundError: if there is no array at that path.
          RefusedCheckpointError: if it is an opaque entry.
        """
        text(path, "path", "Checkpoint.lazy", what="the path of an array", empty=True)
        record = self.manifest.records.get(path)
        if record is None and path in self.manifest.opaque:
            self.refuse_opaque([path])
        if record is None or record.kind is not None:
            raise PathNotFoundError(path=path, near=nearest(path, self.manifest.records))

        def read(box: Box | None) -> NumpyArray:
            found = self._source.read(path, box)
            if box is None:
                found = checked(path, record, found)
            if isinstance(found, Damage):
                raise DamagedCheckpointError(path=self.path, count=1, lines=str(found))
            return found

        axes = self.manifest.axes.get(path)
        origin = Origin(self.manifest, path, tuple(axes) if axes is not None else None)
        return StoredArray(record.shape, dtype_by_name(record.dtype), read, origin)

    def tree(self) -> Any:
        """Return the whole tree in the containers it was saved in, each array lazy, each typed random key read.

        Raises:
          DamagedCheckpointError: if a typed random key is not as it was saved.
          RefusedCheckpointError: if there are opaque entries.
        """
        self.refuse_opaque(self.manifest.opaque)
        return rebuild(self._leaves(self.manifest.records), self.manifest.containers)

    def refuse_opaque(self, paths: Iterable[str]) -> None:
        """Say what opaque entries are that somebody asks for, if there are any.

        Raises:
          RefusedCheckpointError: if there are.
        """
        found = [f"{path!r} is {self.manifest.opaque[path]}" for path in paths]
        if found:
            more = f", and {len(found) - 5} more" if len(found) > 5 else ""
            raise RefusedCheckpointError(
                path=self.path,
                reason=f"it holds what is neither an array nor plain: {', '.join(found[:5])}{more}",
                cure=_LEAVE_OUT,
            )

    def read_many(
        self, paths: Iterable[str], *, verify: bool, ahead: bool = False
    ) -> Iterator[tuple[str, NumpyArray | Damage]]:
        """Read whole arrays one after the other, in the order given, with damage in the place of what is damaged.

        Args:
          paths: the paths of arrays.
          verify: whether to check their digests.
          ahead: whether some may be in memory before they are asked for, because all will be kept.
        """
        if isinstance(self._source, SafetensorsSource):  # which checks while the bytes are in cache
            return self._source.read_many(paths, verify=verify, ahead=ahead)
        found = self._source.read_many(paths)
        records = self.manifest.records
        return ((path, checked(path, records[path], array)) for path, array in found) if verify else found

    def read_box(self, path: str, box: Box | None) -> NumpyArray | Damage:
        """Read one array or a box of it, unchecked."""
        return self._source.read(path, box)

    def check_files(self, *, whole: bool) -> list[Damage]:
        """Check the files themselves: all of them, or only those that hold no arrays."""
        return self._source.check_files(whole=whole)

    def _leaves(self, paths: Iterable[str]) -> dict[str, Any]:
        records = self.manifest.records
        leaves = {path: self.lazy(path) if records[path].kind is None else records[path].value for path in paths}
        keys = [path for path in leaves if records[path].key is not None]
        found = dict(self.read_many(keys, verify=True)) if keys else {}
        damages = [array for array in found.values() if isinstance(array, Damage)]
        if damages:
            raise DamagedCheckpointError(path=self.path, count=len(damages), lines="\n".join(map(str, damages)))
        return {**leaves, **{path: wrap_key(array, str(records[path].key)) for path, array in found.items()}}


def open(path: str | os.PathLike[str]) -> Checkpoint:  # noqa: A001 - `checkpoint.open` is what it does
    """Open a checkpoint of any known format: its manifest is read, its arrays are not.

    Args:
      path: a directory of batiste, Orbax, T5X or JAX; a safetensors, Flax MessagePack, ``.npz``, ``.npy``, PyTorch,
        pickle, HDF5 or GGUF file; or a folder with one of these files, or with sharded weights and their index.

    Raises:
      CheckpointNotFoundError: if there is nothing.
      CheckpointFormatError: if it is none of the formats.
      DamagedCheckpointError: if the manifest is not as it was written.
      RefusedCheckpointError: if the file says what no honest checkpoint says.

    Example:
      >>> import numpy as np
      >>> from batiste import checkpoint
      >>> params = {"kernel": np.ones((2, 3)), "bias": np.ones(3)}
      >>> checkpoint.save("run", params, step=7)
      >>> opened = checkpoint.open("run")
      >>> opened.manifest.records["kernel"].shape, opened.step
      ((2, 3), 7)
      >>> opened.lazy("bias").read().tolist()
      [1.0, 1.0, 1.0]
    """
    return Checkpoint(open_source(path))


def checked(path: str, record: Record, found: NumpyArray | Damage) -> NumpyArray | Damage:
    """Return the array, or what is wrong with it; an array without a known digest is taken as it is."""
    if isinstance(found, Damage) or fits(record, found):
        return found
    return misfit(path, record)
