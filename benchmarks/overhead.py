"""What the loop costs over the bare compiled step, and how long a save in the background holds it up.

    python -m benchmarks.overhead            # one and ten milliseconds a step, rows every 50 steps
    python -m benchmarks.overhead --quick

Both sides run the same compiled program on the same batches, in turns, block by block; a ratio is that of two blocks
that follow each other, and the median of all is printed, in wall-clock time and in the time of the process. The step
is a chain of matrix products, its length chosen on the machine. The bare loop takes its batches from the same function
and looks at a metric every 50 steps.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from batiste import checkpoint, train

Step = Callable[[Any, Any], tuple[Any, Any]]
Times = tuple[float, float]  # of the wall clock, and of the process
EVERY = 50
BATCH = np.random.default_rng(0).normal(size=(64, 98)).astype(np.float32)  # 25 KB


def batch(_: int) -> dict[str, Any]:
    return {"x": BATCH}


def new_step(repeats: int) -> Step:
    def step(state: Any, data: Any) -> tuple[Any, Any]:
        def once(_: Any, w: Any) -> Any:
            return jnp.tanh(w @ w) * 0.5 + data["x"][:64, :64] * 1e-3

        w = jax.lax.fori_loop(0, repeats, once, state["w"])
        return {"w": w, "n": state["n"] + 1}, {"loss": w.mean(), "norm": jnp.abs(w).max()}

    return jax.jit(step, donate_argnums=0)


def new_state() -> dict[str, Any]:
    return {"w": jnp.eye(64), "n": jnp.int32(0)}


def bare(step: Step, steps: int) -> Times:
    state, start = new_state(), (0.0, 0.0)
    for n in range(steps + EVERY):
        if n == EVERY:
            start = now(state)
        state, metrics = step(state, batch(n))
        if (n + 1) % EVERY == 0:
            float(metrics["loss"])
    return since(start, state)


def looped(step: Step, steps: int, **options: Any) -> Times:
    loop = train.Loop(step, new_state(), batch, log_every=EVERY, log=None, **options)
    start = 0.0, 0.0
    for n, _ in loop:
        if n == EVERY:
            start = now(loop.state)
        if n == steps + EVERY:
            return since(start, loop.state)
    raise RuntimeError


def with_a_run(step: Step, steps: int) -> Times:
    with tempfile.TemporaryDirectory() as folder:
        hooks = [train.early_stopping("loss", patience=1000)]
        return looped(step, steps, run=folder, save_every=10**6, compile_cache=False, hooks=hooks)


def now(state: Any) -> Times:
    jax.block_until_ready(state)
    return time.perf_counter(), time.process_time()


def since(start: Times, state: Any) -> Times:
    end = now(state)
    return end[0] - start[0], end[1] - start[1]


def calibrated(seconds: float) -> tuple[Step, float]:
    """Return how many products take so long."""
    repeats = 8
    while True:
        step, state = new_step(repeats), new_state()
        state, _ = step(state, batch(0))
        jax.block_until_ready(state)
        best = np.inf
        for _ in range(5):
            start = time.perf_counter()
            for _ in range(10):
                state, _ = step(state, batch(0))
            jax.block_until_ready(state)
            best = min(best, (time.perf_counter() - start) / 10)
        if best > 0.8 * seconds:
            return step, best
        repeats = max(repeats + 1, int(repeats * min(4.0, seconds / best)))


def saves(megabytes: int = 200) -> float:
    """Return how long a save in the background holds the program up, and a whole save takes."""
    state = {str(n): jnp.ones((megabytes * 250_000 // 20,)) + n for n in range(20)}
    jax.block_until_ready(state)
    with tempfile.TemporaryDirectory() as folder:
        run = checkpoint.Manager(Path(folder))
        run.save(0, state)
        ratios = []
        for n in range(1, 6):
            start = time.perf_counter()
            run.save_async(n, state)
            held = time.perf_counter() - start
            run.wait()
            start = time.perf_counter()
            run.save(100 + n, state)
            ratios.append(held / (time.perf_counter() - start))
            run.remove(n)
            run.remove(100 + n)
    return statistics.median(ratios)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few blocks, for a look")
    few = parser.parse_args().quick
    print("| step | loop over bare step | process time | with a run and a hook | process time |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for milliseconds, whole in ((1, 400), (10, 100)):
        step, found = calibrated(milliseconds / 1000)
        steps = whole // 4 if few else whole
        ratios: list[list[float]] = [[], [], [], []]
        for contender in (bare, looped, with_a_run):
            contender(step, EVERY)
        for _ in range(3 if few else 15):
            one = bare(step, steps)
            for place, contender in ((0, looped), (2, with_a_run)):
                other = contender(step, steps)
                ratios[place].append(other[0] / one[0])
                ratios[place + 1].append(other[1] / one[1])
        told = " | ".join(f"{statistics.median(each):.3f}" for each in ratios)
        print(f"| {found * 1000:.2f} ms | {told} |", flush=True)
    print(
        f"\nA save of 200 MB in the background holds the loop up for {saves(20 if few else 200):.3f} of a whole save."
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
