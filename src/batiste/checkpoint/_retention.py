"""Which steps of a run are kept, as data: each rule names steps to keep, and what no rule names is removed.

The rules see what each saved step says of itself (``Saved``) and the time, which the manager's clock gives.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, Literal, Protocol

from batiste.errors import CheckpointArgumentError

__all__ = ["KeepBest", "KeepEvery", "KeepLast", "KeepRecent", "KeepRule", "Saved", "kept"]


@dataclasses.dataclass(frozen=True, slots=True)
class Saved:
    """What a rule sees of one saved step.

    Attributes:
      step: the training step.
      saved_at: seconds since 1970, by the clock of the save.
      metadata: what the user saved with it; ``metrics`` are in ``metadata["metrics"]``.
    """

    step: int
    saved_at: float
    metadata: dict[str, Any]


class KeepRule(Protocol):
    """A rule of retention."""

    def keep(self, saved: Sequence[Saved], now: float) -> Iterable[int]:
        """Return the steps to keep, of those saved, which come in order of their steps."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class KeepLast:
    """Keep the latest ``count`` steps."""

    count: int

    def keep(self, saved: Sequence[Saved], now: float) -> Iterable[int]:
        """Return the steps to keep."""
        del now
        return [row.step for row in saved[max(0, len(saved) - self.count) :]]


@dataclasses.dataclass(frozen=True, slots=True)
class KeepEvery:
    """Keep the steps that are multiples of ``steps``.

    Raises:
      CheckpointArgumentError: if ``steps`` is less than one.
    """

    steps: int

    def __post_init__(self) -> None:
        if self.steps < 1:
            cure = "Pass the distance between two steps that are kept."
            raise CheckpointArgumentError(argument="steps", value=self.steps, reason="it is no distance", cure=cure)

    def keep(self, saved: Sequence[Saved], now: float) -> Iterable[int]:
        """Return the steps to keep."""
        del now
        return [row.step for row in saved if row.step % self.steps == 0]


@dataclasses.dataclass(frozen=True, slots=True)
class KeepRecent:
    """Keep what was saved in the last ``seconds``."""

    seconds: float

    def keep(self, saved: Sequence[Saved], now: float) -> Iterable[int]:
        """Return the steps to keep."""
        return [row.step for row in saved if now - row.saved_at <= self.seconds]


@dataclasses.dataclass(frozen=True, slots=True)
class KeepBest:
    """Keep the ``count`` steps with the best value of a metric; a step without it is never among them."""

    metric: str
    count: int = 1
    mode: Literal["min", "max"] = "min"

    def keep(self, saved: Sequence[Saved], now: float) -> Iterable[int]:
        """Return the steps to keep; of equal ones the later."""
        del now
        sign = 1.0 if self.mode == "min" else -1.0
        scored: list[tuple[float, int]] = []
        for row in saved:
            value = row.metadata.get("metrics", {}).get(self.metric)
            if isinstance(value, int | float) and value == value:  # noqa: PLR0124 - NaN is never the best
                scored.append((sign * value, -row.step))
        return [-step for _, step in sorted(scored)[: self.count]]


def kept(rules: Sequence[KeepRule] | None, saved: Sequence[Saved], now: float) -> set[int]:
    """Return the steps to keep: all where there are no rules, and always the latest."""
    if rules is None or not saved:
        return {row.step for row in saved}
    return {saved[-1].step, *(step for rule in rules for step in rule.keep(saved, now))}
