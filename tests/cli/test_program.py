"""The `batiste` command as a program of its own: exit codes, streams, signals, what it imports."""

import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from batiste import checkpoint
from batiste.cli import main
from batiste.cli._report import Exit, one_line
from batiste.errors import DamagedCheckpointError

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Work in an empty folder, with one checkpoint that has a space and an accent in its name."""
    monkeypatch.chdir(tmp_path)
    checkpoint.save("poids appris é.safetensors", {"w": np.ones(3, np.float32)})
    return tmp_path


def batiste(*arguments, **options):
    command = [sys.executable, "-m", "batiste", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def test_the_command_is_installed_under_its_name():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["scripts"] == {"batiste": f"{main.__module__.rpartition('.')[0]}:{main.__name__}"}


@pytest.mark.usefixtures("here")
def test_a_name_with_spaces():
    answer = batiste("show", "poids appris é.safetensors")
    assert answer.returncode == Exit.OK, answer.stderr
    assert "float32[3]" in answer.stdout
    assert answer.stderr == ""


@pytest.mark.usefixtures("here")
def test_an_error_is_one_line():
    answer = batiste("show", "poids.safetensors")
    assert answer.returncode == Exit.ERROR
    assert answer.stdout == ""
    assert answer.stderr.count("\n") == 1
    told = batiste("show", "poids.safetensors", env={**os.environ, "BATISTE_TRACEBACK": "1"})
    assert "Traceback" in told.stderr
    assert told.stderr.endswith(answer.stderr)


def test_wrong_use():
    answer = batiste("shoe")
    assert answer.returncode == Exit.USAGE
    assert "show" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_reader_that_has_gone(here):
    checkpoint.save("many.safetensors", {f"w{number:05}": np.ones(1, np.int8) for number in range(5000)})
    command = [sys.executable, "-m", "batiste", "show", "many.safetensors"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=here) as process:
        assert process.stdout.readline().startswith("many.safetensors: ")
        process.stdout.close()
        assert process.wait(60) == Exit.PIPE
        assert process.stderr.read() == ""


def test_interrupted_while_writing(here):
    """A reader that never ends, stopped by Control-C: no output, nothing left over, the old one as it was."""
    slow = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background may inherit that it is ignored
from batiste.cli import main
from batiste.checkpoint import Checkpoint

def read(*_):
    print("reading", flush=True)
    time.sleep(60)

import batiste.checkpoint._safetensors as made
made.SafetensorsSource.read = read
sys.argv = ["batiste", "convert", "poids appris é.safetensors", "out.safetensors"]
main()
"""
    command = [sys.executable, "-c", slow]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=here) as process:
        assert process.stdout.readline() == "reading\n"
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == Exit.INTERRUPTED
        assert process.stderr.read().startswith("interrupted")
    assert [path.name for path in here.iterdir()] == ["poids appris é.safetensors"]


def test_what_is_loaded(fresh_python):
    """The command line is read with neither Orbax, nor Optax, nor what the commands themselves are made of."""
    program = """
import sys
import batiste.cli._app
heavy = "orbax", "optax", "torch", "batiste.cli._change", "batiste.checkpoint"
print([name for name in heavy if name in sys.modules])
"""
    answer = fresh_python(program)
    assert answer.stdout == "[]\n", answer.stderr
    assert fresh_python("import sys, batiste; print('typer' in sys.modules)").stdout == "False\n"


NEEDS_NO_ARRAY = (
    "show weights.safetensors",
    "show weights.safetensors w/**",
    "show weights.safetensors nothing/**",  # an error, with the nearest path in it
    "show run --json",
    "show run --paths",
    "show weights.safetensors --stats",
    "diff weights.safetensors run --no-values",
    "diff weights.safetensors run",
    "verify weights.safetensors",
    "select weights.safetensors out w/a --dry-run",
    "convert weights.safetensors out --dry-run",
)


@pytest.mark.parametrize("line", NEEDS_NO_ARRAY)
def test_no_jax_where_no_array_is_needed(line, tmp_path, monkeypatch, fresh_python):
    """It takes longer to load than all the rest; what reads arrays one by one does with NumPy."""
    monkeypatch.chdir(tmp_path)
    tree = {"w": {"a": np.ones(3, np.float32), "b": [np.zeros(2, ml_dtypes.bfloat16), None]}, "step": 3}
    checkpoint.save("weights.safetensors", tree)
    checkpoint.save("run", tree)
    program = """
import atexit, sys
from batiste.cli import main
heavy = "jax", "optax", "orbax", "torch", "batiste.core"
atexit.register(lambda: print([name for name in heavy if name in sys.modules], file=sys.stderr))
sys.argv[0] = "batiste"
main()
"""
    answer = fresh_python(program, *line.split())
    assert answer.returncode == (Exit.ERROR if "nothing" in line else Exit.OK), answer.stderr
    assert answer.stderr.endswith("[]\n"), answer.stderr


def test_without_typer(fresh_python):
    program = """
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name: None if name == "typer" else found(name)
from batiste.cli import main
main()
"""
    answer = fresh_python(program)
    assert (answer.returncode, answer.stdout) == (Exit.ERROR, "")
    assert answer.stderr == "error: the batiste command needs typer: pip install 'batiste[cli]'\n"


def test_without_a_package_that_checkpoints_need(fresh_python):
    program = """
import sys
from batiste.cli import main
sys.modules["xxhash"] = None
sys.argv = ["batiste", "show", "x"]
main()
"""
    answer = fresh_python(program)
    assert (answer.returncode, answer.stdout) == (Exit.ERROR, "")
    assert answer.stderr == "error: this needs xxhash: pip install 'batiste[cli,checkpoint]'\n"


def test_a_mistake_of_ours_keeps_its_traceback(fresh_python):
    program = """
import batiste.cli._show, sys
batiste.cli._show.show = lambda *_, **__: 1 / 0
sys.argv = ["batiste", "show", "x"]
batiste.cli._show
from batiste.cli import main
main()
"""
    answer = fresh_python(program)
    assert answer.returncode == Exit.BUG
    assert "ZeroDivisionError" in answer.stderr
    assert "please report" in answer.stderr


def test_a_long_list_is_cut():
    lines = "\n".join(f"  leaf_{number}: bad" for number in range(9))
    text = one_line(DamagedCheckpointError(path="x", count=9, lines=lines))
    assert "leaf_4: bad; and 4 more." in text
    assert "leaf_5" not in text
    assert "\n" not in text
