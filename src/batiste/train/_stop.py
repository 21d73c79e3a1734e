"""How a run is asked to stop: SIGTERM, which schedulers send before they take the machine away, and SIGINT (Ctrl-C).

The signal only leaves a note, and the loop looks at it between two steps, where the state is whole. Where the loop
waits for something that may take long and changes nothing, an evaluation, the signal ends it at once: the grace of a
scheduler is often half a minute. Who presses Ctrl-C twice does not want to wait for anything.

With several processes, a signal to one of them is for all. ``jax.distributed`` takes SIGTERM and agrees on a step that
no process has passed yet, and each looks whether that is the one at hand; Ctrl-C is made a SIGTERM. There, nothing is
ended at once: an evaluation has collectives, in which the others wait.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Generator
from typing import Any, TypeVar

from jax.experimental import multihost_utils

__all__ = ["Stop", "stop_signals"]


Result = TypeVar("Result")


class _StopNowError(BaseException):
    """Ends what may be ended at once; never seen outside ``Stop.unless_asked``."""


class Stop:
    """The note that a signal leaves.

    Attributes:
      signal: the first signal that came, or None.
      hurried: whether Ctrl-C was pressed again after the first signal.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self.hurried = False
        self._may_end = False

    def note(self, number: int, frame: Any) -> None:
        """Take a signal."""
        del frame
        if self.signal is not None:
            if number == signal.SIGINT:
                self.signal = None
                self.hurried = True
                raise KeyboardInterrupt
            return
        self.signal = number
        if self._may_end:
            raise _StopNowError

    def look(self, step: int) -> bool:
        """Return whether the loop stops before the step after this one."""
        del step
        return self.signal is not None

    def unless_asked(self, work: Callable[[], Result]) -> Result | None:
        """Return what ``work`` returns, or None if a signal has come, or comes before its end and ends it."""
        if self.signal is not None:
            return None
        try:
            try:
                self._may_end = True
                return work()
            finally:
                self._may_end = False
        except _StopNowError:
            return None

    def leave(self) -> None:
        """End the program as the signal asks: with ``KeyboardInterrupt``, or with exit status 143 after SIGTERM."""
        number, self.signal = self.signal, None
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        if number is not None:
            raise SystemExit(128 + number)


class SharedStop(Stop):
    """The note that a signal to any of several processes leaves in all of them.

    Args:
      taken: whether signals are looked at.
    """

    def __init__(self, *, taken: bool) -> None:
        super().__init__()
        self._taken = taken
        self._interrupted = False

    def note(self, number: int, frame: Any) -> None:
        """Take Ctrl-C, and ask all processes to stop; the second time, end this one."""
        del number, frame
        if self._interrupted:
            self.hurried = True
            raise KeyboardInterrupt
        self._interrupted = True
        os.kill(os.getpid(), signal.SIGTERM)

    def look(self, step: int) -> bool:
        """Return whether all processes stop at this step."""
        if self._taken and self.signal is None:
            try:
                reached = multihost_utils.reached_preemption_sync_point(step)
            except RuntimeError:  # `jax_enable_preemption_service` is off
                reached = False
            if reached:
                self.signal = signal.SIGINT if self._interrupted else signal.SIGTERM
        return self.signal is not None

    def unless_asked(self, work: Callable[[], Result]) -> Result | None:
        """Return what ``work`` returns."""
        return work()


@contextlib.contextmanager
def stop_signals(*, taken: bool, shared: bool = False) -> Generator[Stop]:
    """Take SIGTERM and SIGINT until the block ends; outside the main thread, and where not ``taken``, they stay.

    Where they are ``shared`` by several processes, SIGTERM is JAX's to take.

    A signal that the block has not looked at goes to whom it would have gone without the block.
    """
    stop = SharedStop(taken=taken) if shared else Stop()
    before: dict[int, Any] = {}
    if taken and threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT,) if shared else (signal.SIGTERM, signal.SIGINT):
            handler = signal.getsignal(number)
            if handler is not None:  # None is one that Python did not install and cannot put back
                before[number] = handler
                signal.signal(number, stop.note)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if stop.signal is not None:
            signal.raise_signal(stop.signal)
