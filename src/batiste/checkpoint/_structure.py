"""The containers of a tree, written down so that they come back without the program that made them.

Only what differs from a dict with strings as keys is written: ``{"opt_state": {"kind": "tuple", "size": 2},
"opt_state/0": {"kind": "namedtuple", "module": "optax", "name": "ScaleByAdamState", "fields": [...]}}``. Kinds are
``dict`` (empty, or with integers as keys), ``mapping`` (an ordered dict, a default dict or a frozen one, with its keys
in their order), ``list``, ``tuple``, ``namedtuple``, ``dataclass``, ``none`` and ``node`` (any other registered
container). Lists, tuples, mappings, integer keys and ``None`` come back as they were. A named tuple comes back as its
class where that class can be had safely; a dataclass or another node comes back as a dict of its fields, because making
one would mean to run its code: restore into a target for these. A default dict whose default is no built-in type cannot
be written down, and what JAX takes for no container is none here.

A file names classes, and files come from strangers. So a class is taken only from a module that the program has already
imported, or from one of Optax, JAX or batiste; it must be a named tuple with the very fields that were saved, which is
filled without calling its constructor, or one of the mappings that are known here. Anything else is a dict.

A *box* (an array in a wrapper that names its axes, as ``nn.with_partitioning`` makes them) is not a level: the array
has the box's own path, and the names are kept beside it.
"""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final, cast

import numpy as np

from batiste.checkpoint._arrays import is_jax_array
from batiste.checkpoint._manifest import MAX_DEPTH
from batiste.errors import UnsavableTreeError
from batiste.tree import LazyArray, join_path, path_string, split_path

__all__ = [
    "Described",
    "box_names",
    "children_of",
    "containers_of",
    "describe",
    "fields_of",
    "is_box",
    "is_flat",
    "is_leaf",
    "is_mapping",
    "is_text",
    "rebuild",
    "stored_in",
]

_IMPORTABLE: Final = ("optax", "jax", "batiste")
_FROZEN: Final = (("batiste.compat.flax.core.frozen_dict", "FrozenDict"), ("flax.core.frozen_dict", "FrozenDict"))
_FACTORIES: Final[Mapping[str, Any]] = MappingProxyType(
    {
        kind.__name__: kind
        for kind in (bool, int, float, complex, str, bytes, list, tuple, dict, set, frozenset, OrderedDict)
    }
)
_MOST_KEY: Final = 10**19
_LEAVES: Final = (np.ndarray, np.generic, LazyArray, bool, int, float, complex, str, bytes)


@dataclasses.dataclass(slots=True)
class Described:
    """A tree taken apart: leaves, containers and the logical names of axes, all by path."""

    leaves: dict[str, Any]
    containers: dict[str, dict[str, Any]]
    axes: dict[str, list[str | None]]


def is_box(node: Any) -> bool:
    """Return whether a node is an array in a wrapper that says something about it."""
    return hasattr(node, "unbox") and hasattr(node, "replace_boxed")


def stored_in(node: Any) -> Any:
    """Return what is in a box as it is stored; as ``batiste.core`` has it, which loads JAX."""
    return node.value if hasattr(node, "value") else node.unbox()


def box_names(node: Any) -> list[str | None] | None:
    """Return the logical names of the axes that a box gives, or None where it gives none."""
    names = getattr(node, "names", None)
    if not isinstance(names, tuple):
        return None
    known = cast("tuple[Any, ...]", names)
    return list(known) if all(name is None or isinstance(name, str) for name in known) else None


def is_leaf(node: Any) -> bool:
    """Return whether a node is a leaf: an array, a plain value, or anything that JAX takes for no container."""
    if isinstance(node, _LEAVES) or is_jax_array(node):
        return True
    if node is None or type(node) is dict:
        return False
    import jax

    return bool(jax.tree_util.all_leaves([node]))


def describe(tree: Any) -> Described:
    """Take a tree apart.

    Raises:
      UnsavableTreeError: if a container has keys that cannot be written down.
    """
    found = Described({}, {}, {})
    _describe(tree, (), found)
    for path in (*found.leaves, *found.containers):
        if not path.isascii() and not is_text(path):
            raise UnsavableTreeError(path=ascii(path), reason="a name has a character that is no text (a surrogate)")
    return found


def is_text(value: str) -> bool:
    """Return whether a string can be written down: one with half of a character cannot."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def rebuild(values: Mapping[str, Any], containers: Mapping[str, Mapping[str, Any]]) -> Any:
    """Put a tree together again from its leaves (none of them a dict) and its containers, both by path.

    Where the path of a leaf is also that of a level, as other programs may have it, the tree is one dict with the paths
    as its keys.
    """
    if "" in values:
        return values[""]
    if is_flat(values):
        return dict(values)
    levels: dict[str, dict[str, Any]] = {"": {}}
    for path, leaf in values.items():
        above, _, name = path.rpartition("/")
        level = levels.get(above)
        if level is None:
            level = _level(levels, above)
        level[_plain_name(name) if "~" in name else name] = leaf
    for path in containers:
        if path not in values:
            _level(levels, path)
    for path in sorted(containers, key=lambda path: -path.count("/") if path else 1):  # from the leaves to the root
        above, _, name = path.rpartition("/")
        if path and path not in values:
            levels[above][_plain_name(name)] = _contained(levels[path], containers[path])
    return _contained(levels[""], containers.get("", {}))


def is_flat(paths: Mapping[str, Any]) -> bool:
    """Return whether the path of a leaf is also that of a level, so that the leaves have names and make no tree."""
    seen: set[str] = set()
    for path in paths:
        above = path.rpartition("/")[0]
        while above and above not in seen:
            seen.add(above)
            above = above.rpartition("/")[0]
    return not seen.isdisjoint(paths)


def _level(levels: dict[str, dict[str, Any]], path: str) -> dict[str, Any]:
    """The table of a level, made with all above it where it is not there yet."""
    level = levels.get(path)
    if level is None:
        above, _, name = path.rpartition("/")
        parent = levels.get(above)
        if parent is None:
            parent = _level(levels, above)
        level = levels[path] = parent[_plain_name(name) if "~" in name else name] = {}
    return level


def _plain_name(name: str) -> str:
    """The name of one level, out of a path."""
    return split_path(name)[0] if "~" in name else name


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
    children: Any = row.get("size", row.get("fields", row.get("keys")))
    return row["kind"] == "none" or children in (0, []) or row == {"kind": "dict"}


def _describe(node: Any, parts: tuple[str, ...], found: Described) -> None:
    path = join_path(parts)
    if len(parts) > MAX_DEPTH:
        raise UnsavableTreeError(path=f"{path[:40]}...", reason=f"it is more than {MAX_DEPTH} levels deep")
    if isinstance(node, _LEAVES) or is_jax_array(node):
        found.leaves[path] = node
        return
    if is_box(node):
        names = box_names(node)
        if names is not None:
            found.axes[path] = names
        node = stored_in(node)
    keys = _keys(node, path)
    children = list(children_of(node))
    row = _container_row(node, [name for name, _ in children], keys, path)
    if row is not None:
        found.containers[path] = row
    elif type(node) is not dict:
        found.leaves[path] = node
        return
    names = [name for name, _ in children]
    if len(set(names)) < len(names):
        raise UnsavableTreeError(path=path, reason="two of its children have the same name")
    for name, child in children:
        _describe(child, (*parts, name), found)


def children_of(node: Any) -> Iterator[tuple[str, Any]]:
    """Return the children of a container with their names, in JAX's order; none for a leaf."""
    if type(node) is dict:
        level = cast("dict[Any, Any]", node)
        yield from ((str(key), level[key]) for key in sorted(level))
        return
    for keys, child in _one_level(node):
        if keys:
            yield split_path(path_string(keys[:1]))[0], child


def _one_level(node: Any) -> list[tuple[tuple[Any, ...], Any]]:
    """JAX's key path and the child for every child; an empty path and the node itself for a leaf."""
    import jax

    flatten = cast("Any", jax.tree_util.tree_flatten_with_path)
    return flatten(node, is_leaf=lambda child: child is not node)[0]  # pyright: ignore[reportUnknownLambdaType]


def _keys(node: Any, path: str) -> list[Any] | None:
    """The keys of a mapping that is known here, in JAX's order; None for anything else.

    Raises:
      UnsavableTreeError: if there are keys that cannot be written down.
    """
    if not is_mapping(node):
        return None
    kind = cast("type[Any]", type(node))
    keys: list[Any] = [keys[0].key for keys, _ in _one_level(node) if keys] if _is_frozen(kind) else list(node)
    kinds = {cast("type[Any]", type(key)) for key in keys}
    if not kinds <= {str} and not kinds <= {int} and not (kinds <= {str, int} and kind is OrderedDict):
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise UnsavableTreeError(path=path, reason=f"its keys are of type {names}")
    if int in kinds and any(type(key) is int and not -_MOST_KEY < key < _MOST_KEY for key in keys):
        raise UnsavableTreeError(path=path, reason="a key of it is an integer of more than 19 digits")
    return keys if kind is OrderedDict else sorted(keys)


def is_mapping(node: Any) -> bool:
    """Return whether a node is a dict or another mapping that is known here."""
    kind = cast("type[Any]", type(node))
    return kind in (dict, OrderedDict, defaultdict) or _is_frozen(kind)


def _is_frozen(kind: Any) -> bool:
    return (kind.__module__, kind.__qualname__) in _FROZEN


def _container_row(node: Any, names: list[str], keys: list[Any] | None, path: str) -> dict[str, Any] | None:
    """What is written of a container; None for a leaf and for a dict with strings as keys.

    Raises:
      UnsavableTreeError: if a default dict has a default that cannot be written down.
    """
    if node is None:
        return {"kind": "none"}
    kind = cast("Any", type(node))
    if kind is dict:
        if not keys:
            return {"kind": "dict"}
        return {"kind": "dict", "keys": "int"} if type(keys[0]) is int else None
    made_by = {"module": kind.__module__, "name": kind.__qualname__}
    if keys is not None:
        return {"kind": "mapping", **made_by, "keys": keys, **_default(node, path)}
    fields = getattr(kind, "_fields", None)
    if fields is not None and isinstance(node, tuple):
        return {"kind": "namedtuple", **made_by, "fields": list(fields)}
    if kind in (tuple, list):
        return {"kind": kind.__name__, "size": len(names)}
    if is_leaf(node):
        return None
    return {"kind": "dataclass" if dataclasses.is_dataclass(kind) else "node", **made_by, "fields": names}


def _default(node: Any, path: str) -> dict[str, str]:
    """The default of a default dict, by name."""
    factory = node.default_factory if type(node) is defaultdict else None
    if factory is None:
        return {}
    name = getattr(factory, "__name__", "")
    if _FACTORIES.get(name) is not factory:
        reason = f"it is a default dict, and its default, {name or type(factory).__name__}, is no built-in type"
        raise UnsavableTreeError(path=path, reason=reason)
    return {"default": name}


def _contained(built: dict[str, Any], row: Mapping[str, Any]) -> Any:
    """The children of a level in the container that the level was."""
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
    return _mapping(built, row) if kind == "mapping" else built


def _mapping(built: dict[str, Any], row: Mapping[str, Any]) -> Any:
    """The children of a level in the mapping that the level was, with those of its keys that are there."""
    keys: Any = row.get("keys")
    if type(keys) is not list or not all(type(key) in (str, int) for key in cast("list[Any]", keys)):
        return built
    names: dict[str, Any] = {str(key): key for key in cast("list[Any]", keys)}
    if not names.keys() >= built.keys():
        return built
    found = {key: built[name] for name, key in names.items() if name in built}
    made_by = (row.get("module"), row.get("name"))
    if made_by == ("collections", "OrderedDict"):
        return OrderedDict(found)
    if made_by == ("collections", "defaultdict"):
        return defaultdict(_FACTORIES.get(str(row.get("default"))), found)
    frozen: Any = _class_of(row) if made_by in _FROZEN else None
    if frozen is None:
        return found
    import jax

    structure = cast("Any", jax.tree_util.tree_structure(frozen(dict.fromkeys(found, 0))))
    return jax.tree_util.tree_unflatten(structure, found.values())


def _is_integer(name: str) -> bool:
    digits = name.removeprefix("-")
    return digits.isdecimal() and len(digits) < 20 and str(int(name)) == name


def _named_tuple_class(row: Mapping[str, Any]) -> Any:
    """The class of a named tuple, where it can be had safely and still has the fields that were saved; else None."""
    found = _class_of(row)
    fields = _tuple_fields(found)
    return found if fields is not None and fields == row.get("fields") else None


def fields_of(module: str, name: str) -> list[str] | None:
    """Return the fields of a class of named tuples, where it can be had safely; else None."""
    return _tuple_fields(_class_of({"module": module, "name": name}))


def _tuple_fields(kind: Any) -> list[str] | None:
    """The fields of a class of named tuples; None for anything else."""
    fields: Any = getattr(kind, "_fields", None) if isinstance(kind, type) and tuple in kind.__mro__ else None
    return [str(field) for field in cast("tuple[Any, ...]", fields)] if isinstance(fields, tuple) else None


def _class_of(row: Mapping[str, Any]) -> Any:
    """What a container says that it was, where that can be had without running anything; else None."""
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
    return found
