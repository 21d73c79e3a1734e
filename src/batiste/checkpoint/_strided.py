"""Arrays that lie in a file as others have written them: anywhere, in any order of axes and bytes.

A ``Stored`` array says which bytes it is made of and how they are walked through; reading it maps them and copies what
was asked for. ``StridedSource`` is the source of every format with one file whose arrays read themselves.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from batiste.checkpoint._manifest import Manifest
from batiste.checkpoint._types import Box, Damage, NumpyArray
from batiste.checkpoint._unchanged import Unchanged

__all__ = ["Bytes", "Readable", "Stored", "StridedSource", "dense", "in_file"]


@dataclasses.dataclass(frozen=True, slots=True)
class Bytes:
    """Bytes that were not read.

    Attributes:
      size: how many there are; at most, where a text must be decoded for them.
      load: gives them, mapped where they can be.
    """

    size: int
    load: Callable[[], Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Stored:
    """An array in a file.

    Attributes:
      shape: the extent of each axis.
      dtype: the element type, with its byte order.
      data: where its elements are.
      start: the element that it begins with.
      strides: how many elements lie between two neighbours along each axis.
      conjugated: whether the elements are the conjugates of those stored.
      negated: whether they are the negatives of those stored.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    data: Bytes
    start: int
    strides: tuple[int, ...]
    conjugated: bool = False
    negated: bool = False

    @property
    def nbytes(self) -> int:
        """The size of the array in memory."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def fits(self) -> bool:
        """Whether its elements are all among its bytes."""
        sound = self.start >= 0 and len(self.shape) == len(self.strides) <= 64
        if not sound or any(extent < 0 for extent in self.shape) or any(stride < 0 for stride in self.strides):
            return False
        if 0 in self.shape:
            return True
        last = self.start + sum((extent - 1) * stride for extent, stride in zip(self.shape, self.strides, strict=True))
        return (last + 1) * self.dtype.itemsize <= self.data.size

    def read(self, box: Box | None = None) -> NumpyArray:
        """Read the array, or a box of it, into memory, in C order and the machine's byte order.

        Raises:
          ValueError: if the bytes are not all there.
        """
        width = self.dtype.itemsize
        native = self.dtype.newbyteorder("=")
        if 0 in self.shape:
            empty = np.empty(self.shape, native)
            return empty if box is None else empty[box]
        raw = np.frombuffer(self.data.load(), np.uint8)
        strides = tuple(stride * width for stride in self.strides)
        word = np.dtype(f"V{width}")  # NumPy has no byte order for types that are not its own
        whole: Any = np.ndarray(self.shape, word, raw, self.start * width, strides)
        part: Any = whole if box is None else whole[box]
        flat: Any = np.array(part, order="C", copy=True).reshape(-1)
        if not self.dtype.isnative:
            flat = flat.view(f"u{width // 2 if self.dtype.kind == 'c' else width}").byteswap()
        made: NumpyArray = flat.view(native).reshape(np.shape(part))
        made = np.conjugate(made) if self.conjugated else made
        return np.negative(made) if self.negated else made


def dense(shape: tuple[int, ...], *, fortran: bool = False) -> tuple[int, ...]:
    """Return the strides, in elements, of an array without gaps."""
    strides: list[int] = []
    step = 1
    for extent in shape if fortran else reversed(shape):
        strides.append(step)
        step *= max(extent, 1)
    return tuple(strides if fortran else reversed(strides))


def in_file(path: Path, begin: int, end: int) -> Bytes:
    """Return the bytes between two places of a file; they are mapped, and not read."""
    return Bytes(end - begin, lambda: np.memmap(path, np.uint8, "r", begin, (end - begin,)) if end > begin else b"")


class Readable(Protocol):
    """An array that can be read, whole or a box of it."""

    def read(self, box: Box | None = None) -> NumpyArray:
        """Read it."""
        ...


class StridedSource:
    """Arrays in one file, described.

    Args:
      path: the file.
      manifest: what it holds.
      arrays: each array by its path.
    """

    def __init__(self, path: Path, manifest: Manifest, arrays: Mapping[str, Readable]) -> None:
        self._path = path
        self._manifest = manifest
        self._arrays = arrays
        self._unchanged = Unchanged(path)

    @property
    def path(self) -> Path:
        """Where the file is."""
        return self._path

    @property
    def manifest(self) -> Manifest:
        """What it holds."""
        return self._manifest

    def read(self, path: str, box: Box | None = None) -> NumpyArray | Damage:
        """Read one array, or a box of it."""
        self._unchanged.check()  # it may be mapped into memory, and what was cut off cannot be read there
        try:
            return self._arrays[path].read(box)
        except (ValueError, TypeError, KeyError, RuntimeError, OSError) as error:
            return Damage(path, f"it cannot be read ({error})")

    def read_many(self, paths: Iterable[str]) -> Iterator[tuple[str, NumpyArray | Damage]]:
        """Read whole arrays, one at a time."""
        for path in paths:
            yield path, self.read(path)

    def check_files(self, *, whole: bool) -> list[Damage]:
        """The formats keep no digests."""
        del whole
        return []
