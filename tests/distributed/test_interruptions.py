"""Processes that die, are stopped, come late or differ: the others say so in time, and the run goes on exactly."""

import json
import shutil
import signal
import time

import numpy as np
import pytest

from batiste import checkpoint
from tests.processes.support import SECONDS, ended, run, started, wait_for

PROGRAM = "tests.processes.training"
KILLED = -signal.SIGKILL


def params(text):
    return [float(number) for number in json.loads(text.partition("params ")[2].splitlines()[0])]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return what a run without an interruption ends with, for each number of processes."""
    return {count: params(run(count, PROGRAM, tmp_path_factory.mktemp("whole"), "{}")[0]) for count in (1, 2, 4)}


@pytest.mark.parametrize(("count", "victim"), [(2, 0), (2, 1), (4, 0), (4, 3), (8, 5)])
def test_one_is_killed(tmp_path, whole, count, victim):
    options = json.dumps({"signal": "SIGKILL", "rank": victim, "at": 12, "slow": 0.05})
    with started(count, PROGRAM, tmp_path, options) as running:
        running[victim].wait(timeout=SECONDS)
        begun = time.monotonic()
        said = [process.communicate(timeout=SECONDS)[0] for process in running]
        took = time.monotonic() - begun
    assert took < 30
    for rank, (process, text) in enumerate(zip(running, said, strict=True)):
        assert process.returncode == KILLED if rank == victim else process.returncode not in (0, 143), text
    if victim != 0:  # the others are told by the coordination service of process 0, which is there
        assert "did not come within" in said[0]
        assert str(victim) in said[0].partition("process")[2]
    else:
        assert all("another task died" in text or "did not come" in text for text in said[1:])
    saved = checkpoint.Manager(tmp_path).latest()
    assert saved in (5, 10)
    for again in (1, 2) if count == 2 else (4,):
        folder = tmp_path if again == (2 if count == 2 else 4) else copied(tmp_path)
        found = run(again, PROGRAM, folder, "{}")[0]
        assert f"starts at {saved}" in found
        np.testing.assert_allclose(params(found), whole[again], rtol=2e-6, atol=1e-6)
        if again == count:
            assert params(found) == whole[again]


def copied(folder):
    goal = folder.with_name(f"{folder.name}-copy")
    shutil.copytree(folder, goal)
    return goal


@pytest.mark.parametrize(("count", "rank", "name"), [(4, 2, "SIGTERM"), (2, 0, "SIGTERM"), (2, 1, "SIGINT")])
def test_one_is_told_to_stop(tmp_path, whole, count, rank, name):
    options = json.dumps({"signal": name, "rank": rank, "at": 7, "slow": 0.05})
    with started(count, PROGRAM, tmp_path, options) as running:
        said = ended(running, *(-signal.SIGINT if name == "SIGINT" and each == rank else 143 for each in range(count)))
    stopped = checkpoint.Manager(tmp_path).latest()
    assert 7 < stopped < 20
    assert all(f"stopped at {stopped}" in text for text in said if "stopped" in text)
    assert params(run(count, PROGRAM, tmp_path, "{}")[0]) == whole[count]


@pytest.mark.parametrize("count", [2, 4, 8])
def test_one_dies_in_the_middle_of_a_save(tmp_path, count):
    with started(count, "tests.processes.saving", tmp_path, "die") as running:
        said = [process.communicate(timeout=SECONDS)[0] for process in running]
    assert running[1].returncode == KILLED
    for process, text in zip((running[0], *running[2:]), (said[0], *said[2:]), strict=True):
        assert process.returncode not in (0, None), text
        assert any(words in text for words in ("died", "heartbeat", "did not come", "unhealthy")), text
    assert checkpoint.verify(tmp_path / "dies").digests  # what was there before
    checkpoint.cleanup(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["dies"]


def test_positions_of_iterators(tmp_path, whole):
    first = json.dumps({"iterator": True, "steps": 10})
    run(2, PROGRAM, tmp_path, first)
    assert params(run(2, PROGRAM, tmp_path, json.dumps({"iterator": True}))[0]) == whole[2]
    with started(1, PROGRAM, tmp_path, json.dumps({"iterator": True, "steps": 30})) as running:
        said = ended(running, 1)
    assert "saved by 2 processes, each with a position of its own" in said[0]


def test_another_program_is_named(tmp_path):
    with started(4, PROGRAM, tmp_path, json.dumps({"other": 2})) as running:
        said = ended(running, 1, 1, 1, 1)
    assert all("process 2 has another program" in text for text in said)


def test_one_that_does_not_come_is_named(tmp_path):
    with started(2, PROGRAM, tmp_path, json.dumps({"late": 1, "patience": 3})) as running:
        wait_for(lambda: running[0].poll() is not None)
        said = running[0].communicate(timeout=SECONDS)[0]
    assert "process 1 did not come within 3 s" in said
