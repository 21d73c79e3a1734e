"""What can be saved so that it comes back: leaves, steps, metadata and names, looked at before anything is written.

A leaf is an array, a typed random key or a plain value. What NumPy makes of arrays is kept where it can be said in a
word (a scalar, another byte order), and refused where it cannot: a mask, a matrix, records, dates, text and objects.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, cast

import jax
import numpy as np

from batiste._arguments import function, mapping, refused, whole_number
from batiste.checkpoint._arrays import describe_array, form_of, is_key, is_plain_array, key_data
from batiste.checkpoint._manifest import MAX_DEPTH, MAX_RANK
from batiste.checkpoint._stored import StoredArray
from batiste.checkpoint._structure import is_text
from batiste.checkpoint._types import Form, PythonKind, Record
from batiste.core import is_tracer
from batiste.errors import CheckpointArgumentError, RemoteShardsError, UnsavableLeafError, UnsavableTreeError
from batiste.tree import LazyArray

__all__ = ["CLOCK", "as_json", "as_metrics", "as_step", "check_axes", "check_names", "check_options", "records_of"]

CLOCK: Final = "a function that returns seconds, such as time.time"
"""What a clock is."""

_MOST_NAME: Final = 16_000  # characters: a zip and Orbax's store have 16 bits for the bytes of one
_MOST_STEP: Final = (1 << 63) - 1
_MOST_TEXT: Final = 1 << 25  # characters, of one value or of all metadata: they live in the manifest


def as_step(step: Any, where: str) -> int:
    """Return a step as a Python integer.

    Args:
      step: an integer of Python, or of NumPy or JAX without axes, such as the step of a train state.
      where: the function that was given it.

    Raises:
      ArgumentError: if it is none, is negative, or has more than 63 bits.
    """
    advice = "Pass the number of steps that are done: an integer, or state.step outside of any jax.jit."
    return whole_number(step, "step", where, high=_MOST_STEP, advice=advice)


def as_metrics(metrics: Any) -> dict[str, float]:
    """Return the metrics of a step as Python numbers, NaN and infinities as they are.

    Raises:
      ArgumentError: if they are no mapping from names to real numbers.
    """
    where, cure = "checkpoint.Manager.save", 'Pass a dict from names to real numbers, such as {"loss": 0.5}.'
    found: dict[str, float] = {}
    for name, value in mapping(metrics, "metrics", where, what="a dict of numbers by name", advice=cure).items():
        argument, number = f"metrics[{name!r}]", _number(value)
        if type(name) is not str:
            raise refused(name, "metrics", where, "names that are strings", cure)
        if not isinstance(number, int | float):
            raise refused(value, argument, where, "a real number", cure)
        try:
            found[name] = float(number)
        except OverflowError:
            raise refused(value, argument, where, "a number of 64 bits", cure) from None
    return found


def as_json(metadata: Any) -> dict[str, Any]:
    """Return metadata as JSON has it: tuples as lists, numbers of NumPy and JAX as Python's; NaN stays NaN.

    Raises:
      ArgumentError: if JSON has no place for something; the error says where.
    """
    if not isinstance(metadata, Mapping):
        _refuse_metadata("metadata", metadata, "it is no mapping")
    found = _plain(metadata, "metadata", 0)
    try:
        size = len(json.dumps(found))
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits
        raise refused(metadata, "metadata", "checkpoint.save", "what JSON has", f"Leave it out: {error}.") from None
    if size > _MOST_TEXT:
        _refuse_metadata("metadata", metadata, f"it is {size} characters long")
    return found


def check_axes(axes: Any, records: Mapping[str, Record]) -> dict[str, list[str | None]]:
    """Return the logical names of axes by path.

    Raises:
      ArgumentError: if they are no mapping.
      CheckpointArgumentError: if there is no such leaf, or its axes are others.
    """
    found: dict[str, list[str | None]] = {}
    cure = 'Pass a dict from paths to names, such as {"params/head/kernel": ("embed", None)}.'
    table: Mapping[Any, Any] = (
        {} if axes is None else mapping(axes, "axes", "checkpoint.save", what="a dict by path", advice=cure)
    )
    for leaf, given in table.items():
        record = records.get(leaf)
        names: list[Any] = [] if isinstance(given, str) else list(given)
        texts = all(name is None or (isinstance(name, str) and is_text(name)) for name in names)
        if record is None or isinstance(given, str) or len(names) != len(record.shape) or not texts:
            reason = "there is no such leaf" if record is None else f"the leaf is {record}"
            raise CheckpointArgumentError(
                argument=f"axes[{leaf!r}]", value=given, reason=reason, cure="Name each axis of a leaf."
            )
        found[leaf] = names
    return found


def check_names(form: str, records: Mapping[str, Record]) -> None:
    """Refuse names that the format cannot hold.

    Raises:
      UnsavableTreeError: if there is one.
    """
    for path in records if form in ("orbax", "npz") else ():
        if len(path) > _MOST_NAME:
            reason = f"its path has {len(path)} characters, of at most {_MOST_NAME}"
            raise UnsavableTreeError(path=f"{path[:40]}...", reason=reason)
        if form == "npz" and "\0" in path:
            raise UnsavableTreeError(path=path, reason="a zip has no names with a null character")


def check_options(form: str, *, compress: bool, stacked: Any, clock: Callable[[], float]) -> None:
    """Refuse options that would be taken and not used.

    Raises:
      CheckpointArgumentError: if there are some.
      ArgumentError: if ``stacked`` is no list of levels, or the clock cannot be called.
    """
    if compress and form not in ("orbax", "npz"):
        reason = f"a .{form} file holds its arrays as they are"
        cure = "Save to a folder or to an `.npz` file to compress, or leave it out."
        raise CheckpointArgumentError(argument="compress", value=compress, reason=reason, cure=cure)
    if isinstance(stacked, str | bytes | Mapping) or not isinstance(stacked, Iterable):
        advice = f"Pass a list of levels: stacked=[{stacked!r}]." if isinstance(stacked, str) else ""
        raise refused(stacked, "stacked", "checkpoint.save", "a list of levels", advice)
    function(clock, "clock", "checkpoint.save", what=CLOCK)


def records_of(leaves: Mapping[str, Any], *, together: bool = False) -> tuple[dict[str, Record], dict[str, Any]]:
    """Return the record of each leaf, still without its digest, and the arrays among the leaves.

    Args:
      leaves: the leaves by path.
      together: whether all processes save, so that an array may have shards in each.

    Raises:
      UnsavableLeafError: if leaves are neither arrays nor plain values; the error lists all.
      RemoteShardsError: if some shards of an array are on other processes.
    """
    records: dict[str, Record] = {}
    arrays: dict[str, Any] = {}
    unsavable: list[str] = []
    for path, leaf in leaves.items():
        if type(leaf) in (bool, int, float, complex, str, bytes):
            reason = _bad_text(leaf) if type(leaf) in (str, bytes) else ""
            records[path] = Record((), "python", 0, kind=cast("PythonKind", type(leaf).__name__), value=leaf)
        else:
            array, key, reason = _as_array(leaf)
            record = None if array is None else describe_array(array, key)
            if record is None:
                dtype = getattr(leaf, "dtype", None)
                reason = f"{type(leaf).__name__}{'' if dtype is None else f' of dtype {dtype}'}{reason}"
            elif isinstance(leaf, jax.Array) and not leaf.is_fully_addressable and not together:
                raise RemoteShardsError(path=path)
            else:
                record.form = _form(leaf, record)
                records[path] = record
                arrays[path] = array
        if reason:
            unsavable.append(f"  {path}: {reason}")
    if unsavable:
        raise UnsavableLeafError(count=len(unsavable), lines="\n".join(unsavable))
    return records, arrays


def _as_array(leaf: Any) -> tuple[Any, str | None, str]:
    """The array that a leaf is, of a typed random key its data, and the kind of key; or None, and why it is none."""
    array: Any = leaf
    if is_tracer(leaf) or not isinstance(leaf, jax.Array | np.ndarray | np.generic | LazyArray):
        return None, None, ""
    if isinstance(leaf, jax.Array) and leaf.is_deleted():
        return None, None, ", whose buffer was deleted or donated"
    if isinstance(leaf, np.ndarray) and not is_plain_array(array):
        return None, None, ", which is more than an array"
    if len(array.shape) > MAX_RANK:
        return None, None, f", with {len(array.shape)} axes, of at most {MAX_RANK}"
    return (*key_data(array), "") if is_key(array) else (array, None, "")


def _form(leaf: Any, record: Record) -> Form | None:
    """What NumPy has in a leaf's place beside an array in the machine's byte order."""
    if not isinstance(leaf, StoredArray):
        return form_of(leaf)
    old = leaf.origin.manifest.records.get(leaf.origin.path)  # of a lazy array, what it was when it was saved
    same = old is not None and (old.shape, old.dtype) == (record.shape, record.dtype)
    return old.form if old is not None and same else None


def _bad_text(value: str | bytes) -> str:
    if len(value) > _MOST_TEXT:
        return f"{type(value).__name__} of length {len(value)}: save an array of uint8"
    return "str with half of a character (a surrogate)" if isinstance(value, str) and not is_text(value) else ""


def _plain(value: Any, where: str, depth: int) -> Any:
    if depth > MAX_DEPTH:
        _refuse_metadata(where[:40], value, f"it is more than {MAX_DEPTH} levels deep")
    if isinstance(value, Mapping):
        return {
            _name(key, where): _plain(child, f"{where}[{key!r}]", depth + 1)
            for key, child in cast("Mapping[Any, Any]", value).items()
        }
    if isinstance(value, list | tuple):
        items = cast("Sequence[Any]", value)
        if set(map(type, items)) <= {int, bool, type(None)}:  # which may be many: the order of a shuffled data set
            return list(items)
        return [_plain(child, f"{where}[{at}]", depth + 1) for at, child in enumerate(items)]
    if isinstance(value, str):
        return value if is_text(value) else _refuse_metadata(where, value, "it has half of a character (a surrogate)")
    number = None if value is None else _number(value)
    if value is not None and not isinstance(number, int | float):
        _refuse_metadata(where, value, f"JSON has no {type(value).__name__}")
    return number


def _name(key: Any, where: str) -> str:
    if not isinstance(key, str) or not is_text(key):
        _refuse_metadata(f"{where}[{key!r}]", key, "a key is no string")
    return str(key)


def _number(value: Any) -> Any:
    """A number of Python, or of NumPy or JAX without axes, as Python's; None for anything else."""
    if type(value) in (bool, int, float):
        return value
    if isinstance(value, jax.Array) and not is_tracer(value) and value.is_deleted():
        return None
    if getattr(value, "shape", None) == () and not is_tracer(value) and not is_key(value):
        item = value.item()
        return item if type(item) in (bool, int, float) else None
    return None


def _refuse_metadata(where: str, value: Any, reason: str) -> Any:
    cure = "Use dicts with strings as keys, lists, strings, numbers and None; arrays belong into the tree."
    raise refused(value, where, "checkpoint.save", "what JSON has", f"Here {reason}. {cure}")
