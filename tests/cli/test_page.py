"""The page of the command line: every command on it prints what the page says."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from batiste.cli._app import app
from tests.markdown import execute, program, python_blocks

PAGE = Path(__file__).resolve().parent.parent.parent / "docs/concepts/cli.md"


def commands(text):
    """Yield each command of the page's consoles with the output below it."""
    for block in re.findall(r"```console\n(.*?)```", text, flags=re.DOTALL):
        for entry in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            line, _, output = entry.partition("\n")
            yield line, output


@pytest.mark.usefixtures("users_rules")
def test_the_page_is_right(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text(encoding="utf-8")
    with program("page") as module:
        for block in python_blocks(text):
            execute(block, "cli.md", module)
    found = list(commands(text))
    assert len(found) > 10
    for line, output in found:
        printed = None
        for part in line.split(" | "):
            name, *words = shlex.split(part)
            assert name == "batiste"
            answer = CliRunner().invoke(app, words, input=printed)
            assert answer.stderr == ""
            printed = answer.stdout
        assert printed == output, line


def test_every_command_is_on_the_page():
    text = PAGE.read_text(encoding="utf-8")
    names = [command.callback.__name__.replace("_", "-") for command in app.registered_commands]
    assert len(names) == 15
    assert [name for name in names if f"batiste {name} " not in text] == []
