"""The step of a run: compiled once, its state donated, and looked at before it runs for the first time.

The compiled step takes the buffers of the state for its result. So no buffer may be in the state twice, and what a
state of several devices has on no device of its own goes to all of them: each step then finds its arguments where the
step before has left them, and the first program serves to the end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from batiste.errors import StepResultError
from batiste.train._metrics import check_metrics
from batiste.tree import diff

__all__ = ["as_computed", "as_given", "check_step", "compile_step", "give_up", "is_compiled", "placed"]

State = TypeVar("State")


def placed(state: State) -> State:
    """Return the state as the compiled step takes it: no array twice, and all of it on the devices of its mesh."""
    leaves: list[Any] = jax.tree.leaves(state)
    shardings = [leaf.sharding for leaf in leaves if isinstance(leaf, jax.Array)]
    meshes = [it.mesh for it in shardings if isinstance(it, NamedSharding) and it.num_devices > 1]
    seen: set[int] = set()
    for number, leaf in enumerate(leaves):
        if meshes and not (isinstance(leaf, jax.Array) and leaf.committed):
            leaves[number] = jax.device_put(leaf, NamedSharding(meshes[0], PartitionSpec()), may_alias=False)
        elif isinstance(leaf, jax.Array) and id(leaf) in seen:
            leaves[number] = leaf.copy()
        seen.add(id(leaf))
    return _filled(state, leaves)


def as_computed(state: State) -> State:
    """Return the state with what NumPy holds and JAX does not (64 bits) as the compiled step takes it and returns it.

    So a checkpoint of the run, whose leaves a step has made, has the dtypes of the state that the run begins with.
    """
    leaves: list[Any] = jax.tree.leaves(state)
    wide = [
        number
        for number, leaf in enumerate(leaves)
        if isinstance(leaf, np.ndarray | np.generic)
        and leaf.dtype.kind in "iufc"
        and leaf.dtype.isnative
        and jax.dtypes.canonicalize_dtype(leaf.dtype) != leaf.dtype
    ]
    for number in wide:
        leaves[number] = jnp.asarray(leaves[number])
    return _filled(state, leaves) if wide else state


def as_given(restored: State, given: State) -> State:
    """Return a restored state with numbers that promote as those of the given one do: a file knows no weak types."""
    leaves: list[Any] = jax.tree.leaves(restored)
    for number, leaf in enumerate(jax.tree.leaves(given)):
        if type(leaf) in (bool, int, float, complex):  # which every step makes an array of
            leaves[number] = jnp.asarray(leaves[number])
        elif isinstance(leaf, jax.Array) and leaf.shape == () and getattr(leaf, "weak_type", False):
            leaves[number] = jnp.asarray(leaves[number].item())
    return _filled(restored, leaves)


def is_compiled(step: Callable[..., Any]) -> bool:
    """Say whether a step is left as it is, because it is compiled already."""
    return hasattr(step, "lower") or isinstance(step, jax.stages.Compiled)


def compile_step(step: Callable[..., Any], state: Any) -> Callable[..., Any]:
    """Return the compiled step, which donates the state unless it was compiled already.

    Args:
      step: the function as it was given.
      state: the state, placed.
    """
    if is_compiled(step):
        return step
    leaves: list[Any] = jax.tree.leaves(state)
    if not any(isinstance(leaf, jax.Array) and leaf.sharding.num_devices > 1 for leaf in leaves):
        return jax.jit(step, donate_argnums=0)
    shardings = _filled(state, [getattr(leaf, "sharding", None) for leaf in leaves])
    return jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))


def check_step(step: Callable[..., Any], state: Any, batch: Any) -> None:
    """Refuse a step whose result cannot be the next state and metrics; the step is traced, and does not run.

    Args:
      step: the function as it was given.
      state: the state.
      batch: the first batch.

    Raises:
      StepResultError: it returns something else than a pair, or a state with another tree, other shapes or dtypes.
      MetricError: its metrics are not scalars.
    """
    if isinstance(step, jax.stages.Compiled):  # ahead of time: there is no more to ask
        return
    jitted: Any = step if is_compiled(step) else jax.jit(step, donate_argnums=0)  # whose trace the run will use
    name = f"{getattr(step, '__name__', type(step).__name__)}()"
    result: Any = jitted.eval_shape(state, batch)
    if not isinstance(result, tuple) or len(cast("tuple[Any, ...]", result)) != 2:
        raise StepResultError(
            step=name, problem=f"it returns {_described(result)}, which is no pair of state and metrics"
        )
    before: Any = jax.eval_shape(_same, state)
    after = cast("Any", result[0])
    differences = diff(before, after, values=False)
    if differences:
        lines = "".join(f"\n  {entry.path or '(root)'}: {entry.kind}, {entry.detail()}" for entry in differences)
        raise StepResultError(step=name, problem=f"the state that it returns is another.{lines}")
    if jax.tree.structure(before) != jax.tree.structure(after):
        raise StepResultError(
            step=name, problem="the state that it returns has other containers, or other values in its static fields"
        )
    check_metrics(result[1], name)


def _filled(state: Any, leaves: list[Any]) -> Any:
    tree = cast("Any", jax.tree)
    return tree.unflatten(tree.structure(state), leaves)


def _same(state: Any) -> Any:
    return state


def give_up(state: Any) -> None:
    """Free the arrays of a state that another takes the place of, as the step would have done."""
    for leaf in jax.tree.leaves(state):
        if isinstance(leaf, jax.Array) and not leaf.is_deleted():
            leaf.delete()


def _described(result: Any) -> str:
    return (
        f"a tuple of {len(cast('tuple[Any, ...]', result))}" if type(result) is tuple else f"a {type(result).__name__}"
    )
