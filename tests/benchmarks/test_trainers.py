"""The table of lines in the docs is that of the programs."""

import re
from pathlib import Path

import pytest

from benchmarks.trainers import __main__ as trainers

PAGE = Path(__file__).resolve().parents[2] / "docs" / "concepts" / "runs.md"


@pytest.mark.parametrize("task", trainers.TASKS)
def test_the_lines_in_the_docs_are_those_of_the_programs(task):
    (row,) = re.findall(rf"^\| lines, \*{task}\* \|(.*)\|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    told = [int(re.match(r" (\d+)", cell)[1]) for cell in row.split("|")]
    assert told == [trainers.lines(program)[task] for program in trainers.PROGRAMS]


@pytest.mark.parametrize("program", trainers.PROGRAMS)
def test_every_program_has_every_task(program):
    text = (trainers.HERE / f"{program}.py").read_text(encoding="utf-8")
    compile(text, program, "exec")
    for name in (*trainers.TASKS, "weights", "accuracy", "ending"):
        assert f"\ndef {name}(" in text
