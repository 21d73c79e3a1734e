"""How a run is asked to stop: SIGTERM, which schedulers send before they take the machine away, and SIGINT (Ctrl-C).

The signal only leaves a note, and the loop looks at it between two steps, where the state is whole. Where the loop
waits for something that may take long and changes nothing, an evaluation, the signal ends it at once: the grace of a
scheduler is often half a minute. A wait for data is given a second, since the next batch is mostly there by then.

Who asks twice does not want to wait for anything. Schedulers and shells often send the same SIGTERM twice at once, so
only one that comes later is a second one. Python runs handlers between two of its own instructions, and a compiler may
not come to the next one for minutes; so a thread hears of signals as well, by the wakeup file of ``signal``, and ends
the process where the handler cannot. Nor does a save in the background hold it: Python waits for such a thread when
the program has ended, so another one waits for the program, and ends the process then.

With several processes, a signal to one of them is for all. ``jax.distributed`` takes SIGTERM and agrees on a step that
no process has passed yet, and each looks whether that is the one at hand; Ctrl-C is made a SIGTERM. There, nothing is
ended at once: an evaluation has collectives, in which the others wait.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator
from typing import Any, TypeVar

from jax.experimental import multihost_utils

__all__ = ["Stop", "stop_signals"]


Result = TypeVar("Result")
_SAME = 0.2  # seconds, within which a signal that comes again is the same one
_PATIENCE = 1.0  # seconds for a batch that is on its way, and for Python to come to its handler
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class _StopNowError(BaseException):
    """Ends what may be ended at once; never seen outside ``Stop.unless_asked``."""


class Stop:
    """The note that a signal leaves.

    Attributes:
      signal: the first signal that came, or None.
      hurried: the second one that came, or 0.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self.hurried = 0
        self.gone = threading.Event()
        self._since = 0.0
        self._may_end = False
        self._waits = False
        self._nudged = False

    def note(self, number: int, frame: Any) -> None:
        """Take a signal."""
        del frame
        if self._nudged:  # the watcher's, which is no signal of anybody
            self._nudged = False
            if self._waits:
                raise _StopNowError
            return
        if self.signal is not None:
            if number == signal.SIGINT or time.monotonic() - self._since > _SAME:
                self.signal = None
                self.hurried = number
                if number == signal.SIGINT:
                    raise KeyboardInterrupt
                raise SystemExit(128 + number)
            return
        self.signal, self._since = number, time.monotonic()
        if self._may_end:
            raise _StopNowError

    def look(self, step: int) -> bool:
        """Return whether the loop stops before the step after this one."""
        del step
        return self.signal is not None

    def unless_asked(self, work: Callable[[], Result], *, patient: bool = False) -> Result | None:
        """Return what ``work`` returns, or None if a signal has come, or comes before its end and ends it.

        Args:
          work: what may be ended.
          patient: whether it is given a second before it is ended.
        """
        if self.signal is not None:
            return None
        try:
            try:
                self._may_end, self._waits = not patient, patient
                return work()
            finally:
                self._may_end = self._waits = False
        except _StopNowError:
            return None

    def leave(self) -> None:
        """End the program as the signal asks: with ``KeyboardInterrupt``, or with exit status 143 after SIGTERM."""
        number, self.signal = self.signal, None
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        if number is not None:
            raise SystemExit(128 + number)

    def watch(self, file: int, main: int) -> None:
        """Hear of signals in a thread: end a wait that takes too long, and the process where Python cannot.

        Args:
          file: what the numbers of signals are read from; its end is the end of the watch.
          main: the thread that handles signals.
        """
        first = 0.0
        while True:
            number = _next_signal(file, _PATIENCE if first and not self.gone.is_set() else None)
            if number == 0:
                return
            now = time.monotonic()
            if number is None:
                first = -1.0
                if self._waits and self.signal is not None:
                    self._nudged = True
                    with contextlib.suppress(ProcessLookupError):
                        signal.pthread_kill(main, self.signal)
            elif first == 0.0:
                first = now
            elif not self._nudged and (number == signal.SIGINT or now - self._since > _SAME):
                time.sleep(_PATIENCE)
                if not self.hurried and not self.gone.is_set():
                    os.write(2, b"batiste: asked twice to stop; the last checkpoint is where the run goes on\n")
                    os._exit(128 + number)


def _next_signal(file: int, seconds: float | None) -> int | None:
    """Return the next signal that concerns a loop; None after the time, 0 at the end of the file."""
    while True:
        try:
            if not select.select([file], [], [], seconds)[0]:
                return None
            found = os.read(file, 1)
        except (OSError, ValueError):
            return 0
        if not found or found[0] in _SIGNALS:
            return found[0] if found else 0


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
            self.hurried = signal.SIGINT
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

    def unless_asked(self, work: Callable[[], Result], *, patient: bool = False) -> Result | None:
        """Return what ``work`` returns."""
        del patient
        return work()


@contextlib.contextmanager
def stop_signals(*, taken: bool, shared: bool = False) -> Generator[Stop]:
    """Take SIGTERM and SIGINT until the block ends; outside the main thread, and where not ``taken``, they stay.

    Where they are ``shared`` by several processes, SIGTERM is JAX's to take.

    A signal that the block has not looked at goes to whom it would have gone without the block.
    """
    stop = SharedStop(taken=taken) if shared else Stop()
    before: dict[int, Any] = {}
    unwatch: Callable[[], None] | None = None
    if taken and threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT,) if shared else _SIGNALS:
            handler = signal.getsignal(number)
            if handler is not None:  # None is one that Python did not install and cannot put back
                before[number] = handler
                signal.signal(number, stop.note)
        unwatch = _watched(stop) if before and not shared else None
    try:
        yield stop
    finally:
        stop.gone.set()
        if unwatch is not None:
            unwatch()
        for number, handler in before.items():
            signal.signal(number, handler)
        if stop.hurried:
            _leave_saves(128 + stop.hurried)
        if stop.signal is not None:
            signal.raise_signal(stop.signal)


def _leave_saves(status: int) -> None:
    """Have the process end with its program, and not with the saves that are under way in the background."""
    saves = [each for each in threading.enumerate() if each.name.startswith("batiste save")]

    def leave() -> None:
        threading.main_thread().join()  # which ends before Python waits for other threads
        if any(each.is_alive() for each in saves):
            with contextlib.suppress(Exception):  # a pipe that nobody reads is no reason to stay
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)

    if saves:
        threading.Thread(target=leave, name="batiste leaves", daemon=True).start()


def _watched(stop: Stop) -> Callable[[], None] | None:
    """Begin to watch, and return what ends it; None where somebody else is told of signals, as in a notebook."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    other = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    if other != -1:
        signal.set_wakeup_fd(other, warn_on_full_buffer=False)
        os.close(reader)
        os.close(writer)
        return None
    main = threading.get_ident()
    thread = threading.Thread(target=stop.watch, args=(reader, main), name="batiste signals", daemon=True)
    thread.start()

    def unwatch() -> None:
        if threading.current_thread() is threading.main_thread():
            theirs = signal.set_wakeup_fd(-1)
            if theirs not in (writer, -1):  # somebody has taken the place in the meantime
                signal.set_wakeup_fd(theirs)
        os.close(writer)
        thread.join(1.0)
        os.close(reader)

    return unwatch
