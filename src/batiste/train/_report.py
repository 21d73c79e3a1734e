"""The page of a run: one HTML file that needs no other, no network and no script.

It is made of what lies in the folder of the run, so that it can be made anew at any time, also of a run without
``report=True``. A curve is a polyline in SVG, drawn here: matplotlib takes longer to import than a short run to train,
and its files of curves are ten times as large. Every text from the run is escaped; pictures are in the page as data.
"""

from __future__ import annotations

import base64
import html
import itertools
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from batiste._arguments import path as checked_path
from batiste._page import document
from batiste.checkpoint import Manager
from batiste.errors import BatisteError
from batiste.train._config import read_config
from batiste.tree import flatten

__all__ = ["curves", "metric_names", "read_lines", "write_report"]

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#808080")
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 460, 220, 58, 24
_MOST_POINTS = 600
_MOST_MEDIA = 60
_STYLE = """
h1 { font-size: 1.5em } h2 { font-size: 1.15em; margin-top: 2em; border-bottom: 1px solid var(--line) }
table { border-collapse: collapse; font-size: .9em } td, th { padding: .15em .9em .15em 0; text-align: left }
td.n { text-align: right; font-variant-numeric: tabular-nums } figure { display: inline-block; margin: .5em }
svg line { stroke: var(--line) } svg text { font: 11px system-ui, sans-serif; fill: var(--quiet) }
pre { white-space: pre-wrap } figcaption { font-size: .85em; color: var(--quiet) }
img { image-rendering: pixelated; min-width: 96px; max-width: 420px }
"""


def read_lines(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Return the objects of a file of JSON lines; what is no such line is left out, and a missing file has none.

    Example:
      >>> from batiste import train
      >>> rows = train.JsonLines("rows.jsonl")
      >>> rows({"step": 1, "loss": 0.5})
      >>> train.read_lines("rows.jsonl"), train.read_lines("missing.jsonl")
      ([{'step': 1, 'loss': 0.5}], [])
    """
    found: list[dict[str, Any]] = []
    try:
        lines = (
            Path(checked_path(path, "path", "read_lines")).read_text(encoding="utf-8", errors="replace").splitlines()
        )
    except OSError:
        return found
    for line in lines:
        try:
            row: Any = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            found.append(cast("dict[str, Any]", row))
    return found


def curves(name: str, runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Return the curves of one metric as SVG, a line for each run; "" where no run has two numbers of it.

    Example:
      >>> from batiste import train
      >>> rows = [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}]
      >>> train.curves("loss", {"run": rows}).count("<polyline")
      1
    """
    lines: dict[str, list[tuple[float, float]]] = {}
    for run, rows in runs.items():
        points = [(float(row["step"]), float(row[name])) for row in rows if _is_number(row, name)]
        if points:
            lines[run] = points[:: max(1, len(points) // _MOST_POINTS)] + points[-1:]
    every = [point for points in lines.values() for point in points]
    if not every:
        return ""
    (left, right), (low, high) = (_ends([point[axis] for point in every]) for axis in (0, 1))

    def place(point: tuple[float, float]) -> str:
        across = _LEFT + (point[0] - left) / (right - left) * (_WIDTH - _LEFT - 8)
        down = 8 + (1 - (point[1] / 2 - low / 2) / (high / 2 - low / 2)) * (_HEIGHT - _BOTTOM - 8)
        return f"{across:.1f},{down:.1f}"

    parts = [f'<svg width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">']
    parts.append(f"<title>{html.escape(name)}</title>")
    for share in (0.0, 0.5, 1.0):
        value, step = low * (1 - share) + high * share, left * (1 - share) + right * share
        x, y = place((left, value)).split(",")
        parts.append(f'<line x1="{x}" x2="{_WIDTH - 8}" y1="{y}" y2="{y}" stroke="#e5e5e5"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{float(y) + 4:.1f}" text-anchor="end">{value:.4g}</text>')
        x = place((step, low)).split(",")[0]
        anchor = "start" if share == 0 else "end" if share == 1 else "middle"
        parts.append(f'<text x="{x}" y="{_HEIGHT - 6}" text-anchor="{anchor}">{step:.0f}</text>')
    for number, points in enumerate(lines.values()):
        colour = _COLOURS[number % len(_COLOURS)]
        path = " ".join(place(point) for point in points)
        parts.append(f'<polyline fill="none" stroke="{colour}" stroke-width="1.6" points="{path}"/>')
        if len(points) <= 2:
            x, y = place(points[-1]).split(",")
            parts.append(f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>')
    legend = [
        f'<tspan fill="{_COLOURS[number % len(_COLOURS)]}">{html.escape(run)} </tspan>'
        for number, run in enumerate(lines)
    ]
    if len(runs) > 1:
        parts.append(f'<text x="{_LEFT + 6}" y="18">{"".join(legend)}</text>')
    return "".join([*parts, "</svg>"])


def _is_number(row: Mapping[str, Any], name: str) -> bool:
    values = row.get(name), row.get("step")
    return all(isinstance(it, int | float) and not isinstance(it, bool) and math.isfinite(it) for it in values)


def _ends(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - (abs(low) / 2 or 0.5), high + (abs(high) / 2 or 0.5))


def metric_names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of the metrics of a run, in the order in which they came.

    Example:
      >>> from batiste import train
      >>> rows = [{"step": 1, "time": 0.0, "loss": 0.5}, {"step": 2, "eval/loss": 0.4}]
      >>> train.metric_names(rows)
      ['loss', 'eval/loss']
    """
    return list(dict.fromkeys(name for row in rows for name in row if name not in ("step", "time")))


def write_report(run: str | os.PathLike[str], state: Any = None) -> Path:
    """Write the page of a run, and return where it is.

    Args:
      run: the folder of the run.
      state: its state, for the table of its arrays; None leaves the table as the last checkpoint has it.

    Raises:
      ArgumentError: the folder is no path.
      OSError: it cannot be written; a page that was there stays as it is.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import train
      >>> step = lambda state, x: (state + x, {"loss": state})
      >>> options = {"steps": 2, "log_every": 1, "log": None}
      >>> state = train.fit(step, jnp.zeros(()), lambda n: 1.0, run="run", **options)
      >>> train.write_report("run").name
      'report.html'
    """
    folder = Path(checked_path(run, "run", "write_report"))
    rows = read_lines(folder / "metrics.jsonl")
    starts = read_lines(folder / "starts.jsonl")
    parts = [f"<h1>{html.escape(folder.name)}</h1>", _summary(folder, rows)]
    found = (curves(name, {folder.name: rows}) for name in metric_names(rows))
    figures = [
        f"<figure>{svg}<figcaption>{html.escape(name)}</figcaption></figure>"
        for name, svg in zip(metric_names(rows), found, strict=True)
        if svg
    ]
    parts += ["<h2>Curves</h2>", *(figures or ["<p>There is no row of metrics yet.</p>"])]
    parts += _media(folder)
    parts += _blueprint(folder, state)
    config = read_config(folder)
    if config:
        parts += ["<h2>Configuration</h2>", _table([(name, json.dumps(value)) for name, value in config.items()])]
    parts += _checkpoints(folder)
    if starts:
        parts += ["<h2>Environment</h2>", _table([_start(row) for row in starts], ("start", "step", "with"))]
    noted = read_lines(folder / "warnings.jsonl")
    if noted:
        told = [(_when(row.get("time")), str(row.get("kind")), str(row.get("text"))) for row in noted[-100:]]
        parts += ["<h2>Warnings</h2>", _table(told)]
    place, partly = folder / "report.html", folder / "report.html.new"
    partly.write_text(document(folder.name, parts, _STYLE), encoding="utf-8")
    partly.replace(place)
    return place


def _summary(folder: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return f"<p>{html.escape(str(folder))}</p>"
    last = rows[-1]
    seconds = sum(min(b["time"] - a["time"], 3600.0) for a, b in itertools.pairwise(rows) if _timed(a, b))
    words = f"{folder}: step {last.get('step', 0):.0f}, last row {_when(last.get('time'))}"
    return f"<p>{html.escape(words)}, {seconds:.0f} s between rows.</p>"


def _timed(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    return _is_number({"step": 0, **a}, "time") and _is_number({"step": 0, **b}, "time") and b["time"] >= a["time"]


def _media(folder: Path) -> list[str]:
    latest = {(row.get("step"), row.get("name")): row for row in read_lines(folder / "media.jsonl")}
    parts: list[str] = []
    for (step, name), row in list(latest.items())[-_MOST_MEDIA:]:
        words = f"<figcaption>{html.escape(str(name))}, step {html.escape(str(step))}</figcaption>"
        if "text" in row:
            parts.append(f"<figure>{words}<pre>{html.escape(str(row['text']))}</pre></figure>")
            continue
        try:
            data = base64.b64encode((folder / "media" / Path(str(row.get("file"))).name).read_bytes()).decode()
        except OSError:
            continue
        alt = html.escape(str(name), quote=True)
        parts.append(f'<figure><img alt="{alt}" src="data:image/png;base64,{data}">{words}</figure>')
    return ["<h2>Samples and pictures</h2>", *parts] if parts else []


def _blueprint(folder: Path, state: Any) -> list[str]:
    rows: list[tuple[str, ...]] = []
    parts = ["<h2>Model and state</h2>"]
    if state is not None:
        model: Any = getattr(getattr(state, "apply_fn", None), "__self__", None)
        if model is not None:
            parts.append(f"<pre>{html.escape(repr(model))}</pre>")
        for path, leaf in flatten(state).items():
            shape: Any = getattr(leaf, "shape", ())
            rows.append((path, str(getattr(leaf, "dtype", type(leaf).__name__)), str(shape), f"{math.prod(shape):,}"))
    else:
        try:
            records = Manager(folder).open().manifest.records
        except BatisteError:
            return []
        rows = [(path, str(record.dtype), str(record.shape), f"{math.prod(record.shape):,}") for path, record in
                records.items()]  # fmt: skip
    total = sum(int(row[3].replace(",", "")) for row in rows if row[0].startswith("params/") or state is None)
    parts.append(f"<p>{len(rows)} arrays" + (f", {total:,} numbers in them as parameters.</p>" if total else ".</p>"))
    return [*parts, _table(rows[:400], ("path", "dtype", "shape", "numbers"))]


def _checkpoints(folder: Path) -> list[str]:
    run = Manager(folder)
    rows: list[tuple[str, ...]] = []
    for step in run.steps():
        try:
            manifest = run.open(step).manifest
        except BatisteError as error:
            rows.append((str(step), "", f"cannot be read ({error.code})"))
            continue
        metrics = cast("dict[str, float]", manifest.metadata.get("metrics", {}))
        told = "  ".join(f"{name} {value:.5g}" for name, value in metrics.items())
        rows.append((str(step), _when(manifest.saved_at), told))
    return ["<h2>Checkpoints</h2>", _table(rows, ("step", "saved", "metrics"))] if rows else []


def _start(row: Mapping[str, Any]) -> tuple[str, ...]:
    versions = cast("dict[str, Any]", row.get("versions", {}))
    told = ", ".join(f"{name} {version}" for name, version in versions.items())
    words = " ".join(map(str, row.get("words", ())))
    return _when(row.get("time")), str(row.get("step")), f"{row.get('devices')}; {row.get('system')}; {told}; {words}"


def _when(seconds: Any) -> str:
    if not isinstance(seconds, int | float) or not math.isfinite(seconds):
        return ""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _table(rows: Sequence[Sequence[str]], heads: Sequence[str] = ()) -> str:
    top = f"<tr>{''.join(f'<th>{html.escape(head)}</th>' for head in heads)}</tr>" if heads else ""
    lines = ["<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows]
    return f"<table>{top}{''.join(lines)}</table>"
