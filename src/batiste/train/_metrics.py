"""What a run says of itself: means of the metrics, a file of rows, a line in the log.

A step's metrics are scalars on the device. To read one is to wait for the device, so ``Metrics`` only keeps them, and
reads many at once when a row is due or the state is saved. A *row* is one flat dict: ``step``, ``time`` (seconds since
1970), the mean of each metric over the steps since the row before under its path, and what an evaluation gave under
``eval/``. ``Rows`` appends rows to a file of JSON lines, which after an interruption is cut to the step that was saved.
"""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, cast

import jax
import jax.numpy as jnp
import numpy as np

from batiste._arguments import refused
from batiste.errors import MetricError, NonFiniteMetricError, RunFolderError, UnsavedStepWarning
from batiste.tree import flatten, path_string

__all__ = [
    "SKIPPED_UPDATE",
    "Metrics",
    "Row",
    "Rows",
    "check_metrics",
    "evaluation",
    "log_row",
    "metric_names",
    "non_finite",
    "show",
]

Row: TypeAlias = dict[str, float]
"""A row of metrics: numbers by name, of which ``step`` is always one."""

SKIPPED_UPDATE = "skipped_update"
"""The metric of a step that is 1 where the step has left its state as it was."""

_OWN = frozenset({"step", "time"})
_EVALUATED = "eval/"
_POWER = 64


def check_metrics(metrics: Any, where: str, prefix: str = "") -> None:
    """Refuse what is no tree of real scalars.

    Args:
      metrics: arrays, their shapes, or numbers.
      where: what returned them.
      prefix: what their names in a row begin with.

    Raises:
      MetricError: a leaf is no scalar, or has the name of something else in a row.
    """
    for path, leaf in _named(metrics).items():
        if not prefix and (path in _OWN or path.startswith(_EVALUATED)):
            raise MetricError(where=where, path=path, reason="a row has a number of that name already")
        reason = _why_no_number(leaf)
        if reason:
            raise MetricError(where=where, path=path, reason=reason)


def metric_names(metrics: Any, prefix: str = "") -> list[str]:
    """Return the names that these metrics have in a row."""
    return [prefix + (path or "loss") for path in flatten(metrics)]


def _named(metrics: Any) -> dict[str, Any]:
    """Return metrics by path; None inside of a container is one, since whoever wrote it meant a number."""
    if metrics is None:
        return {}
    pairs = cast("Any", jax.tree_util.tree_flatten_with_path)(metrics, is_leaf=_is_none)[0]
    return {path_string(path): leaf for path, leaf in pairs}


def _is_none(node: Any) -> bool:
    return node is None


def _why_no_number(leaf: Any) -> str:
    """Return why a leaf is no real number; "" where it is one."""
    if leaf is None or isinstance(leaf, str | bytes):
        return f"it is {leaf!r}"
    shape: Any = getattr(leaf, "shape", None)
    dtype: Any = getattr(leaf, "dtype", None)
    if not isinstance(leaf, jax.Array | jax.ShapeDtypeStruct | np.ndarray | np.generic):
        try:
            array = np.asarray(leaf)
        except Exception as error:  # noqa: BLE001 - lists of unequal length, tensors that want to be detached
            return f"it is no number ({error})"
        shape, dtype = array.shape, array.dtype
    if shape != ():
        return f"it has the shape {shape} and is no scalar"
    if not any(jnp.issubdtype(dtype, kind) for kind in (np.integer, np.floating, np.bool_)):
        return f"its dtype is {dtype}"
    return ""


def _read(trees: Sequence[Any], where: str, prefix: str = "") -> list[Row]:
    """Return what ``where`` has returned, trees of scalars, as numbers by name, after one transfer for all of them."""
    found: list[tuple[list[str], list[Any]]] = []
    names: list[str] = []
    known: Any = None  # the paths of one step's metrics are nearly always those of the next
    for tree in trees:
        leaves, structure = cast("Any", jax.tree).flatten(tree)
        if known is None or structure != known:
            check_metrics(tree, where, prefix)
            names, known = metric_names(tree, prefix), structure
        found.append((names, leaves))
    if jax.default_backend() != "cpu":  # whose memory is the host's: to ask takes 20 us for each number
        for leaf in jax.tree.leaves(trees):
            if isinstance(leaf, jax.Array):
                leaf.copy_to_host_async()
    return [{name: float(np.asarray(leaf)) for name, leaf in zip(*row, strict=True)} for row in found]


class Metrics:
    """The metrics since the last row: on the device those of the latest steps, and of the others their sums.

    Args:
      finite: whether a number that is not finite ends the run.

    Attributes:
      bad: the first number that is not finite, and must be: the step, the name and the value. It stays: a run whose
        numbers went wrong is not one to go on with, whoever reads them next.
      refused: the steps that a guarded step has not made (``_nonfinite.py``), in the same form; whoever reads takes
        them out. Their numbers are in no mean.
    """

    def __init__(self, *, finite: bool) -> None:
        self.bad: tuple[int, str, float] | None = None
        self.refused: list[tuple[int, str, float]] = []
        self._finite = finite
        self._waiting: list[tuple[int, Any, Any]] = []
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}
        self._powers: dict[str, int] = {}  # of two: what sums that would overflow are divided by

    @property
    def any(self) -> bool:
        """Whether there has been a step since the last row."""
        return bool(self._waiting or self._sums)

    def add(self, step: int, metrics: Any, good: Any = None) -> None:
        """Keep the metrics of a step, without waiting for them; ``good`` is whether it was made, None for surely."""
        self._waiting.append((step, metrics, good))

    def read(self, last: int) -> None:
        """Wait for the metrics of all steps up to ``last``, and add them up; what is not finite goes to ``bad``."""
        count = sum(step <= last for step, _, _ in self._waiting)
        known = self._waiting[:count]
        rows = _read([metrics for _, metrics, _ in known], "The step")
        del self._waiting[:count]
        for (step, _, good), row in zip(known, rows, strict=True):
            is_skipped = row.get(SKIPPED_UPDATE) == 1  # its state is the one before, so that nothing went wrong
            wrong = next(((step, *pair) for pair in row.items() if not math.isfinite(pair[1])), None)
            if good is not None and not bool(good) and not is_skipped:
                self.refused.append(wrong or (step, "an array of the next state", math.nan))
                continue
            if self._finite and self.bad is None and not is_skipped:
                self.bad = wrong
            for name, value in row.items():
                if is_skipped and not math.isfinite(value):
                    continue
                self._add(name, value)
                self._counts[name] = self._counts.get(name, 0) + 1

    def _add(self, name: str, value: float) -> None:
        before, power = self._sums.get(name, 0.0), self._powers.get(name, 0)
        total = before + (math.ldexp(value, -power) if power else value)
        if math.isinf(total) and math.isfinite(before) and math.isfinite(value):
            power = self._powers[name] = _POWER
            total = math.ldexp(before, -power) + math.ldexp(value, -power)
        self._sums[name] = total

    def _mean(self, name: str) -> float:
        power = self._powers.get(name, 0)
        mean, largest = self._sums[name] / self._counts[name], math.ldexp(sys.float_info.max, -power)
        return math.ldexp(max(-largest, min(mean, largest)), power) if power and math.isfinite(mean) else mean

    def means(self) -> Row:
        """Return the means of what was read since the last row, and begin anew."""
        found = {name: self._mean(name) for name in self._sums}
        self._sums, self._counts, self._powers = {}, {}, {}
        return found

    def state(self) -> dict[str, Any]:
        """Return what was read since the last row, as JSON."""
        rows: dict[str, list[Any]] = {name: [repr(total), self._counts[name]] for name, total in self._sums.items()}
        for name, power in self._powers.items():
            rows[name].append(power)
        return rows

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from what ``state`` returned."""
        self._sums = {name: float(row[0]) for name, row in state.items()}
        self._counts = {name: row[1] for name, row in state.items()}
        self._powers = {name: row[2] for name, row in state.items() if len(row) > 2}


def non_finite(bad: tuple[int, str, float], now: int, state: Any, run: Any, more: str = "") -> NonFiniteMetricError:
    """Return the error of a metric that is not finite.

    Args:
      bad: its step, its name and its value.
      now: how many steps are done.
      state: the state after them.
      run: the checkpoints; None for none.
      more: what else is known, as sentences.
    """
    step, name, value = bad
    wrong = [path for path, leaf in flatten(state).items() if not _is_finite(leaf)]
    others = f" and {len(wrong) - 1} more arrays" if len(wrong) > 1 else ""
    text = f"has NaN or infinity in {wrong[0]!r}{others}" if wrong else "is finite throughout"
    last = None if run is None else run.latest()
    kept = "There is no `run` to go back to" if run is None else "Nothing was saved from that step on"
    kept += "." if last is None else f"; the last checkpoint is that of step {last}."
    return NonFiniteMetricError(
        metric=name, value=value, step=step, state=f"The state after step {now} {text}. ", saved=kept + more
    )


def _is_finite(leaf: Any) -> bool:
    dtype = getattr(leaf, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jnp.inexact) or (isinstance(leaf, jax.Array) and leaf.is_deleted()):
        return True
    return bool(jnp.isfinite(leaf).all())


def evaluation(metrics: Any) -> Row:
    """Return what an evaluation gave, as the part of a row that it is.

    Raises:
      MetricError: it is no tree of scalars.
    """
    return _read([metrics], "evaluate()", _EVALUATED)[0]


class Rows:
    """The file of rows of a run, and whoever else is told of them.

    Args:
      path: the file; None for none.
      log: what is called with each row, in order.
      required: whether a file that cannot be written is an error, and no warning.
      clock: seconds since 1970.
    """

    def __init__(
        self,
        path: Path | None,
        log: Sequence[Callable[[Row], Any]] = (),
        *,
        required: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._path = path
        self._log = tuple(log)
        self._required = required
        self._clock = clock

    def cut(self, step: int) -> bool:
        """Remove the rows after a step, and a last line that was not written to its end.

        Returns:
          Whether the row of that very step is there.
        """
        if self._path is None or not self._path.exists():
            return False
        good, last = 0, math.nan
        try:
            with self._path.open("r+b") as file:
                for line in file:
                    at = _step_of(line)
                    if not line.endswith(b"\n") or at > step:
                        break
                    good, last = good + len(line), at
                file.truncate(good)
        except OSError as error:
            self._failed(self._path, error)
        return last == step

    def write(self, row: Row) -> None:
        """Append a row; a number that is not finite is written as null."""
        row = {"step": row["step"], "time": round(self._clock(), 3), **row}
        if self._path is not None:
            line = json.dumps({name: value if math.isfinite(value) else None for name, value in row.items()})
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                with self._path.open("ab") as file:
                    file.write(line.encode() + b"\n")
            except OSError as error:
                self._failed(self._path, error)
        for log in self._log:
            log(row)

    def flush(self) -> None:
        """Have the rows on the disk before the state that comes after them."""
        if self._path is not None and self._path.exists():
            try:
                with self._path.open("ab") as file:
                    os.fsync(file.fileno())
            except OSError as error:
                self._failed(self._path, error)

    def _failed(self, path: Path, error: OSError) -> None:
        if self._required:
            raise RunFolderError(path=path, reason=error.strerror or str(error)) from error
        text = f"A row was not written to {path}: {error.strerror or error}"
        warnings.warn(text, UnsavedStepWarning, stacklevel=4)


def _step_of(line: bytes) -> float:
    """Return the step of a line; infinity where it is no row, as after a crash of the machine."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return math.inf


def log_row(row: Row) -> None:
    """Log a row as a line, ``step 100  loss 0.25``: the logger is ``batiste.train``, the level is information.

    Raises:
      ArgumentError: it is no row.

    Example:
      >>> from batiste import train
      >>> import logging
      >>> logging.getLogger("batiste.train").getEffectiveLevel() > logging.INFO
      True
      >>> train.log_row({"step": 100, "loss": 0.25})
    """
    logging.getLogger("batiste.train").info("%s", _text(row))


def show(row: Row) -> None:
    """Print a row as a line, with rich where it is installed.

    Raises:
      ArgumentError: it is no row.

    Example:
      >>> from batiste import train
      >>> train.show({"step": 100, "loss": 0.25})
      step 100  loss 0.25
    """
    text = _text(row)
    try:
        import rich
    except ImportError:
        print(text, flush=True)  # noqa: T201 - it is asked for
    else:
        console = rich.get_console()
        # A console keeps the colours of the output it was made for; what it writes to now may be a file.
        console.print(text, markup=False, emoji=False, soft_wrap=True, highlight=console.is_terminal)


def _text(row: Row) -> str:
    try:
        numbers = "  ".join(f"{name} {value:.5g}" for name, value in row.items() if name not in _OWN)
        return f"step {row['step']:.0f}  {numbers}"
    except (AttributeError, KeyError, TypeError, ValueError):
        cure = "Give it to the loop, which calls it with its rows: train.fit(..., log=train.show)."
        raise refused(row, "row", "train.show", "a dict of numbers by name, of which step is one", cure) from None
