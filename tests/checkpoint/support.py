"""What the tests of checkpoints share: trees to save, and what it means that two trees are the same."""

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from batiste import tree

KINDS = ("folder", "file.safetensors")
"""The two formats that are made for checkpoints; the name decides."""

WHOLE = (*KINDS, "file.npz")
"""The formats that hold all that can be said of a tree."""


class Pair(NamedTuple):
    """A named tuple of a user."""

    left: object
    right: object


def is_key(leaf):
    return isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def same_leaf(one, other):
    if is_key(one) or is_key(other):
        return (
            is_key(one)
            and is_key(other)
            and one.dtype == other.dtype
            and same_leaf(*map(jax.random.key_data, (one, other)))
        )
    if not hasattr(one, "dtype"):
        return type(one) is type(other) and repr(one) == repr(other)
    one, other = np.asarray(one), np.asarray(other)
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


def assert_same(one, other):
    """Assert that two trees have the same containers and leaves, to the bit."""
    assert jax.tree.structure(one) == jax.tree.structure(other)
    ours, theirs = tree.flatten(one), tree.flatten(other)
    assert [path for path in ours if not same_leaf(ours[path], theirs[path])] == []


def assert_same_leaves(one, other):
    """Assert that two trees have the same leaves at the same paths, in whatever containers."""
    ours, theirs = tree.flatten(one), tree.flatten(other)
    assert set(ours) == set(theirs)
    assert [path for path in ours if not same_leaf(ours[path], theirs[path])] == []


def variables(width=8, layers=3):
    """Variables as a small network has them."""
    rng = np.random.default_rng(0)

    def draw(*shape):
        return jnp.asarray(rng.standard_normal(shape, dtype=np.float32))

    blocks = {f"h_{number}": {"kernel": draw(width, width), "bias": draw(width)} for number in range(layers)}
    return {
        "params": {"embed": {"embedding": draw(10, width)}, **blocks, "head": {"kernel": draw(width, 4)}},
        "batch_stats": {"norm": {"mean": draw(width), "var": draw(width)}},
    }


def training(width=8):
    """A state as a run has it: variables, an Optax state, a step, random keys."""
    made = variables(width)
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(optax.linear_schedule(0.0, 1e-3, 10)))
    return {**made, "opt_state": optimiser.init(made["params"]), "step": 3, "rngs": {"dropout": jax.random.key(7)}}


def stacked(made, count=3):
    """The same variables with their layers stacked."""
    params = dict(made["params"])
    layers = [params.pop(f"h_{number}") for number in range(count)]
    return {**made, "params": {**params, "h": jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)}}


def files_of(path):
    """Every file of a checkpoint."""
    path = Path(path)
    return [path] if path.is_file() else sorted(found for found in path.rglob("*") if found.is_file())


def flip_bit(file, bit):
    """Flip one bit of a file; flipping it again puts it back."""
    with file.open("r+b") as opened:
        opened.seek(bit // 8)
        byte = opened.read(1)[0]
        opened.seek(bit // 8)
        opened.write(bytes([byte ^ (1 << bit % 8)]))
