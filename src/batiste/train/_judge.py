"""Who decides, for one run, what becomes of a step whose numbers are not finite; the policy is in ``_nonfinite.py``.

Steps are judged when their metrics are read. A batch that is left out is known by its number in the data, so that it
is left out again by whoever comes past it, also in another process; and the steps before it count as they did.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from batiste.train._metrics import Metrics, non_finite
from batiste.train._nonfinite import NonFinite, Recent, Taken, kept_batch
from batiste.train._past import Found, Past, searched

if TYPE_CHECKING:
    from batiste.checkpoint import Manager
    from batiste.train._data import Batches

__all__ = ["GoBackError", "Judge"]


class GoBackError(Exception):
    """Ends what a loop is doing, so that it goes back to its last checkpoint; no user sees it."""


class Judge:
    """The policy at work.

    Args:
      policy: what is to be done.
      run: the checkpoints, in whose folder batches are written; None for none.
    """

    def __init__(self, policy: NonFinite, run: Manager | None) -> None:
        self._policy = policy
        self._run = run
        self._recent = Recent(kept=policy.action == "return" or (run is not None and policy.action != "pass"))
        self._skipped = 0
        self._left_out: set[int] = set()
        self._drawn: int | None = None  # where the data is, if not at the number of steps
        self._told: str | None = None
        self._step: Callable[..., Any] | None = None
        self.past = Past(lambda *_: None, kept=False)

    def look_into(self, step: Callable[..., Any], program: Callable[..., Any]) -> None:
        """Have the step that fails looked into, with the function that was given and its program."""
        self._step = step
        self.past = Past(program, kept=self._policy.action == "stop")

    def take(self, step: int, draw: int, batch: Any) -> int | None:
        """Hold on to a batch; return the step up to which metrics should be read now, None where that has time."""
        self.past.add(step, batch)
        return self._recent.add(step, draw, batch)

    def read(self, metrics: Metrics, last: int, now: int, state: Any) -> None:
        """Wait for the metrics up to a step, and judge these steps.

        Args:
          metrics: those that were not read.
          last: the step.
          now: how many steps are done.
          state: the state after them.

        Raises:
          NonFiniteMetricError: the run is to stop.
          GoBackError: it is to go back.
        """
        metrics.read(last)
        refused, metrics.refused = metrics.refused, []
        for bad in refused:
            taken = self._recent.find(bad[0])
            self._skipped += self._policy.action == "skip"
            if self._policy.action == "return" and taken is not None:
                self._left_out.add(taken.draw)
            if max(self._skipped, len(self._left_out)) > self._policy.limit:
                metrics.bad = bad
                self.check(metrics, now, state)
            if self._run is not None and taken is not None:
                kept_batch(self._run.folder, bad[0], taken.batch)
            if self._policy.action == "return":
                self._recent.forget(now)
                raise GoBackError
        self.check(metrics, now, state)
        self._recent.forget(last)
        self.past.went_well(last, now, state)

    def check(self, metrics: Metrics, now: int, state: Any) -> None:
        """Raise where a number was not finite, and must be.

        Raises:
          NonFiniteMetricError: it was not, now or before.
        """
        if metrics.bad is None:
            return
        if self._told is None:
            self._told = self._explained(metrics.bad[0], state)
        raise non_finite(metrics.bad, now, state, self._run, self._told)

    def _explained(self, step: int, state: Any) -> str:
        """Return what is known of a step beside its metrics."""
        taken, told = self._recent.find(step), ""
        if taken is not None and self._run is not None:
            place = kept_batch(self._run.folder, step, taken.batch)
            told = "" if place is None else f" The batch of step {step} is in {place}."
        name = "`diagnose.find_nan`" if self._policy.explain is None else "`explain`"
        try:
            more = self._looked_into(step, state, taken)
        except Exception as error:  # noqa: BLE001 - what was found out already is worth more
            more = f"{name} failed: {type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        return f"{told}\n{more}" if more else told

    def _looked_into(self, step: int, state: Any, taken: Taken | None) -> str:
        found = self.past.find(step)
        if found is not None:
            known = found
        elif taken is None:
            return ""
        else:
            known = Found(state, taken.batch, step, step - 1)
            found = known if self._policy.guards else None  # whose step has kept its state as it was
        if self._policy.explain is not None:
            return str(self._policy.explain(known.state, known.batch))
        return "" if self._step is None else searched(self._step, found, known, self._run)

    def count(self, drawn: int) -> int:
        """Return how many steps were skipped, or left out before a batch."""
        return self._skipped + sum(number < drawn for number in self._left_out)

    def begin(self, batches: Batches) -> None:
        """Tell the data what to leave out, and where it is."""
        batches.left_out = self._left_out
        if self._drawn is not None:
            batches.drawn = self._drawn

    def saved(self, drawn: int) -> dict[str, Any]:
        """Return what a checkpoint needs, as JSON; nothing in a run without such steps."""
        found: dict[str, Any] = {"skipped": self._skipped} if self._skipped else {}
        return {**found, "left_out": sorted(self._left_out), "drawn": drawn} if self._left_out else found

    def load(self, saved: Mapping[str, Any], step: int) -> None:
        """Go on from what ``saved`` returned, or go back to it."""
        self._skipped = saved.get("skipped", 0)
        self._left_out |= set(saved.get("left_out", ()))
        self._drawn = saved.get("drawn", step)
