"""What ``overwrite=True`` may replace: a checkpoint, and nothing else.

A folder is one if it has the marks of batiste or of Orbax and nothing beside what those write: not the folder of a run,
whose steps are checkpoints within it, nor one to which somebody added a file of another kind. A file is one if it
begins as a single file of a format that ``save`` writes. What is damaged may be replaced as well, and so may an empty
file or folder. Only names and first bytes are looked at: what is replaced need not be in order.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from batiste.checkpoint._manifest import MANIFEST_NAME
from batiste.checkpoint._msgpack import is_msgpack
from batiste.checkpoint._safetensors import is_safetensors
from batiste.errors import CheckpointArgumentError

__all__ = ["check_replaceable"]

_MARKS: Final = frozenset({MANIFEST_NAME, "_CHECKPOINT_METADATA", "_METADATA", "orbax.checkpoint"})
_LEGACY: Final = "checkpoint"  # a MessagePack file, in Orbax's first format
_FILES: Final = frozenset(
    {*_MARKS, _LEGACY, "_sharding", "_strings.json", "commit_success.txt", "descriptor.pbtxt", "manifest.ocdbt"}
)
_FOLDERS: Final = frozenset({"array_metadatas", "d", "descriptor"})
_PROCESS: Final = "ocdbt.process_"
_ITEM_MARKS: Final = ("_METADATA", "manifest.ocdbt", "metadata", "metrics", _LEGACY, ".zarray", "zarr.json")
_KEYS: Final = ("jax_random_key", "np_random_key", "jax_random_key_metadata")
_HEAD: Final = 1 << 12
_ZIP: Final = b"PK\x03\x04"
_CURE: Final = "Choose another path, or move what is there away yourself."


def check_replaceable(place: Path) -> None:
    """Refuse to replace what is no checkpoint.

    A folder that another process replaces while it is looked at is half the old one, which is being removed: what is
    found wrong counts if the same thing is there before and after.

    Raises:
      CheckpointArgumentError: if there is something else.
      OSError: if it cannot be looked at.
    """
    before = _identity(place)
    while before is not None:
        try:
            reason = _folder_reason(place) if place.is_dir() else _file_reason(place)
        except FileNotFoundError:
            reason = "is being removed"
        if reason is None:
            return
        after = _identity(place)
        if after == before:
            raise CheckpointArgumentError(argument="overwrite", value=True, reason=f"{place} {reason}", cure=_CURE)
        before = after


def _identity(place: Path) -> tuple[int, int, int] | None:
    """What tells a file or folder from another under its name; None if there is none. A rename changes the last."""
    try:
        about = place.lstat()
    except FileNotFoundError:
        return None
    return about.st_dev, about.st_ino, about.st_ctime_ns


def _folder_reason(place: Path) -> str | None:
    names = {entry.name: entry for entry in place.iterdir()}
    strange = sorted(_strange(names))
    if not strange and (names.keys() & _MARKS or _LEGACY in names or not names):
        return None
    steps = sorted((int(name) for name in strange if name.isdecimal() and names[name].is_dir()), reverse=True)
    if steps:
        return f"is the folder of a run, with the step {steps[0]} among others" if steps[1:] else "is a run's folder"
    if strange and names.keys() & _MARKS:
        return f"is a checkpoint, and there is {strange[0]!r} in it, which is no part of one"
    return "is a folder that is no checkpoint of batiste or Orbax"


def _strange(names: dict[str, Path]) -> Iterator[str]:
    """The entries that neither batiste nor Orbax puts into the folder of a checkpoint."""
    for name, entry in names.items():
        if entry.is_symlink() or not entry.is_dir():
            if name not in _FILES or entry.is_symlink():
                yield name
        elif name not in _FOLDERS and not name.startswith(_PROCESS) and not _is_item(entry):
            yield name


def _is_item(folder: Path) -> bool:
    """Whether a folder within a checkpoint is an item of Orbax or an array, and no checkpoint of its own."""
    inside = set(os.listdir(folder))  # noqa: PTH208 - the names alone
    if inside & {MANIFEST_NAME, "_CHECKPOINT_METADATA", "orbax.checkpoint"}:
        return False
    return bool(inside & {*_ITEM_MARKS, *_KEYS})


def _file_reason(place: Path) -> str | None:
    if not place.is_file():
        return "is neither a file nor a folder"
    with place.open("rb") as file:
        head = file.read(_HEAD)
    name = head[30 : 30 + int.from_bytes(head[26:28], "little")]  # of the first member of a zip
    is_npz = head.startswith(_ZIP) and name.endswith(b".npy")
    if not head or is_safetensors(head) or is_npz or is_msgpack(head[:16]):
        return None
    return "is a file that is no checkpoint"
