"""``flax.training.train_state``: the train state with the five fields that Flax's has.

``batiste.train.TrainState`` also carries the model's other collections and the random streams. This one does not, so
that its pytree, its state dict and therefore its checkpoints are Flax's; ``apply_gradients`` is the same code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

from batiste.compat.flax import struct
from batiste.compat.flax.struct import PyTreeNode, field
from batiste.train import TrainState as _State
from batiste.typing import Array, PyTree

__all__ = ["TrainState", "struct"]


def _nothing() -> None:
    """Stand for a function that is not called."""


class TrainState(PyTreeNode):
    """A step counter, the parameters, and an Optax transformation with its state.

    A subclass adds fields of its own as annotations.

    Attributes:
      step: how many times gradients were applied.
      apply_fn: the model's ``apply``; static.
      params: the parameters, a tree of arrays.
      tx: the Optax transformation; static.
      opt_state: its state.
    """

    step: int | Array
    apply_fn: Callable[..., Any] = field(pytree_node=False)
    params: PyTree = field(pytree_node=True)
    tx: Any = field(pytree_node=False)
    opt_state: PyTree = field(pytree_node=True)

    def apply_gradients(self, *, grads: PyTree, **kwargs: Any) -> Self:
        """Return the state after one update: new parameters, new optimiser state, one more step.

        Args:
          grads: gradients with the structure of ``params``.
          **kwargs: new values of other fields, by name.

        Raises:
          StructFieldError: a name is no field.
          GradientsMismatchError: the gradients do not fit the parameters.
        """
        state = _State(self.step, self.apply_fn, self.params, self.tx, self.opt_state).apply_gradients(grads=grads)
        return self.replace(step=state.step, params=state.params, opt_state=state.opt_state, **kwargs)

    @classmethod
    def create(cls, *, apply_fn: Callable[..., Any], params: PyTree, tx: Any, **kwargs: Any) -> Self:
        """Return a state at step 0 with a fresh optimiser state.

        Args:
          apply_fn: the model's ``apply``, or any function that the training step calls through the state.
          params: the parameters.
          tx: an Optax transformation.
          **kwargs: the other fields, by name.

        Raises:
          OptimizerTypeError: ``tx`` has no ``init`` and ``update``.
        """
        state = _State.create(apply_fn=_nothing, params=params, tx=tx)  # Flax takes anything there
        return cls(step=0, apply_fn=apply_fn, params=params, tx=tx, opt_state=state.opt_state, **kwargs)
