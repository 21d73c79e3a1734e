"""What it costs to plan a training step of Llama 3: processor time and memory, with no accelerator.

    python -m benchmarks.plans               # 70 and 405 billion parameters, from shapes
    python -m benchmarks.plans --compile     # 70 billion, with the step compiled for 256 simulated devices
    python -m benchmarks.plans --quick       # 8 billion: does everything run?

Each plan is made in a process of its own. Seconds are those of the processor, from the beginning of the call, after
imports, with those of the process that compiles; memory is the sum of their peaks of the resident set. The bars for 70
billion parameters are 10 seconds without ``--compile``, 120 with it, and 3 GB.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from batiste import plan
from benchmarks import results
from examples import llama


class Case(NamedTuple):
    """A model, its batch, and the mesh that it is planned on."""

    model: str
    tokens: str
    mesh: str


CASES = {
    "8B": Case("llama_8b", "int32[8,8192]", "fsdp=8"),
    "70B": Case("llama_70b", "int32[64,8192]", "fsdp=32,tensor=8"),
    "405B": Case("llama_405b", "int32[512,8192]", "fsdp=256,tensor=8"),
}


def measure(name: str, *, compiles: bool) -> dict[str, Any]:
    """Return what one plan takes, in this process, and what it says."""
    case = CASES[name]
    rules = "fsdp+tensor" if "tensor" in case.mesh else "fsdp"
    model = getattr(llama, case.model)()
    start = sum(os.times()[:4])  # of this process and of those that it has waited for: the compiler is one
    found = plan.plan(model, case.tokens, mesh=case.mesh, rules=rules, hbm="80GB", remat=False, compile=compiles)
    seconds = sum(os.times()[:4]) - start
    peak = 1024 * sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {
        "devices": found.devices,
        "compiled": compiles,
        "seconds": seconds,
        "peak": peak,
        "bytes": found.memory.total,
        "step_seconds": found.step_seconds,
    }


def alone(name: str, *, compiles: bool) -> dict[str, Any]:
    """Return the same, in a process of its own."""
    words = [sys.executable, "-m", "benchmarks.plans", "--one", name, *(["--compile"] if compiles else [])]
    done = subprocess.run(words, capture_output=True, text=True, check=False)  # noqa: S603 - this very program
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compile", action="store_true", help="compile the planned step of 70 billion parameters")
    parser.add_argument("--quick", action="store_true", help="8 billion parameters only, for a look")
    parser.add_argument("--one", choices=CASES, help="one plan in this process, as JSON")
    parser.add_argument("--results", type=Path, help="the folder of the JSON file")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one, compiles=options.compile)))
        return 0
    names = ["8B"] if options.quick else ["70B"] if options.compile else ["70B", "405B"]
    rows: dict[str, Any] = {}
    for name in names:
        rows[name] = row = alone(name, compiles=options.compile)
        print(f"{name} on {row['devices']} devices: {row['seconds']:.1f} s, {row['peak'] / 2**20:.0f} MiB", flush=True)
    if options.results is not None:
        file = "plans_compiled" if options.compile else "plans"
        results.write(options.results, file, {"machine": results.machine(), "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
