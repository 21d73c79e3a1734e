"""What is seen and kept of a run: a progress bar or plain lines, and three files.

``metrics.jsonl`` has one JSON object per epoch, ``curves.png`` the same as curves, and ``variables.npz`` every variable
of the trained network under its path (``params/ConvBlock_0/Conv_0/kernel``), to be read with ``numpy.load``. A file is
written beside its place and then moved there, so that a run that is stopped leaves whole files only.
"""

import contextlib
import dataclasses
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from batiste.diagnose import Summary
from batiste.tree import flatten
from examples.demo.problems import DemoError, need
from examples.demo.training import Progress

PLOT_WIDTH, PLOT_HEIGHT = 9, 3.5  # inches


def show(summary: Summary) -> None:
    """Print the table of a blueprint, framed where there is a terminal."""
    if sys.stdout.isatty():
        need("rich", package="rich", why="tables and progress bars are drawn by").print(summary)
    else:
        print(summary)


@contextlib.contextmanager
def following(epochs: int) -> Iterator[Callable[[Progress], None]]:
    """Give a function that shows progress: as a bar on a terminal, as a line per epoch elsewhere."""
    if not sys.stdout.isatty():
        yield lambda progress: _print_epoch(progress, epochs)
        return
    bars = need("rich.progress", package="rich", why="tables and progress bars are drawn by")
    columns = ("{task.description}", bars.BarColumn(), bars.MofNCompleteColumn(), bars.TimeRemainingColumn())
    with bars.Progress(*columns) as progress_bar:
        task = progress_bar.add_task("compiling", total=None)
        tested = None

        def advance(progress: Progress) -> None:
            nonlocal tested
            tested = tested if progress.test_accuracy is None else progress.test_accuracy
            text = f"epoch {progress.epoch}/{epochs}  {_in_words(dataclasses.replace(progress, test_accuracy=tested))}"
            progress_bar.update(task, description=text, completed=progress.step, total=progress.steps)

        yield advance


def _print_epoch(progress: Progress, epochs: int) -> None:
    if progress.test_accuracy is not None:
        print(f"epoch {progress.epoch:{len(str(epochs))}}/{epochs}  {_in_words(progress)}", flush=True)


def _in_words(progress: Progress) -> str:
    test = "" if progress.test_accuracy is None else f"  test {progress.test_accuracy:.2%}"
    rate = f"{progress.images_per_second:,.0f} images/s"
    return f"loss {progress.loss:.3f}  accuracy {progress.accuracy:.2%}{test}  {rate}"


def prepare(folder: Path) -> None:
    """Make the folder for the results, and see that files can be written there before any time is spent."""
    need("matplotlib.figure", package="matplotlib", why="the curves are drawn by")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        msg = f"{folder} cannot be written: {error.strerror}"
        raise DemoError(msg) from error


def write(folder: Path, epochs: Sequence[Progress], variables: Any) -> list[Path]:
    """Write the three files and return where they are."""
    lines = "".join(json.dumps(dataclasses.asdict(epoch)) + "\n" for epoch in epochs)
    arrays = {path: np.asarray(value) for path, value in flatten(variables).items()}
    return [
        _write_whole(folder / "metrics.jsonl", lambda file: file.write(lines.encode())),
        _write_whole(folder / "curves.png", lambda file: _draw(epochs, file)),
        _write_whole(folder / "variables.npz", lambda file: np.savez(file, **arrays)),
    ]


def _write_whole(path: Path, fill: Callable[[IO[bytes]], Any]) -> Path:
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            fill(file)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        msg = f"{path} cannot be written: {error.strerror}"
        raise DemoError(msg) from error
    return path


def _draw(epochs: Sequence[Progress], file: IO[bytes]) -> None:
    """Draw loss and accuracy against the epoch."""
    figures = need("matplotlib.figure", package="matplotlib", why="the curves are drawn by")
    figure = figures.Figure(figsize=(PLOT_WIDTH, PLOT_HEIGHT), layout="constrained")
    loss, accuracy = figure.subplots(1, 2)
    at = [progress.epoch for progress in epochs]
    loss.plot(at, [progress.loss for progress in epochs], label="training")
    accuracy.plot(at, [100 * progress.accuracy for progress in epochs], label="training, augmented")
    accuracy.plot(at, [100 * (progress.test_accuracy or 0) for progress in epochs], label="test")
    for axes, title in ((loss, "Loss"), (accuracy, "Accuracy (%)")):
        axes.set(title=title, xlabel="epoch")
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(file, format="png", dpi=150)
