"""Several processes of one program on this machine."""

import io
import os
import signal
import subprocess
import sys
import time

import pytest

from batiste.errors import ArgumentError, LaunchError
from batiste.launch import launch
from batiste.launch.__main__ import main as command_line

MEETS = """
import sys
import jax
jax.distributed.initialize(heartbeat_timeout_seconds=20)
print(jax.process_index(), jax.process_count(), jax.local_device_count(), sys.argv[1])
"""
FAILS = """
import os, sys, time
if os.environ["OMPI_COMM_WORLD_RANK"] == "1":
    sys.exit(3)
time.sleep(60)
"""
WAITS = """
import os, time
print("ready", flush=True)
time.sleep(60)
"""
IGNORES = """
import signal, time
signal.signal(signal.SIGINT, lambda *_: print("no", flush=True))
print("ready", flush=True)
time.sleep(60)
"""


@pytest.fixture
def script(tmp_path):
    def written(text):
        path = tmp_path / "script.py"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return written


def test_processes_find_each_other(script):
    said = io.StringIO()
    assert launch([script(MEETS), "--x"], processes=2, devices=3, output=said) == 0
    lines = [line for line in said.getvalue().splitlines() if line.endswith("--x")]
    assert sorted(lines) == ["[0] 0 2 3 --x", "[1] 1 2 3 --x"]


def test_one_that_fails_ends_the_others(script):
    said = io.StringIO()
    begun = time.monotonic()
    assert launch([script(FAILS)], processes=3, grace=0.2, output=said) == 3
    assert time.monotonic() - begun < 20
    lines = said.getvalue().splitlines()
    assert lines[:2] == [
        "[launch] process 1 ended with status 3",
        "[launch] the others have not ended within 0.2 s, and are ended now",
    ]
    assert sorted(lines[2:]) == [f"[launch] process {rank} was ended by SIGTERM" for rank in (0, 2)]


def test_a_signal_reaches_all(script):
    command = [sys.executable, "-m", "batiste.launch", "-n", "2", script(WAITS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ)) as trial:
        said = {trial.stdout.readline(), trial.stdout.readline()}
        assert said == {"[0] ready\n", "[1] ready\n"}
        trial.send_signal(signal.SIGTERM)
        rest = trial.communicate(timeout=60)[0]
    assert trial.returncode == 128 + signal.SIGTERM
    assert sorted(rest.splitlines()) == [f"[launch] process {rank} was ended by SIGTERM" for rank in (0, 1)]


def test_a_second_signal_ends_what_hears_none(script):
    command = [sys.executable, "-m", "batiste.launch", "-n", "2", script(IGNORES)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dict(os.environ)) as trial:
        for _ in range(2):
            trial.stdout.readline()
        trial.send_signal(signal.SIGINT)
        assert sorted(trial.stdout.readline() for _ in range(2)) == ["[0] no\n", "[1] no\n"]
        time.sleep(0.3)
        trial.send_signal(signal.SIGINT)
        rest = trial.communicate(timeout=60)[0]
    assert trial.returncode == 128 + signal.SIGKILL
    assert sorted(rest.splitlines()) == [f"[launch] process {rank} was ended by SIGKILL" for rank in (0, 1)]


@pytest.mark.parametrize(
    ("kind", "command", "options", "says"),
    [
        (LaunchError, ["gone.py"], {}, "there is no file 'gone.py'"),
        (LaunchError, [], {}, "there is no program"),
        (LaunchError, "train.py", {}, "it is one text"),
        (ArgumentError, ["x.py"], {"processes": 0}, "processes=0"),
        (ArgumentError, ["x.py"], {"devices": 1.5}, "devices=1.5"),
        (ArgumentError, ["x.py"], {"grace": "long"}, "grace='long'"),
    ],
)
def test_what_cannot_start(kind, command, options, says):
    with pytest.raises(kind, match=says):
        launch(command, **options)


def test_the_command_line_says_it(capsys):
    assert command_line(["-n", "2", "gone.py"]) == 2
    assert "gone.py" in capsys.readouterr().err
    assert command_line(["-n", "2", "-m", "tests.launch.none"]) == 1
