"""Hooks: when they are called, what they may do, that what they keep survives, and those that are ready."""

import itertools
import json
import math
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from batiste import checkpoint, nn
from batiste.errors import ArgumentError, LearningRateError, LoopArgumentError
from batiste.train import (
    Hook,
    Loop,
    TrainState,
    at,
    early_stopping,
    fast_dev_run,
    find_learning_rate,
    fit,
    keep_best,
    overfit_batches,
    profile,
    time_limit,
)
from tests.train.recurrence import batch, begin, step


def rows_of(run):
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "time"} for row in rows]


@pytest.fixture
def run(tmp_path):
    return checkpoint.Manager(tmp_path / "run")


def test_the_moments_and_their_order(run):
    seen = []

    def note(moment):
        return lambda loop: seen.append((moment, loop.step, loop.row.get("step")))

    hooks = [
        Hook({moment: note(moment) for moment in ("open", "start", "row", "save", "end")} | {"step": note("step")})
    ]
    for n, _ in Loop(step, begin(), batch, steps=3, run=run, log_every=2, save_every=2, hooks=hooks, log=None):
        seen.append(("body", n, None))
    assert seen == [
        ("open", 0, None), ("start", 0, None), ("step", 1, None), ("body", 1, None), ("row", 2, 2), ("step", 2, 2),
        ("body", 2, None), ("save", 2, 2), ("row", 3, 3), ("step", 3, 3), ("body", 3, None), ("save", 3, 3),
        ("end", 3, 3),
    ]  # fmt: skip


def test_a_plain_function_is_called_after_each_step_and_may_stop_the_run(run):
    def enough(loop):
        if loop.step == 4:
            loop.stop("it is enough")

    loop = Loop(step, begin(), batch, steps=9, run=run, hooks=[enough])
    assert [n for n, _ in loop] == [1, 2, 3, 4]
    assert (loop.stopped, run.steps()) == ("it is enough", [4])
    again = Loop(step, begin(), batch, steps=9, run=run, hooks=[enough])
    assert (list(again), again.stopped, again.step) == ([], "it is enough", 4)
    again.stopped = None
    assert [n for n, _ in again] == [5, 6, 7, 8, 9]


def test_what_a_hook_keeps_is_saved_and_what_cannot_be_is_refused(run):
    @at("step")
    def count(loop):
        known = loop.kept.get("mine", {"calls": 0, "last": None, "mean": np.zeros(2, np.float32)})
        loop.kept["mine"] = {**known, "calls": known["calls"] + 1, "last": (loop.step, b"x")}

    for n, _ in Loop(step, begin(), batch, steps=9, run=run, save_every=2, hooks=[count]):
        if n == 5:
            break
    loop = Loop(step, begin(), batch, steps=9, run=run, hooks=[count])
    assert loop.kept["mine"]["calls"] == loop.step == 4
    assert loop.kept["mine"]["last"] == (4, b"x")
    assert loop.kept["mine"]["mean"].dtype == np.float32
    with pytest.raises(LoopArgumentError, match="what one keeps is 'object', which cannot be saved"):
        fit(step, begin(), batch, steps=9, run=run, hooks=[lambda loop: loop.kept.update(mine=object())])


def evaluation_of(values):
    return lambda state: {"loss": values[int(state["n"])]}


VALUES = {2: 5.0, 4: 3.0, 6: 4.0, 8: math.nan, 10: 3.5, 12: 3.1, 14: 1.0}


@pytest.mark.parametrize("leave", [1, 3, 6, 7, 12])
def test_early_stopping_counts_on_after_an_interruption(run, tmp_path, leave):
    options = {
        "steps": 14, "evaluate": evaluation_of(VALUES), "evaluate_every": 2, "save_every": 3, "log_every": 5,
        "hooks": [early_stopping(patience=4), keep_best()], "log": None, "compile_cache": False,
    }  # fmt: skip
    whole = checkpoint.Manager(tmp_path / "whole")
    expected = Loop(step, begin(), batch, run=whole, **options)
    assert len(list(expected)) == 12
    for n, _ in Loop(step, begin(), batch, run=run, **options):
        if n == leave:
            break
    resumed = Loop(step, begin(), batch, run=run, **options)
    list(resumed)
    assert (resumed.step, resumed.kept, resumed.stopped) == (12, expected.kept, expected.stopped)
    assert resumed.stopped == "eval/loss was best with 3 at step 4, 4 rows ago"
    assert resumed.state["sum"] == expected.state["sum"]
    assert [row["step"] for row in rows_of(run)] == [row["step"] for row in rows_of(whole)]
    assert checkpoint.open(run.folder / "best").manifest.step == 4
    assert int(checkpoint.restore(run.folder / "best", begin())["n"]) == 4


def test_early_stopping_by_a_metric_of_the_step(run):
    # The row is written before the next step begins, so that a stop means the same step in every run.
    loop = Loop(step, begin(), batch, steps=50, run=run, log_every=2, hooks=[early_stopping("loss", patience=2)])
    list(loop)
    assert (loop.step, rows_of(run)[-1]["step"]) == (6, 6)


def test_early_stopping_says_what_cannot_be():
    with pytest.raises(LoopArgumentError, match=r"asking for 'eval/loss'(?s:.*)Give the loop evaluate="):
        fit(step, begin(), batch, steps=3, hooks=[early_stopping()])
    with pytest.raises(LoopArgumentError, match="no row has that metric, but loss"):
        fit(step, begin(), batch, steps=3, hooks=[early_stopping("accuracy")])
    for wrong in ({"patience": 0}, {"patience": True}, {"min_delta": -1.0}, {"metric": ""}, {"after": -1}):
        with pytest.raises(ArgumentError):
            early_stopping(**wrong)


def test_a_time_limit_pauses_a_run(run):
    def slow(loop):
        time.sleep(0.02)

    loop = Loop(step, begin(), batch, steps=60, run=run, hooks=[time_limit(0.1), slow], log=None)
    list(loop)
    assert 1 <= loop.step < 20
    assert run.steps() == [loop.step]
    assert loop.stopped is None
    more = Loop(step, begin(), batch, steps=loop.step + 1, run=run, hooks=[time_limit(100)], log=None)
    assert len(list(more)) == 1
    total = checkpoint.Manager(run.folder / "total")
    for _ in range(2):
        last = Loop(step, begin(), batch, steps=60, run=total, hooks=[time_limit(0.1, total=True), slow], log=None)
        list(last)
    assert last.stopped == "its time of 0.1 s was over"


def test_a_rehearsal_writes_nothing(run):
    heard = []
    loop = Loop(
        step, begin(), batch, steps=1000, run=run, hooks=[fast_dev_run(3)], log=heard.append, finite="return",
        evaluate=lambda state: {"n": state["n"]}, evaluate_every=500,
    )  # fmt: skip
    list(loop)
    assert [row["step"] for row in heard] == [1, 2, 3]
    assert heard[-1]["eval/n"] == 3
    assert not run.folder.exists()


class Numbers:
    def __init__(self):
        self.n = 0

    def __iter__(self):
        return self

    def __next__(self):
        self.n += 1
        return np.float32(self.n)

    def get_state(self):
        return self.n

    def set_state(self, n):
        self.n = n


@pytest.mark.parametrize(
    "make",
    [lambda: batch, Numbers, lambda: iter(map(np.float32, itertools.count(1)))],
    ids=["function", "resumable", "iterator"],
)
def test_a_few_batches_again_and_again(make, run):
    seen = []

    def noting(state, x):
        jax.debug.callback(lambda value: seen.append(float(value)), x)
        return step(state, x)

    final = fit(noting, begin(), make(), steps=5, hooks=[overfit_batches(2)])
    jax.effects_barrier()
    assert sorted(seen) == [1, 1, 1, 2, 2]
    if not hasattr(make(), "__iter__") or hasattr(make(), "get_state"):
        fit(step, begin(), make(), steps=3, run=run, hooks=[overfit_batches(2)])
        assert fit(step, begin(), make(), steps=5, run=run, hooks=[overfit_batches(2)])["sum"] == final["sum"]


def test_a_window_for_the_profiler(run):
    fit(step, begin(), batch, steps=6, run=run, hooks=[profile(start=2, steps=2)])
    assert list((run.folder / "profile").rglob("*.xplane.pb"))
    with pytest.raises(LoopArgumentError, match=r"with profile\(\)"):
        fit(step, begin(), batch, steps=6, hooks=[profile()])


def quadratic(state, x):
    def loss_of(params):
        return jnp.mean((x @ params["w"] - 1.0) ** 2)

    loss, grads = jax.value_and_grad(loss_of)(state.params)
    return state.apply_gradients(grads=grads), {"loss": loss}


@pytest.mark.usefixtures("users_rules")
def test_a_learning_rate_is_found():
    def examples(n):
        return np.random.default_rng(n % 4).normal(size=(64, 3)).astype(np.float32)

    tx = optax.inject_hyperparams(optax.sgd)(learning_rate=1e-3)
    state = TrainState.create(apply_fn=nn.Dense(1).apply, params={"w": jnp.ones(3)}, tx=tx)
    found = find_learning_rate(quadratic, state, examples, low=1e-4, high=10.0, steps=60)
    assert 1e-3 < found.suggested < 1.0
    assert len(found.rates) == len(found.losses) < 60
    assert found.losses[0] > min(found.losses)
    assert float(state.opt_state.hyperparams["learning_rate"]) == pytest.approx(1e-3)
    plain = TrainState.create(apply_fn=None, params={"w": jnp.ones(3)}, tx=optax.sgd(1e-3))
    with pytest.raises(LearningRateError, match=r"optax.inject_hyperparams\(optax.adam\)"):
        find_learning_rate(quadratic, plain, examples)


def test_what_is_no_hook():
    for wrong in (3, "step", {"row": print}, [3], [dict], ["row"]):
        with pytest.raises(LoopArgumentError, match="`hooks` cannot be"):
            fit(step, begin(), batch, steps=1, hooks=wrong)
    for wrong in ("epoch", 3, None):
        with pytest.raises(ArgumentError):
            at(wrong)
    for wrong in ({}, {"row": 3}, {"epoch": print}, [print]):
        with pytest.raises(ArgumentError):
            Hook(wrong)
