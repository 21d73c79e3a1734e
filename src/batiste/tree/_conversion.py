"""What a conversion between dtypes would lose besides precision.

A number that is converted is rounded to the nearest one that the new dtype has; what is too small becomes zero. That is
*precision*, and is what a cast is for. Anything else is a *loss*, and is told in words:

- a finite number that becomes infinite, NaN, or the largest that there is, for want of range;
- an integer that would wrap, a sign, a fraction, an imaginary part that has no place;
- a NaN or an infinity in a dtype that has none;
- a number other than 0 and 1 as a Boolean.

Nothing here needs JAX: arrays of other kinds come as NumPy's.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, TypeAlias, cast

import ml_dtypes
import numpy as np

from batiste._arguments import dtype_name

__all__ = ["NumberKind", "cast_loss", "converted", "has_range_of", "number_kind"]

_Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

NumberKind: TypeAlias = Literal["bool", "int", "float", "complex", "none"]
"""What the elements of an array are: Booleans, whole, real or complex numbers, or no numbers (text, dates, objects)."""

_CHUNK = 1 << 20
_LONG = 8


@functools.cache
def number_kind(dtype: np.dtype[Any]) -> NumberKind:
    """Return what the elements of a dtype are, for those of ``ml_dtypes`` too."""
    if dtype.type.__module__ == "numpy":
        known: dict[str, NumberKind] = {"b": "bool", "i": "int", "u": "int", "f": "float", "c": "complex"}
        return known.get(dtype.kind, "none")
    for info, kind in ((ml_dtypes.finfo, "float"), (ml_dtypes.iinfo, "int")):
        try:
            info(cast("Any", dtype))
        except (TypeError, ValueError):
            continue
        return cast("NumberKind", kind)
    return "none"


class _Floats(NamedTuple):
    """What a floating dtype holds: numbers up to ``largest``, and which of zero, NaN and infinity."""

    largest: float
    half_step: float
    zero: bool
    nan: bool
    inf: bool


@functools.cache
def _floats(dtype: np.dtype[Any]) -> _Floats:
    real = np.dtype(f"f{dtype.itemsize // 2}") if dtype.kind == "c" else dtype
    if real.itemsize > _LONG:
        return _Floats(float("inf"), 0.0, zero=True, nan=True, inf=True)
    info = cast("Any", ml_dtypes.finfo(cast("Any", real)))
    with np.errstate(all="ignore"):
        odd = np.array([0.0, np.nan, np.inf]).astype(real).astype(np.float64)
    largest, digits = float(info.max), int(info.nmant)
    half_step = 0.0 if real.itemsize == _LONG else 2.0 ** (math.frexp(largest)[1] - 2 - digits)
    return _Floats(largest, half_step, zero=odd[0] == 0, nan=bool(np.isnan(odd[1])), inf=bool(np.isinf(odd[2])))


@functools.cache
def _whole(dtype: np.dtype[Any]) -> tuple[int, int]:
    """The smallest and the largest number of a dtype of whole numbers."""
    info: Any = ml_dtypes.iinfo(cast("Any", dtype)) if dtype.type.__module__ != "numpy" else np.iinfo(dtype)
    return int(info.min), int(info.max)


@functools.cache
def has_range_of(new: np.dtype[Any], old: np.dtype[Any]) -> bool:
    """Return whether every number of the dtype ``old`` has a place in ``new``, but for rounding."""
    kinds: list[NumberKind] = ["bool", "int", "float", "complex"]
    before, after = number_kind(old), number_kind(new)
    if old == new:
        return True
    if "none" in (before, after) or kinds.index(before) > kinds.index(after) or after == "bool":
        return False
    if after == "int":
        low, high = (0, 1) if before == "bool" else _whole(old)
        return _whole(new)[0] <= low and high <= _whole(new)[1]
    held = _floats(new)
    if not (held.zero and held.nan and held.inf):
        return False
    if before == "bool":
        return True
    return max(map(abs, _whole(old))) <= held.largest if before == "int" else _floats(old).largest <= held.largest


def cast_loss(array: _Array, dtype: np.dtype[Any]) -> str:
    """Return in words what an array would lose in another dtype besides precision; nothing where it loses nothing.

    Numbers may be rounded, and be too small. What counts is a finite number that becomes infinite, NaN or another for
    want of range, an integer that wraps, a sign, a fraction, an imaginary part, a NaN or an infinity that has no place.

    Args:
      array: any NumPy array, with the dtypes of ``ml_dtypes`` too.
      dtype: what it would become.

    Raises:
      ArgumentError: there is no such dtype.

    Example:
      >>> import numpy as np
      >>> from batiste import tree
      >>> tree.cast_loss(np.array([1, 300]), np.dtype(np.int8))
      '1 of 2 elements are outside of -128 to 127'
    """
    new = dtype if isinstance(dtype, np.dtype) else dtype_name(dtype, "dtype", "cast_loss")  # pyright: ignore[reportUnnecessaryIsInstance]
    if has_range_of(new, array.dtype):
        return ""
    if "none" in (number_kind(array.dtype), number_kind(new)):
        return f"{array.dtype.name} and {new.name} are not both numbers"
    lost: dict[str, int] = {}
    for part in _parts(array):
        for reason, count in _counted(_losses(part, new)).items():
            lost[reason] = lost.get(reason, 0) + count
    return ", ".join(f"{count} of {array.size} elements {reason}" for reason, count in lost.items())


def converted(array: _Array, dtype: np.dtype[Any]) -> _Array:
    """Return an array in another dtype, without NumPy's warnings: what would be lost is to be asked for before."""
    kind = number_kind(dtype)
    with np.errstate(all="ignore"):
        if array.dtype.kind == "c" and kind != "complex":
            array = np.real(array)
        if array.dtype.type.__module__ != "numpy" != dtype.type.__module__:  # they know few of one another
            is_float = "float" in (number_kind(array.dtype), kind)
            array = array.astype(np.float32 if is_float else np.int64)
        return array.astype(dtype)


def _parts(array: _Array) -> Iterator[_Array]:
    """The elements in pieces, in dtypes that NumPy itself has and that hold the same numbers."""
    flat = np.asarray(array).reshape(-1)
    kind = number_kind(flat.dtype)
    for start in range(0, flat.size, _CHUNK):
        part = flat[start : start + _CHUNK]
        if part.dtype.type.__module__ != "numpy":
            part = part.astype(np.float32 if kind == "float" else np.int64)
        yield part


def _losses(part: _Array, new: np.dtype[Any]) -> Iterator[tuple[str, _Array]]:
    """What is lost of some elements: reasons, and of which."""
    kind = number_kind(new)
    if part.dtype.kind == "c" and kind == "complex":
        real = np.dtype(f"f{new.itemsize // 2}")
        yield from _lost_in_floats(np.real(part), real)
        yield from _lost_in_floats(np.imag(part), real)
        return
    if part.dtype.kind == "c":
        yield "have imaginary parts", np.imag(part) != 0
        part = np.real(part)
    if kind == "bool":
        yield "are neither 0 nor 1", (part != 0) & (part != 1)
    elif kind == "int":
        yield from _lost_in_integers(part, new)
    elif part.size and not _fits_at_once(part, _floats(new)):
        yield from _lost_in_floats(part, new)


def _lost_in_integers(part: _Array, new: np.dtype[Any]) -> Iterator[tuple[str, _Array]]:
    low, high = _whole(new)
    if part.dtype.kind != "f":
        whole = part.astype(np.uint8) if part.dtype.kind == "b" else part
        yield f"are outside of {low} to {high}", (whole < low) | (whole > high)
        return
    finite = np.isfinite(part)
    yield "are NaN", np.isnan(part)
    yield "are infinite", np.isinf(part)
    wide = part.astype(np.longdouble if part.dtype.itemsize > _LONG else np.float64)
    yield f"are outside of {low} to {high}", finite & ((wide < low) | (wide >= float(high + 1)))
    yield "have fractions", finite & (np.trunc(part) != part)


def _fits_at_once(part: _Array, held: _Floats) -> bool:
    """Whether all elements are within the range, as the smallest and the largest say; false where they cannot."""
    low, high = float(part.min()), float(part.max())
    return held.zero and -held.largest <= low and high <= held.largest  # neither holds for NaN


def _lost_in_floats(part: _Array, new: np.dtype[Any]) -> Iterator[tuple[str, _Array]]:
    held = _floats(new)
    after = converted(part, new)
    if after.dtype.type.__module__ != "numpy":
        after = after.astype(np.float32)
    size = np.abs(part.astype(np.float64))
    beyond = np.isfinite(part) & ~np.isfinite(after)
    if not held.inf:  # some have no infinity, and take their largest number for it
        beyond |= np.isfinite(part) & (size > held.largest + held.half_step)
    yield f"are beyond {held.largest:.6g}", beyond & (size > held.largest)
    yield "are zero or negative", beyond & (size <= held.largest)
    yield "are NaN", np.isnan(part) & ~np.isnan(after)
    yield "are infinite", np.isinf(part) & ~np.isinf(after)


def _counted(losses: Iterator[tuple[str, _Array]]) -> dict[str, int]:
    """How many elements are lost for each reason, be it by one part or by both."""
    masks: dict[str, _Array] = {}
    for reason, mask in losses:
        masks[reason] = masks[reason] | mask if reason in masks else mask
    return {reason: count for reason, mask in masks.items() if (count := int(np.count_nonzero(mask)))}
