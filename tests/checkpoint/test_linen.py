"""Whatever Flax Linen and Orbax wrote opens without the program that wrote it, and gives the same outputs.

Every way of writing (Flax's MessagePack, ``flax.training.checkpoints`` in both its modes, Orbax's checkpointers,
managers and its v1 interface) is tried with states of every make: optimisers with all kinds of containers, running
statistics, half precision, boxes, frozen dicts.
"""

import shutil
from typing import Any

import flax
import flax.serialization
import flax.training.checkpoints
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import linen
from flax.core import freeze
from flax.training.train_state import TrainState
from orbax.checkpoint import v1

from batiste import checkpoint, errors, nn, tree

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of Flax and Orbax about themselves
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
INPUTS = np.linspace(-1.0, 1.0, 12, dtype=np.float32).reshape(3, 4)


def network(library: Any, dtype: Any = jnp.float32, boxed: bool = False) -> Any:
    """The same network in Flax Linen and in batiste."""

    class Net(library.Module):
        @library.compact
        def __call__(self, x):
            init = library.initializers.lecun_normal()
            if boxed:
                init = library.with_partitioning(init, ("in", "out"))
            x = library.relu(library.Dense(8, kernel_init=init, param_dtype=dtype)(x))
            x = library.BatchNorm(use_running_average=True)(x)
            return library.Dense(2, name="head.out", param_dtype=dtype)(x)

    return Net()


class State(TrainState):
    """A train state as programs with Linen extend it."""

    batch_stats: Any
    key: Any = None


def state(optimiser, dtype=jnp.float32, *, boxed=False, frozen=False, key=None):
    """A state in which no two leaves are the same: Python's step, and arrays of every kind."""
    net = network(linen, dtype, boxed)
    made = jax.jit(net.init)(jax.random.key(0), INPUTS)
    params = freeze(made["params"]) if frozen else made["params"]
    begun = State.create(apply_fn=net.apply, params=params, tx=optimiser, batch_stats=made["batch_stats"], key=key)
    rng = np.random.default_rng(0)

    def differ(leaf):
        if isinstance(leaf, jax.Array) and leaf.dtype != np.uint32:
            leaf = jnp.asarray(np.asarray(1 + 9 * rng.random(leaf.shape)).astype(leaf.dtype))
        return leaf

    return jax.tree.map(differ, begun.replace(step=1))


def dense(params):
    return {name: name.startswith("Dense") for name in params}


def groups(params):
    return {name: "trained" if name.startswith("Dense") else "frozen" for name in params}


STATES = {
    "adam": lambda: state(optax.adam(1e-3)),
    "a chain": lambda: state(optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(optax.linear_schedule(0, 1, 9)))),
    "multi_transform": lambda: state(
        optax.multi_transform({"trained": optax.adam(1e-3), "frozen": optax.set_to_zero()}, groups)
    ),
    "masked": lambda: state(optax.masked(optax.adam(1e-3), dense)),
    "momentum": lambda: state(optax.sgd(1e-2, momentum=0.9)),
    "inject_hyperparams": lambda: state(optax.inject_hyperparams(optax.adam)(learning_rate=1e-3)),
    "MultiSteps": lambda: state(optax.MultiSteps(optax.adam(1e-3), 4)),
    "adafactor": lambda: state(optax.adafactor(1e-3)),
    "bfloat16": lambda: state(optax.adam(1e-3), jnp.bfloat16),
    "frozen": lambda: state(optax.adam(1e-3), frozen=True),
    "boxed": lambda: state(optax.adam(1e-3), boxed=True),
    "a raw key": lambda: state(optax.sgd(1e-3), key=jax.random.PRNGKey(3)),
}


def flax_bytes(path, made):
    path.write_bytes(flax.serialization.to_bytes(made))
    return path


def flax_msgpack(path, made):
    flax.config.update("flax_use_orbax_checkpointing", False)
    try:
        flax.training.checkpoints.save_checkpoint(path, made, 7)
    finally:
        flax.config.update("flax_use_orbax_checkpointing", True)
    return path / "checkpoint_7"


def flax_orbax(path, made):
    flax.training.checkpoints.save_checkpoint(path, made, 7, orbax_checkpointer=ocp.PyTreeCheckpointer())
    return path / "checkpoint_7"


def pytree(path, made, **options):
    ocp.PyTreeCheckpointer(**options).save(path, made)
    return path


def standard(path, made):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, made)
    return path


def asynchronous(path, made):
    with ocp.AsyncCheckpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        checkpointer.save(path, args=ocp.args.PyTreeSave(made))
    return path


def manager(path, made):
    options = ocp.CheckpointManagerOptions(step_prefix="ckpt", step_format_fixed_length=8, best_fn=lambda row: row["l"])
    with ocp.CheckpointManager(path, options=options) as run:
        run.save(3, args=ocp.args.PyTreeSave(made), metrics={"l": 0.5})
    return path / "ckpt_00000003"


def manager_of_old(path, made):
    with ocp.CheckpointManager(path, ocp.PyTreeCheckpointer()) as run:
        run.save(3, made)
    return path / "3"


def modern(path, made):
    v1.save(path, made)
    return path


def modern_training(path, made):
    with v1.training.Checkpointer(path) as run:
        run.save(3, made)
    return path / "3"


WRITERS = {
    "to_bytes": flax_bytes,
    "save_checkpoint, MessagePack": flax_msgpack,
    "save_checkpoint, Orbax": flax_orbax,
    "PyTreeCheckpointer": pytree,
    "PyTreeCheckpointer, apart": lambda path, made: pytree(path, made, use_ocdbt=False),
    "PyTreeCheckpointer, Zarr 3": lambda path, made: pytree(path, made, use_zarr3=True),
    "StandardCheckpointer": standard,
    "AsyncCheckpointer": asynchronous,
    "CheckpointManager": manager,
    "CheckpointManager of old": manager_of_old,
    "v1": modern,
    "v1 training": modern_training,
}


@pytest.fixture(scope="module")
def states():
    return {name: make() for name, make in STATES.items()}


def as_arrays(made):
    """The leaves by path, without the level that Flax and Orbax have for a box."""
    return {path.removesuffix("/value"): np.asarray(leaf) for path, leaf in tree.flatten(made).items()}


def assert_equal(found, wanted):
    """Assert that leaves are the same to the bit; a number of Python has no dtype."""
    assert set(found) == set(wanted)
    for path, leaf in wanted.items():
        assert found[path].tobytes() == leaf.astype(found[path].dtype if path == "step" else leaf.dtype).tobytes(), path
        assert found[path].shape == leaf.shape, path


MOST = ("to_bytes", "save_checkpoint, Orbax", "StandardCheckpointer", "v1")
"""The ways of writing that are tried with every state; the others differ in how arrays are stored, not in trees."""

FEW = ("adam", "multi_transform", "bfloat16", "boxed")
CASES = [(writer, make) for writer in WRITERS for make in (STATES if writer in MOST else FEW)]


@pytest.mark.parametrize(("writer", "make"), CASES, ids=[f"{make} by {writer}" for writer, make in CASES])
def test_what_linen_wrote(tmp_path, states, writer, make):
    saved = states[make]
    path = WRITERS[writer](tmp_path / "one", saved)
    restored = checkpoint.restore(path)
    assert_equal(as_arrays(restored), as_arrays(flax.serialization.to_state_dict(saved)))
    for target in (saved, jax.eval_shape(lambda: saved)):
        again = checkpoint.restore(path, target)
        assert jax.tree.structure(again) == jax.tree.structure(saved)
        assert_equal(as_arrays(again), as_arrays(saved))
        variables = {"params": again.params, "batch_stats": again.batch_stats}
        outputs = np.asarray(saved.apply_fn(variables, INPUTS))
        expected = saved.apply_fn({"params": saved.params, "batch_stats": saved.batch_stats}, INPUTS)
        assert outputs.tobytes() == np.asarray(expected).tobytes()


@pytest.mark.parametrize("writer", WRITERS)
def test_into_a_network_of_batiste(tmp_path, states, writer):
    saved = states["adam"]
    path = WRITERS[writer](tmp_path / "one", saved)
    net = network(nn)
    target = jax.eval_shape(net.init, jax.random.key(0), INPUTS)
    restored = checkpoint.restore(path, target, extra="drop")
    expected = saved.apply_fn({"params": saved.params, "batch_stats": saved.batch_stats}, INPUTS)
    np.testing.assert_allclose(net.apply(restored, INPUTS), expected, rtol=1e-6)


@pytest.mark.parametrize(
    "writer", [writer for writer in WRITERS if "bytes" not in writer and "MessagePack" not in writer]
)
def test_typed_keys(tmp_path, writer):
    made = {"key": jax.random.key(1), "keys": jax.random.split(jax.random.key(2), 3)}
    restored = checkpoint.restore(WRITERS[writer](tmp_path / "one", made))
    assert all((restored[name] == made[name]).all() for name in made)
    assert restored["key"].dtype == made["key"].dtype


@pytest.mark.parametrize("writer", WRITERS)
def test_numbers_of_python(tmp_path, writer):
    """They come back as what they were, and fit the arrays that ``eval_shape`` makes of them."""
    made = {"rate": 0.1, "count": 2**40, "small": 3, "flag": True, "weight": np.ones(2, np.float32)}
    path = WRITERS[writer](tmp_path / "one", made)
    restored = checkpoint.restore(path)
    assert {name: restored[name] for name in made if name != "weight"} == {
        name: leaf for name, leaf in made.items() if name != "weight"
    }
    assert type(restored["small"]) is int
    assert type(restored["flag"]) is bool
    part = {name: leaf for name, leaf in made.items() if name != "count"}
    target = jax.eval_shape(lambda: part)
    fitted = checkpoint.restore(path, target, extra={"count": "drop"})
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), fitted) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), target
    )
    assert fitted["rate"] == np.float32(0.1)
    with pytest.raises(errors.CheckpointMismatchError, match="count: the target has int32"):
        checkpoint.restore(path, {**target, "count": jax.ShapeDtypeStruct((), jnp.int32)})


def test_every_item_of_a_manager(tmp_path):
    args = ocp.args
    items = args.Composite(
        state=args.StandardSave({"weight": np.ones(2)}),
        mean=args.ArraySave(jnp.arange(3.0)),
        key=args.JaxRandomKeySave(jax.random.key(5)),
        raw=args.JaxRandomKeySave(jax.random.PRNGKey(6)),
        generator=args.NumpyRandomKeySave(np.random.RandomState(0).get_state()),
        about=args.JsonSave({"epoch": 3, "loss": float("nan"), "names": ["a"]}),
    )
    with ocp.CheckpointManager(tmp_path) as run:
        run.save(1, args=items)
    opened = checkpoint.open(tmp_path / "1")
    assert opened.metadata == {"about": {"epoch": 3, "loss": "NaN", "names": ["a"]}}
    restored = checkpoint.restore(opened)
    assert set(restored) == {"state", "mean", "key", "raw", "generator"}
    assert restored["mean"].tolist() == [0, 1, 2]
    assert restored["key"] == jax.random.key(5)
    assert np.array_equal(restored["raw"], jax.random.PRNGKey(6))
    generator = np.random.RandomState(1)
    generator.set_state(tuple(restored["generator"]))
    assert generator.uniform() == np.random.RandomState(0).uniform()
    checkpoint.save(tmp_path / "again.safetensors", opened)
    assert checkpoint.open(tmp_path / "again.safetensors").metadata == opened.metadata


@pytest.mark.parametrize("writer", ["save_checkpoint, MessagePack", "save_checkpoint, Orbax", "CheckpointManager"])
def test_the_folder_of_a_run(tmp_path, writer):
    path = WRITERS[writer](tmp_path / "run", {"weight": np.ones(2)})
    other = path.with_name(path.name.replace("7", "12").replace("3", "4"))
    copy = shutil.copytree if path.is_dir() else shutil.copy
    copy(path, other)
    with pytest.raises(errors.CheckpointFormatError, match=f"{path.name}, {other.name}"):
        checkpoint.open(tmp_path / "run")
    assert checkpoint.restore(other)["weight"].tolist() == [1, 1]
