"""The leaves of a target: what each asks for, and how an array from the disk becomes one of its kind.

Where arrays go is said by the target's own leaves or by ``shardings``, which come first. Each of the ways to say it
(one sharding, a tree, patterns, a function) becomes a table of shardings by path here, before anything is read: what
names no array, or cannot hold the one that it names, is an error.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar, Final, Protocol, TypeAlias, TypeGuard, cast

import jax
import jax.numpy as jnp
import numpy as np

from batiste.checkpoint._arrays import (
    BYTES_BY_DTYPE,
    dtype_by_name,
    form_of,
    is_key_dtype,
    is_plain_array,
    key_data,
    wrap_key,
)
from batiste.checkpoint._structure import is_box, stored_in
from batiste.checkpoint._types import NumpyArray, Record
from batiste.core import is_tracer
from batiste.errors import CheckpointArgumentError, DuplicatePathError, UnmatchedPolicyError, nearest
from batiste.tree import Pattern, compile_pattern, path_string

__all__ = ["ShardingsLike", "Target", "Wanted", "held", "moved", "own_sharding", "place", "placements", "python_value"]


class _WithFields(Protocol):
    """A dataclass, such as a train state with shardings in the place of its arrays."""

    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


ShardingsLike: TypeAlias = (
    jax.sharding.Sharding
    | Mapping[Any, jax.sharding.Sharding | None]
    | Callable[[str, tuple[int, ...]], jax.sharding.Sharding | None]
    | Mapping[Any, Any]
    | Sequence[Any]
    | _WithFields
    | None
)
"""One sharding for every array; shardings by pattern (the first match counts); a rule of path and shape; or a tree of
shardings such as ``shard.shardings`` makes, in which one may stand for all arrays beneath it."""

_ONE: Final = (jax.sharding.Sharding, jax.sharding.PartitionSpec)
_CURE: Final = "Pass one sharding, a tree of shardings, a dict from patterns to them, or a function of path and shape."


@dataclasses.dataclass(frozen=True, slots=True)
class Wanted:
    """One leaf of the target.

    Attributes:
      record: its shape and dtype, of the key data where it is a typed random key.
      leaf: the target's own leaf, out of its box.
      is_jax: whether a JAX array is wanted; else a NumPy array or a plain value.
      is_array: whether it is an array that a checkpoint can hold.
      has_value: whether the leaf has a value that could be kept.
    """

    record: Record
    leaf: Any
    is_jax: bool
    has_value: bool
    is_array: bool = True

    def __str__(self) -> str:
        """The leaf in a few characters, as a record is."""
        if self.is_array or self.record.kind is not None:
            return str(self.record)
        dtype = getattr(self.leaf, "dtype", None)
        return type(self.leaf).__name__ if dtype is None else f"{type(self.leaf).__name__} of dtype {dtype}"


class Target:
    """A tree that says which leaves are wanted.

    Raises:
      DuplicatePathError: if two leaves have one path.
    """

    def __init__(self, tree: Any) -> None:
        flatten = cast("Any", jax.tree_util.tree_flatten_with_path)
        flattened = flatten(tree, is_leaf=is_box)
        entries: list[tuple[tuple[Any, ...], Any]] = flattened[0]
        self._structure: Any = flattened[1]
        self._boxes: dict[str, Any] = {}
        self.wanted: dict[str, Wanted] = {}
        for keys, leaf in entries:
            path = path_string(keys)
            if path in self._boxes:
                raise DuplicatePathError(path=path)
            self._boxes[path] = leaf
            self.wanted[path] = _wanted(stored_in(leaf) if is_box(leaf) else leaf)

    def fill(self, values: Mapping[str, Any]) -> Any:
        """Return the target's tree with these leaves, in the target's containers and boxes."""
        leaves = [box.replace_boxed(values[path]) if is_box(box) else values[path] for path, box in self._boxes.items()]
        return jax.tree_util.tree_unflatten(self._structure, leaves)


def _wanted(leaf: Any) -> Wanted:
    if type(leaf) in (bool, int, float, complex, str, bytes):
        record = Record((), "python", 0, kind=cast("Any", type(leaf).__name__))
        return Wanted(record, leaf, is_jax=False, has_value=True, is_array=False)
    is_jax = isinstance(leaf, jax.Array | jax.ShapeDtypeStruct)
    is_gone = isinstance(leaf, jax.Array) and not is_tracer(leaf) and leaf.is_deleted()
    has_value = not isinstance(leaf, jax.ShapeDtypeStruct) and not is_gone
    if is_jax and is_key_dtype(leaf.dtype):
        data = jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct(leaf.shape, leaf.dtype))
        key = _implementation(leaf.dtype) if isinstance(leaf, jax.ShapeDtypeStruct) else str(jax.random.key_impl(leaf))
        return Wanted(Record(tuple(data.shape), "uint32", 0, key=key), leaf, is_jax=True, has_value=has_value)
    dtype = _dtype_name(leaf)
    if dtype is None:
        return Wanted(Record((), type(leaf).__name__, 0), leaf, is_jax=False, has_value=has_value, is_array=False)
    return Wanted(Record(tuple(leaf.shape), dtype, 0, form=form_of(leaf)), leaf, is_jax=is_jax, has_value=has_value)


def _dtype_name(leaf: Any) -> str | None:
    """The name of an array's dtype; None for what is no array, or one that no checkpoint can hold."""
    if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
        return None
    if isinstance(leaf, np.ndarray) and not is_plain_array(cast("Any", leaf)):
        return None
    try:
        name = np.dtype(cast("Any", leaf).dtype).name
    except TypeError:  # an array of another library
        return None
    return name if name in BYTES_BY_DTYPE else None


def _implementation(dtype: Any) -> str:
    """The name of the implementation of an abstract key's dtype."""
    names: list[str] = []

    def look(key: jax.Array) -> jax.Array:
        names.append(key_data(key)[1])
        return key

    jax.eval_shape(look, jax.ShapeDtypeStruct((), dtype))
    return names[0]


def placements(
    shardings: Any, arrays: Mapping[str, Record], others: Collection[str] = ()
) -> dict[str, jax.sharding.Sharding]:
    """Return the sharding of each array that ``shardings`` says one for.

    Args:
      shardings: as ``restore`` takes it.
      arrays: the arrays by path.
      others: the paths of plain values, which a tree of shardings may name too.

    Raises:
      CheckpointArgumentError: if it says no shardings, or one that cannot hold its array.
      UnmatchedPolicyError: if a pattern, or a path of a tree, names no array.
    """
    shapes = {path: row.shape if row.key is None else row.shape[:-1] for path, row in arrays.items()}
    if shardings is None:
        return {}
    if isinstance(shardings, jax.sharding.Sharding):
        found: dict[str, Any] = dict.fromkeys(shapes, shardings)
    elif _is_table(shardings):
        found = _by_pattern(shardings, shapes)
    elif callable(shardings):
        found = {path: shardings(path, shape) for path, shape in shapes.items()}
    else:
        found = _by_tree(shardings, shapes, others)
    placed: dict[str, jax.sharding.Sharding] = {}
    for path, sharding in found.items():
        if sharding is not None:
            _check_fits(path, sharding, arrays[path], shapes[path])
            placed[path] = sharding
    return placed


def _is_table(shardings: Any) -> TypeGuard[Mapping[Any, jax.sharding.Sharding | None]]:
    """Whether it is a dict from patterns; one level of a tree of shardings is one too, with its paths as patterns."""
    if not isinstance(shardings, Mapping):
        return False
    rows = cast("Mapping[Any, Any]", shardings).items()
    return all(isinstance(key, str | Pattern) and (row is None or isinstance(row, _ONE)) for key, row in rows)


def _by_pattern(
    table: Mapping[Any, jax.sharding.Sharding | None], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Any]:
    rules = [(compile_pattern(pattern), sharding) for pattern, sharding in table.items()]
    used = [False] * len(rules)
    found: dict[str, Any] = {}
    for path in shapes:
        number = next((number for number, (pattern, _) in enumerate(rules) if pattern.matches(path)), None)
        if number is not None:
            used[number] = True
            found[path] = rules[number][1]
    idle: list[str] = []
    for number, (pattern, _) in enumerate(rules):
        if used[number] or pattern.source == "**":
            continue
        matches = any(map(pattern.matches, shapes))
        reason = "comes after others that match the same" if matches else "matches no array."
        idle.append(
            f"  shardings={{{pattern.source!r}: ...}} {reason}{'' if matches else nearest(pattern.source, shapes)}"
        )
    if idle:
        raise UnmatchedPolicyError(lines="\n".join(idle))
    return found


def _by_tree(tree: Any, shapes: Mapping[str, tuple[int, ...]], others: Collection[str]) -> dict[str, Any]:
    flatten = cast("Any", jax.tree_util.tree_flatten_with_path)
    rows = {path_string(keys): stored_in(row) if is_box(row) else row for keys, row in flatten(tree, is_leaf=is_box)[0]}
    for path, row in rows.items():
        if not isinstance(row, jax.sharding.Sharding):
            _refuse_sharding(path, row)
    found: dict[str, Any] = {}
    used: set[str] = set()
    for path in (*shapes, *others):
        above = path
        while above not in rows and above:
            above = above.rpartition("/")[0]
        if above in rows:
            used.add(above)
            if path in shapes:
                found[path] = rows[above]
    idle = [f"  shardings: {path!r} is no array.{nearest(path, shapes)}" for path in rows if path not in used]
    if idle:
        raise UnmatchedPolicyError(lines="\n".join(idle))
    return found


def _check_fits(path: str, sharding: Any, record: Record, shape: tuple[int, ...]) -> None:
    if not isinstance(sharding, jax.sharding.Sharding):
        _refuse_sharding(path, sharding)
    if not held(record):
        reason = f"{path!r} is {record}, which JAX holds only with `jax_enable_x64`"
        cure = "Set it, or restore to NumPy."
        raise CheckpointArgumentError(argument="shardings", value="used", reason=reason, cure=cure)
    try:
        sharding.shard_shape(shape)
    except (ValueError, IndexError) as error:
        reason = str(error) if isinstance(error, ValueError) else "it cuts more axes than there are"
        raise CheckpointArgumentError(
            argument=f"shardings[{path!r}]", value=f"used for {record}", reason=reason, cure="Give that array another."
        ) from None


def _refuse_sharding(path: str, given: Any) -> None:
    cure = _CURE
    if isinstance(given, jax.sharding.PartitionSpec):
        cure = f"A spec knows no devices: pass `NamedSharding(mesh, {given})`, or what `batiste.shard.shardings` makes."
    raise CheckpointArgumentError(
        argument="shardings" if not path else f"shardings[{path!r}]",
        value=f"a {type(given).__name__}",
        reason="it is no sharding",
        cure=cure,
    )


def held(record: Record) -> bool:
    """Return whether JAX holds arrays of this dtype as they are."""
    dtype = dtype_by_name(record.dtype)
    return bool(jax.dtypes.canonicalize_dtype(dtype) == dtype)


def own_sharding(wanted: Wanted) -> jax.sharding.Sharding | None:
    """Return the sharding of the target's own leaf, where it was chosen for it.

    Raises:
      CheckpointArgumentError: if it is on a mesh without devices, and none with them is set.
    """
    leaf = wanted.leaf
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return _with_devices(leaf.sharding)
    return leaf.sharding if isinstance(leaf, jax.Array) and leaf.committed else None


def _with_devices(sharding: Any) -> jax.sharding.Sharding | None:
    """The same sharding on the mesh that is set, where its own has no devices: so ``jax.eval_shape`` gives them."""
    mesh = getattr(sharding, "mesh", None)
    if not isinstance(mesh, jax.sharding.AbstractMesh):
        return sharding
    current = jax.sharding.get_mesh()
    if current.empty or dict(current.shape) != dict(mesh.shape):
        reason = f"a sharding in it is for a mesh {dict(mesh.shape)} without devices"
        cure = "Restore under `jax.set_mesh(mesh)`, or pass `shardings`."
        raise CheckpointArgumentError(argument="target", value="filled", reason=reason, cure=cure)
    return jax.sharding.NamedSharding(current, sharding.spec)


def place(
    record: Record, read: Callable[[tuple[slice, ...] | None], NumpyArray], sharding: jax.sharding.Sharding | None
) -> jax.Array:
    """Return a JAX array, each shard filled with what ``read`` gives for it.

    Args:
      record: its shape and dtype.
      read: returns a box of the array on the host, or all of it for ``None``.
      sharding: where its shards go; None for JAX's default device.
    """
    if record.key is not None and sharding is not None and not sharding.is_fully_addressable:
        return _spread_key(record, read(None), cast("Any", sharding))
    if record.key is not None:
        key = wrap_key(read(None), record.key)
        return key if sharding is None else jax.device_put(key, sharding)
    if sharding is None:
        return jnp.asarray(read(None))

    def callback(index: tuple[slice, ...] | None) -> NumpyArray:
        box = tuple(slice(*part.indices(extent)) for part, extent in zip(index or (), record.shape, strict=False))
        whole = all(part.stop - part.start == extent for part, extent in zip(box, record.shape, strict=True))
        return read(None if whole else box)

    return jax.make_array_from_callback(record.shape, sharding, callback, dtype=dtype_by_name(record.dtype))


def moved(leaf: Any, sharding: jax.sharding.Sharding) -> jax.Array:
    """Return a leaf of a target with another sharding, also one over several processes where each has the leaf."""
    if isinstance(leaf, jax.Array) and leaf.is_fully_addressable and not sharding.is_fully_addressable:
        leaf = np.asarray(leaf)
    return jax.device_put(leaf, sharding)


def _spread_key(record: Record, data: NumpyArray, sharding: Any) -> jax.Array:
    """Typed random keys over several processes: their data has one axis more, which is not cut."""
    whole = jax.NamedSharding(sharding.mesh, jax.P(*sharding.spec), memory_kind=sharding.memory_kind)
    return wrap_key(jax.make_array_from_callback(record.shape, whole, data.__getitem__), str(record.key))


def python_value(kind: str, value: Any) -> Any:
    """Return a number, or an array without axes, as a Python number of a kind; None where it is not one exactly."""
    if getattr(value, "shape", None) == ():
        value = value.item()
    fits: dict[str, tuple[type, ...]] = {
        "bool": (bool,),
        "int": (int,),
        "float": (float, int),
        "complex": (complex, float, int),
    }
    if type(value) not in fits.get(kind, ()):
        return None
    try:
        number = {"bool": bool, "int": int, "float": float, "complex": complex}[kind](value)
    except OverflowError:
        return None
    return number if type(value) is not int or number == value else None
