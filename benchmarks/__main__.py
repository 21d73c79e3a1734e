"""``python -m benchmarks``: batiste beside raw JAX and Flax Linen, in one run.

Cold rows run each library in processes of their own, in a shuffled order, several times over; warm rows run all
libraries in one process, in turn. Figures are CPU seconds, since wall time wavers with what else the machine does. A
ratio is the median of ratios of neighbouring measurements, with the smallest and the largest beside it.
"""

import argparse
import json
import pathlib
import random
import statistics
import subprocess
import sys
from typing import Any

COLD = {
    "init_24": "cold init, 24 blocks, eager",
    "init_48": "cold init, 48 blocks, eager",
    "jit_init_24": "cold init, 24 blocks, under jit",
    "jit_init_48": "cold init, 48 blocks, under jit",
}
WARM = {
    "trace_48": "trace of apply, 48 blocks",
    "trace_grad_48": "trace of the gradient, 48 blocks",
    "trace_mlp_100": "trace of apply, 100 Dense",
    "eager_mlp_10": "eager apply, 10 Dense",
}
LIBRARIES = ("batiste", "raw", "linen")


def run(row: str, library: str, rounds: int) -> Any:
    """Run one measurement in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.worker", row, library, str(rounds)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - this file's own worker
    return json.loads(done.stdout.splitlines()[-1])


def cold_samples(row: str, rounds: int) -> tuple[list[dict[str, float]], dict[str, int]]:
    """Return CPU seconds by library for each round, and the number of programs compiled."""
    samples: list[dict[str, float]] = []
    programs: dict[str, int] = {}
    for round_ in range(rounds):
        order = list(LIBRARIES)
        random.Random(round_).shuffle(order)  # noqa: S311 - an order, not a secret
        sample: dict[str, float] = {}
        for library in order:
            result = run(row, library, rounds)
            sample[library], programs[library] = result["seconds"], int(result["programs"])
        samples.append(sample)
    return samples, programs


def ratio(samples: list[dict[str, float]], to: str) -> tuple[float, float, float]:
    """Return the median, smallest and largest ratio of batiste to another library."""
    ratios = [sample["batiste"] / sample[to] for sample in samples]
    return statistics.median(ratios), min(ratios), max(ratios)


def line(name: str, samples: list[dict[str, float]], programs: dict[str, int] | None) -> str:
    """Return one row of the table."""
    seconds = {library: statistics.median(sample[library] for sample in samples) for library in LIBRARIES}
    cells = [f"{1e3 * seconds[library]:10.1f}" for library in LIBRARIES]
    for other in ("raw", "linen"):
        median, low, high = ratio(samples, other)
        cells.append(f"{median:6.2f} ({low:.2f}-{high:.2f})".rjust(20))
    counted = "" if programs is None else "  programs: " + ", ".join(f"{n} {programs[n]}" for n in LIBRARIES)
    return f"{name:36}" + " ".join(cells) + counted


def main() -> None:
    """Measure every row, print the table and write the figures as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how often everything is measured (default 3)")
    parser.add_argument("--rows", nargs="*", default=[*COLD, *WARM], choices=[*COLD, *WARM], help="which rows")
    parser.add_argument("--json", type=pathlib.Path, default=pathlib.Path("runs/benchmarks.json"), help="the figures")
    options = parser.parse_args()
    head = "".join(f"{library + ' ms':>11}" for library in LIBRARIES)
    print(f"{'CPU time, medians':36}{head[1:]} {'batiste / raw JAX':>20} {'batiste / Linen':>20}", flush=True)
    figures: dict[str, Any] = {}
    for row in options.rows:
        programs = None
        if row in COLD:
            samples, programs = cold_samples(row, options.rounds)
        else:
            samples = run(row, "all", options.rounds)
        figures[row] = {"samples": samples, "programs": programs}
        print(line((COLD | WARM)[row], samples, programs), flush=True)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(figures, indent=1))
    print(f"written to {options.json}")


if __name__ == "__main__":
    main()
