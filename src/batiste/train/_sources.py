"""Batches of our own for data that fits into memory, and adapters for data of other libraries.

Each says what can go on after an interruption: ``shuffled`` to the exact batch; grain and ``datasets`` by their own
positions, worker processes included; a PyTorch ``DataLoader`` where it is torchdata's stateful one, and else by
counting and leaving out; ``tf.data`` by counting and leaving out, where its order is the same in each process.
"""

from __future__ import annotations

import importlib
import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from batiste._arguments import refused, whole_number
from batiste.errors import MissingPackageError
from batiste.tree import flatten

__all__ = ["Shuffled", "from_datasets", "from_grain", "from_tf", "from_torch", "shuffled"]

_TENSOR = "a tensor of PyTorch"
_MARKED = 64  # bytes of each array of a batch, by which it is known again
_REORDERED = "its batches come in another order in this process: shuffle with a fixed seed"


class Shuffled:
    """Batches of arrays, in another order each epoch; ``shuffled`` makes it.

    It is a function from the number of steps done to the next batch, so that a run goes on anywhere without reading
    what came before, and a sequence of batches of one epoch at a time through ``epoch``.

    Attributes:
      steps_per_epoch: how many batches an epoch has.
      examples: how many examples there are.

    Example:
      >>> import numpy as np
      >>> from batiste import train
      >>> data = train.shuffled({"x": np.arange(10)}, batch=4)
      >>> data.steps_per_epoch, data.examples
      (2, 10)
      >>> data(0)["x"].shape
      (4,)
    """

    def __init__(self, arrays: Any, batch: int, seed: int, epochs: int | None, *, last: bool, order: bool) -> None:
        self._arrays, self._batch, self._seed, self._epochs = arrays, batch, seed, epochs
        self.examples = int(np.shape(jax.tree.leaves(arrays)[0])[0])
        self.steps_per_epoch = math.ceil(self.examples / batch) if last else self.examples // batch
        self._order = order
        self._known: tuple[int, np.ndarray[Any, Any]] | None = None

    def __call__(self, step: int) -> Any:
        """Return the batch after so many steps.

        Raises:
          StopIteration: all epochs are over.
        """
        epoch, place = divmod(step, self.steps_per_epoch)
        if self._epochs is not None and epoch >= self._epochs:
            raise StopIteration
        rows = self._rows(epoch)[place * self._batch : (place + 1) * self._batch]
        return cast("Any", jax.tree).map(operator.itemgetter(rows), self._arrays)

    def epoch(self, number: int = 0) -> Iterator[Any]:
        """Return an iterator over the batches of one epoch."""
        first = whole_number(number, "number", "Shuffled.epoch") * self.steps_per_epoch
        return (self(step) for step in range(first, first + self.steps_per_epoch))

    def _rows(self, epoch: int) -> np.ndarray[Any, Any]:
        if self._known is None or self._known[0] != epoch:
            rows = np.arange(self.examples)
            if self._order:  # Philox counts, so that each epoch has a stream of its own by its number alone
                rows = np.random.Generator(np.random.Philox(key=[self._seed, epoch])).permutation(self.examples)
            self._known = epoch, rows
        return self._known[1]


def shuffled(
    arrays: Any, batch: int, *, seed: int = 0, epochs: int | None = None, keep_last: bool = False, shuffle: bool = True
) -> Shuffled:
    """Return batches of whole arrays in memory, shuffled anew in each epoch; a run goes on at the exact batch.

    Args:
      arrays: a tree of arrays of NumPy or JAX, each ``[examples, ...]``.
      batch: how many examples a batch has; from 1 to ``examples``.
      seed: from 0 on; the order is that of NumPy's Philox with the seed and the number of the epoch.
      epochs: how often every example is seen; None for ever.
      keep_last: whether the last batch of an epoch may be smaller; else what is left over is left out of that epoch. A
        smaller batch compiles a step of its own.
      shuffle: whether the order is another one in each epoch; else it is that of the arrays.

    Raises:
      ArgumentError: there are no arrays, or their first axes differ; or a number is out of its domain.

    Example:
      >>> import numpy as np
      >>> from batiste import train
      >>> data = train.shuffled((np.arange(6), np.arange(6) ** 2), batch=3, seed=1)
      >>> x, y = data(0)
      >>> x.shape, bool((y == x**2).all())
      ((3,), True)
      >>> sorted(value for batch in data.epoch(0) for value in batch[0].tolist())
      [0, 1, 2, 3, 4, 5]
    """
    known = flatten(arrays)
    sizes = {path: (np.shape(leaf) or (None,))[0] for path, leaf in known.items()}
    if not sizes or None in sizes.values() or len(set(sizes.values())) > 1:
        told = ", ".join(f"{path or 'it'}: {np.shape(leaf)}" for path, leaf in known.items()) or "no arrays"
        advice = f"The arrays have {told}; cut them to one number of examples."
        raise refused(arrays, "arrays", "shuffled", "a tree of arrays with first axes of one size", advice)
    count = whole_number(batch, "batch", "shuffled", low=1, high=int(next(iter(sizes.values())) or 0))
    whole_number(seed, "seed", "shuffled", low=0, high=2**64 - 1)
    if epochs is not None:
        whole_number(epochs, "epochs", "shuffled", low=1)
    return Shuffled(arrays, count, seed, epochs, last=keep_last, order=shuffle)


class _Counted:
    """Batches that are known by their number: to go on is to begin again, and to leave out as many.

    The last of them is compared with the one of that number in the run before: an order that is another one in each
    process shows there, and is refused.
    """

    def __init__(self, data: Iterable[Any], change: Callable[[Any], Any], *, again: bool) -> None:
        self._data, self._change, self._again = data, change, again
        self._iterator: Iterator[Any] | None = None
        self._taken = 0
        self._epoch = 0
        self._last: Any = None

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        self._last = self._change(self._next())
        self._taken += 1
        return self._last

    def _next(self) -> Any:
        iterator = self._begin() if self._iterator is None else self._iterator
        try:
            return next(iterator)
        except StopIteration:
            if not self._again or self._taken == 0:
                raise
            self._epoch, self._taken = self._epoch + 1, 0
            return next(self._begin())

    def _begin(self) -> Iterator[Any]:
        told = getattr(getattr(self._data, "sampler", None), "set_epoch", None)
        if callable(told):  # of a distributed sampler, whose order is a function of the epoch
            told(self._epoch)
        self._iterator = iterator = iter(self._data)
        return iterator

    def get_state(self) -> dict[str, Any]:
        return {"epoch": self._epoch, "taken": self._taken, "last": _mark(self._last)}

    def set_state(self, state: Mapping[str, Any]) -> None:
        self._epoch, self._taken = state["epoch"], state["taken"]
        iterator, last = self._begin(), None
        for _ in range(self._taken):
            last = next(iterator)
        self._last = None if last is None else self._change(last)
        if _mark(self._last) != state.get("last", _mark(self._last)):
            raise ValueError(_REORDERED)


def _mark(batch: Any) -> Any:
    """Return the beginning of each array of a batch, in bytes; None for no batch."""
    leaves: list[Any] = jax.tree.leaves(batch)
    return [np.asarray(leaf).flat[:_MARKED].tobytes()[:_MARKED] for leaf in leaves] or None


class _Stateful:
    """Batches of what has ``state_dict`` and ``load_state_dict``, as torchdata's loaders and ``datasets`` have."""

    def __init__(self, data: Any, change: Callable[[Any], Any], *, again: bool) -> None:
        self._data, self._change, self._again = data, change, again
        self._iterator: Iterator[Any] | None = None
        self._epoch = 0

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        iterator = self._begin() if self._iterator is None else self._iterator
        try:
            batch = next(iterator)
        except StopIteration:
            if not self._again:
                raise
            self._epoch += 1
            batch = next(self._begin())
        return self._change(batch)

    def _begin(self) -> Iterator[Any]:
        told = getattr(self._data, "set_epoch", None)
        if callable(told):
            told(self._epoch)
        self._iterator = iterator = iter(self._data)
        return iterator

    def get_state(self) -> dict[str, Any]:
        if self._iterator is None:
            self._begin()
        return {"epoch": self._epoch, "data": _without_tensors(self._data.state_dict())}

    def set_state(self, state: Mapping[str, Any]) -> None:
        self._epoch = state["epoch"]
        told = getattr(self._data, "set_epoch", None)
        if callable(told):
            told(self._epoch)
        self._data.load_state_dict(_with_tensors(state["data"]))
        self._iterator = iter(self._data)


def _without_tensors(state: Any) -> Any:
    """Return the position of a loader with arrays in the place of PyTorch's tensors, such as the state of a sampler."""
    if isinstance(state, dict):
        return {name: _without_tensors(item) for name, item in cast("dict[Any, Any]", state).items()}
    if type(state) in (list, tuple):
        return type(state)(map(_without_tensors, state))
    return {_TENSOR: state.detach().cpu().numpy()} if hasattr(state, "detach") else state


def _with_tensors(state: Any) -> Any:
    """Return what ``_without_tensors`` was given."""
    if isinstance(state, dict):
        found = cast("dict[Any, Any]", state)
        if list(found) == [_TENSOR]:
            return importlib.import_module("torch").from_numpy(found[_TENSOR])
        return {name: _with_tensors(item) for name, item in found.items()}
    return type(state)(map(_with_tensors, state)) if type(state) in (list, tuple) else state


def _arrays(batch: Any) -> Any:
    """Return a batch with NumPy's arrays in the place of tensors, lists of them as tuples, and texts left out."""
    if isinstance(batch, Mapping):
        pairs = cast("Mapping[Any, Any]", batch).items()
        return {name: _arrays(item) for name, item in pairs if not _is_text(item)}
    if isinstance(batch, list | tuple):
        items = cast("list[Any]", batch)
        if hasattr(items, "_fields"):
            return type(items)(*map(_arrays, items))
        return tuple(_arrays(item) for item in items if not _is_text(item))
    if hasattr(batch, "detach"):  # of PyTorch
        tensor: Any = batch.detach().cpu()
        if str(tensor.dtype) == "torch.bfloat16":  # which NumPy has only through JAX
            return np.asarray(tensor.float().numpy()).astype(jnp.bfloat16)
        return tensor.numpy()
    if hasattr(batch, "numpy"):  # of TensorFlow
        return batch.numpy()
    return batch


def _is_text(item: Any) -> bool:
    if isinstance(item, str | bytes):
        return True
    if isinstance(item, list):
        items = cast("list[Any]", item)
        return bool(items) and all(isinstance(it, str | bytes) for it in items)
    return getattr(getattr(item, "dtype", None), "kind", "") in ("U", "S", "T", "O")


def from_grain(data: Any, *, workers: int = 0, per_worker: int = 2) -> Any:
    """Return batches of a grain dataset or loader; a run goes on at the exact batch, with worker processes too.

    Args:
      data: a ``MapDataset``, ``IterDataset`` or ``DataLoader`` of batches.
      workers: how many processes read ahead; 0 reads in this one. A ``DataLoader`` has its own.
      per_worker: how many batches each of them holds ready.

    Raises:
      ArgumentError: it is none of these, or a number is out of its domain.
      MissingPackageError: grain is not installed.

    Example:
      >>> import numpy as np
      >>> from batiste import train
      >>> import grain
      >>> data = train.from_grain(grain.MapDataset.source(np.arange(6)).batch(2))
      >>> [batch.tolist() for batch in data]
      [[0, 1], [2, 3], [4, 5]]
    """
    whole_number(workers, "workers", "from_grain")
    whole_number(per_worker, "per_worker", "from_grain", low=1)
    if not hasattr(data, "__iter__") and not hasattr(data, "to_iter_dataset"):
        raise refused(data, "data", "from_grain", "a dataset or a loader of grain")
    if isinstance(data, list | tuple | str | bytes | dict):
        raise refused(data, "data", "from_grain", "a dataset or a loader of grain")
    if not workers:
        return data
    try:
        flags = importlib.import_module("absl.flags")
        grain: Any = importlib.import_module("grain")
    except ImportError as error:
        raise MissingPackageError(purpose="Reading with grain", package="grain", install="grain") from error
    if not flags.FLAGS.is_parsed():  # its workers look at absl's flags, which only programs of absl parse
        flags.FLAGS.mark_as_parsed()
    dataset: Any = data.to_iter_dataset() if hasattr(data, "to_iter_dataset") else data
    if not hasattr(dataset, "mp_prefetch"):
        advice = "Give a MapDataset or IterDataset; a DataLoader takes worker_count itself."
        raise refused(data, "data", "from_grain", "a dataset of grain", advice)
    return dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=per_worker))


def from_datasets(data: Any, batch: int, *, seed: int | None = 0, again: bool = True) -> Any:
    """Return batches of a dataset of Hugging Face ``datasets``, as arrays of NumPy; columns of text are left out.

    A ``Dataset`` is shuffled by ``seed`` and the number of the epoch, and a run goes on at the exact batch. So does an
    ``IterableDataset``, by its ``state_dict``, without a shuffle buffer of more than one example: what was in one is
    not seen in that epoch, and the order of what follows is another one than in a run that was left alone.

    Args:
      data: the dataset; its last batch is left out where it is not full.
      batch: how many examples a batch has.
      seed: from 0 on; None keeps the order. An ``IterableDataset`` is shuffled by its own ``shuffle``.
      again: whether it begins again when it ends.

    Raises:
      ArgumentError: it is no such dataset, or a number is out of its domain.

    Example:
      >>> from batiste import train  # doctest: +SKIP
      >>> import datasets  # doctest: +SKIP
      >>> digits = datasets.load_dataset("mnist", split="train")  # doctest: +SKIP
      >>> data = train.from_datasets(digits, batch=128)  # doctest: +SKIP
    """
    whole_number(batch, "batch", "from_datasets", low=1)
    if seed is not None:
        whole_number(seed, "seed", "from_datasets")
    if hasattr(data, "with_format") and hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        if len(data) < batch:
            raise refused(batch, "batch", "from_datasets", f"a number up to {len(data)}, which is all there is")
        table: Any = data.with_format("numpy")
        rows = shuffled(
            np.arange(len(data)), batch, seed=seed or 0, epochs=None if again else 1, shuffle=seed is not None
        )

        def batch_of(step: int) -> Any:
            return _arrays(table[rows(step)])

        return batch_of
    if not hasattr(data, "state_dict") or not hasattr(data, "batch"):
        raise refused(data, "data", "from_datasets", "a Dataset or an IterableDataset of datasets")
    batches: Any = data.with_format("numpy").batch(batch, drop_last_batch=True)
    return _Stateful(batches, _stacked, again=again)


def _stacked(batch: Any) -> Any:
    return {name: np.asarray(item) for name, item in batch.items() if not _is_text(item) and not _is_text(list(item))}


def from_torch(loader: Any, *, again: bool = True) -> Any:
    """Return the batches of a PyTorch ``DataLoader`` as arrays of NumPy; texts in them are left out.

    With torchdata's ``StatefulDataLoader`` a run goes on by its ``state_dict``. With any other loader it begins the
    epoch again and leaves out the batches that were seen; that is exact where the order is a function of the epoch:
    without ``shuffle``, or with a ``DistributedSampler``, which is told the epoch. ``shuffle=True`` has another order
    in each process, and is refused. Worker processes must not be forked from a program that runs JAX:
    ``multiprocessing_context="spawn"`` starts them anew.

    Args:
      loader: the loader.
      again: whether it begins again when it ends.

    Raises:
      ArgumentError: it is no loader, or its order is not known in another process.

    Example:
      >>> from batiste import train  # doctest: +SKIP
      >>> from torch.utils.data import DataLoader  # doctest: +SKIP
      >>> data = train.from_torch(DataLoader(dataset, batch_size=128))  # doctest: +SKIP
    """
    if not hasattr(loader, "__iter__") or not hasattr(loader, "dataset"):
        raise refused(loader, "loader", "from_torch", "a DataLoader")
    if hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict"):
        return _Stateful(loader, _arrays, again=again)
    if type(getattr(loader, "sampler", None)).__name__ in ("RandomSampler", "WeightedRandomSampler"):
        advice = (
            "Use torchdata's StatefulDataLoader, or a DistributedSampler with num_replicas=1 and rank=0, whose order "
            "is a function of its seed and the epoch."
        )
        raise refused(loader, "loader", "from_torch", "a loader whose order is the same in another process", advice)
    return _Counted(loader, _arrays, again=again)


def from_tf(data: Any, *, again: bool = False) -> Any:
    """Return the batches of a ``tf.data.Dataset`` as arrays of NumPy; texts in them are left out.

    A run goes on by beginning again and leaving out the batches that were seen: exact where the order is fixed by
    seeds and ``deterministic`` is not switched off, and as slow as reading them. Where the last of these batches is
    another one than it was, the run is refused.

    Args:
      data: the dataset.
      again: whether it begins again when it ends; ``.repeat()`` says it to TensorFlow.

    Raises:
      ArgumentError: it is no dataset of TensorFlow.

    Example:
      >>> from batiste import train  # doctest: +SKIP
      >>> import tensorflow as tf  # doctest: +SKIP
      >>> data = train.from_tf(tf.data.Dataset.range(6).batch(2))  # doctest: +SKIP
    """
    if not hasattr(data, "as_numpy_iterator"):
        raise refused(data, "data", "from_tf", "a tf.data.Dataset")
    return _Counted(_Numpy(data), _arrays, again=again)


class _Numpy:
    def __init__(self, data: Any) -> None:
        self._data = data

    def __iter__(self) -> Iterator[Any]:
        return iter(self._data.as_numpy_iterator())
