"""A target and a checkpoint side by side: for each leaf of the target where its value comes from, or what is wrong.

The result is a plan, in which every leaf of the target has one *origin*: leaves of the checkpoint with what is to be
done to them, or a value that needs no reading. Everything that is wrong is found before anything is read, and told at
once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np

from batiste.checkpoint._arrays import dtype_by_name
from batiste.checkpoint._layouts import Layers, find_layers
from batiste.checkpoint._manifest import Manifest
from batiste.checkpoint._policies import Policies
from batiste.checkpoint._target import Target, Wanted, held, python_value
from batiste.checkpoint._types import NumpyArray, Record
from batiste.tree import cast as cast_tree
from batiste.tree import cast_loss

__all__ = ["Match", "Origin", "advice", "fit", "match"]

_MOST_PATTERNS: Final = 3
_NOTHING: Final = "nothing"
_WIDE: Final = ("int64", "uint64", "float64", "complex128")  # JAX holds them only where it is told to


@dataclasses.dataclass(frozen=True, slots=True)
class Origin:
    """Where the value of one leaf of the target comes from.

    Attributes:
      sources: leaves of the checkpoint: one; several that are stacked; none for ``init`` and ``zeros``.
      layer: the layer of a stacked source that is taken; None for the whole.
      policy: ``"init"`` or ``"zeros"`` where no source is used.
    """

    sources: tuple[str, ...] = ()
    layer: int | None = None
    policy: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Match:
    """The plan of a restore.

    Attributes:
      origins: by the target's paths.
      problems: a line for each leaf that cannot be restored.
      reshaped: the target's paths among them whose arrays have other shapes in the checkpoint.
    """

    origins: dict[str, Origin]
    problems: list[str]
    reshaped: list[str] = dataclasses.field(default_factory=list[str])


def match(target: Target, manifest: Manifest, policies: Policies) -> Match:
    """Compare a target with a checkpoint.

    Raises:
      UnmatchedPolicyError: if a pattern matches no leaf of either, or allows what is nowhere the case.
    """
    wanted, records = target.wanted, manifest.records
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
    reshaped: list[str] = []
    for path, row in wanted.items():
        if path in origins:
            found = _found(origins[path], records)
            if _is_same(row, found):
                continue
            policy = policies.choose("shape", path) if _is_reshaped(row, found) else ""
            if policy == "init":
                origins[path] = Origin(policy=policy)
                problems.extend(_without_source(path, row, policy, found))
                continue
            lines = list(_differences(path, row, found, policies))
            reshaped.extend([path] if lines and policy == "error" else [])
            problems.extend(lines)
        else:
            policy = policies.choose("missing", path)
            origins[path] = Origin(policy=policy)
            problems.extend(_without_source(path, row, policy, manifest.opaque.get(path, _NOTHING)))
    problems.extend(
        _line(path, _NOTHING, record)
        for path, record in records.items()
        if path not in used and policies.choose("extra", path) == "error"
    )
    problems.extend(
        _line(path, _NOTHING, what)
        for path, what in manifest.opaque.items()
        if path not in wanted and policies.choose("extra", path) == "error"
    )
    policies.check_used({**wanted, **records, **manifest.opaque})
    return Match(origins, problems, reshaped)


def advice(plan: Match, target: Target) -> str:
    """Return what to write for the leaves of other shapes, so that the target's own are kept; "" where there are none.

    A level all of whose leaves have other shapes is one pattern; of more than three, the first is an example.
    """
    reshaped = set(plan.reshaped)
    levels: dict[str, bool] = {}
    for path in target.wanted:
        above = path.rpartition("/")[0]
        levels[above] = levels.get(above, True) and path in reshaped
    patterns: dict[str, None] = {}
    for path in plan.reshaped:
        above = path.rpartition("/")[0]
        patterns[f"{above}/*" if above and levels[above] else path] = None
    shown = list(patterns) if len(patterns) <= _MOST_PATTERNS else list(patterns)[:1]
    table = ", ".join(f'"{pattern}": "init"' for pattern in shown)
    return f" `shape={{{table}}}` keeps the target's leaves there." if shown else ""


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


def _is_reshaped(wanted: Wanted, found: Record) -> bool:
    return wanted.is_array and found.kind is None and wanted.record.shape != found.shape


def _without_source(path: str, wanted: Wanted, policy: str, found: Record | str) -> Iterable[str]:
    """A line where a leaf is not in the checkpoint, and cannot be made without it."""
    line = _line(path, wanted, found)
    if policy == "error":
        yield line
    elif policy == "init" and not wanted.has_value:
        yield f"{line}, and the target has no value to keep"
    elif policy == "zeros" and wanted.record.kind is None and not wanted.is_array:
        yield f"{line}, and there is no zero of that type"
    elif policy == "zeros" and wanted.is_jax and not held(wanted.record):
        yield f"{line}, and JAX holds {wanted.record.dtype} only with `jax_enable_x64`"


def _differences(path: str, wanted: Wanted, found: Record, policies: Policies) -> Iterable[str]:
    """A line where a leaf differs in a way that no policy allows."""
    record = wanted.record
    line = _line(path, wanted, found)
    if record.kind is not None or found.kind is not None:
        if not _plain_fits(wanted, found):
            yield line
        return
    if not wanted.is_array:
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
    elif wanted.is_jax and not held(record):
        yield f"{line}, and JAX holds {record.dtype} only with `jax_enable_x64`"


def _is_same(wanted: Wanted, found: Record) -> bool:
    """Whether nothing differs: most leaves of most restores, so it is asked first."""
    record = wanted.record
    return (
        record.kind is None
        and found.kind is None
        and (record.shape, record.dtype, record.key) == (found.shape, found.dtype, found.key)
        and wanted.is_array
        and not (wanted.is_jax and record.dtype in _WIDE)
    )


def _plain_fits(wanted: Wanted, found: Record) -> bool:
    """Whether a plain value and an array without axes, or two plain values, are of one kind."""
    record = wanted.record
    if record.kind is not None and found.kind is not None:
        return record.kind == found.kind or python_value(record.kind, found.value) is not None
    if record.kind is not None:
        exact = record.kind not in ("float", "complex") or found.dtype not in ("int64", "uint64")
        zero = np.zeros((), dtype_by_name(found.dtype))
        return exact and found.shape == () and found.key is None and python_value(record.kind, zero) is not None
    if record.shape != () or record.key is not None or not wanted.is_array:
        return False
    try:
        with np.errstate(all="ignore"):
            value = np.asarray(found.value, dtype_by_name(record.dtype))
    except (OverflowError, TypeError, ValueError):
        return False
    if type(value.item()) is type(found.value) in (float, complex):  # rounded, as JAX rounds a number of Python
        return not cast_loss(np.asarray(found.value), value.dtype)
    return found.kind in ("bool", "int", "float", "complex") and value.item() == found.value


def _line(path: str, wanted: Wanted | str, found: Record | str) -> str:
    return f"  {path}: the target has {wanted}, the checkpoint has {found}"
