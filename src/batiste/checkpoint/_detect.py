"""Which format a path is, told by its content and not by its name, and the source that reads it."""

from __future__ import annotations

import os
import re
import zipfile
from pathlib import Path
from typing import Final

from batiste.checkpoint._directory import DirectorySource
from batiste.checkpoint._files import is_file, leftovers, resolve
from batiste.checkpoint._manifest import MANIFEST_NAME
from batiste.checkpoint._msgpack import MsgpackSource, is_msgpack
from batiste.checkpoint._npz import NpzSource
from batiste.checkpoint._orbax_source import OrbaxSource, orbax_items
from batiste.checkpoint._safetensors import SafetensorsSource, is_safetensors
from batiste.checkpoint._shards import ShardedSource, find_index
from batiste.checkpoint._source import Source
from batiste.checkpoint._torch import TorchSource
from batiste.errors import (
    CheckpointChangedError,
    CheckpointError,
    CheckpointFormatError,
    CheckpointNotFoundError,
    nearest,
)

__all__ = ["holds_checkpoint", "open_source"]

_TRIES: Final = 8
_STEP: Final = re.compile(r"(?:.*[^0-9])?([0-9]{1,18})")
_TEMPORARY: Final = ".orbax-checkpoint-tmp"
_KNOWN: Final = (
    "Known are folders of batiste and Orbax, safetensors (also in shards), Flax MessagePack, .npz and PyTorch."
)


def open_source(path: str | os.PathLike[str]) -> Source:
    """Open a checkpoint of any known format.

    Raises:
      CheckpointNotFoundError: if there is nothing.
      CheckpointFormatError: if it is none of the formats.
    """
    place = resolve(path)
    for _ in range(_TRIES):
        try:
            if os.path.isdir(place):  # noqa: PTH112 - False, and no error, for a name that is too long
                return _open_folder(place)
            if is_file(place):
                return _open_file(place)
            break
        except CheckpointChangedError:  # another program has just replaced it
            continue
        except CheckpointError:
            raise
        except FileNotFoundError:  # or is removing what was there
            continue
        except PermissionError as error:
            raise CheckpointFormatError(
                path=place, reason=f"{error.strerror}", cure="Ask for the right to read it."
            ) from None
    raise _not_found(place)


def holds_checkpoint(folder: Path) -> bool:
    """Return whether a folder is a complete checkpoint of batiste or Orbax, by its looks."""
    return (folder / MANIFEST_NAME).is_file() or (
        (folder / "_CHECKPOINT_METADATA").is_file() or bool(orbax_items(folder))
    )


def _open_folder(place: Path) -> Source:
    if (place / MANIFEST_NAME).is_file():
        return DirectorySource(place)
    _check_finished(place)
    if orbax_items(place) or (place / "_CHECKPOINT_METADATA").is_file():
        return OrbaxSource(place)
    index = find_index(place)
    if index is not None:
        return ShardedSource(index, _open_file)
    steps = _numbered(place)
    if steps:
        reason = f"it is the folder of a run with the steps {', '.join(steps[-5:])}"
        more = ", or use Manager" if steps[-1].isdecimal() else ""
        raise CheckpointFormatError(path=place, reason=reason, cure=f"Open a step, such as {place / steps[-1]}{more}.")
    single = [entry for entry in sorted(place.iterdir()) if entry.name.endswith(".safetensors")]
    if len(single) == 1:
        return SafetensorsSource(single[0])
    raise CheckpointFormatError(path=place, reason="nothing in it is known", cure=_KNOWN)


def _check_finished(place: Path) -> None:
    """Refuse what an interrupted save of Orbax leaves: folders that are renamed when they are complete.

    Raises:
      CheckpointFormatError: if it is one, lies in one, or is a checkpoint of which a part is one.
    """
    within = [part for part in place.parts if _TEMPORARY in part]
    if (place / "_CHECKPOINT_METADATA").is_file():
        within += sorted(entry.name for entry in place.iterdir() if _TEMPORARY in entry.name)
    if within:
        reason = f"it is the unfinished save of Orbax that was interrupted and left {within[-1]!r}"
        cure = "Open an earlier step; Orbax's own name for a step is there only once it is complete."
        raise CheckpointFormatError(path=place, reason=reason, cure=cure)


def _numbered(folder: Path) -> list[str]:
    """The checkpoints of a run by their numbers: ``100``, ``ckpt_00100`` and, as Flax has them, ``checkpoint_100``."""
    found: dict[str, int] = {}
    for entry in folder.iterdir():
        name = _STEP.fullmatch(entry.name)
        if name is not None and _TEMPORARY not in entry.name and (entry.name.isdecimal() or _is_step(entry)):
            found[entry.name] = int(name[1])
    return sorted(found, key=found.__getitem__)


def _is_step(entry: Path) -> bool:
    if entry.is_dir():
        return holds_checkpoint(entry)
    if not entry.is_file():
        return False
    with entry.open("rb") as file:
        return is_msgpack(file.read(16))


def _open_file(place: Path) -> Source:
    if place.name.endswith(".index.json"):
        return ShardedSource(place, _open_file)
    with place.open("rb") as file:
        head = file.read(16)
    if is_safetensors(head) or place.name.endswith(".safetensors"):
        return SafetensorsSource(place)
    if zipfile.is_zipfile(place):
        try:
            with zipfile.ZipFile(place) as archive:
                names = archive.namelist()
        except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
            reason = f"it is a zip whose table cannot be read ({error})"
            cure = "Look for the whole file: this one is cut or damaged."
            raise CheckpointFormatError(path=place, reason=reason, cure=cure) from None
        is_torch = any(name.endswith("/data.pkl") or name == "data.pkl" for name in names)
        return TorchSource(place) if is_torch else NpzSource(place)
    if place.suffix in (".pt", ".pth", ".bin"):
        return TorchSource(place)
    if place.suffix == ".npz":
        return NpzSource(place)
    if is_msgpack(head):
        return MsgpackSource(place)
    raise CheckpointFormatError(path=place, reason="its first bytes are those of no known format", cure=_KNOWN)


def _not_found(place: Path) -> CheckpointNotFoundError:
    folder = place.parent
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    cure = "Check the path; `batiste.checkpoint.Manager(folder).steps()` lists the steps of a run."
    if any(f".{place.name}.batiste-" in entry.name for entry in leftovers(folder)):
        cure = f"A save of it was interrupted; `batiste.checkpoint.cleanup({str(folder)!r})` clears what is left."
    return CheckpointNotFoundError(path=place, near=nearest(place.name, names), cure=cure)
