"""Scripts written for Flax, run as a user runs them: with Flax, and by `python -m batiste.compat.flax`, unchanged."""

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "scripts"
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.py"))


def printed(*command):
    """Return what a program prints, and what it says on standard error."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *map(str, command)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.mark.parametrize("name", SCRIPTS)
def test_script(name):
    script = FOLDER / f"{name}.py"
    wanted, _ = printed(script)
    got, said = printed("-m", "batiste.compat.flax", script)
    assert got.splitlines() == wanted.splitlines()
    assert "does not have" not in said


def test_scripts():
    assert len(SCRIPTS) >= 3
