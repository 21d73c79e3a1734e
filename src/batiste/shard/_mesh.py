"""What a mesh says about specs: whether it has their axes, and whether it cuts the arrays into equal parts.

A spec is wrong in one of four ways: it has more entries than the array has axes, it uses a mesh axis twice, it leads to
an axis that the mesh does not have, or to parts that are not equally long. Each is reported for all leaves at once,
with path and shape. ``mesh_in_context`` finds the mesh that the program has named, in whichever way.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, cast

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from batiste._arguments import refused
from batiste.errors import IndivisibleAxisError, PartitionSpecError, UnknownMeshAxisError, nearest

__all__ = [
    "AnyMesh",
    "Indivisible",
    "Placed",
    "axes_of",
    "check_axes",
    "check_divisible",
    "check_mesh",
    "check_specs",
    "mesh_in_context",
]

AnyMesh: TypeAlias = Mesh | AbstractMesh
"""A mesh of devices, or the shape of one."""

Indivisible: TypeAlias = Literal["error", "replicate"]
"""What becomes of an axis that the mesh does not cut into equal parts: an error, or it is not split."""


class Placed(NamedTuple):
    """A spec and what it is for.

    Attributes:
      path: the path of the leaf.
      shape: its shape, or None where it is not known.
      spec: where it is to lie.
    """

    path: str
    shape: tuple[int, ...] | None
    spec: PartitionSpec

    def line(self, problem: str) -> str:
        """Return a line for a message."""
        shape = "" if self.shape is None else f" {self.shape}"
        return f"  {self.path or 'the array'}{shape} {self.spec}: {problem}"


def axes_of(entry: Any) -> tuple[str, ...]:
    """Return the mesh axes of one entry of a spec."""
    if isinstance(entry, str):
        return (entry,)
    return cast("tuple[str, ...]", entry) if isinstance(entry, tuple) else ()


def check_specs(placed: Sequence[Placed], mesh: AnyMesh | None, indivisible: Indivisible) -> list[PartitionSpec]:
    """Return specs that fit their arrays and the mesh.

    Raises:
      IndivisibleAxisError: if the mesh does not cut an axis into equal parts, and ``indivisible`` is ``"error"``.
      PartitionSpecError: if a spec has more entries than its array has axes, or uses a mesh axis twice.
      UnknownMeshAxisError: if the mesh does not have an axis.
    """
    misfits = list(_misfits(placed))
    if misfits:
        raise PartitionSpecError(lines="\n".join(misfits))
    if mesh is None:
        return [each.spec for each in placed]
    check_axes(placed, mesh)
    if indivisible == "replicate":
        return [_without_uneven(each, mesh) for each in placed]
    check_divisible(placed, mesh)
    return [each.spec for each in placed]


def _misfits(placed: Iterable[Placed]) -> Iterator[str]:
    for each in placed:
        used = [axis for entry in each.spec for axis in axes_of(entry)]
        if each.shape is not None and len(each.spec) > len(each.shape):
            yield each.line(f"{len(each.spec)} entries for {len(each.shape)} axes")
        if len(set(used)) < len(used):
            yield each.line("a mesh axis is used twice")


def check_mesh(mesh: Any, where: str, *, devices: bool = False) -> None:
    """Refuse what is no mesh, or with ``devices`` no mesh of devices.

    Raises:
      ArgumentError: it is something else.
    """
    if not isinstance(mesh, Mesh if devices else Mesh | AbstractMesh):
        what = "a jax.sharding.Mesh, of devices" if devices else "a jax.sharding.Mesh"
        raise refused(mesh, "mesh", where, what, 'Make one: shard.mesh("data=2,fsdp=-1").')


def check_axes(placed: Iterable[Placed], mesh: AnyMesh) -> None:
    """Raise ``UnknownMeshAxisError`` unless the mesh has every axis of the specs."""
    lines = [
        each.line(f"there is no {axis!r}.{nearest(axis, mesh.axis_names)}")
        for each in placed
        for entry in each.spec
        for axis in axes_of(entry)
        if axis not in mesh.axis_names
    ]
    if lines:
        raise UnknownMeshAxisError(axes=", ".join(map(repr, mesh.axis_names)), lines="\n".join(lines))


def check_divisible(placed: Iterable[Placed], mesh: AnyMesh, *, cure: str | None = None) -> None:
    """Raise ``IndivisibleAxisError`` unless the mesh cuts every axis into equal parts."""
    lines = [
        each.line(f"axis {axis} has {length} entries, for {parts} parts")
        for each in placed
        for axis, length, parts in _uneven(each, mesh)
    ]
    if lines:
        cure = cure or 'Change the size or the spec, or pass indivisible="replicate" to leave such an axis whole.'
        raise IndivisibleAxisError(mesh=_described(mesh), lines="\n".join(lines), cure=cure)


def _uneven(each: Placed, mesh: AnyMesh) -> Iterator[tuple[int, int, int]]:
    for axis, (length, entry) in enumerate(zip(each.shape or (), each.spec, strict=False)):
        parts = math.prod(mesh.shape[name] for name in axes_of(entry))
        if length % parts:
            yield axis, length, parts


def _without_uneven(each: Placed, mesh: AnyMesh) -> PartitionSpec:
    uneven = {axis for axis, _, _ in _uneven(each, mesh)}
    return PartitionSpec(*(None if axis in uneven else entry for axis, entry in enumerate(each.spec)))


def _described(mesh: AnyMesh) -> str:
    return ", ".join(f"{name!r}: {size}" for name, size in mesh.shape.items())


def mesh_in_context() -> AnyMesh | None:
    """Return the mesh that the program has named for the code that runs now, or None.

    ``jax.set_mesh``, ``jax.sharding.use_abstract_mesh`` and ``jax.shard_map`` name an abstract mesh, with the types
    that its axes have here; the deprecated ``with mesh:`` names a mesh of devices.
    """
    abstract = jax.sharding.get_abstract_mesh()
    return _entered_mesh() if abstract.empty else abstract


def _entered_mesh() -> Mesh | None:
    """Return the mesh of an enclosing ``with mesh:``.

    JAX has no public name for it, but looks it up for a constraint by a bare spec: without a mesh that is one error,
    for an axis that no mesh has another, and otherwise the traced constraint holds the mesh.
    """
    scalar = np.zeros((), np.float32)
    try:
        jax.lax.with_sharding_constraint(scalar, PartitionSpec("no mesh has such an axis"))
    except RuntimeError:
        return None
    except ValueError:
        pass
    traced = jax.make_jaxpr(lambda: jax.lax.with_sharding_constraint(scalar, PartitionSpec()))()
    parameters: Any = traced.eqns[0].params.values()
    return next(value.mesh for value in parameters if isinstance(value, NamedSharding) and isinstance(value.mesh, Mesh))
