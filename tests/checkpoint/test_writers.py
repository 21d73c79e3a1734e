"""The formats of others, written here: NumPy and Flax read them without batiste, and nothing is lost in silence."""

import zipfile

import flax.core
import flax.linen
import flax.serialization
import flax.struct
import jax
import jax.numpy as jnp
import ml_dtypes
import msgpack
import numpy as np
import optax
import pytest
from flax.training.train_state import TrainState

from batiste import checkpoint, errors
from batiste.checkpoint import _msgpack_write
from tests.checkpoint.support import assert_same, flip_bit, training, variables

STRANGE = ("bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu", "float4_e2m1fn", "int4", "uint2")
ORDINARY = ("bool", "int8", "uint16", "int32", "uint64", "float16", "float32", "float64", "complex64", "complex128")


def every_dtype():
    return {
        "ordinary": {name: np.ones((2, 3), name) for name in ORDINARY},
        "strange": {name: np.ones((2, 3), getattr(ml_dtypes, name)) for name in STRANGE},
    }


@flax.struct.dataclass
class Struct:
    """A dataclass of Flax with a field that is no leaf."""

    b: object
    a: object
    name: str = flax.struct.field(pytree_node=False, default="x")


def flax_state():
    """A train state of Flax as a run leaves it."""
    params = flax.linen.Dense(3).init(jax.random.key(0), jnp.ones((1, 4)))["params"]
    optimiser = optax.chain(optax.clip(1.0), optax.masked(optax.adamw(1e-3), {"kernel": True, "bias": False}))
    return TrainState.create(apply_fn=print, params=params, tx=optimiser).apply_gradients(grads=params)


TREES = {
    "unsorted": {"b": np.arange(3), "a": {"z": jnp.ones((2, 2)), "y": np.float32(2), "0": {}}},
    "numbers": {"i": [0, 127, 128, -1, -32, -33, 255, 256, -129, 65536, 2**40, -(2**40), 2**64 - 1], "f": 0.5},
    "plain": {"n": None, "t": True, "s": "text", "long": "x" * 300, "u": "ä" * 20, "c": 1 - 2j, "b": b"\x00" * 40},
    "containers": {"t": (np.ones(1), [np.zeros(2), ()]), 3: {"k": np.ones(1)}, 1: None},
    "frozen": flax.core.freeze({"z": {"k": np.ones(1)}, "a": np.zeros(0)}),
    "struct": Struct(b=np.ones(2), a={"x": 1}),
    "optax": optax.adam(1e-3).init({"w": jnp.ones(3)}),
    "dtypes": every_dtype(),
    "shapes": {str(rank): np.zeros((2,) * rank) for rank in range(20)} | {"none": np.zeros((0, 4))},
    "many": {f"layer_{number}": np.float64(number) for number in range(70000)},
    "turned": {"w": np.arange(6.0).reshape(2, 3).T},
    "state": flax_state,  # made by its test
}


@pytest.mark.parametrize("made", TREES.values(), ids=TREES)
def test_the_bytes_of_flax(tmp_path, made):
    made = made() if made is flax_state else made
    if isinstance(made, dict) and 3 in made:
        made = {str(key): value for key, value in made.items()}
    path = tmp_path / "flax.msgpack"
    checkpoint.save(path, made)
    assert path.read_bytes() == flax.serialization.to_bytes(made)
    again = flax.serialization.from_bytes(made, path.read_bytes())
    assert jax.tree.structure(again) == jax.tree.structure(made)


def test_integer_keys_and_lazy_leaves(tmp_path):
    made = {"c": {2: np.ones(2), 10: np.zeros(3)}, "d": np.ones((2, 2), jnp.bfloat16)}
    checkpoint.save(tmp_path / "one.msgpack", made)
    assert (tmp_path / "one.msgpack").read_bytes() == flax.serialization.to_bytes(made)
    checkpoint.save(tmp_path / "one", made)
    for source in (checkpoint.open(tmp_path / "one"), checkpoint.open(tmp_path / "one").tree()):
        checkpoint.save(tmp_path / "two.msgpack", source, overwrite=True)
        assert (tmp_path / "two.msgpack").read_bytes() == flax.serialization.to_bytes(made)
    checkpoint.save_async(tmp_path / "three.msgpack", {"s": np.float32(1), **made}).wait()
    assert (tmp_path / "three.msgpack").read_bytes() == flax.serialization.to_bytes({"s": np.float32(1), **made})


def test_boxes_are_written_as_flax_does(tmp_path):
    boxed = {"w": flax.linen.Partitioned(jnp.ones((2, 3)), names=("a", None))}
    with pytest.raises(errors.FormatLossError, match="logical names of axes: w"):
        checkpoint.save(tmp_path / "one.msgpack", boxed)
    checkpoint.save(tmp_path / "one.msgpack", boxed, lossy=True)
    assert (tmp_path / "one.msgpack").read_bytes() == flax.serialization.to_bytes(boxed)
    assert_same(checkpoint.restore(tmp_path / "one.msgpack", boxed), boxed)


@pytest.mark.parametrize("size", [16, 40, 1000])
def test_chunks(tmp_path, monkeypatch, size):
    monkeypatch.setattr(flax.serialization, "MAX_CHUNK_SIZE", size)
    made = {"a": np.arange(30.0).reshape(5, 6), "b": jnp.arange(17, dtype=jnp.bfloat16), "c": np.float64(2), "d": [1]}
    described = {"a": made["a"], "b": np.asarray(made["b"]), "c": np.asarray(made["c"])}
    checkpoint.save(tmp_path / "one.safetensors", made)
    manifest = checkpoint.open(tmp_path / "one.safetensors").manifest
    path = tmp_path / "one.msgpack"
    _msgpack_write.write_msgpack(
        path, _msgpack_write.flax_layout(made, manifest.records), manifest, described.__getitem__, chunk_bytes=size
    )
    assert path.read_bytes() == flax.serialization.to_bytes(made)
    assert_same(checkpoint.restore(path)["a"], made["a"])
    assert_same(checkpoint.restore(path, made), made)


def test_what_flax_has_no_place_for(tmp_path):
    made = {"w": np.ones((2, 3)), "rng": jax.random.key(1)}
    path = tmp_path / "one.msgpack"
    options = {"step": 3, "metadata": {"note": 1}, "axes": {"w": ("a", "b")}}
    with pytest.raises(errors.FormatLossError) as caught:
        checkpoint.save(path, made, **options)
    assert [line.strip() for line in str(caught.value).splitlines()[1:-2]] == [
        "the step: 3",
        "metadata: note",
        "logical names of axes: w",
        "the type of random keys: rng",
    ]
    checkpoint.save(tmp_path / "one", made, **options)
    with pytest.raises(errors.FormatLossError, match="note"):
        checkpoint.save(path, checkpoint.open(tmp_path / "one"))
    assert not path.exists()
    checkpoint.save(path, checkpoint.open(tmp_path / "one"), lossy=True)
    assert_same(checkpoint.restore(path, made), made)
    with pytest.raises(errors.UnsavableLeafError, match="n/0: an int of more than 64 bits"):
        checkpoint.save(tmp_path / "two.msgpack", {"n": [2**64]})
    with pytest.raises(errors.UnsavableTreeError):
        checkpoint.save(tmp_path / "two.msgpack", np.ones(2))
    assert {entry.name for entry in tmp_path.iterdir()} == {"one", "one.msgpack"}


def test_stacked_layers_go_to_flax(tmp_path):
    checkpoint.save(tmp_path / "one.msgpack", {"h": {"k": np.ones((3, 2))}}, stacked=["h"])
    apart = {f"h_{number}": {"k": np.zeros(2)} for number in range(3)}
    assert checkpoint.restore(tmp_path / "one.msgpack", apart)["h_2"]["k"].tolist() == [1, 1]


@pytest.mark.parametrize("compress", [False, True])
def test_numpy_reads_what_it_knows(tmp_path, compress):
    made = {**variables(), **every_dtype(), "step": 3, "name": "x", "rng": jax.random.key(1), "big": 2**70}
    made |= {"scalar": np.float32(2), "empty": np.zeros((0, 3)), "turned": np.arange(6).reshape(2, 3).T}
    path = tmp_path / "one.npz"
    checkpoint.save(path, made, compress=compress)
    with np.load(path) as found:
        assert "big" not in found.files  # an integer that NumPy has no type for; the manifest has it
        assert np.array_equal(found["params/h_0/kernel"], made["params"]["h_0"]["kernel"])
        assert all(np.array_equal(found[f"ordinary/{name}"], leaf) for name, leaf in made["ordinary"].items())
        assert (found["step"], found["name"], found["scalar"].dtype) == (3, "x", np.float32)
        assert found["rng"].tolist() == [0, 1]
        assert found["strange/bfloat16"].view(ml_dtypes.bfloat16).tolist() == [[1.0] * 3] * 2
        assert all(isinstance(found[name], np.ndarray) for name in found.files)
    assert zipfile.ZipFile(path).testzip() is None
    assert_same(checkpoint.restore(path), made)
    assert checkpoint.verify(path).digests


def test_an_npz_holds_everything(tmp_path):
    state = training()
    path = tmp_path / "one.npz"
    checkpoint.save(path, state, step=3, metadata={"note": "ä"}, stacked=["params/embed"])
    opened = checkpoint.open(path)
    assert (opened.step, opened.metadata) == (3, {"note": "ä"})
    assert_same(checkpoint.restore(path), state)
    assert_same(checkpoint.restore(path, state), state)
    assert opened.lazy("params/h_1/kernel")[2:4].read().shape == (2, 8)
    for name, leaf in {"": np.ones(2), "a/b": {"c~": np.ones(1), "": np.zeros(2)}}.items():
        checkpoint.save(tmp_path / "two.npz", {name: leaf} if name else leaf, overwrite=True)
        assert_same(checkpoint.restore(tmp_path / "two.npz"), {name: leaf} if name else leaf)
    with pytest.raises(errors.UnsavableTreeError, match="null"):
        checkpoint.save(tmp_path / "three.npz", {"a\0b": np.ones(1)})


def test_a_damaged_npz(tmp_path):
    state = training(width=16)
    path = tmp_path / "one.npz"
    checkpoint.save(path, state, step=3, metadata={"note": "x"})
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    at = whole.find(np.asarray(state["params"]["h_1"]["kernel"]).tobytes())
    flip_bit(path, 8 * (at + 100))
    with pytest.raises(errors.DamagedCheckpointError, match="params/h_1/kernel"):
        checkpoint.restore(path)
    path.write_bytes(whole)
    bits = [int(bit) for bit in rng.integers(8 * len(whole), size=150)]
    bits += [int(bit) for bit in rng.integers(8 * len(whole) - 8 * 2000, 8 * len(whole), size=150)]
    bits += range(8 * len(whole) - 8 * 82, 8 * len(whole), 3)  # the comment, and what stands before it
    unnoticed = []
    for bit in bits:
        flip_bit(path, bit)
        try:
            checkpoint.verify(path)
            unnoticed.append(bit)
        except errors.CheckpointError:
            pass
        flip_bit(path, bit)
    assert unnoticed == []
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(errors.CheckpointError):
            checkpoint.restore(path)


def test_saved_whole_or_not_at_all(tmp_path, monkeypatch):
    for name in ("one.npz", "one.msgpack"):
        path = tmp_path / name
        checkpoint.save(path, {"w": np.ones(3)})
        with pytest.raises(errors.CheckpointExistsError):
            checkpoint.save(path, {"w": np.ones(3)})

        class Broken(Exception):
            """Something that happens in the middle."""

        with monkeypatch.context() as patch:
            patch.setattr(np, "asarray", lambda *_, **__: (_ for _ in ()).throw(Broken))
            with pytest.raises(Broken):
                checkpoint.save(path, {"w": jnp.ones(3), "v": np.zeros(2)}, overwrite=True)
        assert_same(checkpoint.restore(path), {"w": np.ones(3)})
    assert {entry.name for entry in tmp_path.iterdir()} == {"one.npz", "one.msgpack"}


def test_msgpack_reads_the_file_too(tmp_path):
    checkpoint.save(tmp_path / "one.msgpack", {"b": 1, "a": None})
    assert msgpack.unpackb((tmp_path / "one.msgpack").read_bytes()) == {"b": 1, "a": None}
