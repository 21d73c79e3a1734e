"""How a run is asked to stop: SIGTERM, which schedulers send before they take the machine away, and SIGINT (Ctrl-C).

The signal only leaves a note, and the loop looks at it between two steps, where the state is whole. Where the loop
waits for something that may take long and changes nothing, an evaluation, the signal ends it at once: the grace of a
scheduler is often half a minute. Who presses Ctrl-C twice does not want to wait for anything.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Generator
from typing import Any, TypeVar

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


@contextlib.contextmanager
def stop_signals(*, taken: bool) -> Generator[Stop]:
    """Take SIGTERM and SIGINT until the block ends; outside the main thread, and where not ``taken``, they stay.

    A signal that the block has not looked at goes to whom it would have gone without the block.
    """
    stop = Stop()
    before: dict[int, Any] = {}
    if taken and threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
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
