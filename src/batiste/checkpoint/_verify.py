"""Verification: every digest of a checkpoint, without keeping anything of it."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from batiste.checkpoint._checkpoint import Checkpoint, open  # noqa: A004 - this package's own
from batiste.checkpoint._types import Damage
from batiste.errors import DamagedCheckpointError

__all__ = ["Verification", "damages", "verify"]


@dataclasses.dataclass(frozen=True, slots=True)
class Verification:
    """What was checked and found whole.

    Attributes:
      path: the checkpoint.
      leaves: how many leaves there are.
      bytes: the size of all arrays.
      digests: whether every array was compared with a digest. False for formats that keep none: there, all that is
        known is that everything can be read.

    Example:
      >>> import numpy as np
      >>> from batiste import checkpoint
      >>> checkpoint.save("run", {"w": np.ones((2, 3), np.float32)})
      >>> found = checkpoint.verify("run")
      >>> found.leaves, found.bytes, found.digests
      (1, 24, True)
    """

    path: Path
    leaves: int
    bytes: int
    digests: bool


def verify(path: str | os.PathLike[str] | Checkpoint) -> Verification:
    """Read every array and every other file of a checkpoint, and compare them with what was saved.

    Args:
      path: a checkpoint of any known format, or one that is open.

    Returns:
      What was checked.

    Raises:
      DamagedCheckpointError: if anything is not as it was saved; the error names every leaf and every file.
      CheckpointNotFoundError: if there is nothing.
      CheckpointFormatError: if it is none of the formats.

    Example:
      >>> import numpy as np
      >>> from batiste import checkpoint
      >>> checkpoint.save("run.npz", {"w": np.ones((2, 3), np.float32)})
      >>> checkpoint.verify("run.npz").leaves
      1
    """
    checkpoint = path if isinstance(path, Checkpoint) else open(path)
    found = damages(checkpoint)
    if found:
        raise DamagedCheckpointError(path=checkpoint.path, count=len(found), lines="\n".join(map(str, found)))
    manifest = checkpoint.manifest
    return Verification(checkpoint.path, len(manifest.records), manifest.bytes, checkpoint.has_digests)


def damages(checkpoint: Checkpoint) -> list[Damage]:
    """Return everything that is wrong: leaves first, then files."""
    arrays = [path for path, record in checkpoint.manifest.records.items() if record.kind is None]
    found = [array for _, array in checkpoint.read_many(arrays, verify=True) if isinstance(array, Damage)]
    return [*found, *checkpoint.check_files(whole=True)]
