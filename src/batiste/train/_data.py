"""Where batches come from, and where in the data a run is.

A run that starts again must go on with the batch that comes next. Two kinds of data know which one that is: a function
from the step to its batch, and an iterator, or what one is made of, with ``get_state()`` and ``set_state(position)``,
which is what grain's loaders and datasets give. Anything else can be iterated over once, and is refused when a run goes
on. Grain itself is not imported: the two methods are all that is asked.

A position is whatever ``get_state`` returns. It is kept as JSON beside the state; ``encode`` and ``decode`` add what
JSON lacks: bytes, tuples, dicts with any keys, arrays.
"""

from __future__ import annotations

import base64
import inspect
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

import jax
import numpy as np

from batiste.errors import DataPositionError, LoopArgumentError

__all__ = ["Batches", "check_data", "decode", "encode"]

_QUICK = 2e-4  # seconds that a look at the position may take before each batch


class Batches:
    """The batches of one run, in order.

    Args:
      data: a function from the step to its batch, or anything that can be iterated over.
      marked: whether the position is looked at before each batch, so that a wait for one can be ended.

    Attributes:
      drawn: how many batches were taken or left out; the number of the next one.
      left_out: the numbers of batches that are not to be trained on.
      interruptible: whether a wait for a batch may be ended, and the position is known all the same.

    Raises:
      LoopArgumentError: it is neither, or it holds whole arrays in the place of batches.
    """

    def __init__(self, data: Iterable[Any] | Callable[[int], Any], *, marked: bool = False) -> None:
        check_data(data)
        self.drawn = 0
        self.left_out: set[int] = set()
        self._draw: Callable[[int], Any]
        self._kind = type(data).__name__
        self._holder: Any = None
        self._mark: Any = None
        given: Any = data
        try:
            iterator: Iterator[Any] = iter(given)
        except TypeError:
            self._draw = given
            self.resumable = self.interruptible = True
        else:
            self._draw = lambda _number: next(iterator)
            self._holder = next(filter(_has_position, (iterator, given)), None)
            self.resumable = self._holder is not None
            self.interruptible = marked and self._holder is not None

    def take(self) -> Any:
        """Return the next batch.

        Raises:
          StopIteration: there are no more.
        """
        while self.drawn in self.left_out:
            if self._holder is not None:
                self._draw(self.drawn)
            self.drawn += 1
        if self._holder is not None and self.interruptible:
            start = time.perf_counter()
            self._mark = encode(self._holder.get_state())
            self.interruptible = time.perf_counter() - start < _QUICK
        batch = self._draw(self.drawn)
        self.drawn += 1
        return batch

    def position(self, *, interrupted: bool = False) -> Any:
        """Return where the data is, as JSON; None where it has no position.

        Args:
          interrupted: whether the last ``take`` was ended by a signal, and what it was at is as if it had not begun.

        Raises:
          LoopArgumentError: the position holds what cannot be saved.
        """
        if interrupted:
            return self._mark
        return None if self._holder is None else encode(self._holder.get_state())

    def seek(self, position: Any, step: int) -> None:
        """Go to where an earlier run was.

        Args:
          position: what ``position`` returned.
          step: how many steps were done.

        Raises:
          DataPositionError: this data cannot go there.
        """
        self.drawn = step
        if not self.resumable:
            raise DataPositionError(step=step, reason=f"a {self._kind} would begin again with its first batch")
        if self._holder is None:
            return
        if position is None:
            raise DataPositionError(step=step, reason="the data that it was saved with had no position")
        try:
            self._holder.set_state(decode(position))
        except Exception as error:
            reason = f"{type(self._holder).__name__}.set_state() refused the position that was saved ({error})"
            raise DataPositionError(step=step, reason=reason) from error


def check_data(data: Any) -> None:
    """Refuse what gives no batches.

    Raises:
      LoopArgumentError: it is no iterable and no function of one argument; or it is a text, or whole arrays.
    """
    if isinstance(data, str | bytes | Mapping) or _are_whole_arrays(data):
        if isinstance(data, str | bytes):
            reason, cure = "its items are letters", "Open what it names, and give an iterable of batches."
        else:
            reason = "its items are not batches: arrays beside each other are cut along their first axes"
            cure = (
                "Give a function from the step to its batch: lambda n: jax.tree.map(lambda x: x[rows(n)], data), where "
                "rows(n) are the examples of that step."
            )
        raise LoopArgumentError(name="data", value=_shown(data), reason=reason, cure=cure)
    if isinstance(data, type) and hasattr(data, "__iter__"):
        cure = f"Make one: {data.__name__}(...)."
        raise LoopArgumentError(name="data", value=f"the class {data.__name__}", reason="it is no instance", cure=cure)
    if isinstance(data, np.generic) or not (hasattr(data, "__iter__") or hasattr(data, "__getitem__")):
        _check_function(data)


def _check_function(data: Any) -> None:
    cure = "Give an iterable of batches, or a function from the step to its batch."
    if not callable(data):
        reason = "it is neither a function nor can it be iterated over"
        raise LoopArgumentError(name="data", value=_shown(data), reason=reason, cure=cure)
    try:
        signature = inspect.signature(data)
    except (TypeError, ValueError):  # one in C that does not tell
        return
    reason = cure = ""
    code: Any = inspect.unwrap(data)
    if inspect.isgeneratorfunction(code):
        reason = "it returns an iterator each time it is called"
        cure = f"Call it, and give the iterator: data={_name(data)}(...)."
    else:
        try:
            signature.bind(0)
        except TypeError as error:
            reason = f"it is called with the number of steps done, and takes {signature} ({error})"
            cure = "Let it take one number: lambda n: ...; if it returns an iterator, call it and give that."
    if reason:
        raise LoopArgumentError(name="data", value=f"the function {_name(data)}", reason=reason, cure=cure)


def _are_whole_arrays(data: Any) -> bool:
    """Say whether a list or tuple holds inputs and targets of a whole set of examples, and not batches."""
    if not isinstance(data, list | tuple) or not 2 <= len(cast("Sequence[Any]", data)) <= 4:
        return False
    arrays = list(cast("Sequence[Any]", data))
    if not all(isinstance(it, np.ndarray | jax.Array) and it.ndim for it in arrays):
        return False
    return len({it.shape[0] for it in arrays}) == 1 and len({it.ndim for it in arrays}) > 1


def _name(function: Any) -> str:
    return getattr(function, "__name__", type(function).__name__)


def _shown(data: Any) -> str:
    kind = cast("type[Any]", type(data)).__name__
    if isinstance(data, Mapping):
        names = ", ".join(repr(name) for name in list(cast("Mapping[Any, Any]", data))[:4])
        return f"a {kind} of {names or 'nothing'}"
    if isinstance(data, list | tuple):
        shapes = ", ".join(str(it.shape) for it in cast("Sequence[Any]", data))
        return f"a {kind} of arrays of the shapes {shapes}"
    return "None" if data is None else f"a {kind}"


def _has_position(data: Any) -> bool:
    return callable(getattr(data, "get_state", None)) and callable(getattr(data, "set_state", None))


def encode(value: Any, name: str = "data", what: str = "its get_state() returns") -> Any:
    """Return a value as JSON, in which what JSON has not is ``{kind: ...}``.

    Args:
      value: a position, or what a hook keeps.
      name: which argument of a loop it comes from.
      what: how it came, for the error.

    Raises:
      LoopArgumentError: it holds something else than None, numbers, strings, bytes, arrays and containers of these.
    """
    kind = cast("type[Any]", type(value))
    if value is None or kind in (bool, int, str) or (kind is float and math.isfinite(value)):
        return value
    if kind is bytes:
        return {"bytes": base64.b64encode(value).decode()}
    if kind in (list, tuple):
        return {kind.__name__: [encode(item, name, what) for item in value]}
    if isinstance(value, dict):
        pairs = cast("dict[Any, Any]", value).items()
        return {"dict": [[encode(key, name, what), encode(item, name, what)] for key, item in pairs]}
    if kind is float:
        return {"float": repr(value)}
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        array: np.ndarray[Any, Any] = np.asarray(cast("Any", value))
        if array.dtype.kind in "biufcSUMm":
            data = base64.b64encode(array.tobytes()).decode()
            return {"array": data, "dtype": array.dtype.str, "shape": list(array.shape)}
    raise LoopArgumentError(
        name=name,
        value="resumed",
        reason=f"{what} {kind.__name__!r}, which cannot be saved",
        cure="Return None, numbers, strings, bytes, arrays, and lists, tuples and dicts of these.",
    )


def decode(value: Any) -> Any:
    """Return the position that ``encode`` was given."""
    if not isinstance(value, dict):
        return value
    row = cast("dict[str, Any]", value)
    match row:
        case {"bytes": text}:
            return base64.b64decode(text)
        case {"float": text}:
            return float(text)
        case {"list": items}:
            return [decode(item) for item in items]
        case {"tuple": items}:
            return tuple(decode(item) for item in items)
        case {"array": data, "dtype": dtype, "shape": shape}:
            found: Any = cast("Any", np).frombuffer(base64.b64decode(data), np.dtype(dtype)).reshape(shape)
            return found.copy() if shape else found[()]
        case _:
            return {decode(key): decode(item) for key, item in row["dict"]}
