"""Steps whose numbers are not finite: the run stops, skips them, or goes back; the batch is written down."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from batiste import checkpoint
from batiste.errors import ArgumentError, DataPositionError, LoopArgumentError, NonFiniteMetricError
from batiste.train import Loop, NonFinite, fit


def step(state, x):
    """Descend; the gradient of a bad batch is NaN while its loss is a number."""
    w = state["w"] - 0.1 * jnp.where(x["bad"], jnp.nan, x["x"])
    noise = jax.random.uniform(jax.random.fold_in(state["key"], state["n"]))
    after = {"w": w + noise, "n": state["n"] + 1, "key": state["key"], "best": jnp.minimum(state["best"], jnp.inf)}
    return after, {"loss": x["x"]}


def begin():
    return {"w": jnp.ones(3), "n": jnp.int32(0), "key": jax.random.key(1), "best": jnp.float32(jnp.inf)}


def batch(n, bad=(4, 5, 9)):
    return {"x": np.float32(n + 1), "bad": np.bool_(n in bad)}


class Batches:
    def __init__(self):
        self.n = -1

    def __iter__(self):
        return self

    def __next__(self):
        self.n += 1
        return batch(self.n)

    def get_state(self):
        return self.n

    def set_state(self, n):
        self.n = n


def rows_of(run):
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "time"} for row in rows]


@pytest.fixture
def run(tmp_path):
    return checkpoint.Manager(tmp_path / "run")


OPTIONS = {"steps": 14, "save_every": 3, "log_every": 2, "log": None, "compile_cache": False}


def test_an_update_is_skipped_and_counted(run):
    loop = Loop(step, begin(), batch, run=run, finite="skip", **OPTIONS)
    list(loop)
    assert loop.skipped == 3
    assert int(loop.state["n"]) == 11
    assert np.isfinite(loop.state["w"]).all()
    assert [row["skipped"] for row in rows_of(run)] == [0, 0, 2, 2, 3, 3, 3]
    assert rows_of(run)[2] == {"step": 6, "skipped": 2}
    assert sorted(path.name for path in (run.folder / "nonfinite").iterdir()) == ["10", "5", "6"]
    assert checkpoint.restore(run.folder / "nonfinite" / "5")["x"] == 5


@pytest.mark.parametrize("make", [lambda: batch, Batches])
def test_a_run_goes_back_and_leaves_batches_out(run, make):
    loop = Loop(step, begin(), make(), run=run, finite="return", **OPTIONS)
    seen = [n for n, _ in loop]
    assert seen[-1] == 14
    assert len(seen) > 14
    good = [n for n in range(17) if n not in (4, 5, 9)]
    clean = fit(step, begin(), lambda n: batch(good[n]), finite="skip", **OPTIONS)
    assert clean["w"].tolist() == loop.state["w"].tolist()
    assert loop.skipped == 3
    rows = rows_of(run)
    assert [row["step"] for row in rows] == [2, 4, 6, 8, 10, 12, 14]
    assert rows[2]["loss"] == (good[4] + good[5]) / 2 + 1


@pytest.mark.parametrize("action", ["skip", "return"])
@pytest.mark.parametrize("leave", [1, 6, 11])
def test_it_is_the_same_after_an_interruption(run, tmp_path, action, leave):
    whole = checkpoint.Manager(tmp_path / "whole")
    expected = Loop(step, begin(), Batches(), run=whole, finite=action, **OPTIONS)
    list(expected)
    for n, _ in Loop(step, begin(), Batches(), run=run, finite=action, **OPTIONS):
        if n == leave:
            break
    resumed = Loop(step, begin(), Batches(), run=run, finite=action, **OPTIONS)
    list(resumed)
    assert resumed.state["w"].tolist() == expected.state["w"].tolist()
    assert (rows_of(run), resumed.skipped) == (rows_of(whole), 3)


def test_a_limit_stops_after_all(run):
    with pytest.raises(NonFiniteMetricError, match="at step 6"):
        fit(step, begin(), batch, run=run, finite=NonFinite("skip", limit=1), **OPTIONS)
    again = checkpoint.Manager(run.folder / "again")
    with pytest.raises(NonFiniteMetricError):
        fit(step, begin(), batch, run=again, finite=NonFinite("return", limit=2), **OPTIONS)


def test_a_stop_writes_the_batch_and_asks_for_an_explanation(run):
    def diverging(state, x):
        return step(state, x)[0], {"loss": jnp.where(x["bad"], jnp.nan, x["x"])}

    policy = NonFinite("stop", explain=lambda state, x: f"batch {float(x['x'])}, {sorted(state)}")
    with pytest.raises(NonFiniteMetricError) as error:
        fit(diverging, begin(), batch, run=run, finite=policy, **OPTIONS)
    assert "The batch of step 5 is in" in str(error.value)
    assert "batch 5.0, ['best', 'key', 'n', 'w']" in str(error.value)
    assert checkpoint.restore(run.folder / "nonfinite" / "5")["bad"]
    assert run.steps() == [3]
    with pytest.raises(NonFiniteMetricError, match="`explain` failed: ZeroDivisionError"):
        fit(diverging, begin(), batch, run=run, finite=NonFinite(explain=lambda *_: 1 / 0), **OPTIONS)


def test_a_step_that_jax_has_compiled_is_guarded_too():
    mine = begin()
    assert fit(jax.jit(step), mine, batch, finite="skip", **OPTIONS)["n"] == 11
    assert not mine["w"].is_deleted()
    compiled = jax.jit(step).lower(begin(), batch(0)).compile()
    with pytest.raises(LoopArgumentError, match="compiled ahead of time"):
        fit(compiled, begin(), batch, finite="skip", **OPTIONS)


def test_what_cannot_be(run):
    with pytest.raises(LoopArgumentError, match="no run to go back to"):
        fit(step, begin(), batch, finite="return", **OPTIONS)
    with pytest.raises(DataPositionError, match="has no position"):
        fit(step, begin(), iter([batch(0)] * 20), run=run, finite="return", **OPTIONS)
    for wrong in ({"action": "ignore"}, {"action": None}, {"limit": 0}, {"limit": 1.5}, {"explain": 3}):
        with pytest.raises(ArgumentError):
            NonFinite(**wrong)


def test_a_large_batch_is_not_held_for_long(run):
    def mean(state, x):
        return {"n": state["n"] + 1}, {"loss": jnp.where(state["n"] == 2, jnp.nan, x.mean())}

    large = np.zeros((3000, 3000), np.float32)
    with pytest.raises(NonFiniteMetricError, match="at step 3") as error:
        fit(mean, {"n": jnp.int32(0)}, lambda n: large, steps=40, log_every=40, run=run, log=None)
    assert error.value.context["step"] == 3
    assert (run.folder / "nonfinite" / "3").is_dir()
