"""What was opened is what is read: a checkpoint that another program has replaced, removed or cut since is an error.

A source is opened once and read later, and knows from the first time where each array lies. So it remembers which file
that was (device, inode, size, time of the last change), and every reading compares. A single file is compared as it is
opened again, and read through that; a folder after the reading, for its files are opened by name, one by one: where
its manifest is still the same afterwards, what was read before was beside it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from batiste.errors import CheckpointChangedError

__all__ = ["Unchanged"]

_GONE: Final = "it is no longer there"


class _Version(NamedTuple):
    device: int
    inode: int
    size: int
    changed: int  # ns; an inode may be used again, but not for what was written at the same time

    @classmethod
    def of(cls, found: os.stat_result) -> _Version:
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


class Unchanged:
    """A file as it is now, to be compared with what it is later.

    Args:
      file: the file; its path, or the open file that was just read.
      place: the checkpoint, for errors; the file itself where it is all of it.
    """

    def __init__(self, file: Path, place: Path | None = None, opened: BinaryIO | None = None) -> None:
        self._file = file
        self._name = str(file)
        self._place = file if place is None else place
        self._version = _Version.of(file.stat() if opened is None else os.fstat(opened.fileno()))

    def check(self) -> None:
        """Compare.

        Raises:
          CheckpointChangedError: if it is another file by now, or none.
        """
        try:
            found = os.stat(self._name)  # noqa: PTH116 - a quarter of the time of `Path.stat`, for each leaf that is read
        except (FileNotFoundError, NotADirectoryError):
            raise CheckpointChangedError(path=self._place, what=_GONE) from None
        self._compare(found)

    @contextlib.contextmanager
    def open(self) -> Generator[BinaryIO]:
        """Open the file again, unbuffered.

        Raises:
          CheckpointChangedError: if it is another file by now, or none.
        """
        try:
            file = self._file.open("rb", buffering=0)
        except (FileNotFoundError, NotADirectoryError):
            raise CheckpointChangedError(path=self._place, what=_GONE) from None
        with file:
            self._compare(os.fstat(file.fileno()))
            yield file

    def _compare(self, result: os.stat_result) -> None:
        found, known = _Version.of(result), self._version
        if found == known:
            return
        if found[:2] != known[:2]:
            raise CheckpointChangedError(path=self._place, what="another has taken its place")
        sizes = f": it has {found.size} bytes instead of {known.size}" if found.size != known.size else ""
        raise CheckpointChangedError(path=self._place, what=f"it was written to{sizes}")
