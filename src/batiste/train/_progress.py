"""How a run shows that it goes on: a bar in a terminal and a notebook, plain lines anywhere else.

Times are those between two rows, in which the host keeps pace with the device. The floating-point operations of a step
are XLA's count for the program before it is optimised, which counts the body of a loop once; who knows better says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, cast

import jax

from batiste._arguments import function, number
from batiste.train._hooks import Hook

__all__ = ["PEAKS", "flops_of", "progress"]

PEAKS: Final[Mapping[str, float]] = MappingProxyType(
    {
        "TPU v3": 123e12, "TPU v4": 275e12, "TPU v5 lite": 197e12, "TPU v5e": 197e12, "TPU v5": 459e12,
        "TPU v5p": 459e12, "TPU v6 lite": 918e12, "TPU v6e": 918e12, "NVIDIA A100": 312e12, "NVIDIA H100": 989e12,
        "NVIDIA H200": 989e12, "NVIDIA L4": 121e12, "NVIDIA V100": 125e12, "Tesla V100": 125e12,
    }
)  # fmt: skip
"""Dense bfloat16 operations a second (float16 on V100) of chips by the beginning of their name, from data sheets."""

_REDRAW = 0.1  # seconds


def progress(
    *, flops: float | None = None, peak: float | None = None, clock: Callable[[], float] = time.perf_counter
) -> Hook:
    """Return a hook that shows the step, the time left, the step time, examples a second, and the latest row.

    In a terminal and in a notebook it is a bar, with rich (``pip install 'batiste[train]'``); elsewhere, and without
    rich, a line for each row. ``log=None`` beside it keeps rows from being shown twice.

    Args:
      flops: floating-point operations of a step, for the share of the chip's peak that is reached (MFU). By default
        none are counted; ``train.flops_of(loop, batch)`` asks XLA.
      peak: operations a second of all devices together; by default from the name of the chip, where it is known.
      clock: seconds.

    Raises:
      ArgumentError: ``flops`` or ``peak`` is no number above 0.

    Example:
      >>> from batiste import train
      >>> hook = train.progress(flops=2e9, peak=1e12)  # for `hooks=` of `train.fit`
      >>> sorted(hook.calls)
      ['end', 'start', 'step']
    """
    if flops is not None:
        number(flops, "flops", "progress", above=0)
    if peak is not None:
        number(peak, "peak", "progress", above=0)
    function(clock, "clock", "progress", what="a function that returns seconds")
    shown = _Shown(flops, peak, clock)
    return Hook({"start": shown.start, "step": shown.step, "end": shown.end})


def flops_of(loop: Any, batch: Any) -> float | None:
    """Return the floating-point operations of a step as XLA counts them; None where it does not.

    Args:
      loop: a ``Loop``.
      batch: one of its batches; its values are not looked at.

    Example:
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from batiste import train
      >>> step = lambda state, x: (x @ x, {"loss": state.sum()})
      >>> x = np.ones((4, 4), np.float32)
      >>> loop = train.Loop(step, jnp.ones((4, 4)), [x], log=None)
      >>> train.flops_of(loop, x) >= 2 * 4**3
      True
    """
    program = loop.program
    try:
        cost: Any = program if isinstance(program, jax.stages.Compiled) else program.lower(loop.state, batch)
        found: Any = cost.cost_analysis()
    except (AttributeError, NotImplementedError, jax.errors.JaxRuntimeError):
        return None
    count: Any = found.get("flops") if isinstance(found, Mapping) else None  # pyright: ignore[reportUnknownMemberType,reportUnknownVariableType]
    return float(count) if isinstance(count, int | float) and count > 0 else None


class _Shown:
    def __init__(self, flops: float | None, peak: float | None, clock: Callable[[], float]) -> None:
        self._flops, self._peak, self._clock = flops, peak, clock
        self._bar: Any = None
        self._task: Any = None
        self._drawn = 0.0
        self._row: Any = None
        self._begun = self._since = 0.0
        self._first = self._last = 0
        self._pace = 0.0  # seconds a step

    def start(self, loop: Any) -> None:
        self._begun = self._since = self._clock()
        self._first = self._last = loop.step
        self._row = loop.row
        if self._peak is None:
            devices = cast("list[Any]", jax.devices())
            kind: str = devices[0].device_kind
            names = [name for name in PEAKS if kind.startswith(name)]
            self._peak = PEAKS[max(names, key=len)] * len(devices) if names else None
        bar = _new_bar()
        if bar is not None:
            self._bar = bar
            self._task = bar.add_task("", total=loop.settings.steps, completed=loop.step)
            bar.start()

    def step(self, loop: Any) -> None:
        if loop.row is not self._row:
            self._row = loop.row
            now = self._clock()
            if loop.step > self._last:
                self._pace = (now - self._since) / (loop.step - self._last)
            self._since, self._last = now, loop.step
            if self._bar is None:
                print(self._line(loop), flush=True)  # noqa: T201 - it is asked for
        if self._bar is not None:
            now = self._clock()
            if now - self._drawn > _REDRAW:
                self._drawn = now
                self._bar.update(self._task, completed=loop.step, description=self._words(loop), refresh=True)

    def end(self, loop: Any) -> None:
        if loop.row is not self._row and self._bar is None and loop.row:
            self._row = loop.row
            print(self._line(loop), flush=True)  # noqa: T201 - it is asked for
        if self._bar is not None:
            self._bar.update(self._task, completed=loop.step, description=self._words(loop), refresh=True)
            self._bar.stop()
            self._bar = None

    def _line(self, loop: Any) -> str:
        total = "" if loop.settings.steps is None else f"/{loop.settings.steps}"
        left = "" if loop.settings.steps is None or not self._pace else self._left(loop)
        return f"step {self._row.get('step', loop.step):.0f}{total}  {self._words(loop)}{left}"

    def _left(self, loop: Any) -> str:
        return f"  {_clock_text(self._pace * max(0, loop.settings.steps - loop.step))} left"

    def _words(self, loop: Any) -> str:
        told = [f"{name} {value:.5g}" for name, value in loop.row.items() if name not in ("step", "time")]
        if self._pace > 0:
            told.append(f"{self._pace * 1e3:.3g} ms/step")
            told.append(f"{loop.examples / self._pace:,.0f} examples/s")
            if self._flops is not None and self._peak is not None:
                told.append(f"MFU {self._flops / self._pace / self._peak:.1%}")
        return "  ".join(told)


def _clock_text(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _new_bar() -> Any:
    """Return a bar where there is a place for one; None elsewhere, and without rich."""
    try:
        import rich
        from rich import progress as bars
    except ImportError:
        return None
    console = rich.get_console()
    if not (console.is_terminal and not console.is_dumb_terminal) and not console.is_jupyter:
        return None
    columns = (
        bars.MofNCompleteColumn(), bars.BarColumn(bar_width=20), bars.TimeRemainingColumn(),
        bars.TextColumn("{task.description}", markup=False),
    )  # fmt: skip
    return bars.Progress(*columns, console=console, auto_refresh=False, expand=False)
