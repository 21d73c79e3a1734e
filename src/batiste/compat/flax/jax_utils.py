"""Data on several devices, padding for them, and scans along any axis: ``flax.jax_utils``.

``replicate`` and ``prefetch_to_device`` serve programs written for ``jax.pmap``: every array has a leading axis of
devices, and lies with one slice on each. New programs have a mesh and no such axis; they are ``batiste.shard``'s.
"""

from __future__ import annotations

import collections
import functools
import itertools
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from batiste.compat.flax._partial_eval import partial_eval
from batiste.core import is_tracer
from batiste.errors import BatchSizesError, ReplicaAxisError, ScanAxesError

__all__ = [
    "pad_shard_unpad",
    "partial_eval_by_shape",
    "pmean",
    "prefetch_to_device",
    "replicate",
    "scan_in_dim",
    "unreplicate",
]

_AXIS = "_device_put_sharded"


def replicate(tree: Any, devices: Sequence[Any] | None = None, axis_name: str = _AXIS) -> Any:
    """Return arrays `[devices, ...]` that hold each array of a tree once on every device.

    Args:
      tree: a pytree of arrays `[...]` and numbers.
      devices: the devices, in order; the local ones unless given.
      axis_name: the name of the mesh axis that the devices are laid along.
    """
    targets = _devices(devices)
    sharding = _device_axis(targets, axis_name)

    def copies(leaf: Any) -> jax.Array:
        array = jnp.asarray(leaf)
        slices = [jax.device_put(array[None], device) for device in targets]  # no device holds more than its own
        return jax.make_array_from_single_device_arrays((len(targets), *array.shape), sharding, slices)

    return jax.tree.map(copies, tree)


def unreplicate(tree: Any) -> Any:
    """Return the first device's part of each array of a tree: `[devices, ...]` becomes `[...]`.

    Raises:
      ReplicaAxisError: a leaf is no array, or one without axes.
    """

    def first(path: Any, leaf: Any) -> Any:
        if not np.ndim(leaf):
            where = jax.tree_util.keystr(path) or "the tree"
            cure = "Give what replicate() returned, or what a pmapped function did."
            raise ReplicaAxisError(function="unreplicate", path=where, given=_kind(leaf), cure=cure)
        return _first_slice(leaf)

    return jax.tree_util.tree_map_with_path(first, tree)


def _first_slice(leaf: Any) -> Any:
    """Return ``leaf[0]``, on the first device alone where it lies there whole: no other device is asked."""
    if isinstance(leaf, jax.Array) and not is_tracer(leaf):
        shard = leaf.addressable_shards[0]
        if shard.data.shape[1:] == leaf.shape[1:] and not shard.index[0].start:
            return shard.data[0]
    return leaf[0]


def pmean(xs: Any, axis_name: str) -> Any:
    """Return the mean of each array of a tree over a named axis, as ``jax.lax.pmean`` does."""
    return jax.tree.map(functools.partial(lax.pmean, axis_name=axis_name), xs)


def prefetch_to_device(
    iterator: Iterable[Any], size: int, devices: Sequence[Any] | None = None, axis_name: str = _AXIS
) -> Iterator[Any]:
    """Yield the batches of an iterator from a queue that keeps ``size`` of them on the devices ahead of time.

    Args:
      iterator: batches, each a pytree of arrays `[devices, ...]`.
      size: the length of the queue: 2 lets one batch travel while another is worked on.
      devices: the devices, in order; the local ones unless given.
      axis_name: the name of the mesh axis that the devices are laid along.

    Yields:
      Each batch, with one slice of each array on each device.
    """
    sharding = _device_axis(_devices(devices), axis_name)
    batches = iter(iterator)
    queue: collections.deque[Any] = collections.deque()

    def put(leaf: Any) -> Any:
        return jax.device_put(leaf, sharding)

    def fill(count: int) -> None:
        for batch in itertools.islice(batches, count):
            queue.append(jax.tree.map(put, batch))

    fill(max(size, 1))
    while queue:
        yield queue.popleft()
        fill(1)


def _devices(given: Sequence[Any] | None) -> list[Any]:
    return list(cast("Any", jax).local_devices() if given is None else given)


def _device_axis(devices: list[Any], axis_name: str) -> NamedSharding:
    return NamedSharding(Mesh(np.asarray(devices), (axis_name,)), PartitionSpec(axis_name))


def _kind(leaf: Any) -> str:
    return type(leaf).__name__ if not hasattr(leaf, "shape") else "scalar"


def partial_eval_by_shape(fn: Callable[..., Any], input_spec: Iterable[Any], *args: Any, **kwargs: Any) -> Any:
    """Return the outputs of a function of which only the shapes of the first arguments are known.

    An output that does not depend on their values is computed; any other is a ``jax.ShapeDtypeStruct``. Unlike in
    Flax, Python inside the function cannot branch on values, and nothing is computed inside a loop that an unknown
    value enters.

    Args:
      fn: the function.
      input_spec: for each first argument a shape, or a pair of shape and dtype; the dtype is float32 unless given.
      *args: the arguments after them.
      **kwargs: the arguments by name.
    """
    return partial_eval(fn, *(_abstract(spec) for spec in input_spec), *args, **kwargs)


def _abstract(spec: Any) -> jax.ShapeDtypeStruct:
    if isinstance(spec, jax.ShapeDtypeStruct):
        return spec
    if hasattr(spec, "shape") and hasattr(spec, "dtype"):
        return jax.ShapeDtypeStruct(spec.shape, spec.dtype)
    parts = tuple(spec)
    if len(parts) == 2 and isinstance(parts[0], Sequence):
        return jax.ShapeDtypeStruct(tuple(cast("Sequence[int]", parts[0])), parts[1])
    return jax.ShapeDtypeStruct(tuple(map(operator.index, parts)), jnp.float32)


def pad_shard_unpad(
    wrapped: Callable[..., Any],
    static_argnums: Sequence[int] = (0,),
    static_argnames: Sequence[str] = (),
    static_return: bool = False,
) -> Callable[..., Any]:
    """Return a function that takes batches of any size for one that takes `[devices, batch per device, ...]`.

    Arrays `[batch, ...]` are padded with zeros and split over the local devices; outputs are joined again, cut to the
    batch and returned as NumPy arrays.

    Args:
      wrapped: the function, most often one made by ``jax.pmap``.
      static_argnums: which positional arguments are handed on as they are; the first unless given, for parameters.
      static_argnames: which named arguments are handed on as they are.
      static_return: whether outputs are handed back as they are.

    Returns:
      The function. Its argument ``min_device_batch`` is the least batch that each device gets.

    Raises:
      BatchSizesError: the arrays do not agree on the batch, or there are none.
      ReplicaAxisError: a leaf has no batch axis.
    """

    def batched(*args: Any, min_device_batch: int | None = None, **kw: Any) -> Any:
        split = [arg for place, arg in enumerate(args) if place not in static_argnums]
        split += [arg for name, arg in kw.items() if name not in static_argnames]
        size = _batch_size(split)
        devices = jax.local_device_count()
        per_device = max(-(-size // devices), min_device_batch or 0)

        def spread(leaf: Any) -> Any:
            rest = leaf.shape[1:]
            padding = np.zeros((devices * per_device - size, *rest), leaf.dtype)
            padded = np.concatenate([leaf, padding]) if len(padding) else leaf
            return padded.reshape(devices, per_device, *rest)

        def gather(path: Any, leaf: Any) -> Any:
            leaf = jax.device_get(leaf)
            if np.shape(leaf)[:2] != (devices, per_device):
                where = "output" + jax.tree_util.keystr(path)
                cure = "Pass static_return=True where outputs are no batches."
                given = f"{np.shape(leaf)} array"
                raise ReplicaAxisError(function="pad_shard_unpad", path=where, given=given, cure=cure)
            return leaf.reshape(devices * per_device, *leaf.shape[2:])[:size]

        spread_args = [arg if place in static_argnums else jax.tree.map(spread, arg) for place, arg in enumerate(args)]
        spread_kw = {name: arg if name in static_argnames else jax.tree.map(spread, arg) for name, arg in kw.items()}
        made = wrapped(*spread_args, **spread_kw)
        return made if static_return else jax.tree_util.tree_map_with_path(gather, made)

    return batched


def _batch_size(arguments: list[Any]) -> int:
    leaves = cast("list[tuple[Any, Any]]", jax.tree_util.tree_leaves_with_path(arguments))
    for path, leaf in leaves:
        if not np.shape(leaf):
            where = "argument" + jax.tree_util.keystr(path)
            cure = "Name arguments that are no batches in static_argnums or static_argnames."
            raise ReplicaAxisError(function="pad_shard_unpad", path=where, given=_kind(leaf), cure=cure)
    sizes = sorted({leaf.shape[0] for _, leaf in leaves})
    if len(sizes) != 1:
        raise BatchSizesError(found=f"batches of {sizes}" if sizes else "no batch")
    return sizes[0]


def scan_in_dim(
    body_fn: Callable[[Any, Any], tuple[Any, Any]],
    init: Any,
    xs: Any,
    axis: int | Sequence[int] = (0,),
    unroll: int | Sequence[int] = (1,),
    keepdims: bool = False,
) -> tuple[Any, Any]:
    """Scan along any axis or axes of a tree of arrays, the last named one fastest.

    Args:
      body_fn: takes the carry and a slice, and returns the carry and a slice of outputs.
      init: the first carry.
      xs: a pytree of arrays that have the axes.
      axis: the axes, whose indices the slices lack.
      unroll: how many steps of each axis make one iteration; padded on the left with ones.
      keepdims: whether slices keep the axes, with extent 1.

    Returns:
      The last carry, and the outputs with the axes in the place that they have in ``xs``.

    Raises:
      ScanAxesError: no axis is named, or one twice.
    """
    axes = tuple(np.atleast_1d(axis).astype(int).tolist())
    if not axes or len(set(axes)) != len(axes):
        raise ScanAxesError(axes=axes, reason="none is named" if not axes else "one is named twice")
    steps = tuple(np.atleast_1d(unroll).astype(int).tolist())
    steps = (1,) * (len(axes) - len(steps)) + steps

    def to_front(leaf: Any) -> Any:
        return jnp.moveaxis(jnp.asarray(leaf), axes, range(len(axes)))

    def to_place(leaf: Any) -> Any:
        return jnp.moveaxis(leaf, range(len(axes)), axes)

    def keep(leaf: Any) -> Any:
        return jnp.expand_dims(leaf, axes) if keepdims else leaf

    def drop(leaf: Any) -> Any:
        return jnp.squeeze(leaf, axes) if keepdims else leaf

    def body(carry: Any, piece: Any) -> tuple[Any, Any]:
        carry, made = body_fn(carry, jax.tree.map(keep, piece))
        return carry, jax.tree.map(drop, made)

    carry, ys = _nested_scan(body, init, jax.tree.map(to_front, xs), steps)
    return carry, jax.tree.map(to_place, ys)


def _nested_scan(
    body: Callable[[Any, Any], tuple[Any, Any]], init: Any, xs: Any, unroll: tuple[int, ...]
) -> tuple[Any, Any]:
    """Scan over as many leading axes as ``unroll`` has entries, the last one innermost."""
    if len(unroll) == 1:
        return lax.scan(body, init, xs, unroll=unroll[0])

    def inner(carry: Any, piece: Any) -> tuple[Any, Any]:
        return _nested_scan(body, carry, piece, unroll[1:])

    return lax.scan(inner, init, xs, unroll=unroll[0])
