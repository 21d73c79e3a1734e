"""How a path is written.

A path is the names of the levels from the root to a leaf, with slashes between: ``params/encoder/h_0/attn/kernel``. A
name is a dict's key, the position in a tuple or list, the field of a named tuple or dataclass, or whatever key a
registered container gives. Integer keys are written in decimal: ``0/mu/layers/3/kernel``.

Names that hold a slash are escaped as in JSON Pointer (RFC 6901): ``~1`` is a slash and ``~0`` a tilde, so that
``{"a/b": x}`` has the path ``a~1b``. An empty name is written as a lone ``~``; the empty path is the root itself, which
is the path of a tree that is one leaf. Every sequence of names has exactly one path and the other way round.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

from batiste._arguments import text

__all__ = ["Parts", "join_path", "part_name", "path_string", "split_path"]

Parts: TypeAlias = tuple[str, ...]
"""A path taken apart into the names of its levels."""


def join_path(parts: Iterable[str]) -> str:
    """Return the path with these names for its levels; the inverse of ``split_path``.

    Raises:
      ArgumentError: if a name is no text.

    Example:
      >>> from batiste import tree
      >>> tree.join_path(["params", "a/b"])
      'params/a~1b'
    """
    names = tuple(parts)
    try:
        return "/".join(name.replace("~", "~0").replace("/", "~1") or "~" for name in names)
    except (AttributeError, TypeError):
        for name in names:
            text(name, "parts", "join_path", what="names", empty=True)
        raise


def split_path(path: str) -> tuple[str, ...]:
    """Return the names of the levels of a path; the inverse of ``join_path``.

    Raises:
      ArgumentError: if it is no text.

    Example:
      >>> from batiste import tree
      >>> tree.split_path("params/Dense_0/kernel")
      ('params', 'Dense_0', 'kernel')
    """
    if text(path, "path", "split_path", what="a path", empty=True) == "":
        return ()
    parts = path.split("/")
    return tuple("" if part == "~" else part.replace("~1", "/").replace("~0", "~") for part in parts)


def path_string(key_path: Iterable[Any]) -> str:
    """Return the path that a JAX key path stands for, as ``jax.tree_util.tree_flatten_with_path`` gives them.

    Example:
      >>> import jax
      >>> from batiste import tree
      >>> leaves, _ = jax.tree_util.tree_flatten_with_path({"a": [1]})
      >>> tree.path_string(leaves[0][0])
      'a/0'
    """
    return join_path(part_name(key) for key in key_path)


def part_name(key: Any) -> str:
    """Return the name of one entry of a JAX key path: a dict's key, a sequence's index, a field's name."""
    for attribute in ("key", "idx", "name"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)
