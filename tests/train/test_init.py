"""TrainState.init: every collection and every random stream, carried through steps that are traced once."""

from typing import Any

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from batiste import nn, shard, struct, train
from batiste.errors import OptimizerTypeError, StateCollectionError
from batiste.train import TrainState

INPUTS = np.linspace(-1, 1, 24, dtype=np.float32).reshape(4, 6)
OVERWRITE = "_overwrite_with_gradient"


class Net(nn.Module):
    width: int = 5

    @nn.compact
    def __call__(self, x, train=True):
        x = nn.Dense(self.width)(x)
        x = nn.BatchNorm(use_running_average=not train)(x)
        return nn.Dropout(0.5, deterministic=not train)(x)


class FlaxNet(flax.linen.Module):
    width: int = 5

    @flax.linen.compact
    def __call__(self, x, train=True):
        x = flax.linen.Dense(self.width)(x)
        x = flax.linen.BatchNorm(use_running_average=not train)(x)
        return flax.linen.Dropout(0.5, deterministic=not train)(x)


class Quantised(nn.Module):
    @nn.compact
    def __call__(self, x):
        scale = self.variable(OVERWRITE, "scale", jnp.ones, ())
        return nn.Dense(2)(x) * scale.value


def streams():
    return {"params": jax.random.key(0), "dropout": jax.random.key(1)}


def make(model=None, tx=None, rngs=None, *, kind: type[TrainState] = TrainState, **kwargs):
    return kind.init(model or Net(), tx or optax.adam(1e-2), streams() if rngs is None else rngs, INPUTS, **kwargs)


def update(state, x):
    def loss(params):
        y, changed = state.apply_fn(state.variables(params), x, rngs=state.step_rngs(), mutable=list(state.collections))
        return jnp.mean(y**2), changed

    grads, changed = jax.grad(loss, has_aux=True)(state.params)
    return state.apply_gradients(grads=grads, collections=changed)


def test_the_state_carries_what_init_makes():
    variables = Net().init(streams(), INPUTS)
    state = make()
    assert state.step == 0
    jax.tree.map(np.testing.assert_array_equal, state.variables(), variables)
    jax.tree.map(np.testing.assert_array_equal, state.params, variables["params"])
    assert list(state.collections) == ["batch_stats"]
    assert jax.tree.structure(state.opt_state) == jax.tree.structure(optax.adam(1e-2).init(variables["params"]))
    assert {name: jax.random.key_data(key).tolist() for name, key in state.rngs.items()} == {
        "params": [0, 0],
        "dropout": [0, 1],
    }


def test_steps_are_those_written_by_hand_with_flax():
    model, tx = FlaxNet(), optax.sgd(0.1, momentum=0.9)
    variables = jax.jit(model.init)(streams(), INPUTS)
    params, stats = variables["params"], variables["batch_stats"]
    opt_state = tx.init(params)
    state = make(tx=optax.sgd(0.1, momentum=0.9))
    step = jax.jit(update)
    for count in range(3):
        key = jax.random.fold_in(jax.random.key(1), count)

        def loss(params, stats=stats, key=key):
            variables = {"params": params, "batch_stats": stats}
            y, changed = model.apply(variables, INPUTS, rngs={"dropout": key}, mutable=["batch_stats"])
            return jnp.mean(y**2), changed["batch_stats"]

        grads, stats = jax.jit(jax.grad(loss, has_aux=True))(params)
        updates, opt_state = tx.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        state = step(state, INPUTS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), state.params, params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), state.collections["batch_stats"], stats
    )


def test_equal_blueprints_and_optimisers_built_again_meet_one_trace():
    traces = []

    @jax.jit
    def step(state, x):
        traces.append(1)
        return update(state, x)

    for _ in range(3):
        step(step(make(Net(), optax.adam(1e-2)), INPUTS), INPUTS)
    assert len(traces) == 1
    step(make(Net(), optax.adam(2e-2)), INPUTS)
    assert len(traces) == 2
    step(make(Net(width=7), optax.adam(1e-2)), INPUTS)
    assert len(traces) == 3


def test_every_step_draws_its_own_numbers_and_a_resumed_run_the_same():
    first = make()
    second = first.apply_gradients(grads=jax.tree.map(jnp.zeros_like, first.params))
    keys = [jax.random.key_data(state.step_rngs()["dropout"]).tolist() for state in (first, second)]
    assert keys[0] != keys[1]
    resumed = make().replace(step=1)
    assert jax.random.key_data(resumed.step_rngs()["dropout"]).tolist() == keys[1]


def test_one_key_serves_every_stream():
    for key in (jax.random.key(0), jax.random.PRNGKey(0)):
        state = make(rngs=key)
        assert list(state.rngs) == ["params"]
        assert update(state, INPUTS).step == 1


def test_the_callers_keys_outlive_a_donated_state():
    key = jax.random.key(0)
    state = make(rngs={"params": key, "dropout": key})
    jax.jit(update, donate_argnums=0)(state, INPUTS)
    assert jax.random.bits(key).shape == ()


def test_shapes_and_options_reach_the_model():
    shapes = jax.ShapeDtypeStruct(INPUTS.shape, INPUTS.dtype)
    state = TrainState.init(Net(), optax.adam(1e-2), jax.random.key(0), shapes, train=False)
    jax.tree.map(np.testing.assert_array_equal, state.variables(), Net().init(jax.random.key(0), INPUTS))
    assert jax.eval_shape(lambda: make().params)["Dense_0"]["kernel"].shape == (6, 5)


def test_a_subclass_gives_its_fields_to_init_and_may_have_its_own_create():
    class State(TrainState):
        average: Any
        note: str = struct.field(default="n", pytree_node=False)

        @classmethod
        def create(cls, **fields):
            return super().create(average=fields["params"], **fields)

    state = make(kind=State, note="m", train=False)
    assert state.note == "m"
    jax.tree.map(np.testing.assert_array_equal, state.average, state.params)
    assert update(state, INPUTS).average is state.average


def test_a_collection_to_overwrite_is_trained_with_the_parameters():
    state = make(Quantised())
    assert set(state.params) == {"params", OVERWRITE}
    assert state.collections == {}
    assert set(state.variables()) == {"params", OVERWRITE}
    grads = jax.grad(lambda params: state.apply_fn(state.variables(params), INPUTS).sum())(state.params)
    after = state.apply_gradients(grads=grads)
    np.testing.assert_array_equal(after.params[OVERWRITE]["scale"], grads[OVERWRITE]["scale"])


def test_some_collections_are_replaced_and_the_others_stay():
    state = make().replace(collections={"batch_stats": 1, "cache": 2})
    zeros = jax.tree.map(jnp.zeros_like, state.params)
    after = state.apply_gradients(grads=zeros, collections={"cache": 3})
    assert after.collections == {"batch_stats": 1, "cache": 3}


def test_a_collection_that_the_state_does_not_hold():
    state = make()
    with pytest.raises(StateCollectionError, match="Did you mean 'batch_stats'"):
        state.apply_gradients(grads=state.params, collections={"batch_stat": {}})
    with pytest.raises(StateCollectionError, match=r"was given intermediates, but this state holds: batch_stats"):
        state.apply_gradients(grads=state.params, collections={"batch_stats": {}, "intermediates": {}})


def test_a_model_without_parameters():
    class Nothing(nn.Module):
        def __call__(self, x):
            return x

    state = make(Nothing())
    assert state.params == {}
    assert state.variables() == {"params": {}}


def test_no_optimiser():
    with pytest.raises(OptimizerTypeError):
        make(tx=optax.adam)


class Perturbed(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.BatchNorm(use_running_average=False)(nn.Dense(2)(self.perturb("inputs", x)))


@pytest.mark.parametrize("mesh", [None, "fsdp=2,data=-1"])
def test_perturbations_belong_to_a_call(mesh):
    more = {} if mesh is None else {"mesh": shard.mesh(mesh), "rules": shard.preset("fsdp")}
    state = make(Perturbed(), **more)
    assert set(state.collections) == {"batch_stats"}
    step = jax.jit(train.make_step(lambda model, x: jnp.mean(model(x) ** 2)))
    for size in (4, 2):
        state, metrics = step(state, INPUTS[:size])
        assert np.isfinite(metrics["loss"])
    assert int(state.step) == 2


def test_mutable_asks_for_collections_of_a_call():
    asked = make(Perturbed(), mutable=["params", "batch_stats", "perturbations"])
    assert set(asked.collections) == {"batch_stats", "perturbations"}
    assert asked.collections["perturbations"]["inputs"].shape == INPUTS.shape
