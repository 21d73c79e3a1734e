"""Training: no optimiser, gradients of another tree, arguments that nobody takes, a folder that cannot be used.

And the loop: steps that cannot be repeated, metrics that are none, data that ends or does not know where it was.
"""

from pathlib import Path

import jax.numpy as jnp
import optax

from batiste import TrainState, nn
from batiste.checkpoint import Manager
from batiste.errors import (
    CompileCacheWarning,
    DataExhaustedError,
    DataPositionError,
    DataPositionWarning,
    GradientsMismatchError,
    LoopArgumentError,
    MetricError,
    NonFiniteMetricError,
    OptimizerArgumentError,
    OptimizerTypeError,
    RunMismatchError,
    StateArgumentError,
    StateCollectionError,
    StepResultError,
)
from batiste.train import compile_cache, fit
from tests.errors.rows import key, raises, x


@raises(OptimizerTypeError, "TrainState.create()", "no init and no update", "tx=optax.adam(1e-3)")
def an_optimiser_without_its_settings():
    TrainState.create(apply_fn=None, params={"w": x}, tx=optax.adam)


@raises(StateArgumentError, "TrainState.create() cannot take rng=", "Did you mean 'rngs'?")
def a_misspelt_field():
    TrainState.create(apply_fn=None, params={"w": x}, tx=optax.sgd(0.1), rng=key)


@raises(OptimizerArgumentError, "cannot update without", "apply_gradients(grads=grads, value=...)")
def a_plateau_without_the_loss():
    tx = optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau())
    state = TrainState.create(apply_fn=None, params={"w": x}, tx=tx)
    state.apply_gradients(grads={"w": x})


@raises(GradientsMismatchError, "'b'", "jax.grad(loss)(state.params)")
def gradients_of_another_tree():
    state = TrainState.create(apply_fn=None, params={"w": x, "b": x}, tx=optax.sgd(0.1))
    state.apply_gradients(grads={"w": x})


@raises(StateCollectionError, "was given batch_stat", "holds: batch_stats", "Did you mean 'batch_stats'?")
def a_misspelt_collection():
    state = TrainState.init(nn.BatchNorm(use_running_average=False), optax.sgd(0.1), key, x)
    state.apply_gradients(grads=state.params, collections={"batch_stat": {}})


@raises(CompileCacheWarning, "file/programs cannot be written", "They are compiled in each run.")
def a_cache_below_a_file():
    Path("file").touch()
    compile_cache("file/programs")


@raises(LoopArgumentError, "`save_every` cannot be 0: it counts steps", "Give a number from 1 on.")
def a_checkpoint_every_no_steps():
    fit(lambda state, batch: (state, {"loss": batch}), {"w": x}, [1.0, 2.0], save_every=0)


@raises(StepResultError, "The step forget() cannot be repeated", "more: missing, float32[2, 3]", "(state, metrics)")
def a_step_that_loses_a_part_of_the_state():
    def forget(state, batch):
        return {"w": state["w"] + batch}, {"loss": batch}

    fit(forget, {"w": x, "more": x}, [1.0, 2.0])


@raises(MetricError, "errors() returns 'loss' among its metrics", "shape (2, 3) and is no scalar", "jnp.mean(...)")
def a_loss_that_is_not_averaged():
    def errors(state, batch):
        return state, {"loss": (state["w"] - batch) ** 2}

    fit(errors, {"w": x}, [1.0, 2.0])


@raises(NonFiniteMetricError, "'loss' is inf at step 2", "`finite=False` lets such numbers pass")
def a_division_by_zero():
    def divide(state, batch):
        return state, {"loss": 1 / batch}

    fit(divide, {"w": jnp.ones(2)}, [1.0, 0.0])


@raises(DataExhaustedError, "no batch after step 2, and the run is to have 10 steps", ".repeat()")
def one_epoch_for_many():
    fit(lambda state, batch: (state, {"loss": batch}), {"w": jnp.ones(2)}, [1.0, 2.0], steps=10)


@raises(DataPositionWarning, "it cannot go on after an interruption", "get_state() and set_state()")
def a_run_over_a_generator():
    batches = (float(n) for n in range(10))
    fit(lambda state, batch: (state, {"loss": batch}), {"w": jnp.ones(2)}, batches, run=Manager("run"))


@raises(DataPositionError, "to go on after step 1", "a list would begin again", "a function from the step")
def a_run_that_goes_on_over_a_list():
    def step(state, batch):
        return state, {"loss": batch}

    fit(step, {"w": jnp.ones(2)}, lambda n: 1.0 + n, steps=1, run=Manager("run"))
    fit(step, {"w": jnp.ones(2)}, [1.0, 2.0], steps=2, run=Manager("run"))


@raises(RunMismatchError, "run holds another run", "step 1", "w: the target has float32[5]", "a folder of its own")
def a_folder_of_another_run():
    def step(state, batch):
        return state, {"loss": batch}

    fit(step, {"w": jnp.ones(2)}, lambda n: 1.0 + n, steps=1, run=Manager("run"))
    fit(step, {"w": jnp.ones(5)}, lambda n: 1.0 + n, steps=2, run=Manager("run"))
