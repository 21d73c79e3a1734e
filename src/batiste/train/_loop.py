"""The training loop: a step, data, and a run that can be interrupted at any moment.

``Loop`` is an iterator over steps, and ``fit`` runs it to its end. Between two steps, all that a run consists of is in
three places: the state, the position of the data, and the metrics since the last row. They are saved together, as
one checkpoint, which is there whole or not at all. So a run that was killed goes on from its last checkpoint, and its
result has the same bits as that of a run that was not.

What happens after each step, in order: a row of metrics is written if one is due, with an evaluation if one is due; the
hooks are called; the body of the user's ``for`` runs; the state is saved if that is due, with what hooks and body did.
Nothing else waits for the device, and a row without an evaluation is written when the next step has begun.

A loop can be left in the middle of this: by ``break`` or an exception in the body, by the data, an evaluation or a
``log`` that raises, by a signal. A step whose save is due is saved then all the same, and where that fails, an error or
a warning says so; what cannot be done any more is done when the loop is iterated again.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import jax
import numpy as np

from batiste.errors import (
    CheckpointMismatchError,
    DataExhaustedError,
    DataPositionError,
    DataPositionWarning,
    DeletedArrayError,
    LoopArgumentError,
    NonFiniteMetricError,
    RunMismatchError,
    UnsavedStepWarning,
)
from batiste.train._arguments import check_best, check_loop
from batiste.train._compile_cache import cache_folder, compile_cache_for_now
from batiste.train._config import keep_config
from batiste.train._data import Batches, decode, encode
from batiste.train._folder import Folder
from batiste.train._hooks import Hook, Hooks, check_hooks
from batiste.train._judge import GoBackError, Judge
from batiste.train._memory import apart, check_there, give_up, has_arrays, own_batch, own_state
from batiste.train._metrics import Metrics, Row, Rows, evaluation, log_row
from batiste.train._nonfinite import NonFinite, compiled
from batiste.train._processes import Crew
from batiste.train._settings import Settings
from batiste.train._step import as_given, as_program, check_next, check_step, explain_failure, is_compiled, prepared
from batiste.train._stop import Stop, stop_signals

if TYPE_CHECKING:
    from batiste.checkpoint import Manager

__all__ = ["Loop"]

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
      log: called with each row, or several of them, on process 0 where there are several processes; ``show`` prints it,
        and by default it is logged at the level of information.
      evaluate: a function from a state to a tree of scalars, which go into a row as ``eval/...``.
      evaluate_every: how many steps apart evaluations are.
      finite: whether a metric of a step that is NaN or infinite ends the run; or what becomes of such a step:
        ``"skip"``, ``"return"`` or a ``NonFinite``, which says what they do.
      compile_cache: whether compiled programs are kept for the next start, in ``compiled`` in the folder of ``run``
        unless JAX has a folder for them already; or a folder for them, which several runs may share.
      hooks: functions ``(loop) -> None``, called after each step; or at other moments, as ``at`` and ``Hook`` say.
      save_errors: what becomes of a save that fails: ``"raise"`` ends the run, ``"warn"`` lets it go on in memory.
      config: a dataclass or a dict, written to ``config.json`` in the folder of ``run``; if it is another one when the
        run goes on, a ``ConfigChangedWarning`` names the fields.
      report: whether the folder of ``run`` has a page about it, ``report.html``, and a record of its starts.

    Attributes:
      state: the state after ``step`` steps.
      step: how many steps are done.
      metrics: those of the latest step, on the device.
      row: the latest row.
      kept: values by name that hooks keep; they are saved with the state. None, numbers, strings, bytes, arrays, and
        lists, tuples and dicts of these.
      stopped: why the run was stopped, by ``stop``; None goes on.
      skipped: how many steps were skipped, or left out.
      examples: how many examples the latest batch had: the first axis of its first array.
      settings: the arguments; a hook may replace them at the moment ``"open"``.

    Raises:
      ArgumentError: an argument is not in its domain.
      LoopArgumentError: the data gives no batches, or ``KeepBest`` of ``run`` asks for a metric that there cannot be.
      DeletedArrayError: the state was used up by an earlier step.
      RunMismatchError: ``run`` has checkpoints of another state.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import train
      >>> step = lambda state, x: (state + x, {"loss": state})
      >>> loop = train.Loop(step, jnp.zeros(()), [1.0, 2.0, 3.0], log=None)
      >>> for n, metrics in loop:
      ...     print(n, metrics["loss"])
      1 0.0
      2 1.0
      3 3.0
      >>> loop.state.item()
      6.0
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
        log: Callable[[Row], Any] | Sequence[Callable[[Row], Any]] | None = log_row,
        evaluate: Callable[[State], Any] | None = None,
        evaluate_every: int = 1000,
        finite: bool | Literal["stop", "skip", "return", "pass"] | NonFinite = True,
        compile_cache: bool | str | os.PathLike[str] = True,
        hooks: Sequence[Hook | Callable[[Loop[State]], Any]] = (),
        save_errors: Literal["raise", "warn"] = "raise",
        config: Any = None,
        report: bool = False,
    ) -> None:
        self._hooks = Hooks(check_hooks(hooks))
        self.settings: Settings = check_loop(
            step, state, data, steps, run, save_every, log_every, log, evaluate, evaluate_every, finite, compile_cache,
            save_errors, config, report,
        )  # fmt: skip
        self.step = 0
        self.row: Row = {}
        self.metrics: Any = None
        self.kept: dict[str, Any] = {}
        self.stopped: str | None = None
        self.examples = 1
        self._hooks.at("open", self)
        settings = self.settings
        self._state = own_state(prepared(step, state))
        self._lent = True  # whether others may have names for the arrays of the state
        self._given_step = as_program(step)
        self._data: Iterable[Any] | Callable[[int], Any] = settings.data
        self._batches: Batches | None = None
        self._position: Any = None
        self._interrupted = False  # whether a wait for a batch was ended
        self._steps = settings.steps
        self._run = settings.run
        self._save_every, self._log_every = settings.save_every, settings.log_every
        self._evaluate, self._evaluate_every = settings.evaluate, settings.evaluate_every
        self._cache = cache_folder(self._run, settings.compile_cache)
        self._required = settings.save_errors == "raise"
        self._metrics = Metrics(finite=settings.finite.action == "stop")
        self._judge = Judge(settings.finite, self._run)
        self._crew = Crew()
        self._crew.begin(settings.compared())
        self._rows = Rows(*settings.rows(first=self._crew.first), required=self._required)
        self._folder = Folder(settings, first=self._crew.first)
        self._late: int | None = None  # the step of a row that is due and not written
        self._unfinished = False  # whether the evaluation of this step was ended before its end
        self._paused = False  # whether it is to go on when it is started again
        self._returns = False  # whether it is to go back to its last checkpoint
        self._names: list[str] | None = None  # of the metrics of a step
        self._saved: int | None = None
        self._tried: int | None = None  # the step that was to be saved last
        self._replaced = self._checked = False  # the state since it was saved; the step, once it was looked at
        if self._run is not None:
            self._resume(self._run)
            if settings.config is not None and self._crew.first:
                keep_config(self._run.folder, settings.config, begun=self._saved is not None)
        self._step = compiled(self._given_step, self._state, settings.finite)
        if not self._crew.several and not isinstance(step, jax.stages.Compiled):
            self._judge.look_into(step, self._step)

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
        self._judge.past.forget()
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
        finished = self.stopped is not None or (self._steps is not None and self.step >= self._steps)
        if finished and not self._unfinished and not self._is_due():
            return
        self._paused = False
        with (
            compile_cache_for_now(self._cache),
            stop_signals(taken=self._run is not None, shared=self._crew.several) as stop,
            self._folder.open(self),
        ):
            try:
                yield from self._go_on(stop)
            except BaseException as error:
                self._leave(error, stop)
                self._crew.explain(error, self.step)
                raise
            finally:
                self._hooks.at("end", self)

    def stop(self, reason: str, *, finished: bool = True) -> None:
        """End the run after the step at hand; it is saved as at its last step.

        Args:
          reason: why, for people; it is saved, and is ``stopped`` from now on.
          finished: whether the run has its end with this, so that it returns at once when it is started again; else
            it goes on then.
        """
        self.stopped, self._paused = str(reason), not finished
        self._replaced = True

    @property
    def skipped(self) -> int:
        """How many steps were skipped, or batches left out, up to this step."""
        return self._judge.count(self._batches.drawn if self._batches is not None else self.step)

    @property
    def program(self) -> Any:
        """The compiled step, a function from a state and a batch."""
        return self._step

    def picture(self, name: str, image: Any) -> None:
        """Keep a picture of this step: in the folder of the run, for its page, and with the loggers that take one.

        Args:
          name: what it shows.
          image: an array ``[height, width]`` or ``[height, width, 1, 3 or 4]``; whole numbers from 0 to 255, or
            fractions from 0 to 1.

        Raises:
          ArgumentError: it is no such array.
          MissingPackageError: there is a ``run``, and matplotlib, which writes the file, is not installed.
        """
        self._folder.picture(self.step, name, np.asarray(image))

    def text(self, name: str, text: str) -> None:
        """Keep a text of this step, such as a sample, like a picture."""
        self._folder.text(self.step, name, str(text))

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
        try:
            self._save_now(self._run)
        except GoBackError:
            self._returns = True  # as soon as the loop has its turn

    def _save_now(self, run: Manager | None) -> None:
        if run is None or (self.step == self._saved and not self._replaced):
            return
        self._tried = self.step
        self._write_late_row()
        self._read_metrics(self.step)
        self._hooks.at("save", self)
        try:
            self._save(run)
        except Exception as error:
            if self._required or isinstance(error, LoopArgumentError | DeletedArrayError):
                raise
            self._warn_unsaved(error)

    def _save(self, run: Manager) -> None:
        self._rows.flush()
        known = self.row if self.row.get("step") == self.step else {}
        batches, position = self._batches, self._position
        if batches is not None:
            position = batches.position(interrupted=self._interrupted)
        saved = {
            "data": self._crew.positions(position),
            "metrics": self._metrics.state(),
            "unfinished": self._unfinished,
            **({"kept": encode(self.kept, "hooks", "what one keeps is")} if self.kept else {}),
            **({"stopped": self.stopped} if self.stopped is not None and not self._paused else {}),
            **self._judge.saved(self.step if batches is None else batches.drawn),
        }
        check_there(self._state, f"The state after step {self.step}")
        if self._lent:  # a body that has the state may have put something else into its dicts
            self._state = own_state(self._state)
        run.save_async(
            self.step,
            self._state,
            metrics={name: value for name, value in known.items() if name != "step" and math.isfinite(value)},
            metadata={_SAVED_AS: saved},
            overwrite=self.step == self._saved,
        )
        self._saved, self._replaced = self.step, False

    def _wait(self, run: Manager) -> None:
        """Wait for a save in the background."""
        try:
            run.wait()
        except Exception as error:
            if self._required:
                raise
            self._warn_unsaved(error)

    def _warn_unsaved(self, error: Exception) -> None:
        text = f"The run goes on in memory: {error}"
        warnings.warn(text, UnsavedStepWarning, stacklevel=4)

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
        self.kept.clear()
        self.kept.update(decode(saved.get("kept", {"dict": []})))
        self.stopped = saved.get("stopped")
        self._judge.load(saved, self.step)
        if not self._crew.said_by_first(self._rows.cut(self.step)):  # else this was done on an earlier resumption
            self._metrics.load(saved.get("metrics", {}))
            self._unfinished = saved.get("unfinished", False)

    def _go_back(self, run: Manager) -> None:
        """Return to the last checkpoint, and leave the batch out that the judge has named."""
        self._wait(run)
        self._late, self._unfinished, self._replaced, self._lent = None, False, False, True
        self._metrics = Metrics(finite=False)
        self._batches, self._tried = None, None
        self._resume(run)

    def _go_on(self, stop: Stop) -> Iterator[tuple[int, Any]]:
        self._judge.check(self._metrics, self.step, self._state)
        self._judge.past.begin(self.step, self._state)
        self._open_data()
        self._hooks.at("start", self)
        while True:
            try:
                yield from self._until_end(stop)
            except GoBackError:
                if self._run is None:
                    raise
                self._go_back(self._run)
            else:
                return

    def _go_back_if_asked(self) -> None:
        if self._returns:
            self._returns = False
            raise GoBackError

    def _until_end(self, stop: Stop) -> Iterator[tuple[int, Any]]:
        self._go_back_if_asked()
        batches = self._open_data()
        if self.settings.finite.action == "return" and self._saved is None:
            self._save_now(self._run)
        if self._unfinished:
            self._write_row(stop)
            if not self._unfinished:
                self._hooks.at("step", self)
        if self._is_due():  # it was left before it could be saved
            self._save_now(self._run)
        while (self._steps is None or self.step < self._steps) and not stop.look(self.step) and self.stopped is None:
            try:
                batch = self._take(batches, stop)
            except StopIteration:
                self._crew.end_of_data(self.step)
                break
            if batch is None:
                break
            metrics = self._do(own_batch(batch[0], self.step + 1), batches.drawn - 1)
            self._write_late_row()
            if self._evaluates() or self.step == self._steps:
                self._write_row(stop)
            elif self.step % self._log_every == 0:
                if self._hooks.row:
                    self._write_row(stop)
                else:
                    self._late = self.step
            if not self._unfinished:  # else they come after the evaluation
                self._hooks.at("step", self)
            yield self.step, metrics
            self._go_back_if_asked()
            if self._run is not None and self.step % self._save_every == 0:
                self._save_now(self._run)
        self._end(stop)

    def _take(self, batches: Batches, stop: Stop) -> tuple[Any] | None:
        """Return the next batch; None where a signal has ended the wait for it."""
        if self._run is None or not batches.interruptible:
            return (batches.take(),)
        drawn = batches.drawn
        batch = stop.unless_asked(lambda: (batches.take(),), patient=True)
        if batch is None:
            self._interrupted, batches.drawn = True, drawn
        return batch

    def _do(self, batch: Any, draw: int) -> Any:
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
            first: Any = next(iter(jax.tree.leaves(batch)), None)
            self.examples = int(np.shape(first)[0]) if np.ndim(first) else 1
        try:
            self._state, metrics = self._step(self._state, batch)
        except Exception as error:
            explain_failure(self._state, batch, self.step + 1, error)
            raise
        self._lent = False
        self.step += 1
        good = None
        if self.settings.finite.guards:
            metrics, good = metrics
        self.metrics = metrics
        self._metrics.add(self.step, metrics, good)
        due = self._judge.take(self.step, draw, batch)
        if due is not None:
            self._read_metrics(due)
        return metrics

    def _is_due(self) -> bool:
        """Whether this step is to be saved and is not."""
        if self._run is None or self.step == 0 or (self.step == self._saved and not self._replaced):
            return False
        return self.step % self._save_every == 0 or self.step == self._steps or self.stopped is not None

    def _leave(self, error: BaseException, stop: Stop) -> None:
        """Do what is due when the loop is left by an error, or by the end of its iterator after a ``break``."""
        if stop.hurried or (self._crew.several and not isinstance(error, GeneratorExit)):
            return  # what the other processes do now is not known
        problems: list[Exception] = []
        try:
            self._write_late_row()
        except NonFiniteMetricError:
            pass  # it is not forgotten: whoever reads metrics next is told
        except GoBackError:
            self._returns = True
        except Exception as problem:  # noqa: BLE001 - a log that raises must not cost a checkpoint
            problems.append(problem)
        try:
            asked = stop.signal is not None and self._run is not None and self.step > 0
            due = (asked or self._is_due()) and not self._returns and self.step != self._tried
            if due and self._crew.all_leave(self.step):
                self.save()
            if self._run is not None:
                self._wait(self._run)
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
        ended = stop.signal is None and (self._steps is None or self.stopped is not None)
        if ended and self._metrics.any:
            self._write_row(stop)  # of the steps since the last one
        if self._run is not None:
            if self.step > 0:
                self._save_now(self._run)
            self._wait(self._run)
        if self._interrupted and self._batches is not None:  # the data itself may be anywhere
            self._position, self._batches = self._batches.position(interrupted=True), None
        self._interrupted = False
        stop.leave()
        if self._paused:
            self.stopped, self._paused = None, False
        elif self._steps is not None and self.step < self._steps and self.stopped is None:
            raise DataExhaustedError(step=self.step, steps=self._steps)

    def _open_data(self) -> Batches:
        """Return the data, where it was when the state was saved."""
        if self._batches is None:
            batches = Batches(self._data, marked=self._run is not None)
            if self.settings.finite.action == "return" and not batches.resumable:
                reason = 'it would have to go back for finite="return", and has no position'
                raise DataPositionError(step=self.step, reason=reason)
            if self.step > 0 or self._position is not None:
                batches.seek(self._crew.position(self._position, self.step), self.step)
            elif self._run is not None and batches.resumable:
                batches.position()  # that it cannot be saved is better known now
            elif self._run is not None:
                text = (
                    "This run is saved, but it cannot go on after an interruption: its data is neither a function of "
                    "the step nor has it get_state() and set_state()."
                )
                warnings.warn(text, DataPositionWarning, stacklevel=4)
            self._judge.begin(batches)
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
            self.row = self._crew.same_row({"step": self.step, **self._metrics.means(), **self._counted(), **evaluated})
            self._rows.write(self.row)
            if evaluated and self._names is not None:
                check_best(self._run, [*self._names, *evaluated], evaluates=False)
            self._hooks.at("row", self)

    def _write_late_row(self) -> None:
        """Write the row of an earlier step that is due; its metrics are there, or will be soon."""
        if self._late is not None:
            due, self._late = self._late, None
            self._read_metrics(due)
            self.row = {"step": due, **self._metrics.means(), **self._counted(due - self.step)}
            self._rows.write(self.row)

    def _read_metrics(self, last: int) -> None:
        """Wait for the metrics up to a step.

        Raises:
          NonFiniteMetricError: one has not been finite, now or before.
        """
        self._judge.read(self._metrics, last, self.step, self._state)

    def _counted(self, behind: int = 0) -> Row:
        """Return the number of skipped steps as a part of a row, where there can be some."""
        if not self.settings.finite.guards or self._batches is None:
            return {}
        return {"skipped": float(self._judge.count(self._batches.drawn + behind))}
