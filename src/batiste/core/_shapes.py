"""The shape check of ``apply``: a parameter has the shape that its initialiser would make.

The initialiser itself is not run for it. Those of ``batiste.nn.initializers`` say that they make what they are asked
for (``honours_shape``); any other is traced once per distinct (initialiser, arguments), and remembered where its value
is known for good.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from batiste.core._boxes import is_axis_metadata, unbox
from batiste.core._fingerprint import kept
from batiste.core._frame import Frame, HasEffects
from batiste.core._init_call import InitCall
from batiste.errors import ScopeParamShapeError

__all__ = ["check_shape"]


def check_shape(
    frame: Frame,
    value: Any,
    init_fn: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    name: str,
    path: tuple[str, ...],
) -> None:
    """Raise ``ScopeParamShapeError`` unless ``value`` has the shape that ``init_fn`` makes of these arguments."""
    if args and not kwargs and getattr(init_fn, "honours_shape", False):
        shape: Any = args[0]
        given = getattr(value, "shape", None)
        if given is None:
            given = jnp.shape(unbox(value))
        if isinstance(shape, tuple) and given == shape:
            return
        expected: tuple[Any, ...] = (args[0],) if np.ndim(args[0]) == 0 else tuple(args[0])
        if tuple(given) == expected:
            return
        raise ScopeParamShapeError(name=name, path="/" + "/".join(path), given=tuple(given), expected=expected)
    frame.is_noting = True
    try:
        shapes = _shapes(InitCall(init_fn, args, kwargs))
    except HasEffects:  # it draws keys itself, which this call need not have
        return
    finally:
        frame.is_noting = False
    leaves = [unbox(leaf) for leaf in jax.tree.leaves(value, is_leaf=is_axis_metadata)]
    for leaf, expected in zip(leaves, shapes, strict=False):
        given = jnp.shape(leaf)
        if given != expected:
            raise ScopeParamShapeError(name=name, path="/" + "/".join(path), given=given, expected=expected)


@kept(maxsize=1024)
def _shapes(call: InitCall) -> tuple[tuple[int, ...], ...]:
    made = jax.eval_shape(lambda: call(jax.random.key(0)))
    return tuple(leaf.shape for leaf in jax.tree.leaves(unbox(made)))
