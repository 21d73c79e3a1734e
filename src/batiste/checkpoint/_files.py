"""Files that appear whole or not at all, and take the place of nothing that nobody said they may.

A checkpoint is written under a name of its own in the folder where it is to lie (``.name.batiste-1f2e3d4c``), every
file and folder of it is flushed to the disk, and only then does it take its place in one step: a hard link or a rename,
neither of which replaces anything, or, where it replaces an older one, a rename or an exchange of the two names, after
which the older one is removed. Removing goes the other way: first the name, then the contents. So whatever moment a
process dies at, a path holds a complete checkpoint or nothing, and what is left over has a name that nothing but
``cleanup`` looks at. Of two processes that save to one path, also over a network, the system lets one be first.

Where a file system has no hard links, the place of a file is taken by an empty one first. Where it has no exchange of
names, the older folder is put aside first; a process that dies between the two renames leaves it as
``.name.batiste-old-1f2e3d4c``, and ``cleanup`` puts it back.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import secrets
import shutil
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, Final

import xxhash

from batiste._arguments import path as checked_path
from batiste.errors import CheckpointError, CheckpointExistsError, CheckpointWriteError

__all__ = [
    "beside",
    "cleanup",
    "digest_file",
    "digest_files",
    "is_file",
    "leftovers",
    "remove",
    "resolve",
    "staged",
    "write_error",
]

_LEFTOVER: Final = re.compile(r"\.(.+)\.batiste-(old-)?[0-9a-f]{8}(\.orbax-checkpoint-tmp.*|\.failed)?")
_EXCHANGE: Final = 2  # RENAME_EXCHANGE of Linux, RENAME_SWAP of macOS
_LONGEST: Final = 255 - len(".") - len(".batiste-1f2e3d4c")  # bytes of a name
_TRIES: Final = 8
_TAKEN: Final = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR)
_NO_LINKS: Final = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
_NO_FLUSH: Final = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP)
_CURES: Final = (
    ((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "Free some space, or save elsewhere."),
    ((errno.EACCES, errno.EPERM, errno.EROFS), "Save to a folder that this user may write to."),
    ((errno.ENAMETOOLONG,), "Save under a shorter name."),
)


def resolve(path: str | os.PathLike[str], where: str, argument: str = "path") -> Path:
    """Return the absolute path with symbolic links followed: what a link points at is replaced, never the link.

    Args:
      path: the path as the user gave it.
      where: the function that was given it.
      argument: its name there.

    Raises:
      ArgumentError: if it is no path.
    """
    text = checked_path(path, argument, where)
    # `~name` stays as it is where there is no such user.
    return Path(os.path.realpath(os.path.expanduser(text)))  # noqa: PTH111


@contextlib.contextmanager
def staged(
    target: Path, *, overwrite: bool, check: Callable[[Path], None], token: str | None = None
) -> Generator[Path]:
    """Give a path beside ``target`` to write to, and put what is there in the target's place at the end.

    Args:
      target: where the file or folder shall be; folders above it are made.
      overwrite: whether something may be there already.
      check: raises an error where what is there may not be replaced.
      token: eight hexadecimal digits of the path beside, where other processes know it; else they are drawn.

    Raises:
      CheckpointExistsError: if something is there already.
      CheckpointWriteError: if the operating system refuses.
    """
    stage = beside(target, token)
    try:
        if os.path.lexists(target):
            if not overwrite:
                raise CheckpointExistsError(path=target)
            check(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        yield stage
        _flush(stage)
        if overwrite:
            _replace(stage, target, check)
        else:
            _place(stage, target)
        _flush_folder(target.parent)
    except CheckpointError:
        raise
    except OSError as error:
        raise write_error(target, error) from error
    finally:
        with contextlib.suppress(OSError):
            _delete(stage)


def write_error(target: Path, error: OSError) -> CheckpointWriteError:
    """Return the error of the catalogue for what the operating system said."""
    cure = next((cure for numbers, cure in _CURES if error.errno in numbers), "Look at the folder and the disk.")
    return CheckpointWriteError(path=target, reason=error.strerror or str(error), cure=cure)


def remove(path: Path) -> None:
    """Remove a file or folder so that it is never seen in part.

    Raises:
      CheckpointWriteError: if the operating system refuses.
    """
    aside = beside(path)
    try:
        path.rename(aside)
        _flush_folder(path.parent)
        _delete(aside)
    except OSError as error:
        raise write_error(path, error) from error


def leftovers(folder: str | os.PathLike[str]) -> list[Path]:
    """Return what interrupted saves and removals have left in a folder.

    Example:
      >>> import numpy as np
      >>> from batiste import checkpoint
      >>> checkpoint.save("folder/run", {"w": np.ones(3)})
      >>> checkpoint.leftovers("folder")
      []
    """
    found = resolve(folder, "checkpoint.leftovers", "folder")
    return sorted(entry for entry in found.iterdir() if _LEFTOVER.fullmatch(entry.name)) if found.is_dir() else []


def cleanup(folder: str | os.PathLike[str]) -> list[Path]:
    """Remove what interrupted saves and removals have left in a folder, and put back what was only put aside.

    Call it when no other process is saving into the folder: a save in progress looks like an interrupted one.

    Returns:
      The paths that are gone.

    Raises:
      CheckpointWriteError: if the operating system refuses.

    Example:
      >>> import numpy as np
      >>> from batiste import checkpoint
      >>> checkpoint.save("folder/run", {"w": np.ones(3)})
      >>> checkpoint.cleanup("folder")  # no save was interrupted
      []
    """
    gone = leftovers(folder)
    for entry in gone:
        name = _LEFTOVER.fullmatch(entry.name)
        try:
            if name is not None and name[2] and not os.path.lexists(entry.with_name(name[1])):
                entry.rename(entry.with_name(name[1]))
            else:
                _delete(entry)
        except OSError as error:
            raise write_error(entry, error) from error
    return gone


def is_file(path: Path) -> bool:
    """Return whether a file is there; none is under a name that is longer than the system lets names be."""
    try:
        return path.is_file()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return False
        raise


def digest_file(path: Path) -> tuple[int, str]:
    """Return the size and the digest of a file."""
    state, size = xxhash.xxh3_128(), 0
    buffer = bytearray(1 << 20)
    view = memoryview(buffer)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            state.update(view[:count])
            size += count
    return size, state.hexdigest()


def digest_files(folder: Path, vouched: Callable[[str, int], bool]) -> dict[str, tuple[int, str]]:
    """Return the size and the digest of every file beneath a folder, by relative path.

    A file that is ``vouched`` for by other digests has "" for its own.
    """
    found: dict[str, tuple[int, str]] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name, size = path.relative_to(folder).as_posix(), path.stat().st_size
        found[name] = (size, "") if vouched(name, size) else digest_file(path)
    return found


def beside(target: Path, token: str | None = None) -> Path:
    """Return a new name beside a path, cut where it would be longer than names may be."""
    name = os.fsencode(target.name)
    if len(name) > _LONGEST:
        name = name[:_LONGEST].decode(errors="ignore").encode()
    return target.with_name(f".{os.fsdecode(name)}.batiste-{token or secrets.token_hex(4)}")


def _place(stage: Path, target: Path) -> None:
    """Give a file or folder its name, where nothing has that name.

    A rename replaces no folder with something in it, and a folder no file; a hard link replaces nothing at all.

    Raises:
      CheckpointExistsError: if something has it.
    """
    try:
        if stage.is_dir():
            stage.rename(target)
        else:
            _link(stage, target)
    except OSError as error:
        if error.errno in _TAKEN:
            raise CheckpointExistsError(path=target) from None
        raise


def _link(stage: Path, target: Path) -> None:
    try:
        os.link(stage, target)
    except FileExistsError:
        if stage.stat().st_nlink < 2:  # a network file system may say so of a request that it has heard twice
            raise
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        try:
            stage.replace(target)
        except OSError:
            target.unlink()
            raise


def _replace(stage: Path, target: Path, check: Callable[[Path], None]) -> None:
    """Put a file or folder in the place of what may be there.

    Raises:
      CheckpointExistsError: if others put something there again and again.
    """
    for _ in range(_TRIES):
        if not os.path.lexists(target):
            with contextlib.suppress(CheckpointExistsError):
                _place(stage, target)
                return
            continue
        check(target)
        with contextlib.suppress(FileNotFoundError):
            if stage.is_file() and target.is_file():
                stage.replace(target)
            elif not _exchange(stage, target):
                aside = target.with_name(f".{target.name}.batiste-old-{secrets.token_hex(4)}")
                target.rename(aside)
                try:
                    stage.rename(target)
                except OSError:
                    aside.rename(target)
                    raise
                _delete(aside)
            return
    raise CheckpointExistsError(path=target)


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two names in one step; False where the system cannot.

    Python has no call for it. Without it, there is a moment at which a folder that is replaced is not there: of a path
    that was replaced 13,000 times by two renames, as fast as they go, another process missed it in 33,000 of 139,000
    looks, and of one that was replaced 17,000 times by an exchange in none of 139,000.
    """
    library: Any = ctypes.CDLL(None, use_errno=True)
    one, other = os.fsencode(first), os.fsencode(second)
    here = -2 if os.uname().sysname == "Darwin" else -100  # AT_FDCWD
    function = getattr(library, "renameatx_np" if here == -2 else "renameat2", None)
    return function is not None and function(here, one, here, other, _EXCHANGE) == 0


def _flush(path: Path) -> None:
    """Flush a file, or a folder with all that is in it, to the disk."""
    if path.is_file():
        with path.open("rb") as file:
            os.fsync(file.fileno())
        return
    for folder, _, names in os.walk(path):
        for name in names:
            _flush(Path(folder, name))
        _flush_folder(Path(folder))


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FLUSH:  # as some network file systems say of folders
            raise
    finally:
        os.close(descriptor)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
