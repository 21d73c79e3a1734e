"""A training run in several processes: what they compare before the first step, and what only one of them does.

Every process runs the same loop on its part of the same arrays. Process 0 writes the rows and is the one that logs; the
state is saved and restored by all (``batiste.checkpoint``). A signal to one process stops all of them after the same
step, which JAX's preemption service agrees on. A process that dies is found by the next collective or by the heartbeats
of ``jax.distributed``, and the others end with an error that names it.

``Crew`` is what the loop knows of all this; with one process, nothing in it does anything.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import json
import os
import platform
import re
import sys
import time
from collections.abc import Generator, Mapping
from importlib import metadata
from typing import Any, Final, TypeVar, cast

import jax
import numpy as np

from batiste._arguments import refused, whole_number
from batiste._processes import check_alike, gather, is_first, meet, several, share_failure
from batiste.errors import BatisteError, DataPositionError, ProcessLostError
from batiste.train._metrics import Row
from batiste.tree import flatten

__all__ = ["Crew", "check_batch", "global_batch", "is_over_processes", "local_rows"]

Tree = TypeVar("Tree")

_PACKAGES: Final = ("batiste", "jax", "jaxlib", "numpy", "optax")
# What a collective says when a process has died comes as JaxRuntimeError, as running out of memory does. The words only
# choose whether the others are asked, for 5 s: what counts is that no answer comes.
_LOST: Final = re.compile(
    r"gloo|nccl|connection (closed|reset|refused)|heartbeat|coordination|socket closed|unavailable|peer|collective",
    re.IGNORECASE,
)
_SECONDS: Final = 5.0  # to find out who does not answer any more
_ADDRESS: Final = re.compile(r" at 0x[0-9a-f]+")
_VERSIONS_CURE: Final = "Install the same versions everywhere, and start all processes with the same arguments."
_FOLDER_CURE: Final = (
    "The folder of a run is one that all processes share, such as a network file system: give each the same."
)
_BATCH_CURE: Final = (
    "What is no array over all processes is taken to be the same in each of them. Make one array of the parts that the "
    "processes have: train.global_batch(part, sharding)."
)
_ROW_CURE: Final = (
    "What an evaluation returns is the same in all processes: add up what each has measured with "
    "train.metrics.across_processes, or give train.evaluate batches of train.global_batch."
)
_DATA_CURE: Final = "Give all processes as many batches: cut the data into equal parts, and leave out the rest."
_MOST: Final = 1 << 28  # bytes of values that are compared, of the smallest arrays first: a tenth of a second or two
_PROGRAM_CURE: Final = "Run one program in all processes, and build the state from the same settings and the same seed."


class Crew:
    """The processes of a run, as one of them sees them.

    Attributes:
      first: whether this process speaks for all: process 0, or the only one.
    """

    def __init__(self) -> None:
        self._several = several()
        self.first = is_first()

    @property
    def several(self) -> bool:
        """Whether there is more than one process."""
        return self._several

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Compare what the processes are and what they were told, before anything is read.

        Raises:
          ProcessesDifferError: if they differ.
          ProcessLostError: if some do not come.
        """
        if self._several:
            versions = [f"{name} {_version(name)}" for name in _PACKAGES]
            facets = {
                "version": [f"Python {platform.python_version()}", *versions],
                "setting": [f"{name}={value!r}" for name, value in settings.items()],
            }
            check_alike("loop/begin", facets, what="a training run", advice=_VERSIONS_CURE)

    def agreed(self, latest: int | None) -> int | None:
        """Return the step of the latest checkpoint, which all processes must see.

        Raises:
          ProcessesDifferError: if they see others.
        """
        if self._several:
            seen = {"checkpoint": [f"the latest step is {latest}"]}
            check_alike("loop/latest", seen, what="going on with a run", advice=_FOLDER_CURE)
        return latest

    def said_by_first(self, value: Any) -> Any:
        """Return what process 0 has here, as JSON has it."""
        if not self._several:
            return value
        return json.loads(gather("loop/first", json.dumps(value), what="going on with a run")[0])

    def positions(self, own: Any) -> Any:
        """Return the positions of the data of all processes, or the one that all have."""
        if not self._several:
            return own
        found = [
            json.loads(text) for text in gather("loop/data", json.dumps(own), what="saving the position of the data")
        ]
        return own if all(row == own for row in found) else {"processes": found}

    def position(self, saved: Any, step: int) -> Any:
        """Return the position of this process out of those that were saved.

        Raises:
          DataPositionError: if they were saved by another number of processes, and are not the same.
        """
        row = cast("dict[str, Any]", saved) if isinstance(saved, dict) else {}
        if list(row) != ["processes"]:
            return cast("Any", saved)
        rows: list[Any] = row["processes"]
        own, count = (jax.process_index(), jax.process_count()) if self._several else (0, 1)
        if len(rows) != count:
            reason = f"it was saved by {len(rows)} processes, each with a position of its own, and here are {count}"
            raise DataPositionError(step=step, reason=reason)
        return rows[own]

    @contextlib.contextmanager
    def together(self, what: str) -> Generator[None]:
        """Do something without collectives in each process; where it fails in one, raise an error in all of them.

        Raises:
          ProcessFailedError: if it has failed in another process.
        """
        if not self._several:
            yield
            return
        failed: Exception | None = None
        try:
            yield
        except Exception as error:  # noqa: BLE001 - it is raised when the others know of it
            failed = error
        share_failure("loop/together", failed, what=what)

    def check_batch(self, batch: Any) -> None:
        """Refuse a batch that the processes do not have alike.

        Raises:
          ProcessesDifferError: if its arrays have other shapes, or those that are in each process other values.
        """
        if self._several:
            check_batch("loop/batch", batch, what="a step")

    def same_row(self, row: Row) -> Row:
        """Return the row of process 0, after which all processes decide alike.

        Raises:
          ProcessesDifferError: if the others have other numbers, by more than rounding.
        """
        if not self._several:
            return row
        rows: list[Row] = [json.loads(text) for text in gather("loop/row", json.dumps(row), what="writing a row")]
        if any(list(other) != list(row) or not _close(other, rows[0]) for other in rows):
            lines = [f"{name}: {value:.9g}" for name, value in row.items()]
            check_alike("loop/row/numbers", {"row": lines}, what="a row of metrics", advice=_ROW_CURE)
        return rows[0]

    def end_of_data(self, step: int) -> None:
        """Meet where the data has ended.

        Raises:
          ProcessesDifferError: if it has ended after another step in another process.
          ProcessLostError: if it has not ended in some.
        """
        if self._several:
            what = f"the end of the data after step {step}"
            check_alike("loop/data/end", {"end of its data": [f"after step {step}"]}, what=what, advice=_DATA_CURE)

    def check_program(self, step: Any, state: Any, batch: Any) -> None:
        """Refuse a state or a step that the processes do not have alike, before a collective of it waits for ever.

        Raises:
          ProcessesDifferError: if they have other trees, shapes or placements, other values in what each of them has,
            or another program.
        """
        if self._several:
            jitted: Any = step if hasattr(step, "trace") else jax.jit(step, donate_argnums=0)
            text = str(jitted.trace(state, batch).jaxpr) if hasattr(jitted, "trace") else ""
            facets = {
                "state": _lines(state),
                "program": _ADDRESS.sub("", text).splitlines(),
                "value in the state": _values(state),
            }
            check_alike("loop/program", facets, what="a step", advice=_PROGRAM_CURE)

    def all_leave(self, step: int) -> bool:
        """Return whether all processes leave the loop here, and not this one alone."""
        if not self._several:
            return True
        try:
            meet(f"loop/leave/{step}", what="leaving the loop", seconds=_SECONDS)
        except ProcessLostError:
            return False
        return True

    def explain(self, error: BaseException, step: int) -> None:
        """Raise an error that names the process that is gone, where that is why a step has failed.

        Raises:
          ProcessLostError: if one is.
        """
        if not self._several or not isinstance(error, Exception):
            return
        if isinstance(error, ProcessLostError):
            atexit.register(_leave_at_once)
        elif not isinstance(error, BatisteError) and _LOST.search(str(error)):
            try:
                meet("loop/lost", what=f"the step after step {step}", seconds=_SECONDS)
            except ProcessLostError as lost:
                atexit.register(_leave_at_once)
                raise lost from error


def check_batch(place: str, batch: Any, *, what: str) -> None:
    """Refuse a batch that the processes do not have alike.

    Raises:
      ProcessesDifferError: if its arrays have other shapes, or those that are in each process other values.
    """
    facets = {"batch": _lines(batch), "value in the batch": _local_values(batch)}
    check_alike(place, facets, what=what, advice=_BATCH_CURE)


def global_batch(part: Tree, sharding: jax.sharding.Sharding) -> Tree:
    """Return a batch over all processes, of the part that each of them has.

    With one process, the batch is only placed. Numbers and arrays without axes are the same in all processes.

    Args:
      part: a tree of arrays; those of all processes together are the batch, cut along the axes that the sharding cuts.
      sharding: that of the batch: of one with more axes than an array has, the first ones are used.

    Raises:
      ArgumentError: if ``sharding`` is none.

    Example:
      >>> import jax
      >>> import numpy as np
      >>> from batiste import shard, train
      >>> cut = jax.NamedSharding(shard.mesh("data=-1"), jax.P("data"))
      >>> batch = train.global_batch({"x": np.ones((8, 3), np.float32)}, cut)
      >>> batch["x"].shape, batch["x"].sharding == cut
      ((8, 3), True)
    """
    _check_sharding("global_batch", sharding)

    def whole(leaf: Any) -> Any:
        host: Any = np.asarray(leaf)
        place: Any = sharding
        if isinstance(sharding, jax.sharding.NamedSharding):
            spec: Any = sharding.spec
            place = jax.NamedSharding(sharding.mesh, jax.P(*tuple(spec)[: host.ndim]))
        return jax.make_array_from_process_local_data(place, host)

    return jax.tree.map(whole, part)


def local_rows(size: int, sharding: jax.sharding.Sharding) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the rows of a batch that this process has, in order: all of them with one process.

    Args:
      size: how many rows the whole batch has.
      sharding: that of the batch, which cuts its first axis; what it does with others does not matter.

    Raises:
      ArgumentError: if ``sharding`` is none, or does not cut so many rows evenly.

    Example:
      >>> import jax
      >>> from batiste import shard, train
      >>> cut = jax.NamedSharding(shard.mesh("data=-1"), jax.P("data"))
      >>> train.local_rows(8, cut).tolist()
      [0, 1, 2, 3, 4, 5, 6, 7]
    """
    _check_sharding("local_rows", sharding)
    size = whole_number(size, "size", "local_rows")
    place: Any = sharding
    if isinstance(sharding, jax.sharding.NamedSharding):
        spec: Any = sharding.spec
        place = jax.NamedSharding(sharding.mesh, jax.P(*tuple(spec)[:1]))
    try:
        boxes: Any = place.addressable_devices_indices_map((size,)).values()
    except (ValueError, TypeError) as error:
        advice = f"Give another size: {str(error).rstrip('.')}."
        raise refused(size, "size", "local_rows", "a number of rows that the sharding cuts evenly", advice) from None
    return np.unique(np.concatenate([np.arange(size)[box[0] if box else slice(None)] for box in boxes]))


def _check_sharding(function: str, sharding: Any) -> None:
    if isinstance(sharding, jax.sharding.Sharding):
        return
    cure = 'Give NamedSharding(mesh, P("data")), where "data" is the axis of the mesh along which batches are cut.'
    raise refused(sharding, "sharding", function, "a sharding of JAX", cure)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "from its source"


def _lines(tree: Any) -> list[str]:
    """What each leaf is and where it is, one a line."""
    return [f"{path or '(root)'}: {_described(leaf)}" for path, leaf in flatten(tree).items()]


def _described(leaf: Any) -> str:
    shape, dtype = getattr(leaf, "shape", None), getattr(leaf, "dtype", None)
    if dtype is None:
        return type(leaf).__name__
    text = f"{dtype}{list(shape or ())}"
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
        return f"{text} in each process"
    sharding: Any = leaf.sharding
    mesh = getattr(sharding, "mesh", None)
    return f"{text} {sharding}" if mesh is None else f"{text} {sharding.spec} on a mesh {dict(mesh.shape)}"


def _local_values(batch: Any) -> list[str]:
    """What is in each process by itself, by path: numbers as they are, arrays by their bytes."""
    return [_value(path, leaf) for path, leaf in flatten(batch).items() if not is_over_processes(leaf)]


def _values(state: Any) -> list[str]:
    """What each process has the whole of, by path, as far as ``_MOST`` reaches."""
    leaves = flatten(state).items()
    whole = [(path, leaf) for path, leaf in leaves if not is_over_processes(leaf) or leaf.sharding.is_fully_replicated]
    found: list[str] = []
    left = _MOST
    for path, leaf in sorted(whole, key=lambda pair: int(getattr(pair[1], "nbytes", 0))):
        left -= int(getattr(leaf, "nbytes", 0))
        if left < 0:
            break
        found.append(_value(path, leaf))
    return found


def is_over_processes(leaf: Any) -> bool:
    """Return whether a leaf is an array of which other processes have parts, or copies."""
    return isinstance(leaf, jax.Array) and not leaf.is_fully_addressable


def _value(path: str, leaf: Any) -> str:
    is_key = isinstance(leaf, jax.Array) and jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    array: Any = np.asarray(jax.random.key_data(leaf) if is_key else leaf)
    shown = repr(array.item()) if array.size == 1 else _digest(array)
    return f"{path or '(root)'}: {shown}"


def _close(row: Row, other: Row) -> bool:
    """Whether two rows differ by no more than the order of sums explains."""
    return bool(np.allclose(list(row.values()), list(other.values()), rtol=1e-3, atol=1e-6, equal_nan=True))


def _digest(array: Any) -> str:
    digest = hashlib.blake2b(np.ascontiguousarray(array).tobytes(), digest_size=8).hexdigest()
    first = ", ".join(str(number) for number in array.reshape(-1)[:4])
    return f"[{first}, ...] with digest {digest}"


def _leave_at_once() -> None:
    """End the program without JAX's last barrier, at which a process that is gone would be waited for.

    Process 0 has the coordination service, without which the others are ended at once: it gives them time to say what
    they have to say.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if jax.process_index() == 0 and jax.process_count() > 2:
        time.sleep(3)
    failed = getattr(sys, "last_value", None) is not None
    os._exit(int(failed))
