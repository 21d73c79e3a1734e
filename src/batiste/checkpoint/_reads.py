"""What each process reads of a checkpoint that several restore: its own boxes, checked.

Where an array was saved in parts, each part has a digest: a process checks the parts that it reads. Where it has one
digest for the whole, as one process saves it, no process needs all of it: each reads its boxes, and the arrays are
divided among the processes, each of which reads its share of them once more to check it. An array that all processes
hold whole is checked as it is read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax

from batiste._processes import several, share_failure
from batiste.checkpoint._checkpoint import Checkpoint
from batiste.checkpoint._parts import PartReader
from batiste.checkpoint._types import Box, Damage, NumpyArray
from batiste.errors import DamagedCheckpointError

__all__ = ["Reads", "is_spread", "restored_together", "spans_processes"]

_Result = TypeVar("_Result")


def is_spread(sharding: Any) -> bool:
    """Return whether a sharding has devices of other processes."""
    if not isinstance(sharding, jax.sharding.Sharding) or not several():
        return False
    mesh = getattr(sharding, "mesh", None)
    if isinstance(mesh, jax.sharding.AbstractMesh):  # which is on the mesh that is set
        mesh = jax.sharding.get_mesh()
        own = jax.process_index()
        return not mesh.empty and any(device.process_index != own for device in mesh.devices.flat)
    return not sharding.is_fully_addressable


def spans_processes(target: Any, shardings: Any) -> bool:
    """Return whether something that is wanted has a sharding with devices of other processes."""
    if not several():
        return False
    leaves: list[Any] = [*jax.tree.leaves(target), *jax.tree.leaves(shardings)]
    if any(is_spread(leaf) or is_spread(getattr(leaf, "sharding", None)) for leaf in leaves):
        return True
    return callable(shardings) and not isinstance(shardings, jax.sharding.Sharding)


def restored_together(path: Any, work: Callable[[], _Result]) -> _Result:
    """Return what ``work`` returns, or raise an error in every process where it fails in one.

    Raises:
      Exception: what ``work`` raises in this process.
      ProcessFailedError: if it has failed in another one.
      ProcessLostError: if another one does not come.
    """
    failed: Exception | None = None
    found: list[_Result] = []
    try:
        found.append(work())
    except Exception as error:  # noqa: BLE001 - it is raised when the others know of it
        failed = error
    share_failure("restore", failed, what=f"restoring {path}")
    return found[0]


class Reads:
    """The boxes of one restoration.

    Args:
      checkpoint: what is read.
      verify: whether digests are checked.
    """

    def __init__(self, checkpoint: Checkpoint, *, verify: bool) -> None:
        self._checkpoint = checkpoint
        self._verify = verify
        self._unchecked: list[str] = []
        self._used = False

    def boxes(self, path: str, sharding: jax.sharding.Sharding) -> Callable[[Box | None], NumpyArray]:
        """Return a function from a box of an array to its values.

        Args:
          path: the leaf.
          sharding: that of the whole array, the same for all processes.
        """
        self._used = True
        record = self._checkpoint.manifest.records[path]
        if self._verify and record.chunk is not None:
            return PartReader(path, record, lambda box: self._checkpoint.read_box(path, box), self._refuse)
        whole = sharding.is_fully_replicated
        if self._verify and not whole:
            self._unchecked.append(path)
        known: dict[str, NumpyArray] = {}

        def read(box: Box | None) -> NumpyArray:
            key = str(box)
            if key not in known:
                known.clear()
                if whole and self._verify:
                    (_, found) = next(iter(self._checkpoint.read_many([path], verify=True)))
                else:
                    found = self._checkpoint.read_box(path, box)
                known[key] = self._refuse(found) if isinstance(found, Damage) else found
            return known[key]

        return read

    def check(self) -> None:
        """Check this process's share of what was read unchecked, and process 0 the files.

        Raises:
          DamagedCheckpointError: if something is not as it was saved.
        """
        if not self._verify or not self._used:
            return
        records = self._checkpoint.manifest.records
        loads = [0] * jax.process_count()
        own: list[str] = []
        for path in sorted(dict.fromkeys(self._unchecked), key=lambda path: (-records[path].bytes, path)):
            process = loads.index(min(loads))
            loads[process] += records[path].bytes
            if process == jax.process_index():
                own.append(path)
        found = [array for _, array in self._checkpoint.read_many(own, verify=True) if isinstance(array, Damage)]
        if jax.process_index() == 0:
            found.extend(self._checkpoint.check_files(whole=False))
        if found:
            lines = "\n".join(map(str, found))
            raise DamagedCheckpointError(path=self._checkpoint.path, count=len(found), lines=lines)

    def _refuse(self, damage: Damage) -> NumpyArray:
        raise DamagedCheckpointError(path=self._checkpoint.path, count=1, lines=str(damage))
