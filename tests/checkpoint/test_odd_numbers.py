"""Numbers of every dtype on their way back from a checkpoint into a target of another dtype."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from batiste import checkpoint, errors, tree
from tests.tree.odd_numbers import DTYPES, array, dtype_of


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A file with the odd numbers of every dtype, each number a leaf of its own too."""
    path = tmp_path_factory.mktemp("odd") / "odd.npz"
    numbers = {name: array(name)[:24] for name in DTYPES}
    single = {f"{name}_{index}": leaf for name in DTYPES for index, leaf in enumerate(numbers[name][:, None])}
    checkpoint.save(path, {**numbers, **single})
    return path


@pytest.mark.parametrize("new", ["bool", "int4", "uint8", "int32", "float16", "bfloat16", "float8_e4m3fn", "complex64"])
def test_restore_casts_as_the_tree_does(saved, new):
    """Every number comes back as `tree.cast` makes it, or is refused as there, all leaves in one error."""
    stored = checkpoint.restore(saved)
    target = {path: np.zeros(leaf.shape, dtype_of(new)) for path, leaf in stored.items()}
    lost = {path for path, leaf in stored.items() if tree.cast_loss(leaf, dtype_of(new))}
    with pytest.raises(errors.CastLossError) as raised:
        checkpoint.restore(saved, target, dtype="cast")
    assert {line.split(":")[0].strip() for line in raised.value.context["lines"].splitlines()} == lost
    kept = {path: leaf for path, leaf in target.items() if path not in lost}
    found = checkpoint.restore(saved, kept, dtype="cast", extra="drop")
    assert len(found) > len(DTYPES) / 3
    for path, leaf in found.items():
        assert leaf.dtype == dtype_of(new)
        assert not tree.diff(leaf, tree.cast(stored[path], dtype_of(new), kinds="all"))


def test_onto_devices_and_meshes(tmp_path):
    path = tmp_path / "run"
    checkpoint.save(path, {"w": np.arange(8, dtype=np.float32) * 1e4})
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.NamedSharding(mesh, jax.P("x"))
    wanted = {"w": jax.ShapeDtypeStruct((8,), jnp.float16, sharding=sharding)}
    for verify in (True, False):
        with pytest.raises(errors.CastLossError, match="1 of 8 elements are beyond 65504"):
            checkpoint.restore(path, wanted, dtype="cast", verify=verify)
        cut = {"w": jax.ShapeDtypeStruct((6,), jnp.float16)}  # what is cut away is not lost in the cast
        assert checkpoint.restore(path, cut, dtype="cast", shape="slice", verify=verify)["w"].dtype == jnp.float16


def test_layers_of_several_dtypes_do_not_meet_in_one_between(tmp_path):
    """An int64 and a uint64 would meet in a double, which has not all of their numbers."""
    path = tmp_path / "layers.npz"
    layers = {"h_0": {"n": np.array([2**53 + 1], np.int64)}, "h_1": {"n": np.array([2**53 + 3], np.uint64)}}
    checkpoint.save(path, layers)
    found = checkpoint.restore(path, {"h": {"n": np.zeros((2, 1), np.int64)}}, dtype="cast")
    assert found["h"]["n"].tolist() == [[2**53 + 1], [2**53 + 3]]
    half = tmp_path / "half.npz"
    checkpoint.save(half, {"h_0": {"w": np.ones(2, np.float16)}, "h_1": {"w": np.ones(2, jnp.bfloat16)}})
    assert checkpoint.restore(half, {"h": {"w": np.zeros((2, 2), np.float32)}}, dtype="cast")["h"]["w"].all()
    checkpoint.save(tmp_path / "w.npz", {**layers, "h_1": {"n": np.array([2**64 - 1], np.uint64)}})
    with pytest.raises(errors.CastLossError, match=r"h/n\[1\]"):
        checkpoint.restore(tmp_path / "w.npz", {"h": {"n": np.zeros((2, 1), np.int64)}}, dtype="cast")


@pytest.mark.parametrize(
    ("stored", "wanted", "fits"),
    [
        (10**400, 1.0, False),
        (2**60, 1.0, True),
        (1e300, np.float32(0), False),
        (1 / 3, np.float32(0), True),
        (float("nan"), np.float32(0), True),
        (float("inf"), dtype_of("float8_e4m3fn").type(0), False),
        (1j / 3, np.complex64(0), True),
        (1e300j, np.complex64(0), False),
        (1j, 1.0, False),
        (300, np.uint8(0), False),
        (-1, np.uint8(0), False),
        (1.5, np.int32(0), False),
        (2**70, np.int64(0), False),
        (True, 1, False),
    ],
    ids=repr,
)
def test_plain_numbers(tmp_path, stored, wanted, fits):
    """A number of Python in the place of an array without axes, or of a number of another kind."""
    path = tmp_path / "one.npz"
    checkpoint.save(path, {"n": stored})
    if not fits:
        with pytest.raises(errors.CheckpointMismatchError):
            checkpoint.restore(path, {"n": wanted})
        return
    found = checkpoint.restore(path, {"n": wanted})["n"]
    assert np.asarray(found).dtype == np.asarray(wanted).dtype
    assert not tree.diff(np.asarray(found), np.asarray(stored).astype(np.asarray(wanted).dtype))


def test_every_number_comes_back_with_its_bits(saved):
    stored = checkpoint.restore(saved)
    for name, index in itertools.product(DTYPES, range(3)):
        leaf = array(name)[:24]
        assert stored[name].tobytes() == leaf.tobytes()
        if index < len(leaf):
            assert stored[f"{name}_{index}"].tobytes() == leaf[index : index + 1].tobytes()
