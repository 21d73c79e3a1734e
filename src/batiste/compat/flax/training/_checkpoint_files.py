"""Which files in a folder are checkpoints, in which order, and which of them are to go.

A checkpoint is ``<folder>/<prefix><step>``: a file of MessagePack bytes, or a folder that Orbax has written. What is
still being written has another name, and is none.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import NamedTuple

from batiste.compat.flax import io

__all__ = [
    "Keeping",
    "all_checkpoints",
    "natural_sort",
    "path_of_step",
    "remove",
    "safe_normpath",
    "step_of_path",
    "superfluous",
    "temporary_path",
    "written_by_orbax",
]

_SIGNED = re.compile(r"([-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?)")
_UNSIGNED = re.compile(r"[-+]?((?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?)")
_SCHEME = re.compile(r"[a-z][a-z0-9.+-]+://", re.IGNORECASE)
_UNFINISHED = ".orbax-checkpoint-tmp"
_ARRAYS_BESIDE = "_gda"
_OF_ORBAX = ("_METADATA", "checkpoint", "manifest.ocdbt")


def natural_sort(file_list: Iterable[str], signed: bool = True) -> list[str]:
    """Return names in the order of the numbers in them: ``file_2`` comes before ``file_10``.

    Args:
      file_list: the names.
      signed: whether a ``-`` or ``+`` before a number is its sign, or parts it from what is before.
    """
    number = _SIGNED if signed else _UNSIGNED

    def parts(name: str) -> list[str | float]:
        split = number.split(name)  # text, number, text, ..., text
        return [float(part) if place % 2 else part for place, part in enumerate(split)]

    return sorted(file_list, key=parts)


def safe_normpath(path: str) -> str:
    """Return a path in its shortest form; a scheme such as ``gs://`` stays as it is."""
    found = _SCHEME.match(path)
    scheme = found.group() if found else ""
    return scheme + os.path.normpath(path.removeprefix(scheme))


def path_of_step(folder: str | os.PathLike[str], step: float | str, prefix: str) -> str:
    """Return where the checkpoint of a step is, or is to be."""
    return safe_normpath(os.path.join(os.fspath(folder), f"{prefix}{step}"))  # noqa: PTH118 - it may be gs://


def temporary_path(folder: str | os.PathLike[str], prefix: str) -> str:
    """Return where a checkpoint is written before it gets its own name."""
    return path_of_step(folder, "tmp", prefix)


def step_of_path(path: str, prefix: str) -> float | None:
    """Return the step that a checkpoint's name tells, or None."""
    text = os.path.basename(path).removeprefix(os.path.basename(prefix))  # noqa: PTH119 - it may be gs://
    return float(text) if _SIGNED.fullmatch(text) else None


def all_checkpoints(folder: str | os.PathLike[str], prefix: str) -> list[str]:
    """Return the paths of a folder's checkpoints, the oldest first."""
    base = os.path.join(os.fspath(folder), prefix)  # noqa: PTH118 - it may be gs://
    parent, start = os.path.split(base)
    parent = safe_normpath(parent)
    if not io.isdir(parent):
        return []
    names = [name.rstrip("/") for name in io.listdir(parent)]
    finished = [name for name in names if name.startswith(start) and _is_finished(name.removeprefix(start))]
    return natural_sort(os.path.join(parent, name) for name in finished)  # noqa: PTH118 - it may be gs://


def _is_finished(rest: str) -> bool:
    return rest != "tmp" and _UNFINISHED not in rest and not rest.endswith(_ARRAYS_BESIDE)


def written_by_orbax(path: str) -> bool:
    """Return whether a checkpoint is a folder that Orbax has written."""
    return io.isdir(path) and any(io.exists(os.path.join(path, name)) for name in _OF_ORBAX)  # noqa: PTH118 - gs://


class Keeping(NamedTuple):
    """What is kept beside a new checkpoint.

    Attributes:
      prefix: how the names of checkpoints begin.
      keep: how many of the newest stay.
      overwrite: whether those of later steps than the new one go.
      every: if given, older ones that are so many steps apart stay too.
    """

    prefix: str
    keep: int
    overwrite: bool
    every: float | None


def superfluous(folder: str | os.PathLike[str], new: str, keeping: Keeping) -> list[str]:
    """Return the checkpoints that a new one makes superfluous; the new one itself never is."""
    paths = natural_sort({*all_checkpoints(folder, keeping.prefix), new})
    place = paths.index(new) + 1
    later = paths[place:] if keeping.overwrite else []
    if keeping.overwrite:
        paths = paths[:place]
    older: list[str] = []
    last_kept = -float("inf")
    for old in paths[: -keeping.keep]:
        step = step_of_path(old, keeping.prefix)
        if keeping.every and step is not None and step - last_kept >= keeping.every:
            last_kept = step
        elif old != new:
            older.append(old)
    return older + later


def remove(path: str) -> None:
    """Remove a checkpoint, a file or a folder."""
    if io.isdir(path):
        io.rmtree(path)
    else:
        io.remove(path)
