"""A target and a checkpoint side by side: for each leaf of the target where its value comes from, or what is wrong.

The result is a plan, in which every leaf of the target has one *origin*: leaves of the checkpoint with what is to be
done to them, or a value that needs no reading. Everything that is wrong is found before anything is read, and told at
once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Final

import jax
import numpy as np

from batiste.checkpoint._arrays import dtype_by_name
from batiste.checkpoint._layouts import Layers, find_layers
from batiste.checkpoint._manifest import Manifest
from batiste.checkpoint._policies import Policies
from batiste.checkpoint._target import Target, Wanted, python_value
from batiste.checkpoint._types import NumpyArray, Record
from batiste.tree import cast as cast_tree
from batiste.tree import cast_loss

__all__ = ["Match", "Origin", "fit", "match"]

_NOTHING: Final = "nothing"
_WIDE: Final = ("int64", "uint64", "float64", "complex128")  # JAX holds them only where it is told to


@dataclasses.dataclass(frozen=True, slots=True)
class Origin:
    """Where the value of one leaf of the target comes from.

    Attributes:
      sources: leaves of the checkpoint: one; several that are stacked; none for ``init`` and ``zeros``.
      layer: the layer of a stacked source that is taken; None for the whole.
      policy: ``"init"`` or ``"zeros"`` where there is no source.
    """

    sources: tuple[str, ...] = ()
    layer: int | None = None
    policy: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Match:
    """The plan of a restore: the origins by the target's paths, and a line for each leaf that cannot be restored."""

    origins: dict[str, Origin]
    problems: list[str]


def match(target: Target, manifest: Manifest, policies: Policies) -> Match:
    """Compare a target with a checkpoint.

    Raises:
      UnmatchedPolicyError: if a pattern matches no leaf of either.
    """
    wanted, records = target.wanted, manifest.records
    policies.check_used({**wanted, **records})
    origins = {path: Origin((found,)) for path in wanted if (found := _same(path, records)) is not None}
    used = {source for origin in origins.values() for source in origin.sources}
    missing = {
        path: row.record.shape for path, row in wanted.items() if path not in origins and row.record.kind is None
    }
    extra = {path: row.shape for path, row in records.items() if path not in used and row.kind is None}
    for layers in find_layers(missing, extra):
        origins.update(_from_layers(layers))
        used.update((layers.stacked,) if layers.from_stacked else layers.apart)
    problems: list[str] = []
    for path, row in wanted.items():
        if path in origins:
            problems.extend(_differences(path, row, _found(origins[path], records), policies))
            continue
        policy = policies.choose("missing", path)
        origins[path] = Origin(policy=policy)
        if policy == "error":
            problems.append(_line(path, row.record, _NOTHING))
        elif policy == "init" and not row.has_value:
            problems.append(f"{_line(path, row.record, _NOTHING)}, and the target has no value to keep")
    problems.extend(
        _line(path, _NOTHING, record)
        for path, record in records.items()
        if path not in used and policies.choose("extra", path) == "error"
    )
    return Match(origins, problems)


def fit(path: str, array: NumpyArray, wanted: Wanted, problems: list[str]) -> NumpyArray:
    """Return an array from the disk in the shape and dtype that are wanted; the policies have allowed it.

    Args:
      path: that of the leaf in the target.
      array: what is in the checkpoint.
      wanted: what is wanted of it.
      problems: gets a line where the dtype has no place for the numbers, and more than precision would be lost.
    """
    shape, dtype = wanted.record.shape, dtype_by_name(wanted.record.dtype)
    if array.shape != shape:
        kept = tuple(slice(min(here, there)) for here, there in zip(array.shape, shape, strict=True))
        padded = np.zeros(shape, array.dtype)
        padded[kept] = array[kept]
        array = padded
    if array.dtype == dtype:
        return array
    if loss := cast_loss(array, dtype):
        problems.append(f"  {path}: the target has {wanted.record}, and of {array.dtype.name} {loss}")
        return array
    return cast_tree(array, dtype, kinds="all")


def _same(path: str, records: dict[str, Record]) -> str | None:
    """The leaf of the checkpoint with this path; Orbax and Flax store what is in a box one level deeper."""
    boxed = f"{path}/value" if path else "value"
    return path if path in records else boxed if boxed in records else None


def _from_layers(layers: Layers) -> Iterator[tuple[str, Origin]]:
    if layers.from_stacked:
        for number, path in enumerate(layers.apart):
            yield path, Origin((layers.stacked,), layer=number)
    else:
        yield layers.stacked, Origin(layers.apart)


def _found(origin: Origin, records: dict[str, Record]) -> Record:
    """What an origin gives, as one record."""
    first = records[origin.sources[0]]
    if origin.layer is not None:
        return dataclasses.replace(first, shape=first.shape[1:])
    if len(origin.sources) > 1:
        dtypes = {records[source].dtype for source in origin.sources}
        dtype = first.dtype if len(dtypes) == 1 else "/".join(sorted(dtypes))
        return dataclasses.replace(first, shape=(len(origin.sources), *first.shape), dtype=dtype)
    return first


def _differences(path: str, wanted: Wanted, found: Record, policies: Policies) -> Iterable[str]:
    """A line where a leaf differs in a way that no policy allows."""
    record = wanted.record
    if _is_same(wanted, found):
        return
    line = _line(path, record, found)
    if record.kind is not None or found.kind is not None:
        if not _plain_fits(wanted, found):
            yield line
        return
    if not wanted.is_jax and not hasattr(wanted.leaf, "dtype"):
        yield line
        return
    if record.key != found.key and not (found.key is None and found.digest is None):  # other formats may not know keys
        yield line
        return
    if record.shape != found.shape:
        policy = policies.choose("shape", path)
        pairs = list(zip(record.shape, found.shape, strict=False))
        grows, shrinks = any(want > have for want, have in pairs), any(want < have for want, have in pairs)
        allowed = {"pad": not shrinks, "slice": not grows}.get(policy, False)
        if record.key is not None or len(record.shape) != len(found.shape) or not allowed:
            yield line
            return
    if record.dtype != found.dtype and (record.key is not None or policies.choose("dtype", path) != "cast"):
        yield line
    elif wanted.is_jax and jax.dtypes.canonicalize_dtype(dtype_by_name(record.dtype)) != dtype_by_name(record.dtype):
        yield f"{line}, and JAX holds {record.dtype} only with `jax_enable_x64`"


def _is_same(wanted: Wanted, found: Record) -> bool:
    """Whether nothing differs: most leaves of most restores, so it is asked first."""
    record = wanted.record
    return (
        record.kind is None
        and found.kind is None
        and (record.shape, record.dtype, record.key) == (found.shape, found.dtype, found.key)
        and (hasattr(wanted.leaf, "dtype") if not wanted.is_jax else record.dtype not in _WIDE)
    )


def _plain_fits(wanted: Wanted, found: Record) -> bool:
    """Whether a plain value and an array without axes, or two plain values, are of one kind."""
    record = wanted.record
    if record.kind is not None and found.kind is not None:
        return record.kind == found.kind or python_value(record.kind, found.value) is not None
    if record.kind is not None:
        return found.shape == () and python_value(record.kind, np.zeros((), dtype_by_name(found.dtype))) is not None
    if record.shape != () or record.key is not None or not hasattr(wanted.leaf, "dtype"):
        return False
    try:
        with np.errstate(over="ignore"):
            value = np.asarray(found.value, dtype_by_name(record.dtype))
    except (OverflowError, TypeError, ValueError):
        return False
    if type(value.item()) is type(found.value) in (float, complex):  # rounded, as JAX rounds a number of Python
        return not cast_loss(np.asarray(found.value), value.dtype)
    return found.kind in ("bool", "int", "float", "complex") and value.item() == found.value


def _line(path: str, wanted: Record | str, found: Record | str) -> str:
    return f"  {path}: the target has {wanted}, the checkpoint has {found}"
