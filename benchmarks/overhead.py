"""What the loop costs over the bare compiled step, and how long a save in the background holds it up.

    python -m benchmarks.overhead            # one and ten milliseconds a step, rows every 50 steps
    python -m benchmarks.overhead --quick    # few blocks: does everything run?

The bars: at most 1.05 of the bare step, and at most 0.1 of a whole save of 200 MB.

Both sides run the same compiled program on the same batches, in turns, block by block; a ratio is that of two blocks
that follow each other, and the median of all is printed, in wall-clock time and in the time of the process. The step
is a chain of matrix products, its length chosen on the machine by the time of the process. The bare loop takes its
batches from the same function and looks at a metric every 50 steps.
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
from benchmarks import results

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
    """Return a step that takes so long, and how long it takes, in time of the process."""
    repeats = 8
    while True:
        step, state = new_step(repeats), new_state()
        state, _ = step(state, batch(0))
        jax.block_until_ready(state)
        best = np.inf
        for _ in range(5):
            start = time.process_time()
            for _ in range(10):
                state, _ = step(state, batch(0))
            jax.block_until_ready(state)
            best = min(best, (time.process_time() - start) / 10)
        if best > 0.8 * seconds:
            return step, best
        repeats = max(repeats + 1, int(repeats * min(4.0, seconds / best)))


def loops(milliseconds: int, steps: int, blocks: int) -> dict[str, Any]:
    """Return the ratios of the loop, and of one with a run and a hook, to the bare step."""
    step, found = calibrated(milliseconds / 1000)
    for contender in (bare, looped, with_a_run):
        contender(step, EVERY)
    ratios: dict[str, list[float]] = {}
    for _ in range(blocks):
        one = bare(step, steps)
        for name, contender in (("loop", looped), ("loop with a run", with_a_run)):
            other = contender(step, steps)
            for clock, place in (("wall", 0), ("process", 1)):
                ratios.setdefault(f"{name}, {clock}", []).append(other[place] / one[place])
    return {"step": found, **{name: statistics.median(each) for name, each in ratios.items()}}


def saves(megabytes: int) -> dict[str, float]:
    """Return how long a save in the background holds the program up, how long a whole save takes, and the ratio."""
    state = {str(n): jnp.ones((megabytes * 250_000 // 20,)) + n for n in range(20)}
    jax.block_until_ready(state)
    held: list[float] = []
    whole: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        run = checkpoint.Manager(Path(folder))
        run.save(0, state)
        for n in range(1, 6):
            start = time.perf_counter()
            run.save_async(n, state)
            held.append(time.perf_counter() - start)
            run.wait()
            start = time.perf_counter()
            run.save(100 + n, state)
            whole.append(time.perf_counter() - start)
            run.remove(n)
            run.remove(100 + n)
    ratio = statistics.median(one / other for one, other in zip(held, whole, strict=True))
    return {"held": statistics.median(held), "whole": statistics.median(whole), "ratio": ratio}


def main() -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few blocks, for a look")
    parser.add_argument("--results", type=Path, help="the folder of the JSON file")
    options = parser.parse_args()
    few = options.quick
    rows = []
    for milliseconds, whole in ((1, 400), (10, 100)):
        rows.append(loops(milliseconds, whole // 4 if few else whole, 3 if few else 15))
        told = ", ".join(f"{name} {ratio:.3f}" for name, ratio in rows[-1].items() if name != "step")
        print(f"{rows[-1]['step'] * 1000:.2f} ms a step: {told}", flush=True)
    save = saves(20 if few else 200)
    print(f"a save in the background holds the program up for {save['held'] * 1000:.1f} ms, a whole one takes "
          f"{save['whole'] * 1000:.0f} ms: {save['ratio']:.3f}")  # fmt: skip
    if options.results is not None:
        results.write(options.results, "overhead", {"machine": results.machine(), "steps": rows, "save": save})
    return 0


if __name__ == "__main__":
    sys.exit(main())
