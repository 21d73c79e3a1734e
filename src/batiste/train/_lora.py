"""Low-rank adapters as a train state: what is trained is the adapters, and the model does not know.

The state that ``lora`` returns has the adapters as its parameters, so that gradients, the optimiser's state, averages
and accumulation are of their size; parameters that are trained whole, such as a new head's, are there too. The
parameters below them are in the collection ``frozen_params``, and ``alpha`` is in the static ``apply_fn``: neither can
be trained. When the model is called, the two are merged, within the program; ``lora_merged`` merges them for good.

The adapters themselves are those of ``tree.lora_init``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

from batiste.errors import AdapterStateError
from batiste.train._state import FROZEN, TrainState, check_state
from batiste.tree import PatternLike, exclude, flatten, lora_init, lora_merge, merge, select, unflatten

if TYPE_CHECKING:
    import optax  # pyright: ignore[reportMissingTypeStubs]

    from batiste.tree import Patterns
    from batiste.typing import DTypeLike, Key, PyTree

__all__ = ["lora", "lora_merged"]


@dataclasses.dataclass(frozen=True)
class _Adapted:
    """A model's ``apply`` over adapters, the parameters below them, and the paths of those trained whole."""

    apply_fn: Callable[..., Any]
    alpha: float
    whole: tuple[str, ...] = ()

    def __call__(self, variables: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        others = {name: tree for name, tree in variables.items() if name not in ("params", FROZEN)}
        merged = self.merged(variables[FROZEN], variables["params"])
        return self.apply_fn({"params": merged, **others}, *args, **kwargs)

    def merged(self, frozen: PyTree, trained: PyTree) -> PyTree:
        """Return the parameters of the model: frozen ones with their adapters, and those that are trained whole."""
        if not self.whole:
            return lora_merge(frozen, trained, alpha=self.alpha)
        adapters = flatten(trained)
        missing = [path for path in self.whole if path not in adapters]
        if missing:
            raise AdapterStateError(problem=f"what was trained whole is not there: {', '.join(missing)}")
        own = {path: adapters.pop(path) for path in self.whole}
        return lora_merge(merge(frozen, unflatten(own)), unflatten(adapters), alpha=self.alpha)


def lora(
    state: TrainState,
    key: Key,
    patterns: Patterns,
    rank: int,
    *,
    tx: optax.GradientTransformation | None = None,
    alpha: float | None = None,
    dtype: DTypeLike | None = None,
    inputs: int | Mapping[PatternLike, int] | None = None,
    stacked: int | Mapping[PatternLike, int] = 0,
    whole: Patterns | None = None,
) -> TrainState:
    """Return a state that trains adapters on the kernels that match, and nothing else but what ``whole`` names.

    ``state = train.lora(state, key, "**/attn/*/kernel", rank=8, tx=optax.adam(1e-3), whole="head/**")``

    Args:
      state: a state with the parameters to adapt.
      key: a random key, for the adapters.
      patterns: which kernels get an adapter.
      rank: the rank of each.
      tx: the optimiser of the adapters; None takes the state's.
      alpha: the numerator of their scale ``alpha / rank``; None takes the rank, for a scale of 1.
      dtype: of the adapters; None takes the kernels'.
      inputs: how many axes of a kernel are inputs, as ``tree.lora_init`` has it.
      stacked: how many leading axes are layers, as ``tree.lora_init`` has it.
      whole: which parameters are trained as they are, beside the adapters: those of a new head, say.

    Returns:
      A state at step 0, with its own optimiser state. Its other arrays are those of ``state``, and are used up with it:
      copy what is to outlive a run.

    Raises:
      AdapterStateError: the state has adapters already, or parameters that are overwritten by their gradients.
      MergeConflictError: ``whole`` names a kernel that gets an adapter.
      OptimizerTypeError: ``tx`` is no optimiser.
      BatisteError: what ``tree.lora_init`` refuses.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from batiste import nn, train
      >>> model, x = nn.Dense(4), jnp.ones((2, 3))
      >>> state = train.TrainState.init(model, optax.sgd(0.1), jax.random.key(0), x)
      >>> state = train.lora(state, jax.random.key(1), "kernel", rank=2)
      >>> jax.tree.map(jnp.shape, state.params)
      {'kernel': {'a': (3, 2), 'b': (2, 4)}}
    """
    check_state(state, "train.lora")
    if FROZEN in state.collections:
        raise AdapterStateError(problem="it has adapters already, which lora_merged(state) would make part of it")
    adapters = lora_init(key, state.params, patterns, rank, alpha=alpha, dtype=dtype, inputs=inputs, stacked=stacked)
    trained, frozen = _without_alpha(adapters), state.params
    own = () if whole is None else tuple(flatten(select(frozen, whole)))
    if whole is not None:
        trained, frozen = merge(trained, select(frozen, whole)), exclude(frozen, whole)
    return cast("Any", type(state)).create(
        apply_fn=_Adapted(state.apply_fn, float(rank if alpha is None else alpha), own),
        params=trained,
        tx=state.tx if tx is None else tx,
        collections={**state.collections, FROZEN: frozen},
        rngs=state.rngs,
    )


def lora_merged(state: TrainState, params: PyTree | None = None) -> PyTree:
    """Return the parameters of the model with the adapters merged into them.

    Args:
      state: what ``lora`` has returned, trained.
      params: the adapters to merge instead of the state's: ``state.averaged_params()``.

    Raises:
      AdapterStateError: the state has no adapters, or ``params`` lacks what is trained whole.
      AdapterMismatchError: ``params`` are adapters of other kernels.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from batiste import nn, train
      >>> model, x = nn.Dense(4), jnp.ones((2, 3))
      >>> state = train.TrainState.init(model, optax.sgd(0.1), jax.random.key(0), x)
      >>> state = train.lora(state, jax.random.key(1), "kernel", rank=2)
      >>> jax.tree.map(jnp.shape, train.lora_merged(state))
      {'bias': (4,), 'kernel': (3, 4)}
    """
    check_state(state, "train.lora_merged")
    if not isinstance(state.apply_fn, _Adapted) or FROZEN not in state.collections:
        raise AdapterStateError(problem="it has no adapters: train.lora(state, ...) makes a state with them")
    return state.apply_fn.merged(state.collections[FROZEN], state.params if params is None else params)


def _without_alpha(adapters: Any) -> Any:
    """Return adapters without the third leaf beside each pair."""
    if not isinstance(adapters, Mapping):
        return adapters
    nested = cast("Mapping[str, Any]", adapters)
    pair = {"a", "b"} <= nested.keys() and not isinstance(nested["a"], Mapping)
    return {name: _without_alpha(part) for name, part in nested.items() if not (pair and name == "alpha")}
