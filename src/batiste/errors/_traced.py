"""The error of modules that is also one of JAX: a file of its own, since all others do without JAX."""

from __future__ import annotations

from typing import Any

import jax

from batiste.errors._base import BatisteError

__all__ = ["TracedFlagError"]


class TracedFlagError(BatisteError, jax.errors.TracerBoolConversionError):
    """A layer has to decide in Python by a flag or a number that JAX traces; also JAX's own error."""

    code = "module/traced-flag"
    message = "{path} decides in Python by {names}, but was given a traced array for it ({given}), without a value."
    hint = (
        "Give a Python value. Where it comes from an argument of jax.jit, make that argument static: "
        "static_argnames=['train'] with its name; of nn.remat or nn.jit with static_argnums (the module is 0)."
    )

    def __init__(self, **context: Any) -> None:
        super().__init__(**context)
        self.args = (str(self),)  # jax.checkpoint reads the text there
