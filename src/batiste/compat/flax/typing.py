"""The types that Flax's signatures are written with: ``flax.typing``.

batiste's own signatures use ``batiste.typing``, whose types are narrower. These are for programs that name Flax's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any, Protocol, Self, TypeAlias, TypeGuard, TypeVar, runtime_checkable

import jax
import numpy as np
from jax.typing import DTypeLike

from batiste.compat.flax.core.frozen_dict import FrozenDict
from batiste.lift import In, Out
from batiste.typing import PrecisionLike

__all__ = [
    "Array",
    "ArrayPytree",
    "Axes",
    "Axis",
    "AxisName",
    "Collection",
    "ConvGeneralDilatedT",
    "DotGeneralT",
    "Dtype",
    "EinsumT",
    "FrozenVariableDict",
    "HashableMapping",
    "In",
    "InOutAxis",
    "InOutScanAxis",
    "Initializer",
    "Key",
    "LaxPadding",
    "Leaf",
    "LogicalNames",
    "LogicalPartitionSpec",
    "LogicalPartitionSpecPytree",
    "LogicalRules",
    "MISSING",
    "Missing",
    "MutableCollection",
    "MutableVariableDict",
    "Out",
    "PRNGFoldable",
    "PRNGKey",
    "PaddingLike",
    "PartitionSpecPytree",
    "Path",
    "PathParts",
    "PrecisionLike",
    "PromoteDtypeFn",
    "RNGSequences",
    "ScanAxis",
    "Shape",
    "ShapeDtype",
    "Sharding",
    "SizeBytes",
    "VariableDict",
    "has_shape_dtype",
    "is_key_like",
]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V", bound=Hashable)
TupleArg = TypeVar("TupleArg", bound=tuple[Any, ...])

Array: TypeAlias = jax.Array | Any
"""An array; as in Flax, anything will do."""

PRNGKey: TypeAlias = jax.Array
"""A random key."""

RNGSequences: TypeAlias = dict[str, PRNGKey]
"""Random keys by the name of their stream."""

Dtype: TypeAlias = DTypeLike | Any
"""A dtype, or what names one."""

Shape: TypeAlias = Sequence[int]
"""The extent of each axis."""


@runtime_checkable
class Key(Hashable, Protocol):
    """A key of a nested dict: hashable, and comparable with other keys."""

    def __lt__(self, other: Any, /) -> bool: ...


Path: TypeAlias = str
"""A path as one string, its parts joined by ``/``."""

PathParts: TypeAlias = tuple[Key, ...]
"""A path as a tuple of keys."""

Leaf: TypeAlias = Any
"""What stands at the end of a path."""


@runtime_checkable
class ShapeDtype(Protocol):
    """Anything that has a shape and a dtype."""

    @property
    def shape(self) -> Shape:
        """The extent of each axis."""
        ...

    @property
    def dtype(self) -> Any:
        """The dtype of each element."""
        ...


def has_shape_dtype(x: Any) -> TypeGuard[ShapeDtype]:
    """Return whether something has a shape and a dtype."""
    return hasattr(x, "shape") and hasattr(x, "dtype")


def is_key_like(x: Any) -> TypeGuard[Key]:
    """Return whether something can be a key of a nested dict."""
    return hasattr(x, "__hash__") and hasattr(x, "__lt__")


Initializer: TypeAlias = jax.nn.initializers.Initializer | Callable[..., Any]
"""A function that draws an initial value from a key, a shape and a dtype."""

Collection: TypeAlias = Mapping[str, Any]
"""The variables of one collection, nested by module name."""

MutableCollection: TypeAlias = dict[str, Any]
"""The variables of one collection that may be changed."""

VariableDict: TypeAlias = Mapping[str, Collection]
"""Collections by name."""

FrozenVariableDict: TypeAlias = FrozenDict[str, Collection]
"""Collections by name, frozen."""

MutableVariableDict: TypeAlias = dict[str, MutableCollection]
"""Collections by name that may be changed."""

PRNGFoldable: TypeAlias = int | str
"""What can be folded into a random key."""

Axis: TypeAlias = int | None
"""One axis, or none."""

Axes: TypeAlias = int | Sequence[int]
"""One axis or several."""

ConvGeneralDilatedT: TypeAlias = Callable[..., Array]
"""A function with the signature of ``jax.lax.conv_general_dilated``."""

DotGeneralT: TypeAlias = Callable[..., Array]
"""A function with the signature of ``jax.lax.dot_general``."""

EinsumT: TypeAlias = Callable[..., Array]
"""A function with the signature of ``jax.numpy.einsum``."""

LaxPadding: TypeAlias = str | Sequence[tuple[int, int]]
"""A padding as ``jax.lax`` takes it."""

PaddingLike: TypeAlias = str | int | Sequence[int | tuple[int, int]]
"""A padding as layers take it."""


ScanAxis: TypeAlias = int
"""The axis that a scan goes along."""

InOutAxis: TypeAlias = int | In[Axis] | Out[Axis] | None
"""An axis of a collection under ``vmap``."""

InOutScanAxis: TypeAlias = ScanAxis | In[ScanAxis] | Out[ScanAxis]
"""An axis of a collection under ``scan``."""

AxisName: TypeAlias = str | tuple[str, ...] | None
"""The name of a mesh axis, several, or none."""

LogicalNames: TypeAlias = tuple[str | None, ...]
"""The logical names of an array's axes."""

LogicalRules: TypeAlias = Sequence[tuple[str, AxisName]]
"""Which mesh axis each logical name is laid along; the first that fits is used."""

Sharding: TypeAlias = tuple[AxisName, ...]
"""The mesh axes of an array's axes."""

ArrayPytree: TypeAlias = Any
"""A pytree of arrays."""

LogicalPartitionSpec: TypeAlias = Any
"""A partition spec in logical names."""

LogicalPartitionSpecPytree: TypeAlias = Any
"""A pytree of partition specs in logical names."""

PartitionSpecPytree: TypeAlias = Any
"""A pytree of partition specs."""


class PromoteDtypeFn(Protocol):
    """A function with the signature of ``flax.linen.dtypes.promote_dtype`` that takes its arrays as one tuple."""

    def __call__(self, args: TupleArg, /, *, dtype: Any = None, inexact: bool = True) -> TupleArg:
        """Return the arrays in one dtype."""
        ...


class HashableMapping(Mapping[K, V], Hashable):
    """A mapping that can be hashed, because its values can.

    Args:
      mapping: the entries.
      copy: whether to keep a copy of them.
    """

    def __init__(self, mapping: Mapping[K, V], copy: bool = True) -> None:
        self._mapping = dict(mapping) if copy else mapping

    def __getitem__(self, key: K) -> V:
        return self._mapping[key]

    def __contains__(self, key: object) -> bool:
        return key in self._mapping

    def __iter__(self) -> Iterator[K]:
        return iter(self._mapping)

    def __len__(self) -> int:
        return len(self._mapping)

    def __hash__(self) -> int:
        return hash(frozenset(self._mapping.items()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HashableMapping) and self._mapping == other._mapping

    def __repr__(self) -> str:
        return repr(self._mapping)

    def update(self, other: Mapping[K, V]) -> HashableMapping[K, V]:
        """Return a mapping with the entries of another one added or replaced."""
        return HashableMapping({**self._mapping, **other}, copy=False)


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class SizeBytes:
    """How many elements arrays have, and how many bytes they take.

    Attributes:
      size: the number of elements.
      bytes: the number of bytes.
    """

    size: int
    bytes: int

    @classmethod
    def from_array(cls, x: ShapeDtype) -> Self:
        """Return what one array takes."""
        size = int(np.prod(x.shape, dtype=object))
        return cls(size, size * int(x.dtype.itemsize))

    @classmethod
    def from_any(cls, x: Any) -> Self:
        """Return what the arrays of a pytree take together; leaves that are no arrays take nothing."""
        counts = [cls.from_array(leaf) for leaf in jax.tree.leaves(x) if has_shape_dtype(leaf)]
        return cls(sum(count.size for count in counts), sum(count.bytes for count in counts))

    def __add__(self, other: SizeBytes) -> SizeBytes:
        return SizeBytes(self.size + other.size, self.bytes + other.bytes)

    def __bool__(self) -> bool:
        return bool(self.size)

    def __repr__(self) -> str:
        return f"{self.size:,} ({_in_units(self.bytes)})"


def _in_units(count: int) -> str:
    """Write a number of bytes in units of a thousand."""
    for unit, power in (("GB", 3), ("MB", 2), ("KB", 1)):
        if count > 1000**power:
            return f"{count / 1000**power:,.1f} {unit}"
    return f"{count:,} B"


class Missing:
    """The type of ``MISSING``."""


MISSING = Missing()
"""What stands for an argument that was not given, where None is an argument."""
