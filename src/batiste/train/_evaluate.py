"""Evaluation: the loss function of training over all batches of a data set, each example counted once.

The loss function is called with a model whose ``train`` is False, which changes no collection and has no random
streams. What it returns adds up over batches: arrays of one entry for each example (or token), metrics of
``train.metrics``, and scalars, which count as often as the batch has examples.

Of a state that lies over several processes, each has the same batches, or its part of arrays over all of them
(``train.global_batch``): the first batch is compared, and the number of them. A state that is in one process alone is
evaluated by that process alone.

One program serves all batches. Where each array that the loss function returns has the examples of the batch along its
first axis, a last batch that is shorter is filled up, and what was filled up does not count; otherwise a shorter batch
has a program of its own, since a scalar cannot say what part of it an example has.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from batiste._arguments import function, refused, whole_number
from batiste._processes import check_alike, several
from batiste.core import Valued, fingerprint, kept
from batiste.errors import NoBatchError
from batiste.train._data import check_data
from batiste.train._make_step import LossFunction, Step, merged, numbers, outcome
from batiste.train._memory import check_there
from batiste.train._model_call import ModelCall
from batiste.train._policy import AS_IT_IS, Policy
from batiste.train._processes import check_batch, is_over_processes
from batiste.train._state import TrainState, check_state
from batiste.train.metrics import Mean, Metric

__all__ = ["evaluate"]

_AT_ONCE = 64  # batches whose sums are fetched together: to fetch is to wait for the device


def evaluate(
    state: TrainState,
    data: Iterable[Any] | Callable[[int], Any] | Any,
    loss_fn: LossFunction | Step,
    *,
    averaged: bool = False,
    steps: int | None = None,
    batch_size: int | None = None,
) -> dict[str, Any]:
    """Return the mean loss and the metrics over a data set: numbers of Python, and arrays of NumPy where they are none.

    Args:
      state: the state; nothing of it changes.
      data: an iterable of batches; or a function from a number to a batch, with ``steps``; or with ``batch_size`` a
        tree of whole arrays, which is cut along the first axis.
      loss_fn: a loss function as ``make_step`` takes it, or a step that was made of one, whose policy then holds.
      averaged: whether to evaluate with ``state.averaged_params()`` in the place of ``state.params``.
      steps: how many batches to take; None takes all.
      batch_size: how many examples of whole arrays are taken at once.

    Returns:
      ``loss`` and the metrics, by name; nested where the loss function nests them.

    Raises:
      ArgumentError: an argument cannot work.
      DeletedArrayError: a step has used up this state.
      LoopArgumentError: the data gives no batches.
      LossError: the loss function returns something else than a loss, or a loss and metrics.
      NoAverageError: ``averaged``, and the state has no average.
      NoBatchError: there is no batch.
      ProcessesDifferError: the state lies over several processes, and they have other batches.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from batiste import nn, train
      >>> model, x = nn.Dense(1), jnp.zeros((2, 3))  # of which a new layer makes zeros
      >>> state = train.TrainState.init(model, optax.sgd(0.1), jax.random.key(0), x)
      >>> train.evaluate(state, [x, x], lambda model, x: (model(x) - 2) ** 2)
      {'loss': 4.0}
    """
    policy = AS_IT_IS
    if isinstance(loss_fn, Step):
        loss_fn, policy = loss_fn.loss_fn, loss_fn.policy
    check_state(state, "evaluate")
    function(loss_fn, "loss_fn", "evaluate", what="a loss function, or a step that make_step has made of one")
    params = state.averaged_params() if averaged else state.params
    program = _compiled(_Program(loss_fn, policy))
    total: Any = None
    waiting: list[Any] = []
    size: int | None = None
    shared = several() and any(map(is_over_processes, jax.tree.leaves(state)))
    count = 0
    for count, batch in enumerate(_batches(data, steps, batch_size), 1):
        if shared and count == 1:
            check_batch("evaluate/batch", batch, what="an evaluation")
        rows = _rows(batch)
        size = rows if size is None else size
        try:
            waiting.append(program.measured(state, params, batch, rows, max(size, rows)))
        except (RuntimeError, ValueError) as error:  # JAX's for an array that is gone is the one or the other
            check_there(state, f"This {type(state).__name__}", error)
            raise
        if len(waiting) == _AT_ONCE:
            total = _added(total, waiting)
    total = _added(total, waiting)
    if shared:
        what, found = f"an evaluation of {count} batches", {"number of batches": [f"{count} batches"]}
        check_alike("evaluate/end", found, what=what, advice="Give all processes as many batches.")
    if total is None:
        raise NoBatchError
    return _plain(numbers(total))


def _batches(data: Any, steps: Any, batch_size: Any) -> Iterator[Any]:
    """Yield the batches that are asked for."""
    count = None if steps is None else whole_number(steps, "steps", "evaluate", low=1)
    if batch_size is not None:
        size = whole_number(batch_size, "batch_size", "evaluate", low=1)
        rows = _rows(data)
        found: Any = (_slice(data, start, start + size) for start in range(0, rows, size))
    else:
        check_data(data)
        if hasattr(data, "__iter__") or hasattr(data, "__getitem__"):
            found = iter(data)
        elif count is None:
            advice = "A function of a number has no end: say how many batches there are, steps=10."
            raise refused(steps, "steps", "evaluate", "the number of batches", advice)
        else:
            found = map(data, range(count))
    for number, batch in enumerate(found):
        if number == count:
            return
        yield batch


def _slice(data: Any, start: int, stop: int) -> Any:
    def cut(leaf: Any) -> Any:
        return leaf[start:stop] if np.ndim(leaf) else leaf

    return cast("Any", jax.tree).map(cut, data)


def _rows(batch: Any) -> int:
    """Return the number of examples: the first axis of the first array that has one."""
    leaves: list[Any] = jax.tree.leaves(batch)
    shapes = (np.shape(leaf) for leaf in leaves)
    return next((shape[0] for shape in shapes if shape), 1)


class _Program(Valued):
    """A loss function and a policy: equal to another that surely computes the same."""

    def __init__(self, loss_fn: LossFunction, policy: Policy) -> None:
        super().__init__(fingerprint((loss_fn, policy)))
        self.loss_fn = loss_fn
        self.policy = policy


@dataclasses.dataclass(frozen=True, eq=False)
class _Compiled:
    """What measures a batch, compiled."""

    program: _Program
    fills: dict[Any, bool]

    @functools.cached_property
    def _jitted(self) -> Any:
        return jax.jit(self._sums, static_argnames="rows")

    def measured(self, state: TrainState, params: Any, batch: Any, rows: int, size: int) -> Any:
        """Return the sums of a batch of ``rows`` examples, filled up to ``size`` where that is possible."""
        slim = state.replace(params=params, opt_state=(), extras={}, rngs={})
        if rows == size:
            return self._jitted(slim, batch, size if self._can_fill(slim, batch, size) else None, rows=rows)
        whole = _filled(batch, rows, size)
        if self._can_fill(slim, whole, size):
            return self._jitted(slim, whole, rows, rows=size)
        return self._jitted(slim, batch, None, rows=rows)

    def _can_fill(self, state: TrainState, batch: Any, size: int) -> bool:
        """Say whether all that the loss function returns has an entry for each example."""
        leaves: list[Any] = jax.tree.leaves(batch)
        shapes = tuple((np.shape(leaf), str(getattr(leaf, "dtype", "number"))) for leaf in leaves)
        key: Any = (jax.tree.structure((state, batch)), shapes)
        if key not in self.fills:
            result: Any = jax.eval_shape(self._called, state, batch)
            found: list[Any] = jax.tree.leaves(result, is_leaf=_is_metric)
            self.fills[key] = all(not _is_metric(leaf) and getattr(leaf, "shape", ())[:1] == (size,) for leaf in found)
        return self.fills[key]

    def _called(self, state: TrainState, batch: Any) -> Any:
        model = ModelCall(state, state.params, train=False, policy=self.program.policy, mutable=())
        return self.program.loss_fn(model, batch)

    def _sums(self, state: TrainState, batch: Any, real: Any, *, rows: int) -> dict[str, Any]:
        result = self._called(state, batch)
        if real is not None:
            counts = jnp.arange(rows) < real

            def counted(leaf: Any) -> Any:
                return Mean.of(leaf, where=counts)

            result = cast("Any", jax.tree).map(counted, result)
        found = outcome(result, rows=rows)
        return {"loss": found.loss, **found.metrics}


@kept(maxsize=32)
def _compiled(program: _Program) -> _Compiled:
    return _Compiled(program, {})


def _filled(batch: Any, rows: int, size: int) -> Any:
    """Return a batch with its last example again and again, up to ``size``."""

    def repeated(leaf: Any) -> Any:
        if np.ndim(leaf) == 0 or leaf.shape[0] != rows or rows == 0:
            return leaf
        library = jnp if isinstance(leaf, jax.Array) else np
        return library.concatenate([leaf, library.repeat(leaf[-1:], size - rows, axis=0)])

    return cast("Any", jax.tree).map(repeated, batch)


def _added(total: Any, waiting: list[Any]) -> Any:
    """Return the sums with those that were waiting, which are then fetched and gone; in double precision."""
    for sums in cast("list[Any]", jax.device_get(waiting)):
        host = _on_host(sums)
        total = host if total is None else merged(total, host)
    waiting.clear()
    return total


def _on_host(sums: Any) -> Any:
    return cast("Any", jax.tree).map(_double, sums)


def _double(leaf: Any) -> Any:
    return np.asarray(leaf, np.float64)


def _is_metric(node: Any) -> bool:
    return isinstance(node, Metric)


def _plain(found: Any) -> dict[str, Any]:
    def plain(leaf: Any) -> Any:
        return float(leaf) if np.ndim(leaf) == 0 else np.asarray(leaf)

    return cast("Any", jax.tree).map(plain, found)
