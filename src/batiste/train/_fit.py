"""A whole run as one call."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from batiste.train._hooks import Hook
from batiste.train._loop import Loop
from batiste.train._metrics import Row, log_row
from batiste.train._nonfinite import NonFinite

if TYPE_CHECKING:
    from batiste.checkpoint import Manager

__all__ = ["fit"]

State = TypeVar("State")
Batch = TypeVar("Batch")


def fit(
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
) -> State:
    """Train from the start, or from where an earlier run was interrupted, to the end, and return the state.

    The arguments are those of ``Loop``, and so are the errors, with those of iterating over one.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import train
      >>> def step(state, batch):
      ...     return state + batch, {"loss": state}
      >>> options = {"run": "run", "log": None}
      >>> train.fit(step, jnp.zeros(()), lambda n: 1.0, steps=2, **options).item()
      2.0
      >>> train.fit(step, jnp.zeros(()), lambda n: 1.0, steps=5, **options).item()
      5.0
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
        hooks=hooks,
        save_errors=save_errors,
        config=config,
        report=report,
    )
    del state  # used up
    for _ in loop:
        pass
    return loop.state
