"""How many numbers a tree holds, and how many bytes.

``count`` and ``bytes`` are totals, of the whole tree or of what matches; ``totals`` has a row for each prefix. Shapes
suffice: abstract and lazy arrays are counted without being read.

Elements are those of the shape, of random keys the keys; bytes are those in NumPy's and JAX's memory, where an element
of ``int4`` has a byte of its own, as has one of ``float8``. Counts are integers of Python and do not wrap.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from batiste._arguments import whole_number
from batiste.errors import TreeValueError
from batiste.tree._leaves import check_arrays, nbytes_of, shape_of
from batiste.tree._paths import flatten
from batiste.tree._patterns import Patterns, as_patterns

__all__ = ["Total", "bytes", "count", "totals"]


@dataclasses.dataclass(frozen=True, slots=True)
class Total:
    """How much is beneath one prefix.

    Attributes:
      leaves: the number of arrays.
      count: the number of elements in them.
      bytes: the number of bytes of these elements.

    Example:
      >>> import numpy as np
      >>> from batiste import tree
      >>> params = {"up": {"kernel": np.ones((2, 3), np.float32)}}
      >>> tree.totals(params)["up"]
      Total(leaves=1, count=6, bytes=24)
    """

    leaves: int
    count: int
    bytes: int


def count(tree: Any, patterns: Patterns | None = None) -> int:
    """Return the number of elements in the leaves, or in those that match one of the patterns, which may be none.

    Raises:
      NotAnArrayError: if a leaf is not an array; the error lists all.

    Example:
      >>> import numpy as np
      >>> from batiste import tree
      >>> params = {"kernel": np.ones((2, 3)), "bias": np.ones(3)}
      >>> tree.count(params), tree.count(params, "kernel")
      (9, 6)
    """
    return _total(_chosen(tree, patterns)).count


def bytes(tree: Any, patterns: Patterns | None = None) -> int:  # noqa: A001 - `tree.bytes` beside `tree.count`
    """Return the number of bytes of the leaves, or of those that match one of the patterns, which may be none.

    Raises:
      NotAnArrayError: if a leaf is not an array; the error lists all.

    Example:
      >>> import numpy as np
      >>> from batiste import tree
      >>> params = {"kernel": np.float32([[1, 2]]), "bias": np.float32([1, 2])}
      >>> tree.bytes(params), tree.bytes(params, "kernel")
      (16, 8)
    """
    return _total(_chosen(tree, patterns)).bytes


def totals(tree: Any, depth: int = 1, patterns: Patterns | None = None) -> dict[str, Total]:
    """Return a total for each prefix of ``depth`` levels, in JAX's order.

    Args:
      tree: any pytree of arrays.
      depth: how many levels a prefix has; a leaf with fewer is a row of its own. 0 is the whole tree.
      patterns: count only the leaves that match one of these.

    Raises:
      NotAnArrayError: if a leaf is not an array; the error lists all.
      TreeValueError: if ``depth`` is negative.

    Example:
      >>> import numpy as np
      >>> from batiste import tree
      >>> params = {"up": {"w": np.ones((2, 3))}, "down": {"w": np.ones((3, 2))}}
      >>> {name: total.count for name, total in tree.totals(params).items()}
      {'down': 6, 'up': 6}
    """
    depth = whole_number(depth, "depth", "totals", low=None)
    if depth < 0:
        raise TreeValueError(argument="depth", value=depth, reason="there is no such level", cure="Levels begin at 0.")
    groups: dict[str, dict[str, Any]] = {}
    for path, leaf in _chosen(tree, patterns).items():
        prefix = "/".join(path.split("/")[:depth])
        groups.setdefault(prefix, {})[path] = leaf
    return {prefix: _total(leaves) for prefix, leaves in groups.items()}


def _chosen(tree: Any, patterns: Patterns | None) -> dict[str, Any]:
    leaves = flatten(tree)
    if patterns is not None:
        compiled = as_patterns(patterns)
        leaves = {path: leaf for path, leaf in leaves.items() if any(pattern.matches(path) for pattern in compiled)}
    check_arrays(leaves, "counting")
    return leaves


def _total(leaves: dict[str, Any]) -> Total:
    elements = sum(math.prod(shape_of(leaf)) for leaf in leaves.values())
    return Total(len(leaves), elements, sum(nbytes_of(leaf) for leaf in leaves.values()))
