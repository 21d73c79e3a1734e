"""The training loop: a step, data, and a run that can be interrupted at any moment.

``Loop`` is an iterator over steps, and ``fit`` runs it to its end. Between two steps, all that a run consists of is in
three places: the state, the position of the data, and the metrics since the last row. They are saved together, as
one checkpoint, which is there whole or not at all. So a run that was killed goes on from its last checkpoint, and its
result has the same bits as that of a run that was not.

What happens after each step, in order: a row of metrics is written if one is due, with an evaluation if one is due; the
body of the user's ``for`` runs; the state is saved if that is due, so that what the body did to it is saved too.
Nothing but these waits for the device, and a row without an evaluation is written only when the next step has begun.

A loop can be left in the middle of this: by ``break`` or an exception in the body, by the data, an evaluation or a
``log`` that raises, by a signal. A step whose save is due is saved then all the same, and where that fails, an error or
a warning says so; what cannot be done any more is done when the loop is iterated again.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import jax

from batiste.errors import (
    CheckpointMismatchError,
    DataExhaustedError,
    DataPositionWarning,
    LoopArgumentError,
    NonFiniteMetricError,
    RunMismatchError,
    UnsavedStepWarning,
)
from batiste.train._arguments import check_best, check_loop
from batiste.train._compile_cache import compile_cache_for_now
from batiste.train._data import Batches
from batiste.train._memory import apart, check_there, give_up, has_arrays, own_batch, own_state
from batiste.train._metrics import Metrics, Row, Rows, evaluation, log_row, non_finite
from batiste.train._processes import Crew
from batiste.train._step import as_given, as_program, check_next, check_step, compile_step, explain_failure, is_compiled
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
    body of the ``for``. Leaving the body early ends nothing: a step that is due is saved, iterating again goes on, and
    ``save`` saves.

    Where ``run`` has a checkpoint, the state is the one that was saved. The state that was given is used up in either
    case: the compiled step writes into its arrays. So it does with each state that the loop hands out; copy what is
    to outlive a step. Batches stay the caller's: a NumPy array may be filled again for the next one.

    Args:
      step: a pure function from a state and a batch to the next state and a tree of scalars. It is compiled, unless it
        is already what ``jax.jit`` returns.
      state: any pytree of arrays and numbers; arrays of JAX stay on the devices where they are, and those of NumPy
        become arrays of JAX in the dtypes that it computes in.
      data: an iterable of batches, or a function from the number of steps done to the next batch; batches are trees of
        arrays and numbers.
      steps: how many steps the whole run has, with those done before an interruption; None ends with the data.
      run: the checkpoints of the run, in whose folder are also its metrics, ``metrics.jsonl``; a path is the folder,
        where all checkpoints are kept. While it is iterated, SIGTERM and SIGINT end the run after the step at hand,
        once the state is saved.
      save_every: how many steps apart checkpoints are; the last step is always saved. This and the other distances are
        whole numbers from 1 on.
      log_every: how many steps apart rows of metrics are, each the mean over these steps.
      log: called with each row, on process 0 where there are several; ``show`` prints it, and by default it is logged
        at the level of information.
      evaluate: a function from a state to a tree of scalars, which go into a row as ``eval/...``.
      evaluate_every: how many steps apart evaluations are.
      finite: whether a metric of a step that is NaN or infinite ends the run.
      compile_cache: whether compiled programs are kept for the next start, in ``compiled`` in the folder of ``run``
        unless JAX has a folder for them already; or a folder for them, which several runs may share.

    Attributes:
      state: the state after ``step`` steps.
      step: how many steps are done.

    Raises:
      LoopArgumentError: an argument cannot work, or ``KeepBest`` of ``run`` asks for a metric that there cannot be.
      DeletedArrayError: the state was used up by an earlier step.
      RunMismatchError: ``run`` has checkpoints of another state.
    """

    def __init__(
        self,
        step: Callable[[State, Batch], tuple[State, Any]],
        state: State,
        data: Iterable[Batch] | Callable[[int], Batch],
        *,
        steps: int | None = None,
        run: Manager | str | os.PathLike[str] | None = None,
        save_every: int = 1000,
        log_every: int = 100,
        log: Callable[[Row], Any] | None = log_row,
        evaluate: Callable[[State], Any] | None = None,
        evaluate_every: int = 1000,
        finite: bool = True,
        compile_cache: bool | str | os.PathLike[str] = True,
    ) -> None:
        checked = check_loop(
            step, state, data, steps, run, save_every, log_every, log, evaluate, evaluate_every, finite, compile_cache
        )
        self.step = 0
        self._state = own_state(state)
        self._lent = True  # whether others may have names for the arrays of the state
        self._given_step = as_program(step)
        self._data: Iterable[Any] | Callable[[int], Any] = data
        self._batches: Batches | None = None
        self._position: Any = None
        self._steps = checked.steps
        self._run = checked.run
        self._save_every, self._log_every, self._evaluate_every = checked.every
        self._evaluate = evaluate
        self._cache = _cache_folder(self._run, compile_cache)
        self._metrics = Metrics(finite=finite)
        self._crew = Crew()
        folder = None if self._run is None else self._run.folder
        self._crew.begin({"steps": checked.steps, "every": checked.every, "finite": finite, "run": str(folder)})
        first = self._crew.first
        self._rows = Rows(folder / "metrics.jsonl" if folder is not None and first else None, log if first else None)
        self._late: int | None = None  # the step of a row that is due and not written
        self._unfinished = False  # whether the evaluation of this step was ended before its end
        self._row: Row = {}  # the latest one
        self._names: list[str] | None = None  # of the metrics of a step
        self._saved: int | None = None
        self._tried: int | None = None  # the step that was to be saved last
        self._replaced = False  # whether the state is another since it was saved
        self._checked = False
        if self._run is not None:
            self._resume(self._run)
        self._step = compile_step(self._given_step, self._state)

    @property
    def state(self) -> State:
        """The state after ``step`` steps; its arrays live until the next step."""
        self._lent = True
        return self._state

    @state.setter
    def state(self, state: State) -> None:
        owned = own_state(state)
        check_next(self._state, owned)
        self._state = owned
        self._lent = self._replaced = True
        self._tried = None

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
        finished = self._steps is not None and self.step >= self._steps
        if finished and not self._unfinished and not self._is_due():
            return
        with compile_cache_for_now(self._cache), self._stop_signals() as stop:
            try:
                yield from self._go_on(stop)
            except BaseException as error:
                self._leave(error, stop)
                self._crew.explain(error, self.step)
                raise

    def save(self) -> None:
        """Save the state, the position of the data and the metrics since the last row, in the background.

        Raises:
          LoopArgumentError: the loop has no ``run``.
          DeletedArrayError: the state was used up outside of the loop, by an ``evaluate`` that donates it or the like.
          NonFiniteMetricError: a metric of a step is NaN or infinite; nothing is saved.
          BatisteError: what a save ended with, this one or the one before.
        """
        if self._run is None:
            cure = 'Give the loop its checkpoints: run=checkpoint.Manager("runs/name").'
            raise LoopArgumentError(name="run", value=None, reason="there is nowhere to save", cure=cure)
        if self.step == self._saved and not self._replaced:
            return
        self._tried = self.step
        self._write_late_row()
        self._read_metrics(self.step)
        self._rows.flush()
        known = self._row if self._row.get("step") == self.step else {}
        saved = {
            "data": self._position if self._batches is None else self._crew.positions(self._batches.position()),
            "metrics": self._metrics.state(),
            "unfinished": self._unfinished,
        }
        check_there(self._state, f"The state after step {self.step}")
        if self._lent:  # a body that has the state may have put something else into its dicts
            self._state = own_state(self._state)
        self._run.save_async(
            self.step,
            self._state,
            metrics={name: value for name, value in known.items() if name != "step" and math.isfinite(value)},
            metadata={_SAVED_AS: saved},
            overwrite=self.step == self._saved,
        )
        self._saved, self._replaced = self.step, False

    def _resume(self, run: Manager) -> None:
        """Take what the latest checkpoint holds, and remove what came after it."""
        last = self._crew.agreed(run.latest())
        saved: Any = {}
        if last is not None:
            given = self._state
            try:
                self._state = own_state(as_given(run.restore(given, step=last), given))
            except CheckpointMismatchError as error:
                raise RunMismatchError(folder=run.folder, step=last, lines=error.context["lines"]) from error
            if not is_compiled(self._given_step):
                give_up(given)
            saved = run.open(last).metadata.get(_SAVED_AS, {})
            self._position = saved.get("data")
            self.step = self._saved = last
        run.cleanup()
        if not self._crew.said_by_first(self._rows.cut(self.step)):  # else this was done on an earlier resumption
            self._metrics.load(saved.get("metrics", {}))
            self._unfinished = saved.get("unfinished", False)

    def _stop_signals(self) -> AbstractContextManager[Stop]:
        return stop_signals(taken=self._run is not None, shared=self._crew.several)

    def _go_on(self, stop: Stop) -> Iterator[tuple[int, Any]]:
        self._check_finite()
        batches = self._open_data()
        if self._unfinished:
            self._write_row(stop)
        if self._is_due():  # it was left before it could be saved
            self.save()
        while (self._steps is None or self.step < self._steps) and not stop.look(self.step):
            try:
                batch = batches.take(self.step)
            except StopIteration:
                break
            metrics = self._do(own_batch(batch, self.step + 1))
            self._metrics.add(self.step, metrics)
            self._write_late_row()
            if self._evaluates() or self.step == self._steps:
                self._write_row(stop)
            elif self.step % self._log_every == 0:
                self._late = self.step
            yield self.step, metrics
            if self._run is not None and self.step % self._save_every == 0:
                self.save()
        self._end(stop)

    def _do(self, batch: Any) -> Any:
        """Do a step, and return its metrics."""
        if self._lent and has_arrays(batch):
            self._state = apart(self._state, batch)
        if not self._checked:
            with self._crew.together("looking at the first step"):
                check_there(batch, f"The batch of step {self.step + 1}")
                self._names = check_step(self._given_step, self._state, batch)
            self._crew.check_batch(batch)
            check_best(self._run, self._names, evaluates=self._evaluate is not None)
            self._crew.check_program(self._given_step, self._state, batch)
            self._checked = True
        try:
            self._state, metrics = self._step(self._state, batch)
        except Exception as error:
            explain_failure(self._state, batch, self.step + 1, error)
            raise
        self._lent = False
        self.step += 1
        return metrics

    def _is_due(self) -> bool:
        """Whether this step is to be saved and is not."""
        if self._run is None or self.step == 0 or (self.step == self._saved and not self._replaced):
            return False
        return self.step % self._save_every == 0 or self.step == self._steps

    def _leave(self, error: BaseException, stop: Stop) -> None:
        """Do what is due when the loop is left by an error, or by the end of its iterator after a ``break``."""
        if stop.hurried or (self._crew.several and not isinstance(error, GeneratorExit)):
            return  # what the other processes do now is not known
        problems: list[Exception] = []
        try:
            self._write_late_row()
        except NonFiniteMetricError:
            pass  # it is not forgotten: whoever reads metrics next is told
        except Exception as problem:  # noqa: BLE001 - a log that raises must not cost a checkpoint
            problems.append(problem)
        try:
            asked = stop.signal is not None and self._run is not None and self.step > 0
            if (asked or self._is_due()) and self.step != self._tried and self._crew.all_leave(self.step):
                self.save()
            if self._run is not None:
                self._run.wait()
        except Exception as problem:  # noqa: BLE001 - it is told below
            problems.append(problem)
        for problem in problems:
            text = f"When the loop was left after step {self.step}: {type(problem).__name__}: {problem}"
            if isinstance(error, GeneratorExit):  # Python drops what is raised while an iterator is closed
                warnings.warn(text, UnsavedStepWarning, stacklevel=4)
            else:
                error.add_note(text)

    def _end(self, stop: Stop) -> None:
        """Save, and say why the run has ended."""
        self._write_late_row()
        if stop.signal is None and self._steps is None and self._metrics.any:
            self._write_row(stop)  # of the steps since the last one
        if self._run is not None:
            if self.step > 0:
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
                batches.seek(self._crew.position(self._position, self.step), self.step)
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
        """Write the row of this step, unless its evaluation is ended: then it is written when the run goes on."""
        self._read_metrics(self.step)
        evaluated: Row | None = {}
        if self._evaluate is not None and self._evaluates():
            function, state = self._evaluate, self.state
            self._unfinished = True
            evaluated = stop.unless_asked(lambda: evaluation(function(state)))
        self._unfinished = evaluated is None
        if evaluated is not None:
            self._row = {"step": self.step, **self._metrics.means(), **evaluated}
            self._rows.write(self._row)
            if evaluated and self._names is not None:
                check_best(self._run, [*self._names, *evaluated], evaluates=False)

    def _write_late_row(self) -> None:
        """Write the row of an earlier step that is due; its metrics are there, or will be soon."""
        if self._late is not None:
            due, self._late = self._late, None
            self._read_metrics(due)
            self._row = {"step": due, **self._metrics.means()}
            self._rows.write(self._row)

    def _read_metrics(self, last: int) -> None:
        """Wait for the metrics up to a step.

        Raises:
          NonFiniteMetricError: one has not been finite, now or before.
        """
        self._metrics.read(last)
        self._check_finite()

    def _check_finite(self) -> None:
        if self._metrics.bad is not None:
            raise non_finite(self._metrics.bad, self.step, self._state, self._run)


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
    run: Manager | str | os.PathLike[str] | None = None,
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
