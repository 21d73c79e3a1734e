"""The page of a tree of arrays in memory."""

from __future__ import annotations

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from batiste.core import is_tracer, nbytes, unbox
from batiste.tree import Patterns, flatten
from batiste.view._page import Page
from batiste.view._state import DEFAULT_BUDGET, Budget, Leaf, budget_of, bytes_text, columns, wanted

__all__ = ["tree"]


def tree(tree: Any, *, diff: Any = None, stats: Budget = DEFAULT_BUDGET, spectra: Patterns = ()) -> Page:
    """Return the page of variables, of a train state, or of any other pytree of arrays.

    Args:
      tree: the tree; lazy arrays and shapes (``jax.ShapeDtypeStruct``) may be leaves too.
      diff: another one, with which it is compared.
      stats: how many bytes of leaves are looked into, as for ``checkpoint``; arrays in other processes are not.
      spectra: globs over the paths of matrices whose singular values are computed.

    Raises:
      ArgumentError: an argument is none of these.
      UnmatchedPatternError: a pattern of ``spectra`` matches no path.

    Example:
      >>> import numpy as np
      >>> from batiste import view
      >>> page = view.tree({"params": {"kernel": np.ones((2, 3), np.float32)}})
      >>> page.data["leaves"]["stats"]["0"]
      [1.0, 0.0, 1.0, 1.0, 0, 0]
    """
    budget = budget_of(stats, "view.tree")
    leaves = _leaves(tree)
    made = columns(leaves, budget, wanted(spectra, list(leaves)), None if diff is None else _leaves(diff))
    name = type(tree).__name__
    facts = [f"{len(leaves):,} leaves", bytes_text(sum(leaf.bytes for leaf in leaves.values()))]
    data: dict[str, Any] = {"title": name, "facts": facts, "leaves": made, "tables": []}
    if diff is not None:
        data["compared"] = {"path": type(diff).__name__, "facts": []}
    return Page(name, data)


def _leaves(tree: Any) -> dict[str, Leaf]:
    found: dict[str, Leaf] = {}
    for path, leaf in flatten(unbox(tree)).items():
        shape, dtype = getattr(leaf, "shape", None), getattr(leaf, "dtype", None)
        if shape is None or dtype is None:
            found[path] = Leaf(type(leaf).__name__, None, type(leaf).__name__, 0, value=repr(leaf)[:200])
            continue
        extents = tuple(map(int, shape))
        words = f"{dtype}[{','.join(map(str, extents))}]"
        found[path] = Leaf(words, extents, str(dtype), nbytes(leaf), _reader(leaf), (), _sharding(leaf))
    return found


def _reader(leaf: Any) -> Any:
    """Return what reads a leaf as an array of NumPy; None where it has no numbers, or lies elsewhere."""
    if isinstance(leaf, jax.ShapeDtypeStruct) or jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
        return None
    if isinstance(leaf, jax.Array) and (is_tracer(leaf) or not leaf.is_fully_addressable):
        return None
    return lambda: np.asarray(leaf)


def _sharding(leaf: Any) -> str:
    """Return in words how an array lies on a mesh."""
    sharding = getattr(leaf, "sharding", None)
    if not isinstance(sharding, jax.sharding.NamedSharding):
        return ""
    spec: Any = sharding.spec
    axes = [
        "-" if part is None else "+".join(cast("tuple[str, ...]", part)) if isinstance(part, tuple) else str(part)
        for part in spec
    ]
    mesh = ", ".join(f"{axis}={size}" for axis, size in sharding.mesh.shape.items())
    return f"({', '.join(axes)}) on {mesh}"
