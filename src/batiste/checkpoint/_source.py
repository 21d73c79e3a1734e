"""What every format is read through.

A *source* is a checkpoint of some format on the disk: it has a manifest (its records by path, and what else is known)
and reads leaves by their paths. Every format is one source class, and everything above (opening, restoring, verifying,
converting) is written against this protocol.

A source never raises over bad array data on its own account: it yields a ``Damage`` in the leaf's place, so that the
caller can name every damaged leaf at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from batiste.checkpoint._manifest import Manifest
from batiste.checkpoint._types import Box, Damage, NumpyArray

__all__ = ["Source"]


class Source(Protocol):
    """A checkpoint of some format, opened: its manifest is read, its arrays are not."""

    @property
    def path(self) -> Path:
        """Where it is."""
        ...

    @property
    def manifest(self) -> Manifest:
        """What it holds."""
        ...

    def read(self, path: str, box: Box | None = None) -> NumpyArray | Damage:
        """Read one array, or a box of it."""
        ...

    def read_many(self, paths: Iterable[str]) -> Iterator[tuple[str, NumpyArray | Damage]]:
        """Read whole arrays in the order given, with no more than a few in memory at once."""
        ...

    def check_files(self, *, whole: bool) -> list[Damage]:
        """Check the files themselves: all of them, or only those that hold no arrays."""
        ...
