"""A training step as a program, traced from shapes alone: no array is made.

The step is the one that everyone writes: the loss of a batch, its gradients, and an update by an Optax optimiser. A
model that does not return a loss is given one: the cross-entropy of whole numbers where the outputs look like scores of
a vocabulary, else the mean square, so that the cost of what is behind the model is there as well.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from batiste.core import unbox
from batiste.plan._remat import saving
from batiste.struct import PyTreeNode

__all__ = ["State", "Traced", "other_remat", "trace"]


@dataclasses.dataclass(frozen=True)
class Traced:
    """A training step of a model, in shapes.

    Attributes:
      params: the parameters.
      opt_state: the state of the optimiser; None without one.
      collections: every other collection by name.
      batch: the inputs.
      gradients: the program from parameters, other collections and batch to loss, gradients and changed collections.
      update: the program from gradients, optimiser state and parameters to the new ones; None without an optimiser.
      forward: the program of the loss and changed collections alone.
    """

    params: Any
    opt_state: Any
    collections: dict[str, Any]
    batch: list[Any]
    gradients: Any
    update: Any
    forward: Any


class State(PyTreeNode):
    """What has a state's fields, in shapes: enough for rules to be read against.

    Attributes:
      params: the parameters.
      opt_state: the state of the optimiser.
      collections: every other collection.
    """

    params: Any
    opt_state: Any
    collections: Any


def trace(
    model: Any,
    inputs: Sequence[Any],
    optimizer: Any = None,
    *,
    loss: Callable[..., Any] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Traced:
    """Return the training step of a model, traced.

    Args:
      model: a Module.
      inputs: what it is called with, as shapes.
      optimizer: an Optax transformation; None for none.
      loss: from the outputs and the inputs to a number; None for one that fits the outputs.
      options: keyword arguments of the call, such as ``{"train": True}``.
    """
    options = dict(options or {})
    rngs: Any = {name: jax.eval_shape(lambda: jax.random.key(0)) for name in ("params", "dropout")}
    abstract = [jax.ShapeDtypeStruct(each.shape, each.dtype) for each in inputs]

    def init(rngs: Any, *inputs: Any) -> Any:
        return model.init(rngs, *inputs, **options)

    variables = dict(jax.eval_shape(init, rngs, *abstract))
    params = unbox(variables.pop("params", {}))
    rest = {name: unbox(value) for name, value in variables.items()}
    names = list(rest)

    def computed(params: Any, rest: Any, inputs: Any, keys: Any) -> Any:
        streams = {name: key for name, key in keys.items() if name != "params"}
        outputs, changed = model.apply({"params": params, **rest}, *inputs, rngs=streams, mutable=names, **options)
        value = loss(outputs, *inputs) if loss is not None else _loss(outputs, inputs)
        return value, changed

    def gradients(params: Any, rest: Any, inputs: Any, keys: Any) -> Any:
        (value, changed), found = jax.value_and_grad(computed, has_aux=True)(params, rest, inputs, keys)
        return value, found, changed

    made = jax.make_jaxpr(gradients)(params, rest, abstract, rngs)
    forward = jax.make_jaxpr(computed)(params, rest, abstract, rngs)
    opt_state = update = None
    if optimizer is not None:
        opt_state = jax.eval_shape(optimizer.init, params)
        update = jax.make_jaxpr(_updated(optimizer))(params, opt_state, params)
    return Traced(params, opt_state, rest, abstract, made, update, forward)


def _updated(optimizer: Any) -> Callable[..., Any]:
    def update(grads: Any, opt_state: Any, params: Any) -> Any:
        import optax  # pyright: ignore[reportMissingTypeStubs]

        updates, after = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), after

    return update


def _loss(outputs: Any, inputs: Sequence[Any]) -> Any:
    """Return a loss that costs what the usual one does."""
    total: Any = 0.0
    targets = [each for each in inputs if jnp.issubdtype(each.dtype, jnp.integer)]
    for leaf in jax.tree.leaves(outputs):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            continue
        wide = leaf.astype(jnp.float32)
        match = next((each for each in targets if each.shape == leaf.shape[:-1]), None)
        if leaf.ndim == 0:
            total = total + wide
        elif match is None:
            total = total + jnp.mean(jnp.square(wide))
        else:
            peak = jax.nn.logsumexp(wide, axis=-1)
            hit = match[..., None] == jax.lax.broadcasted_iota(
                match.dtype, (1,) * match.ndim + wide.shape[-1:], match.ndim
            )
            total = total + jnp.mean(peak - jnp.where(hit, wide, 0).sum(-1))  # whichever way the scores are cut
    return total


def other_remat(traced: Traced, *, saves: bool) -> Any:
    """Return the program of the gradients, where loops keep all that they compute, or nothing of it.

    Args:
      traced: the step.
      saves: whether everything is kept for the gradients, also where the model says otherwise.
    """
    program = saving(traced.forward, saves=saves)
    count = len(jax.tree.leaves(traced.params))

    def gradients(params: list[Any], rest: list[Any]) -> Any:
        def loss(params: list[Any]) -> Any:
            return program(*params, *rest)[0]

        return jax.value_and_grad(loss)(params)

    values = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in traced.forward.in_avals]
    return jax.make_jaxpr(gradients)(values[:count], values[count:])
