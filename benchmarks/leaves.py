"""What many leaves cost: trees of 1,000 to 100,000, models of 1,000 layers and 100 levels, beside JAX and Optax alone.

    python -m benchmarks.leaves            the table; with --results FOLDER a JSON file too
    python -m benchmarks.leaves --quick    small trees: does everything run?

Each figure is the least CPU time of ``--rounds`` runs, of all threads of the process. A row is linear if ten times the
leaves cost about ten times as much; Python's garbage collector adds to it, as the first row shows, which is JAX's own.
"""

import argparse
import gc
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from rich.table import Table

from batiste import checkpoint, nn, shard, train, tree
from benchmarks import results
from benchmarks.measures import memory

SIZES = (1_000, 10_000, 100_000)
QUICK = (100, 1_000)
RULES = {"**/a": jax.P(), "**": jax.P()}
TX = optax.sgd(0.1, momentum=0.9)


class Wide(nn.Module):
    """Layers one after the other."""

    layers: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for _ in range(self.layers):
            x = nn.Dense(4)(x)
        return x


class Deep(nn.Module):
    """A layer at the end of many levels."""

    levels: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(4)(x) if self.levels == 0 else Deep(self.levels - 1, name="below")(x)


def state(leaves: int) -> Any:
    """Return a tree of small arrays, ten to a layer."""
    return {
        "params": {f"layer_{n}": {name: np.ones(2, np.float32) for name in "abcdefghij"} for n in range(leaves // 10)}
    }


def operations(made: Any, folder: Path) -> dict[str, Callable[[], Any]]:
    """Return what is measured, by name; what reads a checkpoint comes after what writes it."""
    flat = tree.flatten(made)
    file, path = folder / "state.safetensors", folder / "state"
    return {
        "jax.tree.map": lambda: jax.tree.map(lambda leaf: leaf, made),
        "Optax's init": lambda: TX.init(made["params"]),
        "TrainState.create": lambda: train.TrainState.create(apply_fn=len, params=made["params"], tx=TX),
        "tree.flatten": lambda: tree.flatten(made),
        "tree.unflatten": lambda: tree.unflatten(flat),
        "tree.select": lambda: tree.select(made, "**/a"),
        "tree.map": lambda: tree.map(made, {"**/a": lambda _, leaf: leaf}, unmatched="ignore"),
        "tree.rename": lambda: tree.rename(made, {"params/**": "weights/{1}"}),
        "tree.merge": lambda: tree.merge(made, {"more": 1}),
        "tree.label": lambda: tree.label(made, {"**/a": "a", "**": "b"}),
        "tree.diff": lambda: tree.diff(made, made),
        "tree.cast": lambda: tree.cast(made, "float16"),
        "tree.stack_layers": lambda: tree.stack_layers(made, "layer"),
        "shard.specs": lambda: shard.specs(made, RULES),
        "save, a file": lambda: checkpoint.save(file, made, overwrite=True),
        "open, a file": lambda: checkpoint.open(file),
        "restore, a file": lambda: checkpoint.restore(file, made),
        "save, a folder": lambda: checkpoint.save(path, made, overwrite=True),
        "open, a folder": lambda: checkpoint.open(path),
        "restore, a folder": lambda: checkpoint.restore(path, made),
    }


def models(*, quick: bool) -> dict[str, dict[str, Callable[[], Any]]]:
    """Return what is measured of models, by model."""
    x, key = jnp.ones((2, 4)), jax.random.key(0)
    found: dict[str, dict[str, Callable[[], Any]]] = {}
    for model in (Wide(10 if quick else 100), Wide(20 if quick else 1_000), Deep(10 if quick else 100)):
        name = f"{getattr(model, 'layers', 1)} layers, {getattr(model, 'levels', 0) + 1} levels"
        variables = model.init(key, x)
        found[name] = {
            "init": lambda model=model: model.init(key, x),
            "trace of apply": lambda model=model, variables=variables: jax.make_jaxpr(model.apply)(variables, x),
        }
    return found


def one_of_many(number: int) -> None:
    """Use a model like no other: with a class, an initialiser, a lifted layer, a state and an optimiser of its own."""

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array) -> jax.Array:
            x = nn.Dense(2, kernel_init=lambda _, shape, dtype=jnp.float32: jnp.full(shape, number, dtype))(x)
            return nn.remat(nn.Dense)(2)(x)

    model, x = Model(), jnp.ones((1, 2))
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    train.TrainState.create(apply_fn=model.apply, params={"w": x}, tx=optax.sgd(float(number)))
    jax.make_jaxpr(model.apply)(variables, x)


def left_behind(count: int) -> dict[str, float]:
    """Return what so many different models leave in memory: Python's objects, and bytes of the process (Linux)."""
    for number in range(100):
        one_of_many(number)
    gc.collect()
    objects, held = len(gc.get_objects()), memory("VmRSS")
    for number in range(100, 100 + count):
        one_of_many(number)
    gc.collect()
    return {"models": count, "objects": len(gc.get_objects()) - objects, "bytes": memory("VmRSS") - held}


def seconds(function: Callable[[], Any], rounds: int) -> float:
    """Return the least CPU time of a call."""
    taken: list[float] = []
    for _ in range(rounds):
        gc.collect()
        start = time.process_time()
        function()
        taken.append(time.process_time() - start)
    return min(taken)


def measured(sizes: tuple[int, ...], rounds: int) -> dict[str, dict[int, float]]:
    """Return seconds by operation and number of leaves."""
    rows: dict[str, dict[int, float]] = {}
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            for name, function in operations(state(size), Path(folder)).items():
                rows.setdefault(name, {})[size] = seconds(function, rounds)
    return rows


def main() -> None:
    """Measure, print and write."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.leaves", description=__doc__.partition("\n")[0])
    made.add_argument("--quick", action="store_true", help="small trees")
    made.add_argument("--rounds", type=int, default=3)
    made.add_argument("--results", type=Path, help="the folder of the JSON file")
    options = made.parse_args()
    sizes = QUICK if options.quick else SIZES
    rows = measured(sizes, options.rounds)
    table = Table("ms", *(f"{size:,} leaves" for size in sizes), "growth", "us a leaf")
    for name, row in rows.items():
        growth = row[sizes[-1]] / row[sizes[-2]]
        each = row[sizes[-1]] / sizes[-1] * 1e6
        table.add_row(name, *(f"{row[size] * 1e3:.1f}" for size in sizes), f"{growth:.1f}", f"{each:.1f}")
    console = Console(width=120)
    console.print(table)
    by_model = {
        model: {name: seconds(function, options.rounds) for name, function in row.items()}
        for model, row in models(quick=options.quick).items()
    }
    for model, row in by_model.items():
        console.print(f"{model}: " + ", ".join(f"{name} {value * 1e3:.1f} ms" for name, value in row.items()))
    left = left_behind(100 if options.quick else 10_000)
    console.print(
        f"{left['models']:,} different models leave {left['objects']:,} objects, {left['bytes'] / 2**20:.0f} MiB"
    )
    if options.results is not None:
        about = {"machine": results.machine(), "rounds": options.rounds}
        named = {name: {str(size): value for size, value in row.items()} for name, row in rows.items()}
        results.write(options.results, "leaves", {**about, "leaves": named, "models": by_model, "left": left})


if __name__ == "__main__":
    main()
