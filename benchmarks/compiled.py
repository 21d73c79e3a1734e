"""What a plan says of memory and traffic, beside what XLA makes of the same training step.

``python -m benchmarks.compiled`` plans a Llama of 8 layers on ten meshes by three tables of rules, compiles each step
for eight simulated devices, and prints for each the bytes on a device and what a device sends, planned over compiled.
``--others`` does so for models whose layers are written one after the other, on one device and on eight, and ``--wide``
for Llamas in bfloat16 and of 70 billion parameters; ``--target tpu-v5e:2x4`` compiles for TPUs in place of the CPU, and
takes those that fit so many.
"""

import argparse
import contextlib
import dataclasses
import json
import os
import statistics
import sys
from pathlib import Path
from typing import Any

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax.numpy as jnp

from batiste import errors, nn, plan
from benchmarks import results
from examples import llama

MODEL = llama.Llama(dataclasses.replace(llama.TOY, vocab=1024, layers=8, features=256, hidden=768, heads=8, kv_heads=8))
TOKENS = "int32[32,64]"
MESHES = (
    "data=8", "fsdp=8", "data=2,fsdp=4", "data=4,fsdp=2", "data=4,tensor=2", "data=2,tensor=4", "fsdp=4,tensor=2",
    "fsdp=2,tensor=4", "data=2,fsdp=2,tensor=2", "tensor=8",
)  # fmt: skip
RULES = ("zero1+tensor", "fsdp", "fsdp+tensor")


OTHER_MESHES = ("data=1", "data=8", "fsdp=8")


class Dense(nn.Module):
    """Six layers."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        for _ in range(6):
            x = nn.relu(nn.Dense(512)(x))
        return nn.Dense(10)(x)


class Convolutions(nn.Module):
    """Eight convolutions with batch statistics."""

    @nn.compact
    def __call__(self, x: Any) -> Any:
        for features in (32, 64, 128, 256):
            for _ in range(2):
                x = nn.Conv(features, (3, 3), use_bias=False)(x)
                x = nn.relu(nn.BatchNorm(use_running_average=False)(x))
            x = nn.max_pool(x, (2, 2), (2, 2))
        return nn.Dense(10)(x.mean((1, 2)))


class Blocks(nn.Module):
    """Six blocks of a transformer."""

    @nn.compact
    def __call__(self, tokens: Any) -> Any:
        x = nn.Embed(1000, 256)(tokens)
        for _ in range(6):
            x = x + nn.SelfAttention(8)(nn.LayerNorm()(x))
            x = x + nn.Dense(256)(nn.gelu(nn.Dense(1024)(nn.LayerNorm()(x))))
        return nn.Dense(1000)(nn.LayerNorm()(x))


OTHERS = (
    (Dense(), "float32[1024,256]"), (Convolutions(), "float32[16,64,64,3]"), (Blocks(), "int32[8,128]"),
)  # fmt: skip


NARROW = dataclasses.replace(
    llama.llama_8b().config, layers=4, features=1024, hidden=3584, heads=16, kv_heads=4, vocab=8192
)
LARGE = llama.llama_70b().config
WIDE = (
    ("bfloat16", NARROW, "int32[16,2048]", "fsdp=4,tensor=2"),
    ("bfloat16, all kept", dataclasses.replace(NARROW, remat=False), "int32[16,2048]", "fsdp=4,tensor=2"),
    ("70B, bfloat16", LARGE, "int32[64,8192]", "fsdp=32,tensor=8"),
    ("70B, float32", dataclasses.replace(LARGE, dtype=jnp.float32), "int32[64,8192]", "fsdp=32,tensor=8"),
)


def sent(collectives: Any) -> dict[str, float]:
    """Return what one device sends along each mesh axis."""
    found: dict[str, float] = {}
    for each in collectives:
        name = "+".join(each.axes)
        found[name] = found.get(name, 0) + each.bytes
    return found


def measure(
    mesh: str, rules: str, model: Any = MODEL, inputs: str = TOKENS, target: str | None = None
) -> dict[str, Any]:
    """Return the planned and the compiled figures of a step."""
    made = plan.plan(model, inputs, mesh=mesh, rules=rules, remat=False, compile=True, target=target)
    compiled = made.compiled
    assert compiled is not None  # noqa: S101 - it was asked for
    return {
        "mesh": mesh,
        "rules": rules,
        "state": made.memory.state,
        "argument": compiled.argument_bytes,
        "planned": made.memory.total,
        "compiled": compiled.total_bytes,
        "fragmentation": made.memory.fragmentation,
        "planned_sent": made.collective_bytes(),
        "compiled_sent": sent(compiled.collectives),
        "counts": [[kind, "+".join(axes), count] for (kind, axes), count in compiled.counts().items()],
    }


def report(rows: list[dict[str, Any]]) -> None:
    """Print the table."""
    print(f"{'mesh':24}{'rules':14}{'planned MB':>11}{'compiled':>10}{'ratio':>7}{'sent MB':>10}{'compiled':>10}")
    for row in rows:
        planned, compiled = sum(row["planned_sent"].values()), sum(row["compiled_sent"].values())
        print(
            f"{row['mesh']:24}{row['rules']:14}{row['planned'] / 1e6:11.2f}{row['compiled'] / 1e6:10.2f}"
            f"{row['planned'] / row['compiled']:7.3f}{planned / 1e6:10.2f}{compiled / 1e6:10.2f}"
        )
    ratios = [row["planned"] / row["compiled"] for row in rows]
    near = sum(abs(ratio - 1) <= 0.05 for ratio in ratios)
    spread = f"median {statistics.median(ratios):.3f}, {min(ratios):.3f} to {max(ratios):.3f}"
    print(f"{near} of {len(rows)} within 5%; {spread}")
    room = [
        (row["compiled"] - row["planned"] + row["fragmentation"]) / (row["compiled"] - row["argument"]) for row in rows
    ]
    print(f"beyond what is planned to live: {min(room):.1%} to {max(room):.1%} of what is neither state nor batch")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, help="a folder for compiled.json")
    parser.add_argument("--others", action="store_true", help="other models, without a loop over their layers")
    parser.add_argument("--wide", action="store_true", help="Llamas in bfloat16, and of 70 billion parameters")
    parser.add_argument("--target", help="with --wide: TPUs to compile for, such as tpu-v5e:2x4 (needs libtpu)")
    options = parser.parse_args()
    if options.wide:
        for name, config, inputs, mesh in WIDE:
            with contextlib.suppress(errors.PlanCompileError):  # another number of devices than the target has
                row = measure(mesh, "fsdp+tensor", llama.Llama(config), inputs, options.target)
                planned, compiled = row["planned"], row["compiled"]
                print(
                    f"{name:20}{planned / 1e9:8.2f} GB planned{compiled / 1e9:8.2f} compiled{planned / compiled:7.3f}"
                )
        return
    if options.others:
        for model, inputs in OTHERS:
            print(type(model).__name__)
            report([measure(mesh, "fsdp", model, inputs) for mesh in OTHER_MESHES])
        return
    rows: list[dict[str, Any]] = []
    for mesh in MESHES:
        for rules in RULES:
            with contextlib.suppress(errors.IndivisibleAxisError):
                rows.append(measure(mesh, rules))
                sys.stderr.write(json.dumps(rows[-1]) + "\n")
    report(rows)
    if options.results:
        results.write(options.results, "compiled", {"machine": results.machine(), "rows": rows})


if __name__ == "__main__":
    main()
