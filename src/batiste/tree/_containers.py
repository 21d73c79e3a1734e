"""Containers of a tree, one level at a time, and how a tree is built again after its leaves moved.

JAX flattens a tree in one stroke. The algebra of this package needs the levels in between: which names the children of
a dict, a tuple or an Optax named tuple have, and how to build that container again once leaves were dropped, added or
moved. ``open_container`` looks into one container, ``walk`` into a whole tree, and ``rebuild`` puts leaves given by
their paths together again.

How ``rebuild`` chooses the container at each path, given the containers of the trees that the leaves came from:

- a tuple, list, named tuple, dataclass or any other container that is not a mapping stays what it was where it has all
  its children again, and is a dict of the same names where it has not;
- a mapping stays of its type with whatever children it has now, and integer keys stay integers;
- children without leaves (``{}``, ``None``, an Optax ``EmptyState``) stay where all their siblings stayed.

So the paths of the leaves are exactly those that were asked for, whatever the containers are.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias, cast

import numpy as np

from batiste.errors import DuplicatePathError, MixedKeysError, PathConflictError
from batiste.tree._lazy import LazyArray
from batiste.tree._leaves import is_jax_array
from batiste.tree._names import Parts, join_path, part_name

__all__ = [
    "Containers",
    "Node",
    "Walk",
    "key_paths",
    "open_container",
    "rebuild",
    "take_apart",
    "walk",
]

_MAX_DIGITS = 19
_PLAIN = frozenset({bool, int, float, complex, str, bytes})  # leaves that are known for such without asking JAX


class Node(NamedTuple):
    """One container and its children.

    Attributes:
      container: the container itself.
      names: the name of each child, as it is written in a path (before escaping).
      children: the children, in JAX's order.
      keys: the mapping's own keys, one a child; empty for what is not a mapping.
    """

    container: Any
    names: tuple[str, ...]
    children: tuple[Any, ...]
    keys: tuple[Hashable, ...] = ()

    @property
    def kind(self) -> type[Any]:
        """The type of the container."""
        return cast("type[Any]", type(self.container))

    @property
    def is_mapping(self) -> bool:
        """Whether the container takes any set of names."""
        return isinstance(self.container, Mapping)

    def bare_children(self) -> dict[str, Any]:
        """Return the children that have no leaves, by name."""
        named = zip(self.names, self.children, strict=True)
        return {name: child for name, child in named if not _is_leaf(child) and not take_apart(child)[0]}

    def without(self, names: Collection[str]) -> Node:
        """Return the node without some of its children, for a mapping that has lost them."""
        kept = [index for index, name in enumerate(self.names) if name not in names]
        return Node(
            self.container,
            tuple(self.names[index] for index in kept),
            tuple(self.children[index] for index in kept),
            tuple(self.keys[index] for index in kept),
        )

    def with_children(self, children: Iterable[Any]) -> Any:
        """Build the container again, with other children of the same names."""
        new = list(children)
        if type(self.container) is dict:
            return dict(zip(self.keys, new, strict=True))

        import jax

        def is_child(node: Any) -> bool:
            return node is not self.container

        structure = cast("Any", jax.tree_util.tree_structure(self.container, is_leaf=is_child))
        return jax.tree_util.tree_unflatten(structure, new)


Containers: TypeAlias = dict[Parts, Node]
"""The containers of a tree by path."""


class Walk(NamedTuple):
    """A tree taken apart: its leaves and its containers by path."""

    leaves: dict[Parts, Any]
    containers: Containers

    def bare(self) -> dict[Parts, Any]:
        """Return the containers without children (``{}``, ``None``, an Optax ``MaskedNode``), as copies."""
        return {parts: node.with_children(()) for parts, node in self.containers.items() if not node.names}


def key_paths(tree: Any, *, one_level: bool = False) -> list[tuple[tuple[Any, ...], Any]]:
    """Return JAX's key path and the leaf of every leaf; with ``one_level``, of every child."""
    import jax

    def is_child(node: Any) -> bool:
        return node is not tree

    return cast("Any", jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_child if one_level else None))[0]


def take_apart(tree: Any) -> tuple[list[Any], Callable[[Iterable[Any]], Any]]:
    """Return the leaves of a tree, and the function that puts other leaves in their places."""
    import jax

    leaves, structure = cast("tuple[list[Any], Any]", jax.tree_util.tree_flatten(tree))
    return leaves, structure.unflatten


def open_container(node: Any, path: Parts = ()) -> Node | None:
    """Return the container with its children, or ``None`` where ``node`` is a leaf.

    Raises:
      MixedKeysError: if a dict has keys without a common order.
      DuplicatePathError: if two children have one name.
    """
    if type(node) is dict:
        found = cast("dict[Any, Any]", node)
        keys = _sorted_keys(found, path)
        return _distinct(Node(found, tuple(map(str, keys)), tuple(found[key] for key in keys), keys), path)
    if _is_leaf(node):
        return None
    if node is None:
        return Node(None, (), ())
    if type(node) in (list, tuple):
        children = tuple(node)
        return Node(node, tuple(map(str, range(len(children)))), children)
    entries = key_paths(node, one_level=True)
    if len(entries) == 1 and not entries[0][0]:
        return None
    names = tuple(part_name(keys[0]) for keys, _ in entries)
    mapping_keys = tuple(getattr(keys[0], "key", part_name(keys[0])) for keys, _ in entries)
    children = tuple(child for _, child in entries)
    return _distinct(Node(node, names, children, mapping_keys if isinstance(node, Mapping) else ()), path)


def walk(tree: Any) -> Walk:
    """Take a tree apart into its leaves and its containers, both by path and in JAX's order."""
    found = Walk({}, {})
    for parts, node, leaf in _visit(tree, ()):
        if node is None:
            found.leaves[parts] = leaf
        else:
            found.containers[parts] = node
    return found


def rebuild(leaves: Mapping[Parts, Any], *sources: Containers) -> Any:
    """Put leaves together again, with the kinds of container that the sources have at the same paths.

    Args:
      leaves: the leaves by path.
      *sources: containers by path; the first that fits is taken.

    Returns:
      The tree. No container of the sources is part of it: all are built anew.

    Raises:
      PathConflictError: if a path is both a leaf and a container.
    """
    if () in leaves and len(leaves) == 1:
        return leaves[()]
    root: dict[str, Any] = {}
    conflicts: list[str] = []
    for parts, leaf in leaves.items():
        level: Any = root
        for part in parts[:-1]:
            level = cast("dict[str, Any]", level).setdefault(part, {})
            if isinstance(level, _Held):
                break
        if not parts or isinstance(level, _Held) or parts[-1] in level:
            conflicts.append(join_path(parts))
        else:
            level[parts[-1]] = _Held(leaf)
    if conflicts:
        raise PathConflictError(lines="\n".join(f"  {path}" for path in conflicts))
    return _build(root, (), sources)


class _Held(NamedTuple):
    """A leaf in the table of levels, so that a leaf that is itself a dict cannot be taken for a level."""

    leaf: Any


def _is_leaf(node: Any) -> bool:
    """Whether a node is a leaf for sure; others are for JAX to say."""
    return type(node) in _PLAIN or isinstance(node, np.ndarray | LazyArray) or is_jax_array(node)


def _visit(node: Any, path: Parts) -> Iterator[tuple[Parts, Node | None, Any]]:
    opened = open_container(node, path)
    if opened is None:
        yield path, None, node
        return
    yield path, opened, None
    for name, child in zip(opened.names, opened.children, strict=True):
        yield from _visit(child, (*path, name))


def _sorted_keys(node: dict[Any, Any], path: Parts) -> tuple[Any, ...]:
    try:
        return tuple(sorted(node))
    except TypeError:
        kinds = ", ".join(sorted({type(key).__name__ for key in node}))
        raise MixedKeysError(path=join_path(path), kinds=kinds) from None


def _distinct(node: Node, path: Parts) -> Node:
    """The same node, if no two children have one name."""
    if len(set(node.names)) < len(node.names):
        twice = next(name for name in node.names if node.names.count(name) > 1)
        raise DuplicatePathError(path=join_path((*path, twice)))
    return node


def _build(level: dict[str, Any], path: Parts, sources: tuple[Containers, ...]) -> Any:
    built = {
        name: child.leaf if isinstance(child, _Held) else _build(child, (*path, name), sources)
        for name, child in level.items()
    }
    candidates = [source[path] for source in sources if path in source]
    for node in candidates:
        children = None if node.is_mapping else _all_children(node, built)
        if children is not None:
            return node.with_children(children)
    mappings = [node for node in candidates if node.is_mapping]
    for node in mappings:
        bare = node.bare_children()
        if all(name in built for name in node.names if name not in bare):
            built = {**{name: _copied(child) for name, child in bare.items()}, **built}
    return _mapping_like(mappings[0], built) if mappings else built


def _all_children(node: Node, built: dict[str, Any]) -> list[Any] | None:
    """The children of a container that has all of them again; ``None`` where it has not."""
    whole = {**{name: _copied(child) for name, child in node.bare_children().items()}, **built}
    return [whole[name] for name in node.names] if set(whole) == set(node.names) else None


def _copied(node: Any) -> Any:
    """The same tree in containers of its own."""
    leaves, put_together = take_apart(node)
    return put_together(leaves)


def _mapping_like(node: Node, built: dict[str, Any]) -> Any:
    """A mapping of the same type with these children."""
    if set(built) == set(node.names):
        return node.with_children(built[name] for name in node.names)
    known = dict(zip(node.names, node.keys, strict=True))
    whole = bool(known) and all(type(key) is int for key in node.keys)
    keyed = {known.get(name, int(name) if whole and _is_integer(name) else name): built[name] for name in built}
    if len({type(key) for key in keyed}) > 1:
        keyed = dict(built)
    container = node.container
    if type(container) is dict:
        return keyed
    if isinstance(container, collections.defaultdict):
        return collections.defaultdict(cast("Any", container).default_factory, keyed)
    try:
        return type(container)(keyed)
    except TypeError:  # a mapping whose constructor takes something else: a plain dict has the same paths
        return keyed


def _is_integer(name: str) -> bool:
    return name.isdecimal() and len(name) < _MAX_DIGITS and str(int(name)) == name
