"""The page of training runs: their curves over each other, and what the first of them has saved last."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from batiste._arguments import path as checked_path
from batiste.checkpoint import Checkpoint, Manager
from batiste.errors import BatisteError, RunNotFoundError
from batiste.train import curves, metric_names, read_config, read_lines
from batiste.tree import Patterns
from batiste.view._checkpoint import page_of
from batiste.view._page import Page
from batiste.view._state import DEFAULT_BUDGET, Budget, budget_of

__all__ = ["runs"]


def runs(
    *folders: str | os.PathLike[str],
    diff: str | os.PathLike[str] | None = None,
    stats: Budget = DEFAULT_BUDGET,
    spectra: Patterns = (),
) -> Page:
    """Return the page of one or several training runs.

    The curves of all lie over each other; the state is that of the first run's last checkpoint.

    Args:
      *folders: the folders of the runs.
      diff: another run, whose curves are shown too, and with whose last checkpoint that of the first is compared.
      stats: how many bytes of leaves are looked into, as for ``checkpoint``.
      spectra: globs over the paths of matrices whose singular values are computed.

    Raises:
      ArgumentError: an argument is none of these.
      RunNotFoundError: a folder has neither rows of metrics nor a checkpoint.
      UnmatchedPatternError: a pattern of ``spectra`` matches no path.

    Example:
      >>> from pathlib import Path
      >>> from batiste import view
      >>> Path("run").mkdir()
      >>> count = Path("run/metrics.jsonl").write_text('{"step": 1, "loss": 2.0}')
      >>> view.runs("run").data["facts"]
      ['run: 1 rows, step 1']
    """
    budget = budget_of(stats, "view.runs")
    places = [Path(checked_path(folder, "folders", "view.runs")) for folder in folders]
    other = None if diff is None else Path(checked_path(diff, "diff", "view.runs"))
    if other is not None and other not in places:
        places.append(other)
    if not places:
        raise RunNotFoundError(folder="view.runs()", reason="no folder was given", advice="Name the folder of a run.")
    rows = {_name(place, places): read_lines(place / "metrics.jsonl") for place in places}
    for place, read in zip(places, rows.values(), strict=True):
        if not read and not Manager(place).steps():
            reason = "it has neither metrics.jsonl nor a checkpoint" if place.is_dir() else "there is no such folder"
            raise RunNotFoundError(
                folder=place, reason=reason, advice="`batiste runs list FOLDER` says which there are."
            )
    opened = _last(places[0])
    data: dict[str, Any] = {"title": ", ".join(rows), "facts": [_fact(name, read) for name, read in rows.items()]}
    if opened is not None:
        shown = page_of(opened, None if other is None else _last(other), budget, spectra).data
        data |= {**shown, "title": data["title"], "facts": [*data["facts"], *shown["facts"]]}
    data["runs"] = list(rows)
    data["curves"] = _curves(rows)
    configs = {name: read_config(place) for name, place in zip(rows, places, strict=True)}
    data["tables"] = [*_configuration(configs), *data.get("tables", [])]
    return Page(data["title"], data)


def _name(place: Path, places: Sequence[Path]) -> str:
    return place.name if len({each.name for each in places}) == len(set(places)) else str(place)


def _fact(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    return f"{name}: {len(rows):,} rows, step {rows[-1].get('step', 0):,.0f}" if rows else f"{name}: no rows of metrics"


def _last(place: Path) -> Checkpoint | None:
    """Return a run's last checkpoint, opened; None where there is none that can be opened."""
    run = Manager(place)
    for step in reversed(run.steps()):
        try:
            return run.open(step)
        except BatisteError:
            continue
    return None


def _curves(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, str]]:
    drawn: list[dict[str, str]] = []
    for name in metric_names([row for read in rows.values() for row in read]):
        picture = curves(name, rows)
        if picture:
            drawn.append({"name": name, "svg": picture})
    return drawn


def _configuration(configs: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the table of the fields of the configurations, those that differ first."""
    fields = sorted({field for config in configs.values() for field in config})
    lines = [[field, *(json.dumps(config.get(field)) for config in configs.values())] for field in fields]
    lines.sort(key=lambda line: len(set(line[1:])) == 1)
    return [{"title": "configuration", "heads": ["field", *configs], "rows": lines}] if lines else []
