"""Arrays of an opened checkpoint, which know where they are from, and what a new checkpoint inherits through them.

A part of an opened checkpoint is a plain tree: ``select`` it, ``rename`` it, ``cast`` it, put it into another tree.
What the manifest says of a leaf beside its values (logical names of axes, the stacked level that it is in, the
dataclass that it is a field of, the step and the metadata of the whole) has no place there. So each lazy leaf carries
its *origin*, and whatever is made of it (another dtype, a slice, a mean of it and others) has an origin again, with the
axes that are left. When the tree is saved, the origins say what is known.

What is inherited is never more than what is still true: names of axes go with the axes; a level is stacked where all
leaves beneath it have one first axis; a dict is a dataclass again where it has all of its fields; step and metadata are
those of the checkpoint where every array is from one, or what all of them agree on. An array in memory is from nowhere.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from batiste.checkpoint._manifest import Manifest
from batiste.checkpoint._types import Record
from batiste.tree import LazyArray, join_path

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

__all__ = ["Origin", "StoredArray", "inherit", "stacked_levels"]

_NAMED: Final = ("dataclass", "namedtuple", "node")


@dataclasses.dataclass(frozen=True, slots=True)
class Origin:
    """Where a lazy array is from.

    Attributes:
      manifest: that of its checkpoint.
      path: its own in there.
      axes: the logical names of the axes that it has now; None where none are known.
      stacked: whether its first axis is still that of the stored array.
      others: the manifests of what else it was made of.
    """

    manifest: Manifest
    path: str
    axes: tuple[str | None, ...] | None
    stacked: bool = True
    others: tuple[Manifest, ...] = ()


class StoredArray(LazyArray):
    """A lazy array with its origin.

    Args:
      shape: the extent of each axis.
      dtype: the element type.
      read: as for ``LazyArray``.
      origin: where it is from.
    """

    __slots__ = ("origin",)

    def __init__(self, shape: Sequence[int], dtype: DTypeLike, read: Any, origin: Origin) -> None:
        super().__init__(shape, dtype, read)
        self.origin = origin

    def map(
        self,
        function: Any,
        shape: Sequence[int] | None = None,
        dtype: DTypeLike | None = None,
        *,
        elementwise: bool = False,
    ) -> LazyArray:
        """Return the array that ``function`` makes of this one; where its shape is the same, so are its axes."""
        made = super().map(function, shape, dtype, elementwise=elementwise)
        return self._made(made, list(range(self.ndim)) if made.shape == self.shape else None)

    def transpose(self, *axes: int) -> LazyArray:
        """Return the array with its axes permuted, and their names with them."""
        return self._made(super().transpose(*axes), list(axes or reversed(range(self.ndim))))

    def __getitem__(self, index: Any) -> LazyArray:
        made = super().__getitem__(index)
        parts: list[Any] = list(cast("tuple[Any, ...]", index)) if isinstance(index, tuple) else [index]
        dots = next((at for at, part in enumerate(parts) if part is Ellipsis), len(parts))
        rest = self.ndim - len(parts) + (dots < len(parts))
        filled = [*parts[:dots], *[slice(None)] * rest, *parts[dots + 1 :]]
        return self._made(made, [axis for axis, part in enumerate(filled) if isinstance(part, slice)])

    def _made(self, made: LazyArray, kept: list[int] | None) -> StoredArray:
        """An array that was made of this one, with the axes of this one that it has, in their order."""
        old = self.origin
        axes = None if kept is None or old.axes is None else tuple(old.axes[axis] for axis in kept)
        stacked = old.stacked and kept is not None and kept[:1] == [0]
        return StoredArray(made.shape, made.dtype, made.read, dataclasses.replace(old, axes=axes, stacked=stacked))

    def mark(self, made: LazyArray, parts: Sequence[Any]) -> LazyArray:
        """Return an array that was made of this one and others, if these are from checkpoints too."""
        origins = [part.origin for part in parts if isinstance(part, StoredArray)]
        if len(origins) < len(parts):
            return made
        old = self.origin
        stacks = made.ndim > self.ndim
        axes = (None, *old.axes) if stacks and old.axes is not None else old.axes
        others = tuple(found for origin in origins for found in (origin.manifest, *origin.others))
        new = Origin(old.manifest, old.path, axes, stacked=old.stacked and not stacks, others=others)
        return StoredArray(made.shape, made.dtype, made.read, new)


def stacked_levels(levels: Mapping[str, Any], records: Mapping[str, Record]) -> list[str]:
    """Return those of some levels whose leaves have one first axis in common, so that they can be stacked layers."""
    found: list[str] = []
    for level in levels:
        firsts = {record.shape[:1] for path, record in records.items() if path.startswith(f"{level}/")}
        if len(firsts) == 1 and not firsts <= {(), (0,)}:
            found.append(level)
    return found


def inherit(manifest: Manifest, arrays: Mapping[str, Any]) -> list[str]:
    """Add to a manifest what the origins of its arrays say.

    Args:
      manifest: of what is about to be saved; axes, containers, step and metadata are added to it.
      arrays: the arrays by path, of which some may be lazy.

    Returns:
      The levels that are stacked layers.
    """
    origins = {path: array.origin for path, array in arrays.items() if isinstance(array, StoredArray)}
    if not origins:
        return []
    names = _names_beneath(manifest)
    levels: dict[str, None] = {}
    for path, origin in origins.items():
        if origin.axes is not None:
            manifest.axes.setdefault(path, list(origin.axes))
        _inherit_containers(manifest, path, origin, names)
        for level, row in origin.manifest.layers.items():
            beneath = origin.path.removeprefix(f"{level}/")
            if origin.stacked and row.get("layout") == "stacked" and beneath != origin.path:
                above = path.removesuffix(f"/{beneath}")
                levels.update({above: None} if above != path else {})
    if all(path in origins or manifest.records[path].key is not None for path in arrays):
        sources = (found for origin in origins.values() for found in (origin.manifest, *origin.others))
        _inherit_words(manifest, list({id(source): source for source in sources}.values()))
    return stacked_levels(levels, manifest.records)


def _inherit_words(manifest: Manifest, sources: Sequence[Manifest]) -> None:
    """The step and the metadata, where all sources that have some agree."""
    steps = {source.step for source in sources} - {None}
    manifest.step = steps.pop() if len(steps) == 1 else None
    manifest.metadata = {
        name: value
        for source in sources
        for name, value in source.metadata.items()
        if all(_agree(other.metadata.get(name, value), value) for other in sources)
    }


def _agree(one: Any, other: Any) -> bool:
    """Whether two entries are the same; NaN is the same as NaN here."""
    return one == other or repr(one) == repr(other)


def _inherit_containers(manifest: Manifest, path: str, origin: Origin, names: Mapping[str, set[str]]) -> None:
    """The dataclasses and other classes above a leaf, which are dicts in the lazy tree."""
    here, there = path, origin.path
    while here and there:
        here, _, name = here.rpartition("/")
        there, _, other = there.rpartition("/")
        row = origin.manifest.containers.get(there, {})
        if row.get("kind") in _NAMED and here not in manifest.containers:
            fields: list[str] = row["fields"]
            if names[here] == {join_path((field,)) for field in fields}:
                manifest.containers[here] = dict(row)
        if name != other:
            return


def _names_beneath(manifest: Manifest) -> dict[str, set[str]]:
    """The names of the children of each level, by the level's path."""
    found: dict[str, set[str]] = {}
    for path in [*manifest.records, *manifest.containers]:
        child = path
        while child:
            level, _, name = child.rpartition("/")
            beneath = found.setdefault(level, set())
            if name in beneath:
                break
            beneath.add(name)
            child = level
    return found
