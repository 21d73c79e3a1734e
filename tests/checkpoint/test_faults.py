"""Killed at any moment, a program leaves complete checkpoints and nothing else.

`BATISTE_KILLS` sets how often it is killed: 200 for a thorough run.
"""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from batiste import checkpoint
from tests.checkpoint.killed import CONVERTED, KEPT, values
from tests.checkpoint.support import assert_same

KILLS = int(os.environ.get("BATISTE_KILLS", "12"))


@pytest.fixture
def program(tmp_path):
    """The program that starts what is killed."""
    command = [sys.executable, "-m", "tests.checkpoint.killed", str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, text=True, bufsize=1, **pipes) as started:
        yield started
        started.stdin.close()
        started.stdout.read()


def kill_at_random(program, seed, rng):
    """Start a process, kill it at some moment, and return the last number of each thing that it said was complete."""
    program.stdin.write(f"{seed}\n")
    said = {}
    while {"pid", "ready"} - set(said):
        word, _, number = program.stdout.readline().strip().partition(" ")
        said[word] = number
    time.sleep(rng.uniform(0.0, 0.5))
    os.kill(int(said.pop("pid")), signal.SIGKILL)
    while "end" not in said:
        word, _, number = program.stdout.readline().strip().partition(" ")
        said[word] = number
    return {word: int(number) for word, number in said.items() if number}


def check(path):
    """Assert that a checkpoint is whole and of one save, and return its number."""
    checkpoint.verify(path)
    restored = checkpoint.restore(path)
    assert_same(restored, values(restored["step"]))
    return restored["step"]


def test_killed_at_random(tmp_path, program):
    rng = np.random.default_rng(0)
    run = checkpoint.Manager(tmp_path / "run")
    left = 0
    for seed in range(KILLS):
        done = kill_at_random(program, seed, rng)
        steps = run.steps()
        assert {check(run.path(step)) for step in steps} == set(steps)
        if "run" in done:
            assert done["run"] <= max(steps) <= done["run"] + 1
        for name in KEPT:
            assert check(tmp_path / name) >= done.get("kept", 0)
        for name in CONVERTED:
            if (tmp_path / name).exists():
                check(tmp_path / name)
        left += len(checkpoint.leftovers(tmp_path)) + len(run.leftovers())
        if seed % 2:
            checkpoint.cleanup(tmp_path)
            run.cleanup()
            assert checkpoint.leftovers(tmp_path) == run.leftovers() == []
            assert run.steps() == steps
            assert {entry.name for entry in tmp_path.iterdir()} <= {"run", *KEPT, *CONVERTED}
    assert left  # some were killed in the middle of a save
