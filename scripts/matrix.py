"""Run a quick part of the tests on each supported Python, with the oldest and the newest packages: ``make matrix``.

    python scripts/matrix.py [3.11 | 3.12 | 3.13 | 3.14 | oldest | newest | nightly ...]

The words pick some of the rows; without any, all run. pyenv's interpreters are taken where they lie; others ``uv``
finds, or brings where it may; one that it cannot have is named and skipped. ``oldest`` takes the lowest version that
``pyproject.toml`` allows of each package, ``newest`` the highest there is. ``nightly``, which runs only where it is
named, takes the newest packages and last night's JAX, from the index of nightly releases that JAX's installation page
names, and ``BATISTE_NIGHTLY_INDEX`` here. ``BATISTE_MATRIX_TESTS`` names other tests, such as ``tests``
for all.

Exit codes: 0 if every row that ran passed and at least one did, else 1.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
USUAL = ("oldest", "newest")
RESOLUTIONS = {"oldest": "lowest-direct", "newest": "highest", "nightly": "highest"}
SMOKE = (
    "tests/architecture/test_light.py",
    "tests/checkpoint/test_files.py",
    "tests/core",
    "tests/module",
    "tests/nn/test_linear.py",
    "tests/shard",
    "tests/struct",
    "tests/test_docs.py",
    "tests/train/test_state.py",
)


def uv() -> str:
    """Return the path of uv, which is beside this interpreter or on the path."""
    beside = Path(sys.executable).with_name("uv")
    return str(beside) if beside.exists() else shutil.which("uv") or "uv"


def interpreter(python: str) -> str:
    """Return the path of pyenv's interpreter of a version, which uv does not find by itself, else the version."""
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    return str(next(versions.glob(f"{python}.*/bin/python"), python))


def environment(python: str, resolution: str) -> Path | None:
    """Make the environment of a row anew and return its interpreter, or None where there is no such Python."""
    folder = ROOT / "build" / "matrix" / f"{python}-{resolution}"
    made = subprocess.run(
        [uv(), "venv", "--quiet", "--clear", "--python", interpreter(python), str(folder)], check=False
    )
    if made.returncode:
        return None
    inside = folder / "bin" / "python"
    install = [uv(), "pip", "install", "--quiet", "--python", str(inside), "--resolution", RESOLUTIONS[resolution]]
    subprocess.run([*install, "--editable", ".[all]", "--group", "test"], cwd=ROOT, check=True)
    if resolution == "nightly":
        latest = ["--prerelease", "allow", "--upgrade", "--no-deps", "jax", "jaxlib", "--index-url"]
        subprocess.run([*install, *latest, os.environ["BATISTE_NIGHTLY_INDEX"]], cwd=ROOT, check=True)
    return inside


def row(python: str, resolution: str) -> str:
    """Run the tests of a row and return one word: passed, FAILED or missing."""
    inside = environment(python, resolution)
    if inside is None:
        return "missing"
    report = "import sys, jax, flax; print('Python', sys.version, '; jax', jax.__version__, '; flax', flax.__version__)"
    subprocess.run([str(inside), "-c", report], check=True)
    named = os.environ.get("BATISTE_MATRIX_TESTS", "").split()
    tests = named or [path for path in SMOKE if (ROOT / path).exists()]
    done = subprocess.run(
        [str(inside), "-m", "pytest", "--quiet", "--numprocesses=2", "--dist=worksteal", *tests], cwd=ROOT, check=False
    )
    return "FAILED" if done.returncode else "passed"


def main(words: list[str]) -> int:
    """Run the rows that the words pick and return the exit code."""
    unknown = [word for word in words if word not in PYTHONS and word not in RESOLUTIONS]
    if unknown:
        print(f"unknown: {', '.join(unknown)}; known: {', '.join([*PYTHONS, *RESOLUTIONS])}")
        return 2
    if "nightly" in words and not os.environ.get("BATISTE_NIGHTLY_INDEX"):
        print("BATISTE_NIGHTLY_INDEX is not set: the address of the nightly releases, from JAX's installation page")
        return 2
    results = {
        (python, resolution): row(python, resolution)
        for python in [word for word in words if word in PYTHONS] or PYTHONS
        for resolution in [word for word in words if word in RESOLUTIONS] or USUAL
    }
    for (python, resolution), result in results.items():
        print(f"Python {python}, {resolution}: {result}")
    found = list(results.values())
    print(f"matrix: {found.count('passed')} passed, {found.count('FAILED')} failed, {found.count('missing')} missing")
    return 1 if "FAILED" in found or "passed" not in found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
