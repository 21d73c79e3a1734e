"""Draw the scaling study of docs/concepts/planning.md: Llama of 8, 70 and 405 billion parameters on 8 to 2,048 chips.

    python scripts/scaling_study.py docs/concepts/scaling.svg docs/concepts/scaling.json

No array is made and nothing is compiled: each point is a plan. The batch is 2^22 tokens in sequences of 8,192 where the
chips can share it out, and as many sequences as there are groups of chips where it cannot.
"""

import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt

from batiste.plan import plan
from examples import llama

TENSOR = 8
LENGTH = 8192
SEQUENCES = 512
POINTS = {
    "8B": (llama.llama_8b, (8, 64, 512)),
    "70B": (llama.llama_70b, (64, 256, 1024)),
    "405B": (llama.llama_405b, (512, 2048)),
}


def study() -> list[dict[str, float | str]]:
    """Return one row for each model and number of chips."""
    rows = []
    for name, (make, counts) in POINTS.items():
        for devices in counts:
            fsdp = devices // TENSOR
            sequences = max(SEQUENCES, fsdp)
            found = plan(
                make(), f"int32[{sequences},{LENGTH}]", mesh={"fsdp": fsdp, "tensor": TENSOR}, rules="fsdp+tensor",
                remat=False,
            )  # fmt: skip
            row = {
                "model": name, "devices": devices, "state_bytes": found.memory.state, "bytes": found.memory.total,
                "flops": found.costs.total.device_flops, "sent": sum(found.collective_bytes().values()),
                "seconds": found.step_seconds, "limit": found.limit,
            }  # fmt: skip
            print(json.dumps(row))
            rows.append(row)
    return rows


def draw(rows: list[dict[str, float | str]], path: Path) -> None:
    """Draw bytes of the state, FLOPs and bytes sent by one chip."""
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
    titles = {"state_bytes": "bytes of the state", "flops": "FLOPs in a step", "sent": "bytes sent in a step"}
    for axis, (key, title) in zip(axes, titles.items(), strict=True):
        for name in POINTS:
            mine = [row for row in rows if row["model"] == name]
            axis.loglog([row["devices"] for row in mine], [row[key] for row in mine], "o-", label=name)
        axis.set(title=f"{title}, on one chip", xlabel="chips")
        axis.set_xscale("log", base=2)
        axis.grid(visible=True, alpha=0.3)
    axes[0].legend()
    figure.savefig(path)


if __name__ == "__main__":
    found = study()
    draw(found, Path(sys.argv[1]))
    Path(sys.argv[2]).write_text(json.dumps(found, indent=1) + "\n")
