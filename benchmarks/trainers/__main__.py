"""The same three tasks with batiste, Lightning, Keras ``fit`` and Hugging Face's ``Trainer``: lines, and what resumes.

    python -m benchmarks.trainers lines              # how many lines each task takes
    python -m benchmarks.trainers run with_keras     # runs the three, and kills and resumes the third

The tasks, on handwritten digits with BatchNorm and dropout: *plain*, with an evaluation and a row in a file each
epoch; *more*, with accumulation over two parts, clipping, an average of the weights, bfloat16, early stopping and the
best state kept; *resumed*, saved every 10 steps, killed in the middle of an epoch and started again. The last prints
whether the weights in the end are those of a run that was left alone. A task's lines are those of the model and its
own, without blank ones and comments.
"""

import importlib
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

PROGRAMS = ("with_batiste", "with_lightning", "with_keras", "with_transformers")
TASKS = ("plain", "more", "resumed")
KILLED_AT = 45  # of 28 steps in an epoch; the last checkpoint is that of step 40
HERE = Path(__file__).resolve().parent


def lines(program: str) -> dict[str, int]:
    """Return how many lines each task takes in a program."""
    counts: dict[str, int] = {}
    part = ""
    for line in (HERE / f"{program}.py").read_text(encoding="utf-8").splitlines():
        if line[2:] in ("model", *TASKS, "end") and line.startswith("# "):
            part = line[2:]
        elif part and line.strip() and not line.lstrip().startswith("#"):
            counts[part] = counts.get(part, 0) + 1
    return {task: counts["model"] + counts[task] for task in TASKS}


def run(name: str) -> None:
    """Run the tasks of a program and print what they came to."""
    program = importlib.import_module(f"benchmarks.trainers.{name}")
    with tempfile.TemporaryDirectory() as folder:
        for task in ("plain", "more"):
            Path(folder, task).mkdir()
            result = getattr(program, task)(str(Path(folder, task)))
            print(f"{name}: {task}: accuracy {program.accuracy(result, folder):.3f}", flush=True)
        ends = {}
        for which, at in (("alone", 0), ("killed", KILLED_AT), ("killed", 0)):
            Path(folder, which).mkdir(exist_ok=True)
            status = subprocess.run(  # noqa: S603 - this very program
                [sys.executable, "-m", "benchmarks.trainers", "life", name, f"{folder}/{which}", str(at)], check=False
            ).returncode
            if status != (-signal.SIGKILL if at else 0):
                sys.exit(f"{name}: {which}: {status}")
            if not at:
                ends[which] = list(np.load(f"{folder}/{which}/weights.npz").values())
        same = all(np.array_equal(a, b) for a, b in zip(ends["alone"], ends["killed"], strict=True))
        off = max(float(np.abs(a - b).max()) for a, b in zip(ends["alone"], ends["killed"], strict=True))
        print(f"{name}: resumed: {'bit for bit' if same else f'other weights, by up to {off:.2g}'}", flush=True)


def life(name: str, folder: str, at: int) -> None:
    """Run the third task, killed after a step, and write its weights."""
    program = importlib.import_module(f"benchmarks.trainers.{name}")
    hook = program.ending(at, lambda: os.kill(os.getpid(), signal.SIGKILL))
    np.savez(f"{folder}/weights.npz", *map(np.asarray, program.weights(program.resumed(folder, hook))))


def main() -> int:
    """Do what the command line asks."""
    command, *rest = sys.argv[1:] or ["lines"]
    if command == "lines":
        for name in PROGRAMS:
            print(f"{name}: {lines(name)}")
    elif command == "run":
        for name in rest:
            run(name)
    else:
        life(rest[0], rest[1], int(rest[2]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
