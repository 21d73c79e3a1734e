"""A save in the background, and the promise that a program which ends has finished it or says that it has not."""

from __future__ import annotations

import dataclasses
import threading
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from batiste._arguments import seconds
from batiste.errors import BatisteWarning

__all__ = ["SaveHandle", "beside"]

_Result = TypeVar("_Result")


def beside(function: Callable[[], _Result]) -> Callable[[], _Result]:
    """Begin something in another thread where that can be, and return what waits for its result."""
    found: list[_Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            found.append(function())
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is waited for
            errors.append(error)

    thread = threading.Thread(target=run, name="batiste save")
    try:
        thread.start()
    except RuntimeError:  # there are too many, or Python ends, which from 3.12 on starts no threads
        return function

    def wait() -> _Result:
        thread.join()
        if errors:
            raise errors[0]
        return found[0]

    return wait


@dataclasses.dataclass(slots=True)
class _Outcome:
    """How a save has ended, and whether anybody was told."""

    error: BaseException | None = None
    told: bool = False


class SaveHandle:
    """A save that goes on in a thread of its own.

    The interpreter waits for the thread before it ends, as for any that is no daemon, and the save needs no other: in
    an interpreter that ends, what would go on beside the writing is done after it. An error that nobody has waited for
    becomes a warning when the handle is gone, at the latest when the program ends.

    Attributes:
      path: where the checkpoint will be.

    Example:
      >>> import numpy as np
      >>> from batiste import checkpoint
      >>> handle = checkpoint.save_async("run", {"w": np.ones(3)})
      >>> handle.wait(), handle.done
      (True, True)
    """

    def __init__(self, path: Path, write: Callable[[], None]) -> None:
        self.path = path
        self._outcome = _Outcome()
        self._thread = threading.Thread(target=self._run, args=(write,), name=f"batiste save {path.name}", daemon=False)
        weakref.finalize(self, _tell, path, self._outcome)  # the thread keeps the handle until it ends
        self._thread.start()

    @property
    def done(self) -> bool:
        """Whether it has ended, well or badly."""
        return not self._thread.is_alive()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the checkpoint is complete.

        Args:
          timeout: seconds, 0 or more; None waits as long as it takes.

        Returns:
          Whether it is complete; False only after the timeout.

        Raises:
          ArgumentError: if the timeout is no number of seconds.
          BatisteError: what went wrong, each time it is asked.
        """
        limit = None if timeout is None else float(seconds(timeout, "timeout", "SaveHandle.wait"))
        self._thread.join(None if limit is None or limit > threading.TIMEOUT_MAX else limit)
        if self._thread.is_alive():
            return False
        self._outcome.told = True
        if self._outcome.error is not None:
            raise self._outcome.error
        return True

    def _run(self, write: Callable[[], None]) -> None:
        try:
            write()
        except BaseException as error:  # noqa: BLE001 - it is raised where the handle is waited for
            self._outcome.error = error


def _tell(path: Path, outcome: _Outcome) -> None:
    """Warn of an error that nobody has asked for."""
    if outcome.error is not None and not outcome.told:
        warnings.warn(f"{path} was not saved: {outcome.error}", BatisteWarning, stacklevel=2)
