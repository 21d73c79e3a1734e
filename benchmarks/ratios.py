"""From samples to ratios: medians with their spread, and whether a bar is met.

A sample is one round of a row: figures by contender. Ratios are taken within a round, between processes that ran one
after the other, and then the median of the rounds.
"""

import dataclasses
import enum
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.rows import Bar, Row

Sample = Mapping[str, Mapping[str, float]]
Results = Mapping[str, Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Spread:
    """A median, and the smallest and the largest of what it is the median of."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        """Return ``1.23 (1.20-1.31)``, or only the median where nothing was spread."""
        if self.low == self.high:
            return f"{self.median:.3g}"
        return f"{self.median:.3g} ({self.low:.3g}-{self.high:.3g})"


class Mark(enum.Enum):
    """What became of a bar."""

    MET = "met"
    NOT_MET = "not met"
    NO_BAR = "no bar"
    NOT_MEASURED = "not measured"


def spread(values: Sequence[float]) -> Spread | None:
    """Return the median, smallest and largest value; None of none."""
    return Spread(statistics.median(values), min(values), max(values)) if values else None


def figures(samples: Sequence[Sample], contender: str, figure: str) -> list[float]:
    """Return one contender's figure, round by round."""
    return [sample[contender][figure] for sample in samples if figure in sample.get(contender, {})]


def ratios(
    samples: Sequence[Sample], contender: str, figure: str, against: str, other: str = "", others: Sequence[Sample] = ()
) -> Spread | None:
    """Return the ratio of a figure to that of another contender, round by round; None where one has no figure.

    Args:
      samples: the rounds.
      contender: whose figure is divided.
      figure: which one.
      against: by whose figure it is divided.
      other: by which one; the same for "".
      others: the rounds of ``against``, where they are another row's.
    """
    found: list[float] = []
    for mine, theirs in zip(samples, others or samples, strict=False):
        above, below = mine.get(contender, {}).get(figure), theirs.get(against, {}).get(other or figure)
        if above is not None and below:
            found.append(above / below)
    return spread(found)


def held(bar: Bar, row: Row, results: Results) -> tuple[Mark, Spread | None]:
    """Return whether a bar of a row is met, and the ratio that says so."""
    samples = results.get(row.name, {}).get("samples", ())
    others = results.get(bar.row, {}).get("samples", ()) if bar.row else samples
    if not samples or not others:
        return Mark.NOT_MEASURED, None
    found = ratios(samples, bar.contender, bar.figure, bar.against or bar.contender, bar.other, others)
    if found is None:
        return Mark.NOT_MEASURED, None
    return (Mark.MET if found.median <= bar.limit else Mark.NOT_MET), found
