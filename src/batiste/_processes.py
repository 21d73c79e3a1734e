"""What the processes of one program say to each other: that they are at one place, and what each of them has there.

The processes are those of ``jax.distributed``. To *meet* is to wait at a barrier of its coordination service, which
takes a millisecond, no device, and has an end: who does not come is named. To *gather* is to meet and then to give each
other a text, through the devices, as JAX does it; so only the main thread gathers, where all processes compute the
same. A thread beside it may meet.

With one process there is nothing to say, and nobody asks here: ``several`` is looked at first.
"""

from __future__ import annotations

import collections
import functools
import hashlib
import importlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

import jax
import numpy as np

from batiste.errors import MissingPackageError, ProcessesDifferError, ProcessFailedError, ProcessLostError

__all__ = [
    "PATIENCE",
    "check_alike",
    "gather",
    "is_first",
    "meet",
    "missing_from",
    "several",
    "share_failure",
]

PATIENCE: Final = 300.0
"""Seconds that processes wait for each other where all of them should come at about the same time."""

_FRAME: Final = 4096  # bytes that are exchanged at once; longer texts take a second exchange
_MOST_LINES: Final = 6
_ALONE: Final = re.compile(r"^\s*(?:/job:\S*/task:)?(\d+)\s*$", re.MULTILINE)
_LATE: Final = re.compile(r"timed out task names:(.*?)(?:\n\s*\n|RPC:|$)", re.DOTALL)


def several() -> bool:
    """Return whether this program runs in more than one process."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def is_first() -> bool:
    """Return whether this process is the one that speaks for all: the only one, or process 0."""
    return not several() or jax.process_index() == 0


def meet(place: str, *, what: str, seconds: float = PATIENCE) -> None:
    """Wait until all processes are here.

    Args:
      place: the same for all processes; two threads may not meet at one place.
      what: what they are about to do, for the error.
      seconds: how long to wait.

    Raises:
      ProcessLostError: if some do not come in time, or are known to be dead.
    """
    try:
        barrier = importlib.import_module("orbax.checkpoint.multihost").get_barrier_sync_fn()
    except ModuleNotFoundError:
        package = "orbax-checkpoint"
        purpose = "Running in several processes"
        raise MissingPackageError(purpose=purpose, package=package, install="'batiste[checkpoint]'") from None
    try:
        barrier(key=f"batiste/{place}", timeout_ms=int(seconds * 1000))
    except RuntimeError as error:
        who = missing_from(str(error))
        raise ProcessLostError(who=who, what=what, seconds=round(seconds)) from error


def missing_from(text: str) -> str:
    """Return who did not come, out of what the coordination service says."""
    late = _LATE.search(text)
    found = sorted({int(number) for number in _ALONE.findall(late[1])}) if late else []
    if not found:
        found = sorted({int(number) for number in re.findall(r"[Tt]ask:?\s?(\d+) heartbeat", text)})
    names = ", ".join(map(str, found))
    return f"process {names}" if len(found) == 1 else f"processes {names}" if found else "a process"


def gather(place: str, own: str, *, what: str, seconds: float = PATIENCE) -> list[str]:
    """Give all processes a text, and return those of all, by process.

    Args:
      place: as for ``meet``.
      own: the text of this process.
      what: what they are about to do, for the error.
      seconds: how long to wait.

    Raises:
      ProcessLostError: if some do not come in time, or die.
    """
    meet(place, what=what, seconds=seconds)
    data = own.encode()
    rows = _exchange(len(data).to_bytes(8, "little") + data[: _FRAME - 8], _FRAME)
    sizes = [int.from_bytes(row[:8], "little") for row in rows]
    if max(sizes) <= _FRAME - 8:
        return [row[8 : 8 + size].decode() for row, size in zip(rows, sizes, strict=True)]
    rows = _exchange(data, 1 << (max(sizes) - 1).bit_length())
    return [row[:size].decode() for row, size in zip(rows, sizes, strict=True)]


def check_alike(
    place: str, facets: Mapping[str, Sequence[str]], *, what: str, advice: str, seconds: float = PATIENCE
) -> None:
    """Refuse to go on where processes differ.

    Args:
      place: as for ``meet``.
      facets: lines by what they describe, such as ``{"the state": ["params/w: float32[3]"]}``.
      what: what the processes are about to do.
      advice: what to do where they differ.
      seconds: how long to wait.

    Raises:
      ProcessesDifferError: if lines are not the same in all processes; it says in which, and which lines.
      ProcessLostError: if some do not come in time, or die.
    """
    digests = {
        name: hashlib.blake2b("\n".join(lines).encode(), digest_size=8).hexdigest() for name, lines in facets.items()
    }
    rows: list[dict[str, str]] = [
        json.loads(text) for text in gather(place, json.dumps(digests), what=what, seconds=seconds)
    ]
    differ = sorted({name for row in rows for name in {*row, *rows[0]} if row.get(name) != rows[0].get(name)})
    if not differ:
        return
    own = {name: list(facets.get(name, ())) for name in differ}
    found: list[dict[str, list[str]]] = [
        json.loads(text) for text in gather(f"{place}/difference", json.dumps(own), what=what)
    ]
    lines = [line for name in differ for line in _differences(name, [row.get(name, []) for row in found])]
    raise ProcessesDifferError(what=what, lines="\n".join(lines), advice=advice)


def share_failure(place: str, error: Exception | None, *, what: str) -> None:
    """Tell all processes whether this one has failed; where one has, all of them raise an error.

    Raises:
      Exception: the error of this process, if it has one.
      ProcessFailedError: if another process has one.
      ProcessLostError: if some do not come in time, or die.
    """
    text = "" if error is None else f"{type(error).__name__}: {error}"
    try:
        texts = gather(place, text, what=what)
    except ProcessLostError as lost:
        if error is None:
            raise
        error.add_note(f"The other processes could not be told: {lost}")
        raise error from None
    if error is not None:
        raise error
    failed = next((number for number, text in enumerate(texts) if text), None)
    if failed is not None:
        raise ProcessFailedError(what=what, process=failed, reason=texts[failed])


def _differences(name: str, texts: Sequence[Sequence[str]]) -> list[str]:
    """What a few processes have and most have not, in words."""
    usual, _ = collections.Counter(tuple(lines) for lines in texts).most_common(1)[0]
    model = next(number for number, lines in enumerate(texts) if tuple(lines) == usual)
    found: list[str] = []
    for number, lines in enumerate(texts):
        if tuple(lines) == usual:
            continue
        theirs = set(usual)
        mine = set(lines)
        here = [line for line in lines if line not in theirs]
        there = [line for line in usual if line not in mine]
        found.append(f"  process {number} has another {name} (+) than process {model} (-):")
        if not here and not there:
            found.append("  the same lines in another order")
        for at in range(min(_MOST_LINES, max(len(here), len(there)))):
            found.extend(f"  + {line}" for line in here[at : at + 1])
            found.extend(f"  - {line}" for line in there[at : at + 1])
        more = max(len(here), len(there)) - _MOST_LINES
        if more > 0:
            found.append(f"  and {more} more")
    return found


def _exchange(own: bytes, size: int) -> list[bytes]:
    """Give all processes so many bytes, and return those of all."""
    mesh = _one_device_each()
    sharding = jax.NamedSharding(mesh, jax.P("processes"))
    row: Any = np.zeros((1, size), np.uint8)
    row[0, : len(own)] = np.frombuffer(own, np.uint8)
    rows = jax.make_array_from_process_local_data(sharding, row, (mesh.size, size))
    with jax.set_mesh(mesh):
        whole: Any = _replicated(mesh)(rows)
    found: Any = np.asarray(whole)
    return [bytes(found[number]) for number in range(mesh.size)]


def _one_device_each() -> jax.sharding.Mesh:
    first: dict[int, Any] = {}
    for device in cast("list[Any]", jax.devices()):
        first.setdefault(device.process_index, device)
    devices = np.array([first[number] for number in sorted(first)])
    return jax.sharding.Mesh(devices, ("processes",))


@functools.lru_cache(maxsize=1)
def _replicated(mesh: jax.sharding.Mesh) -> Any:
    return cast("Any", jax.jit)(_same, out_shardings=jax.NamedSharding(mesh, jax.P()))


def _same(rows: Any) -> Any:
    return rows
