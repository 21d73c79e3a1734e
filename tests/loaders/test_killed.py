"""Runs over data of other libraries that are killed after step 17 and started again: rows and state are as if not.

Run by ``make test-loaders``, in an environment with the real packages; the suite has stand-ins of them
(``tests/train/test_sources.py``). What a source cannot do is a case as well, with what is said of it.
"""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("program.py")
EXACT = [
    "hf_map", "hf_text", "hf_iterable", "hf_shards", "hf_generator", "torch_plain", "torch_workers", "torch_sampler",
    "torch_stateful", "torch_stateful_workers", "tf_plain", "tf_repeat", "grain_map", "grain_iter", "grain_workers",
    "grain_loader", "grain_loader_workers", "grain_ahead",
]  # fmt: skip


def run(folder, kind, at=0):
    """Run the program, and return its status, what it wrote to the error output, and each step with its rows."""
    command = [sys.executable, str(PROGRAM), str(folder), kind, str(at)]
    file, errors = Path(f"{folder}.txt"), Path(f"{folder}.errors")
    with errors.open("w") as stderr:
        program = subprocess.Popen(command, stdout=stderr, stderr=stderr, start_new_session=True)
        status = program.wait(600)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(program.pid, signal.SIGKILL)  # grain's workers outlive a program that was killed
    lines = [line.split(maxsplit=1) for line in file.read_text().splitlines()] if file.exists() else []
    return status, errors.read_text(), lines


@pytest.mark.parametrize("kind", EXACT)
def test_the_rows_and_the_state_are_those_of_a_run_left_alone(kind, tmp_path):
    status, errors, whole = run(tmp_path / "whole", kind)
    assert status == 0, errors
    status, errors, killed = run(tmp_path / "killed", kind, 17)
    assert status == -signal.SIGKILL, errors
    assert killed == whole[:17]
    status, errors, after = run(tmp_path / "killed", kind)
    assert status == 0, errors
    assert after[:17] == killed
    begun = int(after[17][0]) - 1
    assert begun in (10, 15)  # the checkpoint of step 15 may have been under way
    assert after[17:] == whole[begun:]
    assert len({rows for _, rows in whole[:30]}) >= 12  # without a shuffle, an epoch has so many batches


def test_an_order_that_is_another_one_in_each_process_is_refused(tmp_path):
    assert run(tmp_path / "killed", "tf_unseeded", 17)[0] == -signal.SIGKILL
    status, errors, _ = run(tmp_path / "killed", "tf_unseeded")
    assert status == 1
    assert "DataPositionError" in errors
    assert "another order" in errors
    status, errors, _ = run(tmp_path / "random", "torch_random")
    assert status == 1
    assert "StatefulDataLoader" in errors


def test_a_shuffle_buffer_is_lost_and_the_run_goes_on(tmp_path):
    _, errors, whole = run(tmp_path / "whole", "hf_buffer")
    assert run(tmp_path / "killed", "hf_buffer", 17)[0] == -signal.SIGKILL, errors
    status, errors, after = run(tmp_path / "killed", "hf_buffer")
    assert status == 0, errors
    assert [n for n, _ in after[17:]] == [n for n, _ in whole[int(after[17][0]) - 1 :]]
    assert after[17:-1] != whole[int(after[17][0]) - 1 : -1]
