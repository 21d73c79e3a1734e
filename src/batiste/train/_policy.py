"""Mixed precision as data: in which dtype parameters are kept, the model computes, and its results come out.

A policy is a text, ``"params=float32,compute=bfloat16"``. The parameters of the state stay as they are, and so do their
gradients; what the model is called with, parameters and floating inputs, is cast to the dtype of ``compute``, and what
it returns to that of ``output``. Statistics and other collections keep the dtype in which they are held.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from batiste._arguments import dtype_name, refused
from batiste.errors import PolicyError, nearest
from batiste.tree import flatten

__all__ = ["AS_IT_IS", "Policy", "cast_floating", "parse_policy"]

_PARTS = ("params", "compute", "output")
_EXPECTED = 'parts such as "params=float32,compute=bfloat16"'


class Policy(NamedTuple):
    """What each part is in; None leaves it as it is.

    Attributes:
      params: of the parameters in the state, which is only looked at.
      compute: of what the model is called with.
      output: of what it returns; where not given, float32 with a ``compute``.
    """

    params: str | None = None
    compute: str | None = None
    output: str | None = None

    def check(self, params: Any) -> None:
        """Refuse parameters that are held in another dtype.

        Raises:
          PolicyError: a floating parameter is.
        """
        if self.params is None:
            return
        wanted = jnp.dtype(self.params)
        for path, leaf in flatten(params).items():
            dtype = getattr(leaf, "dtype", None)
            if dtype is not None and _is_real(dtype) and dtype != wanted:
                raise PolicyError(path=path, dtype=dtype, wanted=wanted.name)


AS_IT_IS: Final = Policy()
"""The policy that changes nothing."""


def parse_policy(text: Any) -> Policy:
    """Return the policy of a text; None is the one that changes nothing.

    Raises:
      ArgumentError: it is no such text, or a dtype is none.
    """
    if text is None or isinstance(text, Policy):
        return text or AS_IT_IS
    if not isinstance(text, str):
        raise refused(text, "policy", "make_step", _EXPECTED)
    parts: dict[str, str] = {}
    for entry in text.split(","):
        name, sign, dtype = (part.strip() for part in entry.partition("="))
        if name not in _PARTS or not sign or name in parts:
            near = nearest(name, _PARTS).strip()
            advice = near or f"Write {_EXPECTED}, each part once, of {', '.join(_PARTS)}."
            raise refused(text, "policy", "make_step", _EXPECTED, advice)
        parts[name] = dtype_name(dtype, "policy", "make_step", inexact=True).name
    if "compute" in parts:
        parts.setdefault("output", "float32")
    return Policy(**parts)


def cast_floating(tree: Any, dtype: str | None) -> Any:
    """Return a tree with its real floating arrays in a dtype; None leaves it as it is."""
    if dtype is None:
        return tree
    target = jnp.dtype(dtype)

    def converted(leaf: Any) -> Any:
        return leaf.astype(target) if _is_floating(leaf) and leaf.dtype != target else leaf

    return cast("Any", jax.tree).map(converted, tree)


def _is_floating(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray | np.generic) and _is_real(leaf.dtype)


def _is_real(dtype: Any) -> bool:
    return jnp.issubdtype(dtype, jnp.floating)
