"""The page of a blueprint: what variables it has and what its modules cost, before any array exists."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from batiste.diagnose import summary
from batiste.view._page import Page
from batiste.view._state import Leaf, bytes_text, columns

if TYPE_CHECKING:
    from batiste.typing import Rngs

__all__ = ["model"]


def model(model: Any, *inputs: Any, rngs: Rngs | None = None, **kwargs: Any) -> Page:
    """Return the page of a model: its variables, and the FLOPs, outputs and activations of its modules.

    Args:
      model: the blueprint.
      *inputs: what it is called with; arrays, or shapes (``jax.ShapeDtypeStruct``).
      rngs: the random streams, as for ``batiste.diagnose.summary``.
      **kwargs: options of the call.

    Raises:
      InvalidInstanceModuleError: it is no model.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import nn, view
      >>> page = view.model(nn.Dense(4), jnp.ones((2, 3)))
      >>> page.title, page.data["facts"]
      ('Dense', ['16 parameters', '64 B', '48 FLOPs a call'])
    """
    table = summary(model, *inputs, rngs=rngs, **kwargs)
    leaves = {
        row.path: Leaf(f"{row.dtype}[{','.join(map(str, row.shape))}]", row.shape, row.dtype, row.bytes)
        for row in table.rows
    }
    facts = [f"{table.parameters:,} parameters", bytes_text(table.bytes)]
    facts += [f"{table.flops:,} FLOPs a call"] if table.flops else []
    modules = {
        row.path if row.depth else "": {
            "kind": row.kind, "calls": row.calls, "output": row.output, "flops": row.flops, "share": row.share,
            "activations": row.activation_bytes,
        }
        for row in table.modules
    }  # fmt: skip
    data = {"title": table.name, "facts": facts, "leaves": columns(leaves, 0, set()), "modules": modules, "tables": []}
    return Page(table.name, data)
