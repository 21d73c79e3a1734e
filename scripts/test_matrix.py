"""Run the tests on each supported Python with the newest JAX there: ``python3 scripts/test_matrix.py [OPTIONS]``.

An interpreter is the one that ``BATISTE_PYTHON_311`` or ``BATISTE_PYTHON_312`` names, else ``python3.11`` or
``python3.12`` on the path. One that is not found is said and counted; the run fails if a test fails or none is found.
The options are pytest's.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VERSIONS = ("3.11", "3.12")


def variable(version: str) -> str:
    """Return the environment variable that names the interpreter for ``version``."""
    return f"BATISTE_PYTHON_{version.replace('.', '')}"


def interpreter(version: str) -> str | None:
    """Return an interpreter of ``version`` that starts, or None."""
    named = os.environ.get(variable(version))
    for candidate in (named,) if named else (f"python{version}", "python3", sys.executable):
        path = shutil.which(candidate)
        if path is None:
            continue
        ask = [path, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        answer = subprocess.run(ask, capture_output=True, text=True, check=False)
        if answer.stdout.strip() == version:
            return path
    return None


def run_tests(version: str, python: str, options: list[str]) -> bool:
    """Make or update the environment of ``version``, run the tests in it, and say whether they passed."""
    folder = ROOT / f".venv-{version}"
    inside = str(folder / "bin" / "python")
    if not Path(inside).exists():
        subprocess.run([python, str(ROOT / "scripts" / "make_venv.py"), str(folder)], check=True)
    install = ["-m", "pip", "install", "--quiet", "--upgrade", "--upgrade-strategy", "eager", "--editable", ".[test]"]
    subprocess.run([inside, *install], cwd=ROOT, check=True)
    report = "import sys, jax, flax; print('Python', sys.version, '; jax', jax.__version__, '; flax', flax.__version__)"
    subprocess.run([inside, "-c", report], check=True)
    tests = subprocess.run(
        [inside, "-m", "pytest", "--numprocesses=2", "--dist=worksteal", *options], cwd=ROOT, check=False
    )
    return tests.returncode == 0


def main(options: list[str]) -> int:
    """Test every version and return the exit code."""
    lines: list[str] = []
    passed = failed = missing = 0
    for version in VERSIONS:
        python = interpreter(version)
        if python is None:
            missing += 1
            where = os.environ.get(variable(version)) or f"python{version}"
            what = f"{where} does not start as Python {version}"
            lines.append(f"Python {version}: MISSING: {what}; {variable(version)} names another")
            continue
        if run_tests(version, python, options):
            passed += 1
            lines.append(f"Python {version}: passed")
        else:
            failed += 1
            lines.append(f"Python {version}: FAILED")
    print("\n".join(lines))
    print(f"test-matrix: {passed} passed, {failed} failed, {missing} missing of {len(VERSIONS)} interpreters")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
