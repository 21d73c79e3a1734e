"""A folder that several processes save together: each writes its own part, and one publishes the whole.

What all processes can know without a word is worked out by each of them alike: the parts of every array, and who
writes which. A part is written by one of the processes that have it, the one that has least to write so far, so that
the copies of a replicated state are written by all processes, a share by each. What only one can know is said: that a
tree cannot be saved, digests, that the system has refused.

The processes agree first, in the main thread, before anything is written. The rest may go on in a thread beside it and
needs no device: each writes its database and a file with its digests into the folder that is not there yet (see
``_files.py``), and they meet. Process 0 then merges, writes the manifest and gives the folder its name, and they meet
again. If a process dies or fails before that, there is no folder, and the others raise an error.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import jax
import numpy as np

from batiste._processes import check_alike, gather, meet, share_failure
from batiste.checkpoint._arrays import digest_array, dtype_by_name, to_host
from batiste.checkpoint._directory import is_vouched
from batiste.checkpoint._files import beside, digest_files, staged, write_error
from batiste.checkpoint._manifest import MANIFEST_NAME, Manifest
from batiste.checkpoint._orbax import ITEM
from batiste.checkpoint._orbax_write import (
    WHOLE_BYTES,
    ArrayWriter,
    Tables,
    chunk_shape,
    merge,
    part_folder,
    write_marks,
)
from batiste.checkpoint._parts import digest_of_parts, part_boxes
from batiste.checkpoint._replaceable import check_replaceable
from batiste.checkpoint._types import Box, NumpyArray, Record
from batiste.errors import CheckpointError, ProcessFailedError
from batiste.tree import LazyArray

__all__ = ["Part", "Share", "agree", "copied_parts", "own_parts", "refuse", "save_together"]

_LONG: Final = 3600.0  # seconds for one process to write what others have written; who is dead is known sooner
_ADVICE: Final = (
    "A folder is saved by all processes together: give each the same path and the same tree, whose numbers and arrays "
    "of NumPy are equal. To save what only one process has, save a `.safetensors` file from it."
)


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """A part of an array that this process writes: its place in the grid, its box, its values."""

    number: int
    box: Box
    host: NumpyArray


@dataclasses.dataclass(frozen=True, slots=True)
class Share:
    """Who writes what of a save.

    Attributes:
      token: the same for all processes, and for no other save.
      chunks: the shape of the parts of each array, by path; arrays without elements have none.
      owners: the process that writes each part, by path.
    """

    token: str
    chunks: dict[str, tuple[int, ...]]
    owners: dict[str, list[int]]


def refuse(target: Path, error: Exception) -> None:
    """Tell the other processes that this one cannot save, where they call ``agree``.

    Raises:
      Exception: the error.
    """
    share_failure("save", error, what=f"saving {target}")


def agree(target: Path, manifest: Manifest, arrays: Mapping[str, Any]) -> Share:
    """Return who writes what, once all processes are here and want to save the same.

    Args:
      target: the folder.
      manifest: what this process would save.
      arrays: the arrays by path.

    Raises:
      ProcessFailedError: if another one cannot save.
      ProcessesDifferError: if they would not save the same.
      ProcessLostError: if some do not come.
    """
    what = f"saving {target}"
    try:
        facets = _facets(target, manifest, arrays)
    except Exception as error:
        refuse(target, error)
        raise
    share_failure("save", None, what=what)
    check_alike("save/alike", facets, what=what, advice=_ADVICE)
    token = gather("save/token", secrets.token_hex(4), what=what)[0]
    compress = bool(manifest.storage["compressed"])
    records = {path: manifest.records[path] for path in arrays if manifest.records[path].bytes}
    chunks = {path: chunk_shape(record, arrays[path], compress=compress) for path, record in records.items()}
    loads = [0] * jax.process_count()
    owners = {path: _owners(record, chunks[path], arrays[path], loads) for path, record in records.items()}
    return Share(token, chunks, owners)


def _facets(target: Path, manifest: Manifest, arrays: Mapping[str, Any]) -> dict[str, list[str]]:
    """What must be the same in all processes, in lines."""
    return {
        "path": [str(target)],
        "step": [str(manifest.step)],
        "tree": [f"{path}: {record}" for path, record in manifest.records.items()]
        + [f"{path}: {row}" for path, row in manifest.containers.items()],
        "placement": [f"{path}: {_placement(array)}" for path, array in arrays.items()],
        "value": _values(manifest.records, arrays),
    }


def own_parts(share: Share, path: str, record: Record, array: Any) -> list[Part]:
    """Return the parts of an array that this process writes; their values may be the memory of the array itself."""
    process = jax.process_index()
    if process not in share.owners[path]:
        return []
    hosts: dict[tuple[int, ...], NumpyArray] = {}
    shards = _shards(array)
    found: list[Part] = []
    for number, box in enumerate(part_boxes(record.shape, share.chunks[path])):
        if share.owners[path][number] != process:
            continue
        start, data = next((start, data) for start, extents, data in shards if _is_within(box, start, extents))
        if start not in hosts:
            hosts[start] = to_host(data, path)
        inside = tuple(slice(part.start - first, part.stop - first) for part, first in zip(box, start, strict=True))
        found.append(Part(number, box, np.asarray(hosts[start][inside], order="C")))
    return found


def copied_parts(parts: Sequence[Part]) -> list[Part]:
    """Return parts that stay what they are when their arrays are donated or changed."""
    return [dataclasses.replace(part, host=part.host.copy()) for part in parts]


def save_together(
    target: Path,
    manifest: Manifest,
    arrays: Mapping[str, Any],
    share: Share,
    parts: Callable[[str], Sequence[Part]],
    *,
    overwrite: bool,
) -> None:
    """Write the part of this process, and return when the folder is there.

    Args:
      target: the folder.
      manifest: what is saved, still without digests.
      arrays: the arrays by path.
      share: who writes what.
      parts: returns the parts of an array that this process writes.
      overwrite: whether to replace what is there.

    Raises:
      CheckpointError: if the system refuses, or something is there.
      ProcessFailedError: if another process has failed.
      ProcessLostError: if another process has died.
    """
    what = f"saving {target}"
    first = jax.process_index() == 0
    stage = beside(target, share.token)
    note = stage.with_name(f"{stage.name}.failed")
    try:
        if first:
            with staged(target, overwrite=overwrite, check=check_replaceable, token=share.token):
                own = _attempt(stage, share, manifest, parts)
                meet(f"save/{share.token}/written", what=what, seconds=_LONG)
                _finish(stage, share, manifest, arrays, own, what)
        else:
            own = _attempt(stage, share, manifest, parts)
            meet(f"save/{share.token}/written", what=what, seconds=_LONG)
    except (CheckpointError, ProcessFailedError) as error:
        _write_note(note, error)
        meet(f"save/{share.token}/published", what=what, seconds=_LONG)
        meet(f"save/{share.token}/read", what=what, seconds=_LONG)
        note.unlink(missing_ok=True)
        raise
    meet(f"save/{share.token}/published", what=what, seconds=_LONG)
    if not first and note.exists():
        row = json.loads(note.read_text(encoding="utf-8"))
        meet(f"save/{share.token}/read", what=what, seconds=_LONG)
        if isinstance(own, Exception):
            raise own
        raise ProcessFailedError(what=what, process=row["process"], reason=row["reason"])


def _attempt(stage: Path, share: Share, manifest: Manifest, parts: Callable[[str], Sequence[Part]]) -> Exception | None:
    """Write the part of this process and what is to be said of it; an error is said, and returned."""
    row: dict[str, Any] = {}
    own: Exception | None = None
    try:
        (stage / ITEM).mkdir(parents=True, exist_ok=True)
        row = _write_part(stage, share, manifest, parts)
    except OSError as error:
        own = write_error(stage, error)
    except Exception as error:  # noqa: BLE001 - it is raised when the others know of it
        own = error
    if own is not None:
        row = {"error": f"{type(own).__name__}: {own}"}
    with contextlib.suppress(OSError):  # without this file, process 0 knows enough
        _row_file(stage, jax.process_index()).write_text(json.dumps(row), encoding="utf-8")
    return own


def _write_part(
    stage: Path, share: Share, manifest: Manifest, parts: Callable[[str], Sequence[Part]]
) -> dict[str, Any]:
    process = jax.process_index()
    digests: dict[str, dict[int, str]] = {}
    own = [path for path, owners in share.owners.items() if process in owners]
    if own:
        folder = part_folder(stage / ITEM, process)
        with ArrayWriter(folder, compress=bool(manifest.storage["compressed"]), tables=False) as writer:
            for path in own:
                found = parts(path)
                boxes = [(part.box, part.host) for part in found]
                writer.add_parts(path, manifest.records[path], share.chunks[path], boxes)
                digests[path] = {part.number: digest_array(part.host) for part in found}  # while it is written
        files = digest_files(folder, is_vouched)
        prefix = folder.relative_to(stage).as_posix()
        return {"digests": digests, "files": {f"{prefix}/{name}": row for name, row in files.items()}}
    return {"digests": {}, "files": {}}


def _finish(
    stage: Path, share: Share, manifest: Manifest, arrays: Mapping[str, Any], own: Exception | None, what: str
) -> None:
    """Make one checkpoint of what the processes have written, or say which of them has failed."""
    if own is not None:
        raise own
    rows: list[dict[str, Any]] = []
    for process in range(jax.process_count()):
        file = _row_file(stage, process)
        if not file.is_file():
            reason = f"{file} is not there: the folder is not the same one for all processes, or cannot be written"
            raise ProcessFailedError(what=what, process=process, reason=reason)
        rows.append(json.loads(file.read_text(encoding="utf-8")))
        if "error" in rows[-1]:
            raise ProcessFailedError(what=what, process=process, reason=rows[-1]["error"])
        file.unlink()
    smallest = WHOLE_BYTES + 1  # of the arrays that are more than one entry of the database
    tables = Tables()
    for path, array in arrays.items():
        record = manifest.records[path]
        if not record.bytes:
            record.digest = digest_array(np.empty(record.shape, dtype_by_name(record.dtype)))
            continue
        chunk, owners = share.chunks[path], share.owners[path]
        digests = [rows[owner]["digests"][path][str(number)] for number, owner in enumerate(owners)]
        if len(digests) > 1:
            record.chunk, record.parts = chunk, tuple(digests)
            smallest = min(smallest, record.bytes)
        record.digest = digest_of_parts(digests) if len(digests) > 1 else digests[0]
        tables.note(path, record, chunk, array)
    if share.owners:
        merge(stage / ITEM, sorted({owner for owners in share.owners.values() for owner in owners}))
        tables.write(stage / ITEM)
        write_marks(stage, ITEM, manifest.saved_at)
    else:
        (stage / ITEM).rmdir()
    manifest.storage["whole_bytes"] = min(manifest.storage["whole_bytes"], smallest - 1)
    files = {name: (int(size), str(digest)) for row in rows for name, (size, digest) in row["files"].items()}
    manifest.files = _digests(stage, files)
    (stage / MANIFEST_NAME).write_text(manifest.to_text(), encoding="utf-8")


def _digests(stage: Path, known: Mapping[str, tuple[int, str]]) -> dict[str, tuple[int, str]]:
    """Sizes and digests of all files; those that the processes have given are not computed again."""
    own = digest_files(stage, lambda name, size: name in known or is_vouched(name, size))
    return {name: known.get(name, row) for name, row in own.items()}


def _write_note(note: Path, error: Exception) -> None:
    process = error.context["process"] if isinstance(error, ProcessFailedError) else jax.process_index()
    reason = error.context["reason"] if isinstance(error, ProcessFailedError) else f"{type(error).__name__}: {error}"
    with contextlib.suppress(OSError):
        note.write_text(json.dumps({"process": process, "reason": reason}), encoding="utf-8")


def _row_file(stage: Path, process: int) -> Path:
    return stage / f"process_{process}.json"


def _placement(array: Any) -> str:
    if not _is_spread(array):
        return "a copy in each process"
    sharding = array.sharding
    mesh = getattr(sharding, "mesh", None)
    return str(sharding) if mesh is None else f"{sharding.spec} on a mesh {dict(mesh.shape)}"


def _values(records: Mapping[str, Record], arrays: Mapping[str, Any]) -> list[str]:
    """Plain values, and the digests of arrays of which each process has a copy of its own."""
    found: list[str] = []
    for path, record in records.items():
        if record.kind is not None:
            found.append(f"{path}: {record.value!r}"[:200])
        elif record.bytes and not isinstance(arrays[path], LazyArray) and not _is_spread(arrays[path]):
            host = to_host(arrays[path], path)
            few = np.array2string(host, threshold=4, edgeitems=2) if host.size < 5 else "..."
            found.append(f"{path}: {record} {few} with digest {digest_array(host)}")
    return found


def _is_spread(array: Any) -> bool:
    """Whether an array is one over several processes; any other is in each of them."""
    return isinstance(array, jax.Array) and not array.is_fully_addressable


def _shards(array: Any) -> list[tuple[tuple[int, ...], tuple[int, ...], Any]]:
    """Where each shard of this process begins, its shape, and its values."""
    if not _is_spread(array):
        return [((0,) * len(array.shape), tuple(array.shape), array)]
    return [
        (tuple(part.start or 0 for part in shard.index), tuple(shard.data.shape), shard.data)
        for shard in array.addressable_shards
    ]


def _is_within(box: Box, start: Sequence[int], extents: Sequence[int]) -> bool:
    return all(
        first <= part.start and part.stop <= first + extent
        for part, first, extent in zip(box, start, extents, strict=True)
    )


def _owners(record: Record, chunk: tuple[int, ...], array: Any, loads: list[int]) -> list[int]:
    """The process that writes each part: of those that have it, the one that has least to write so far."""
    everyone = range(len(loads))
    holders: dict[tuple[int, ...], list[int]] = {}
    extents = record.shape
    if _is_spread(array):
        extents = tuple(array.sharding.shard_shape(record.shape))
        found: dict[tuple[int, ...], set[int]] = {}
        for device, index in array.sharding.devices_indices_map(record.shape).items():
            found.setdefault(tuple(part.start or 0 for part in index), set()).add(device.process_index)
        holders = {start: sorted(processes) for start, processes in found.items()}
    owners: list[int] = []
    for box in part_boxes(record.shape, chunk):
        start = tuple(part.start // extent * extent for part, extent in zip(box, extents, strict=True))
        owner = min(holders.get(start, everyone), key=loads.__getitem__)
        loads[owner] += math.prod(part.stop - part.start for part in box) * dtype_by_name(record.dtype).itemsize
        owners.append(owner)
    return owners
