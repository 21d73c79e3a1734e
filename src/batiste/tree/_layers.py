"""Layers apart and layers stacked, and the way between.

A model with ``n`` equal layers keeps them apart, ``encoder/h_0/attn/kernel`` to ``encoder/h_11/attn/kernel``, or
stacked for a scan, ``encoder/h/attn/kernel`` with a leading axis of length ``n``. ``stack_layers`` and
``unstack_layers`` go from one to the other and are exact inverses. Neither needs the model: the paths say where the
layers are. In an Optax state the tree of the parameters appears again within ``mu`` and ``nu``, and its layers are
found there in the same way; what holds no array there (``MaskedNode`` of a frozen group) is stacked along.

Words: *name* is what the layers share (``h``); the *parent* is the level above them (``encoder``); the layers of one
parent are a *group*, and are stacked independently of other groups. A level within a layer that has the layers' name
again is left alone: the outermost counts.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from batiste._arguments import function as checked_function
from batiste._arguments import text, whole_number
from batiste.errors import (
    LayerNameTakenError,
    MissingLayersError,
    NoLayersError,
    UnequalLayersError,
    nearest,
)
from batiste.tree._containers import Containers, Walk, rebuild, walk
from batiste.tree._lazy import LazyArray, stack_lazy
from batiste.tree._leaves import check_arrays, dtype_of, leaf_text, shape_of
from batiste.tree._names import Parts, join_path
from batiste.tree._patterns import Pattern, Patterns, as_patterns

__all__ = ["by_layer", "stack_layers", "unstack_layers"]


@dataclasses.dataclass(frozen=True, slots=True)
class _Bare:
    """A container without children, such as ``{}`` or ``MaskedNode()``, in the place of a leaf."""

    container: Any


def stack_layers(tree: Any, name: str, *, within: Patterns = "**") -> Any:
    """Return the tree with ``name_0`` to ``name_{n-1}`` stacked as ``name``, each leaf with a leading axis of length n.

    Args:
      tree: any pytree of arrays, an Optax state too; lazy leaves are not read.
      name: what the layers share.
      within: patterns for the path of the level above the layers; others are left alone.

    Returns:
      Leaves ``[layers, ...]`` in the place of leaves ``[...]``; the rest as it was. The inverse of ``unstack_layers``.

    Raises:
      NoLayersError: if there is no such layer.
      MissingLayersError: if the numbers of a group have gaps; the error lists all groups with gaps.
      UnequalLayersError: if layers of a group differ in paths, shapes, dtypes or containers; the error lists each leaf.
      LayerNameTakenError: if there is something else at ``name`` beside the layers.

    Example:
      >>> import numpy as np
      >>> from batiste import tree
      >>> layers = {"h_0": {"w": np.ones(3)}, "h_1": {"w": np.zeros(3)}}
      >>> stacked = tree.stack_layers(layers, "h")
      >>> stacked["h"]["w"].shape
      (2, 3)
    """
    text(name, "name", "stack_layers", what="the name that the layers share")
    walked = walk(tree)
    atoms = _atoms(walked)
    numbered, parents = re.compile(re.escape(name) + "_(0|[1-9][0-9]{0,8})"), as_patterns(within)
    groups: dict[Parts, dict[int, dict[Parts, Any]]] = {}
    rest: dict[Parts, Any] = {}
    for parts, atom in atoms.items():
        place = _place(parts, numbered, parents)
        if place is None:
            rest[parts] = atom
        else:
            layers = groups.setdefault(parts[:place], {})
            layers.setdefault(int(parts[place].rpartition("_")[2]), {})[parts[place + 1 :]] = atom
    if not groups:
        raise NoLayersError(verb="stack", wanted=f"{name}_0", near=_near(f"{name}_0", atoms))
    _check_numbers(groups, name)
    _check_free([(*parent, name) for parent in groups], rest)
    _check_equal(groups, name, walked.containers)
    containers = dict(walked.containers)
    for parent, layers in groups.items():
        for parts, first in layers[0].items():
            stacked = [layers[number][parts] for number in range(len(layers))]
            rest[*parent, name, *parts] = first if isinstance(first, _Bare) else _stacked(stacked)
        containers |= _moved(walked.containers, (*parent, f"{name}_0"), (*parent, name))
        _forget(containers, parent, {f"{name}_{number}" for number in layers})
    return _rebuilt(rest, containers)


def unstack_layers(tree: Any, name: str, *, within: Patterns = "**", layers: int | None = None) -> Any:
    """Return the tree with ``name`` taken apart into ``name_0`` to ``name_{n-1}`` along the leading axis of its leaves.

    Args:
      tree: any pytree of arrays, an Optax state too; a lazy leaf gives lazy layers that read a slice each.
      name: the level that holds the stacked layers.
      within: patterns for the path of the level above; others are left alone.
      layers: how many layers there are; needed only where nothing but empty containers is stacked, as in the Optax
        state of a frozen group.

    Returns:
      Leaves ``[...]`` in the place of leaves ``[layers, ...]``; the rest as it was. The inverse of ``stack_layers``.

    Raises:
      NoLayersError: if there is no such level.
      UnequalLayersError: if leaves of a group have leading axes of different lengths, or none; the error lists them.
      LayerNameTakenError: if there is something else at ``name_0``, ``name_1``, ...

    Example:
      >>> import numpy as np
      >>> from batiste import tree
      >>> stacked = {"h": {"w": np.ones((2, 3))}}
      >>> sorted(tree.unstack_layers(stacked, "h"))
      ['h_0', 'h_1']
    """
    text(name, "name", "unstack_layers", what="the name that the layers share")
    layers = None if layers is None else whole_number(layers, "layers", "unstack_layers", low=1)
    walked = walk(tree)
    atoms = _atoms(walked)
    wanted, parents = re.compile(re.escape(name)), as_patterns(within)
    groups: dict[Parts, dict[Parts, Any]] = {}
    rest: dict[Parts, Any] = {}
    for parts, atom in atoms.items():
        place = _place(parts, wanted, parents)
        if place is None:
            rest[parts] = atom
        else:
            groups.setdefault(parts[:place], {})[parts[place + 1 :]] = atom
    if not groups:
        raise NoLayersError(verb="unstack", wanted=name, near=_near(name, atoms))
    counts = _layer_counts(groups, name, layers)
    _check_free([(*parent, f"{name}_{index}") for parent in groups for index in range(counts[parent])], rest)
    containers = dict(walked.containers)
    for parent, leaves in groups.items():
        count = counts[parent]
        taken_apart = {p: [leaf] * count if isinstance(leaf, _Bare) else _layers(leaf) for p, leaf in leaves.items()}
        for index in range(count):
            for parts, layers_of_leaf in taken_apart.items():
                rest[*parent, f"{name}_{index}", *parts] = layers_of_leaf[index]
            containers |= _moved(walked.containers, (*parent, name), (*parent, f"{name}_{index}"))
        _forget(containers, parent, {name})
    return _rebuilt(rest, containers)


def by_layer(function: Callable[[Any], Any], name: str, *, within: Patterns = "**") -> Callable[[Any], Any]:
    """Return a function of parameters that are kept stacked, for a mask or labels that are made of layers kept apart.

    ``optax.adamw(1e-3, mask=by_layer(mask, "h"))`` asks ``mask`` about ``h_0/Dense_0/bias`` of one dimension, where the
    parameters hold ``h/Dense_0/bias`` of two.

    Args:
      function: takes the tree with its layers apart, each leaf a ``jax.ShapeDtypeStruct``, and returns a tree of that
        structure, or a prefix of it: truth values for ``optax.masked``, labels for ``optax.multi_transform``.
      name: the level that holds the stacked layers.
      within: patterns for the path of the level above.

    Returns:
      A function of the stacked tree. It raises ``UnequalLayersError`` if ``function`` says of a leaf one thing in one
      layer and another in the next; the error lists each such leaf. It raises ``NoLayersError`` if there are no layers.

    Raises:
      ArgumentError: if ``function`` is none, or ``name`` or ``within`` no text.

    Example:
      >>> import numpy as np
      >>> from batiste import tree
      >>> is_matrix = lambda params: tree.map(params, lambda path, leaf: leaf.ndim > 1)
      >>> stacked = {"h": {"kernel": np.ones((2, 3, 3)), "bias": np.ones((2, 3))}}
      >>> tree.by_layer(is_matrix, "h")(stacked)
      {'h': {'bias': False, 'kernel': True}}
    """
    checked_function(function, "function", "by_layer")
    text(name, "name", "by_layer", what="the name that the layers share")
    as_patterns(within)

    def of_stacked(tree: Any) -> Any:
        leaves: list[Any] = jax.tree.leaves(tree)
        treedef = cast("Any", jax.tree.structure(tree))
        shapes = [jax.ShapeDtypeStruct(shape_of(leaf), dtype_of(leaf)) for leaf in leaves]
        apart = unstack_layers(jax.tree.unflatten(treedef, shapes), name, within=within)
        numbers = [np.full([max(extent, 1) for extent in leaf.shape[:1]], at) for at, leaf in enumerate(shapes)]
        origins = unstack_layers(jax.tree.unflatten(treedef, numbers), name, within=within)

        def spread(label: Any, below: Any) -> Any:
            return jax.tree.unflatten(
                cast("Any", jax.tree.structure(below)), [_Said(label)] * len(jax.tree.leaves(below))
            )

        said = jax.tree.map(spread, function(apart), apart)
        found: dict[int, Any] = {}
        lines: list[str] = []
        for (parts, origin), answer in zip(walk(origins).leaves.items(), jax.tree.leaves(said), strict=True):
            first = found.setdefault(int(np.ravel(origin)[0]), answer)
            if first.label != answer.label:
                lines.append(f"  {join_path(parts)}: {answer.label!r}, in layer 0 {first.label!r}")
        if lines:
            raise UnequalLayersError(lines="\n".join(lines))
        return jax.tree.unflatten(treedef, [found[at].label for at in range(len(leaves))])

    return of_stacked


@dataclasses.dataclass(frozen=True, slots=True)
class _Said:
    """What a function says of a leaf, be it None."""

    label: Any


def _atoms(walked: Walk) -> dict[Parts, Any]:
    """The leaves, and the containers without children beside them."""
    check_arrays({join_path(parts): leaf for parts, leaf in walked.leaves.items()}, "stacking layers")
    return {**walked.leaves, **{parts: _Bare(container) for parts, container in walked.bare().items()}}


def _rebuilt(atoms: dict[Parts, Any], containers: Containers) -> Any:
    leaves = {parts: atom.container if isinstance(atom, _Bare) else atom for parts, atom in atoms.items()}
    return rebuild(leaves, containers)


def _place(parts: Parts, wanted: re.Pattern[str], within: Sequence[Pattern]) -> int | None:
    """The outermost level of a path that is a layer."""
    for place, part in enumerate(parts):
        if wanted.fullmatch(part) and any(pattern.matches(join_path(parts[:place])) for pattern in within):
            return place
    return None


def _near(wanted: str, atoms: Iterable[Parts]) -> str:
    return nearest(wanted, {part for parts in atoms for part in parts})


def _check_numbers(groups: dict[Parts, dict[int, Any]], name: str) -> None:
    lines: list[str] = []
    for parent, layers in groups.items():
        lacking = sorted(set(range(len(layers))) - set(layers))
        if lacking:
            there = ", ".join(map(str, sorted(layers)))
            lines.append(
                f"  {join_path((*parent, name))}: there are {there}; {', '.join(map(str, lacking))} is missing"
            )
    if lines:
        raise MissingLayersError(lines="\n".join(lines))


def _check_free(targets: Iterable[Parts], rest: Iterable[Parts]) -> None:
    taken = {parts[:depth] for parts in rest for depth in range(len(parts) + 1)}
    lines = [f"  {join_path(target)}" for target in targets if target in taken]
    if lines:
        raise LayerNameTakenError(lines="\n".join(lines))


def _check_equal(groups: dict[Parts, dict[int, dict[Parts, Any]]], name: str, containers: Containers) -> None:
    lines: list[str] = []
    places = {(*parent, f"{name}_{number}") for parent, layers in groups.items() for number in layers}
    found = _kinds(containers, places)
    for parent, layers in groups.items():
        kinds = dict(found[(*parent, f"{name}_0")])
        for number in range(1, len(layers)):
            at = (*parent, f"{name}_{number}")
            first, other = layers[0], layers[number]
            lines += [f"  {join_path((*at, *parts))}: missing" for parts in first if parts not in other]
            lines += [f"  {join_path((*at, *parts))}: not in layer 0" for parts in other if parts not in first]
            lines += [
                f"  {join_path((*at, *parts))}: {_atom_text(other[parts])}, in layer 0 {_atom_text(first[parts])}"
                for parts in first
                if parts in other and _atom_key(first[parts]) != _atom_key(other[parts])
            ]
            lines += [
                f"  {join_path((*at, *parts))}: {kind.__name__}, in layer 0 {kinds[parts].__name__}"
                for parts, kind in found[at]
                if parts in kinds and kinds[parts] is not kind
            ]
    if lines:
        raise UnequalLayersError(lines="\n".join(lines))


def _kinds(containers: Containers, places: set[Parts]) -> dict[Parts, list[tuple[Parts, type[Any]]]]:
    """Return the containers at and below each of these places, in one pass over all of them."""
    found: dict[Parts, list[tuple[Parts, type[Any]]]] = {place: [] for place in places}
    for parts, node in containers.items():
        for depth in range(len(parts) + 1) if node.names else ():
            if parts[:depth] in found:
                found[parts[:depth]].append((parts[depth:], node.kind))
    return found


def _atom_key(atom: Any) -> tuple[Any, ...]:
    return (
        (str(cast("type[Any]", type(atom.container))),) if isinstance(atom, _Bare) else (shape_of(atom), dtype_of(atom))
    )


def _atom_text(atom: Any) -> str:
    return f"an empty {type(atom.container).__name__}" if isinstance(atom, _Bare) else leaf_text(atom)


def _layer_counts(groups: dict[Parts, dict[Parts, Any]], name: str, given: int | None) -> dict[Parts, int]:
    """How many layers each group has; a group without arrays has as many as was given, or as the others."""
    lines: list[str] = []
    counts: dict[Parts, int] = {}
    for parent, atoms in groups.items():
        leaves = {parts: atom for parts, atom in atoms.items() if not isinstance(atom, _Bare)}
        extents = {shape_of(leaf)[:1] for leaf in leaves.values()}
        if len(extents) > 1 or extents & {(), (0,)} or (given is not None and extents - {(given,)}):
            lines += [f"  {join_path((*parent, name, *parts))}: {leaf_text(leaf)}" for parts, leaf in leaves.items()]
        elif extents:
            counts[parent] = extents.pop()[0]
    unknown = [parent for parent in groups if parent not in counts]
    common = {given} if given else set(counts.values())
    if unknown and not lines and len(common) != 1:
        lines += [
            f"  {join_path((*parent, name))}: no array says how many layers; give `layers=`" for parent in unknown
        ]
    if lines:
        raise UnequalLayersError(lines="\n".join(lines))
    return counts | dict.fromkeys(unknown, common.pop())


def _moved(containers: Containers, source: Parts, target: Parts) -> Containers:
    return {
        (*target, *parts[len(source) :]): node for parts, node in containers.items() if parts[: len(source)] == source
    }


def _forget(containers: Containers, parent: Parts, names: set[str]) -> None:
    """Take children out of a parent that are there under other names now, so that it keeps its empty ones."""
    if containers[parent].is_mapping:
        containers[parent] = containers[parent].without(names)


def _stacked(leaves: list[Any]) -> Any:
    """Leaves of one shape ``[...]`` as one leaf ``[layers, ...]`` of their kind."""
    if any(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves):
        return jax.ShapeDtypeStruct((len(leaves), *shape_of(leaves[0])), dtype_of(leaves[0]))
    if any(isinstance(leaf, LazyArray) for leaf in leaves):
        return stack_lazy(leaves)
    if any(isinstance(leaf, jax.Array) for leaf in leaves):
        return jnp.stack(leaves)
    return np.ma.stack(leaves) if any(isinstance(leaf, np.ma.MaskedArray) for leaf in leaves) else np.stack(leaves)


def _layers(leaf: Any) -> Sequence[Any]:
    """The layers of a stacked leaf."""
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return [jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)] * leaf.shape[0]
    if isinstance(leaf, jax.Array):
        return jnp.unstack(leaf) if isinstance(cast("Any", leaf), Tracer) else _taken_apart(leaf)
    if isinstance(leaf, LazyArray):
        return [leaf[index] for index in range(leaf.shape[0])]
    array = np.asanyarray(leaf)
    return [array[index, ...] for index in range(len(array))]


def _taken_apart(array: jax.Array) -> list[jax.Array]:
    """The layers of an array: one program for each shape, in which the number of the layer is an operand."""
    layer: Any = _layer
    return [layer(array, np.int32(index)) for index in range(array.shape[0])]


@jax.jit
def _layer(array: jax.Array, index: Any) -> jax.Array:
    take: Any = jax.lax.dynamic_index_in_dim
    return take(array, index, 0, keepdims=False)
