"""Step 8: seventy billion parameters, and no model. Names, rules over names, and arrays: a checkpoint is data.

Run it: python -m examples.day05.step_8_seventy_billion
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from batiste import checkpoint, shard, tree

P = jax.P
RULES = {
    "{head,*/attention/{query,key,value},*/mlp/{gate,up}}": P(None, "tensor"),
    "{embed,*/attention/out,*/mlp/down}": P("tensor", None),
    "**": P(),
}


def shapes(layers: int, width: int, hidden: int, narrow: int, words: int) -> dict[str, Any]:
    attention = {"query": (width, width), "key": (width, narrow), "value": (width, narrow), "out": (width, width)}
    mlp = {"gate": (width, hidden), "up": (width, hidden), "down": (hidden, width)}
    layer = {"attention": attention, "mlp": mlp, "norms": {"first": (width,), "second": (width,)}}
    numbered = {f"layer_{number}": layer for number in range(layers)}
    return {"embed": (words, width), **numbered, "norm": (width,), "head": (width, words)}


def filled(make: Callable[[tuple[int, ...]], Any], shapes: dict[str, Any]) -> dict[str, Any]:
    return jax.tree.map(make, shapes, is_leaf=lambda shape: isinstance(shape, tuple))


def drawn(shape: tuple[int, ...]) -> Any:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def main() -> None:
    large = filled(lambda shape: jax.ShapeDtypeStruct(shape, "bfloat16"), shapes(80, 8192, 28_672, 1024, 128_256))
    explained = shard.explain(large, RULES, jax.sharding.AbstractMesh((8,), ("tensor",)))
    count = sum(leaf.size for leaf in jax.tree.leaves(large))
    print(f"{count:,} parameters, {explained.device_bytes / 1e9:.1f} GB on each of eight devices; no number exists.")

    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        checkpoint.save(folder / "model.safetensors", filled(drawn, shapes(2, 64, 256, 16, 512)))

        names = checkpoint.open(folder / "model.safetensors").tree()
        print("Names in a small checkpoint of the same kind:", len(tree.flatten(names)))
        mesh = shard.mesh("tensor=-1")
        placed = checkpoint.restore(folder / "model.safetensors", shardings=shard.shardings(names, RULES, mesh))
        print("One array lies on", mesh.size, "devices as", placed["layer_0"]["attention"]["key"].sharding.spec)

        checkpoint.save(folder / "cut", placed)
        rows = {"*/{attention,mlp}/*": P("tensor"), "**": P()}
        again = checkpoint.restore(folder / "cut", shardings=shard.shardings(names, rows, mesh))
        print("Saved, and restored by another table, as", again["layer_0"]["attention"]["key"].sharding.spec)
        print("The same numbers:", all(jax.tree.leaves(jax.tree.map(np.array_equal, placed, again))))


if __name__ == "__main__":
    main()
