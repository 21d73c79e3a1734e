"""Initialisation that needs no values of inputs: ``flax.core.partial_eval``.

How much of a function can be computed without the values of its inputs is worked out in ``_partial_eval.py``, one
folder up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import jax

from batiste.compat.flax._partial_eval import partial_eval
from batiste.errors import LazyInitError

__all__ = ["lazy_init"]


def lazy_init(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that takes ``jax.ShapeDtypeStruct`` where the value of an input does not matter.

    Args:
      fn: a function whose outputs do not depend on the values of such inputs.

    Returns:
      The function. It raises ``LazyInitError`` where an output does depend on one of them.
    """

    def lazy(*args: Any, **kwargs: Any) -> Any:
        outputs = partial_eval(fn, *args, **kwargs)
        leaves = cast("list[tuple[Any, Any]]", jax.tree_util.tree_leaves_with_path(outputs))
        for path, leaf in leaves:
            if isinstance(leaf, jax.ShapeDtypeStruct):
                where = jax.tree_util.keystr(path) or "The output"
                raise LazyInitError(path=where, reason="its value depends on an input of which only the shape is given")
        return outputs

    return lazy
