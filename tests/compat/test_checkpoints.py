"""`flax.training.checkpoints`: folders that Flax and batiste read from each other, and the same ones kept."""

import logging
import threading
from pathlib import Path

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax.training import checkpoints as theirs
from flax.training import train_state as their_state

import batiste.compat.flax as compat
from batiste.compat.flax.training import checkpoints as ours
from batiste.compat.flax.training import train_state
from batiste.errors import (
    InvalidCheckpointError,
    MissingCheckpointError,
    MPACheckpointingRequiredError,
    OrbaxTargetError,
    StateDictKeysError,
)
from tests.compat.pairs import assert_same, text

LIBRARIES = (ours, theirs)
BOTH = ((ours, train_state, compat.core), (theirs, their_state, flax.core))

pytestmark = [
    pytest.mark.filterwarnings("ignore:Flax Checkpointing will soon be deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Sharding info not provided when restoring:UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:orbax"),
]


@pytest.fixture(autouse=True)
def quiet():
    logging.getLogger("absl").setLevel(logging.ERROR)


@pytest.fixture
def msgpack():
    """Let both libraries write MessagePack."""
    for config in (compat.config, flax.config):
        config.update("flax_use_orbax_checkpointing", False)
    yield
    for config in (compat.config, flax.config):
        config.update("flax_use_orbax_checkpointing", True)


def tree(states, core, scale=1.0):
    params = core.freeze({"d": {"w": jnp.arange(3.0) * scale, "l": [jnp.ones(1) * scale]}})
    state = states.TrainState.create(apply_fn=None, params=params, tx=optax.adam(0.1))
    return {"state": state, "other": (int(scale), 2.5 * scale, None), "n": np.arange(3) * int(scale), "e": {}}


def names(folder):
    """Return the names in a folder."""
    return sorted(path.name for path in Path(folder).iterdir())


def cross(tmp_path):
    """Save with each library and restore with the other, with and without a target."""
    for place, (writer, reader) in enumerate((BOTH, BOTH[::-1])):
        folder = tmp_path / str(place)
        written = tree(*writer[1:])
        path = writer[0].save_checkpoint(folder, written, 3)
        assert path == str(folder / "checkpoint_3")
        restored = reader[0].restore_checkpoint(folder, tree(*reader[1:], scale=0.0))
        jax.tree.map(np.testing.assert_array_equal, jax.tree.leaves(restored), jax.tree.leaves(written))
        assert type(restored["state"].params) is reader[2].FrozenDict
        bare = [library.restore_checkpoint(folder, None) for library in LIBRARIES]
        assert text(bare[0]) == text(bare[1])
        assert bare[0]["state"]["params"]["d"]["l"].keys() == {"0"}


def test_orbax_across_libraries(tmp_path):
    cross(tmp_path)


@pytest.mark.usefixtures("msgpack")
def test_msgpack_across_libraries(tmp_path):
    cross(tmp_path)
    files = [(tmp_path / place / "checkpoint_3").read_bytes() for place in "01"]
    assert files[0] == files[1]


PLANS = {
    "one": [(1, {}), (2, {}), (3, {})],
    "three": [(step, {"keep": 3}) for step in range(1, 7)],
    "every": [(step, {"keep": 2, "keep_every_n_steps": 4}) for step in range(3, 18)],
    "overwrite": [*((step, {"keep": 9}) for step in (1, 2, 5, 7)), (5, {"keep": 9, "overwrite": True}), (6, {})],
    "outdated": [(5, {"keep": 3}), (5, {}), (3, {}), (4, {"overwrite": True})],
    "fractions": [
        *((step, {"keep": 9, "prefix": "m_", "overwrite": True}) for step in (0.001, 0.1, 10.5)),
        (0.1, {"prefix": "m_"}),
    ],
    "negative": [(step, {"keep": 9, "overwrite": True}) for step in (1e5, -1.0, 2)],
    "none": [(1, {}), (2, {"keep": 0}), (3, {"keep": -1})],
    "as text": [("1", {"keep": 2}), ("11", {"keep": 2})],
}  # fmt: skip


@pytest.mark.usefixtures("msgpack")
@pytest.mark.parametrize("name", PLANS)
def test_what_is_kept(tmp_path, name):
    for step, options in PLANS[name]:
        assert_same(
            lambda step=step, more=options: Path(ours.save_checkpoint(tmp_path / "o", {"a": 1}, step, **more)).name,
            lambda step=step, more=options: Path(theirs.save_checkpoint(tmp_path / "t", {"a": 1}, step, **more)).name,
        )
        assert names(tmp_path / "o") == names(tmp_path / "t")
    prefix = PLANS[name][0][1].get("prefix", "checkpoint_")
    whole = name not in ("fractions", "negative")
    for library, folder in ((ours, "o"), (theirs, "t")):
        found = library.latest_checkpoint(tmp_path / folder, prefix)
        assert Path(found).name in names(tmp_path / folder)
    for kind in (int, float) if whole else (float,):
        assert_same(
            lambda kind=kind: ours.available_steps(tmp_path / "o", prefix, kind),
            lambda kind=kind: theirs.available_steps(tmp_path / "t", prefix, kind),
        )


def test_what_orbax_keeps(tmp_path):
    plan = [
        (1, {}),
        (4, {"keep": 2}),
        (5, {"keep": 2}),
        (6, {"keep": 1, "keep_every_n_steps": 2}),
        (5, {"overwrite": True}),
    ]
    for step, options in plan:
        for library, folder in ((ours, "o"), (theirs, "t")):
            library.save_checkpoint(tmp_path / folder, {"a": jnp.ones(1) * step}, step, **options)
        assert names(tmp_path / "o") == names(tmp_path / "t")
    assert ours.restore_checkpoint(tmp_path / "o", {"a": jnp.zeros(1)})["a"].tolist() == [5.0]
    with pytest.raises(InvalidCheckpointError):
        ours.save_checkpoint(tmp_path / "o", {"a": jnp.ones(1)}, 5)
    ours.save_checkpoint(tmp_path / "o", {"a": jnp.ones(1)}, 3)  # it is not removed at once, as Flax does
    assert names(tmp_path / "o") == ["checkpoint_3", "checkpoint_5"]


def test_partial_restore_with_orbax(tmp_path):
    ours.save_checkpoint(tmp_path, {"a": jnp.ones(1), "b": {"c": jnp.zeros(2)}}, 1)
    zeros = jnp.zeros(1)
    for run in (
        lambda lib: lib.restore_checkpoint(tmp_path, {"a": zeros}),
        lambda lib: lib.restore_checkpoint(tmp_path, {"a": zeros, "z": jnp.ones(1)}),
        lambda lib: lib.restore_checkpoint(tmp_path, {"a": zeros, "z": jnp.ones(1)}, orbax_transforms={}),
        lambda lib: lib.restore_checkpoint(tmp_path, {"a": zeros, "b": None}),
        lambda lib: lib.restore_checkpoint(tmp_path, {"a": 0, "b": {"c": 0}}),
        lambda lib: lib.restore_checkpoint(tmp_path, {"a": jnp.zeros(1, jnp.bfloat16), "b": {"c": jnp.zeros(2, int)}}),
        lambda lib: lib.restore_checkpoint(tmp_path, 3),
    ):
        assert_same(lambda run=run: run(ours), lambda run=run: run(theirs))


def test_orbax_restores_onto_the_targets_sharding(tmp_path):
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    sharded = jax.device_put(jnp.arange(8.0), jax.NamedSharding(mesh, jax.P("x")))
    ours.save_checkpoint(tmp_path, {"a": jnp.arange(8.0)}, 1)
    restored = ours.restore_checkpoint(tmp_path, {"a": sharded * 0})["a"]
    assert restored.sharding == sharded.sharding
    assert restored.tolist() == sharded.tolist()


def test_given_orbax_checkpointers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with ocp.PyTreeCheckpointer() as checkpointer:
        assert (
            ours.save_checkpoint("here", {"a": jnp.ones(1)}, 1, orbax_checkpointer=checkpointer) == "here/checkpoint_1"
        )
        restored = ours.restore_checkpoint("here", None, orbax_checkpointer=checkpointer)
        assert restored["a"].tolist() == [1.0]
    with ocp.AsyncCheckpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        for step in (2, 3):
            ours.save_checkpoint("here", {"a": jnp.ones(1) * step}, step, orbax_checkpointer=checkpointer)
    assert names("here") == ["checkpoint_3"]


@pytest.mark.usefixtures("msgpack")
def test_both_kinds_in_one_folder(tmp_path):
    with ocp.PyTreeCheckpointer() as checkpointer:
        ours.save_checkpoint(tmp_path, {"a": jnp.ones(1)}, 1, keep=3, orbax_checkpointer=checkpointer)
    ours.save_checkpoint(tmp_path, {"a": jnp.ones(1) * 2}, 2, keep=3)
    for step in (1, 2):
        assert ours.restore_checkpoint(tmp_path, {"a": jnp.zeros(1)}, step=step)["a"].tolist() == [step]
    ours.save_checkpoint(tmp_path, {"a": 3}, 3)
    assert names(tmp_path) == ["checkpoint_3"]
    (tmp_path / "checkpoint_4").mkdir()
    ours.save_checkpoint(tmp_path, {"a": 4}, 4, overwrite=True)
    assert ours.restore_checkpoint(tmp_path, {"a": 0}) == {"a": 4}


@pytest.mark.usefixtures("msgpack")
def test_restoring(tmp_path):
    ours.save_checkpoint(tmp_path, {"a": np.ones(2)}, 6)
    file = tmp_path / "checkpoint_6"
    target = {"a": np.zeros(9)}
    for run in (
        lambda lib: lib.restore_checkpoint(tmp_path, target),
        lambda lib: lib.restore_checkpoint(str(tmp_path) + "/", None, parallel=False),
        lambda lib: lib.restore_checkpoint(file, target),
        lambda lib: lib.restore_checkpoint(tmp_path, target, step=6),
        lambda lib: lib.restore_checkpoint(tmp_path / "nothing", target),
        lambda lib: lib.restore_checkpoint(tmp_path, target, prefix="other_"),
        lambda lib: lib.restore_checkpoint(tmp_path, target, step=7),
        lambda lib: lib.restore_checkpoint(file, target, step=6),
        lambda lib: lib.restore_checkpoint(tmp_path, {"b": 1}),
        lambda lib: lib.latest_checkpoint(tmp_path / "nothing"),
        lambda lib: lib.available_steps(tmp_path, "other_"),
    ):
        assert_same(lambda run=run: run(ours), lambda run=run: run(theirs))
    with pytest.raises(MissingCheckpointError):
        ours.restore_checkpoint(tmp_path, None, step=7)
    with pytest.raises(StateDictKeysError):
        ours.restore_checkpoint(tmp_path, {"b": 1})


@pytest.mark.usefixtures("msgpack")
def test_what_is_no_checkpoint(tmp_path):
    for name in ("checkpoint_tmp", "checkpoint_98.orbax-checkpoint-tmp-4", "checkpoint_96_gda", "other"):
        (tmp_path / name).write_text("")
    assert ours.latest_checkpoint(tmp_path) is None
    ours.save_checkpoint(tmp_path, {"a": 1}, 1)
    ours.save_checkpoint(tmp_path, {"a": 1}, 2)
    left = {"checkpoint_2", "checkpoint_96_gda", "checkpoint_98.orbax-checkpoint-tmp-4", "other"}
    assert set(names(tmp_path)) == left
    assert ours.available_steps(tmp_path) == [2]


@pytest.mark.usefixtures("msgpack")
def test_saving_in_the_background(tmp_path):
    manager = ours.AsyncManager()
    manager.wait_previous_save()
    for step in range(3):
        ours.save_checkpoint(tmp_path, {"a": step}, step, async_manager=manager)
    manager.wait_previous_save()
    assert ours.restore_checkpoint(tmp_path, {"a": 0}) == {"a": 2}
    gate = threading.Event()
    manager.save_async(lambda: gate.wait(10))
    assert manager.save_future is not None
    assert not manager.save_future.done()
    gate.set()
    manager.save_async(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):  # Flax loses it
        manager.wait_previous_save()
    manager.wait_previous_save()
    assert vars(manager).keys() == vars(theirs.AsyncManager()).keys()


@pytest.mark.usefixtures("msgpack")
def test_errors_of_saving(tmp_path):
    ours.save_checkpoint(tmp_path, {"a": 1}, 2)
    with pytest.raises(InvalidCheckpointError):
        ours.save_checkpoint(tmp_path, {"a": 1}, 1)
    with pytest.raises(TypeError):
        ours.save_checkpoint(tmp_path, {"a": object()}, 3)
    assert names(tmp_path) == ["checkpoint_2"]


def test_what_orbax_cannot_save(tmp_path):
    for target in (jnp.ones(3), {}, None, 5):
        with pytest.raises(OrbaxTargetError):
            ours.save_checkpoint(tmp_path, target, 1)
        with pytest.raises(ValueError):  # noqa: PT011 - any of Flax's
            theirs.save_checkpoint(tmp_path, target, 1)


class RemoteArray(jax.Array):
    """Stands for an array with parts on other processes."""

    is_fully_addressable = False
    is_fully_replicated = False


RemoteArray.__abstractmethods__ = frozenset()


@pytest.mark.usefixtures("msgpack")
def test_arrays_of_several_processes(tmp_path):
    with pytest.raises(MPACheckpointingRequiredError):
        ours.save_checkpoint(tmp_path, {"a": RemoteArray()}, 1)
    (tmp_path / "checkpoint_1").write_bytes(flax.serialization.to_bytes({"a": {"b": "//GDAPlaceholder:a/b"}}))
    with pytest.raises(MPACheckpointingRequiredError):
        ours.restore_checkpoint(tmp_path, None)
    left = ours.restore_checkpoint(tmp_path, None, allow_partial_mpa_restoration=True)
    assert left == {"a": {"b": "//GDAPlaceholder:a/b"}}


def test_multiprocess(tmp_path, msgpack):
    for step in (1, 2):
        path = ours.save_checkpoint_multiprocess(tmp_path, {"a": step}, step)
    assert path == str(tmp_path / "checkpoint_2")
    assert names(tmp_path) == ["checkpoint_2"]


TWO = """
import os, sys
import jax
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
import jax.numpy as jnp, numpy as np
from batiste.compat.flax import config
from batiste.compat.flax.training import checkpoints
from batiste.errors import MPACheckpointingRequiredError
mesh = jax.sharding.Mesh(jax.devices(), ("x",))
sharding = jax.NamedSharding(mesh, jax.P("x"))
def array(scale):
    return jax.make_array_from_callback((4,), sharding, lambda index: np.arange(4.0)[index] * scale)
folder = sys.argv[3]
for step in (1, 2):
    checkpoints.save_checkpoint_multiprocess(folder + "/orbax", {"a": array(step)}, step)
restored = checkpoints.restore_checkpoint(folder + "/orbax", {"a": array(0)})["a"]
assert restored.sharding == sharding
for shard in restored.addressable_shards:
    assert np.array_equal(shard.data, np.arange(4.0)[shard.index] * 2)
config.update("flax_use_orbax_checkpointing", False)
checkpoints.save_checkpoint_multiprocess(folder + "/bytes", {"a": 5}, 1)
assert checkpoints.restore_checkpoint(folder + "/bytes", {"a": 0}) == {"a": 5}
try:
    checkpoints.save_checkpoint_multiprocess(folder + "/bytes", {"a": array(1)}, 2)
except MPACheckpointingRequiredError:
    print("refused")
"""


def test_two_processes(tmp_path, start_python, free_port):
    address = f"127.0.0.1:{free_port}"
    running = [start_python(TWO, address, str(rank), str(tmp_path)) for rank in range(2)]
    for process in running:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert "refused" in out
    assert names(tmp_path / "orbax") == ["checkpoint_2"]


@pytest.mark.parametrize(
    "names",
    [
        ["a10", "a2", "a-1", "a1e-3", "b", "a1.5", "a+3"],
        ["ckpt_10", "ckpt_9", "x"],
        ["a1b2", "a1b10", "a1"],
        [],
        ["file_0.1", "file_-0.2", "file_2.0"],
        ["s-10-x", "s-9-x", "s10"],
    ],
)
def test_natural_sort(names):
    for signed in (True, False):
        assert ours.natural_sort(names, signed) == theirs.natural_sort(names, signed)


@pytest.mark.parametrize(
    "path", ["gs://a//b/../c", "/a//b/./c", "a/../b", "gs://", "file:///x//y", "~/x", "", "s3://b/", "C:\\x", "//a//b"]
)
def test_safe_normpath(path):
    assert ours.safe_normpath(path) == theirs.safe_normpath(path)


def test_convert_pre_linen():
    old = {
        "Conv_0": {"kernel": 1, "bias": 2}, "Dense_1": {"kernel": 3}, "BatchNorm_12": {"scale": 1}, "Conv_10": {},
        "LayerNorm_3": {"LayerNorm_0": {"s": 1}}, "foo": {"bar": 3}, "Dense_x": 2, "my_layer_2": {"a_1": {"k": 1}},
    }  # fmt: skip
    for params in (old, {}, 3, [1], {"a": [{"Conv_3": 1}]}):
        assert text(ours.convert_pre_linen(params)) == text(theirs.convert_pre_linen(params))
    frozen = ours.convert_pre_linen(compat.core.freeze(old))
    assert type(frozen) is compat.core.FrozenDict
    assert text(frozen) == text(theirs.convert_pre_linen(flax.core.freeze(old)))
