"""The arguments of a training loop: what each may be, and what is said of one that cannot work.

What is wrong is known before anything is trained, read or written. Whatever can stand for a whole number is one,
NumPy's and JAX's scalars as well; True, 10.0 and "10" are none.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, cast

import jax

from batiste._arguments import choice, function, path, refused, seconds, whole_number
from batiste.checkpoint import KeepBest, Manager
from batiste.errors import LoopArgumentError, nearest
from batiste.train._config import is_config
from batiste.train._data import check_data
from batiste.train._nonfinite import NonFinite
from batiste.train._settings import Settings

__all__ = ["check_best", "check_cache", "check_loop"]

_LOOP: Final = "The training loop"


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
      ArgumentError: one is not in its domain.
      LoopArgumentError: the data gives no batches.
    """
    logs = _logs(log)
    _check_functions(step, state, evaluate)
    check_data(data)
    if isinstance(finite, bool):
        finite = NonFinite("stop" if finite else "pass")
    elif not isinstance(finite, NonFinite):
        advice = 'Write finite=False to let NaN and infinity pass, or finite="skip" to leave such updates out.'
        if not isinstance(finite, str):
            raise refused(finite, "finite", _LOOP, "True, False or a policy", advice)
        finite = NonFinite(choice(finite, "finite", _LOOP, ("stop", "skip", "return", "pass")))
    if not isinstance(compile_cache, bool):
        path(compile_cache, "compile_cache", _LOOP, what="True, False or a path")
    choice(save_errors, "save_errors", _LOOP, ("raise", "warn"))
    if not isinstance(report, bool):
        raise refused(report, "report", _LOOP, "True or False", "Write report=True for a page of the run.")
    if config is not None and (isinstance(config, type) or not is_config(config)):
        what = "an instance of a frozen dataclass, or a dict of numbers and texts"
        raise refused(config, "config", _LOOP, what)
    found = _run(run)
    if finite.guards and isinstance(step, jax.stages.Compiled):
        cure = "Give the function, or what jax.jit returns: the loop compiles a test of its result with it."
        raise LoopArgumentError(
            name="finite", value=repr(finite.action), reason="the step is compiled ahead of time", cure=cure
        )
    if finite.action == "return" and found is None:
        cure = 'Give the loop a folder for checkpoints, run="runs/name", or write finite="skip".'
        raise LoopArgumentError(name="finite", value="'return'", reason="there is no run to go back to", cure=cure)
    return Settings(
        data=data,
        steps=None if steps is None else whole_number(steps, "steps", _LOOP),
        run=found,
        save_every=whole_number(save_every, "save_every", _LOOP, low=1),
        log_every=whole_number(log_every, "log_every", _LOOP, low=1),
        evaluate_every=whole_number(evaluate_every, "evaluate_every", _LOOP, low=1),
        log=logs,
        evaluate=evaluate,
        finite=finite,
        compile_cache=compile_cache,
        save_errors=save_errors,
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


def check_cache(folder: Any, least: Any) -> None:
    """Refuse what names no folder, and what is no number of seconds; None is a folder of JAX's or the user's.

    Raises:
      ArgumentError: the one or the other.
    """
    if folder is not None:
        path(folder, "folder", "train.compile_cache", what="a path, or None for the usual folder")
    seconds(least, "min_seconds", "train.compile_cache")


def _logs(log: Any) -> tuple[Any, ...]:
    several = cast("Any", log if isinstance(log, list | tuple) else [] if log is None else [log])
    for one in several:
        if not callable(one) or isinstance(one, type):
            what = "train.show, a logger such as train.TensorBoard(), any function of a row, or a list of these"
            raise refused(one, "log", _LOOP, what)
    return tuple(several)


def _check_functions(step: Any, state: Any, evaluate: Any) -> None:
    if isinstance(step, type) or not callable(step):
        backwards = callable(state) and not isinstance(state, type)
        cure = "Write the step first: fit(step, state, data)." if backwards else "Give a function (state, batch)."
        raise refused(step, "step", _LOOP, "a function from a state and a batch to the next state and metrics", cure)
    if callable(state) and any(leaf is state for leaf in jax.tree.leaves(state)):
        cure = "Write fit(step, state, data): the function, what it changes, and the batches."
        raise refused(state, "state", _LOOP, "a tree of arrays", cure)
    if evaluate is not None:
        function(evaluate, "evaluate", _LOOP, what="a function of the state, or None")


def _run(run: Any) -> Manager | None:
    if run is None or isinstance(run, Manager) or hasattr(run, "save_async"):
        return cast("Manager | None", run)
    return Manager(path(run, "run", _LOOP, what="a folder, or its checkpoint.Manager(folder, keep=...)"))
