"""Attack every way in with atheris, which looks for inputs that reach new code: ``python -m tests.fuzz [TARGET...]``.

Each target has a process of its own, for ``--seconds`` (one minute). An input that causes anything but success or an
error of the catalogue is written to ``--out`` once for each place that it comes from, with the traceback beside it, and
so is one that takes too long or too much memory. The exit code is 1 where there is any. ``--again FILE`` tries one
input.
"""

# ruff: noqa: T201 - a program, which prints

import argparse
import contextlib
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.fuzz.targets import ALLOWED, TARGETS, bounded_memory


def run(name, out, seconds):
    """Fuzz one target in a process of its own and say how it went; return whether there is a finding."""
    command = [sys.executable, "-m", "tests.fuzz.attack", name, str(out), str(seconds)]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    for folder in Path(tempfile.gettempdir()).glob(f"batiste-fuzz-{name}-*"):
        shutil.rmtree(folder, ignore_errors=True)
    runs = re.search(r"stat::number_of_executed_units:\s*([0-9]+)", done.stderr)
    slowest = re.search(r"stat::slowest_unit_time_sec:\s*([0-9]+)", done.stderr)
    found = sorted(path for path in out.glob(f"{name}-*") if path.suffix != ".txt")
    count = f"{int(runs[1]):,} inputs" if runs else "ended early"
    print(f"{name}: {count}, slowest {slowest[1] if slowest else '?'} s, {len(found)} findings", flush=True)
    for path in found:
        told = path.with_suffix(".txt")
        last = told.read_text(encoding="utf-8").strip().splitlines()[-1] if told.exists() else "too slow, or too large"
        print(f"  {path}: {last[:160]}", flush=True)
    if done.returncode or not runs:
        print("\n".join(done.stderr.splitlines()[-20:]), file=sys.stderr)
    return bool(found or done.returncode)


def main():
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.partition("\n")[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; all if none is named")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--out", type=Path, default=Path("build/fuzz"), help="where findings are written")
    parser.add_argument("--again", type=Path, metavar="FILE", help="try this input on the one target that is named")
    given = parser.parse_args()
    unknown = [name for name in given.targets if name not in TARGETS]
    if unknown or (given.again and len(given.targets) != 1):
        parser.error(f"no such target: {unknown[0]}" if unknown else "--again needs one target")
    out = given.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    if given.again:
        target = TARGETS[given.targets[0]]
        with tempfile.TemporaryDirectory() as folder, contextlib.suppress(*ALLOWED), bounded_memory():
            target.seeds(Path(folder))
            target.use(target.write(given.again.read_bytes(), Path(folder)))
        return 0
    failed = [name for name in given.targets or TARGETS if run(name, out, given.seconds)]
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
