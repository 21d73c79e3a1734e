"""A run's steps: saved, found, restored, kept and removed by rules."""

import numpy as np
import pytest

from batiste import checkpoint, errors
from batiste.checkpoint import KeepBest, KeepEvery, KeepLast, KeepRecent, Saved
from batiste.checkpoint._retention import kept
from tests.checkpoint.support import assert_same, training


def tree(step):
    return {"w": np.full(3, step)}


def test_save_find_restore(tmp_path):
    run = checkpoint.Manager(tmp_path / "run")
    assert run.steps() == []
    assert run.latest() is None
    with pytest.raises(errors.NoStepError, match="no complete checkpoint"):
        run.restore()
    for step in (0, 5, 10):
        run.save(step, tree(step), metrics={"loss": 1 / (step + 1)}, metadata={"data": {"position": step}})
    assert run.steps() == [0, 5, 10]
    assert run.latest() == 10
    assert run.path(5) == run.folder / "5"
    assert_same(run.restore(), tree(10))
    assert_same(run.restore(tree(0), step=5), tree(5))
    opened = run.open(5)
    assert opened.step == 5
    assert opened.metadata == {"data": {"position": 5}, "metrics": {"loss": 1 / 6}}
    with pytest.raises(errors.NoStepError, match="0, 5, 10"):
        run.open(7)
    with pytest.raises(errors.CheckpointExistsError):
        run.save(5, tree(6))
    run.save(5, tree(6), overwrite=True)
    assert_same(run.restore(step=5), tree(6))
    run.remove(0)
    assert run.steps() == [5, 10]
    with pytest.raises(errors.ArgumentError):
        run.save(-1, tree(0))


def test_the_rules():
    saved = [
        Saved(step, 100.0 * step, {"metrics": {"loss": loss}})
        for step, loss in enumerate([5.0, 1.0, float("nan"), 1.0, 3.0, 4.0])
    ]
    assert kept(None, saved, 0.0) == set(range(6))
    assert kept([], saved, 0.0) == {5}
    assert kept([KeepLast(2)], saved, 0.0) == {4, 5}
    assert kept([KeepLast(0)], saved, 0.0) == {5}
    assert kept([KeepEvery(2)], saved, 0.0) == {0, 2, 4, 5}
    assert kept([KeepRecent(250.0)], saved, 550.0) == {3, 4, 5}
    assert kept([KeepBest("loss")], saved, 0.0) == {3, 5}
    assert kept([KeepBest("loss", 2)], saved, 0.0) == {1, 3, 5}
    assert kept([KeepBest("loss", mode="max")], saved, 0.0) == {0, 5}
    assert kept([KeepBest("accuracy")], saved, 0.0) == set(range(6))
    assert kept([KeepLast(2), KeepEvery(3)], saved, 0.0) == {0, 3, 4, 5}
    assert kept([KeepLast(2)], [], 0.0) == set()
    with pytest.raises(errors.ArgumentError):
        KeepEvery(0)


def test_rules_at_work(tmp_path):
    now = iter(range(0, 100_000, 10))
    rules = [KeepLast(2), KeepEvery(4), KeepBest("loss")]
    run = checkpoint.Manager(tmp_path / "run", keep=rules, clock=lambda: float(next(now)))
    for step in range(1, 9):
        run.save(step, tree(step), metrics={"loss": abs(step - 3)})
    assert run.steps() == [3, 4, 7, 8]
    assert run.open(8).manifest.saved_at > 0
    assert run.leftovers() == []


def test_a_damaged_step_is_not_removed_by_a_rule(tmp_path):
    run = checkpoint.Manager(tmp_path / "run", keep=[KeepLast(1)])
    run.save(1, tree(1))
    (run.path(1) / "batiste.json").write_text("{}")
    run.save(2, tree(2))
    run.save(3, tree(3))
    assert run.steps() == [1, 3]


def test_in_the_background(tmp_path):
    run = checkpoint.Manager(tmp_path / "run", keep=[KeepLast(1)])
    state = training()
    for step in (1, 2, 3):
        run.save_async(step, state)
    run.wait()
    assert run.steps() == [3]
    assert_same(run.restore(), state)
    run.folder.rename(tmp_path / "away")
    (tmp_path / "run").write_text("a file")
    run.save_async(4, state)
    with pytest.raises(errors.CheckpointWriteError):
        run.save(5, state)


def test_what_is_partial_is_not_a_step(tmp_path):
    run = checkpoint.Manager(tmp_path / "run")
    run.save(1, tree(1))
    (run.folder / ".2.batiste-0123abcd").mkdir()
    (run.folder / ".3.batiste-0123abcd.orbax-checkpoint-tmp").mkdir()
    (run.folder / "4").mkdir()
    (run.folder / "05").mkdir()
    (run.folder / "notes").write_text("")
    assert run.steps() == [1]
    assert [entry.name for entry in run.leftovers()] == [
        ".2.batiste-0123abcd",
        ".3.batiste-0123abcd.orbax-checkpoint-tmp",
    ]
    assert run.cleanup() == [
        run.folder / ".2.batiste-0123abcd",
        run.folder / ".3.batiste-0123abcd.orbax-checkpoint-tmp",
    ]
    assert sorted(entry.name for entry in run.folder.iterdir()) == ["05", "1", "4", "notes"]
