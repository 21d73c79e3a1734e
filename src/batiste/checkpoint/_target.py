"""The leaves of a target: what each asks for, and how an array from the disk becomes one of its kind."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, cast

import jax
import jax.numpy as jnp
import numpy as np

from batiste.checkpoint._arrays import dtype_by_name, is_key_dtype, key_data, wrap_key
from batiste.checkpoint._structure import is_box, unbox
from batiste.checkpoint._types import NumpyArray, Record
from batiste.errors import DuplicatePathError
from batiste.tree import PatternLike, compile_pattern, path_string

__all__ = ["ShardingsLike", "Target", "Wanted", "own_sharding", "place", "python_value", "sharding_rule"]

ShardingsLike: TypeAlias = (
    jax.sharding.Sharding
    | Mapping[PatternLike, jax.sharding.Sharding | None]
    | Callable[[str, tuple[int, ...]], jax.sharding.Sharding | None]
    | None
)
"""One sharding for every array, shardings by pattern (the first match counts), or a rule of path and shape."""


@dataclasses.dataclass(frozen=True, slots=True)
class Wanted:
    """One leaf of the target.

    Attributes:
      record: its shape and dtype, of the key data where it is a typed random key.
      leaf: the target's own leaf, out of its box.
      is_jax: whether a JAX array is wanted; else a NumPy array or a plain value.
      has_value: whether the leaf has a value that could be kept.
    """

    record: Record
    leaf: Any
    is_jax: bool
    has_value: bool


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
            self.wanted[path] = _wanted(unbox(leaf) if is_box(leaf) else leaf)

    def fill(self, values: Mapping[str, Any]) -> Any:
        """Return the target's tree with these leaves, in the target's containers and boxes."""
        leaves = [box.replace_boxed(values[path]) if is_box(box) else values[path] for path, box in self._boxes.items()]
        return jax.tree_util.tree_unflatten(self._structure, leaves)


def _wanted(leaf: Any) -> Wanted:
    if type(leaf) in (bool, int, float, complex, str, bytes):
        return Wanted(
            Record((), "python", 0, kind=cast("Any", type(leaf).__name__)), leaf, is_jax=False, has_value=True
        )
    if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
        return Wanted(Record((), type(leaf).__name__, 0), leaf, is_jax=False, has_value=True)
    has_value = not isinstance(leaf, jax.ShapeDtypeStruct)
    is_jax = isinstance(leaf, jax.Array | jax.ShapeDtypeStruct)
    if is_key_dtype(leaf.dtype):
        data = jax.eval_shape(jax.random.key_data, jax.ShapeDtypeStruct(leaf.shape, leaf.dtype))
        key = str(jax.random.key_impl(leaf)) if has_value else _implementation(leaf.dtype)
        return Wanted(Record(tuple(data.shape), "uint32", 0, key=key), leaf, is_jax=True, has_value=has_value)
    return Wanted(Record(tuple(leaf.shape), np.dtype(leaf.dtype).name, 0), leaf, is_jax=is_jax, has_value=has_value)


def _implementation(dtype: Any) -> str:
    """The name of the implementation of an abstract key's dtype."""
    names: list[str] = []

    def look(key: jax.Array) -> jax.Array:
        names.append(key_data(key)[1])
        return key

    jax.eval_shape(look, jax.ShapeDtypeStruct((), dtype))
    return names[0]


def sharding_rule(shardings: ShardingsLike) -> Callable[[str, tuple[int, ...]], jax.sharding.Sharding | None]:
    """Return what ``shardings`` says as one rule of path and shape."""
    if isinstance(shardings, jax.sharding.Sharding):
        return lambda _path, _shape: shardings
    if isinstance(shardings, Mapping):
        table = cast("Mapping[PatternLike, jax.sharding.Sharding | None]", shardings)
        rules = [(compile_pattern(pattern), sharding) for pattern, sharding in table.items()]
        return lambda path, _shape: next((sharding for pattern, sharding in rules if pattern.matches(path)), None)
    return shardings or (lambda _path, _shape: None)


def own_sharding(wanted: Wanted) -> jax.sharding.Sharding | None:
    """Return the sharding of the target's own leaf, where it was chosen for it."""
    leaf = wanted.leaf
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf.sharding
    return leaf.sharding if isinstance(leaf, jax.Array) and leaf.committed else None


def place(
    record: Record, read: Callable[[tuple[slice, ...] | None], NumpyArray], sharding: jax.sharding.Sharding | None
) -> jax.Array:
    """Return a JAX array, each shard filled with what ``read`` gives for it.

    Args:
      record: its shape and dtype.
      read: returns a box of the array on the host, or all of it for ``None``.
      sharding: where its shards go; None for JAX's default device.
    """
    if record.key is not None:
        return wrap_key(read(None), record.key)
    if sharding is None:
        return jnp.asarray(read(None))

    def callback(index: tuple[slice, ...] | None) -> NumpyArray:
        box = tuple(slice(*part.indices(extent)) for part, extent in zip(index or (), record.shape, strict=False))
        whole = all(part.stop - part.start == extent for part, extent in zip(box, record.shape, strict=True))
        return read(None if whole else box)

    return jax.make_array_from_callback(record.shape, sharding, callback, dtype=dtype_by_name(record.dtype))


def python_value(kind: str, value: Any) -> Any:
    """Return a number, or an array without axes, as a Python number of a kind; None where it is not one."""
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
        return {"bool": bool, "int": int, "float": float, "complex": complex}[kind](value)
    except OverflowError:  # an integer that is beyond the range
        return None
