"""What is saved comes back: every dtype, every container, every layout in memory, to the bit."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from batiste import checkpoint
from batiste.checkpoint._arrays import BYTES_BY_DTYPE, dtype_by_name
from batiste.tree import paths
from tests.checkpoint.support import WHOLE, Pair, assert_same, training

NAMES = st.text(min_size=0, max_size=4) | st.sampled_from(
    ["a/b", "a.b", "~", "~1", "%2E", "..", "é", "__metadata__", " "]
)
SHAPES = st.lists(st.integers(0, 3), max_size=3).map(tuple)
LAYOUTS = st.sampled_from(["plain", "transposed", "reversed", "fortran", "big-endian", "jax"])


@st.composite
def arrays(draw):
    dtype = dtype_by_name(draw(st.sampled_from(sorted(BYTES_BY_DTYPE))))
    shape = draw(SHAPES)
    count = int(np.prod(shape))
    raw = np.frombuffer(draw(st.binary(min_size=count, max_size=count)), np.uint8) % 2
    array = raw.astype(np.float32).astype(dtype).reshape(shape)
    layout = draw(LAYOUTS)
    if layout == "transposed":
        return array.T
    if layout == "reversed" and shape:
        return array[::-1]
    if layout == "fortran":
        return np.asfortranarray(array)
    if layout == "big-endian" and dtype.kind in "iufc" and dtype.itemsize > 1:
        return array.astype(dtype.newbyteorder(">"))
    return jnp.asarray(array) if layout == "jax" and jax.dtypes.canonicalize_dtype(dtype) == dtype else array


PLAIN = st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=5) | st.none()
LEAVES = arrays() | PLAIN | st.builds(jax.random.key, st.integers(0, 9)) | st.complex_numbers()
TREES = st.recursive(
    LEAVES,
    lambda inner: (
        st.dictionaries(NAMES, inner, max_size=3)
        | st.dictionaries(st.integers(-2, 12), inner, max_size=3)
        | st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.builds(Pair, inner, inner)
    ),
    max_leaves=8,
)


@given(tree=TREES)
def test_any_tree_in_a_file(tmp_path_factory, tree):
    path = tmp_path_factory.mktemp("any") / "tree.safetensors"
    checkpoint.save(path, tree)
    assert_same(tree, checkpoint.restore(path))
    assert checkpoint.verify(path).digests


@given(tree=TREES)
def test_any_tree_in_an_npz(tmp_path_factory, tree):
    assume(not any("\0" in path for path in paths(tree)))  # no zip has such names
    path = tmp_path_factory.mktemp("any") / "tree.npz"
    checkpoint.save(path, tree)
    assert_same(tree, checkpoint.restore(path))
    assert checkpoint.verify(path).digests


@settings(max_examples=12)
@given(tree=TREES)
def test_any_tree_in_a_folder(tmp_path_factory, tree):
    path = tmp_path_factory.mktemp("any") / "tree"
    checkpoint.save(path, tree)
    assert_same(tree, checkpoint.restore(path))
    assert checkpoint.verify(path).digests


@pytest.mark.parametrize("kind", WHOLE)
def test_every_dtype(tmp_path, kind):
    tree = {name: np.ones((2, 3), dtype_by_name(name)) for name in BYTES_BY_DTYPE}
    tree |= {f"{name}_scalar": np.ones((), dtype_by_name(name)) for name in BYTES_BY_DTYPE}
    checkpoint.save(tmp_path / kind, tree)
    assert_same(tree, checkpoint.restore(tmp_path / kind))
    assert_same(tree, checkpoint.restore(tmp_path / kind, tree))


@pytest.mark.parametrize("kind", WHOLE)
def test_a_training_state_without_a_target(tmp_path, kind):
    state = training()
    checkpoint.save(tmp_path / kind, state, step=3)
    restored = checkpoint.restore(tmp_path / kind)
    assert_same(state, restored)
    assert isinstance(restored["opt_state"][1][0], optax.ScaleByAdamState)
    optimiser = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(optax.linear_schedule(0.0, 1e-3, 10)))
    gradients = jax.tree.map(jnp.ones_like, state["params"])
    one = optimiser.update(gradients, state["opt_state"], state["params"])
    other = optimiser.update(gradients, restored["opt_state"], restored["params"])
    assert_same(one, other)


@pytest.mark.parametrize("kind", WHOLE)
def test_other_containers_become_dicts_of_their_children(tmp_path, kind):
    @jax.tree_util.register_dataclass
    @dataclasses.dataclass
    class State:
        weight: object
        bias: object

    tree = {"state": State(np.ones(2), np.zeros(3))}
    checkpoint.save(tmp_path / kind, tree)
    restored = checkpoint.restore(tmp_path / kind)
    assert_same(restored, {"state": {"weight": np.ones(2), "bias": np.zeros(3)}})
    assert_same(checkpoint.restore(tmp_path / kind, tree), tree)


@pytest.mark.parametrize("kind", WHOLE)
def test_a_tree_that_is_one_leaf_or_none(tmp_path, kind):
    for number, tree in enumerate((np.arange(3), None, {}, (), 5, {"a": {}, "b": None})):
        path = tmp_path / f"{number}{kind}"
        checkpoint.save(path, tree)
        assert_same(checkpoint.restore(path), tree)


@pytest.mark.parametrize("kind", WHOLE)
def test_slices_of_larger_arrays(tmp_path, kind):
    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    tree = {
        "transposed": base.T,
        "strided": base[:, ::2],
        "reversed": base[::-1],
        "row": base[1],
        "broadcast": np.broadcast_to(base[0], (3, 6)),
    }
    checkpoint.save(tmp_path / kind, tree)
    assert_same(tree, checkpoint.restore(tmp_path / kind))


@pytest.mark.parametrize("kind", WHOLE)
def test_raw_and_typed_keys(tmp_path, kind):
    tree = {"raw": jax.random.PRNGKey(1), "typed": jax.random.key(1), "many": jax.random.split(jax.random.key(2), 3)}
    tree["other"] = jax.random.key(3, impl="rbg")
    checkpoint.save(tmp_path / kind, tree)
    assert_same(tree, checkpoint.restore(tmp_path / kind))
    abstract = jax.eval_shape(lambda: tree)
    assert_same(tree, checkpoint.restore(tmp_path / kind, abstract))


@pytest.mark.parametrize("source", WHOLE)
@pytest.mark.parametrize("goal", WHOLE)
def test_conversion_keeps_everything(tmp_path, source, goal):
    state = training()
    checkpoint.save(
        tmp_path / f"one_{source}", state, step=9, metadata={"note": "é"}, axes={"params/head/kernel": ("embed", None)}
    )
    opened = checkpoint.open(tmp_path / f"one_{source}")
    checkpoint.save(tmp_path / f"two_{goal}", opened)
    again = checkpoint.open(tmp_path / f"two_{goal}")
    assert again.step == 9
    assert again.metadata == {"note": "é"}
    assert again.manifest.axes == {"params/head/kernel": ["embed", None]}
    assert_same(state, checkpoint.restore(again))
    digests = [{path: row.digest for path, row in each.manifest.records.items()} for each in (opened, again)]
    assert digests[0] == digests[1]


def test_a_saved_part_of_an_opened_checkpoint(tmp_path):
    checkpoint.save(tmp_path / "all", training())
    checkpoint.save(tmp_path / "part.safetensors", checkpoint.open(tmp_path / "all")["params/**/kernel"])
    assert checkpoint.open(tmp_path / "part.safetensors").paths() == [
        "params/h_0/kernel",
        "params/h_1/kernel",
        "params/h_2/kernel",
        "params/head/kernel",
    ]
