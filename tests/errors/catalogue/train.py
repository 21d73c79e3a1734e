"""Training: no optimiser, gradients of another tree, arguments that nobody takes, a folder that cannot be used.

And the loop: steps that cannot be repeated, metrics that are none, data that ends or does not know where it was; loss
functions without a loss, batches that cannot be cut, averages and adapters that are not there.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import optax

from batiste import TrainState, nn
from batiste.checkpoint import Manager
from batiste.errors import (
    AdapterStateError,
    BatchError,
    CompileCacheWarning,
    DataExhaustedError,
    DataPositionError,
    DataPositionWarning,
    DeletedArrayError,
    GradientsMismatchError,
    LoopArgumentError,
    LossError,
    LossShapeError,
    LossTransformError,
    MetricError,
    MetricShapeError,
    MicroBatchError,
    NoAverageError,
    NoBatchError,
    NonFiniteMetricError,
    OptimizerArgumentError,
    OptimizerStateError,
    OptimizerTypeError,
    PolicyError,
    RunMismatchError,
    StateArgumentError,
    StateCallError,
    StateCollectionError,
    StepResultError,
    UnsavedStepWarning,
)
from batiste.train import Loop, compile_cache, evaluate, fit, lora_merged, losses, make_step, metrics
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


@raises(LoopArgumentError, "`data` cannot be a dict of 'x', 'y'", "a function from the step to its batch")
def whole_arrays_in_the_place_of_batches():
    fit(lambda state, batch: (state, {"loss": batch}), {"w": x}, {"x": x, "y": x}, steps=1)


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


@raises(BatchError, "The batch of step 1", "'id' is the text 'sample-7'", "Leave texts out")
def a_text_in_a_batch():
    fit(lambda state, batch: (state, {"loss": batch["x"]}), {"w": x}, lambda _: {"x": 1.0, "id": "sample-7"}, steps=1)


@raises(DeletedArrayError, "What apply was given", "'params/bias' and 1 more", "jax.tree.map(jnp.copy, state)")
def variables_that_a_step_has_used_up():
    model = nn.Dense(2)
    variables = model.init(key, x)
    fit(lambda state, batch: (state, {"loss": batch}), variables, [1.0])
    model.apply(variables, x)


@raises(OptimizerStateError, "its '0/mu/w' has the shape (5,)", "it is (2, 3)", "state.tx.init(state.params)")
def the_optimiser_state_of_another_model():
    tx = optax.adam(0.1)
    state = TrainState.create(apply_fn=None, params={"w": x}, tx=tx).replace(opt_state=tx.init({"w": jnp.ones(5)}))
    state.apply_gradients(grads={"w": x})


@raises(StateCallError, "TrainState.create() was not given apply_fn=", "apply_fn=model.apply")
def a_state_without_its_function():
    TrainState.create(params={"w": x}, tx=optax.sgd(0.1))


@raises(UnsavedStepWarning, "When the loop was left after step 2", "'loss' is inf at step 2")
def a_loop_that_is_left_with_a_loss_that_is_infinite():
    def divide(state, batch):
        return state, {"loss": 1 / batch}

    for n, _ in Loop(divide, {"w": jnp.ones(2)}, lambda n: 1.0 - n, run="run", save_every=2):
        if n == 2:
            break


@raises(LossError, "returned a dict in the place of the loss", "train.metrics.Mean")
def a_loss_function_without_a_loss():
    state = TrainState.create(apply_fn=None, params={"w": x}, tx=optax.sgd(0.1))
    make_step(lambda model, batch: {"loss": batch.mean()})(state, x)


@raises(LossTransformError, "changed batch_stats", "model(x, mutable=False)")
def a_penalty_on_slopes_that_counts_statistics():
    model = nn.BatchNorm(use_running_average=False)
    state = TrainState.init(model, optax.sgd(0.1), key, x)
    make_step(lambda model, batch: jax.grad(lambda x: model(x).sum())(batch))(state, x)


@raises(MicroBatchError, "accumulate=3", "it has 2 examples", "a multiple of 3")
def a_batch_that_is_too_small():
    state = TrainState.create(apply_fn=None, params={"w": x}, tx=optax.sgd(0.1))
    make_step(lambda model, batch: batch.mean(), accumulate=3)(state, x)


@raises(PolicyError, "'w' is float32", "tree.cast(params, 'bfloat16')")
def parameters_that_are_not_those_of_the_policy():
    state = TrainState.create(apply_fn=None, params={"w": x}, tx=optax.sgd(0.1))
    make_step(lambda model, batch: batch.mean(), policy="params=bfloat16").prepare(state)


@raises(NoAverageError, "no averaged parameters", "average=0.999")
def an_average_that_nobody_kept():
    TrainState.create(apply_fn=None, params={"w": x}, tx=optax.sgd(0.1)).averaged_params()


@raises(NoBatchError, "without a batch", "used once")
def an_evaluation_of_nothing():
    state = TrainState.create(apply_fn=None, params={"w": x}, tx=optax.sgd(0.1))
    evaluate(state, [], lambda model, batch: batch.mean())


@raises(AdapterStateError, "it has no adapters", "train.lora(state, key, patterns, rank)")
def adapters_of_a_state_without():
    lora_merged(TrainState.create(apply_fn=None, params={"w": x}, tx=optax.sgd(0.1)))


@raises(LossShapeError, "give kernel.T", "kernel [features, vocabulary]")
def a_table_of_embeddings_as_a_kernel():
    losses.chunked_softmax_cross_entropy(x, jnp.ones((7, 3)), jnp.array([0, 1]), token_chunk=1)


@raises(MetricShapeError, "Accuracy", "(2, 3)", "labels.argmax(-1)")
def labels_as_rows_of_ones_and_zeros():
    metrics.Accuracy.of(x, x)
