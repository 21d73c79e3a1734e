"""What an editor knows: the files under `tests/typing/` are checked by pyright, and never run.

They say what a type must be with `assert_type`, and what must be an error with `# pyright: ignore[rule]`: a comment
that suppresses nothing is itself an error.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = ROOT / "tests" / "typing"


def complaints(folder: Path, scratch: Path) -> list[str]:
    """Return what pyright, at its strictest, says about the files in a folder."""
    config = scratch / "pyrightconfig.json"
    settings = {
        "include": [os.path.relpath(folder, scratch)],
        "extraPaths": [os.path.relpath(ROOT / "src", scratch)],
        "typeCheckingMode": "strict",
        "pythonVersion": "3.11",
        "reportUnknownMemberType": False,
        "reportUnnecessaryTypeIgnoreComment": "error",
    }
    config.write_text(json.dumps(settings), encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "pyright",
        "--outputjson",
        "--pythonpath",
        sys.executable,
        "--project",
        str(config),
    ]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    report = json.loads(answer.stdout)
    assert report["summary"]["filesAnalyzed"] == len(list(folder.rglob("*.py")))
    return [
        f"{Path(row['file']).name}:{row['range']['start']['line'] + 1}: {row['message']}"
        for row in report["generalDiagnostics"]
    ]


def test_types_are_as_promised(tmp_path):
    assert list(PROGRAMS.rglob("*.py")), "no files under tests/typing"
    assert complaints(PROGRAMS, tmp_path) == []


def test_a_wrong_type_is_found(tmp_path):
    program = tmp_path / "wrong" / "program.py"
    program.parent.mkdir()
    program.write_text(
        "from typing import assert_type\n"
        "from batiste.errors import nearest\n"
        "assert_type(nearest('a', ['b']), int)\n"
        "nearest('a', ['b'])  # pyright: ignore[reportArgumentType]\n",
        encoding="utf-8",
    )
    found = complaints(program.parent, tmp_path)
    assert [line.split(": ")[0] for line in found] == ["program.py:3", "program.py:4"]
