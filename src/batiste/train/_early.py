"""Hooks that end a run or keep its best state: early stopping, the best by a metric, a limit of time.

What decides is in ``loop.kept``, so that a run that was interrupted decides as one that was not.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import time
from typing import Any

from batiste._arguments import number, refused, text, whole_number
from batiste._processes import gather, several
from batiste.checkpoint import save
from batiste.errors import LoopArgumentError
from batiste.train._hooks import Hook

__all__ = ["early_stopping", "keep_best", "time_limit"]


def _better(value: float, best: float | None, sign: float, least: float) -> bool:
    return best is None or math.isnan(best) or sign * (best - value) > least


def _value(loop: Any, metric: str) -> float | None:
    """Return a metric of the latest row; None where the row has none."""
    value = loop.row.get(metric)
    if value is None and not metric.startswith("eval/") and metric not in loop.row and len(loop.row) > 1:
        known = ", ".join(name for name in loop.row if name not in ("step", "time"))
        cure = "Name one of these; what evaluate returns begins with 'eval/'."
        reason = f"no row has that metric, but {known}"
        raise LoopArgumentError(name="hooks", value=f"asking for {metric!r}", reason=reason, cure=cure)
    return value


def _is_evaluated(loop: Any, metric: str) -> None:
    if metric.startswith("eval/") and loop.settings.evaluate is None:
        cure = "Give the loop evaluate=, or name a metric of the step."
        reason = "the loop has no evaluation"
        raise LoopArgumentError(name="hooks", value=f"asking for {metric!r}", reason=reason, cure=cure)


def early_stopping(
    metric: str = "eval/loss", *, patience: int = 5, lower: bool = True, min_delta: float = 0.0, after: int = 0
) -> Hook:
    """Return a hook that ends the run when a metric has not become better for some rows that have it.

    The count goes on after an interruption. A run that was stopped so is finished, and returns at once when it is
    started again. A value that is NaN is no better one.

    Args:
      metric: its name in a row.
      patience: how many rows with the metric may pass without a better value; from 1 on.
      lower: whether lower is better.
      min_delta: by how much a better value must be better.
      after: the step up to which the run is never stopped.

    Raises:
      ArgumentError: an argument is out of its domain.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import train
      >>> step = lambda state, x: (state + 1, {"loss": jnp.abs(state - 2)})
      >>> stop = train.early_stopping("loss", patience=2)
      >>> options = {"hooks": [stop], "log_every": 1, "log": None}
      >>> train.fit(step, jnp.zeros(()), [1.0] * 99, **options).item()
      5.0
    """
    text(metric, "metric", "early_stopping", what="the name of a metric")
    whole_number(patience, "patience", "early_stopping", low=1)
    number(min_delta, "min_delta", "early_stopping", low=0)
    whole_number(after, "after", "early_stopping")
    name, sign = f"early stopping {metric}", 1.0 if lower else -1.0

    def look(loop: Any) -> None:
        value = _value(loop, metric)
        if value is None:
            return
        known: dict[str, Any] = loop.kept.get(name, {"best": None, "step": 0, "waited": 0})
        if _better(value, known["best"], sign, min_delta) and not math.isnan(value):
            known = {"best": value, "step": loop.step, "waited": 0}
        else:
            known = {**known, "waited": known["waited"] + 1}
        loop.kept[name] = known
        if known["waited"] >= patience and loop.step >= after:
            best = "never a number" if known["best"] is None else f"{known['best']:.5g} at step {known['step']}"
            loop.stop(f"{metric} was best with {best}, {known['waited']} rows ago")

    return Hook({"start": lambda loop: _is_evaluated(loop, metric), "row": look})


def keep_best(metric: str = "eval/loss", *, lower: bool = True, folder: str = "best") -> Hook:
    """Return a hook that saves the state of the best row, in ``best`` in the folder of the run.

    ``checkpoint.restore(run.folder / "best", state)`` gives it back. Other than ``checkpoint.KeepBest``, which chooses
    among the steps that are saved anyway, it saves at the very row. The best value is in ``loop.kept``.

    Args:
      metric: its name in a row.
      lower: whether lower is better.
      folder: the name of the folder.

    Raises:
      ArgumentError: an argument is out of its domain.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import checkpoint, train
      >>> step = lambda state, x: (state + 1, {"loss": jnp.abs(state - 2)})
      >>> options = {"steps": 5, "run": "run", "log_every": 1, "log": None}
      >>> hooks = [train.keep_best("loss")]
      >>> state = train.fit(step, jnp.zeros(()), lambda n: 1.0, hooks=hooks, **options)
      >>> checkpoint.restore("run/best", state).item()
      3.0
    """
    text(metric, "metric", "keep_best", what="the name of a metric")
    text(folder, "folder", "keep_best", what="the name of a folder")
    if folder.isdecimal() or "/" in folder or folder.startswith("."):
        raise refused(folder, "folder", "keep_best", "a name of letters", 'Write folder="best".')
    name, sign = f"best {metric}", 1.0 if lower else -1.0

    def begin(loop: Any) -> None:
        _is_evaluated(loop, metric)
        if loop.settings.run is None:
            cure = 'Give the loop run="runs/name".'
            raise LoopArgumentError(
                name="hooks", value="with keep_best()", reason="there is no run to save it in", cure=cure
            )

    def look(loop: Any) -> None:
        value = _value(loop, metric)
        best = loop.kept.get(name, {"value": None})["value"]
        if value is None or math.isnan(value) or not _better(value, best, sign, 0.0):
            return
        loop.kept[name] = {"value": value, "step": loop.step}
        save(
            loop.settings.run.folder / folder,
            loop.state,
            step=loop.step,
            metadata={"metrics": {metric: value} if math.isfinite(value) else {}},
            overwrite=True,
        )

    return Hook({"start": begin, "row": look})


def time_limit(limit: float | dt.timedelta, *, total: bool = False) -> Hook:
    """Return a hook that ends the run when its time is over; it is saved, and goes on when it is started again.

    Args:
      limit: seconds, or a ``datetime.timedelta``; above 0. It is looked at after each step; by several processes
        together about once a second, so that all of them end after the same step.
      total: whether the time of earlier starts counts, too; the run is finished then.

    Raises:
      ArgumentError: it is no such time.

    Example:
      >>> from batiste import train
      >>> import datetime
      >>> hook = train.time_limit(datetime.timedelta(hours=8))  # for `hooks=`
      >>> sorted(hook.calls)
      ['start', 'step']
    """
    seconds = limit.total_seconds() if isinstance(limit, dt.timedelta) else limit
    number(seconds, "limit", "time_limit", above=0)
    begun = {"at": 0.0, "before": 0.0}
    met: dict[str, Any] = {}  # when and at which step processes have looked together, and at which they will again

    def begin(loop: Any) -> None:
        begun["at"] = time.monotonic()
        begun["before"] = float(loop.kept.get("time", 0.0)) if total else 0.0
        met.update(time=begun["at"], step=loop.step, next=loop.step)

    def look(loop: Any) -> None:
        now = time.monotonic()
        over = begun["before"] + now - begun["at"] > seconds
        if several():
            if loop.step < met["next"]:
                return
            pace = (loop.step - met["step"]) / max(now - met["time"], 1e-3)
            own = json.dumps([over, loop.step + max(1, int(pace))])
            over, later = json.loads(gather("loop/time", own, what="looking at the limit of time")[0])
            met.update(time=now, step=loop.step, next=later)
        if over and loop.stopped is None:
            loop.stop(f"its time of {seconds:g} s was over", finished=total)

    def keep(loop: Any) -> None:
        loop.kept["time"] = begun["before"] + time.monotonic() - begun["at"]

    return Hook({"start": begin, "step": look, **({"save": keep} if total else {})})
