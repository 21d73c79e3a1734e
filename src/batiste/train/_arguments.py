"""The arguments of a training loop: what each may be, and what is said of one that cannot work.

What is wrong is known before anything is trained, read or written. Whatever can stand for a whole number is one,
NumPy's and JAX's scalars as well; True, 10.0 and "10" are none.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple, cast

import jax

from batiste._arguments import function, path, refused, seconds, whole_number
from batiste.checkpoint import KeepBest, Manager
from batiste.errors import LoopArgumentError, nearest
from batiste.train._data import check_data

__all__ = ["Checked", "check_best", "check_cache", "check_loop"]

_LOOP: Final = "The training loop"


class Checked(NamedTuple):
    """Arguments as a loop uses them: how many steps, the run, and how far apart saves, rows and evaluations are."""

    steps: int | None
    run: Manager | None
    every: tuple[int, int, int]


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
) -> Checked:
    """Return the arguments of a loop as it uses them.

    Raises:
      ArgumentError: one is not in its domain.
      LoopArgumentError: the data gives no batches.
    """
    _check_functions(step, state, log, evaluate)
    check_data(data)
    if not isinstance(finite, bool):
        raise refused(finite, "finite", _LOOP, "True or False", "Write finite=False to let NaN and infinity pass.")
    if not isinstance(compile_cache, bool):
        path(compile_cache, "compile_cache", _LOOP, what="True, False or a path")
    count = None if steps is None else whole_number(steps, "steps", _LOOP)
    every = (
        whole_number(save_every, "save_every", _LOOP, low=1),
        whole_number(log_every, "log_every", _LOOP, low=1),
        whole_number(evaluate_every, "evaluate_every", _LOOP, low=1),
    )
    return Checked(count, _run(run), every)


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


def _check_functions(step: Any, state: Any, log: Any, evaluate: Any) -> None:
    if isinstance(step, type) or not callable(step):
        backwards = callable(state) and not isinstance(state, type)
        cure = "Write the step first: fit(step, state, data)." if backwards else "Give a function (state, batch)."
        raise refused(step, "step", _LOOP, "a function from a state and a batch to the next state and metrics", cure)
    if callable(state) and any(leaf is state for leaf in jax.tree.leaves(state)):
        cure = "Write fit(step, state, data): the function, what it changes, and the batches."
        raise refused(state, "state", _LOOP, "a tree of arrays", cure)
    if log is not None:
        function(log, "log", _LOOP, what="a function of a row, such as train.show, or None")
    if evaluate is not None:
        function(evaluate, "evaluate", _LOOP, what="a function of the state, or None")


def _run(run: Any) -> Manager | None:
    if run is None or isinstance(run, Manager) or hasattr(run, "save_async"):
        return cast("Manager | None", run)
    return Manager(path(run, "run", _LOOP, what="a folder, or its checkpoint.Manager(folder, keep=...)"))
