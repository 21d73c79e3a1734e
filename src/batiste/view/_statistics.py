"""The numbers of one array: a few that sum it up, a histogram, and the singular values of a matrix.

What is read is one array of NumPy. All passes over it are in pieces, in double precision, so that they need little
memory beside it; whole numbers keep their extremes exactly, and complex numbers are looked at by their magnitudes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, cast

import numpy as np

__all__ = ["BINS", "Statistics", "histogram", "spectrum", "statistics"]

BINS = 40
"""How many parts of equal width a histogram has."""

_CHUNK = 1 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class Statistics:
    """The values of a leaf in a few numbers; of complex values, of their magnitudes.

    Attributes:
      mean: the mean of the finite elements; None where there are none.
      spread: their standard deviation.
      min: the smallest of them; of integers exact.
      max: the largest of them; of integers exact.
      nan: how many elements are not a number.
      inf: how many are infinite.

    Example:
      >>> import numpy as np
      >>> from batiste import view
      >>> view.statistics(np.asarray([1, 3]))
      Statistics(mean=2.0, spread=1.0, min=1, max=3, nan=0, inf=0)
    """

    mean: float | None
    spread: float | None
    min: float | None
    max: float | None
    nan: int
    inf: int


def statistics(array: Any) -> Statistics:
    """Return the statistics of an array of numbers.

    Args:
      array: an array of NumPy, of any shape.

    Example:
      >>> import numpy as np
      >>> from batiste import view
      >>> view.statistics(np.asarray([1.0, 3.0, np.nan])).mean
      2.0
    """
    nan, inf, count = 0, 0, 0
    lowest: list[float] = []
    highest: list[float] = []
    for part in _numbers(array):
        finite = part[np.isfinite(part)]
        nan += int(np.isnan(part).sum())
        inf += int(np.isinf(part).sum())
        count += finite.size
        if finite.size:
            lowest.append(finite.min().item())
            highest.append(finite.max().item())
    if not count:
        return Statistics(None, None, None, None, nan, inf)
    low, high = min(lowest), max(highest)
    power = math.frexp(max(abs(low), abs(high)))[1]  # of numbers up to 1, neither sums nor squares overflow
    sums = sum(float(part.sum()) for part in _scaled(array, power)) / count
    mean = min(max(sums, math.ldexp(low, -power)), math.ldexp(high, -power))  # which rounding may miss by a little
    square = sum(float(np.square(part - mean).sum()) for part in _scaled(array, power)) / count
    return Statistics(math.ldexp(mean, power), _finite(np.ldexp(math.sqrt(square), power)), low, high, nan, inf)


def histogram(array: Any, summed: Statistics) -> list[int]:
    """Return how many finite elements of an array lie in each of ``BINS`` parts between its extremes.

    Args:
      array: the array.
      summed: its statistics.
    """
    if summed.min is None or summed.max is None:
        return []
    low, high = float(summed.min), float(summed.max)
    counts = np.zeros(BINS, np.int64)
    power = math.frexp(max(abs(low), abs(high)))[1]
    ends = (math.ldexp(low, -power), math.ldexp(high, -power))
    if not ends[1] > ends[0]:
        counts[BINS // 2] = sum(part.size for part in _scaled(array, power))
        return counts.tolist()
    for part in _scaled(array, power):
        more: Any = cast("Any", np.histogram)(np.clip(part, *ends), BINS, ends)[0]
        counts += np.asarray(more, np.int64)
    return counts.tolist()


def spectrum(array: Any) -> list[float]:
    """Return the singular values of an array as a matrix, the largest first; [] where it has numbers that are none.

    Args:
      array: an array with two axes or more; of more, all but the last are one.
    """
    matrix = np.asarray(array).reshape(-1, array.shape[-1])
    matrix = matrix.astype(np.complex128 if matrix.dtype.kind == "c" else np.float64)
    return np.linalg.svd(matrix, compute_uv=False).tolist() if np.isfinite(matrix).all() and matrix.size else []


def _numbers(array: Any) -> Iterator[Any]:
    """The elements in pieces: whole numbers as they are, others in double precision, and magnitudes of complex ones."""
    flat = array.reshape(-1)
    for start in range(0, flat.size, _CHUNK):
        part = flat[start : start + _CHUNK]
        if part.dtype.kind in "iu":
            yield part
        else:
            yield np.abs(part.astype(np.complex128)) if part.dtype.kind == "c" else part.astype(np.float64)


def _scaled(array: Any, power: int) -> Iterator[Any]:
    """The finite elements in pieces, divided by a power of two."""
    for part in _numbers(array):
        yield np.ldexp(part[np.isfinite(part)].astype(np.float64), -power)


def _finite(number: Any) -> float | None:
    return float(number) if np.isfinite(number) else None
