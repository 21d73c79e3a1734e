"""Training: no optimiser, gradients of another tree, arguments that nobody takes, a folder that cannot be used."""

from pathlib import Path

import optax

from batiste import TrainState, nn
from batiste.errors import (
    CompileCacheWarning,
    GradientsMismatchError,
    OptimizerArgumentError,
    OptimizerTypeError,
    StateArgumentError,
    StateCollectionError,
)
from batiste.train import compile_cache
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
