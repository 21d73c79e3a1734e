"""A save in the background, and the promise that a program which ends has finished it or says that it has not."""

from __future__ import annotations

import importlib
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from batiste.errors import BatisteWarning

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

__all__ = ["SaveHandle", "beside"]

_Result = TypeVar("_Result")


def beside(pool: ThreadPoolExecutor, function: Callable[[], _Result]) -> Callable[[], _Result]:
    """Begin something in another thread where that can be, and return what waits for its result."""
    try:
        return pool.submit(function).result
    except RuntimeError:  # an interpreter that ends starts no threads in Python 3.12.0 and 3.12.1
        return function


class SaveHandle:
    """A save that goes on in a thread of its own.

    The interpreter waits for it before it ends. It must do so before ``concurrent.futures`` is shut down, which Orbax
    needs; only the exit hooks of ``threading`` are early enough. (Python 3.12.0 and 3.12.1 start no thread any more
    by then, so that Orbax fails there; a warning says so. Call ``wait``.)

    Attributes:
      path: where the checkpoint will be.
    """

    def __init__(self, path: Path, write: Callable[[], None]) -> None:
        self.path = path
        self._error: BaseException | None = None
        self._told = False
        self._thread = threading.Thread(target=self._run, args=(write,), name=f"save {path.name}")
        importlib.import_module("concurrent.futures.thread")  # hooks run backwards: its own must be registered first
        register: Any = getattr(threading, "_register_atexit", None)
        if register is not None:
            register(self._finish)
        self._thread.start()

    @property
    def done(self) -> bool:
        """Whether it has ended, well or badly."""
        return not self._thread.is_alive()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the checkpoint is complete.

        Args:
          timeout: seconds; None waits as long as it takes.

        Returns:
          Whether it is complete; False only after the timeout.

        Raises:
          BatisteError: what went wrong, each time it is asked.
        """
        self._thread.join(timeout)
        if self._thread.is_alive():
            return False
        self._told = True
        if self._error is not None:
            raise self._error
        return True

    def _run(self, write: Callable[[], None]) -> None:
        try:
            write()
        except BaseException as error:  # noqa: BLE001 - it is raised where the handle is waited for
            self._error = error

    def _finish(self) -> None:
        """Wait, and warn of an error that nobody has asked for."""
        self._thread.join()
        if self._error is not None and not self._told:
            warnings.warn(f"{self.path} was not saved: {self._error}", BatisteWarning, stacklevel=2)
