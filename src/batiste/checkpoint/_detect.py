"""Which format a path is, told by its content and not by its name, and the source that reads it.

A name is believed in one case only: an index of sharded weights is JSON like many other files, so it is taken for one
where its own name ends in ``.index.json``, even where that name is a link. Of a folder, what batiste and others write
as folders comes first, then an index, then the one file of weights that is in it.
"""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from batiste.checkpoint._directory import DirectorySource
from batiste.checkpoint._files import is_file, leftovers, resolve
from batiste.checkpoint._foreign import NUMPY_MAGIC, is_named_npy, open_hdf5, open_npy
from batiste.checkpoint._gguf import open_gguf
from batiste.checkpoint._manifest import MANIFEST_NAME
from batiste.checkpoint._msgpack import MsgpackSource, is_msgpack
from batiste.checkpoint._npz import NpzSource
from batiste.checkpoint._orbax_source import OrbaxSource, orbax_items
from batiste.checkpoint._pickle import is_old_pickle, is_pickle, parses
from batiste.checkpoint._pickled import open_pickle
from batiste.checkpoint._safetensors import SafetensorsSource, is_safetensors
from batiste.checkpoint._shards import INDEX_ENDING, ShardedSource, find_index
from batiste.checkpoint._source import Source
from batiste.checkpoint._t5x import T5xSource, is_t5x
from batiste.checkpoint._torch import MAGIC, is_torch_zip, open_torch, open_torch_zip, tensor_names
from batiste.checkpoint._zarr import find_arrays, open_arrays
from batiste.errors import (
    CheckpointChangedError,
    CheckpointError,
    CheckpointFormatError,
    CheckpointNotFoundError,
    RefusedCheckpointError,
    nearest,
)

__all__ = ["holds_checkpoint", "open_source"]

_TRIES: Final = 8
_STEP: Final = re.compile(r"(?:.*[^0-9])?([0-9]{1,18})")
_TEMPORARY: Final = ".orbax-checkpoint-tmp"
_HDF5: Final = b"\x89HDF\r\n\x1a\n"
_TAR: Final = slice(257, 262)
_TENSORFLOW: Final = b"model_checkpoint_path"
_BESIDE: Final = frozenset(
    {".json", ".txt", ".md", ".py", ".yaml", ".yml", ".jinja", ".png", ".jpg", ".lock", ".tsv", ".csv", ".log"}
)
_CUT: Final = "Look for the whole file: this one is cut or damaged."
_UNPACK: Final = "Unpack it, and open what was in it."
_KNOWN: Final = (
    "Known are folders of batiste, Orbax, T5X and JAX, safetensors (also in shards), Flax MessagePack, .npz, .npy, "
    "PyTorch, pickles of arrays, HDF5 and GGUF."
)


def open_source(path: str | os.PathLike[str]) -> Source:
    """Open a checkpoint of any known format.

    Raises:
      CheckpointNotFoundError: if there is nothing.
      CheckpointFormatError: if it is none of the formats.
    """
    place = resolve(path, "checkpoint.open")
    given = Path(os.path.abspath(Path(path).expanduser()))  # noqa: PTH100 - the name that was given, links and all
    for _ in range(_TRIES):
        try:
            if os.path.isdir(place):  # noqa: PTH112 - False, and no error, for a name that is too long
                return _open_folder(place)
            if is_file(place):
                return ShardedSource(given, open_file) if given.name.endswith(INDEX_ENDING) else open_file(place)
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
        except OSError as error:
            raise CheckpointFormatError(
                path=_shortened(place), reason=f"{error.strerror or error}", cure="Check the path."
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
    if (place / "checkpoint").is_file() and (place / "checkpoint").read_bytes()[: len(_TENSORFLOW)] == _TENSORFLOW:
        cure = "Read it with `tensorflow.train.load_checkpoint`, and save its arrays with `numpy.savez`."
        raise CheckpointFormatError(path=place, reason="it is a checkpoint of TensorFlow", cure=cure)
    _check_finished(place)
    if is_t5x(place):
        return T5xSource(place)
    if orbax_items(place) or (place / "_CHECKPOINT_METADATA").is_file():
        return OrbaxSource(place)
    index = find_index(place)
    if index is not None:
        return ShardedSource(index, open_file)
    steps = _numbered(place)
    if steps:
        reason = f"it is the folder of a run with the steps {', '.join(steps[-5:])}"
        more = ", or use Manager" if steps[-1].isdecimal() else ""
        raise CheckpointFormatError(path=place, reason=reason, cure=f"Open a step, such as {place / steps[-1]}{more}.")
    arrays = find_arrays(place)
    if arrays:
        return open_arrays(place, arrays)
    return _open_only_file(place)


def _open_only_file(place: Path) -> Source:
    """Open the one file of weights in a folder that somebody has downloaded."""
    found = [
        entry
        for entry in sorted(place.iterdir())
        if entry.suffix not in _BESIDE and not entry.name.startswith(".") and entry.is_file() and _opener(entry)
    ]
    if len(found) == 1:
        return open_file(found[0])
    if found:
        names = ", ".join(entry.name for entry in found[:8])
        more = f" and {len(found) - 8} more" if len(found) > 8 else ""
        reason = f"it holds several files of weights: {names}{more}"
        raise CheckpointFormatError(path=place, reason=reason, cure=f"Open one of them, such as {found[0]}.")
    raise CheckpointFormatError(path=place, reason="nothing in it is known", cure=_KNOWN)


def _check_finished(place: Path) -> None:
    """Refuse what an interrupted save of Orbax leaves: folders that are renamed when they are complete.

    Raises:
      RefusedCheckpointError: if it is one, lies in one, is a checkpoint of which a part is one, or has nothing else.
    """
    within = [part for part in place.parts if _TEMPORARY in part]
    inner = sorted(entry.name for entry in place.iterdir() if _TEMPORARY in entry.name and entry.is_dir())
    if (place / "_CHECKPOINT_METADATA").is_file() or not (orbax_items(place) or _numbered(place)):
        within += inner
    if within:
        reason = f"{within[-1]!r} is an unfinished save of Orbax: it was interrupted, or is still running"
        cure = "Open an earlier step, or wait: Orbax's own name for a step is there only once it is complete."
        raise RefusedCheckpointError(path=place, reason=reason, cure=cure)


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
        return holds_checkpoint(entry) or is_t5x(entry)
    return entry.is_file() and _opener(entry) is MsgpackSource


def open_file(place: Path) -> Source:
    """Open a file of any known format.

    Raises:
      CheckpointFormatError: if it is none of them.
    """
    opener = _opener(place)
    if opener is None:
        reason = _what(place)
        cures = {"cut": _CUT, "whole": _UNPACK, "archive": _UNPACK}
        raise CheckpointFormatError(path=place, reason=reason, cure=cures.get(reason.split()[-1], _KNOWN))
    return opener(place)


def _opener(place: Path) -> Callable[[Path], Source] | None:
    """What opens a file, by its first bytes, its last, and for a zip its table."""
    with place.open("rb") as file:
        head = file.read(512)
        file.seek(0, os.SEEK_END)
        size = file.tell()
        file.seek(max(0, size - 1))
        tail = file.read(1)
    if is_safetensors(head):
        return SafetensorsSource
    if zipfile.is_zipfile(place):
        return _open_zip
    if head.startswith(MAGIC):
        return open_torch
    if head.startswith(_HDF5):
        return open_hdf5
    if head.startswith(b"GGUF"):
        return open_gguf
    if head.startswith(NUMPY_MAGIC) or (head.startswith(b"{") and is_named_npy(place)):
        return open_npy
    if is_pickle(head) or (is_old_pickle(head, tail) and parses(place)):
        return _open_pickle
    if is_msgpack(head):
        return MsgpackSource
    if place.name.endswith(".safetensors"):
        return SafetensorsSource
    return None


def _open_zip(place: Path) -> Source:
    try:
        with zipfile.ZipFile(place) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        reason = f"it is a zip whose table cannot be read ({error})"
        raise CheckpointFormatError(path=place, reason=reason, cure=_CUT) from None
    if is_torch_zip(names):
        return open_torch_zip(place)
    if any(name.endswith(".npy") for name in names) or not names:
        return NpzSource(place)
    inner = next((name for name in names if name.endswith(".h5")), None)
    cure = f"Take {inner!r} out of it, and open that." if inner else "Take what is in it out, and open that."
    shown = ", ".join(map(repr, names[:5]))
    raise CheckpointFormatError(path=place, reason=f"it is a zip of {shown}, and none of these are arrays", cure=cure)


def _open_pickle(place: Path) -> Source:
    return open_pickle(place, tensor_names())


def _what(place: Path) -> str:
    """What a file is that cannot be read, as far as its first bytes say."""
    with place.open("rb") as file:
        head = file.read(512)
    if not head:
        return "it is empty"
    if head.startswith(b"PK\x03\x04"):
        return "it begins as a zip (.npz, PyTorch) and has no table at its end: it is cut"
    if head[_TAR] == b"ustar":
        return "it is a tar archive"
    if head.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS, and the file itself was not fetched"
    zlib = head[:1] == b"x" and int.from_bytes(head[:2], "big") % 31 == 0
    if zlib or head.startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"\xfd7zXZ")):
        return "it is compressed as a whole"
    if head.lstrip()[:1] in (b"<", b"{"):
        return f"it is {'a page of text' if head.lstrip()[:1] == b'<' else 'JSON'}, and holds no arrays"
    return "its first bytes are those of no known format"


def _shortened(place: Path) -> str:
    text = str(place)
    return text if len(text) <= 200 else f"{text[:100]}...{text[-60:]}"


def _not_found(place: Path) -> CheckpointNotFoundError:
    folder = place.parent
    is_there = os.path.isdir(folder)  # noqa: PTH112 - False, and no error, for a name that is too long
    names = [entry.name for entry in folder.iterdir() if entry != place] if is_there else []
    cure = "Check the path; `batiste.checkpoint.Manager(folder).steps()` lists the steps of a run."
    if is_there and any(f".{place.name}.batiste-" in entry.name for entry in leftovers(folder)):
        cure = f"A save of it was interrupted; `batiste.checkpoint.cleanup({str(folder)!r})` clears what is left."
    return CheckpointNotFoundError(path=_shortened(place), near=nearest(place.name, names), cure=cure)
