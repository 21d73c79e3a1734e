"""``flax.training.prefetch_iterator``: a thread that keeps the next items of an iterator ready.

Flax has deprecated it; a data loader of its own threads or processes does more.
"""

from __future__ import annotations

import collections
import threading
import warnings
from collections.abc import Iterable
from typing import Any, Self

from batiste.errors import FlaxDeprecationWarning

__all__ = ["PrefetchIterator"]


class PrefetchIterator:
    """Items of an iterator, a few of them fetched ahead by a thread.

    An error of the iterator is raised where its item would have been given, and from then on.

    Args:
      data_iter: the iterator.
      buffer_size: how many items are kept ready.
    """

    def __init__(self, data_iter: Iterable[Any], buffer_size: int = 1) -> None:
        text = "Flax has deprecated PrefetchIterator: use the prefetching of a data loader."
        warnings.warn(text, FlaxDeprecationWarning, stacklevel=2)
        self.buffer_size = buffer_size
        self._items = iter(data_iter)
        self._ready: collections.deque[Any] = collections.deque()
        self._changed = threading.Condition()
        self._open = True
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._fetch, daemon=True)
        self._thread.start()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        with self._changed:
            self._changed.wait_for(lambda: self._ready or not self._open)
            if self._ready:
                item = self._ready.popleft()
                self._changed.notify_all()
                return item
            if self._error is not None:
                raise self._error
            raise StopIteration

    def close(self) -> None:
        """Stop the thread. What it has fetched already can still be read."""
        with self._changed:
            self._open = False
            self._changed.notify_all()

    def _fetch(self) -> None:
        try:
            for item in self._items:
                with self._changed:
                    self._ready.append(item)
                    self._changed.notify_all()
                    self._changed.wait_for(lambda: len(self._ready) < self.buffer_size or not self._open)
                    if not self._open:
                        return
        except Exception as error:  # noqa: BLE001 - whatever it is, the reader gets it
            self._error = error
        with self._changed:
            self._open = False
            self._changed.notify_all()
