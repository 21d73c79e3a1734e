"""The model as a loss function calls it: with the variables of this step, and no tuple to take apart.

``model(x)`` is ``state.apply_fn`` with the parameters that are differentiated, every other collection, the random
streams of the step and the collections that a call may change. What a call changes is seen by the next one, and is in
the state after the step. The object lives as long as one trace of the loss function, and belongs to it: in a transform
of JAX that the loss function opens itself (``jax.vmap``, ``jax.grad`` by an input), what a call changes could not get
out, so a call that changes something there is an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import jax

from batiste._arguments import mapping
from batiste.core import current_trace
from batiste.errors import LossTransformError
from batiste.train._policy import Policy, cast_floating
from batiste.train._state import FROZEN, TrainState

__all__ = ["ModelCall"]


class ModelCall:
    """What a loss function is given as its first argument.

    Attributes:
      train: whether this is a training step; ``train.evaluate`` calls the same function with False.
      params: the parameters that are differentiated, as the state holds them.
      collections: every other collection, and what calls have made of them. One that ``mutable`` names and the state
        does not hold is here after the call: what layers have sown, say.
      rngs: the random streams of this step.
      step: the number of the step.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from batiste import nn, train
      >>> def loss_fn(model, x):
      ...     return model(x) ** 2, {"trains": jnp.float32(model.train)}
      >>> model, x = nn.Dense(1), jnp.ones((2, 3))
      >>> state = train.TrainState.init(model, optax.sgd(0.1), jax.random.key(0), x)
      >>> train.evaluate(state, [x], loss_fn)["trains"]
      0.0
    """

    def __init__(
        self,
        state: TrainState,
        params: Any,
        *,
        train: bool,
        policy: Policy,
        mutable: Sequence[str] | None,
        collections: Mapping[str, Any] | None = None,
        rngs: Mapping[str, Any] | None = None,
    ) -> None:
        self.train = train
        self.params = params
        self.step = state.step
        self.collections: dict[str, Any] = dict(state.collections if collections is None else collections)
        self.rngs: dict[str, Any] = dict((state.step_rngs() if rngs is None else rngs) if train else {})
        self._held = tuple(state.collections)
        self._state = state
        self._policy = policy
        changeable = [name for name in self._held if name != FROZEN] if mutable is None else list(mutable)
        self._mutable = changeable if train else []
        self._calls = 0
        self._trace = current_trace()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the model returns.

        Args:
          *args: the inputs; floating arrays are cast as the policy says.
          **kwargs: more of them, and what ``apply`` takes beside: ``method=``, ``rngs=`` in place of those of the step,
            ``mutable=`` in place of the collections that the step changes; and ``collections=`` for this call alone, by
            name, in place of the state's or beside them: ``{"perturbations": ...}``.

        Raises:
          LossTransformError: the call changes a collection within a transform that the loss function has opened.
        """
        mutable = kwargs.pop("mutable", self._mutable)
        rngs = kwargs.pop("rngs", None)
        given = kwargs.pop("collections", None)
        if rngs is None and self.rngs:
            rngs = self._streams()
        self._calls += 1
        options: dict[str, Any] = {"rngs": rngs} if rngs else {}
        if mutable:
            options["mutable"] = mutable
        compute = self._policy.compute
        collections = self.collections
        if given is not None:
            collections = {**collections, **mapping(given, "collections", "the model", what="trees by collection")}
        if FROZEN in collections:
            collections = {**collections, FROZEN: cast_floating(collections[FROZEN], compute)}
        variables = self._state.replace(collections=collections).variables(cast_floating(self.params, compute))
        args, kwargs = cast_floating((args, kwargs), compute)
        result: Any = self._state.apply_fn(variables, *args, **options, **kwargs)
        changed: Mapping[str, Any] = {}
        if mutable:
            result, changed = cast("tuple[Any, Mapping[str, Any]]", result)
        if changed and jax.tree.leaves(changed):
            if current_trace() != self._trace:
                raise LossTransformError(collections=", ".join(changed))
            self.collections |= {name: _as_held(new, self.collections.get(name)) for name, new in changed.items()}
        return cast_floating(result, self._policy.output)

    @property
    def changed(self) -> dict[str, Any]:
        """The collections of the state, as calls have left them."""
        return {name: self.collections[name] for name in self._held}

    def _streams(self) -> dict[str, Any]:
        """Return the streams of a call: those of the step, and others for each call after the first."""
        if self._calls == 0:
            return self.rngs
        return {name: jax.random.fold_in(key, self._calls) for name, key in self.rngs.items()}


def _as_held(new: Any, held: Any) -> Any:
    """Return a collection in the dtypes in which it was held, so that a state keeps its dtypes."""
    if jax.tree.structure(new) != jax.tree.structure(held):
        return new

    def matched(after: Any, before: Any) -> Any:
        dtype = getattr(before, "dtype", None)
        return after if dtype is None or getattr(after, "dtype", dtype) == dtype else after.astype(dtype)

    return jax.tree.map(matched, new, held)
