"""``batiste runs``: what runs there are, how they compare, their pages, and what of them can be removed.

A run is a folder with ``metrics.jsonl`` or with checkpoints. Nothing of a checkpoint is read but its name and size.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from batiste.checkpoint import Manager
from batiste.cli._report import Exit
from batiste.cli._say import printable, say, say_json
from batiste.cli._tables import plural, size_text
from batiste.errors import RunNotFoundError
from batiste.train import curves, metric_names, read_config, read_lines, write_report

__all__ = ["clean", "compare", "listed", "report"]


@dataclasses.dataclass(frozen=True)
class _Run:
    """What is known of one run.

    Attributes:
      folder: where it is.
      rows: its rows of metrics.
      steps: the steps that are saved.
      bytes: how much it takes on the disk.
    """

    folder: Path
    rows: list[dict[str, Any]]
    steps: list[int]
    bytes: int

    @property
    def step(self) -> int:
        """The last step that anything is known of."""
        last = self.rows[-1].get("step", 0) if self.rows else 0
        return max(int(last) if isinstance(last, int | float) and math.isfinite(last) else 0, *self.steps, 0)


def _read(folder: Path) -> _Run:
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    size = sum(path.stat().st_size for path in files)
    return _Run(folder, read_lines(folder / "metrics.jsonl"), Manager(folder).steps(), size)


def _is_run(folder: Path) -> bool:
    return folder.is_dir() and ((folder / "metrics.jsonl").is_file() or bool(Manager(folder).steps()))


def _found(folder: Path) -> list[Path]:
    """Return the runs in a folder: itself, or those in it, at any depth but not within each other."""
    if _is_run(folder):
        return [folder]
    if not folder.is_dir():
        raise RunNotFoundError(folder=folder, reason="there is no such folder", advice="Check the path.")
    found: list[Path] = []
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.is_symlink() and not path.name.startswith("."):
            found += _found(path)
    return found


def _one(folder: Path) -> Path:
    if not _is_run(folder):
        reason = "it has neither metrics.jsonl nor a checkpoint" if folder.is_dir() else "there is no such folder"
        raise RunNotFoundError(folder=folder, reason=reason, advice="`batiste runs list FOLDER` says which there are.")
    return folder


def listed(folder: Path, *, as_json: bool) -> Exit:
    """Print the runs of a folder, a line each: step, checkpoints, size, the latest row."""
    runs = [_read(path) for path in _found(folder)]
    if as_json:
        say_json([_as_json(run) for run in runs])
        return Exit.OK
    names = [printable(str(run.folder)) for run in runs]
    width = max(map(len, names), default=0)
    for name, run in zip(names, runs, strict=True):
        last = run.rows[-1] if run.rows else {}
        told = "  ".join(f"{metric} {_text(last[metric])}" for metric in metric_names([last]))
        saved = plural(len(run.steps), "checkpoint", "checkpoints")
        when = last.get("time")
        at = time.strftime("%Y-%m-%d %H:%M", time.localtime(when)) if isinstance(when, int | float) else " " * 16
        say(f"{name.ljust(width)}  {at}  step {run.step}  {saved}  {size_text(run.bytes)}  {told}".rstrip())
    if not runs:
        say(f"no runs in {folder}")
    return Exit.OK


def _as_json(run: _Run) -> dict[str, Any]:
    return {
        "run": str(run.folder),
        "step": run.step,
        "checkpoints": run.steps,
        "bytes": run.bytes,
        "row": run.rows[-1] if run.rows else None,
        "config": read_config(run.folder),
    }


def compare(folders: Sequence[Path], *, metric: str | None, picture: Path | None, force: bool, as_json: bool) -> Exit:
    """Print the best and the last value of each metric, and the fields that differ; write the curves as a picture."""
    runs = [_read(_one(path)) for path in folders]
    names = metric_names([row for run in runs for row in run.rows])
    if metric is not None:
        if metric not in names:
            known = ", ".join(names) or "none"
            raise RunNotFoundError(folder=folders[0], reason=f"with a metric {metric!r}", advice=f"They have {known}.")
        names = [metric]
    table = [_values(run, names) for run in runs]
    configs = [read_config(run.folder) for run in runs]
    fields = sorted({name for config in configs for name in config})
    different = {name: [config.get(name) for config in configs] for name in fields}
    different = {name: values for name, values in different.items() if any(it != values[0] for it in values)}
    if picture is not None:
        _draw(runs, names, picture, force=force)
    if as_json:
        body = [
            {"run": str(run.folder), "step": run.step, "metrics": row} for run, row in zip(runs, table, strict=True)
        ]
        say_json({"runs": body, "different": different})
        return Exit.OK
    for number, (run, row) in enumerate(zip(runs, table, strict=True)):
        say(f"{run.folder}  step {run.step}")
        for name, value in row.items():
            say(f"  {name}  last {_text(value['last'])}  lowest {_text(value['low'])}  highest {_text(value['high'])}")
        for name, values in different.items():
            say(f"  config {name}  {values[number]!r}")
    return Exit.OK


def _values(run: _Run, names: Sequence[str]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for name in names:
        values = [row[name] for row in run.rows if isinstance(row.get(name), int | float)]
        if values:
            found[name] = {"last": values[-1], "low": min(values), "high": max(values)}
    return found


def _draw(runs: Sequence[_Run], names: Sequence[str], picture: Path, *, force: bool) -> None:
    """Write one SVG picture with the curves of all metrics beneath each other."""
    if picture.exists() and not force:
        advice = "Choose another path, or pass --force."
        raise RunNotFoundError(folder=picture, reason="it is there already, and would be overwritten", advice=advice)
    rows = {run.folder.name if len({it.folder.name for it in runs}) == len(runs) else str(run.folder): run.rows
            for run in runs}  # fmt: skip
    drawn = [(name, svg) for name in names if (svg := curves(name, rows))]
    parts = ['<svg xmlns="http://www.w3.org/2000/svg" font-family="sans-serif" font-size="11" ']
    parts.append(f'width="480" height="{250 * len(drawn)}">')
    for number, (name, svg) in enumerate(drawn):
        label = name.replace("&", "&amp;").replace("<", "&lt;")
        parts.append(f'<g transform="translate(10,{250 * number})"><text x="58" y="14">{label}</text>')
        parts.append(f'<g transform="translate(0,18)">{svg}</g></g>')
    picture.write_text("".join([*parts, "</svg>\n"]), encoding="utf-8")


def report(folder: Path, *, quiet: bool) -> Exit:
    """Write the page of a run, from what lies in its folder."""
    place = write_report(_one(folder))
    if not quiet:
        say(str(place))
    return Exit.OK


def clean(folder: Path, *, keep: int, compiled: bool, dry_run: bool, quiet: bool) -> Exit:
    """Remove all but the last checkpoints of each run, what interrupted saves have left, and compiled programs."""
    freed = 0
    for path in _found(folder):
        run = Manager(path)
        gone = [run.path(step) for step in run.steps()[:-keep]] + list(run.leftovers())
        gone += [path / "compiled"] if compiled and (path / "compiled").is_dir() else []
        for each in gone:
            size = sum(file.stat().st_size for file in each.rglob("*") if file.is_file()) if each.is_dir() else 0
            freed += size
            if not quiet:
                say(f"{'would remove' if dry_run else 'removed'} {each}  {size_text(size)}")
        if not dry_run:
            for step in run.steps()[:-keep]:
                run.remove(step)
            run.cleanup()
            if compiled:
                shutil.rmtree(path / "compiled", ignore_errors=True)
    if not quiet:
        say(f"{size_text(freed)} {'would be' if dry_run else 'are'} free")
    return Exit.OK


def _text(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, int | float) else "nan"
