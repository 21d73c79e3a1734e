"""What the folder of a run holds beside checkpoints and rows, where the user asks for it, and who else is told.

``starts.jsonl`` has a line for each start of the run: when, at which step, with which versions, devices and words;
``warnings.jsonl`` the warnings that were given meanwhile; ``media.jsonl`` and ``media/`` the pictures and texts that
were logged; ``report.html`` the page made of all that (``_report.py``). The first two and the page are written with
``report=True``. Nothing here is needed to go on with a run, so what cannot be written costs no more than a warning.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import platform
import re
import sys
import threading
import time
import warnings
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np

from batiste._arguments import refused, text
from batiste.errors import MissingPackageError, UnsavedStepWarning
from batiste.train._report import write_report
from batiste.train._settings import Settings

__all__ = ["Folder"]

_PACKAGES = ("batiste", "jax", "jaxlib", "numpy", "optax", "flax")


class Folder:
    """The folder of a run, and its loggers, for as long as its loop is iterated.

    Args:
      settings: those of the loop.
      first: whether this process writes; of several, one does.
    """

    def __init__(self, settings: Settings, *, first: bool = True) -> None:
        self._folder = None if settings.run is None or not first else settings.run.folder
        self._reports = settings.report and self._folder is not None
        self._loggers = settings.log if first else ()

    @contextlib.contextmanager
    def open(self, loop: Any) -> Generator[None]:
        """Begin with the loggers, and keep a record until the block ends."""
        for logger in self._loggers:
            begin: Callable[[Any], Any] | None = getattr(logger, "begin", None)
            if begin is not None:
                begin(loop)
        try:
            if self._reports and self._folder is not None:
                with _noted_warnings(self._folder / "warnings.jsonl"):
                    _append(self._folder / "starts.jsonl", {**_environment(), "step": loop.step})
                    yield
            else:
                yield
        finally:
            for logger in self._loggers:
                close: Callable[[], Any] | None = getattr(logger, "close", None)
                if close is not None:
                    close()
            if self._reports and self._folder is not None:
                with _only_warned(self._folder / "report.html"):
                    write_report(self._folder, loop.state)

    def picture(self, step: int, name: str, image: np.ndarray[Any, Any]) -> None:
        """Keep a picture, and give it to the loggers that take one."""
        text(name, "name", "Loop.picture")
        pixels = _pixels(image)
        if self._folder is not None:
            file = f"{step:08d}-{re.sub(r'[^A-Za-z0-9_.-]+', '-', name)}.png"
            with _only_warned(self._folder / "media"):
                (self._folder / "media").mkdir(parents=True, exist_ok=True)
                _write_png(self._folder / "media" / file, pixels)
                _append(self._folder / "media.jsonl", {"step": step, "name": name, "file": file})
        for logger in self._loggers:
            take: Callable[..., Any] | None = getattr(logger, "picture", None)
            if take is not None:
                take(step, name, pixels)

    def text(self, step: int, name: str, words: str) -> None:
        """Keep a text, and give it to the loggers that take one."""
        text(name, "name", "Loop.text")
        if self._folder is not None:
            _append(self._folder / "media.jsonl", {"step": step, "name": name, "text": words})
        for logger in self._loggers:
            take: Callable[..., Any] | None = getattr(logger, "text", None)
            if take is not None:
                take(step, name, words)


def _pixels(image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return a picture as bytes ``[height, width]`` or ``[height, width, 3 or 4]``."""
    good = image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (1, 3, 4))
    if not good or not image.size or image.dtype.kind not in "biuf":
        expected = "an array [height, width] or [height, width, 1, 3 or 4] of numbers"
        raise refused(image, "image", "Loop.picture", expected, "Give one picture; put several side by side first.")
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    if image.dtype.kind in "bf":
        image = np.nan_to_num(np.asarray(image, np.float32), nan=0.0, posinf=1.0, neginf=0.0) * 255.0 + 0.5
    return np.clip(image, 0, 255).astype(np.uint8)


def _write_png(path: Path, pixels: np.ndarray[Any, Any]) -> None:
    try:
        from matplotlib import image
    except ImportError as error:
        purpose, install = "Writing a picture", "'batiste[train]'"
        raise MissingPackageError(purpose=purpose, package="matplotlib", install=install) from error
    shown: Any = pixels if pixels.ndim == 3 else np.repeat(pixels[:, :, None], 3, axis=2)
    image.imsave(path, shown, format="png")


@contextlib.contextmanager
def _only_warned(path: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        warnings.warn(f"{path} was not written: {error.strerror or error}", UnsavedStepWarning, stacklevel=4)


def _append(path: Path, row: dict[str, Any]) -> None:
    with _only_warned(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def _environment() -> dict[str, Any]:
    versions: dict[str, str] = {"python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    devices = cast("list[Any]", jax.devices())
    return {
        "time": round(time.time(), 3),
        "system": platform.platform(),
        "versions": versions,
        "devices": f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})",
        "words": sys.argv,
    }


@contextlib.contextmanager
def _noted_warnings(path: Path) -> Generator[None]:
    """Write every warning that is shown to a file as well; only in the main thread, which alone may change that."""
    shown = warnings.showwarning
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def noted(message: Any, category: Any, filename: str, lineno: int, file: Any = None, line: Any = None) -> None:
        with contextlib.suppress(OSError), path.open("a", encoding="utf-8") as rows:
            rows.write(json.dumps({"time": round(time.time(), 3), "kind": category.__name__, "text": str(message)}))
            rows.write("\n")
        shown(message, category, filename, lineno, file, line)

    warnings.showwarning = noted
    try:
        yield
    finally:
        if warnings.showwarning is noted:
            warnings.showwarning = shown
