"""The same program with other decisions about what is kept for its gradients.

``jax.checkpoint`` is a call in a traced program, and its policy is a parameter of that call. A program in which
everything is kept has the policy exchanged; in one where loops keep nothing, each body is such a call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import jax
from jax.extend import core as jex_core

from batiste.plan._flat import inner

__all__ = ["saving"]

_CORE: Any = cast("Any", jex_core)
"""JAX 0.12 does not export ``ClosedJaxpr`` to type checkers."""

_REMAT = ("remat2", "remat", "checkpoint")


def saving(program: Any, *, saves: bool) -> Callable[..., Any]:
    """Return a function that computes what a program does.

    Args:
      program: what ``jax.make_jaxpr`` returns.
      saves: whether all that it computes is kept for gradients; else bodies of loops keep nothing.
    """
    return _CORE.jaxpr_as_fun(_CORE.ClosedJaxpr(_changed(program.jaxpr, saves), program.consts))


def _changed(jaxpr: Any, saves: bool) -> Any:
    return jaxpr.replace(eqns=[_equation(eqn, saves) for eqn in jaxpr.eqns])


def _equation(eqn: Any, saves: bool) -> Any:
    name, params = eqn.primitive.name, dict(eqn.params)
    if name in _REMAT and saves:
        params["policy"] = jax.checkpoint_policies.everything_saveable
    for key, value in params.items():
        if isinstance(value, _CORE.ClosedJaxpr):
            params[key] = _CORE.ClosedJaxpr(_changed(value.jaxpr, saves), value.consts)
        elif hasattr(value, "eqns"):
            params[key] = _changed(value, saves)
        elif key == "branches":
            params[key] = tuple(_CORE.ClosedJaxpr(_changed(each.jaxpr, saves), each.consts) for each in value)
    if name == "scan" and not saves and not any(each.primitive.name in _REMAT for each in inner(params["jaxpr"]).eqns):
        params["jaxpr"] = _checkpointed(params["jaxpr"])
    return eqn.replace(params=params)


def _checkpointed(body: Any) -> Any:
    closed = body if isinstance(body, _CORE.ClosedJaxpr) else _CORE.ClosedJaxpr(body, [])
    avals = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in closed.in_avals]
    made = jax.make_jaxpr(jax.checkpoint(_CORE.jaxpr_as_fun(closed), prevent_cse=False))(*avals)
    return made if isinstance(body, _CORE.ClosedJaxpr) else made.jaxpr
