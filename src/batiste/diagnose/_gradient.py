"""The function that a tool runs when it looks at both passes: the output of a subject, its loss, and the gradient.

Without a loss of the user's, the sum of all that is inexact in the output stands for it: every operation that a
gradient can reach is then reached.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp

from batiste.diagnose._program import Subject, is_inexact

__all__ = ["with_gradient"]


def with_gradient(
    subject: Subject, loss: Callable[..., Any] | None, *, backward: bool
) -> tuple[Callable[[dict[str, Any]], Any], Any]:
    """Return the function of a subject's arguments with the backward pass, and the parameters it is with respect to.

    Args:
      subject: what is looked at.
      loss: from the output of a module to a number; None for the sum of all that is inexact.
      backward: whether there is a backward pass; a function and a module without parameters have none, and None is
        returned in the place of the parameters.
    """
    params = subject.arguments.get("variables", {}).get("params") if subject.is_model else None
    if backward and jax.tree.leaves(params):
        return _loss_and_gradient(subject.function, loss), params
    return subject.function if loss is None else _loss_and_output(subject.function, loss), None


def _loss_and_output(function: Callable[..., Any], loss: Callable[..., Any]) -> Callable[..., Any]:
    def run(given: Any) -> Any:
        output = function(given)
        return loss(_output_alone(output)), output

    return run


def _output_alone(output: Any) -> Any:
    """Return a module's output without the collections that it changed."""
    if isinstance(output, tuple) and len(cast("tuple[Any, ...]", output)) == 2:
        first, second = cast("tuple[Any, Any]", output)
        if isinstance(second, Mapping) and all(isinstance(name, str) for name in cast("Mapping[Any, Any]", second)):
            return first
    return cast("Any", output)


def _loss_and_gradient(function: Callable[..., Any], loss: Callable[..., Any] | None) -> Callable[..., Any]:
    """Return the function that gives its outputs, its loss, and the gradient of the loss."""

    def run(given: dict[str, Any]) -> Any:
        def of_params(params: Any) -> Any:
            output = function({**given, "variables": {**given["variables"], "params": params}})
            alone = _output_alone(output)
            return (_sum(alone) if loss is None else loss(alone)), output

        params = given["variables"]["params"]
        if not all(is_inexact(leaf) for leaf in jax.tree.leaves(params)):
            return of_params(params), params
        grad: Any = jax.value_and_grad(of_params, has_aux=True)
        return grad(params)

    return run


def _sum(tree: Any) -> Any:
    leaves = [leaf for leaf in jax.tree.leaves(tree) if is_inexact(leaf)]
    return sum((jnp.sum(jnp.real(leaf).astype(jnp.float32)) for leaf in leaves), start=jnp.zeros(()))
