"""Hooks to find out: does it run at all, can it learn a few batches, where does the time go, which rate is right."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np

from batiste._arguments import number, path, refused, text, whole_number
from batiste.errors import LearningRateError, LoopArgumentError
from batiste.train._data import Batches
from batiste.train._hooks import Hook
from batiste.train._loop import Loop
from batiste.tree import path_string

__all__ = ["LearningRates", "fast_dev_run", "find_learning_rate", "overfit_batches", "profile"]

State = TypeVar("State")
Batch = TypeVar("Batch")
_RATE = "learning_rate"


def fast_dev_run(steps: int = 3) -> Hook:
    """Return a hook that makes a rehearsal of a run: few steps, a row for each, an evaluation, and nothing written.

    Args:
      steps: how many steps; from 1 on.

    Raises:
      ArgumentError: it is no such number.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import train
      >>> step = lambda state, x: (state + x, {"loss": state})
      >>> hooks = [train.fast_dev_run(2)]
      >>> train.fit(step, jnp.zeros(()), [1.0] * 1000, hooks=hooks, log=None).item()
      2.0
    """
    count = whole_number(steps, "steps", "fast_dev_run", low=1)

    def change(loop: Any) -> None:
        few = count if loop.settings.steps is None else min(count, loop.settings.steps)
        finite = loop.settings.finite
        if finite.action == "return":  # there is nothing to go back to
            finite = dataclasses.replace(finite, action="stop")
        loop.settings = dataclasses.replace(
            loop.settings, steps=few, run=None, log_every=1, evaluate_every=max(few, 1), finite=finite, report=False
        )

    return Hook({"open": change})


def overfit_batches(count: int = 1) -> Hook:
    """Return a hook that trains on the first few batches, again and again: a model that can learn, learns them.

    The batches are held in memory. The run can go on after an interruption where its data could.

    Args:
      count: how many batches; from 1 on.

    Raises:
      ArgumentError: it is no such number.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import train
      >>> step = lambda state, x: (state + x, {"loss": state})
      >>> options = {"steps": 3, "hooks": [train.overfit_batches(1)], "log": None}
      >>> train.fit(step, jnp.zeros(()), [1.0, 5.0], **options).item()
      3.0
    """
    count = whole_number(count, "count", "overfit_batches", low=1)

    def change(loop: Any) -> None:
        loop.settings = dataclasses.replace(loop.settings, data=_first(loop.settings.data, count))

    return Hook({"open": change})


def _first(data: Any, count: int) -> Any:
    if not hasattr(data, "__iter__"):

        def batch_of(step: int) -> Any:
            return data(step % count)

        return batch_of
    batches = Batches(data)
    return _FirstResumable(batches, count) if batches.resumable else itertools.cycle(_copies(batches, count))


def _copies(batches: Batches, count: int) -> Iterator[Any]:
    for _ in range(count):
        try:
            batch = batches.take()
        except StopIteration:
            return
        yield jax.tree.map(_copied, batch)


def _copied(leaf: Any) -> Any:
    if isinstance(leaf, jax.Array):
        return jnp.copy(leaf)
    return np.array(cast("Any", leaf)) if isinstance(leaf, np.ndarray) else leaf


class _FirstResumable:
    """The first batches of data that knows its position, again and again."""

    def __init__(self, batches: Batches, count: int) -> None:
        self._batches, self._count = batches, count
        self._start: Any = batches.position()
        self._held: list[Any] = []
        self._taken = 0

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if not self._held:
            self._held = list(_copies(self._batches, self._count))
            if not self._held:
                raise StopIteration
        self._taken += 1
        return self._held[(self._taken - 1) % len(self._held)]

    def get_state(self) -> dict[str, Any]:
        return {"start": self._start, "taken": self._taken}

    def set_state(self, state: dict[str, Any]) -> None:
        self._batches.seek(state["start"], 0)
        self._start, self._taken, self._held = state["start"], state["taken"], []


def profile(start: int = 10, steps: int = 5, folder: str | os.PathLike[str] | None = None) -> Hook:
    """Return a hook that records a few steps with ``jax.profiler``, for xprof, TensorBoard or Perfetto.

    Args:
      start: after how many steps of this start of the run it begins; the first ones compile. From 1 on.
      steps: how many steps are recorded; from 1 on.
      folder: where; by default ``profile`` in the folder of the run.

    Raises:
      ArgumentError: an argument is out of its domain.
      LoopArgumentError: there is neither a folder nor a run.

    Example:
      >>> from batiste import train
      >>> hook = train.profile(start=10, steps=3)  # for `hooks=` of `train.fit`
      >>> sorted(hook.calls)
      ['end', 'start', 'step']
    """
    whole_number(start, "start", "profile", low=1)
    whole_number(steps, "steps", "profile", low=1)
    given: Any = folder
    if given is not None and not isinstance(given, str | os.PathLike):
        raise refused(given, "folder", "profile", "a path", 'Write folder="profile".')
    if folder is not None:
        path(folder, "folder", "profile")
    seen = {"steps": 0, "on": 0}

    def place(loop: Any) -> Path:
        if folder is None and loop.settings.run is None:
            reason = "there is no run to write into"
            cure = "Give profile() a folder, or the loop a run."
            raise LoopArgumentError(name="hooks", value="with profile()", reason=reason, cure=cure)
        return loop.settings.run.folder / "profile" if folder is None else Path(folder)

    def begin(loop: Any) -> None:
        place(loop)

    def look(loop: Any) -> None:
        seen["steps"] += 1
        if seen["steps"] == start:
            jax.block_until_ready(loop.metrics)
            jax.profiler.start_trace(str(place(loop)))
            seen["on"] = 1
        elif seen["steps"] == start + steps:
            end(loop)

    def end(loop: Any) -> None:
        if seen["on"]:
            seen["on"] = 0
            jax.block_until_ready(loop.metrics)
            jax.profiler.stop_trace()

    return Hook({"start": begin, "step": look, "end": end})


@dataclasses.dataclass(frozen=True)
class LearningRates:
    """What a search for a learning rate has found.

    Attributes:
      rates: the rates that were tried, from low to high.
      losses: the smoothed loss after a step with each.
      suggested: the rate at which the loss fell fastest; None where it never fell.

    Example:
      >>> from batiste import train
      >>> found = train.LearningRates((0.1, 0.2), losses=(1.0, 0.5), suggested=0.2)
      >>> found.suggested
      0.2
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    suggested: float | None


def find_learning_rate(
    step: Callable[[State, Batch], tuple[State, Any]],
    state: State,
    data: Iterable[Batch] | Callable[[int], Batch],
    *,
    low: float = 1e-6,
    high: float = 1.0,
    steps: int = 100,
    metric: str = "loss",
) -> LearningRates:
    """Return the losses of a short run whose learning rate grows from step to step, and the rate to begin with.

    The optimiser must keep its rate in its state: ``optax.inject_hyperparams(optax.adam)(learning_rate=1e-3)``. The
    state that is given is copied and stays as it is. The run ends early when the loss is four times its best.

    Args:
      step: as ``fit`` takes it.
      state: the state to begin with.
      data: as ``fit`` takes it.
      low: the first rate, above 0.
      high: the last one, above ``low``.
      steps: how many rates are tried; from 3 on.
      metric: the metric that is looked at.

    Raises:
      LearningRateError: there is no rate in the state.
      ArgumentError: an argument is out of its domain.

    Reference: Smith, "Cyclical Learning Rates for Training Neural Networks" (2017), section 3.3.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import optax
      >>> from batiste import nn, train
      >>> tx = optax.inject_hyperparams(optax.sgd)(learning_rate=0.1)
      >>> x = jnp.ones((2, 3))
      >>> state = train.TrainState.init(nn.Dense(1), tx, jax.random.key(0), x)
      >>> step = train.make_step(lambda model, x: model(x) ** 2)
      >>> found = train.find_learning_rate(step, state, lambda n: x, steps=3)
      >>> len(found.rates)
      3
    """
    text(metric, "metric", "find_learning_rate", what="the name of a metric")
    number(low, "low", "find_learning_rate", above=0)
    number(high, "high", "find_learning_rate", above=low)
    whole_number(steps, "steps", "find_learning_rate", low=3)
    rates = [float(low * (high / low) ** (n / (steps - 1))) for n in range(steps)]
    losses: list[float] = []
    smooth: dict[str, float] = {"mean": 0.0}

    def look(loop: Any) -> None:
        loss = float(loop.row[metric]) if metric in loop.row else math.nan
        smooth["mean"] = 0.9 * smooth["mean"] + 0.1 * loss
        value = smooth["mean"] / (1 - 0.9 ** (len(losses) + 1))
        if not math.isfinite(value) or (len(losses) > 3 and value > 4 * abs(min(losses)) + 1e-12):
            loop.stop("the loss has grown")
            return
        losses.append(value)
        if loop.step < steps:
            loop.state = _with_rate(loop.state, rates[int(loop.step)])

    copied: Any = jax.tree.map(_copied, state)
    loop = Loop(
        step, _with_rate(copied, rates[0]), data, steps=steps, log_every=1, log=None, finite=False,
        hooks=[Hook({"row": look})],
    )  # fmt: skip
    for _ in loop:
        pass
    if not losses and metric not in loop.row:
        known = ", ".join(name for name in loop.row if name != "step")
        raise refused(metric, "metric", "find_learning_rate", f"one of {known}")
    tried = rates[: len(losses)]
    return LearningRates(tuple(tried), tuple(losses), _steepest(tried, losses))


def _steepest(rates: list[float], losses: list[float]) -> float | None:
    """Return the rate at which the loss fell fastest, before its lowest value and after the first noise."""
    first, last = len(losses) // 10, int(np.argmin(np.asarray(losses))) + 1 if losses else 0
    if last - first < 3:
        return None
    slopes = np.gradient(np.asarray(losses[first:last]), np.log(np.asarray(rates[first:last])))
    best = int(np.argmin(slopes))
    return rates[first + best] if slopes[best] < 0 else None


def _with_rate(state: State, rate: float) -> State:
    """Return a state whose optimiser has another learning rate."""
    found: list[str] = []

    def put(path: Any, leaf: Any) -> Any:
        names = path_string(path).split("/")
        if len(names) > 1 and names[-1] == _RATE and names[-2] == "hyperparams":
            found.append(path_string(path))
            return jnp.full(jnp.shape(leaf), rate, jnp.result_type(leaf))
        return leaf

    changed = jax.tree_util.tree_map_with_path(put, state)
    if not found:
        raise LearningRateError(kind=type(state).__name__)
    return changed
