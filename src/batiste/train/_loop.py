"""The training loop: a step, data, and a run that can be interrupted at any moment.

``Loop`` is an iterator over steps, and ``fit`` runs it to its end. Between two steps, all that a run consists of is in
three places: the state, the position of the data, and the metrics since the last row. They are saved together, as
one checkpoint, which is there whole or not at all. So a run that was killed goes on from its last checkpoint, and its
result has the same bits as that of a run that was not.

What happens after each step, in order: a row of metrics is written if one is due, with an evaluation if one is due; the
body of the user's ``for`` runs; the state is saved if that is due, so that what the body did to it is saved too.
Nothing but these waits for the device, and a row without an evaluation is written only when the next step has begun.
"""

from __future__ import annotations

import contextlib
import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import jax

from batiste.errors import (
    CheckpointMismatchError,
    DataExhaustedError,
    DataPositionWarning,
    LoopArgumentError,
    NonFiniteMetricError,
    RunMismatchError,
)
from batiste.train._compile_cache import compile_cache_for_now
from batiste.train._data import Batches
from batiste.train._metrics import Metrics, Row, Rows, evaluation, log_row
from batiste.train._step import as_computed, as_given, check_step, compile_step, give_up, is_compiled, placed
from batiste.train._stop import Stop, stop_signals

if TYPE_CHECKING:
    from batiste.checkpoint import Manager

__all__ = ["Loop", "fit"]

State = TypeVar("State")
Batch = TypeVar("Batch")
_SAVED_AS = "loop"  # in the metadata of a checkpoint


class Loop(Generic[State]):
    """A training run, step by step: ``for n, metrics in loop`` gives the number of each step and its metrics.

    The metrics are on the device; to look at one is to wait for it. ``loop.state`` may be read, and replaced, in the
    body of the ``for``. Leaving the body early ends nothing: iterating again goes on, and ``save`` saves.

    Where ``run`` has a checkpoint, the state is the one that was saved. The state that was given is used up in either
    case: the compiled step writes into its arrays.

    Args:
      step: a pure function from a state and a batch to the next state and a tree of scalars. It is compiled, unless it
        is already what ``jax.jit`` returns.
      state: any pytree; arrays stay on the devices where they are.
      data: an iterable of batches, or a function from the number of steps done to the next batch.
      steps: how many steps the whole run has, with those done before an interruption; None ends with the data.
      run: the checkpoints of the run, in whose folder are also its metrics, ``metrics.jsonl``. While it is iterated,
        SIGTERM and SIGINT end the run after the step at hand, once the state is saved.
      save_every: how many steps apart checkpoints are; the last step is always saved.
      log_every: how many steps apart rows of metrics are, each the mean over these steps.
      log: called with each row; ``show`` prints it, and by default it is logged at the level of information.
      evaluate: a function from a state to a tree of scalars, which go into a row as ``eval/...``.
      evaluate_every: how many steps apart evaluations are.
      finite: whether a metric of a step that is NaN or infinite ends the run.
      compile_cache: whether compiled programs are kept for the next start, in ``compiled`` in the folder of ``run``
        unless JAX has a folder for them already; or a folder for them, which several runs may share.

    Attributes:
      state: the state after ``step`` steps.
      step: how many steps are done.

    Raises:
      LoopArgumentError: an argument cannot work.
      RunMismatchError: ``run`` has checkpoints of another state.
    """

    def __init__(
        self,
        step: Callable[[State, Batch], tuple[State, Any]],
        state: State,
        data: Iterable[Batch] | Callable[[int], Batch],
        *,
        steps: int | None = None,
        run: Manager | None = None,
        save_every: int = 1000,
        log_every: int = 100,
        log: Callable[[Row], Any] | None = log_row,
        evaluate: Callable[[State], Any] | None = None,
        evaluate_every: int = 1000,
        finite: bool = True,
        compile_cache: bool | str | os.PathLike[str] = True,
    ) -> None:
        least = {"steps": (steps or 0, 0), "save_every": (save_every, 1), "log_every": (log_every, 1)}
        for name, (value, smallest) in {**least, "evaluate_every": (evaluate_every, 1)}.items():
            if value < smallest:
                raise LoopArgumentError(
                    name=name, value=value, reason="it counts steps", cure=f"Give a number from {smallest} on."
                )
        self.step = 0
        self.state = as_computed(state)
        self._given_step = step
        self._data: Iterable[Any] | Callable[[int], Any] = data
        self._batches: Batches | None = None
        self._position: Any = None
        self._steps = steps
        self._run = run
        self._save_every, self._log_every, self._evaluate_every = save_every, log_every, evaluate_every
        self._evaluate = evaluate
        self._cache = _cache_folder(run, compile_cache)
        self._metrics = Metrics(finite=finite)
        self._rows = Rows(None if run is None else run.folder / "metrics.jsonl", log)
        self._late: int | None = None  # the step of a row that is due and not written
        self._unfinished = False  # whether a signal has ended the evaluation of this step
        self._row: Row = {}  # the latest one
        self._saved: int | None = None
        self._checked = False
        if run is not None:
            self._resume(run)
        self.state = placed(self.state)
        self._step = compile_step(step, self.state)

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        """Go on with the run.

        Raises:
          StepResultError: the step does not return the next state and metrics.
          MetricError: a metric is no scalar.
          NonFiniteMetricError: a metric of a step is NaN or infinite.
          DataExhaustedError: the data ends before the run.
          DataPositionError: the run was interrupted, and the data cannot go on where it was.
          KeyboardInterrupt: SIGINT has come; the state is saved, or it has come twice.
          SystemExit: SIGTERM has come, and the state is saved; the status is 143.
        """
        if self._steps is not None and self.step >= self._steps and not self._unfinished:
            return
        with compile_cache_for_now(self._cache), stop_signals(taken=self._run is not None) as stop:
            try:
                yield from self._go_on(stop)
            except KeyboardInterrupt:  # saved already, or in a hurry
                raise
            except BaseException:
                if self._run is not None:
                    self._run.wait()
                raise

    def save(self) -> None:
        """Save the state, the position of the data and the metrics since the last row, in the background.

        Raises:
          LoopArgumentError: the loop has no ``run``.
          NonFiniteMetricError: a metric of a step is NaN or infinite; nothing is saved.
        """
        if self._run is None:
            cure = 'Give the loop its checkpoints: run=checkpoint.Manager("runs/name").'
            raise LoopArgumentError(name="run", value=None, reason="there is nowhere to save", cure=cure)
        if self.step in (0, self._saved):
            return
        self._write_late_row()
        self._metrics.read(self.step)
        self._rows.flush()
        known = self._row if self._row.get("step") == self.step else {}
        saved = {
            "data": self._position if self._batches is None else self._batches.position(),
            "metrics": self._metrics.state(),
            "unfinished": self._unfinished,
        }
        self._run.save_async(
            self.step,
            as_computed(self.state),  # which the body of the ``for`` may have replaced
            metrics={name: value for name, value in known.items() if name != "step" and math.isfinite(value)},
            metadata={_SAVED_AS: saved},
        )
        self._saved = self.step

    def _resume(self, run: Manager) -> None:
        """Take what the latest checkpoint holds, and remove what came after it."""
        last = run.latest()
        saved: Any = {}
        if last is not None:
            given = self.state
            try:
                self.state = as_given(run.restore(given, step=last), given)
            except CheckpointMismatchError as error:
                raise RunMismatchError(folder=run.folder, step=last, lines=error.context["lines"]) from error
            if not is_compiled(self._given_step):
                give_up(given)
            saved = run.open(last).metadata.get(_SAVED_AS, {})
            self._position = saved.get("data")
            self.step = self._saved = last
        run.cleanup()
        if not self._rows.cut(self.step):  # else this was done on an earlier resumption
            self._metrics.load(saved.get("metrics", {}))
            self._unfinished = saved.get("unfinished", False)

    def _go_on(self, stop: Stop) -> Iterator[tuple[int, Any]]:
        batches = self._open_data()
        if self._unfinished:
            self._write_row(stop)
        while (self._steps is None or self.step < self._steps) and stop.signal is None:
            try:
                batch = batches.take(self.step)
            except StopIteration:
                break
            if not self._checked:
                check_step(self._given_step, self.state, batch)
                self._checked = True
            self.state, metrics = self._step(self.state, batch)
            self.step += 1
            self._metrics.add(self.step, metrics)
            self._write_late_row()
            if self._evaluates() or self.step == self._steps:
                self._write_row(stop)
            elif self.step % self._log_every == 0:
                self._late = self.step
            try:
                yield self.step, metrics
            except GeneratorExit:  # the body was left
                with contextlib.suppress(NonFiniteMetricError):
                    self._write_late_row()
                raise
            if self._run is not None and self.step % self._save_every == 0:
                self.save()
        self._end(stop)

    def _end(self, stop: Stop) -> None:
        """Save, and say why the run has ended."""
        self._write_late_row()
        if stop.signal is None and self._steps is None and self._metrics.any:
            self._write_row(stop)  # of the steps since the last one
        if self._run is not None:
            self.save()
            self._run.wait()
        stop.leave()
        if self._steps is not None and self.step < self._steps:
            raise DataExhaustedError(step=self.step, steps=self._steps)

    def _open_data(self) -> Batches:
        """Return the data, where it was when the state was saved."""
        if self._batches is None:
            batches = Batches(self._data)
            if self.step > 0:
                batches.seek(self._position, self.step)
            elif self._run is not None and batches.resumable:
                batches.position()  # that it cannot be saved is better known now
            elif self._run is not None:
                text = (
                    "This run is saved, but it cannot go on after an interruption: its data is neither a function of "
                    "the step nor has it get_state() and set_state()."
                )
                warnings.warn(text, DataPositionWarning, stacklevel=4)
            self._batches = batches
        return self._batches

    def _evaluates(self) -> bool:
        return self._evaluate is not None and self.step % self._evaluate_every == 0

    def _write_row(self, stop: Stop) -> None:
        """Write the row of this step, unless a signal ends its evaluation: then it is written on resumption."""
        self._metrics.read(self.step)
        evaluated: Row | None = {}
        if self._evaluate is not None and self._evaluates():
            function, state = self._evaluate, self.state
            evaluated = stop.unless_asked(lambda: evaluation(function(state)))
        self._unfinished = evaluated is None
        if evaluated is not None:
            self._row = {"step": self.step, **self._metrics.means(), **evaluated}
            self._rows.write(self._row)

    def _write_late_row(self) -> None:
        """Write the row of an earlier step that is due; its metrics are there, or will be soon."""
        if self._late is not None:
            due, self._late = self._late, None
            self._metrics.read(due)
            self._row = {"step": due, **self._metrics.means()}
            self._rows.write(self._row)


def _cache_folder(run: Manager | None, option: bool | str | os.PathLike[str]) -> str | os.PathLike[str] | None:
    """Return the folder for compiled programs that a loop is to use; None for whatever JAX does by itself."""
    if not isinstance(option, bool):
        return option
    config: Any = jax.config
    chosen = config.jax_compilation_cache_dir is not None
    return None if run is None or chosen or not option else run.folder / "compiled"


def fit(
    step: Callable[[State, Batch], tuple[State, Any]],
    state: State,
    data: Iterable[Batch] | Callable[[int], Batch],
    *,
    steps: int | None = None,
    run: Manager | None = None,
    save_every: int = 1000,
    log_every: int = 100,
    log: Callable[[Row], Any] | None = log_row,
    evaluate: Callable[[State], Any] | None = None,
    evaluate_every: int = 1000,
    finite: bool = True,
    compile_cache: bool | str | os.PathLike[str] = True,
) -> State:
    """Train from the start, or from where an earlier run was interrupted, to the end, and return the state.

    The arguments are those of ``Loop``, and so are the errors, with those of iterating over one.
    """
    loop = Loop(
        step,
        state,
        data,
        steps=steps,
        run=run,
        save_every=save_every,
        log_every=log_every,
        log=log,
        evaluate=evaluate,
        evaluate_every=evaluate_every,
        finite=finite,
        compile_cache=compile_cache,
    )
    del state  # used up
    for _ in loop:
        pass
    return loop.state
