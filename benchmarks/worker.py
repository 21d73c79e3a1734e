"""One measurement in a process of its own: ``python -m benchmarks.worker JOB``, a line of JSON in and one out.

A job names a measure, a contender, a spec and how often to repeat; or it asks who of several contenders computes what
raw JAX computes.
"""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from benchmarks import measures

LIMIT = 1200  # seconds


class WorkerError(Exception):
    """A worker did not end well; the last lines of what it wrote."""


def start(job: dict[str, Any], environment: Mapping[str, str]) -> Any:
    """Run a job in a new interpreter and return its answer.

    Raises:
      WorkerError: it failed, or took longer than `LIMIT`.
    """
    command = [sys.executable, "-m", "benchmarks.worker", json.dumps(job)]
    try:
        done = subprocess.run(  # noqa: S603 - this very file
            command, check=False, capture_output=True, text=True, env=dict(environment), timeout=LIMIT
        )
    except subprocess.TimeoutExpired as error:
        message = f"no answer in {LIMIT} s"
        raise WorkerError(message) from error
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise WorkerError("\n".join(lines[-3:]))
    return json.loads(done.stdout.splitlines()[-1])


def describe(spec: Any) -> dict[str, Any] | None:
    """Return a spec as JSON has it."""
    return None if spec is None else dataclasses.asdict(spec)


def answer(job: dict[str, Any]) -> Any:
    """Do a job in this process."""
    if job["measure"] == "import":  # before anything else is imported
        return measures.import_(job["contender"], None, 1)
    from benchmarks.models import compare
    from benchmarks.models.contract import Spec

    spec = Spec.read(job["spec"])
    if job["measure"] == "compare":
        return compare(job["contenders"], spec, train=job["train"])
    return measures.MEASURES[job["measure"]](job["contender"], spec, job["repeats"])


if __name__ == "__main__":
    print(json.dumps(answer(json.loads(sys.argv[1]))))
