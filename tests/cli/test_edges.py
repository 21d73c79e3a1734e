"""The command line where something is odd: what lies in files of others, names, endings, the output itself."""

import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from batiste import checkpoint
from batiste.cli._app import app
from batiste.cli._report import Exit


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint.save("run.npz", {"params": {"w": np.ones((40, 4), np.float32)}})


def run(*arguments):
    return CliRunner().invoke(app, list(arguments))


def write_opaque():
    Path("a.pkl").write_bytes(pickle.dumps({"w": np.ones(3), "x": {1, 2}, "y": print}))


def test_what_is_opaque_is_shown():
    write_opaque()
    said = run("show", "a.pkl")
    assert said.exit_code == Exit.OK
    assert "1 leaf" in said.stdout
    assert said.stdout.splitlines()[-3:] == [
        "2 entries neither arrays nor plain values:",
        "  x: builtins.set",
        "  y: builtins.print",
    ]
    assert json.loads(run("show", "a.pkl", "--json").stdout)["opaque"] == {"x": "builtins.set", "y": "builtins.print"}
    assert "builtins.set" in run("show", "a.pkl", "x").stdout
    assert run("show", "a.pkl", "--paths").stdout == "w\n"


@pytest.mark.parametrize("also", [(), ("--dry-run",)])
def test_what_is_opaque_is_left_out_only_by_a_choice(also):
    write_opaque()
    for command in (
        ("convert", "a.pkl", "new.npz"),
        ("cast", "a.pkl", "new.npz", "bfloat16"),
        ("diff", "a.pkl", "a.pkl"),
    ):
        refused = run(*command, *(also if command[0] != "diff" else ()))
        assert refused.exit_code == Exit.ERROR
        assert "'x' is builtins.set" in refused.stderr
    assert run("select", "a.pkl", "new.npz", "w", *also).exit_code == Exit.OK
    assert run("diff", "a.pkl", "a.pkl", "w").exit_code == Exit.OK
    assert Path("new.npz").exists() is (also == ())


@pytest.mark.parametrize("part", [0, 5, 30, 0.5, 0.99])
@pytest.mark.parametrize("name", ["a.safetensors", "a.npz", "a.msgpack", "a.pkl", "a.npy"])
def test_a_cut_file_does_not_verify(name, part):
    array = np.arange(3000.0)
    if name == "a.pkl":
        Path(name).write_bytes(pickle.dumps({"w": array}))
    elif name == "a.npy":
        np.save(name, array)
    else:
        checkpoint.save(name, {"w": array})
    assert run("verify", name).exit_code == Exit.OK
    raw = Path(name).read_bytes()
    Path(name).write_bytes(raw[: part if isinstance(part, int) else int(len(raw) * part)])
    said = run("verify", "run.npz", name)
    assert said.exit_code == Exit.DIFFERS
    assert "run.npz: ok" in said.stdout
    assert f"{name}: DAMAGED" in said.stdout


def test_what_is_no_checkpoint_at_all_is_an_error():
    Path("folder").mkdir()
    for path in ("folder", "absent"):
        assert run("verify", path).exit_code == Exit.ERROR


@pytest.mark.parametrize(
    ("given", "meant"),
    [("bfloat17", "bfloat16"), ("flaot32", "float32"), ("fp16", "float16"), ("bf16", "bfloat16"), ("F32", "float32")],
)
def test_the_nearest_dtype(given, meant):
    refused = run("cast", "run.npz", "new.npz", given)
    assert refused.exit_code == Exit.ERROR
    assert f"Did you mean '{meant}'?" in refused.stderr


@pytest.mark.parametrize("name", ["new.safetensor", "new.npy", "new.pth", "new.NPZ"])
@pytest.mark.parametrize("also", [(), ("--dry-run",)])
def test_an_ending_that_looks_like_one(name, also):
    for command in (
        ("convert", "run.npz", name),
        ("cast", "run.npz", name, "bfloat16"),
        ("select", "run.npz", name, "**"),
    ):
        refused = run(*command, *also)
        assert refused.exit_code == Exit.ERROR
        assert "Write a `." in refused.stderr
    assert not Path(name).exists()


LONG = "x" * 5000
COMMANDS = (
    ("show", LONG),
    ("show", f"run.npz/{LONG}"),
    ("diff", "run.npz", LONG),
    ("verify", LONG),
    ("select", "run.npz", LONG, "**"),
    ("convert", "run.npz", LONG),
    ("convert", "run.npz", f"{LONG}.npz"),
    ("convert", LONG, "new.npz"),
    ("import-torch", "run.npz", "new.npz", "--mapping", LONG),
    ("import-torch", "run.npz", "new.npz", "--mapping", "minilm", "--like", LONG),
)


@pytest.mark.parametrize("number", range(len(COMMANDS)))
def test_paths_that_are_too_long(number):
    refused = run(*COMMANDS[number])
    assert refused.exit_code == Exit.ERROR
    assert refused.stderr.count("\n") == 1
    assert refused.stderr.startswith("error: ")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
@pytest.mark.parametrize("command", ["show run.npz", "verify run.npz --json", "--help"])
def test_a_full_disk_behind_the_output(fresh_python, command):
    program = """
import os, sys
os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
from batiste.cli import main
sys.argv[0] = "batiste"
main()
"""
    answer = fresh_python(program, *command.split())
    assert answer.returncode == Exit.ERROR
    assert answer.stderr == "error: No space left on device [system]\n"
    assert sys.executable not in answer.stderr
