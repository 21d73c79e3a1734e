"""Meshes over the eight fake devices, the ways to name one, and trees with boxes in words."""

import contextlib
import warnings

import jax
from flax.core import meta
from jax.sharding import AxisType, NamedSharding, use_abstract_mesh

from batiste.core import is_axis_metadata

KINDS = {
    "auto": (AxisType.Auto, AxisType.Auto),
    "explicit": (AxisType.Explicit, AxisType.Explicit),
    "mixed": (AxisType.Explicit, AxisType.Auto),
}


def mesh_of(kind="auto", shape=(4, 2), names=("data", "model")):
    return jax.make_mesh(shape, names, axis_types=KINDS[kind][: len(names)])


@contextlib.contextmanager
def entered(mesh):
    """Enter a mesh in the deprecated way."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        mesh.__enter__()
    try:
        yield
    finally:
        mesh.__exit__(None, None, None)


def abstract(mesh):
    return use_abstract_mesh(mesh.abstract_mesh)


def spec_of(array):
    """Return the spec of an array on a mesh, without the trailing axes that are whole; None off every mesh."""
    if not isinstance(array.sharding, NamedSharding):
        return None
    entries = list(array.sharding.spec)
    while entries and entries[-1] is None:
        entries.pop()
    return tuple(entries)


def described(tree):
    """Return class, names and shape of every box, and the shape of every other leaf, by path: of ours or Flax's."""

    def is_box(leaf):
        return is_axis_metadata(leaf) or meta.is_axis_metadata(leaf)

    found = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_box)[0]:
        words = (type(leaf).__name__, tuple(leaf.names), leaf.value.shape) if is_box(leaf) else leaf.shape
        found[jax.tree_util.keystr(path)] = words
    return found
