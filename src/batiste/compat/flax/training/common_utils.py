"""``flax.training.common_utils``: batches over the local devices, metrics from them, and one-hot labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from batiste.errors import ReplicaAxisError
from batiste.typing import Array, ArrayLike, Key, PyTree

__all__ = ["get_metrics", "onehot", "shard", "shard_prng_key", "stack_forest"]


def shard(xs: PyTree) -> PyTree:
    """Split the batch of each array over the local devices: `[batch, ...]` becomes `[devices, batch / devices, ...]`.

    Raises:
      ReplicaAxisError: a leaf has no batch, or one that the number of devices does not divide.
    """
    devices = _device_count()

    def split(path: Any, leaf: Any) -> Any:
        if not np.ndim(leaf) or leaf.shape[0] % devices:
            where = jax.tree_util.keystr(path) or "the batch"
            given = f"{np.shape(leaf)} array" if np.ndim(leaf) else type(leaf).__name__
            cure = f"Make the batch a multiple of {devices}, or pad it with jax_utils.pad_shard_unpad."
            raise ReplicaAxisError(function="shard", path=where, given=given, cure=cure)
        return leaf.reshape(devices, -1, *leaf.shape[1:])

    return jax.tree_util.tree_map_with_path(split, xs)


def shard_prng_key(prng_key: Key) -> Key:
    """Split a random key into one for each local device: `[devices]`, or `[devices, 2]` for raw keys."""
    return jax.random.split(prng_key, _device_count())


def stack_forest(forest: Sequence[PyTree]) -> PyTree:
    """Turn a list of trees with arrays `[...]` into one tree with arrays `[trees, ...]`."""

    def stack(*leaves: Any) -> Array:
        return jnp.stack(leaves)

    return jax.tree.map(stack, *forest)


def get_metrics(device_metrics: Sequence[PyTree]) -> PyTree:
    """Return replicated metrics of several steps, `[devices, ...]` each, as one tree of arrays `[steps, ...]`."""

    def first(leaf: Any) -> Any:
        return leaf[0]

    return stack_forest(jax.device_get(jax.tree.map(first, device_metrics)))


def onehot(labels: ArrayLike, num_classes: int, on_value: float = 1.0, off_value: float = 0.0) -> Array:
    """Return float32 vectors with one value at each label and another one elsewhere.

    Args:
      labels: integers `[...]`; one outside of the classes gives a vector without the first value.
      num_classes: the number of classes.
      on_value: the value at the label.
      off_value: the value elsewhere.

    Returns:
      The vectors, `[..., classes]`.
    """
    labels = jnp.asarray(labels)
    classes = jnp.arange(num_classes).reshape((1,) * labels.ndim + (num_classes,))
    return jnp.where(labels[..., None] == classes, on_value, off_value).astype(jnp.float32)


def _device_count() -> int:
    return cast("Any", jax).local_device_count()
