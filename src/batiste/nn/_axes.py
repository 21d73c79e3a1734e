"""Axes and extents of layers: from what a user may write to what a computation needs.

A user writes one axis or several, from the front or from the back, and one integer or one for each spatial axis. These
helpers return sorted non-negative tuples, or raise a catalogue error that names the layer.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from batiste._arguments import HasPath, whole_numbers
from batiste.errors import AxesError, SpatialArgumentError
from batiste.typing import Axes

__all__ = ["divisors", "kept_extents", "per_spatial_axis", "sorted_axes"]


def divisors(count: int) -> str:
    """Return the numbers that divide ``count``, in words, for errors."""
    return ", ".join(str(number) for number in range(1, count + 1) if count % number == 0)


def sorted_axes(axes: Axes, rank: int, *, argument: str, layer: HasPath) -> tuple[int, ...]:
    """Return ``axes`` counted from the front, in order.

    Args:
      axes: one axis or several; negative ones count from the end.
      rank: how many axes there are.
      argument: what the user calls these axes, for errors.
      layer: whose axes they are, for errors.

    Raises:
      ArgumentError: they are no whole numbers.
      AxesError: an axis is out of range or named twice.
    """
    given = whole_numbers(axes, argument, layer, low=None)
    found = {axis + rank if axis < 0 else axis for axis in given}
    is_inside = all(0 <= axis < rank for axis in found)
    if is_inside and len(found) == len(given):
        return tuple(sorted(found))
    problem = "one is named twice" if is_inside else "there is no such axis"
    raise AxesError(
        path=layer.path, argument=argument, given=axes, rank=rank, problem=problem, low=-rank, high=rank - 1
    )


def kept_extents(shape: tuple[int, ...], axes: Collection[int]) -> tuple[int, ...]:
    """Return ``shape`` with extent 1 along every axis that is not in ``axes``."""
    return tuple(extent if axis in axes else 1 for axis, extent in enumerate(shape))


def per_spatial_axis(
    value: int | Sequence[int] | None, kernel_size: tuple[int, ...], *, argument: str, layer: HasPath
) -> tuple[int, ...]:
    """Return one integer, 1 or more, for each axis of ``kernel_size``; None stands for 1.

    Raises:
      ArgumentError: they are no whole numbers from 1 on.
      SpatialArgumentError: there is another number of integers than of axes.
    """
    spatial = len(kernel_size)
    if value is None:
        return (1,) * spatial
    if type(value) is int and value >= 1:
        return (value,) * spatial
    found = whole_numbers(value, argument, layer, low=1)
    given: Any = value
    if len(found) == spatial:
        return found
    if len(found) == 1 and getattr(given, "ndim", 0) == 0 and not isinstance(value, Sequence):
        return found * spatial
    raise SpatialArgumentError(
        path=layer.path, argument=argument, given=value, kernel_size=kernel_size, spatial=spatial
    )
