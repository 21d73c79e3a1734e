"""A tree as a table of its leaves by path, and back.

``flatten`` gives the table, ``unflatten`` the tree, and ``get`` what lies at one path. How a path is written is decided
in ``_names.py``, which leaves a pattern names in ``_patterns.py``, and how containers are built again in
``_containers.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batiste._arguments import mapping, text
from batiste.errors import DuplicatePathError, PathNotFoundError, nearest
from batiste.tree._containers import key_paths, open_container, rebuild, walk
from batiste.tree._names import path_string, split_path

__all__ = ["flatten", "get", "items", "unflatten"]

_ABSENT = object()


def items(tree: Any) -> list[tuple[str, Any]]:
    """Return the path and the leaf of every leaf, in JAX's order.

    Raises:
      DuplicatePathError: if two leaves have one path.
      MixedKeysError: if a dict has keys without a common order.

    Example:
      >>> from batiste import tree
      >>> list(tree.items({"a": {"b": 1}, "c": [2, 3]}))
      [('a/b', 1), ('c/0', 2), ('c/1', 3)]
    """
    return list(flatten(tree).items())


def flatten(tree: Any) -> dict[str, Any]:
    """Return the leaves of a tree by path, in JAX's order.

    Raises:
      DuplicatePathError: if two leaves have one path.
      MixedKeysError: if a dict has keys without a common order.

    Example:
      >>> from batiste import tree
      >>> tree.flatten({"a": {"b": 1}, "c": [2, 3]})
      {'a/b': 1, 'c/0': 2, 'c/1': 3}
    """
    try:
        entries = key_paths(tree)
    except ValueError:
        walk(tree)  # says which dict has keys without an order
        raise
    found: dict[str, Any] = {}
    for key_path, leaf in entries:
        path = path_string(key_path)
        if path in found:
            raise DuplicatePathError(path=path)
        found[path] = leaf
    return found


def unflatten(leaves: Mapping[str, Any], *, like: Any = None) -> Any:
    """Return the tree with these leaves: nested dicts, or the containers of ``like`` where it has them.

    Args:
      leaves: the leaves by path.
      like: a tree whose containers are taken where they fit: integer keys, tuples, named tuples, other mappings.

    Raises:
      ArgumentError: if ``leaves`` is no mapping from paths to leaves.
      PathConflictError: if a leaf has other leaves beneath it.

    Example:
      >>> from batiste import tree
      >>> tree.unflatten({"a/b": 1, "c/0": 2})
      {'a': {'b': 1}, 'c': {'0': 2}}
      >>> tree.unflatten({"a/b": 1, "c/0": 2}, like={"a": {"b": 0}, "c": [0]})
      {'a': {'b': 1}, 'c': [2]}
    """
    mapping(leaves, "leaves", "unflatten", what="a mapping from paths to leaves")
    sources = [] if like is None else [walk(like).containers]
    return rebuild({split_path(path): leaf for path, leaf in leaves.items()}, *sources)


def get(tree: Any, path: str, *, default: Any = _ABSENT) -> Any:
    """Return the leaf or the subtree at a path.

    Args:
      tree: any pytree.
      path: the path; the empty path is the whole tree.
      default: returned where there is nothing at that path.

    Raises:
      ArgumentError: if the path is no text.
      PathNotFoundError: if there is nothing at that path and no default.

    Example:
      >>> from batiste import tree
      >>> params = {"up": {"kernel": 1, "bias": 2}}
      >>> tree.get(params, "up/kernel"), tree.get(params, "down", default=None)
      (1, None)
    """
    text(path, "path", "get", what="a path", empty=True)
    node = tree
    done: list[str] = []
    for part in split_path(path):
        opened = open_container(node, tuple(done))
        if opened is None or part not in opened.names:
            if default is not _ABSENT:
                return default
            raise PathNotFoundError(path=path, near=nearest(path, flatten(tree)))
        node = opened.children[opened.names.index(part)]
        done.append(part)
    return node
