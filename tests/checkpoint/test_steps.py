"""Steps, metrics and rules of a run: every number that means one is taken, and nothing else; no save is lost."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from batiste import checkpoint, errors
from batiste.checkpoint import KeepBest, KeepEvery, KeepLast, KeepRecent

TREE = {"w": np.zeros(2)}
INTEGERS = (int, np.int64, np.uint8, jnp.int32, jnp.uint8, np.array)
NO_STEPS = (
    3.0,
    np.float32(3),
    jnp.float32(3),
    True,
    np.bool_(True),
    jnp.asarray(True),
    "3",
    -1,
    math.nan,
    3 + 0j,
    np.array([3]),
    jnp.asarray([3]),
    [3],
    2**63,
)


def test_what_is_a_step(tmp_path):
    run = checkpoint.Manager(tmp_path)
    for number, kind in enumerate(INTEGERS):
        step = kind(number)
        if number % 2:
            run.save(step, TREE)
        else:
            run.save_async(step, TREE).wait()
        assert run.steps() == list(range(number + 1))
        assert run.path(step) == run.folder / str(number)
        assert run.restore(step=step)["w"].shape == (2,)
        assert (run.open(step).step, type(run.open(step).step)) == (number, int)
        checkpoint.save(tmp_path / f"{number}.npz", TREE, step=step)
        assert checkpoint.open(tmp_path / f"{number}.npz").step == number
    run.remove(jnp.int32(0))
    assert run.steps() == list(range(1, len(INTEGERS)))


def test_what_is_no_step(tmp_path):
    run = checkpoint.Manager(tmp_path)
    run.save(3, TREE)
    before = sorted(tmp_path.rglob("*"))
    for step in NO_STEPS:
        for use in (
            lambda step: run.save(step, TREE),
            lambda step: run.save_async(step, TREE),
            lambda step: run.restore(step=step),
            run.open,
            run.remove,
            run.path,
            lambda step: checkpoint.save(tmp_path / "alone", TREE, step=step),
        ):
            with pytest.raises(errors.ArgumentError, match="step"):
                use(step)
    assert sorted(tmp_path.rglob("*")) == before
    run.save(2**63 - 1, TREE)
    assert run.steps() == [3, 2**63 - 1]


def test_a_step_within_jit(tmp_path):
    with pytest.raises(errors.ArgumentError, match=r"outside of any jax\.jit"):
        jax.jit(lambda step: checkpoint.Manager(tmp_path).save(step, TREE))(3)


@pytest.mark.parametrize("rules", [[KeepLast(1)], [KeepBest("loss")]], ids=repr)
def test_an_earlier_step_that_was_just_saved_stays(tmp_path, rules):
    run = checkpoint.Manager(tmp_path, keep=rules)
    run.save(10, TREE, metrics={"loss": 0.0})
    for step in (3, 4):
        run.save(step, TREE, metrics={"loss": 1.0})
        assert run.steps() == [step, 10]
    run.save_async(2, TREE, metrics={"loss": 1.0})
    run.wait()
    assert run.steps() == [2, 10]


def test_a_step_saved_twice_is_refused_and_the_run_goes_on(tmp_path):
    run = checkpoint.Manager(tmp_path, keep=[KeepLast(2)])
    run.save(1, TREE)
    for save in (run.save, run.save_async):
        with pytest.raises(errors.CheckpointExistsError):
            save(1, {"w": np.ones(2)})
        with pytest.raises(errors.UnsavableLeafError):
            save(2, {"w": print})
    run.save_async(2, TREE)
    run.save(3, TREE)
    assert run.steps() == [2, 3]
    assert run.leftovers() == []


@pytest.mark.parametrize(
    ("bad", "mode", "kind"),
    [(math.nan, "min", float), (math.inf, "max", np.float16), (-math.inf, "min", jnp.float32)],
)
def test_a_metric_that_is_not_finite(tmp_path, bad, mode, kind):
    run = checkpoint.Manager(tmp_path, keep=[KeepBest("loss", mode=mode), KeepLast(1)])
    for step, loss in enumerate([0.5, 0.1 if mode == "min" else 0.9, kind(bad), 0.7]):
        run.save(step, TREE, metrics={"loss": loss})
        assert repr(run.open(step).metadata["metrics"]["loss"]) == repr(float(loss))
    assert run.steps() == [1, 3]


def test_nothing_is_removed_on_account_of_a_metric_that_is_nowhere(tmp_path):
    run = checkpoint.Manager(tmp_path, keep=[KeepBest("eval/loss"), KeepLast(1)])
    for step, metrics in enumerate([None, {"loss": 1.0}, {"eval/loss": math.nan}]):
        run.save(step, TREE, metrics=metrics)
    run.save(3, TREE, metadata={"metrics": [1.0]})
    assert run.steps() == [0, 1, 2, 3]
    run.save(4, TREE, metrics={"eval/loss": 1.0})
    run.save(5, TREE)
    assert run.steps() == [4, 5]


@pytest.mark.parametrize("metric", ["eval/acuracy", "accuracy", "Eval/Accuracy"])
def test_a_metric_of_another_name_is_a_warning_once(tmp_path, metric):
    run = checkpoint.Manager(tmp_path, keep=[KeepBest(metric, mode="max")])
    with pytest.warns(errors.BatisteWarning, match=r"'eval/accuracy'\.$"):
        run.save(0, TREE, metrics={"eval/accuracy": 0.5})
    run.save(1, TREE, metrics={"eval/accuracy": 0.1})
    assert run.steps() == [0, 1]


@pytest.mark.parametrize(
    "metrics",
    [
        {"loss": "0.5"},
        {"loss": None},
        {"loss": np.ones(1)},
        {"loss": 1j},
        {"loss": 10**400},
        {1: 0.5},
        [0.5],
        "loss",
        0.5,
    ],
    ids=repr,
)
def test_metrics_that_are_refused(tmp_path, metrics):
    run = checkpoint.Manager(tmp_path / "run")
    for save in (run.save, run.save_async):
        with pytest.raises(errors.ArgumentError, match="metrics"):
            save(0, TREE, metrics=metrics)
    with pytest.raises(errors.CheckpointArgumentError, match="would take its place"):
        run.save(0, TREE, metrics={"loss": 0.5}, metadata={"metrics": "mine"})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "make",
    [
        lambda: KeepLast(-1),
        lambda: KeepLast(1.5),
        lambda: KeepLast(None),
        lambda: KeepLast(True),
        lambda: KeepEvery(0),
        lambda: KeepEvery(2.0),
        lambda: KeepEvery("2"),
        lambda: KeepRecent(-1),
        lambda: KeepRecent(math.nan),
        lambda: KeepRecent("1"),
        lambda: KeepRecent(None),
        lambda: KeepBest("loss", mode="MIN"),
        lambda: KeepBest("loss", mode="minimum"),
        lambda: KeepBest("loss", mode=None),
        lambda: KeepBest("accuracy", "max"),
        lambda: KeepBest("accuracy", count=-1, mode="max"),
        lambda: KeepBest("accuracy", 0),
        lambda: KeepBest(""),
        lambda: KeepBest(None),
        lambda: checkpoint.Manager("run", keep=KeepLast(1)),
        lambda: checkpoint.Manager("run", keep=[KeepLast]),
        lambda: checkpoint.Manager("run", keep=[3]),
        lambda: checkpoint.Manager("run", keep="all"),
        lambda: checkpoint.Manager("run", keep=3),
        lambda: checkpoint.Manager("run", clock=0.0),
    ],
    ids=lambda make: str(make.__code__.co_firstlineno),
)
def test_rules_that_cannot_mean_what_was_written(make):
    with pytest.raises(errors.ArgumentError):
        make()


def test_numbers_of_numpy_in_rules():
    assert KeepLast(np.int64(2)) == KeepLast(2)
    assert KeepEvery(jnp.int32(2)) == KeepEvery(2)
    assert KeepRecent(np.float32(2)) == KeepRecent(2.0)
    assert KeepRecent(math.inf).keep([checkpoint.Saved(1, 0.0, {})], 1e9) == [1]
    assert type(KeepBest("loss", np.uint8(2)).count) is int
