"""An array that is described now and read later.

A checkpoint that is opened hands out a tree whose leaves are ``LazyArray``: each knows its shape and dtype and how to
read any box of itself, and nothing is read until ``read`` (or ``numpy.asarray``) is called. What the algebra of this
package does to such a leaf (``astype``, a slice, a stack, a weighted sum) gives another ``LazyArray`` that translates
the box it is asked for into the boxes of what it was made from, so that only what is needed is read, however long the
chain.

Words: a *reader* is the function behind the array; a *box* is a tuple of slices, one an axis. A reader is only ever
called with ``None`` (everything) or with a box that has one slice an axis, each with ``0 <= start < stop <= extent``
and step 1: strides, negative steps and empty boxes are dealt with here.

JAX takes a ``LazyArray`` for a leaf, as it takes any object that is not registered as a container.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, SupportsIndex, TypeAlias, cast

import numpy as np

from batiste._arguments import dtype_name, function, whole_numbers
from batiste.errors import CastLossError, LazyIndexError, LazyReadError
from batiste.tree._conversion import cast_loss, converted
from batiste.tree._leaves import is_abstract, is_jax_array, is_traced

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

__all__ = ["Box", "LazyArray", "NumpyArray", "Reader", "combine_lazy", "host_parts", "read_box", "stack_lazy", "whole"]

NumpyArray: TypeAlias = np.ndarray[Any, np.dtype[Any]]
"""Any NumPy array."""

Box: TypeAlias = tuple[slice, ...]
"""One slice an axis."""

Reader: TypeAlias = Callable[[Box | None], NumpyArray]
"""What reads a box of an array, or all of it for ``None``."""


class LazyArray:
    """An array of known shape and dtype whose values are read on demand.

    Args:
      shape: the extent of each axis.
      dtype: the element type.
      read: called with ``None`` for the whole array, or with one slice an axis (step 1, within bounds, not empty) for
        a box of it; returns a NumPy array of that shape and of ``dtype``.

    Raises:
      ArgumentError: an argument is none of these.

    Example:
      >>> import numpy as np
      >>> from batiste import tree
      >>> read = lambda box: np.ones((2, 3), np.float32)
      >>> lazy = tree.LazyArray((2, 3), np.float32, read)
      >>> half = lazy.astype(np.float16)  # nothing is read yet
      >>> half.shape, half.dtype, half.read().sum()
      ((2, 3), dtype('float16'), np.float16(6.0))
    """

    __slots__ = ("_read", "dtype", "shape")

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __init__(self, shape: Sequence[int], dtype: DTypeLike, read: Reader) -> None:
        self.shape = whole_numbers(shape, "shape", "LazyArray")
        self.dtype = dtype if isinstance(dtype, np.dtype) else dtype_name(dtype, "dtype", "LazyArray")
        self._read = function(read, "read", "LazyArray", what="a function of a box")

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """The number of bytes that reading all of it yields."""
        return self.size * self.dtype.itemsize

    def read(self, index: Sequence[slice] | None = None) -> NumpyArray:
        """Read the whole array, or the box that ``index`` names.

        Args:
          index: slices for the leading axes, of any step; axes that are left out are read whole.

        Returns:
          A NumPy array of the box's shape.

        Raises:
          LazyIndexError: if there are more slices than axes.
          LazyReadError: if the reader returns another shape or dtype than it was asked for.
        """
        if index is None:
            return self._checked(None, self.shape)
        slices = tuple(index)
        if len(slices) > self.ndim:
            raise LazyIndexError(index=_index_text(slices), shape=self.shape, reason=f"it has {self.ndim} axes")
        spans = [_span(part, extent) for part, extent in zip(slices, self.shape, strict=False)]
        spans += [range(extent) for extent in self.shape[len(slices) :]]
        shape = tuple(len(span) for span in spans)
        if 0 in shape:
            return np.empty(shape, self.dtype)
        box = tuple(slice(min(span[0], span[-1]), max(span[0], span[-1]) + 1) for span in spans)
        extents = tuple(part.stop - part.start for part in box)
        array = self._checked(None if extents == self.shape else box, extents)
        if all(span.step == 1 for span in spans):
            return array
        return array[tuple(slice(None, None, span.step) for span in spans)]

    def astype(self, dtype: DTypeLike, *, name: str = "a lazy array") -> LazyArray:
        """Return the same array with another dtype, converted when it is read.

        Args:
          dtype: the element type; numbers are rounded to it.
          name: what errors call the array.

        Raises:
          CastLossError: on reading, if more than precision would be lost, such as a number beyond the dtype's range.
        """
        target = np.dtype(cast("Any", dtype))
        if target == self.dtype:
            return self

        def convert(array: NumpyArray) -> NumpyArray:
            loss = cast_loss(array, target)
            if loss:
                line = f"  {name}: {array.dtype.name}{list(array.shape)} -> {target.name}: {loss}"
                raise CastLossError(count=1, lines=line)
            return converted(array, target)

        return self.map(convert, dtype=target, elementwise=True)

    def reshape(self, *shape: int) -> LazyArray:
        """Return the same elements in another shape; reading any part of it reads the whole array."""
        if math.prod(shape) != self.size:
            raise LazyIndexError(index=shape, shape=self.shape, reason="the number of elements differs")
        return self.map(lambda array: array.reshape(shape), shape=shape)

    def transpose(self, *axes: int) -> LazyArray:
        """Return the array with its axes permuted, or reversed where none are given; boxes stay boxes."""
        order = axes or tuple(reversed(range(self.ndim)))
        if sorted(order) != list(range(self.ndim)):
            raise LazyIndexError(index=order, shape=self.shape, reason="each axis must be named once")

        def read(box: Box | None) -> NumpyArray:
            if box is None:
                return self.read().transpose(order)
            inner = dict(zip(order, box, strict=True))
            return self.read([inner[axis] for axis in range(self.ndim)]).transpose(order)

        return LazyArray([self.shape[axis] for axis in order], self.dtype, read)

    def map(
        self,
        function: Callable[[NumpyArray], NumpyArray],
        shape: Sequence[int] | None = None,
        dtype: DTypeLike | None = None,
        *,
        elementwise: bool = False,
    ) -> LazyArray:
        """Return the array that ``function`` makes of this one when it is read.

        Args:
          function: takes and returns a NumPy array.
          shape: the shape of the result, where it differs.
          dtype: the dtype of the result, where it differs.
          elementwise: promises that each element depends only on the element in its place, so that a box of the result
            needs only the same box of this array; otherwise every read reads all of it.
        """
        new_shape = self.shape if shape is None else tuple(shape)
        new_dtype = self.dtype if dtype is None else np.dtype(cast("Any", dtype))

        def read(box: Box | None) -> NumpyArray:
            if elementwise or box is None:
                return function(self.read(box))
            return function(self.read())[box]

        return LazyArray(new_shape, new_dtype, read)

    def mark(self, made: LazyArray, parts: Sequence[Any]) -> LazyArray:
        """Return an array that was made of this one and others; for subclasses whose arrays know where they are from.

        Args:
          made: of the shape of this array, where it was made element by element, or with one more axis before.
          parts: all that it was made of.
        """
        del parts
        return made

    def __getitem__(self, index: Any) -> LazyArray:
        parts = _expand(cast("tuple[Any, ...]", index) if isinstance(index, tuple) else (index,), self.shape)
        spans = [_span(part, extent) for part, extent in zip(parts, self.shape, strict=True)]
        kept = [axis for axis, part in enumerate(parts) if isinstance(part, slice)]

        def read(box: Box | None) -> NumpyArray:
            inner = list(spans)
            for axis, part in zip(kept, box or (), strict=False):
                inner[axis] = inner[axis][part]
            array = self.read([_as_slice(span) for span in inner])
            return array.reshape([array.shape[axis] for axis in kept])

        return LazyArray([len(spans[axis]) for axis in kept], self.dtype, read)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NumpyArray:
        array = self.read()
        if dtype is not None and array.dtype != dtype:
            return array.astype(cast("Any", dtype))
        return array.copy() if copy else array

    def __len__(self) -> int:
        if not self.shape:
            raise LazyIndexError(index="len()", shape=self.shape, reason="it has no axes")
        return self.shape[0]

    def __repr__(self) -> str:
        return f"LazyArray({self.dtype.name}{list(self.shape)})"

    def _checked(self, box: Box | None, shape: tuple[int, ...]) -> NumpyArray:
        array = np.asarray(self._read(box))
        if array.shape != shape or array.dtype != self.dtype:
            raise LazyReadError(
                promised=f"{self.dtype.name}{list(shape)}", returned=f"{array.dtype.name}{list(array.shape)}"
            )
        return array


def read_box(leaf: Any, box: Sequence[slice] | None = None) -> NumpyArray:
    """Read a box of any array, lazy or not, as a NumPy array; of one over several processes, all of them must."""
    if isinstance(leaf, LazyArray):
        return leaf.read(box)
    array = np.asarray(whole(leaf))
    return array if box is None else array[tuple(box)]


def whole(leaf: Any) -> Any:
    """Return an array that this process can look at; one that lies over several processes is brought together by all.

    That takes as much memory as the array has, on the host of each.
    """
    if not is_jax_array(leaf) or leaf.is_fully_addressable or leaf.is_fully_replicated:
        return leaf
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(leaf, tiled=True)


def host_parts(leaf: Any) -> Iterator[NumpyArray]:
    """Give the values of a leaf that this process can look at now, as NumPy arrays.

    That is nothing of what is lazy, abstract or traced, and of an array over several processes its shards in this one.
    """
    if isinstance(leaf, LazyArray) or is_abstract(leaf) or is_traced(leaf):
        return
    if is_jax_array(leaf) and not leaf.is_fully_addressable:
        shards = {str(shard.index): shard.data for shard in leaf.addressable_shards}
        yield from map(np.asarray, shards.values())
    else:
        yield np.asanyarray(leaf)


def combine_lazy(
    function: Callable[[list[NumpyArray]], NumpyArray], leaves: Sequence[Any], shape: Sequence[int], dtype: DTypeLike
) -> LazyArray:
    """Return the lazy array that ``function`` makes, element by element, of several arrays of one shape."""
    parts = list(leaves)
    made = LazyArray(shape, dtype, lambda box: function([read_box(leaf, box) for leaf in parts]))
    return _marked(made, parts)


def _marked(made: LazyArray, parts: Sequence[Any]) -> LazyArray:
    """The same array, as the first lazy one of those that it is made of marks it."""
    first = next((leaf for leaf in parts if isinstance(leaf, LazyArray)), made)
    return first.mark(made, parts)


def stack_lazy(leaves: Sequence[Any]) -> LazyArray:
    """Return arrays of one shape and dtype as one lazy array with a new leading axis; each layer is read on its own."""
    layers = list(leaves)
    shape, dtype = tuple(layers[0].shape), np.dtype(layers[0].dtype)

    def read(box: Box | None) -> NumpyArray:
        rows, rest = (slice(None), None) if box is None else (box[0], box[1:])
        chosen = layers[rows]
        extents = shape if rest is None else tuple(part.stop - part.start for part in rest)
        out = np.empty((len(chosen), *extents), dtype)  # one layer at a time: no second copy of all layers
        for row, layer in enumerate(chosen):
            out[row] = read_box(layer, rest)
        return out

    return _marked(LazyArray((len(layers), *shape), dtype, read), layers)


def _span(part: slice | int, extent: int) -> range:
    """The positions along one axis that ``part`` names."""
    if isinstance(part, slice):
        return range(*part.indices(extent))
    return range(part, part + 1)


def _as_slice(span: range) -> slice:
    """The slice with non-negative bounds that names the positions of ``span``."""
    if not span:
        return slice(0, 0)
    stop = span[-1] + (1 if span.step > 0 else -1)
    return slice(span[0], stop if stop >= 0 else None, span.step)


def _expand(index: tuple[Any, ...], shape: tuple[int, ...]) -> list[slice | int]:
    """One slice or non-negative integer an axis."""
    dots = [position for position, part in enumerate(index) if part is Ellipsis]
    named = len(index) - len(dots)
    if len(dots) > 1 or named > len(shape):
        reason = "there is more than one `...`" if len(dots) > 1 else f"it has {len(shape)} axes"
        raise LazyIndexError(index=_index_text(index), shape=shape, reason=reason)
    at = dots[0] if dots else len(index)
    filled = [*index[:at], *[slice(None)] * (len(shape) - named), *index[at + 1 :]]
    parts: list[slice | int] = []
    for part, extent in zip(filled, shape, strict=True):
        if isinstance(part, slice):
            parts.append(cast("slice", part))
        elif isinstance(part, SupportsIndex) and not isinstance(part, bool | np.ndarray) and not is_jax_array(part):
            position = part.__index__()
            if not -extent <= position < extent:
                raise LazyIndexError(index=_index_text(index), shape=shape, reason=f"{position} is out of bounds")
            parts.append(position % extent)
        else:
            raise LazyIndexError(index=_index_text(index), shape=shape, reason=f"it holds {cast('Any', part)!r:.40}")
    return parts


def _index_text(index: tuple[Any, ...]) -> str:
    return "[" + ", ".join("..." if part is Ellipsis else repr(part) for part in index) + "]"
