"""`flax.training`: train states, loss scales, early stopping, schedules, prefetching and Orbax's arguments."""

import threading
import warnings
from typing import Any

import flax.serialization
import flax.training.dynamic_scale
import flax.training.early_stopping
import flax.training.lr_schedule
import flax.training.orbax_utils
import flax.training.prefetch_iterator
import flax.training.train_state
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.training import dynamic_scale as their_scale
from flax.training import train_state as their_state

from batiste.compat.flax import serialization
from batiste.compat.flax.training import (
    dynamic_scale,
    early_stopping,
    lr_schedule,
    orbax_utils,
    prefetch_iterator,
    train_state,
)
from batiste.errors import FlaxDeprecationWarning, GradientsMismatchError, OptimizerTypeError, StructFieldError
from tests.compat.pairs import text


def apply(params, x):
    return x @ params["w"]


PARAMS = {"w": jnp.arange(6.0).reshape(3, 2), "b": jnp.ones(2)}
GRADS = jax.tree.map(lambda leaf: leaf * 0.1 + 1, PARAMS)


def trained(module, codec, **fields):
    """Return the state after two steps, as text and as bytes."""

    class State(module.TrainState):
        batch_stats: Any = None

    state = State.create(apply_fn=apply, params=PARAMS, tx=TX, batch_stats={"m": 1}, **fields)
    step = jax.jit(lambda state, grads: state.apply_gradients(grads=grads, batch_stats={"m": state.step}))
    state = step(step(state, GRADS), GRADS)
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state)]
    restored = codec.from_bytes(state, codec.to_bytes(state))
    assert text(jax.tree.map(np.asarray, restored)) == text(jax.tree.map(np.asarray, state))
    return state, paths, codec.to_bytes(state)


TX = optax.adamw(1e-2)


def test_train_state():
    ours, our_paths, our_bytes = trained(train_state, serialization)
    theirs, their_paths, their_bytes = trained(their_state, flax.serialization)
    assert our_paths == their_paths
    assert our_bytes == their_bytes
    assert list(ours.__dataclass_fields__) == list(theirs.__dataclass_fields__)
    assert ours.tx is TX
    assert ours.apply_fn is apply
    assert train_state.TrainState(1, apply, {}, TX, ()).step == 1
    from_theirs = serialization.from_bytes(ours, their_bytes)
    assert from_theirs.step == 2


def test_train_state_that_overwrites():
    """The scales of 8-bit layers are not optimised: their gradients are their new values."""
    params = {"params": PARAMS, "_overwrite_with_gradient": {"scale": jnp.zeros(1)}}
    grads = {"params": GRADS, "_overwrite_with_gradient": {"scale": jnp.full(1, 7.0)}}
    for module in (train_state, their_state):
        state = module.TrainState.create(apply_fn=apply, params=params, tx=TX)
        after = state.apply_gradients(grads=grads)
        assert jax.tree.structure(state.opt_state) == jax.tree.structure(TX.init(PARAMS))
        assert after.params["_overwrite_with_gradient"]["scale"].tolist() == [7.0]


def test_errors_of_train_states():
    state = train_state.TrainState.create(apply_fn=apply, params=PARAMS, tx=TX)
    with pytest.raises(StructFieldError):
        state.apply_gradients(grads=GRADS, nothing=1)
    with pytest.raises(GradientsMismatchError):
        state.apply_gradients(grads={"w": PARAMS["w"]})
    with pytest.raises(OptimizerTypeError):
        train_state.TrainState.create(apply_fn=apply, params=PARAMS, tx=None)
    with pytest.raises(TypeError):
        train_state.TrainState.create(apply_fn=apply, params=PARAMS, tx=TX, nothing=1)


def square(x):
    return jnp.sum(x**2)


def with_aux(x, y):
    return jnp.sum(x * y), {"x": x}


SCALES = {
    "plain": ({}, square, {}, (jnp.ones(2),)),
    "aux": ({}, with_aux, {"has_aux": True, "argnums": (0, 1)}, (jnp.ones(2), jnp.arange(2.0))),
    "not finite": ({}, lambda x: jnp.sum(jnp.log(x)), {}, (jnp.zeros(2),)),
    "too large": ({"scale": 1e38}, square, {}, (jnp.full(2, 1e5),)),
    "about to grow": ({"fin_steps": 1999}, square, {}, (jnp.ones(2),)),
    "growing": ({"fin_steps": 2000}, square, {}, (jnp.ones(2),)),
    "grown to the end": (
        {"fin_steps": 1, "growth_interval": 1, "scale": 3e38},
        lambda x: x * 1e-30,
        {},
        (jnp.ones(()),),
    ),
    "at the least": ({"scale": 1e-38}, lambda x: jnp.sum(jnp.log(x)), {}, (jnp.zeros(2),)),
    "without a least": ({"scale": 4.0, "minimum_scale": None}, lambda x: jnp.sum(jnp.log(x)), {}, (jnp.zeros(2),)),
    "float16": ({"scale": 4.0}, square, {}, (jnp.ones(2, jnp.float16),)),
    "bfloat16": ({"scale": 4.0}, square, {}, (jnp.ones(2, jnp.bfloat16) * 3,)),
    "scalar": ({}, square, {}, (2.0,)),
}


@pytest.mark.parametrize("name", SCALES)
def test_dynamic_scale(name):
    fields, function, options, args = SCALES[name]
    found = []
    for module in (dynamic_scale, their_scale):
        scale = module.DynamicScale(**fields)
        result = jax.jit(lambda scale: scale.value_and_grad(function, **options)(*args))(scale)
        found.append(text((tuple(result), scale.value_and_grad(function, **options)(*args), jax.tree.structure(scale))))
        assert result._fields == ("dynamic_scale", "finite", "aux", "grad")
    assert found[0] == found[1]


@pytest.mark.parametrize("values", [[0.0, 1.0, 2.0], [1.0, np.inf, 2.0]], ids=["finite", "one is not"])
def test_dynamic_scale_over_devices(values):
    found = []
    for module in (dynamic_scale, their_scale):
        scaled = module.DynamicScale().value_and_grad

        def step(x, scaled=scaled):
            return scaled(lambda y: jnp.sum(y * x), axis_name="b")(jnp.ones(2))

        found.append(text(tuple(jax.vmap(step, axis_name="b")(jnp.array(values)))))
    assert found[0] == found[1]


def test_dynamic_scale_state_dict():
    for module, codec in ((dynamic_scale, serialization), (their_scale, flax.serialization)):
        scale = module.DynamicScale(scale=8.0)
        assert codec.to_state_dict(scale) == {"fin_steps": 0, "scale": 8.0}
        assert codec.from_state_dict(scale, {"fin_steps": 3, "scale": 2.0}) == scale.replace(fin_steps=3, scale=2.0)


@pytest.mark.parametrize("options", [{}, {"min_delta": 1e-3, "patience": 2}, {"patience": 1, "best_metric": 0.92}])
def test_early_stopping(options):
    metrics = [1.0, 0.9, 0.9, 0.95, 0.94, 0.5, 0.4999, 0.5, 0.5, float("nan"), np.float32(0.1)]
    found = []
    for module in (early_stopping, flax.training.early_stopping):
        stop = module.EarlyStopping(**options)
        seen = [repr(stop)]
        for metric in metrics:
            stop = stop.update(metric)
            seen.append(repr(stop))
        found.append([*seen, repr(stop.reset()), jax.tree.leaves(stop)])
    assert found[0] == found[1]


@pytest.mark.parametrize("warmup", [0.0, 1.0, 2.5])
@pytest.mark.parametrize("name", ["constant", "stepped", "cosine"])
def test_learning_rates(name, warmup):
    more = {"constant": (), "stepped": ([[1, 0.5], [3, 0.1]],), "cosine": (4,)}[name]
    found = []
    for module in (lr_schedule, flax.training.lr_schedule):
        with warnings.catch_warnings(action="ignore"):
            rate = getattr(module, f"create_{name}_learning_rate_schedule")(0.1, 10, *more, warmup_length=warmup)
        found.append([float(rate(step)) for step in range(0, 80, 3)] + [float(jax.jit(rate)(jnp.int32(15)))])
    assert found[0] == found[1]


def test_learning_rates_are_deprecated():
    with pytest.warns(FlaxDeprecationWarning):
        lr_schedule.create_constant_learning_rate_schedule(0.1, 10)


def failing():
    yield 1
    message = "broken"
    raise RuntimeError(message)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_prefetch_iterator():
    for module in (prefetch_iterator, flax.training.prefetch_iterator):
        items = module.PrefetchIterator(iter(range(20)), 3)
        assert iter(items) is items
        assert list(items) == list(range(20))
        with pytest.raises(StopIteration):
            next(items)
        broken = module.PrefetchIterator(failing())
        assert next(broken) == 1
        for _ in range(2):
            with pytest.raises(RuntimeError, match="broken"):
                next(broken)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_prefetch_iterator_reads_ahead_and_stops():
    read = []
    ready = threading.Event()

    def numbers():
        for number in range(10):
            read.append(number)
            if number == 1:
                ready.set()
            yield number

    items = prefetch_iterator.PrefetchIterator(numbers(), buffer_size=2)
    assert ready.wait(10)
    items.close()
    items._thread.join(10)
    assert not items._thread.is_alive()
    assert read == [0, 1]
    assert next(items) == 0


def test_prefetch_iterator_is_deprecated():
    with pytest.warns(FlaxDeprecationWarning):
        prefetch_iterator.PrefetchIterator([]).close()


def test_arguments_for_orbax():
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    sharded = jax.device_put(jnp.arange(8.0), jax.NamedSharding(mesh, jax.P("x")))
    targets = (
        {"a": jnp.ones(2), "b": 3, "c": np.ones(2), "n": None}, {"n": None, "s": "x", "f": np.float32(2)}, None,
        {"s": sharded}, {"s": jax.ShapeDtypeStruct((2,), jnp.float32)}, [1], {"a": {"b": None}},
        {"s": jax.ShapeDtypeStruct((8,), jnp.float32, sharding=sharded.sharding)},
    )  # fmt: skip
    theirs = flax.training.orbax_utils
    for target in targets:
        for name in ("save_args_from_target", "restore_args_from_target"):
            assert text(getattr(orbax_utils, name)(target)) == text(getattr(theirs, name)(target))
        for given in (None, {"x": 1}):
            got = orbax_utils.maybe_construct_transformations(target, given)
            assert text(got) == text(theirs.maybe_construct_transformations(target, given))
    for value in (sharded, jnp.ones(2), 3):
        assert orbax_utils.is_multi_device_array(value) == theirs.is_multi_device_array(value)
    with pytest.warns(FlaxDeprecationWarning):
        args = orbax_utils.restore_args_from_target({"s": sharded, "a": jnp.ones(2), "n": np.float32(1)}, mesh)
    assert args["s"].sharding == sharded.sharding
    assert args["a"].sharding.mesh == mesh
    assert args["n"].restore_type is np.ndarray
