"""``flax.training.orbax_utils``: what Orbax's tree checkpointer is told about each leaf.

Orbax is loaded when one of these functions is called.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any, cast

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from batiste.compat.flax._packages import load
from batiste.compat.flax.serialization import to_state_dict
from batiste.compat.flax.traverse_util import flatten_dict
from batiste.errors import FlaxDeprecationWarning
from batiste.typing import PyTree

__all__ = [
    "is_multi_device_array",
    "maybe_construct_transformations",
    "restore_args_from_target",
    "save_args_from_target",
]


def is_multi_device_array(value: Any) -> bool:
    """Return whether a value is an array that does not lie on one device alone."""
    return isinstance(value, jax.Array) and len(cast("set[Any]", value.sharding.device_set)) > 1


def save_args_from_target(target: PyTree) -> PyTree:
    """Return Orbax's ``SaveArgs`` for each leaf of a tree."""
    return _for_each_leaf(target, _orbax().SaveArgs)


def restore_args_from_target(target: PyTree, mesh: Mesh | None = None) -> PyTree:
    """Return Orbax's ``RestoreArgs`` for each leaf of a tree, so that arrays come back with the target's shardings.

    Where no leaf has a sharding, every leaf comes back as a NumPy array.

    Args:
      target: the tree that the checkpoint has the structure of.
      mesh: a mesh to take in place of the target's. Flax has deprecated it.
    """
    orbax = _orbax()
    if not any(getattr(leaf, "sharding", None) is not None for leaf in jax.tree.leaves(target)):
        return _for_each_leaf(target, functools.partial(orbax.RestoreArgs, restore_type=np.ndarray))

    def known(leaf: Any) -> Any:
        is_scalar = isinstance(leaf, np.generic)  # Orbax knows none of NumPy's
        return np.asarray(cast("Any", leaf)) if is_scalar else leaf

    shardings = None
    if mesh is not None:
        text = "Flax has deprecated the argument mesh: make the target's arrays on the mesh instead."
        warnings.warn(text, FlaxDeprecationWarning, stacklevel=2)

        def on_mesh(leaf: Any) -> NamedSharding:
            return NamedSharding(mesh, getattr(getattr(leaf, "sharding", None), "spec", PartitionSpec()))

        shardings = jax.tree.map(on_mesh, target)
    construct = orbax.checkpoint_utils.construct_restore_args
    return construct(jax.tree.map(known, target), shardings, set_global_shape=False)


def maybe_construct_transformations(target: PyTree, transforms: Any) -> Any:
    """Return Orbax's transformations: those given, or ones that leave what is None in the target as it is."""
    if transforms is not None:
        return transforms
    state = to_state_dict(target)
    flat: dict[str, Any] = flatten_dict(state, sep="/") if isinstance(state, dict) else {"": state}
    return {path: _orbax().Transform(use_fallback=True) for path, leaf in flat.items() if leaf is None}


def _for_each_leaf(tree: PyTree, make: Callable[[], Any]) -> PyTree:
    def made(leaf: Any) -> Any:
        del leaf
        return make()

    return jax.tree.map(made, tree)


def _orbax() -> Any:
    return load("orbax.checkpoint", "Orbax's checkpoints", "batiste[checkpoint]")
