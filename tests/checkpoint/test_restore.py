"""Restoring into a target: everything fits, or one error names every leaf, or a policy says what to do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from batiste import checkpoint, errors, tree
from tests.checkpoint.support import KINDS, assert_same, training, variables


@pytest.fixture(params=KINDS)
def saved(request, tmp_path):
    path = tmp_path / request.param
    checkpoint.save(path, training())
    return path


def test_into_arrays_and_into_shapes(saved):
    state = training()
    blank = jax.tree.map(
        lambda leaf: leaf if isinstance(leaf, int) else jax.tree.map(jnp.zeros_like, leaf), state["params"]
    )
    restored = checkpoint.restore(saved, {**state, "params": blank})
    assert_same(state, restored)
    shapes = jax.eval_shape(lambda: {key: value for key, value in state.items() if key != "step"})
    restored = checkpoint.restore(saved, {**shapes, "step": 0})
    assert_same(state, restored)
    assert isinstance(restored["params"]["head"]["kernel"], jax.Array)


def test_leaves_come_back_as_what_they_are_in_the_target(tmp_path):
    checkpoint.save(tmp_path / "one", {"a": np.arange(3, dtype=np.float32), "b": np.int32(4), "c": 5, "d": 2.5})
    target = {"a": np.zeros(3, np.float32), "b": 0, "c": jnp.int32(0), "d": jax.ShapeDtypeStruct((), "float32")}
    restored = checkpoint.restore(tmp_path / "one", target)
    assert type(restored["a"]) is np.ndarray
    assert type(restored["b"]) is int
    assert isinstance(restored["c"], jax.Array)
    assert restored["c"].dtype == jnp.int32
    assert (restored["b"], int(restored["c"]), float(restored["d"])) == (4, 5, 2.5)
    restored["a"][0] = 7  # its own memory, and writable


def test_one_error_names_every_leaf(saved):
    target = training()
    params = target["params"]
    params["h_0"]["kernel"] = jnp.zeros((8, 9))
    params["h_0"]["bias"] = jnp.zeros((8,), jnp.bfloat16)
    params["extra"] = {"scale": jnp.ones(3)}
    del params["h_2"]
    target["rngs"]["dropout"] = jax.random.key(0, impl="rbg")
    target["step"] = "three"
    with pytest.raises(errors.CheckpointMismatchError) as caught:
        checkpoint.restore(saved, target)
    lines = str(caught.value).splitlines()[1:-2]
    assert sorted(lines) == [
        "  params/extra/scale: the target has float32[3], the checkpoint has nothing",
        "  params/h_0/bias: the target has bfloat16[8], the checkpoint has float32[8]",
        "  params/h_0/kernel: the target has float32[8,9], the checkpoint has float32[8,8]",
        "  params/h_2/bias: the target has nothing, the checkpoint has float32[8]",
        "  params/h_2/kernel: the target has nothing, the checkpoint has float32[8,8]",
        "  rngs/dropout: the target has key<rbg>[], the checkpoint has key<threefry2x32>[]",
        "  step: the target has str, the checkpoint has int",
    ]
    assert "leaves that differ: 7" in str(caught.value)


def test_missing(saved):
    target = training()
    target["params"]["head"]["bias"] = jnp.full(4, 2.0)
    target["params"]["new"] = {"kernel": jnp.full(4, 3.0), "scale": np.ones(2)}
    restored = checkpoint.restore(saved, target, missing={"**/new/*": "zeros", "params/**": "init"})
    assert_same(restored["params"]["head"]["bias"], jnp.full(4, 2.0))
    assert_same(restored["params"]["new"], {"kernel": jnp.zeros(4), "scale": np.zeros(2)})
    assert_same(checkpoint.restore(saved, target, missing="init"), target)
    abstract = {**target, "params": jax.eval_shape(lambda: target["params"])}
    with pytest.raises(errors.CheckpointMismatchError, match="no value to keep"):
        checkpoint.restore(saved, abstract, missing="init")
    zeros = checkpoint.restore(saved, {**training(), "count": 5, "key": jax.random.key(1)}, missing="zeros")
    assert zeros["count"] == 0
    assert not jax.random.key_data(zeros["key"]).any()


def test_extra(saved):
    params = {"params": training()["params"]}
    assert_same(checkpoint.restore(saved, params, extra="drop"), params)
    with pytest.raises(errors.CheckpointMismatchError) as caught:
        checkpoint.restore(saved, params, extra={"opt_state/**": "drop", "step": "drop", "batch_stats/**": "error"})
    assert "leaves that differ: 3" in str(caught.value)
    assert "rngs/dropout" in str(caught.value)
    assert "opt_state" not in str(caught.value)


def test_shape(tmp_path):
    checkpoint.save(tmp_path / "one", {"w": np.arange(6.0).reshape(2, 3)})
    padded = checkpoint.restore(tmp_path / "one", {"w": np.ones((3, 4))}, shape="pad")
    assert_same(padded, {"w": np.array([[0.0, 1, 2, 0], [3, 4, 5, 0], [0, 0, 0, 0]])})
    cut = checkpoint.restore(tmp_path / "one", {"w": np.ones((1, 2))}, shape={"w": "slice"})
    assert_same(cut, {"w": np.array([[0.0, 1.0]])})
    for shape, policy in (((3, 2), "pad"), ((3, 2), "slice"), ((2, 3, 1), "pad"), ((1, 2), "pad"), ((3, 4), "slice")):
        with pytest.raises(errors.CheckpointMismatchError, match="w: the target has float64"):
            checkpoint.restore(tmp_path / "one", {"w": np.ones(shape)}, shape=policy)


def test_dtype(tmp_path):
    checkpoint.save(tmp_path / "one", {"w": np.array([1.5, 16777217], np.float32), "n": np.array([16777217], np.int32)})
    with pytest.raises(errors.CheckpointMismatchError) as caught:
        checkpoint.restore(tmp_path / "one", {"w": jnp.zeros(2, jnp.bfloat16), "n": jnp.zeros(1, jnp.float32)})
    assert "n: the target has float32[1], the checkpoint has int32[1]" in str(caught.value)
    restored = checkpoint.restore(
        tmp_path / "one", {"w": jnp.zeros(2, jnp.bfloat16), "n": np.zeros(1, np.int64)}, dtype="cast"
    )
    assert restored["w"].dtype == jnp.bfloat16
    assert restored["n"][0] == 16777217
    checkpoint.save(tmp_path / "two", {"w": np.ones(2)})
    with pytest.raises(errors.CheckpointMismatchError, match="jax_enable_x64"):
        checkpoint.restore(
            tmp_path / "two", jax.eval_shape(lambda: {"w": np.ones(2)}) | {"w": jax.ShapeDtypeStruct((2,), np.float64)}
        )
    with pytest.raises(errors.CheckpointArgumentError, match="jax_enable_x64"):
        checkpoint.restore(tmp_path / "two", shardings=jax.sharding.SingleDeviceSharding(jax.devices()[0]))


def test_numbers_that_do_not_fit(tmp_path):
    checkpoint.save(tmp_path / "one", {"big": 300, "half": 2.5, "flag": True, "text": "x"})
    for path, target in (
        ("big", np.int8(0)),
        ("half", 1),
        ("half", jnp.int32(0)),
        ("flag", 1),
        ("text", np.ones(())),
        ("big", np.ones(1)),
    ):
        with pytest.raises(errors.CheckpointMismatchError, match=f"{path}: the target has"):
            checkpoint.restore(tmp_path / "one", {path: target}, extra="drop")
    assert checkpoint.restore(tmp_path / "one", {"big": 0.0}, extra="drop") == {"big": 300.0}


def test_policies_that_say_nothing(saved):
    with pytest.raises(errors.UnknownPolicyError, match="'error', 'init', 'zeros'"):
        checkpoint.restore(saved, training(), missing="ignore")
    with pytest.raises(errors.UnknownPolicyError):
        checkpoint.restore(saved, training(), shape={"params/**": "crop"})
    with pytest.raises(errors.UnmatchedPolicyError, match="parms"):
        checkpoint.restore(saved, training(), missing={"parms/**": "init"})


def test_the_first_pattern_counts(saved):
    target = {**training(), "new": {"a": np.ones(1), "b": np.ones(1)}}
    restored = checkpoint.restore(saved, target, missing={"new/a": "zeros", "new/*": "init"})
    assert_same(restored["new"], {"a": np.zeros(1), "b": np.ones(1)})


def test_a_train_state_of_flax(tmp_path):
    optax = pytest.importorskip("optax")
    train_state = pytest.importorskip("flax.training.train_state")

    def fresh():
        return train_state.TrainState.create(apply_fn=print, params=variables()["params"], tx=optax.adam(1e-3))

    state = fresh()
    state = state.apply_gradients(grads=jax.tree.map(jnp.ones_like, state.params))
    checkpoint.save(tmp_path / "state", state)
    restored = checkpoint.restore(tmp_path / "state", fresh())
    assert_same(jax.tree.leaves(restored), jax.tree.leaves(state))
    assert restored.apply_fn is print
    assert_same(checkpoint.restore(tmp_path / "state")["opt_state"], state.opt_state)


def test_boxes(tmp_path):
    nn = pytest.importorskip("flax.linen")
    plain = {"w": jnp.ones((2, 3))}
    boxed = {"w": nn.Partitioned(plain["w"], names=("in", None))}
    checkpoint.save(tmp_path / "boxed", boxed)
    assert checkpoint.open(tmp_path / "boxed").paths() == ["w"]
    assert checkpoint.open(tmp_path / "boxed").manifest.axes == {"w": ["in", None]}
    assert_same(checkpoint.restore(tmp_path / "boxed", plain), plain)
    restored = checkpoint.restore(tmp_path / "boxed", boxed)
    assert_same(restored, boxed)
    assert restored["w"].names == ("in", None)
    checkpoint.save(tmp_path / "as_flax", {"w": {"value": plain["w"]}})
    assert_same(checkpoint.restore(tmp_path / "as_flax", boxed), boxed)


def test_unverified_is_the_same(saved):
    assert_same(checkpoint.restore(saved, verify=False), training())
    assert_same(checkpoint.restore(saved, training(), verify=False), training())


def test_twins_in_the_target(saved):
    @jax.tree_util.register_pytree_with_keys_class
    class Twins:
        def tree_flatten_with_keys(self):
            return [(jax.tree_util.DictKey("a"), 1), (jax.tree_util.DictKey("a"), 2)], None

        def tree_flatten(self):
            return (1, 2), None

        @classmethod
        def tree_unflatten(cls, _, children):
            return cls()

    with pytest.raises(errors.DuplicatePathError):
        checkpoint.restore(saved, Twins())
    with pytest.raises(errors.UnsavableTreeError, match="same name"):
        checkpoint.save(saved, Twins(), overwrite=True)
    assert tree.paths(checkpoint.restore(saved))
