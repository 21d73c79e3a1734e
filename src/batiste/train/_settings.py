"""What a run is told, as one value: the arguments of a loop, checked, which a hook may replace before the run opens."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from batiste.train._nonfinite import NonFinite

if TYPE_CHECKING:
    from batiste.checkpoint import Manager

__all__ = ["Settings"]


@dataclasses.dataclass(frozen=True)
class Settings:
    """The arguments of a loop as it uses them; ``dataclasses.replace`` makes others of them.

    Attributes:
      data: where batches come from.
      steps: how many steps the whole run has; None ends with the data.
      run: the checkpoints; None for none.
      save_every: how many steps apart checkpoints are.
      log_every: how many steps apart rows are.
      evaluate_every: how many steps apart evaluations are.
      log: what is called with each row.
      evaluate: the evaluation; None for none.
      finite: what becomes of numbers that are not finite.
      compile_cache: whether, or where, compiled programs are kept.
      save_errors: what becomes of a save that fails.
      config: the configuration of the run; None for none.
      report: whether the run has a page, ``report.html``.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import train
      >>> import dataclasses
      >>> @train.at("open")
      ... def short(loop):
      ...     loop.settings = dataclasses.replace(loop.settings, steps=2)
      >>> step = lambda state, x: (state + x, {"loss": state})
      >>> train.fit(step, jnp.zeros(()), [1.0] * 9, hooks=[short], log=None).item()
      2.0
    """

    data: Any
    steps: int | None
    run: Manager | None
    save_every: int
    log_every: int
    evaluate_every: int
    log: tuple[Callable[[Any], Any], ...]
    evaluate: Callable[[Any], Any] | None
    finite: NonFinite
    compile_cache: bool | str | os.PathLike[str]
    save_errors: Literal["raise", "warn"]
    config: Any
    report: bool

    def compared(self) -> dict[str, Any]:
        """Return what several processes of one run must have alike, by name."""
        every = (self.save_every, self.log_every, self.evaluate_every)
        folder = str(None if self.run is None else self.run.folder)
        return {"steps": self.steps, "every": every, "finite": self.finite.action, "run": folder}

    def rows(self, *, first: bool) -> tuple[Path | None, tuple[Callable[[Any], Any], ...]]:
        """Return where rows are written and what is called with them: nothing of it but in the first process."""
        if not first:
            return None, ()
        return None if self.run is None else self.run.folder / "metrics.jsonl", self.log
