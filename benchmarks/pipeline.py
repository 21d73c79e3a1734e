"""Layers in stages, by `shard.Pipeline` under `nn.Repeat`, and written by hand with `jax.shard_map`.

    python -m benchmarks.pipeline            # four stages, two parts of the batch, eight microbatches
    python -m benchmarks.pipeline --quick    # few repeats: does everything run?

The loss and the gradients of twelve MLP layers with normalisation, compiled for eight simulated devices. Both sides get
the same parameters and batch, lying alike. What is printed are ratios to the program by hand: of the instructions that
XLA's optimised program has, and of the time of the process, the median of calls in turns. The bar for both is 1.1.
"""

import argparse
import os
import re
import statistics
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"

import jax
import jax.numpy as jnp
from jax import lax

from batiste import nn, shard, tree
from benchmarks import results

P = jax.P
STAGES, PARTS, WIDTH, ROWS, LAYERS = 4, 2, 256, 512, 12
MICROBATCHES = 8


class Layer(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        hidden = nn.gelu(nn.Dense(4 * WIDTH, name="up")(nn.RMSNorm(name="norm")(x)))
        return x + nn.Dense(WIDTH, name="down")(hidden)


def library(params: Any, x: jax.Array) -> jax.Array:
    return nn.Repeat(Layer(), LAYERS, run=shard.Pipeline(MICROBATCHES), name="h").apply({"params": params}, x)


def layer_by_hand(x: jax.Array, w: Any) -> jax.Array:
    scaled = x * lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-6) * w["norm"]["scale"]
    hidden = jax.nn.gelu(scaled @ w["up"]["kernel"] + w["up"]["bias"], approximate=True)
    return x + hidden @ w["down"]["kernel"] + w["down"]["bias"]


def by_hand(params: Any, x: jax.Array) -> jax.Array:
    held = MICROBATCHES // STAGES

    def stages(layers: Any, rows: jax.Array) -> jax.Array:
        layers, stage = lax.pcast(layers, "data", to="varying"), lax.axis_index("stage")
        slots = rows.reshape(-1, held, WIDTH)

        def tick(state: Any, number: jax.Array) -> Any:
            slots, came = state
            due = lax.dynamic_index_in_dim(slots, number % held, 1, keepdims=False)
            made, _ = lax.scan(lambda x, w: (layer_by_hand(x, w), None), jnp.where(stage == 0, due, came), layers)
            ahead = lax.ppermute(due, "stage", [(n, n - 1) for n in range(1, STAGES)])
            put = jnp.where(stage == STAGES - 1, made, ahead)
            slots = lax.dynamic_update_index_in_dim(slots, put, number % held, 1)
            return (slots, lax.ppermute(made, "stage", [(n, n + 1) for n in range(STAGES - 1)])), None

        (slots, _), _ = lax.scan(tick, (slots, slots[:, 0]), jnp.arange(MICROBATCHES + STAGES - 1))
        return jnp.roll(slots, 1 - STAGES, 1).reshape(rows.shape)

    rows = P(("stage", "data"))
    return jax.shard_map(stages, in_specs=(P("stage"), rows), out_specs=rows)(params["h"], x)


def made(forward: Any, params: Any, x: jax.Array) -> Any:
    """Compile the loss and the gradients of a model."""

    def loss(params: Any, x: jax.Array) -> jax.Array:
        return jnp.square(forward(params, x)).mean()

    places = None, jax.tree.map(lambda leaf: leaf.sharding, params)
    return jax.jit(jax.value_and_grad(loss), out_shardings=places).lower(params, x).compile()


def instructions(program: Any) -> int:
    """Return how many instructions the optimised program has."""
    return len(re.findall(r"^\s+(?:ROOT )?%?[\w.-]+ = ", program.as_text(), re.MULTILINE))


def seconds(program: Any, *arguments: Any) -> float:
    start = time.process_time()
    jax.block_until_ready(program(*arguments))
    return time.process_time() - start


def measure(repeats: int) -> dict[str, float]:
    """Return the ratios of the library's program to the one by hand."""
    mesh = shard.mesh(f"stage={STAGES},data={PARTS}")
    params = nn.Repeat(Layer(), LAYERS, name="h").init(jax.random.key(0), jnp.ones((1, WIDTH)))["params"]
    params = jax.device_put(tree.stack_layers(params, "h"), jax.NamedSharding(mesh, P("stage")))
    x = jax.device_put(
        jax.random.normal(jax.random.key(1), (ROWS, WIDTH)), jax.NamedSharding(mesh, P(("stage", "data")))
    )
    with jax.set_mesh(mesh):
        ours, theirs = made(library, params, x), made(by_hand, params, x)
    apart = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), ours(params, x), theirs(params, x))
    ratios: list[float] = []
    for number in range(repeats + 2):
        one, other = seconds(ours, params, x), seconds(theirs, params, x)
        if number >= 2:  # what is warm
            ratios.append(one / other)
    counts = instructions(ours), instructions(theirs)
    return {
        "instructions": counts[0],
        "instructions_by_hand": counts[1],
        "instructions_ratio": counts[0] / counts[1],
        "time_ratio": statistics.median(ratios),
        "largest_difference": max(jax.tree.leaves(apart)),
    }


def main() -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few repeats, for a look")
    parser.add_argument("--results", type=Path, help="the folder of the JSON file")
    options = parser.parse_args()
    found = measure(3 if options.quick else 21)
    print(f"instructions {found['instructions']} to {found['instructions_by_hand']} by hand: "
          f"{found['instructions_ratio']:.3f}; time of the process {found['time_ratio']:.3f}; "
          f"largest difference of loss and gradients {found['largest_difference']:.1e}")  # fmt: skip
    if options.results is not None:
        results.write(options.results, "pipeline", {"machine": results.machine(), **found})
    return 0


if __name__ == "__main__":
    sys.exit(main())
