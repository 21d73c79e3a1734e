"""Trees of every kind of leaf and container that a checkpoint takes, and what it means that two are the same exactly.

``trees()`` draws them. ``assert_exact`` compares types, order, dtypes with their byte order, and bits; ``bare`` is what
a tree becomes without a target: JAX arrays are NumPy's, dataclasses and other nodes dicts of their children.
"""

import collections
import dataclasses
import struct
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from batiste.checkpoint._arrays import BYTES_BY_DTYPE, dtype_by_name
from batiste.compat.flax.core.frozen_dict import FrozenDict
from batiste.tree import flatten
from tests.checkpoint.support import is_key


class Both(NamedTuple):
    """A named tuple of a user."""

    left: object
    right: object


class Empty(NamedTuple):
    """A named tuple without fields, such as Optax's ``EmptyState``."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Layer:
    """A dataclass of a user, with its fields in no order of names."""

    weight: object
    bias: object


@jax.tree_util.register_pytree_node_class
class Chain:
    """A container of a user, registered without names for its children."""

    def __init__(self, *items):
        self.items = items

    def tree_flatten(self):
        return self.items, len(self.items)

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)


NAMES = st.text(max_size=4) | st.sampled_from(["a/b", "a.b", "~", "~1", "%2E", "..", "é", "__metadata__", " ", "0"])
FACTORIES = st.sampled_from([None, int, float, list, dict, str, set, collections.OrderedDict])
COUNTS = (1, 2, 4, 8)


def mesh(count, axis_type):
    return jax.make_mesh((count,), ("x",), axis_types=(axis_type,), devices=jax.devices()[:count])


@st.composite
def numpy_arrays(draw):
    name = draw(st.sampled_from(sorted(BYTES_BY_DTYPE)))
    dtype = dtype_by_name(name)
    shape = draw(st.lists(st.integers(0, 3), max_size=3).map(tuple))
    count = int(np.prod(shape))
    if dtype.isbuiltin == 1 and name != "bool":  # any bits are values: NaNs of every kind, sub-normals, negative zeros
        raw = draw(st.binary(min_size=count * dtype.itemsize, max_size=count * dtype.itemsize))
        array = np.frombuffer(raw, dtype).reshape(shape)
    else:
        bits = draw(st.binary(min_size=count, max_size=count))
        array = (np.frombuffer(bits, np.uint8) % 2).astype(np.float32).astype(dtype).reshape(shape)
    layout = draw(st.sampled_from(["plain", "transposed", "reversed", "fortran", "swapped", "scalar", "read-only"]))
    if layout == "transposed":
        return array.T
    if layout == "reversed" and shape:
        return array[::-1]
    if layout == "fortran":
        return np.asfortranarray(array)
    if layout == "swapped" and dtype.isbuiltin == 1 and dtype.itemsize > 1:
        return array.view(dtype.newbyteorder("S"))
    return array[(0,) * len(shape)] if layout == "scalar" and count else array


@st.composite
def jax_arrays(draw):
    """Arrays and keys on any mesh, or on none."""
    rows = draw(st.sampled_from([1, 3, 8]))
    kind = draw(st.sampled_from(["float32", "bfloat16", "int8", "bool", "key", "rbg", "unsafe_rbg"]))
    seed = draw(st.integers(0, 9))
    if kind in ("key", "rbg", "unsafe_rbg"):
        made = jax.random.split(jax.random.key(seed, impl=None if kind == "key" else kind), rows)
    else:
        made = (jnp.arange(rows * 2).reshape(rows, 2) % 7 - seed).astype(kind)
    count = draw(st.sampled_from((0, *COUNTS)))
    if not count:
        return made if draw(st.booleans()) else made[0]
    spec = PartitionSpec("x") if rows % count == 0 and draw(st.booleans()) else PartitionSpec()
    return jax.device_put(
        made, NamedSharding(mesh(count, draw(st.sampled_from([AxisType.Auto, AxisType.Explicit]))), spec)
    )


PLAIN = (
    st.booleans()
    | st.integers()
    | st.sampled_from([2**64, -(2**200), 10**3000])
    | st.floats()
    | st.complex_numbers()
    | st.text(max_size=5)
    | st.binary(max_size=5)
)


def _containers(inner):
    mixed = st.dictionaries(NAMES | st.integers(-2, 12), inner, max_size=3).filter(
        lambda made: len(set(map(str, made))) == len(made)
    )
    return (
        st.dictionaries(NAMES, inner, max_size=3)
        | st.dictionaries(st.integers(-2, 12), inner, max_size=3)
        | mixed.map(lambda made: collections.OrderedDict(reversed(made.items())))
        | st.builds(collections.defaultdict, FACTORIES, st.dictionaries(NAMES, inner, max_size=3))
        | st.dictionaries(NAMES, inner, max_size=3).map(FrozenDict)
        | st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.builds(Both, inner, inner)
        | st.builds(Empty)
        | st.builds(Layer, inner, inner)
        | st.lists(inner, max_size=3).map(lambda items: Chain(*items))
    )


def trees():
    """Draw trees of anything that can be saved."""
    return st.recursive(numpy_arrays() | jax_arrays() | PLAIN | st.none(), _containers, max_leaves=8).filter(_flattens)


def _flattens(tree):
    """Whether JAX takes it: a frozen dict makes a plain one of an ordered one, with whatever keys that has."""
    try:
        jax.tree.leaves(tree)
    except ValueError:
        return False
    return True


def bare(tree):
    """What a tree is without a target."""
    if isinstance(tree, Layer):
        return {"weight": bare(tree.weight), "bias": bare(tree.bias)}
    if isinstance(tree, Chain):
        return {str(number): bare(item) for number, item in enumerate(tree.items)}
    if isinstance(tree, jax.Array):
        return tree if is_key(tree) else np.asarray(tree)
    if isinstance(tree, FrozenDict):
        children, structure = jax.tree.flatten(tree, is_leaf=lambda node: node is not tree)
        return jax.tree.unflatten(structure, map(bare, children))  # whose constructor would change what is in it
    if isinstance(tree, collections.defaultdict):
        return collections.defaultdict(tree.default_factory, {key: bare(child) for key, child in tree.items()})
    if isinstance(tree, dict):
        return type(tree)((key, bare(child)) for key, child in tree.items())
    if isinstance(tree, Both):
        return Both(*map(bare, tree))
    return type(tree)(map(bare, tree)) if type(tree) in (list, tuple) else tree


def without_devices(tree):
    """The same tree with a shape in the place of each JAX array."""
    return jax.tree.map(
        lambda leaf: (
            jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
            if isinstance(leaf, jax.Array)
            else leaf
        ),
        tree,
    )


def bits_of(leaf):
    """All that there is to a leaf, as a value that compares."""
    if is_key(leaf):
        return ("key", str(leaf.dtype), np.asarray(jax.random.key_data(leaf)).tobytes(), leaf.shape)
    if isinstance(leaf, float):
        return (type(leaf), struct.pack(">d", leaf))
    if isinstance(leaf, complex):
        return (type(leaf), struct.pack(">dd", leaf.real, leaf.imag))
    if isinstance(leaf, jax.Array):
        return (jax.Array, str(leaf.dtype), leaf.shape, np.asarray(leaf).tobytes())
    if isinstance(leaf, np.ndarray | np.generic):
        return (type(leaf), leaf.dtype, leaf.dtype.byteorder, leaf.shape, leaf.tobytes())
    return (type(leaf), leaf)


def assert_exact(found, expected, *, placed=False):
    """Assert that two trees have the same containers in the same order, and the same leaves to the last bit."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    ours, theirs = flatten(found), flatten(expected)
    assert list(ours) == list(theirs)
    assert [path for path in ours if bits_of(ours[path]) != bits_of(theirs[path])] == []
    for path, leaf in theirs.items() if placed else ():
        if isinstance(leaf, jax.Array) and leaf.committed:
            assert ours[path].sharding == leaf.sharding
