"""Every argument and option of every command: what it cannot be is said in a line, and nothing is written.

The commands and their options come from the program itself. A new one needs a row in ``COMMANDS`` or a reason in
``ELSEWHERE``.
"""

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from batiste import checkpoint, importers
from batiste.cli._app import app

NO_FILE = ("", "nowhere.npz", "nowhere/at/all", ".", "a\0b", "notes.txt")
NO_NEW_FILE = ("", "a.safetensor", "a\0b", "notes.txt", "one.npz")
NO_PATTERN = ("nowhere/*", "PARAMS/**", "[", "")
NO_NUMBER = ("many", "nan", "-1", "")
PLAIN = {"source": NO_FILE, "target": NO_NEW_FILE}
COMMANDS = {
    "show": (["one.npz"], {"path": NO_FILE, "patterns": NO_PATTERN, "depth": (*NO_NUMBER, "1.5")}),
    "diff": (
        ["one.npz", "two.npz"],
        {"left": NO_FILE, "right": NO_FILE, "patterns": NO_PATTERN, "rtol": NO_NUMBER, "atol": NO_NUMBER},
    ),
    "verify": (["one.npz"], {"paths": NO_FILE}),
    "select": (["one.npz", "new.npz", "params/**"], {**PLAIN, "patterns": NO_PATTERN, "exclude": NO_PATTERN}),
    "rename": (
        ["one.npz", "new.npz", "params/**=weights/{1}"],
        {**PLAIN, "rules": ("", "params", "nowhere/*=a", "params/**={7}", "params/**=", "=a")},
    ),
    "cast": (
        ["one.npz", "new.npz", "float16"],
        {**PLAIN, "dtype": ("flaot16", "", "FLOAT", "3"), "pattern": NO_PATTERN},
    ),
    "merge": (["one.npz", "new.npz"], {"paths": NO_FILE, "overwrite": ("LAST", "", "both")}),
    "average": (
        ["one.npz", "two.npz", "new.npz"],
        {"paths": NO_FILE, "weights": ("1", "1,2,3", "a,b", "0,0", "nan,1", "inf,1", "")},
    ),
    "stack": (["layers.npz", "new.npz", "h"], {**PLAIN, "name": ("H", "g", ""), "within": NO_PATTERN[:3]}),
    "unstack": (["stacked.npz", "new.npz", "h"], {**PLAIN, "name": ("H", "g", ""), "within": NO_PATTERN[:3]}),
    "convert": (["one.npz", "new.safetensors"], PLAIN),
    "import-torch": (
        ["torch.safetensors", "new.npz", "--mapping", "mapping.json"],
        {
            **PLAIN,
            "mapping": ("", "nowhere.json", "notes.txt", "mini"),
            "like": NO_FILE,
            "ignore": ("nowhere.*",),
            "dtype": ("CAST", "", "flaot32"),
            "nested": ("nowhere",),
        },
    ),
}
COMMANDS["view"] = (
    ["one.npz"],
    {
        "targets": NO_FILE,
        "diff": NO_FILE,
        "stats": ("many", "-1", "nan", "", "1 GW"),
        "spectra": NO_PATTERN,
        "shapes": ("2,3",),
        "options": ("train=False",),
        "output": ("", "a\0b", "one.npz", "nowhere/page.html"),
    },
)
ELSEWHERE = {
    "diagnose": "works on the code of a model; tests/diagnose has what its tools refuse",
    "plan": "works on the code of a model; tests/plan has what plan.plan refuses",
    "runs": "a group of commands; tests/cli/test_runs.py has what each refuses",
}


def options():
    """Yield the commands with their arguments and options that are no flags."""
    for name, command in typer.main.get_command(app).commands.items():
        if not command.hidden:
            yield name, [one for one in command.params if not getattr(one, "is_flag", False) and one.name != "help"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tree = {"params": {"w": np.ones((3, 2), np.float32)}}
    for name in ("one.npz", "two.npz"):
        checkpoint.save(name, tree)
    checkpoint.save("layers.npz", {"h_0": {"w": np.ones(2)}, "h_1": {"w": np.ones(2)}})
    checkpoint.save("stacked.npz", {"h": {"w": np.ones((2, 2))}})
    checkpoint.save("torch.safetensors", {"fc.weight": np.ones((3, 2), np.float32)})
    (tmp_path / "notes.txt").write_text("no checkpoint\n")
    (tmp_path / "mapping.json").write_text(importers.dump_mapping([("fc", "params/fc", importers.Linear())]))
    return tmp_path


def with_value(command, usual, parameter, value):
    """Return the arguments of a command with one of them replaced, or with an option more."""
    opts = [opt for opt in parameter.opts if opt.startswith("-")]
    if opts:
        if opts[0] in usual:
            at = usual.index(opts[0])
            return [*usual[:at], f"{opts[0]}={value}", *usual[at + 2 :]]
        return [*usual, f"{max(opts, key=len)}={value}"]
    names = [one.name for one in dict(options())[command] if not any(opt.startswith("-") for opt in one.opts)]
    at = names.index(parameter.name)
    return [*usual[:at], value, *usual[at + 1 :]]


def test_every_command_has_a_row():
    known = dict(options())
    assert sorted(known) == sorted([*COMMANDS, *ELSEWHERE])
    for name, (_, domains) in COMMANDS.items():
        assert sorted(one.name for one in known[name]) == sorted(domains), name


@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_wrong_is_said(here, command):
    usual, domains = COMMANDS[command]
    before = sorted(here.rglob("*"))
    problems = []
    for parameter in dict(options())[command]:
        for value in domains[parameter.name]:
            arguments = with_value(command, usual, parameter, value)
            done = CliRunner().invoke(app, [command, *arguments])
            wrong = done.exit_code == 0 or not isinstance(done.exception, SystemExit) or "Traceback" in done.stderr
            if wrong or not done.output.strip() or sorted(here.rglob("*")) != before:
                problems.append(f"{command} {arguments}: {done.exit_code} {done.exception!r} {done.stderr[-200:]}")
                for path in set(here.rglob("*")) - set(before):
                    path.unlink() if path.is_file() else None
    assert problems == []


@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_usual_is_done(here, command):
    assert here.is_dir()
    done = CliRunner().invoke(app, [command, *COMMANDS[command][0]])
    assert (done.exit_code, done.stderr) == (0, "")
