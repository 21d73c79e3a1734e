"""Which steps of a run are kept, as data: each rule names steps to keep, and what no rule names is removed.

The rules see what each saved step says of itself (``Saved``) and the time, which the manager's clock gives. A rule that
cannot mean what was written is refused when it is made; one that finds nothing to choose by keeps everything.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal, Protocol, cast

from batiste._arguments import choice, refused, seconds, shown, text, whole_number

__all__ = [
    "METRICS",
    "KeepBest",
    "KeepEvery",
    "KeepLast",
    "KeepRecent",
    "KeepRule",
    "Saved",
    "as_rules",
    "kept",
    "misnamed",
]

METRICS: Final = "metrics"
"""Where the metrics of a step are in its metadata."""

_NEAR: Final = 0.85


@dataclasses.dataclass(frozen=True, slots=True)
class Saved:
    """What a rule sees of one saved step.

    Attributes:
      step: the training step.
      saved_at: seconds since 1970, by the clock of the save.
      metadata: what the user saved with it; ``metrics`` are in ``metadata["metrics"]``.

    Example:
      >>> from batiste import checkpoint
      >>> saved = checkpoint.Saved(100, 0.0, {"metrics": {"loss": 0.5}})
      >>> saved.metadata["metrics"]["loss"]
      0.5
    """

    step: int
    saved_at: float
    metadata: dict[str, Any]


class KeepRule(Protocol):
    """A rule of retention.

    Example:
      >>> import numpy as np
      >>> from batiste import checkpoint
      >>> class KeepFirst:
      ...     def keep(self, saved, now):
      ...         return {saved[0].step}
      >>> manager = checkpoint.Manager("run", keep=[KeepFirst()])
      >>> for step in (1, 2, 3):
      ...     manager.save(step, {"w": np.ones(2)})
      >>> manager.steps()
      [1, 3]
    """

    def keep(self, saved: Sequence[Saved], now: float) -> Iterable[int]:
        """Return the steps to keep, of those saved, which come in order of their steps."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class KeepLast:
    """Keep the latest ``count`` steps, from 0 on.

    Raises:
      ArgumentError: if ``count`` is no such integer.

    Example:
      >>> import numpy as np
      >>> from batiste import checkpoint
      >>> manager = checkpoint.Manager("run", keep=[checkpoint.KeepLast(2)])
      >>> for step in (1, 2, 3):
      ...     manager.save(step, {"w": np.ones(2)})
      >>> manager.steps()
      [2, 3]
    """

    count: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "count", whole_number(self.count, "count", "KeepLast"))

    def keep(self, saved: Sequence[Saved], now: float) -> Iterable[int]:
        """Return the steps to keep."""
        del now
        return [row.step for row in saved[max(0, len(saved) - self.count) :]]


@dataclasses.dataclass(frozen=True, slots=True)
class KeepEvery:
    """Keep the steps that are multiples of ``steps``, from 1 on.

    Raises:
      ArgumentError: if ``steps`` is no such integer.

    Example:
      >>> from batiste import checkpoint
      >>> saved = [checkpoint.Saved(step, 0.0, {}) for step in (50, 100, 150, 200)]
      >>> sorted(checkpoint.KeepEvery(100).keep(saved, now=0.0))
      [100, 200]
    """

    steps: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", whole_number(self.steps, "steps", "KeepEvery", low=1))

    def keep(self, saved: Sequence[Saved], now: float) -> Iterable[int]:
        """Return the steps to keep."""
        del now
        return [row.step for row in saved if row.step % self.steps == 0]


@dataclasses.dataclass(frozen=True, slots=True)
class KeepRecent:
    """Keep what was saved in the last ``seconds``, from 0 on.

    Raises:
      ArgumentError: if ``seconds`` is no such number.

    Example:
      >>> from batiste import checkpoint
      >>> saved = [checkpoint.Saved(step, 60.0 * step, {}) for step in (1, 2, 3)]
      >>> sorted(checkpoint.KeepRecent(seconds=90).keep(saved, now=200.0))
      [2, 3]
    """

    seconds: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "seconds", seconds(self.seconds, "seconds", "KeepRecent"))

    def keep(self, saved: Sequence[Saved], now: float) -> Iterable[int]:
        """Return the steps to keep."""
        return [row.step for row in saved if now - row.saved_at <= self.seconds]


@dataclasses.dataclass(frozen=True, slots=True)
class KeepBest:
    """Keep the ``count`` steps with the best value of a metric: the smallest, or with ``mode="max"`` the largest.

    A step without the metric, or with one that is NaN or infinite, is never among them. As long as there is no other
    step, all are kept: nothing is removed because a metric is not there yet, or has another name.

    Raises:
      ArgumentError: if the metric is no name, the count is below 1, or the mode is unknown.

    Example:
      >>> from batiste import checkpoint
      >>> losses = {1: 0.9, 2: 0.3, 3: 0.5}
      >>> metadata = lambda loss: {"metrics": {"loss": loss}}
      >>> saved = [checkpoint.Saved(step, 0.0, metadata(losses[step])) for step in losses]
      >>> sorted(checkpoint.KeepBest("loss", count=2).keep(saved, now=0.0))
      [2, 3]
    """

    metric: str
    count: int = 1
    mode: Literal["min", "max"] = "min"

    def __post_init__(self) -> None:
        text(self.metric, "metric", "KeepBest", what="the name of a metric, as Manager.save gets it,")
        object.__setattr__(self, "count", whole_number(self.count, "count", "KeepBest", low=1))
        choice(self.mode, "mode", "KeepBest", ("min", "max"))

    def keep(self, saved: Sequence[Saved], now: float) -> Iterable[int]:
        """Return the steps to keep; of equal ones the later."""
        del now
        sign = 1.0 if self.mode == "min" else -1.0
        scored: list[tuple[float, int]] = []
        for row in saved:
            value = _metrics_of(row).get(self.metric)
            if isinstance(value, int | float) and math.isfinite(value):
                scored.append((sign * value, -row.step))
        return [-step for _, step in sorted(scored)[: self.count]] if scored else [row.step for row in saved]


def kept(rules: Sequence[KeepRule] | None, saved: Sequence[Saved], now: float) -> set[int]:
    """Return the steps to keep: all where there are no rules, and always the latest."""
    if rules is None or not saved:
        return {row.step for row in saved}
    return {saved[-1].step, *(step for rule in rules for step in rule.keep(saved, now))}


def misnamed(rules: Sequence[KeepRule], saved: Sequence[Saved]) -> dict[str, str]:
    """Return the metrics of rules that no step has, though steps have one of nearly the same name: that, by the other.

    A metric that is merely not there yet is none of these.
    """
    known = {name: None for row in saved for name in _metrics_of(row)}
    found: dict[str, str] = {}
    for rule in rules:
        if isinstance(rule, KeepBest) and rule.metric not in known:
            name = rule.metric.casefold()
            likely = [other for other in known if other.casefold() == name or other.endswith(f"/{rule.metric}")]
            likely += difflib.get_close_matches(rule.metric, known, n=1, cutoff=_NEAR)
            found.update({rule.metric: likely[0]} if likely else {})
    return found


def _metrics_of(row: Saved) -> Mapping[str, Any]:
    metrics = row.metadata.get(METRICS)
    return cast("Mapping[str, Any]", metrics) if isinstance(metrics, Mapping) else {}


def as_rules(keep: Any) -> tuple[KeepRule, ...] | None:
    """Return the rules that a manager was given.

    Raises:
      ArgumentError: if they are no sequence of rules.
    """
    if keep is None:
        return None
    cure = "Pass a list of rules, such as [KeepLast(3)]; an empty one keeps the latest step alone."
    if not isinstance(keep, Sequence) or isinstance(keep, str | bytes):
        raise refused(keep, "keep", "checkpoint.Manager", "a list of rules", cure)
    rules = tuple(cast("Sequence[Any]", keep))
    for rule in rules:
        if isinstance(rule, type) or not callable(getattr(rule, "keep", None)):
            raise refused(keep, "keep", "checkpoint.Manager", f"rules alone, and {shown(rule)} is none", cure)
    return rules
