"""Who owns which memory: what is shared, refilled, used up, read only or mapped trains and is saved as copies would be.

The laws run over tables: the ways in which two leaves of a state come to share memory, the ways in which a batch comes
to change after it was given, and the kinds of arrays. Each on one device, and on a mesh of all eight.
"""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from batiste import TrainState, checkpoint, nn
from batiste.errors import DeletedArrayError, LoopArgumentError
from batiste.train import Loop, fit
from batiste.train._memory import apart, own_batch, own_state

SIZE = 96


def mesh_of(devices):
    mesh = jax.make_mesh(
        (devices,), ("data",), devices=jax.devices()[:devices], axis_types=(jax.sharding.AxisType.Auto,)
    )
    return jax.NamedSharding(mesh, jax.P())


def places(tree):
    """Return where each part of each array lies, one entry a part."""
    return [
        (shard.device.id, shard.data.unsafe_buffer_pointer())
        for leaf in jax.tree.leaves(tree)
        if isinstance(leaf, jax.Array)
        for shard in leaf.addressable_shards
    ]


def is_apart(tree):
    found = places(tree)
    return len(set(found)) == len(found)


# A state whose leaves share memory

ALIASES = {
    "the same array twice": lambda x: {"a": x, "b": x},
    "device_put to its sharding": lambda x: {"a": x, "b": jax.device_put(x, x.sharding)},
    "device_put to its device": lambda x: {"a": x, "b": jax.device_put(x, jax.devices()[0])},
    "device_put of the tree to a device": lambda x: jax.device_put({"a": x, "b": x}, jax.devices()[0]),
    "device_put of the tree to a mesh of one": lambda x: jax.device_put({"a": x, "b": x}, mesh_of(1)),
    "device_put of the tree to a mesh": lambda x: jax.device_put({"a": x, "b": x}, mesh_of(8)),
    "on a mesh, and its first part": lambda x: jax.device_put({"a": x, "b": x}, {"a": mesh_of(8), "b": mesh_of(1)}),
    "twice on a mesh, and not": lambda x: {"a": x, "b": jax.device_put(x, mesh_of(8)), "c": [x, x]},
    "an array of NumPy twice": lambda x: dict.fromkeys(("a", "b"), np.array(x)),
    "arrays without elements": lambda x: {"a": x, "e": x[:0], "f": jax.device_put(x[:0], jax.devices()[0]), "g": x[:0]},
}


def add_one(state, _):
    return jax.tree.map(lambda leaf: leaf + 1, state), {}


@pytest.mark.parametrize("name", ALIASES)
def test_leaves_that_share_memory_train_as_copies(name):
    state = ALIASES[name](jnp.arange(float(SIZE)))
    if name == "on a mesh, and its first part":  # which one program cannot take, shared or not
        assert is_apart(own_state(state))
        return
    for leaf in jax.tree.leaves(fit(add_one, state, lambda _: np.ones(1), steps=3)):
        np.testing.assert_array_equal(leaf, (np.arange(SIZE) + 3)[: leaf.size])


def test_a_key_and_its_data():
    key = jax.random.key(0)
    state = {"key": key, "again": jax.device_put(key, key.sharding), "data": jax.random.key_data(key)}
    final = fit(lambda s, _: (s, {}), state, lambda _: np.ones(1), steps=3)
    assert is_apart({**final, "key": jax.random.key_data(final["key"]), "again": jax.random.key_data(final["again"])})
    np.testing.assert_array_equal(jax.random.key_data(final["again"]), final["data"])


class Averaged(TrainState):
    average: object = None

    def apply_gradients(self, *, grads, **kwargs):
        state = super().apply_gradients(grads=grads, **kwargs)
        return state.replace(average=optax.incremental_update(state.params, self.average, 0.1))


def averaged(where):
    model = nn.Dense(4)
    params = model.init(jax.random.key(0), jnp.ones((1, 3)))["params"]
    state = Averaged.create(apply_fn=model.apply, params=params, tx=optax.sgd(0.1), average=params)
    return state if where is None else jax.device_put(state, where)


def regress(state, batch):
    loss, grads = jax.value_and_grad(lambda p: jnp.mean(state.apply_fn({"params": p}, batch) ** 2))(state.params)
    return state.apply_gradients(grads=grads), {"loss": loss}


@pytest.mark.parametrize("where", [None, jax.devices()[0], mesh_of(1), mesh_of(8)], ids=["none", "device", "1", "8"])
def test_an_average_that_begins_as_the_parameters(where):
    """In ``fit``, and in a step of the user's own that is donated the state."""
    ones = np.ones((4, 3), np.float32)
    state = averaged(where)
    assert is_apart(state)
    own = jax.jit(regress, donate_argnums=0)
    for _ in range(2):
        state, _ = own(state, ones)
    final = fit(regress, averaged(where).replace(step=0), lambda _: ones, steps=2)
    jax.tree.map(np.testing.assert_array_equal, final.average, state.average)


def optimisers():
    """Return every optimiser of Optax that a rate alone, or nothing, is enough for, and some wrappers."""
    found = {}
    for module in (optax, optax.contrib):
        for name, function in vars(module).items():
            if name.startswith("_") or not inspect.isfunction(function):
                continue
            signature = inspect.signature(function)
            wanted = [p.name for p in signature.parameters.values() if p.default is p.empty]
            returned = str(signature.return_annotation)
            if "GradientTransformation" in returned and wanted in ([], ["learning_rate"]) and name != "noisy_sgd":
                found[name] = lambda function=function, wanted=wanted: function(*(0.1 for _ in wanted))
    found["lookahead"] = lambda: optax.lookahead(optax.sgd(0.1), sync_period=2, slow_step_size=0.5)
    found["schedule_free"] = lambda: optax.contrib.schedule_free(optax.sgd(0.1), learning_rate=0.1)
    found["sam of adam"] = lambda: optax.contrib.sam(optax.adam(0.1), optax.sgd(0.1))
    found["multi_steps"] = lambda: optax.MultiSteps(optax.adam(0.1), 2)
    found["mechanize"] = lambda: optax.contrib.mechanize(optax.adam(0.1))
    found["ema"] = lambda: optax.chain(optax.sgd(0.1), optax.ema(0.9))
    found["inject"] = lambda: optax.inject_hyperparams(optax.adamw)(learning_rate=0.1)
    found["masked"] = lambda: optax.masked(optax.adam(0.1), {"k": True, "b": False})
    return found


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_fresh_state_of_every_optimiser_may_be_donated():
    made = optimisers()
    assert len(made) > 60
    shared = []
    for name, make in made.items():
        weights = {"k": jnp.ones((4, 4)), "b": jnp.ones(4)}
        params = optax.LookaheadParams.init_synced(weights) if name == "lookahead" else weights
        tx = make()
        state = TrainState.create(apply_fn=None, params=params, tx=tx)
        assert is_apart(state), name
        if not is_apart((params, tx.init(params))):
            shared.append(name)
    assert {"lookahead", "lbfgs", "madgrad", "prodigy"} <= set(shared)  # the test can fail


@pytest.mark.parametrize(("name", "devices"), [("lookahead", 1), ("lookahead", 8), ("schedule_free", 8)])
def test_an_optimiser_that_keeps_parameters_trains(name, devices):
    weights = {"k": jnp.ones((4, 4)), "b": jnp.ones(4)}
    params = optax.LookaheadParams.init_synced(weights) if name == "lookahead" else weights
    state = TrainState.create(apply_fn=None, params=params, tx=optimisers()[name]())

    def step(state, _):
        fast = state.params.fast if name == "lookahead" else state.params
        return state.apply_gradients(grads=jax.tree.map(jnp.ones_like, fast)), {}

    placed = jax.device_put(state, mesh_of(devices))
    bare, _ = jax.jit(step)(state, 0)
    final = fit(step, placed, lambda _: np.ones(1), steps=1)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), final.params, bare.params)


def test_a_body_that_puts_one_array_in_two_places():
    loop = Loop(add_one, {"a": jnp.zeros(4), "b": jnp.ones(4)}, lambda _: np.ones(1), steps=4)
    for n, _ in loop:
        if n == 2:
            loop.state = {**loop.state, "b": loop.state["a"]}
    assert loop.state["a"].tolist() == loop.state["b"].tolist() == [4.0] * 4


@pytest.mark.parametrize("devices", [1, 8])
def test_a_batch_that_is_a_part_of_the_state(devices):
    x = jax.device_put(jnp.ones(3), mesh_of(devices))
    again = jax.device_put(x, x.sharding)

    def add(state, batch):
        return {"w": state["w"] + batch}, {}

    assert fit(add, {"w": x}, lambda _: x, steps=3)["w"].tolist() == [4.0] * 3
    assert fit(add, {"w": x}, lambda _: again, steps=3)["w"].tolist() == [4.0] * 3
    assert x.tolist() == [1.0] * 3
    loop = Loop(add, {"w": jnp.ones(3)}, lambda _: loop.state["w"], steps=3)
    for _ in loop:
        pass
    assert loop.state["w"].tolist() == [8.0] * 3


# Arrays of NumPy in a state


def mapped(tmp_path, mode="r"):
    np.save(tmp_path / "array.npy", np.arange(SIZE, dtype=np.float32))
    return np.load(tmp_path / "array.npy", mmap_mode=mode)


def read_only():
    array = np.arange(SIZE, dtype=np.float32)
    array.flags.writeable = False
    return array


KINDS = {
    "plain": lambda _: np.arange(SIZE, dtype=np.float32),
    "of 64 bits": lambda _: np.arange(float(SIZE)),
    "read only": lambda _: read_only(),
    "mapped": mapped,
    "mapped, to be written": lambda path: mapped(path, "r+"),
    "every second": lambda _: np.arange(2.0 * SIZE, dtype=np.float32)[::2] / 2,
    "backwards": lambda _: np.arange(SIZE, dtype=np.float32)[::-1][::-1],
    "of columns": lambda _: np.asfortranarray(np.arange(SIZE, dtype=np.float32).reshape(-1, 2)),
    "broadcast": lambda _: np.broadcast_to(np.float32(0), (SIZE,)) + np.arange(SIZE, dtype=np.float32),
    "of the other byte order": lambda _: np.arange(SIZE, dtype=">f4"),
    "on a device, over memory of NumPy": lambda _: jax.device_put(aligned()),
    "a scalar": lambda _: np.float64(1.5),
}


def aligned():
    """Return an array that JAX on a CPU takes without a copy."""
    memory = np.zeros(4 * SIZE + 64, np.uint8)
    start = -memory.ctypes.data % 64
    array = memory[start : start + 4 * SIZE].view(np.float32)
    array[:] = np.arange(SIZE)
    return array


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("devices", [1, 8])
def test_arrays_of_numpy_are_left_alone(kind, devices, tmp_path):
    given = KINDS[kind](tmp_path)
    before = np.array(given)
    state = {"x": given, "w": jax.device_put(jnp.zeros(2), mesh_of(devices))}
    loop = Loop(add_one, state, lambda _: np.ones(1), steps=3)
    if isinstance(given, np.ndarray) and given.flags.writeable:
        given[...] = -1  # the loop has its own
    for _ in loop:
        pass
    np.testing.assert_array_equal(loop.state["x"], before + 3)
    assert loop.state["x"].dtype == np.float32
    assert len(loop.state["x"].devices()) == devices
    if isinstance(given, np.ndarray) and not given.flags.writeable:
        np.testing.assert_array_equal(given, before)


@pytest.mark.parametrize(
    "make",
    [
        lambda: np.ones(2),
        lambda: np.arange(3),
        lambda: np.float64(1.5),
        lambda: np.int64(7),
        lambda: np.arange(2, dtype=np.uint64),
        lambda: np.ones((2, 2), complex),
        lambda: 3,
    ],
    ids=["float64", "int64", "float scalar", "int scalar", "uint64", "complex128", "number"],
)
def test_a_state_of_64_bits_goes_on_from_its_own_checkpoint(make, tmp_path):
    def begin():
        return {"x": make(), "w": jnp.zeros(2)}

    whole = fit(add_one, begin(), lambda _: np.ones(1), steps=4)
    fit(add_one, begin(), lambda _: np.ones(1), steps=2, run=tmp_path / "run")
    again = fit(add_one, begin(), lambda _: np.ones(1), steps=4, run=tmp_path / "run")
    assert whole["x"].dtype == again["x"].dtype
    np.testing.assert_array_equal(whole["x"], again["x"])


# Batches that change after they were given


WRAPS = {
    "itself": lambda a: a,
    "in a dict": lambda a: {"x": a, "more": [a[:2], a]},
    "a view": lambda a: a[:, :],
    "a column of it": lambda a: a[:, 3:-3],
    "backwards": lambda a: a[::-1],
    "turned": lambda a: a.T,
    "read only": lambda a: np.lib.stride_tricks.as_strided(a, writeable=False),
    "mapped": lambda a: a,
}


@pytest.mark.parametrize(
    ("wrap", "devices"), [*((name, 1) for name in WRAPS), ("itself", 8), ("in a dict", 8), ("mapped", 8)]
)
def test_batches_in_one_array_are_trained_on_as_they_were_given(wrap, devices, tmp_path):
    steps = 12

    def step(state, batch):
        x = jax.tree.leaves(batch)[-1]
        for _ in range(3):  # long enough that the next batch is asked for before it ends
            x = jnp.tanh(x @ x.T @ x) / 2
        return {"sum": state["sum"] + x.sum() + jax.tree.leaves(batch)[0].sum()}, {}

    def fill(n):
        return np.full((160, 160), (n % 7) / 10, np.float32)

    buffer = fill(0)
    if wrap == "mapped":
        buffer = np.memmap(tmp_path / "buffer", np.float32, "w+", shape=buffer.shape)

    def refilled():
        for n in range(steps):
            buffer[...] = fill(n)
            yield WRAPS[wrap](buffer)

    def result(data):
        state = jax.device_put({"sum": jnp.zeros(())}, mesh_of(devices))
        return float(fit(step, state, data, steps=steps, log=None)["sum"])

    assert result(refilled()) == result([WRAPS[wrap](fill(n)) for n in range(steps)])


@pytest.mark.parametrize("size", [3, 1 << 16])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.uint8, bool, ">f4", np.float16])
def test_what_a_step_is_given_is_a_copy_with_the_same_values(size, dtype):
    batch = {"x": (np.arange(size) % 7).astype(dtype), "n": 3}
    owned = own_batch(batch, 1)
    assert owned["n"] == 3
    assert not np.shares_memory(owned["x"], batch["x"])
    np.testing.assert_array_equal(owned["x"], batch["x"])
    assert owned["x"].dtype == jnp.asarray(batch["x"].astype(batch["x"].dtype.newbyteorder("="))).dtype
    if size > 3:
        assert owned["x"].ctypes.data % 64 == 0
    arrays = {"x": jnp.ones(3)}
    assert own_batch(arrays, 1) is arrays


def test_a_state_that_is_apart_is_not_copied():
    state = {"a": jnp.ones(3), "b": jnp.zeros(3), "n": 4}
    assert apart(state) is state
    assert own_state(state)["a"] is state["a"]
    copied = apart({"a": state["a"], "b": state["a"]})
    assert copied["a"] is state["a"]
    assert jax.jit(lambda s: apart(s)["b"])({"a": state["a"], "b": state["a"]}).tolist() == [1.0] * 3


# What is used up


def test_a_state_that_was_used_up_is_named():
    model = nn.Dense(4)
    state = averaged(None)
    ones = np.ones((4, 3), np.float32)
    final = fit(regress, state, lambda _: ones, steps=1)
    grads = jax.tree.map(jnp.ones_like, final.params)
    uses = {
        "What apply was given": lambda: state.apply_fn({"params": state.params}, ones),
        "What apply was": lambda: nn.apply(lambda m, x: m(x), model)({"params": state.params}, ones),
        "This Averaged": lambda: state.apply_gradients(grads=grads),
        "The state that the loop was given": lambda: fit(regress, state, lambda _: ones, steps=1),
    }
    for where, use in uses.items():
        with pytest.raises(DeletedArrayError, match=f"(?s){where}.*/?bias.*jnp.copy, state") as error:
            use()
        assert isinstance(error.value, RuntimeError)
    with_keys = TrainState.init(model, optax.sgd(0.1), jax.random.key(0), ones)
    fit(regress, with_keys, lambda _: ones, steps=1)
    with pytest.raises(DeletedArrayError):
        with_keys.step_rngs()


def test_other_errors_of_a_model_pass():
    with pytest.raises(ValueError, match="mine"):
        nn.apply(lambda _: int("mine"), nn.Dense(4))({"params": {}})


def test_a_deleted_batch_and_an_evaluation_that_uses_up_the_state():
    gone = jnp.ones(3)
    gone.delete()
    with pytest.raises(DeletedArrayError, match="The batch of step 1 has arrays that are no longer there: itself"):
        fit(add_one, {"w": jnp.ones(3)}, lambda _: gone, steps=1)
    batches = [jnp.ones(3), jnp.ones(3)]
    batches[1].delete()
    with pytest.raises(DeletedArrayError, match="The batch of step 2"):
        fit(lambda s, x: ({"w": s["w"] + x}, {}), {"w": jnp.ones(3)}, batches)
    steal = jax.jit(lambda state: jax.tree.map(lambda leaf: leaf * 2, state), donate_argnums=0)
    with pytest.raises(DeletedArrayError, match="The state before step 2"):
        fit(
            add_one, {"w": jnp.ones(3)}, lambda _: 1.0, steps=3,
            evaluate=lambda state: {"w": steal(state)["w"].sum()}, evaluate_every=1,
        )  # fmt: skip


def test_a_state_put_in_the_place_of_another_must_fit():
    loop = Loop(add_one, {"w": jnp.ones(3)}, lambda _: 1.0, steps=4)
    for wrong in ({"w": jnp.ones(4)}, {"w": np.ones(3, np.int32)}, {"v": jnp.ones(3)}, {"w": "text"}):
        with pytest.raises(LoopArgumentError, match="`state` cannot be"):
            loop.state = wrong
    loop.state = {"w": np.full(3, 5.0)}
    for _ in loop:
        pass
    assert loop.state["w"].tolist() == [9.0] * 3


# A save in the background


@pytest.mark.parametrize("suffix", ["", ".safetensors", ".npz", ".msgpack"])
@pytest.mark.parametrize("kind", ["NumPy", "view", "mapped", "donated", "donated on 8", "deleted", "over NumPy", "key"])
def test_a_save_in_the_background_has_the_values_of_the_call(kind, suffix, tmp_path):
    owner = np.arange(4096, dtype=np.float32) if kind != "mapped" else mapped(tmp_path, "r+")
    over = aligned()
    leaf = {
        "NumPy": lambda: owner,
        "view": lambda: owner[::2],
        "mapped": lambda: owner,
        "over NumPy": lambda: jax.device_put(over),
        "key": lambda: jax.random.key(3),
        "donated on 8": lambda: jax.device_put(jnp.asarray(owner), mesh_of(8)),
    }.get(kind, lambda: jnp.asarray(owner))()
    wanted = np.array(jax.random.key_data(leaf) if kind == "key" else leaf)
    handle = checkpoint.save_async(tmp_path / f"saved{suffix}", {"x": leaf}, lossy=True)
    if kind.startswith("donated"):
        jax.block_until_ready(jax.jit(lambda x: x * 0, donate_argnums=0)(leaf))
    elif kind in ("deleted", "key"):
        leaf.delete()
    else:
        owner[...] = over[...] = -1
    handle.wait()
    found = checkpoint.restore(tmp_path / f"saved{suffix}")["x"]
    is_key = kind == "key" and suffix != ".msgpack"
    np.testing.assert_array_equal(jax.random.key_data(found) if is_key else found, wanted)
