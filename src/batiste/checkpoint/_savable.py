"""What can be saved so that it comes back: leaves, steps, metadata and names, looked at before anything is written.

A leaf is an array, a typed random key or a plain value. What NumPy makes of arrays is kept where it can be said in a
word (a scalar, another byte order), and refused where it cannot: a mask, a matrix, records, dates, text and objects.
"""

from __future__ import annotations

import json
import operator
import reprlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, cast

import jax
import numpy as np

from batiste.checkpoint._arrays import describe_array, form_of, is_key, is_plain_array, key_data
from batiste.checkpoint._manifest import MAX_DEPTH, MAX_RANK
from batiste.checkpoint._stored import StoredArray
from batiste.checkpoint._structure import is_text
from batiste.checkpoint._types import Form, PythonKind, Record
from batiste.core import is_tracer
from batiste.errors import CheckpointArgumentError, RemoteShardsError, UnsavableLeafError, UnsavableTreeError
from batiste.tree import LazyArray

__all__ = ["as_json", "as_metrics", "as_step", "check_axes", "check_names", "check_options", "records_of"]

_MOST_NAME: Final = 16_000  # characters: a zip and Orbax's store have 16 bits for the bytes of one
_MOST_STEP: Final = 1 << 63
_MOST_TEXT: Final = 1 << 25  # characters, of one value or of all metadata: they live in the manifest


def as_step(step: Any) -> int:
    """Return a step as a Python integer.

    Args:
      step: an integer of Python, or of NumPy or JAX without axes, such as the step of a train state.

    Raises:
      CheckpointArgumentError: if it is none, is negative, or has more than 63 bits.
    """
    dtype = getattr(step, "dtype", None)
    reason = "a step is an integer"
    if not isinstance(step, bool) and (dtype is None or getattr(dtype, "kind", "") in "iu"):
        try:
            found = operator.index(step)
        except TypeError:  # a tracer, an array with axes, or no number at all
            found = None
        if found is not None and 0 <= found < _MOST_STEP:
            return found
        reason = reason if found is None else "steps are counted from 0" if found < 0 else "it has more than 63 bits"
    cure = "Pass the number of steps that are done: an integer, or `state.step` outside of any `jax.jit`."
    raise CheckpointArgumentError(argument="step", value=_shown(step), reason=reason, cure=cure)


def as_metrics(metrics: Any) -> dict[str, float]:
    """Return the metrics of a step as Python numbers, NaN and infinities as they are.

    Raises:
      CheckpointArgumentError: if they are no mapping from names to real numbers.
    """
    cure = 'Pass a dict from names to real numbers, such as `{"loss": 0.5}`.'
    if not isinstance(metrics, Mapping):
        raise CheckpointArgumentError(argument="metrics", value=_shown(metrics), reason="it is no mapping", cure=cure)
    found: dict[str, float] = {}
    for name, value in cast("Mapping[Any, Any]", metrics).items():
        number = _number(value)
        if type(name) is not str or not isinstance(number, int | float):
            reason = "its name is no string" if type(name) is not str else "it is no real number"
            raise CheckpointArgumentError(argument=f"metrics[{name!r}]", value=_shown(value), reason=reason, cure=cure)
        try:
            found[name] = float(number)
        except OverflowError:
            raise CheckpointArgumentError(
                argument=f"metrics[{name!r}]", value=_shown(value), reason="it is no number of 64 bits", cure=cure
            ) from None
    return found


def as_json(metadata: Any) -> dict[str, Any]:
    """Return metadata as JSON has it: tuples as lists, numbers of NumPy and JAX as Python's; NaN stays NaN.

    Raises:
      CheckpointArgumentError: if JSON has no place for something; the error says where.
    """
    if not isinstance(metadata, Mapping):
        _refuse_metadata("metadata", metadata, "it is no mapping")
    found = _plain(metadata, "metadata", 0)
    try:
        size = len(json.dumps(found))
    except (ValueError, RecursionError) as error:  # an integer of thousands of digits
        raise CheckpointArgumentError(
            argument="metadata", value="saved", reason=str(error), cure="Leave it out."
        ) from None
    if size > _MOST_TEXT:
        _refuse_metadata("metadata", metadata, f"it is {size} characters long")
    return found


def check_axes(axes: Any, records: Mapping[str, Record]) -> dict[str, list[str | None]]:
    """Return the logical names of axes by path.

    Raises:
      CheckpointArgumentError: if there is no such leaf, or its axes are others.
    """
    found: dict[str, list[str | None]] = {}
    if axes is not None and not isinstance(axes, Mapping):
        cure = 'Pass a dict from paths to names, such as `{"params/head/kernel": ("embed", None)}`.'
        raise CheckpointArgumentError(argument="axes", value=_shown(axes), reason="it is no mapping", cure=cure)
    for leaf, given in cast("Mapping[Any, Any]", axes or {}).items():
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


def check_options(form: str, *, compress: bool, stacked: Sequence[str], clock: Callable[[], float]) -> None:
    """Refuse options that would be taken and not used.

    Raises:
      CheckpointArgumentError: if there are some.
    """
    if compress and form not in ("orbax", "npz"):
        reason = f"a .{form} file holds its arrays as they are"
        cure = "Save to a folder or to an `.npz` file to compress, or leave it out."
        raise CheckpointArgumentError(argument="compress", value=compress, reason=reason, cure=cure)
    if isinstance(stacked, str):
        cure = f"Pass a list of levels: `stacked=[{stacked!r}]`."
        raise CheckpointArgumentError(argument="stacked", value=stacked, reason="it is one string", cure=cure)
    if not callable(clock):
        cure = "Pass a function that returns seconds, such as `time.time`."
        raise CheckpointArgumentError(argument="clock", value=_shown(clock), reason="it cannot be called", cure=cure)


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
        _refuse_metadata(f"{where}[{key!r}]", "saved", "the keys of JSON are strings")
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
    raise CheckpointArgumentError(argument=where, value=_shown(value), reason=reason, cure=cure)


def _shown(value: Any) -> str:
    """A value in a few words, and no arrays."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{type(value).__name__} of dtype {value.dtype} and shape {tuple(value.shape)}"
    return reprlib.repr(value).encode("ascii", "backslashreplace").decode()
