"""The step of a run: compiled once, its state donated, and looked at before it runs for the first time.

The compiled step takes the memory of the state for its result; who owns what is said in ``_memory.py``. Each step finds
its arguments where the step before has left them, and the first program serves to the end.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np

from batiste.core import Valued, fingerprint, kept
from batiste.errors import BatisteError, LoopArgumentError, StepResultError
from batiste.train._memory import check_there, explain_batch
from batiste.train._metrics import check_metrics, metric_names
from batiste.tree import diff, flatten

__all__ = [
    "as_given",
    "as_program",
    "check_next",
    "check_step",
    "compile_step",
    "explain_failure",
    "is_compiled",
    "prepared",
]

State = TypeVar("State")


def as_given(restored: State, given: State) -> State:
    """Return a restored state with numbers that promote as those of the given one do: a file knows no weak types."""
    leaves: list[Any] = jax.tree.leaves(restored)
    for number, leaf in enumerate(jax.tree.leaves(given)):
        if type(leaf) in (bool, int, float, complex):  # which every step makes an array of
            leaves[number] = jnp.asarray(leaves[number])
        elif isinstance(leaf, jax.Array) and leaf.shape == () and getattr(leaf, "weak_type", False):
            leaves[number] = jnp.asarray(leaves[number].item())
    return _filled(restored, leaves)


def prepared(step: Callable[..., Any], state: State) -> State:
    """Return the state with what the step keeps in it, where the step has a ``prepare`` that says so."""
    prepare: Any = getattr(inspect.unwrap(step), "prepare", None) if callable(step) else None
    return cast("State", prepare(state)) if callable(prepare) else state


def is_compiled(step: Callable[..., Any]) -> bool:
    """Say whether a step is left as it is, because it is compiled already."""
    return hasattr(step, "lower") or isinstance(step, jax.stages.Compiled)


class _Program(Valued):
    """A step as it is when a run begins: equal to another that surely computes the same.

    ``jax.jit`` keeps a program for a function, and a step that reads settings is the same function when they change.
    """

    def __init__(self, step: Callable[..., Any]) -> None:
        super().__init__(fingerprint(step))
        functools.update_wrapper(self, step)
        self._step = step

    def __call__(self, state: Any, batch: Any) -> Any:
        return self._step(state, batch)


@kept(maxsize=32)
def _first_of_its_kind(program: _Program) -> _Program:
    return program  # JAX keeps what it compiled for as long as the function is there


def as_program(step: Callable[..., Any]) -> Callable[..., Any]:
    """Return a step that is compiled again in a later run only if it may compute something else by then."""
    return step if is_compiled(step) else _first_of_its_kind(_Program(step))


def compile_step(step: Callable[..., Any], state: Any) -> Callable[..., Any]:
    """Return the compiled step, which donates the state unless it was compiled already.

    Args:
      step: the function, as ``as_program`` gives it.
      state: the state, placed.
    """
    if is_compiled(step):
        return step
    leaves: list[Any] = jax.tree.leaves(state)
    if not any(isinstance(leaf, jax.Array) and leaf.sharding.num_devices > 1 for leaf in leaves):
        return jax.jit(step, donate_argnums=0)
    shardings = _filled(state, [getattr(leaf, "sharding", None) for leaf in leaves])
    return jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))


def check_step(step: Callable[..., Any], state: Any, batch: Any) -> list[str] | None:
    """Refuse a step whose result cannot be the next state and metrics; the step is traced, and does not run.

    Args:
      step: the function as it was given.
      state: the state.
      batch: the first batch.

    Returns:
      The names of the metrics; None where the step was compiled ahead of time and does not say.

    Raises:
      BatchError: the batch is one that this step cannot compute with.
      StepResultError: it returns something else than a pair, or a state with another tree, other shapes or dtypes.
      MetricError: its metrics are not scalars.
    """
    if isinstance(step, jax.stages.Compiled):  # ahead of time: there is no more to ask
        return None
    jitted: Any = step if is_compiled(step) else jax.jit(step, donate_argnums=0)  # whose trace the run will use
    name = f"{getattr(step, '__name__', type(step).__name__)}()"
    try:
        result: Any = jitted.eval_shape(state, batch)
    except Exception as error:
        if not isinstance(error, BatisteError):
            _explain_trace(step, name, state, batch, error)
        raise
    if not isinstance(result, tuple) or len(cast("tuple[Any, ...]", result)) != 2:
        problem = f"it returns {_described(result)}, which is no pair of state and metrics"
        raise StepResultError(step=name, problem=problem)
    before: Any = jax.eval_shape(_same, state)
    after = cast("Any", result[0])
    problem = _difference(before, after)
    if problem:
        backwards = not _difference(before, result[1])
        problem += "\nThe second of the pair is such a state: return (state, metrics)." if backwards else ""
        raise StepResultError(step=name, problem=f"the state that it returns {problem}")
    check_metrics(result[1], name)
    return metric_names(result[1])


def check_next(before: Any, after: Any) -> None:
    """Refuse a state that cannot take the place of the one at hand.

    Raises:
      LoopArgumentError: it has another tree, other shapes or dtypes.
    """
    problem = _difference(jax.eval_shape(_same, before), jax.eval_shape(_same, after))
    if problem:
        cure = "Give a state with the tree, the shapes and the dtypes of loop.state, or begin another loop with it."
        raise LoopArgumentError(name="state", value="replaced in the body", reason=f"the new one {problem}", cure=cure)


def explain_failure(state: Any, batch: Any, number: int, error: Exception) -> None:
    """Raise an error of the catalogue where a step failed because an array was used up; return where it did not.

    Raises:
      DeletedArrayError: an array of the batch or of the state was deleted before.
    """
    # A step that fails in its middle has used its state up too: only the words tell that from a state that was gone
    # before. To look before each step would take 0.05 ms for 1,000 arrays, every time.
    text = str(error)
    if "deleted" in text or "donated" in text:
        check_there(batch, f"The batch of step {number}", error)
        check_there(state, f"The state before step {number}", error)


def _difference(before: Any, after: Any) -> str:
    """Say in words what a state has that the one before had not; "" where nothing is."""
    differences = diff(before, after, values=False)
    if differences:
        lines = "".join(f"\n  {entry.path or '(root)'}: {entry.kind}, {entry.detail()}" for entry in differences)
        return f"is another.{lines}"
    if jax.tree.structure(before) != jax.tree.structure(after):
        return "has other containers, or other values in its static fields"
    return ""


def _explain_trace(step: Any, name: str, state: Any, batch: Any, error: Exception) -> None:
    """Raise an error of the catalogue where the reason of a failed trace is known; return where it is not."""
    explain_batch(batch, error)
    try:
        inspect.signature(step).bind(state, batch)
    except TypeError as unbound:
        problem = f"it is called with a state and a batch, and takes {inspect.signature(step)} ({unbound})"
        raise StepResultError(step=name, problem=problem) from error
    except ValueError:  # a step that does not tell what it takes
        pass
    returned: list[Any] = []

    def recorded(state: Any, batch: Any) -> tuple[()]:
        returned.append(inspect.unwrap(step)(state, batch))
        return ()

    try:
        jax.eval_shape(recorded, state, batch)
    except Exception:  # noqa: BLE001 - it fails by itself, and the first error says how
        return
    result = returned[0]
    if isinstance(result, tuple) and len(cast("tuple[Any, ...]", result)) == 2:
        check_metrics(cast("Any", result[1]), name)
        for path, leaf in flatten(cast("Any", result[0])).items():
            if not isinstance(leaf, jax.Array | np.ndarray | np.generic | bool | int | float | complex):
                problem = f"its state has {path!r}, which is a {type(leaf).__name__} and no array"
                raise StepResultError(step=name, problem=problem) from error
    elif not isinstance(result, jax.Array):
        problem = f"it returns {_described(result)}, which is no pair of state and metrics"
        raise StepResultError(step=name, problem=problem) from error


def _filled(state: Any, leaves: list[Any]) -> Any:
    tree = cast("Any", jax.tree)
    return tree.unflatten(tree.structure(state), leaves)


def _same(state: Any) -> Any:
    return state


def _described(result: Any) -> str:
    if result is None:
        return "None"
    return (
        f"a tuple of {len(cast('tuple[Any, ...]', result))}" if type(result) is tuple else f"a {type(result).__name__}"
    )
