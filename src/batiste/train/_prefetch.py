"""Batches taken ahead, in a thread, and put onto the device, without a run losing its place in the data.

The thread takes a batch, notes where the data is after it, and puts both into a queue that holds a few. The position
of what comes out is that of the last batch that came out, and not that of the thread. An exception of the data comes
out in its turn, after the batches before it; nothing is lost and nothing hangs.
"""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax

from batiste._arguments import refused, whole_number
from batiste.train._data import Batches
from batiste.train._memory import own_batch

__all__ = ["Prefetched", "prefetch"]

_POLL = 0.05  # seconds between two looks at whether anybody still wants batches


class Prefetched:
    """Batches taken ahead; ``prefetch`` makes it.

    Example:
      >>> import numpy as np
      >>> from batiste import train
      >>> data = train.prefetch([np.ones(2), np.zeros(2)])
      >>> isinstance(data, train.Prefetched), len(list(data))
      (True, 2)
    """

    def __init__(self, data: Any, size: int, place: Any) -> None:
        self._data, self._size, self._place = data, size, place
        self._batches = Batches(data)
        self._given = self._now() if self._batches.resumable else None
        self._queue: queue.Queue[tuple[str, Any, Any]] | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def _now(self) -> dict[str, Any]:
        return {"drawn": self._batches.drawn, "data": self._batches.position()}

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self._queue is None:
            self._begin()
        kind, value, position = self._next()
        if kind == "batch":
            self._given = position
            return value
        self.close()
        if kind == "end":
            self._queue = queue.Queue()  # it stays at its end
            self._queue.put(("end", None, None))
            raise StopIteration
        raise value

    def _next(self) -> tuple[str, Any, Any]:
        while self._queue is not None:
            try:
                return self._queue.get(timeout=_POLL)
            except queue.Empty:
                if self._thread is not None and not self._thread.is_alive() and self._queue.empty():
                    break
        return "end", None, None

    def _begin(self) -> None:
        self._queue, self._stop = queue.Queue(self._size), threading.Event()
        work = (weakref.ref(self), self._batches, self._queue, self._stop, self._place)
        self._thread = threading.Thread(target=_take_ahead, args=work, name="batiste prefetch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread; what it holds is dropped. The position is that of the last batch that came out."""
        self._stop.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        self._thread = self._queue = None


class _Resumable(Prefetched):
    """Batches taken ahead from data that knows its position."""

    def get_state(self) -> Any:
        """Return where the data is after the last batch that came out."""
        return self._given

    def set_state(self, state: Any) -> None:
        """Go to where ``get_state`` was called."""
        self.close()
        self._batches = Batches(self._data)
        self._batches.seek(state["data"], state["drawn"])
        self._given = state


def _take_ahead(
    owner: Any, batches: Batches, line: queue.Queue[tuple[str, Any, Any]], stop: threading.Event, place: Any
) -> None:
    """Fill the queue until the data ends or fails, or nobody wants more."""
    while not stop.is_set():
        try:
            batch = own_batch(batches.take(), batches.drawn)
            item = "batch", place(batch), _position(batches)
        except StopIteration:
            item = "end", None, None
        except BaseException as error:  # noqa: BLE001 - it is raised where the batch is asked for
            item = "error", error, None
        while not stop.is_set() and owner() is not None:
            try:
                line.put(item, timeout=_POLL)
                break
            except queue.Full:
                continue
        else:
            return
        if item[0] != "batch":
            return


def _position(batches: Batches) -> Any:
    return {"drawn": batches.drawn, "data": batches.position()} if batches.resumable else None


def prefetch(data: Iterable[Any] | Callable[[int], Any], size: int = 2, *, sharding: Any = None) -> Prefetched:
    """Return data whose batches are taken ahead by a thread and are on the device when they come out.

    A run goes on at the exact batch where the data alone could, with one restriction: the data is used by another
    thread, and by nobody else. An error in the data is raised where its batch would have come.

    Args:
      data: as ``fit`` takes it.
      size: how many batches are held ready; from 1 on. They take as much memory on the device.
      sharding: where arrays go: a ``jax.sharding.Sharding``, a device, or None for the default device.

    Raises:
      LoopArgumentError: the data gives no batches.
      ArgumentError: ``size`` is no such number, or JAX takes no such ``sharding``.

    Example:
      >>> import jax
      >>> import numpy as np
      >>> from batiste import train
      >>> for batch in train.prefetch([np.ones(2), np.zeros(2)], size=1):
      ...     print(isinstance(batch, jax.Array), batch.tolist())
      True [1.0, 1.0]
      True [0.0, 0.0]
    """
    whole_number(size, "size", "prefetch", low=1)
    if sharding is not None and not isinstance(sharding, jax.sharding.Sharding | jax.Device):
        raise refused(sharding, "sharding", "prefetch", "a jax.sharding.Sharding or a device")

    def put(leaf: Any) -> Any:
        return jax.device_put(leaf, sharding)

    def place(batch: Any) -> Any:
        return jax.tree.map(put, batch)

    kind = _Resumable if Batches(data).resumable else Prefetched
    return kind(data, size, place)
