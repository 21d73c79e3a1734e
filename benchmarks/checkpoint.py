"""Checkpoints beside Orbax alone, safetensors, Flax's MessagePack and, where it is installed, PyTorch.

``python -m benchmarks.checkpoint --size-mb 1000`` saves, opens, restores and reads a part of two trees of that size:
one of a few large leaves, one of 2,000. Medians of some rounds, in which the programs take turns; the ratio is to
Orbax for folders and to safetensors for single files. Times are of a warm page cache and with every flush to the disk
that a program makes. Safetensors makes none, so it is there once more with one; a plain copy with one is the limit. The
bar is that a single file is saved in 1.05 of the time of safetensors, both flushed.

Then a folder of 1,000 and of 16,000 small arrays beside a single file of the same: the bars are 3 times the file's time
to save and 6 times to restore at 16,000, and 0.3 s at 1,000.

``restore`` checks every digest, where there are any; ``unchecked`` is the same without that. The last lines say what
digests cost: the same saves with a digest that takes no time.
"""

import argparse
import contextlib
import importlib
import importlib.util
import logging
import os
import shutil
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import flax.serialization
import jax
import numpy as np
import safetensors
import safetensors.numpy
from orbax.checkpoint import v1 as orbax

from batiste import checkpoint, tree
from benchmarks import results

Action = Callable[[], Any]
DIGESTS = (
    ("batiste.checkpoint._save", "digest_array"),
    ("batiste.checkpoint._save", "digest_files"),
    ("batiste.checkpoint._safetensors", "digest_array"),
)
Contender = dict[str, Action]
MANY_LEAVES = (1_000, 16_000)
OPERATIONS = ("save", "open", "restore", "unchecked", "part")


def make_tree(megabytes: int, leaves: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    size = megabytes * (1 << 20) // 4 // leaves
    return {f"block_{number}": {"kernel": rng.standard_normal(size, dtype=np.float32)} for number in range(leaves)}


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def ours(path: Path, made: dict[str, Any]) -> Contender:
    def part() -> None:
        jax.tree.map(lambda leaf: leaf.read(), checkpoint.open(path)["block_0/**"])

    return {
        "save": lambda: checkpoint.save(path, made),
        "open": lambda: checkpoint.open(path),
        "restore": lambda: checkpoint.restore(path),
        "unchecked": lambda: checkpoint.restore(path, verify=False),
        "part": part,
    }


def orbax_alone(path: Path, made: dict[str, Any], *, compress: bool) -> Contender:
    def save() -> None:
        context = orbax.Context()
        context.array.saving.use_compression = compress
        with context:
            orbax.save(path, made)

    def part() -> None:
        context = orbax.Context()
        context.pytree.loading.partial_load = True
        with context:
            orbax.load(path, {"block_0": {"kernel": made["block_0"]["kernel"]}})

    return {"save": save, "open": lambda: orbax.metadata(path), "restore": lambda: orbax.load(path), "part": part}


def safetensors_alone(path: Path, made: dict[str, Any]) -> Contender:
    flat = tree.flatten(made)

    def opened() -> list[str]:
        with safetensors.safe_open(path, framework="numpy") as file:
            return list(file.keys())

    def part() -> Any:
        with safetensors.safe_open(path, framework="numpy") as file:
            return file.get_tensor("block_0/kernel")

    return {
        "save": lambda: safetensors.numpy.save_file(flat, path),
        "open": opened,
        "restore": lambda: safetensors.numpy.load_file(path),
        "part": part,
    }


def flushed(path: Path, made: dict[str, Any]) -> Contender:
    """Return safetensors with the flush to the disk that it leaves out, and batiste does not."""

    def save() -> None:
        safetensors.numpy.save_file(tree.flatten(made), path)
        with path.open("rb") as file:
            os.fsync(file.fileno())

    return {"save": save}


def plain_copy(path: Path, made: dict[str, Any]) -> Contender:
    """Return the limit: the bytes of the arrays one after the other, flushed, and read back into arrays."""
    leaves = list(tree.flatten(made).values())

    def save() -> None:
        with path.open("wb") as file:
            for leaf in leaves:
                file.write(leaf.data)
            file.flush()
            os.fsync(file.fileno())

    def restore() -> Any:
        with path.open("rb") as file:
            return [np.fromfile(file, leaf.dtype, leaf.size) for leaf in leaves]

    return {"save": save, "restore": restore}


def flax_msgpack(path: Path, made: dict[str, Any]) -> Contender:
    def restore() -> Any:
        return flax.serialization.msgpack_restore(path.read_bytes())

    return {"save": lambda: path.write_bytes(flax.serialization.to_bytes(made)), "restore": restore}


def pytorch(path: Path, made: dict[str, Any]) -> Contender:
    torch: Any = importlib.import_module("torch")
    state = {name: torch.from_numpy(leaf) for name, leaf in tree.flatten(made).items()}
    return {"save": lambda: torch.save(state, path), "restore": lambda: torch.load(path, weights_only=True)}


def contenders(folder: Path, made: dict[str, Any]) -> dict[str, tuple[Path, Contender]]:
    paths = {
        "batiste, folder": folder / "ours",
        "Orbax v1, uncompressed": folder / "orbax_raw",
        "Orbax v1": folder / "orbax",
        "batiste, file": folder / "ours.safetensors",
        "safetensors": folder / "theirs.safetensors",
        "safetensors, flushed": folder / "flushed.safetensors",
        "plain copy": folder / "plain",
        "Flax MessagePack": folder / "flax.msgpack",
    }
    found = {
        "batiste, folder": ours(paths["batiste, folder"], made),
        "Orbax v1, uncompressed": orbax_alone(paths["Orbax v1, uncompressed"], made, compress=False),
        "Orbax v1": orbax_alone(paths["Orbax v1"], made, compress=True),
        "batiste, file": ours(paths["batiste, file"], made),
        "safetensors": safetensors_alone(paths["safetensors"], made),
        "safetensors, flushed": flushed(paths["safetensors, flushed"], made),
        "plain copy": plain_copy(paths["plain copy"], made),
        "Flax MessagePack": flax_msgpack(paths["Flax MessagePack"], made),
    }
    if importlib.util.find_spec("torch") is not None:
        paths["PyTorch"] = folder / "torch.pt"
        found["PyTorch"] = pytorch(paths["PyTorch"], made)
    return {name: (paths[name], contender) for name, contender in found.items()}


def measure(made: dict[str, Any], rounds: int) -> dict[str, dict[str, float]]:
    seconds: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        everyone = contenders(Path(folder), made)
        for number in range(rounds + 1):  # the first round warms up and is not counted
            for name, (path, contender) in everyone.items():
                remove(path)
                for operation in OPERATIONS:
                    if operation in contender:
                        start = time.perf_counter()
                        result = contender[operation]()
                        taken = time.perf_counter() - start
                        del result
                        if number:
                            seconds.setdefault(name, {}).setdefault(operation, []).append(taken)
    return {name: {op: statistics.median(each) for op, each in row.items()} for name, row in seconds.items()}


def many_leaves(rounds: int) -> dict[str, dict[str, float]]:
    """Seconds of a folder of many small arrays, and of a single file of the same, by the number of arrays."""
    found: dict[str, dict[str, float]] = {}
    print(f"\nmany small arrays, medians of {rounds}")
    for leaves in MANY_LEAVES:
        made = {f"block_{number}": {"kernel": np.full((16, 16), number, np.float32)} for number in range(leaves)}
        seconds: dict[str, list[float]] = {}
        with tempfile.TemporaryDirectory() as folder:
            for number in range(rounds + 1):
                for name in ("folder", "file.safetensors"):
                    contender = ours(Path(folder, name), made)
                    remove(Path(folder, name))
                    for operation in OPERATIONS:
                        start = time.perf_counter()
                        contender[operation]()
                        if number:
                            seconds.setdefault(f"{name} {operation}", []).append(time.perf_counter() - start)
        row = {name: statistics.median(each) for name, each in seconds.items()}
        found[str(leaves)] = row
        for operation in OPERATIONS:
            taken, base = row[f"folder {operation}"], row[f"file.safetensors {operation}"]
            print(
                f"{leaves:7} leaves, folder, {operation:10}{1e3 * taken:9.1f} ms{taken / base:8.2f} of the single file"
            )
    return found


def report(title: str, found: dict[str, dict[str, float]]) -> None:
    print(f"\n{title}")
    print(f"{'':26}" + "".join(f"{operation + ' ms':>13}{'ratio':>8}" for operation in OPERATIONS))
    for name, row in found.items():
        folder = name.startswith("Orbax") or name.endswith("folder")
        base = found["Orbax v1" if folder else "safetensors"]
        cells = "".join(
            f"{1e3 * row[operation]:13.1f}{row[operation] / base.get(operation, base['restore']):8.2f}"
            if operation in row
            else f"{'-':>13}{'':8}"
            for operation in OPERATIONS
        )
        print(f"{name:26}{cells}")
    ratio = found["batiste, file"]["save"] / found["safetensors, flushed"]["save"]
    print(f"a single file, saved: {ratio:.2f} of safetensors, flushed; the bar is 1.05")


def price_of_digests(made: dict[str, Any], rounds: int) -> dict[str, float]:
    """The part of a save that digests take: saves with and without them take turns, and the fastest of each count."""

    def nothing(*_: Any) -> str:
        return "0" * 32

    shares: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("folder", "file.safetensors"):
            seconds: dict[bool, list[float]] = {True: [], False: []}
            for number in range(2 * max(rounds, 15) + 2):
                checked = number % 2 == 0
                remove(Path(folder, name))
                with contextlib.ExitStack() as stack:
                    for module, function in DIGESTS if not checked else ():
                        replaced = nothing if function != "digest_files" else lambda *_: dict[str, Any]()
                        stack.enter_context(mock.patch.object(importlib.import_module(module), function, replaced))
                    start = time.perf_counter()
                    checkpoint.save(Path(folder, name), made)
                    if number > 1:
                        seconds[checked].append(time.perf_counter() - start)
            with_them, without = (min(seconds[checked]) for checked in (True, False))
            shares[name] = (with_them - without) / with_them
            print(f"digests, {name}: {1e3 * (with_them - without):.1f} ms, {100 * shares[name]:.1f}% of a save")
    return shares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size-mb", type=int, default=1000, help="the size of each tree")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured")
    parser.add_argument("--results", type=Path, help="a folder for checkpoint.json")
    options = parser.parse_args()
    tables: dict[str, dict[str, dict[str, float]]] = {}
    shares: dict[str, dict[str, float]] = {}
    warnings.simplefilter("ignore")
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    for leaves in (max(1, options.size_mb // 10), 2000):
        made = make_tree(options.size_mb, leaves)
        found = measure(made, options.rounds)
        title = f"{options.size_mb} MB in {leaves} leaves, medians of {options.rounds}"
        report(title, found)
        shares[title] = price_of_digests(made, options.rounds)
        tables[title] = found
    many = many_leaves(options.rounds)
    if options.results:
        about = {"machine": results.machine(), "rounds": options.rounds}
        results.write(options.results, "checkpoint", {**about, "tables": tables, "digests": shares, "many": many})


if __name__ == "__main__":
    main()
