"""Loggers: where rows, pictures and texts of a run go beside its own file of rows.

A logger is any function of a row; several are given as a list, ``log=[train.show, train.TensorBoard()]``. One that has
``begin(loop)`` is told when a loop begins or goes on, before its first row; ``close()``, when it ends;
``picture(step, name, pixels)`` and ``text(step, name, text)``, what the user logs. Those here import the package that
they write with when their loop begins, and not before. A run that goes on continues its log where the package can.
"""

from __future__ import annotations

import importlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from batiste._arguments import path, refused
from batiste.errors import LoopArgumentError, MissingPackageError
from batiste.train._config import fields_of
from batiste.train._metrics import Row

__all__ = ["Aim", "JsonLines", "Mlflow", "TensorBoard", "Wandb"]


def _package(name: str, install: str = "") -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        purpose = f"Logging to {package}"
        raise MissingPackageError(purpose=purpose, package=package, install=install or package) from error


def _path(value: Any, where: str) -> Path | None:
    if value is None:
        return None
    return Path(path(value, "folder", where, what="a path, or None for one in the folder of the run"))


def _in_run(folder: Path | None, loop: Any, name: str, logger: str) -> Path:
    if folder is not None:
        return folder
    if loop.settings.run is None:
        cure = f"Give {logger}() a folder, or the loop a run."
        raise LoopArgumentError(name="log", value=f"with {logger}()", reason="there is no run to write into", cure=cure)
    return loop.settings.run.folder / name


def _numbers(row: Row) -> dict[str, float]:
    return {name: value for name, value in row.items() if name not in ("step", "time")}


def _settings(loop: Any) -> dict[str, Any]:
    return {} if loop.settings.config is None else fields_of(loop.settings.config)


class JsonLines:
    """Appends rows to a file of JSON lines, one more than the one that a run has anyway.

    Rows after the step at which a run goes on are removed when it does.

    Args:
      path: the file; its folder is made.

    Raises:
      ArgumentError: it is no path.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import train
      >>> step = lambda state, x: (state + x, {"loss": state})
      >>> log = train.JsonLines("rows.jsonl")
      >>> state = train.fit(step, jnp.zeros(()), [1.0, 2.0], log_every=1, log=log)
      >>> [row["loss"] for row in train.read_lines("rows.jsonl")]
      [0.0, 1.0]
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        found = _path(path, "JsonLines")
        if found is None:
            raise refused(path, "path", "JsonLines", "a path")
        self._place = found

    def begin(self, loop: Any) -> None:
        """Make the folder, and remove rows that will be written again."""
        self._place.parent.mkdir(parents=True, exist_ok=True)
        if self._place.exists():
            lines = self._place.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and _step(line) <= loop.step]
            if kept != lines:
                partly = self._place.with_name(f"{self._place.name}.new")
                partly.write_text("".join(kept), encoding="utf-8")
                partly.replace(self._place)

    def __call__(self, row: Row) -> None:
        """Append a row; a number that is not finite is null."""
        line = json.dumps({name: value if math.isfinite(value) else None for name, value in row.items()})
        with self._place.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def _step(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


class TensorBoard:
    """Writes scalars, pictures and texts as files for TensorBoard, with tensorboardX and without TensorFlow.

    Args:
      folder: where; by default ``tensorboard`` in the folder of the run.

    Raises:
      ArgumentError: it is no path.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import train
      >>> import pathlib
      >>> step = lambda state, x: (state + x, {"loss": state})
      >>> log = train.TensorBoard("board")
      >>> state = train.fit(step, jnp.zeros(()), [1.0, 2.0, 3.0], log_every=1, log=log)
      >>> len(list(pathlib.Path("board").glob("events.*")))
      1
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None) -> None:
        self._folder = _path(folder, "TensorBoard")
        self._writer: Any = None

    def begin(self, loop: Any) -> None:
        """Open a file, and have TensorBoard forget the steps that are to be done again.

        Raises:
          MissingPackageError: tensorboardX is not installed.
          LoopArgumentError: there is neither a folder nor a run.
        """
        package = _package("tensorboardX")
        place = _in_run(self._folder, loop, "tensorboard", "TensorBoard")
        self._writer = package.SummaryWriter(
            logdir=str(place),
            purge_step=loop.step + 1 if loop.step else None,
            filename_suffix=f".{loop.step}",  # two starts in one second would have one file
        )

    def __call__(self, row: Row) -> None:
        """Write the numbers of a row."""
        for name, value in _numbers(row).items():
            self._writer.add_scalar(name, value, int(row["step"]), walltime=row.get("time"))

    def picture(self, step: int, name: str, pixels: Any) -> None:
        """Write a picture."""
        self._writer.add_image(name, pixels, step, dataformats="HW" if pixels.ndim == 2 else "HWC")

    def text(self, step: int, name: str, text: str) -> None:
        """Write a text."""
        self._writer.add_text(name, text, step)

    def close(self) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()


class _Service:
    """A logger to a service: what it is to be opened with, and the name under which it goes on.

    Args:
      **options: given to the service when the loop begins.
    """

    _file = ""

    def __init__(self, **options: Any) -> None:
        self._options = options
        self._run: Any = None

    def _known(self, loop: Any) -> str | None:
        """Return the name that the service gave the run at an earlier start."""
        place = None if loop.settings.run is None else loop.settings.run.folder / self._file
        return place.read_text().strip() or None if place is not None and place.exists() else None

    def _keep(self, loop: Any, name: str) -> None:
        if loop.settings.run is not None:
            loop.settings.run.folder.mkdir(parents=True, exist_ok=True)
            (loop.settings.run.folder / self._file).write_text(name)


class Wandb(_Service):
    """Sends rows, pictures and texts to Weights & Biases; its run goes on with the run.

    Args:
      **options: those of ``wandb.init``: ``project``, ``name``, ``tags``, ``mode="offline"``.

    Example:
      >>> from batiste import train  # doctest: +SKIP
      >>> log = train.Wandb(project="digits", mode="offline")  # doctest: +SKIP
      >>> state = train.fit(step, state, data, run="run", log=log)  # doctest: +SKIP
    """

    _file = "wandb.txt"

    def begin(self, loop: Any) -> None:
        """Open the run, or the one that was begun at an earlier start.

        Raises:
          MissingPackageError: wandb is not installed.
        """
        self._package = _package("wandb")
        known = self._known(loop)
        more: dict[str, Any] = {} if known is None else {"id": known, "resume": "allow"}
        self._run = self._package.init(**{"config": _settings(loop), **more, **self._options})
        self._keep(loop, str(self._run.id))

    def __call__(self, row: Row) -> None:
        """Send the numbers of a row."""
        self._run.log(_numbers(row), step=int(row["step"]))

    def picture(self, step: int, name: str, pixels: Any) -> None:
        """Send a picture."""
        self._run.log({name: self._package.Image(pixels)}, step=step)

    def text(self, step: int, name: str, text: str) -> None:
        """Send a text."""
        self._run.log({name: self._package.Html(f"<pre>{_escaped(text)}</pre>")}, step=step)

    def close(self) -> None:
        """End the run of the service."""
        if self._run is not None:
            self._run.finish()


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


class Mlflow(_Service):
    """Sends rows, pictures and texts to MLflow; its run goes on with the run.

    Args:
      **options: those of ``mlflow.start_run``, such as ``run_name``; and ``tracking_uri`` and ``experiment``.

    Example:
      >>> from batiste import train  # doctest: +SKIP
      >>> log = train.Mlflow(run_name="digits")  # doctest: +SKIP
      >>> state = train.fit(step, state, data, run="run", log=log)  # doctest: +SKIP
    """

    _file = "mlflow.txt"

    def begin(self, loop: Any) -> None:
        """Open the run, or the one that was begun at an earlier start.

        Raises:
          MissingPackageError: mlflow is not installed.
        """
        package = self._package = _package("mlflow")
        options = dict(self._options)
        if "tracking_uri" in options:
            package.set_tracking_uri(options.pop("tracking_uri"))
        if "experiment" in options:
            package.set_experiment(options.pop("experiment"))
        known = self._known(loop)
        self._run = package.start_run(**({} if known is None else {"run_id": known}), **options)
        self._keep(loop, str(self._run.info.run_id))
        fields = _settings(loop)
        if fields and known is None:
            package.log_params(fields)

    def __call__(self, row: Row) -> None:
        """Send the numbers of a row; MLflow takes no names with more than letters, digits and ``_-. /``."""
        self._package.log_metrics(_numbers(row), step=int(row["step"]))

    def picture(self, step: int, name: str, pixels: Any) -> None:
        """Send a picture."""
        self._package.log_image(pixels, f"{name}-{step}.png")

    def text(self, step: int, name: str, text: str) -> None:
        """Send a text."""
        self._package.log_text(text, f"{name}-{step}.txt")

    def close(self) -> None:
        """End the run of the service."""
        if self._run is not None:
            self._package.end_run()


class Aim(_Service):
    """Sends rows, pictures and texts to Aim; its run goes on with the run.

    Args:
      **options: those of ``aim.Run``: ``repo``, ``experiment``.

    Example:
      >>> from batiste import train  # doctest: +SKIP
      >>> log = train.Aim(experiment="digits")  # doctest: +SKIP
      >>> state = train.fit(step, state, data, run="run", log=log)  # doctest: +SKIP
    """

    _file = "aim.txt"

    def begin(self, loop: Any) -> None:
        """Open the run, or the one that was begun at an earlier start.

        Raises:
          MissingPackageError: aim is not installed.
        """
        self._package = _package("aim")
        known = self._known(loop)
        more: Mapping[str, Any] = {} if known is None else {"run_hash": known}
        self._run = self._package.Run(**{**more, **self._options})
        self._keep(loop, str(self._run.hash))
        for name, value in _settings(loop).items():
            self._run["config", name] = value

    def __call__(self, row: Row) -> None:
        """Send the numbers of a row."""
        for name, value in _numbers(row).items():
            self._run.track(value, name=name, step=int(row["step"]))

    def picture(self, step: int, name: str, pixels: Any) -> None:
        """Send a picture."""
        self._run.track(self._package.Image(pixels), name=name, step=step)

    def text(self, step: int, name: str, text: str) -> None:
        """Send a text."""
        self._run.track(self._package.Text(text), name=name, step=step)

    def close(self) -> None:
        """End the run of the service."""
        if self._run is not None:
            self._run.close()
