"""Arrays that several processes have saved: a digest for each part, where no process had the whole.

An array is cut into *parts* by a regular grid, each part one chunk of the store, and each chunk is written by one
process. The digest of an array cannot be put together from those of its parts, so its record has the digest of each
part, in the order of the grid (the last axis fastest), and as its own the digest of these. Whoever reads a part can
check it, and so a process checks what it reads and reads no more than the parts that its shards lie in.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from batiste.checkpoint._arrays import digest_array, digest_bytes, dtype_by_name
from batiste.checkpoint._types import Box, Damage, NumpyArray, Record

__all__ = ["PartReader", "count_parts", "digest_of_parts", "fits", "part_boxes"]


def part_boxes(shape: Sequence[int], chunk: Sequence[int]) -> Iterator[Box]:
    """Return the box of each part of an array, in the order of the grid; an array without axes is one part."""
    rows = [
        [slice(start, min(start + extent, size)) for start in range(0, size, extent)]
        for size, extent in zip(shape, chunk, strict=True)
    ]
    return itertools.product(*rows)


def count_parts(shape: Sequence[int], chunk: Sequence[int]) -> int:
    """Return how many parts an array has."""
    count = 1
    for size, extent in zip(shape, chunk, strict=True):
        count *= -(-size // extent)
    return count


def digest_of_parts(parts: Sequence[str]) -> str:
    """Return the digest of an array whose parts have these digests."""
    return digest_bytes("".join(parts).encode())


def fits(record: Record, array: NumpyArray) -> bool:
    """Return whether a whole array in C order is the one that was saved, as far as digests are known."""
    if record.digest is None:
        return True
    if record.chunk is None:
        return digest_array(array) == record.digest
    boxes = part_boxes(record.shape, record.chunk)
    return all(
        digest_array(np.ascontiguousarray(array[box])) == digest
        for box, digest in zip(boxes, record.parts, strict=True)
    )


class PartReader:
    """Reads boxes of an array, and checks each part that they lie in; a part is read once.

    Args:
      path: the leaf.
      record: what it is; it has parts.
      read: reads a box from the disk.
      refuse: raises the error of damage.
    """

    def __init__(
        self,
        path: str,
        record: Record,
        read: Callable[[Box], NumpyArray | Damage],
        refuse: Callable[[Damage], NumpyArray],
    ) -> None:
        self._path = path
        self._record = record
        self._read = read
        self._refuse = refuse
        self._parts: dict[int, NumpyArray] = {}

    def __call__(self, box: Box | None) -> NumpyArray:
        """Return a box of the array, or all of it."""
        record = self._record
        box = tuple(slice(0, extent) for extent in record.shape) if box is None else box
        found = np.empty([part.stop - part.start for part in box], dtype_by_name(record.dtype))
        for number, whole in self._touched(box):
            there = tuple(slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(whole, box, strict=True))
            inside = tuple(slice(a.start - b.start, a.stop - b.start) for a, b in zip(there, whole, strict=True))
            goal = tuple(slice(a.start - b.start, a.stop - b.start) for a, b in zip(there, box, strict=True))
            found[goal] = self._part(number, whole)[inside]
        return found

    def _touched(self, box: Box) -> Iterator[tuple[int, Box]]:
        """The parts that a box lies in, with their numbers."""
        chunk = self._record.chunk or self._record.shape
        counts = [-(-size // extent) for size, extent in zip(self._record.shape, chunk, strict=True)]
        ranges = [range(part.start // extent, -(-part.stop // extent)) for part, extent in zip(box, chunk, strict=True)]
        for place in itertools.product(*ranges):
            number = 0
            for at, count in zip(place, counts, strict=True):
                number = number * count + at
            yield (
                number,
                tuple(
                    slice(at * extent, min((at + 1) * extent, size))
                    for at, extent, size in zip(place, chunk, self._record.shape, strict=True)
                ),
            )

    def _part(self, number: int, box: Box) -> NumpyArray:
        if number not in self._parts:
            found = self._read(box)
            if (
                not isinstance(found, Damage)
                and digest_array(np.ascontiguousarray(found)) != self._record.parts[number]
            ):
                at = ", ".join(f"{part.start}:{part.stop}" for part in box)
                found = Damage(self._path, f"the digest of its part [{at}] does not fit")
            self._parts[number] = self._refuse(found) if isinstance(found, Damage) else found
        return self._parts[number]
