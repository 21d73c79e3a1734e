"""What is around a run: its folder, its configuration, a learning rate that cannot be set, a run that is not there."""

from pathlib import Path

import jax.numpy as jnp

from batiste.cli._runs import report
from batiste.errors import ConfigChangedWarning, LearningRateError, RunFolderError, RunNotFoundError
from batiste.train import at, find_learning_rate, fit
from tests.errors.rows import raises


@raises(RunFolderError, "metrics.jsonl cannot be written", 'save_errors="warn"')
def a_file_of_rows_that_is_a_folder():
    def step(state, batch):
        return state, {"loss": batch}

    fit(step, {"w": jnp.ones(2)}, lambda n: 1.0 + n, steps=1, run="run", log_every=1, hooks=[spoil])


@at("start")
def spoil(_):
    Path("run/metrics.jsonl").mkdir(parents=True)


@raises(ConfigChangedWarning, "goes on with another configuration", "rate: 0.1 -> 0.2")
def a_rate_that_was_changed():
    def step(state, batch):
        return state, {"loss": batch}

    fit(step, {"w": jnp.ones(2)}, lambda n: 1.0 + n, steps=1, run="run", config={"rate": 0.1})
    fit(step, {"w": jnp.ones(2)}, lambda n: 1.0 + n, steps=2, run="run", config={"rate": 0.2})


@raises(LearningRateError, "of this dict cannot be set", "optax.inject_hyperparams(optax.adam)(learning_rate=1e-3)")
def a_search_for_a_rate_that_is_a_constant():
    find_learning_rate(lambda state, batch: (state, {"loss": batch}), {"w": jnp.ones(2)}, lambda n: 1.0 + n)


@raises(RunNotFoundError, "nowhere holds no run: there is no such folder", "batiste runs list")
def a_page_of_no_run():
    report(Path("nowhere"), quiet=True)
