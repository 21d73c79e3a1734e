"""The containers of a tree, written down so that they come back without the program that made them.

Only what differs from a dict with strings as keys is written: ``{"opt_state": {"kind": "tuple", "size": 2},
"opt_state/0": {"kind": "namedtuple", "module": "optax", "name": "ScaleByAdamState", "fields": [...]}}``. Kinds are
``dict`` (empty, or with integers as keys), ``list``, ``tuple``, ``namedtuple``, ``dataclass``, ``none`` and ``node``
(any other registered container). Lists, tuples, integer keys and ``None`` come back as they were. A named tuple comes
back as its class where that class can be had safely; a dataclass or another node comes back as a dict of its fields,
because making one would mean to run its code: restore into a target for these.

A file names classes, and files come from strangers. So a class is taken only from a module that the program has already
imported, or from one of Optax, JAX or batiste; it must be a named tuple with the very fields that were saved; and it is
filled without calling its constructor. Anything else is a dict.

A *box* (an array in a wrapper that names its axes, as ``nn.with_partitioning`` makes them) is not a level: the array
has the box's own path, and the names are kept beside it.
"""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, cast

import jax
import numpy as np

from batiste.checkpoint._manifest import MAX_DEPTH
from batiste.errors import UnsavableTreeError
from batiste.tree import join_path, path_string, split_path

__all__ = ["Described", "box_names", "containers_of", "describe", "is_box", "rebuild", "unbox"]

_IMPORTABLE: Final = ("optax", "jax", "batiste")


@dataclasses.dataclass(slots=True)
class Described:
    """A tree taken apart: leaves, containers and the logical names of axes, all by path."""

    leaves: dict[str, Any]
    containers: dict[str, dict[str, Any]]
    axes: dict[str, list[str | None]]


def is_box(node: Any) -> bool:
    """Return whether a node is an array in a wrapper that says something about it."""
    return hasattr(node, "unbox") and hasattr(node, "replace_boxed")


def unbox(node: Any) -> Any:
    """Return what is in a box, as it is stored: without any sharding constraint."""
    return node.value if hasattr(node, "value") else node.unbox()


def box_names(node: Any) -> list[str | None] | None:
    """Return the logical names of the axes that a box gives, or None where it gives none."""
    names = getattr(node, "names", None)
    if not isinstance(names, tuple):
        return None
    known = cast("tuple[Any, ...]", names)
    return list(known) if all(name is None or isinstance(name, str) for name in known) else None


def describe(tree: Any) -> Described:
    """Take a tree apart.

    Raises:
      UnsavableTreeError: if a container has keys that cannot be written down.
    """
    found = Described({}, {}, {})
    _describe(tree, (), found)
    return found


def rebuild(values: Mapping[str, Any], containers: Mapping[str, Mapping[str, Any]]) -> Any:
    """Put a tree together again from its leaves and its containers, both by path."""
    if "" in values:
        return values[""]
    root: dict[str, Any] = {}
    for path in [*values, *containers]:
        level = root
        parts = split_path(path)
        for part in parts[:-1] if path in values else parts:
            level = level.setdefault(part, {})
        if path in values:
            level[parts[-1]] = _Held(values[path])
    return _build(root, (), containers)


def containers_of(paths: Iterable[str], containers: Mapping[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the containers that a part of a tree needs: those above its leaves, and empty ones in sequences there."""
    above = {""}
    for path in paths:
        parent = path
        while parent and (parent := parent.rpartition("/")[0]) not in above:
            above.add(parent)
    sequences = {path for path in above if containers.get(path, {}).get("kind") in ("tuple", "list", "namedtuple")}
    return {
        path: row
        for path, row in containers.items()
        if path in above or (_is_empty(row) and path.rpartition("/")[0] in sequences)
    }


def _is_empty(row: Mapping[str, Any]) -> bool:
    """Whether a container has no children at all."""
    return row["kind"] == "none" or row.get("size", row.get("fields")) in (0, []) or row == {"kind": "dict"}


@dataclasses.dataclass(frozen=True, slots=True)
class _Held:
    """A leaf in the table of levels, so that no leaf is taken for a level."""

    leaf: Any


def _describe(node: Any, parts: tuple[str, ...], found: Described) -> None:
    path = join_path(parts)
    if len(parts) > MAX_DEPTH:
        raise UnsavableTreeError(path=f"{path[:40]}...", reason=f"it is more than {MAX_DEPTH} levels deep")
    if isinstance(node, jax.Array | np.ndarray | np.generic | bool | int | float | complex | str | bytes):
        found.leaves[path] = node
        return
    if is_box(node):
        names = box_names(node)
        if names is not None:
            found.axes[path] = names
        node = unbox(node)
    children = list(_children(node, path))
    row = _container_row(node, [name for name, _ in children])
    if row is not None:
        found.containers[path] = row
    elif not isinstance(node, Mapping):
        found.leaves[path] = node
        return
    names = [name for name, _ in children]
    if len(set(names)) < len(names):
        raise UnsavableTreeError(path=path, reason="two of its children have the same name")
    for name, child in children:
        _describe(child, (*parts, name), found)


def _children(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    """The children of a container with their names, in JAX's order; none for a leaf."""
    if isinstance(node, Mapping):
        mapping = cast("Mapping[Any, Any]", node)
        kinds: set[type] = {type(key) for key in mapping}
        if not kinds <= {str} and not kinds <= {int}:
            names = ", ".join(sorted(kind.__name__ for kind in kinds))
            raise UnsavableTreeError(path=path, reason=f"its keys are of type {names}")
        for key in sorted(mapping):
            yield str(key), mapping[key]
        return
    flatten = cast("Any", jax.tree_util.tree_flatten_with_path)
    for keys, child in flatten(node, is_leaf=lambda child: child is not node)[0]:  # pyright: ignore[reportUnknownLambdaType]
        if keys:
            yield split_path(path_string(keys[:1]))[0], child


def _container_row(node: Any, names: list[str]) -> dict[str, Any] | None:
    """What is written of a container; None for a leaf and for a dict with strings as keys."""
    if node is None:
        return {"kind": "none"}
    if isinstance(node, Mapping):
        first = next(iter(cast("Mapping[Any, Any]", node)), None)
        if first is None:
            return {"kind": "dict"}
        return {"kind": "dict", "keys": "int"} if isinstance(first, int) else None
    kind = cast("Any", type(node))
    made_by = {"module": kind.__module__, "name": kind.__qualname__}
    fields = getattr(kind, "_fields", None)
    if fields is not None and isinstance(node, tuple):
        return {"kind": "namedtuple", **made_by, "fields": list(fields)}
    if kind in (tuple, list):
        return {"kind": kind.__name__, "size": len(names)}
    if jax.tree_util.all_leaves([node]):
        return None
    return {"kind": "dataclass" if dataclasses.is_dataclass(kind) else "node", **made_by, "fields": names}


def _build(level: dict[str, Any], parts: tuple[str, ...], containers: Mapping[str, Mapping[str, Any]]) -> Any:
    built = {
        name: child.leaf if isinstance(child, _Held) else _build(child, (*parts, name), containers)
        for name, child in level.items()
    }
    row = containers.get(join_path(parts), {})
    kind = row.get("kind")
    if kind == "none" and not built:
        return None
    if kind == "dict" and row.get("keys") == "int" and all(_is_integer(name) for name in built):
        return {int(name): child for name, child in built.items()}
    if kind in ("tuple", "list"):
        order = [str(index) for index in range(len(built))]
        if row.get("size") == len(built) and set(order) == set(built):
            children = [built[name] for name in order]
            return tuple(children) if kind == "tuple" else children
    if kind == "namedtuple":
        made = _named_tuple_class(row)
        if made is not None and set(made._fields) == set(built):
            return tuple.__new__(made, [built[name] for name in made._fields])
    return built


def _is_integer(name: str) -> bool:
    digits = name.removeprefix("-")
    return digits.isdecimal() and len(digits) < 20 and str(int(name)) == name


def _named_tuple_class(row: Mapping[str, Any]) -> Any:
    """The class of a named tuple, where it can be had safely and still has the fields that were saved; else None."""
    module, name = row.get("module"), row.get("name")
    if not isinstance(module, str) or not isinstance(name, str):
        return None
    found: Any = sys.modules.get(module)
    parts = module.split(".")
    if found is None and parts[0] in _IMPORTABLE and not any(part.startswith("__") for part in parts):
        try:
            found = importlib.import_module(module)
        except ImportError:
            return None
    for part in name.split("."):
        found = getattr(found, part, None)
    fields = getattr(found, "_fields", None) if isinstance(found, type) and tuple in found.__mro__ else None
    return cast("Any", found) if fields is not None and list(fields) == row.get("fields") else None
