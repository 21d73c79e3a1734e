"""The arguments of a training loop: what each may be, and what is said of one that cannot work.

What is wrong is known before anything is trained, read or written. Whatever can stand for a whole number is one,
NumPy's and JAX's scalars as well; True, 10.0 and "10" are none.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable
from typing import Any, NoReturn, cast

import jax

from batiste.checkpoint import KeepBest, Manager
from batiste.errors import LoopArgumentError, TrainArgumentError, nearest
from batiste.train._config import is_config
from batiste.train._data import check_data
from batiste.train._nonfinite import NonFinite
from batiste.train._settings import Settings

__all__ = ["check_best", "check_cache", "check_loop"]


def check_loop(
    step: Any,
    state: Any,
    data: Any,
    steps: Any,
    run: Any,
    save_every: Any,
    log_every: Any,
    log: Any,
    evaluate: Any,
    evaluate_every: Any,
    finite: Any,
    compile_cache: Any,
    save_errors: Any = "raise",
    config: Any = None,
    report: Any = False,
) -> Settings:
    """Return the arguments of a loop as it uses them.

    Raises:
      LoopArgumentError: one cannot work.
    """
    logs = _logs(log)
    _check_functions(step, state, evaluate)
    check_data(data)
    if isinstance(finite, bool):
        finite = NonFinite("stop" if finite else "pass")
    elif isinstance(finite, str) and finite in ("stop", "skip", "return", "pass"):
        finite = NonFinite(cast("Any", finite))
    elif not isinstance(finite, NonFinite):
        cure = 'Write finite=False to let NaN and infinity pass, or finite="skip" to leave such updates out.'
        _refuse("finite", finite, "it is neither True nor False, nor a policy", cure)
    if not isinstance(compile_cache, bool) and not _is_folder(compile_cache):
        _refuse("compile_cache", compile_cache, "it names no folder", "Give True, False or a path.")
    if not isinstance(save_errors, str) or save_errors not in ("raise", "warn"):
        cure = 'Write save_errors="warn" to go on in memory where a save fails, or "raise" to stop.'
        _refuse("save_errors", save_errors, "it is none of 'raise' and 'warn'", cure)
    if not isinstance(report, bool):
        _refuse("report", report, "it is neither True nor False", "Write report=True for a page of the run.")
    if config is not None and (isinstance(config, type) or not is_config(config)):
        cure = "Give an instance of a frozen dataclass, or a dict of numbers and texts."
        _refuse("config", config, "it has no fields that could be saved and compared", cure)
    found = _run(run)
    if finite.guards and isinstance(step, jax.stages.Compiled):
        cure = "Give the function, or what jax.jit returns: the loop compiles a test of its result with it."
        _refuse("finite", finite.action, "the step is compiled ahead of time", cure)
    if finite.action == "return" and found is None:
        cure = 'Give the loop a folder for checkpoints, run="runs/name", or write finite="skip".'
        _refuse("finite", "return", "there is no run to go back to", cure)
    return Settings(
        data=data,
        steps=None if steps is None else _whole("steps", steps, 0),
        run=found,
        save_every=_whole("save_every", save_every, 1),
        log_every=_whole("log_every", log_every, 1),
        evaluate_every=_whole("evaluate_every", evaluate_every, 1),
        log=logs,
        evaluate=evaluate,
        finite=finite,
        compile_cache=compile_cache,
        save_errors=cast("Any", save_errors),
        config=config,
        report=report,
    )


def check_best(run: Manager | None, known: Iterable[str] | None, *, evaluates: bool) -> None:
    """Refuse a rule that asks for a metric which no row has: it would keep no checkpoint, without a word.

    Args:
      run: the checkpoints; None for none.
      known: the names of all metrics so far; None where they are not known.
      evaluates: whether there will be metrics of an evaluation, which are not known yet.

    Raises:
      LoopArgumentError: a ``KeepBest`` has another metric.
    """
    if run is None or known is None:
        return
    names = sorted(known)
    for rule in getattr(run, "keep", None) or ():
        if isinstance(rule, KeepBest) and rule.metric not in names:
            if evaluates and rule.metric.startswith("eval/"):
                continue
            near = nearest(rule.metric, names) or nearest(f"eval/{rule.metric}", names)
            reason = f"no row has that metric, but {', '.join(names) or 'none at all'}"
            value = f"kept by KeepBest({rule.metric!r})"
            cure = f"Name one of these; what evaluate returns begins with 'eval/'.{near}"
            raise LoopArgumentError(name="run", value=value, reason=reason, cure=cure)


def _is_folder(value: Any) -> bool:
    """Say whether a value names a folder: a path, or a text that is not empty."""
    return isinstance(value, str | os.PathLike) and os.fspath(cast("os.PathLike[str]", value)) != ""


def check_cache(folder: Any, seconds: Any) -> None:
    """Refuse what names no folder, and what is no number of seconds; None is a folder of JAX's or the user's.

    Raises:
      TrainArgumentError: the one or the other.
    """
    if folder is not None and not _is_folder(folder):
        _refuse_of("compile_cache", "folder", folder, "it names no folder", "Give a path, or None for the usual one.")
    number: Any = seconds.item() if getattr(seconds, "shape", None) == () else seconds
    if isinstance(number, bool) or not isinstance(number, int | float) or not number >= 0:
        _refuse_of("compile_cache", "min_seconds", seconds, "it counts seconds", "Give a number from 0 on.")


def _logs(log: Any) -> tuple[Any, ...]:
    several = cast("Any", log if isinstance(log, list | tuple) else [] if log is None else [log])
    for one in several:
        if not callable(one) or isinstance(one, type):
            cure = "Give train.show, a logger such as train.TensorBoard(), any function of a row, or a list of these."
            _refuse("log", one, "it is no function", cure)
    return tuple(several)


def _check_functions(step: Any, state: Any, evaluate: Any) -> None:
    if isinstance(step, type) or not callable(step):
        backwards = callable(state) and not isinstance(state, type)
        cure = "Write the step first: fit(step, state, data)." if backwards else "Give a function (state, batch)."
        reason = "it is no function from a state and a batch to the next state and metrics"
        _refuse("step", step, reason, cure)
    if callable(state) and any(leaf is state for leaf in jax.tree.leaves(state)):
        cure = "Write fit(step, state, data): the function, what it changes, and the batches."
        _refuse("state", state, "it is a function, and no tree of arrays", cure)
    if evaluate is not None and not callable(evaluate):
        _refuse("evaluate", evaluate, "it is no function", "Give a function of the state.")


def _whole(name: str, value: Any, least: int) -> int:
    if type(value) is int and value >= least:
        return value
    cure = f"Give a number from {least} on."
    number = None
    if not isinstance(value, bool) and getattr(value, "shape", ()) == ():
        try:
            number = operator.index(value)
        except TypeError:
            if isinstance(value, float) and value.is_integer() and value >= least:
                cure = f"Write {int(value)}; a division of whole numbers is whole with //."
    if number is None or number < least:
        _refuse(name, value, "it counts steps", cure)
    return number


def _run(run: Any) -> Manager | None:
    if run is None or isinstance(run, Manager) or hasattr(run, "save_async"):
        return cast("Manager | None", run)
    if not _is_folder(run):
        cure = 'Give a folder, run="runs/first", or its checkpoints, run=checkpoint.Manager("runs/first", keep=...).'
        _refuse("run", run, "it names no folder for checkpoints", cure)
    return Manager(run)


def _refuse(name: str, value: Any, reason: str, cure: str) -> NoReturn:
    raise LoopArgumentError(name=name, value=_shown(value), reason=reason, cure=cure)


def _refuse_of(function: str, name: str, value: Any, reason: str, cure: str) -> NoReturn:
    raise TrainArgumentError(function=function, name=name, value=_shown(value), reason=reason, cure=cure)


def _shown(value: Any) -> str:
    """Return a value as an error shows it: numbers and texts as they are, anything else by its type."""
    if value is None or isinstance(value, bool | int | float | complex | str):
        return repr(value)
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if getattr(value, "shape", None) == ():
        return f"{value!r}"
    name = getattr(value, "__name__", None) if callable(value) else None
    return f"a {type(value).__name__}" if name is None else f"the function {name}"
