"""Shardings and policies given to ``restore`` are used, to the last entry, or refused before anything is read."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec, SingleDeviceSharding

from batiste import checkpoint, errors, nn, shard
from tests.checkpoint.support import KINDS, WHOLE, assert_same, variables
from tests.checkpoint.trees import mesh

AUTO = mesh(8, AxisType.Auto)
ROWS, WHOLLY = NamedSharding(AUTO, PartitionSpec("x")), NamedSharding(AUTO, PartitionSpec())


def tree():
    return {
        "params": {"up": {"kernel": jnp.ones((16, 4)), "bias": jnp.zeros(4)}, "down": {"kernel": jnp.ones((8, 8))}},
        "keys": jax.random.split(jax.random.key(0), 8),
        "step": 3,
        "wide": np.ones(8),
    }


@pytest.fixture(params=[True, False], ids=["into a target", "without a target"])
def restore(request, tmp_path):
    checkpoint.save(tmp_path / "one.safetensors", tree())

    def call(**options):
        return checkpoint.restore(tmp_path / "one.safetensors", tree() if request.param else None, **options)

    return call


def test_a_tree_of_shardings(restore):
    placed = shard.shardings(
        {"params": tree()["params"]}, {"**/kernel": PartitionSpec("x")}, AUTO, default=PartitionSpec()
    )
    found = restore(shardings=placed)
    assert found["params"]["up"]["kernel"].sharding == ROWS
    assert found["params"]["up"]["bias"].sharding == WHOLLY
    assert type(found["wide"]) is np.ndarray
    assert found["step"] == 3


def test_a_tree_that_names_numbers_too(restore):
    like = {name: leaf for name, leaf in tree().items() if name != "wide"}
    found = restore(shardings=jax.tree.map(lambda _: WHOLLY, like))
    arrays = [leaf for leaf in jax.tree.leaves(found) if isinstance(leaf, jax.Array)]
    assert len(arrays) == 4
    assert all(leaf.sharding.is_equivalent_to(WHOLLY, leaf.ndim) for leaf in arrays)


def test_one_sharding_for_all_beneath(restore):
    found = restore(shardings={"params": {"up": {"kernel": ROWS}, "down": WHOLLY}, "keys": ROWS})
    assert found["params"]["up"]["kernel"].sharding == ROWS
    assert found["params"]["down"]["kernel"].sharding == WHOLLY
    assert found["keys"].sharding == ROWS


def test_a_function_gets_the_shapes_of_keys_and_not_of_their_data(restore):
    asked = {}
    restore(shardings=asked.__setitem__)
    assert asked == {
        "params/up/kernel": (16, 4),
        "params/up/bias": (4,),
        "params/down/kernel": (8, 8),
        "keys": (8,),
        "wide": (8,),
    }


@pytest.mark.parametrize(
    "shardings",
    [
        {"**/kernl": ROWS},
        {"param/**": ROWS},
        {"step": WHOLLY},
        {"params/**": WHOLLY, "params/up/*": ROWS},
        {"params": {"up": {"kernl": ROWS}}},
        {"params": {"up": {"kernel": {"deeper": ROWS}}}},
    ],
    ids=str,
)
def test_an_entry_that_places_nothing(restore, shardings):
    with pytest.raises(errors.UnmatchedPolicyError, match="shardings"):
        restore(shardings=shardings)


@pytest.mark.parametrize(
    "shardings",
    [
        PartitionSpec("x"),
        {"params/**": PartitionSpec("x")},
        {"params": {"up": {"kernel": PartitionSpec("x")}}},
        {"params": {"up": {"kernel": "x"}}},
        jax.devices()[0],
        "x",
        lambda path, shape: PartitionSpec(),
        {"params/up/bias": ROWS},
        {"params/up/bias": NamedSharding(AUTO, PartitionSpec(None, "x"))},
        {"wide": ROWS},
        ROWS,
    ],
    ids=[
        "a spec",
        "specs by pattern",
        "a tree of specs",
        "a tree of words",
        "a device",
        "a word",
        "a function of specs",
        "four over eight",
        "an axis too many",
        "64 bits",
        "one that does not fit all",
    ],
)
def test_no_shardings_or_none_that_fit(restore, shardings):
    with pytest.raises(errors.CheckpointArgumentError, match="shardings"):
        restore(shardings=shardings)


@pytest.mark.parametrize("kind", WHOLE)
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_keys_lie_where_the_target_says(tmp_path, kind, axis_type):
    rows = NamedSharding(mesh(8, axis_type), PartitionSpec("x"))
    made = {
        "keys": jax.device_put(jax.random.split(jax.random.key(0), 16), rows),
        "rbg": jax.device_put(jax.random.split(jax.random.key(0, impl="rbg"), 8), rows),
        "key": jax.device_put(jax.random.key(1), SingleDeviceSharding(jax.devices()[3])),
    }
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), made)
    checkpoint.save(tmp_path / kind, made)
    for target in (made, shapes):
        found = checkpoint.restore(tmp_path / kind, target)
        assert_same(found, made)
        assert {name: leaf.sharding for name, leaf in found.items()} == {name: it.sharding for name, it in made.items()}


def test_a_target_whose_buffers_are_gone(tmp_path):
    made = {"w": jax.device_put(jnp.ones(8), ROWS), "key": jax.device_put(jax.random.key(0), WHOLLY)}
    checkpoint.save(tmp_path / "one.npz", made)
    used = jax.tree.map(jnp.copy, made)
    jax.tree.map(lambda leaf: leaf.delete(), used)
    found = checkpoint.restore(tmp_path / "one.npz", used)
    assert_same(found, made)
    assert found["w"].sharding == ROWS
    with pytest.raises(errors.CheckpointMismatchError, match="no value to keep"):
        checkpoint.restore(tmp_path / "one.npz", {**made, "new": used["w"]}, missing="init")


def test_shapes_from_an_explicit_mesh(tmp_path):
    explicit = mesh(4, AxisType.Explicit)
    checkpoint.save(tmp_path / "one.npz", {"w": jnp.ones((8, 2))})
    with jax.set_mesh(explicit):
        target = jax.eval_shape(lambda: {"w": jnp.ones((8, 2), out_sharding=PartitionSpec("x"))})
        found = checkpoint.restore(tmp_path / "one.npz", target)
        assert found["w"].sharding == NamedSharding(explicit, PartitionSpec("x", None))
    with pytest.raises(errors.CheckpointArgumentError, match="without devices"):
        checkpoint.restore(tmp_path / "one.npz", target)


@pytest.mark.parametrize("kind", KINDS)
def test_another_head(tmp_path, kind):
    made = variables()
    checkpoint.save(tmp_path / kind, made)
    target = variables()
    target["params"]["head"] = {"kernel": jnp.full((8, 7), 5.0)}
    with pytest.raises(errors.CheckpointMismatchError) as caught:
        checkpoint.restore(tmp_path / kind, target)
    assert '`shape={"params/head/*": "init"}` keeps the target\'s leaves there' in str(caught.value)
    for shape in ({"params/head/*": "init"}, "init"):
        found = checkpoint.restore(tmp_path / kind, target, shape=shape)
        assert_same(found, {**made, "params": {**made["params"], "head": target["params"]["head"]}})
    found = checkpoint.restore(tmp_path / kind, target, shape="init", shardings={"params/head/kernel": ROWS})
    assert found["params"]["head"]["kernel"].sharding == ROWS
    with pytest.raises(errors.CheckpointMismatchError, match="no value to keep"):
        checkpoint.restore(tmp_path / kind, jax.eval_shape(lambda: target), shape="init")


def test_the_advice_names_leaves_where_a_level_fits_in_part(tmp_path):
    checkpoint.save(tmp_path / "one.npz", {"a": {"b": np.ones(2), "c": np.ones(3)}, "d": np.ones(1)})
    with pytest.raises(errors.CheckpointMismatchError) as caught:
        checkpoint.restore(tmp_path / "one.npz", {"a": {"b": np.ones(5), "c": np.ones(3)}, "d": np.ones(2)})
    assert 'shape={"a/b": "init", "d": "init"}' in str(caught.value)
    with pytest.raises(errors.CheckpointMismatchError) as caught:
        checkpoint.restore(tmp_path / "one.npz", {"a": {"b": np.ones(2), "c": np.ones(3)}}, shape="init")
    assert "keeps the target" not in str(caught.value)


@pytest.mark.parametrize(
    ("policies", "why"),
    [
        ({"missing": {"params/head/*": "init"}}, "is in the target alone"),
        ({"missing": {"params/head/*": "zeros"}}, "is in the target alone"),
        ({"extra": {"params/**": "drop"}}, "is in the checkpoint alone"),
        ({"shape": {"params/**": "pad"}}, "has another shape"),
        ({"dtype": {"params/**": "cast"}}, "has another dtype"),
        ({"missing": {"new/*": "init", "new/a": "zeros"}}, r"comes after 'new/\*'"),
        ({"missing": {"**/headd/*": "error", "**": "init"}}, "matches no leaf"),
    ],
    ids=str,
)
def test_a_policy_that_decides_nothing(tmp_path, policies, why):
    checkpoint.save(tmp_path / "one.npz", variables())
    target = {**variables(), "new": {"a": np.ones(1), "b": np.ones(1)}} if "missing" in policies else variables()
    with pytest.raises(errors.UnmatchedPolicyError, match=why):
        checkpoint.restore(tmp_path / "one.npz", target, **policies)


def test_a_policy_that_forbids_may_find_nothing_to_forbid(tmp_path):
    checkpoint.save(tmp_path / "one.npz", variables())
    policy = {"params/**": "error", "**": "drop"}
    found = checkpoint.restore(tmp_path / "one.npz", {"params": variables()["params"]}, extra=policy)
    assert_same(found, {"params": variables()["params"]})
    assert_same(checkpoint.restore(tmp_path / "one.npz", variables(), extra=policy), variables())


@pytest.mark.parametrize("argument", ["missing", "extra", "shape", "dtype"])
def test_policies_without_a_target(tmp_path, argument):
    checkpoint.save(tmp_path / "one.npz", variables())
    word = {"missing": "init", "extra": "drop", "shape": "pad", "dtype": "cast"}[argument]
    for policy in (word, {"params/**": word}):
        with pytest.raises(errors.CheckpointArgumentError, match=f"`{argument}`.*no target"):
            checkpoint.restore(tmp_path / "one.npz", **{argument: policy})
    with pytest.raises(errors.UnknownPolicyError):
        checkpoint.restore(tmp_path / "one.npz", variables(), **{argument: None})


@pytest.mark.parametrize(
    ("leaf", "text"),
    [
        (np.ma.masked_array(np.ones(8)), "MaskedArray of dtype float64"),
        (np.zeros(8, [("a", "i4")]), r"ndarray of dtype \[\('a', '<i4'\)\]"),
        (np.zeros(8, np.longdouble), "ndarray of dtype float128"),
        (print, "builtin_function_or_method"),
        (np.float32(1), r"float32\[\]"),
    ],
    ids=["masked", "structured", "long", "a function", "a scalar"],
)
def test_targets_that_no_array_fits(tmp_path, leaf, text):
    checkpoint.save(tmp_path / "one.npz", {"w": np.ones(8)})
    with pytest.raises(errors.CheckpointMismatchError, match=f"w: the target has {text}, the checkpoint"):
        checkpoint.restore(tmp_path / "one.npz", {"w": leaf}, dtype="cast", shape="pad")


def test_numbers_that_would_be_rounded(tmp_path):
    checkpoint.save(tmp_path / "one.npz", {"i": 2**53 + 1, "j": np.int64(2**53 + 1), "h": 10**400, "k": 2**53})
    for name in ("i", "j", "h"):
        for target in (0.0, 0j):
            with pytest.raises(errors.CheckpointMismatchError, match=f"{name}: the target has"):
                checkpoint.restore(tmp_path / "one.npz", {name: target}, extra="drop")
    assert checkpoint.restore(tmp_path / "one.npz", {"k": 0.0}, extra="drop") == {"k": 2.0**53}


def test_boxes_in_a_tree_of_shardings(tmp_path):
    boxed = {"w": nn.Partitioned(jnp.ones((8, 2)), names=("x", None))}
    checkpoint.save(tmp_path / "one.npz", boxed)
    placed = nn.get_sharding(boxed, AUTO)
    found = checkpoint.restore(tmp_path / "one.npz", boxed, shardings=placed)
    assert found["w"].value.sharding == NamedSharding(AUTO, PartitionSpec("x", None))
