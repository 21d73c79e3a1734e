"""Checkpoints of other programs, written here by those programs, open and give the same values."""

import json
import shutil

import flax.linen as nn
import flax.serialization
import flax.training.checkpoints
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import orbax.checkpoint
import pytest
import safetensors.numpy
from flax.training.train_state import TrainState
from orbax.checkpoint import v1

from batiste import checkpoint, errors, tree
from tests.checkpoint.support import assert_same, assert_same_leaves, training, variables

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of Flax and Orbax about themselves
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


class Net(nn.Module):
    """A small network of Flax Linen."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Dense(8)(x))
        x = nn.BatchNorm(use_running_average=True)(x)
        return nn.Dense(2)(x)


@pytest.fixture(scope="module")
def state():
    """A train state of Flax as a run leaves it."""
    made = Net().init(jax.random.key(0), jnp.ones((1, 4)))
    created = TrainState.create(apply_fn=Net().apply, params=made["params"], tx=optax.adam(1e-3))
    return created.apply_gradients(grads=jax.tree.map(jnp.ones_like, created.params))


def plain():
    """A tree with everything that Orbax can hold."""
    return {
        **variables(),
        "half": jnp.ones((2, 2), jnp.bfloat16),
        "tuple": (np.zeros(2), [np.ones(3)]),
        "opt": optax.adam(1e-3).init({"w": jnp.ones(3)}),
        "step": 5,
        "rate": 2.5,
        "empty": {},
        "none": None,
    }


def leaves_of(path):
    """The leaves as Orbax and Flax mean them: numbers as arrays without axes."""
    return {name: np.asarray(leaf) for name, leaf in tree.flatten(checkpoint.restore(path)).items()}


def assert_leaves(path, expected):
    found = leaves_of(path)
    wanted = {name: np.asarray(leaf) for name, leaf in tree.flatten(expected).items()}
    assert set(found) == set(wanted)
    for name, leaf in wanted.items():
        assert (found[name].shape, found[name].tobytes()) == (leaf.shape, leaf.astype(found[name].dtype).tobytes()), (
            name
        )


def write_v0_standard(path):
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, plain())


def write_v0_pytree(path):
    orbax.checkpoint.PyTreeCheckpointer().save(path, plain())


def write_v0_pytree_apart(path):
    orbax.checkpoint.PyTreeCheckpointer(use_ocdbt=False).save(path, plain())


def write_v1(path):
    v1.save(path, plain())


@pytest.mark.parametrize(
    "write", [write_v0_standard, write_v0_pytree, write_v0_pytree_apart, write_v1], ids=lambda f: f.__name__
)
def test_orbax(tmp_path, write):
    write(tmp_path / "one")
    assert_leaves(tmp_path / "one", plain())
    restored = checkpoint.restore(tmp_path / "one")
    assert (restored["empty"], restored["none"]) == ({}, None)
    assert isinstance(restored["tuple"], list)
    assert_same(checkpoint.restore(tmp_path / "one", plain()), plain())
    assert not checkpoint.verify(tmp_path / "one").digests
    opened = checkpoint.open(tmp_path / "one")
    assert opened["params/head/*"]["params"]["head"]["kernel"].read().shape == (8, 4)
    assert opened.lazy("params/head/kernel")[2:4, 1].read().shape == (2,)


def test_orbax_keys_and_strings(tmp_path):
    made = {"key": jax.random.key(3), "keys": jax.random.split(jax.random.key(4, impl="rbg")), "name": "run"}
    v1.save(tmp_path / "one", made)
    assert_same(checkpoint.restore(tmp_path / "one"), made)


def test_a_sharded_orbax_checkpoint_opens_without_a_mesh(tmp_path):
    sharding = jax.sharding.NamedSharding(jax.make_mesh((8,), ("x",)), jax.sharding.PartitionSpec("x"))
    made = {"w": jax.device_put(jnp.arange(32.0).reshape(16, 2), sharding)}
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "one", made)
    assert_same_leaves(checkpoint.restore(tmp_path / "one"), made)


def test_the_manager_of_orbax(tmp_path):
    with orbax.checkpoint.CheckpointManager(tmp_path / "run") as manager:
        for step in (5, 10):
            manager.save(step, args=orbax.checkpoint.args.StandardSave({"w": np.full(3, step)}))
    run = checkpoint.Manager(tmp_path / "run")
    assert run.steps() == [5, 10]
    assert_same(run.restore(), {"w": np.full(3, 10)})
    assert_same(checkpoint.restore(tmp_path / "run" / "5"), {"w": np.full(3, 5)})
    with pytest.raises(errors.CheckpointFormatError, match="steps 5, 10"):
        checkpoint.open(tmp_path / "run")
    several = orbax.checkpoint.args.Composite(
        state=orbax.checkpoint.args.StandardSave({"w": np.ones(2)}),
        ema=orbax.checkpoint.args.StandardSave({"w": np.zeros(2)}),
    )
    with orbax.checkpoint.CheckpointManager(tmp_path / "two") as manager:
        manager.save(1, args=several)
    assert_same(checkpoint.Manager(tmp_path / "two").restore(), {"ema": {"w": np.zeros(2)}, "state": {"w": np.ones(2)}})


def test_the_early_format_of_orbax(tmp_path):
    """No release of today writes it: a MessagePack file with placeholders, and the arrays beside it."""
    made = {"params": {"kernel": np.arange(6.0).reshape(2, 3)}, "scale": np.ones(2, np.float32)}
    orbax.checkpoint.PyTreeCheckpointer(use_ocdbt=False).save(tmp_path / "one", made)
    for file in ("_METADATA", "_CHECKPOINT_METADATA", "_sharding"):
        (tmp_path / "one" / file).unlink(missing_ok=True)
    shutil.rmtree(tmp_path / "one" / "array_metadatas", ignore_errors=True)
    table = {"params": {"kernel": "PLACEHOLDER://params.kernel"}, "scale": "PLACEHOLDER://scale", "step": 4}
    (tmp_path / "one" / "checkpoint").write_bytes(flax.serialization.msgpack_serialize(table))
    assert_same(checkpoint.restore(tmp_path / "one"), {**made, "step": 4})


def test_checkpoints_of_flax(tmp_path, state):
    flax.training.checkpoints.save_checkpoint(tmp_path / "orbax", state, 7)
    restored = checkpoint.restore(tmp_path / "orbax" / "checkpoint_7", state)
    assert_same(jax.tree.leaves(restored), jax.tree.leaves(state))


def test_flax_msgpack(tmp_path, state):
    (tmp_path / "flax_model.msgpack").write_bytes(flax.serialization.to_bytes(state))
    restored = checkpoint.restore(tmp_path / "flax_model.msgpack", state)
    assert_same(jax.tree.leaves(restored), jax.tree.leaves(state))
    inputs = jnp.ones((3, 4))
    made = Net().init(jax.random.key(0), jnp.ones((1, 4)))
    outputs = [Net().apply({**made, "params": params}, inputs) for params in (state.params, restored.params)]
    assert_same(*outputs)
    assert_same(checkpoint.restore(tmp_path / "flax_model.msgpack")["params"], jax.tree.map(np.asarray, state.params))


def test_every_value_of_flax_msgpack(tmp_path, monkeypatch):
    monkeypatch.setattr(flax.serialization, "MAX_CHUNK_SIZE", 64)
    made = {
        "large": np.arange(60, dtype=np.float32).reshape(6, 10),
        "half": np.ones((2, 3), ml_dtypes.bfloat16),
        "eighth": np.ones(2, ml_dtypes.float8_e4m3fn),
        "flags": np.array([True, False]),
        "empty": np.zeros((0, 3)),
        "scalar": np.float32(2),
        "array": np.asarray(3),
        "complex": 1 + 2j,
        "number": -(2**40),
        "negative": -3,
        "float": 0.1,
        "flag": True,
        "text": "ü" * 40,
        "bytes": b"\x00\xff",
        "nothing": {},
        "none": None,
        "a/b": np.ones(1),
        "many": {str(number): np.int8(number) for number in range(20)},
    }
    (tmp_path / "one").write_bytes(flax.serialization.msgpack_serialize(made))
    expected = flax.serialization.msgpack_restore((tmp_path / "one").read_bytes())
    assert_same(checkpoint.restore(tmp_path / "one"), expected)
    assert checkpoint.open(tmp_path / "one").lazy("large")[5, 3:5].read().tolist() == [53.0, 54.0]


def test_npz(tmp_path):
    made = {
        "a": np.arange(6).reshape(2, 3),
        "b": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "c": np.ones(2, ml_dtypes.bfloat16),
    }
    for write in (np.savez, np.savez_compressed):
        write(tmp_path / "one.npz", **{"params/a": made["a"], "params/b": made["b"], "c": made["c"]})
        assert_same(
            checkpoint.restore(tmp_path / "one.npz"), {"params": {"a": made["a"], "b": made["b"]}, "c": made["c"]}
        )
    assert checkpoint.open(tmp_path / "one.npz").lazy("params/b")[1, 1:].read().tolist() == [4.0, 5.0]


def test_safetensors_of_others_and_for_others(tmp_path):
    made = {
        "encoder.0.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b/c": np.ones(2, np.int64),
        "half": np.ones(3, ml_dtypes.bfloat16),
    }
    safetensors.numpy.save_file(made, tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    opened = checkpoint.open(tmp_path / "theirs.safetensors")
    assert opened.metadata == {"format": "pt"}
    assert not opened.has_digests
    expected = {"encoder.0.weight": made["encoder.0.weight"], "b": {"c": made["b/c"]}, "half": made["half"]}
    assert_same(checkpoint.restore(opened), expected)
    ours = {
        "w": made["encoder.0.weight"].T,
        "d": {"half": made["half"], "zero": np.asarray(3), "empty": np.zeros((0, 2))},
    }
    checkpoint.save(tmp_path / "ours.safetensors", ours)
    theirs = safetensors.numpy.load_file(tmp_path / "ours.safetensors")
    assert_same(
        theirs, {"w": np.ascontiguousarray(ours["w"]), **{f"d/{name}": leaf for name, leaf in ours["d"].items()}}
    )


def test_shards_of_hugging_face(tmp_path):
    safetensors.numpy.save_file({"a.w": np.ones(2), "a.b": np.zeros(3)}, tmp_path / "model-00001-of-00002.safetensors")
    safetensors.numpy.save_file({"c.w": np.arange(4)}, tmp_path / "model-00002-of-00002.safetensors")
    names = {
        "a.w": "model-00001-of-00002.safetensors",
        "a.b": "model-00001-of-00002.safetensors",
        "c.w": "model-00002-of-00002.safetensors",
    }
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 72}, "weight_map": names}))
    expected = {"a.b": np.zeros(3), "a.w": np.ones(2), "c.w": np.arange(4)}
    assert_same(checkpoint.restore(tmp_path), expected)
    assert_same(checkpoint.restore(index), expected)
    assert checkpoint.open(tmp_path).lazy("c.w")[1:3].read().tolist() == [1, 2]
    checkpoint.save(tmp_path / "whole.safetensors", checkpoint.open(index))
    assert checkpoint.verify(tmp_path / "whole.safetensors").leaves == 3
    index.write_text(json.dumps({"weight_map": {**names, "d.w": "model-00002-of-00002.safetensors"}}))
    with pytest.raises(errors.DamagedCheckpointError, match=r"d\.w"):
        checkpoint.open(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(errors.DamagedCheckpointError, match="file is missing"):
        checkpoint.open(tmp_path)


def test_a_folder_with_one_safetensors_file(tmp_path):
    safetensors.numpy.save_file({"w": np.ones(2)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    assert_same(checkpoint.restore(tmp_path), {"w": np.ones(2)})


def test_orbax_reads_what_batiste_saves(tmp_path):
    made = variables()
    checkpoint.save(tmp_path / "one", {**made, "dotted.name": np.ones(2)})
    loaded = v1.load(tmp_path / "one")
    assert_same_leaves({key: loaded[key] for key in made}, made)
    assert np.array_equal(loaded["dotted%2Ename"], np.ones(2))


def test_a_converted_training_state(tmp_path):
    (tmp_path / "state.msgpack").write_bytes(flax.serialization.to_bytes({**training(), "rngs": {}}))
    checkpoint.save(tmp_path / "state", checkpoint.open(tmp_path / "state.msgpack"))
    assert checkpoint.verify(tmp_path / "state").digests
    target = {**training(), "rngs": {}}
    assert_same(checkpoint.restore(tmp_path / "state", target), target)
