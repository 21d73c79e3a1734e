"""Meshes written down: ``"data=2,fsdp=4"`` stands for two axes with their sizes, and -1 for the devices that are left.

The order of the axes is that of ``jax.make_mesh``, which puts devices that are near each other beside each other along
the last ones: the axis with the most traffic belongs last.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, cast

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from batiste._arguments import choice, refused, whole_number
from batiste.errors import MeshAxesError, UnknownMeshAxisError, nearest

__all__ = ["AxisTypes", "MeshSizes", "mesh", "mesh_sizes"]

MeshSizes: TypeAlias = str | Mapping[str, int]
"""The axes of a mesh with their sizes: ``"data=2,fsdp=-1"``, or a dict."""

AxisTypes: TypeAlias = Literal["auto", "explicit"] | Mapping[str, Literal["auto", "explicit"]]
"""What kind of axes a mesh has: all alike, or by name; an axis that is not named is Auto."""


def mesh(sizes: MeshSizes, *, devices: Sequence[Any] | None = None, types: AxisTypes = "auto") -> Mesh:
    """Return a mesh of devices.

    Args:
      sizes: the axes with their sizes, as ``"data=2,fsdp=4,tensor=1"`` or a dict. One size may be -1, for the devices
        that are left. Without one a mesh may have fewer devices than there are, as ``jax.make_mesh`` has it.
      devices: the devices; by default all, those of other processes among them.
      types: ``"auto"`` leaves it to the compiler how values lie; with ``"explicit"`` it is part of their type.

    Raises:
      ArgumentError: ``types`` is neither of them.
      MeshAxesError: ``sizes`` cannot be read, or do not fit the devices.
      UnknownMeshAxisError: ``types`` names an axis that there is not.

    Example:
      >>> import jax
      >>> from batiste import shard
      >>> mesh = shard.mesh("data=-1,model=1")
      >>> mesh.axis_names, mesh.size == jax.device_count()
      (('data', 'model'), True)
    """
    if devices is not None and not all(isinstance(one, jax.Device) for one in _listed(devices)):
        raise refused(devices, "devices", "shard.mesh", "a list of devices", "Give jax.devices(), or some of them.")
    found: list[Any] = [*jax.devices()] if devices is None else [*devices]
    named = mesh_sizes(sizes, len(found))
    count = math.prod(named.values())
    if jax.process_count() > 1 and devices is None and count < len(found):
        reason = f"it has {count} devices, and the {jax.process_count()} processes have {len(found)} together"
        raise MeshAxesError(given=_words(sizes), reason=reason)
    kinds = _types(types, named)
    made = cast("Any", jax.make_mesh)
    return made(tuple(named.values()), tuple(named), axis_types=kinds, devices=found[:count])


def mesh_sizes(sizes: MeshSizes, count: int | None = None) -> dict[str, int]:
    """Return the size of each axis by name.

    Args:
      sizes: the axes, as ``mesh`` takes them.
      count: how many devices there are; None for any number, which leaves no place for -1.

    Raises:
      MeshAxesError: they cannot be read, or do not fit the devices.

    Example:
      >>> from batiste import shard
      >>> shard.mesh_sizes("data=-1,model=4", count=8)
      {'data': 2, 'model': 4}
    """
    if count is not None:
        count = whole_number(count, "count", "mesh_sizes", low=1)
    named = _parsed(sizes)
    known = math.prod(size for size in named.values() if size != -1)
    open_axes = [name for name, size in named.items() if size == -1]
    if len(open_axes) > 1:
        raise MeshAxesError(given=_words(sizes), reason="only one axis can take the devices that are left")
    if open_axes and count is None:
        reason = f"it is not known how many devices are left for {open_axes[0]!r}"
        raise MeshAxesError(given=_words(sizes), reason=reason)
    if open_axes and count is not None and count % known:
        reason = f"{count} devices cannot be shared out evenly among {known} parts"
        raise MeshAxesError(given=_words(sizes), reason=reason)
    if count is not None and known > count:
        raise MeshAxesError(given=_words(sizes), reason=f"it needs {known} devices, and there are {count}")
    rest = 1 if count is None else count // known
    return {name: rest if size == -1 else size for name, size in named.items()}


def _listed(devices: Any) -> Sequence[Any]:
    return cast("Sequence[Any]", devices) if isinstance(devices, list | tuple) else np.ravel(devices).tolist()


def _parsed(sizes: Any) -> dict[str, int]:
    if isinstance(sizes, Mapping):
        pairs: list[tuple[Any, Any]] = list(cast("Mapping[Any, Any]", sizes).items())
    elif isinstance(sizes, str):
        pairs = []
        for part in filter(None, (part.strip() for part in sizes.split(","))):
            name, equals, size = part.partition("=")
            if not equals or not size.strip().lstrip("-").isdecimal():
                raise MeshAxesError(given=_words(sizes), reason=f"{part!r} is no name with a size")
            pairs.append((name.strip(), int(size)))
    else:
        raise MeshAxesError(given=_words(sizes), reason="it is neither a text nor a dict")
    if not pairs:
        raise MeshAxesError(given=_words(sizes), reason="there is no axis")
    for name, size in pairs:
        if not isinstance(name, str) or not name:
            raise MeshAxesError(given=_words(sizes), reason=f"{name!r} is no name")
        if isinstance(size, bool) or not isinstance(size, int) or (size < 1 and size != -1):
            raise MeshAxesError(given=_words(sizes), reason=f"{size!r} is no size of {name!r}")
    twice = [name for name, _ in pairs if sum(name == other for other, _ in pairs) > 1]
    if twice:
        raise MeshAxesError(given=_words(sizes), reason=f"{twice[0]!r} is there twice")
    return dict(pairs)


def _types(types: Any, named: Mapping[str, int]) -> tuple[AxisType, ...]:
    kinds = {"auto": AxisType.Auto, "explicit": AxisType.Explicit}
    if isinstance(types, Mapping):
        given = cast("Mapping[str, Any]", types)
        for name, kind in given.items():
            if name not in named:
                line = f"  types={types!r}: there is no {name!r}.{nearest(str(name), list(named))}"
                raise UnknownMeshAxisError(axes=", ".join(map(repr, named)), lines=line)
            choice(kind, f"types[{name!r}]", "mesh", tuple(kinds))
        return tuple(kinds[given.get(name, "auto")] for name in named)
    if types not in kinds:
        raise refused(types, "types", "mesh", "'auto', 'explicit', or a dict from axes to them")
    return (kinds[types],) * len(named)


def _words(sizes: Any) -> str:
    return repr(sizes)
