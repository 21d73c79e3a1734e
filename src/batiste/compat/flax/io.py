"""Files, on this machine or where TensorFlow reaches: ``flax.io``.

``BackendMode.DEFAULT`` is Python's own way. ``BackendMode.TF`` is ``tensorflow.io.gfile``, for ``gs://`` and the like;
TensorFlow is loaded when the mode is chosen, never before, and never unasked.
"""

from __future__ import annotations

import glob as _glob
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any

from batiste.compat.flax._packages import load
from batiste.errors import AlreadyExistsError, BackendModeError

__all__ = [
    "BackendMode",
    "GFile",
    "NotFoundError",
    "copy",
    "exists",
    "getsize",
    "glob",
    "isdir",
    "listdir",
    "makedirs",
    "override_mode",
    "remove",
    "rename",
    "rmtree",
    "set_mode",
]

NotFoundError = FileNotFoundError


class BackendMode(Enum):
    """The ways to reach files."""

    DEFAULT = 0
    TF = 1


class _LocalFiles:
    """This machine's files, by the names that ``tensorflow.io.gfile`` has."""

    @staticmethod
    def GFile(name: str, mode: str) -> Any:  # noqa: N802 - TensorFlow's name
        return Path(name).open(mode, encoding=None if "b" in mode else "utf-8")

    @staticmethod
    def listdir(path: str) -> list[str]:
        return [entry.name for entry in Path(path).iterdir()]

    @staticmethod
    def isdir(path: str) -> bool:
        return Path(path).is_dir()

    @staticmethod
    def exists(path: str) -> bool:
        return Path(path).exists()

    @staticmethod
    def size(path: str) -> int:
        return Path(path).stat().st_size

    @staticmethod
    def glob(pattern: str) -> list[str]:
        return _glob.glob(pattern)  # noqa: PTH207 - a pattern may be absolute

    @staticmethod
    def makedirs(path: str) -> None:
        Path(path).mkdir(parents=True, exist_ok=True)

    @staticmethod
    def remove(path: str) -> None:
        Path(path).unlink()

    @staticmethod
    def rmtree(path: str) -> None:
        shutil.rmtree(path)

    @staticmethod
    def copy(src: str, dst: str, overwrite: bool) -> None:
        del overwrite
        shutil.copy(src, dst)

    @staticmethod
    def rename(src: str, dst: str, overwrite: bool) -> None:
        del overwrite
        Path(src).replace(dst)


class _Backend:
    """The way that the process reaches files: a switch of Flax, so the whole process shares it."""

    def __init__(self) -> None:
        self.mode = BackendMode.DEFAULT
        self.files: Any = _LocalFiles

    def choose(self, mode: Any) -> None:
        if not isinstance(mode, BackendMode):
            raise BackendModeError(given=mode)
        on_tensorflow = mode is BackendMode.TF
        self.files = load("tensorflow", "flax.io in mode TF", "tensorflow").io.gfile if on_tensorflow else _LocalFiles
        self.mode = mode


_BACKEND = _Backend()


def __getattr__(name: str) -> Any:
    """Return ``io_mode``, the way that files are reached now."""
    if name == "io_mode":
        return _BACKEND.mode
    message = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(message)


def set_mode(override: BackendMode) -> None:
    """Choose the way to reach files, for the whole process.

    Raises:
      BackendModeError: ``override`` is no ``BackendMode``.
      MissingPackageError: it is ``TF``, and TensorFlow is not installed.
    """
    _BACKEND.choose(override)


@contextmanager
def override_mode(override: BackendMode) -> Generator[None]:
    """Choose the way to reach files inside a ``with`` block.

    Raises:
      BackendModeError: ``override`` is no ``BackendMode``.
      MissingPackageError: it is ``TF``, and TensorFlow is not installed.
    """
    before = _BACKEND.mode
    _BACKEND.choose(override)
    try:
        yield
    finally:
        _BACKEND.choose(before)


def GFile(name: str, mode: str) -> Any:  # noqa: N802 - Flax's name
    """Open a file; text is UTF-8."""
    return _BACKEND.files.GFile(name, mode)


def listdir(path: str) -> list[str]:
    """Return the names in a folder."""
    return _BACKEND.files.listdir(path)


def isdir(path: str) -> bool:
    """Return whether a path is a folder."""
    return _BACKEND.files.isdir(path)


def exists(path: str) -> bool:
    """Return whether a path exists."""
    return _BACKEND.files.exists(path)


def getsize(path: str) -> int:
    """Return the number of bytes of a file."""
    files = _BACKEND.files
    return files.size(path) if files is _LocalFiles else files.stat(path).length


def glob(pattern: str) -> list[str]:
    """Return the paths that a pattern matches."""
    return _BACKEND.files.glob(pattern)


def makedirs(path: str) -> None:
    """Make a folder and those above it; one that exists is left as it is."""
    _BACKEND.files.makedirs(path)


def remove(path: str) -> None:
    """Remove a file."""
    _BACKEND.files.remove(path)


def rmtree(path: str) -> None:
    """Remove a folder and what is in it."""
    _BACKEND.files.rmtree(path)


def copy(src: str, dst: str, overwrite: bool = False) -> None:
    """Copy a file.

    Raises:
      AlreadyExistsError: there is something at ``dst``, and ``overwrite`` is False.
    """
    _refuse_overwriting(dst, overwrite)
    _BACKEND.files.copy(src, dst, overwrite)


def rename(src: str, dst: str, overwrite: bool = False) -> None:
    """Give a file or a folder another path.

    Raises:
      AlreadyExistsError: there is something at ``dst``, and ``overwrite`` is False.
    """
    _refuse_overwriting(dst, overwrite)
    _BACKEND.files.rename(src, dst, overwrite)


def _refuse_overwriting(path: str, overwrite: bool) -> None:
    if not overwrite and exists(path):
        raise AlreadyExistsError(path=path)
