"""Errors of ``batiste.plan``: XLA does not compile a step that was traced."""

from __future__ import annotations

from batiste.errors._base import BatisteError

__all__ = ["PlanCompileError"]


class PlanCompileError(BatisteError, RuntimeError):
    """XLA refuses the training step, or the process that compiles it has died; also a ``RuntimeError``."""

    code = "plan/compile"
    message = "The training step does not compile for {target}: {reason}"
    hint = (
        "Without compile=True there is a plan all the same. If the process was killed, compile for fewer devices, or "
        "with more memory; if the mesh does not fit the slice of TPUs, give a mesh of as many devices."
    )
