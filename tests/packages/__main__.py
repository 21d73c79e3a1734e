"""``make test-packages``: small programs of published packages, each run with Flax and with batiste in its place.

A case is a file in ``cases`` that prints lines. It runs as it is, and under ``python -m batiste.compat.flax``; the
lines are equal, and numbers in them within a relative 1e-3 (the programs train, and sums are rounded differently in
two compilations). Lines that tell a time are left out. The versions are in ``packages.txt``.
"""

import argparse
import math
import os
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
NUMBER = re.compile(r"[-+]?\d+\.?\d*(?:e[-+]?\d+)?")
TIMED = re.compile(r"\d s$|it/s|\| *\d+/\d+")
CLOSE = 1e-3


def run(case: Path, limit: float, *, with_batiste: bool) -> tuple[int, list[str], str]:
    """Return the exit status of a case, the lines that it prints, and the end of what it says on standard error."""
    ours = ["-m", "batiste.compat.flax"] if with_batiste else []
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(HERE.parents[1] / "src")}
    command = [sys.executable, "-P", *ours, str(case)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit, env=env)
    except subprocess.TimeoutExpired:
        return 124, [], f"it takes more than {limit:g} s"
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip() and not TIMED.search(line)]
    return done.returncode, lines, "\n".join(done.stderr.strip().splitlines()[-12:])


def are_close(one: str, other: str) -> bool:
    """Return whether two lines are equal but for the rounding of numbers in them."""
    if NUMBER.sub("#", one) != NUMBER.sub("#", other):
        return False
    pairs = zip(NUMBER.findall(one), NUMBER.findall(other), strict=True)
    return all(math.isclose(float(a), float(b), rel_tol=CLOSE, abs_tol=CLOSE) for a, b in pairs)


def judge(case: Path, limit: float) -> str:
    """Return how a case went: "passed", or what is wrong."""
    status, wanted, said = run(case, limit, with_batiste=False)
    if status or not wanted:
        return f"failed: the case does not run with Flax itself\n{said}"
    status, got, said = run(case, limit, with_batiste=True)
    if status:
        return f"failed: ends with {status} on batiste\n{said}"
    if len(got) != len(wanted):
        return f"failed: prints {len(got)} lines on batiste, {len(wanted)} on Flax"
    apart = [f"  Flax:    {a}\n  batiste: {b}" for a, b in zip(wanted, got, strict=True) if not are_close(a, b)]
    return "failed: other lines\n" + "\n".join(apart) if apart else "passed"


def main() -> None:
    """Run the cases that are named, or all, and end with their count."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("cases", nargs="*", help="names of files in tests/packages/cases; by default all")
    parser.add_argument("--limit", type=float, default=600, help="seconds for a case in one of the two ways (600)")
    given = parser.parse_args()
    names = given.cases or sorted(path.stem for path in (HERE / "cases").glob("*.py"))
    passed = 0
    for name in names:
        verdict = judge(HERE / "cases" / f"{name}.py", given.limit)
        passed += verdict == "passed"
        sys.stdout.write(f"{name}: {verdict}\n")
        sys.stdout.flush()
    sys.stdout.write(f"{passed} passed, {len(names) - passed} failed\n")
    sys.exit(passed != len(names))


if __name__ == "__main__":
    main()
