"""One large checkpoint on one machine: how much memory saving and restoring take beside the arrays themselves.

``python -m benchmarks.large --gb 10`` saves and restores a tree of that size as a single file and as a folder, beside a
plain copy: the bytes written one after the other and flushed, and read back into arrays. It needs the memory for one
such tree and the disk for one. Extra memory is the peak of this process's anonymous memory (Linux), looked at every
five milliseconds, less what it held before and, of a restore, less the arrays: the bar is 1 GB, whatever the size.
"""

import argparse
import gc
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np

from batiste import checkpoint
from benchmarks import results

LEAF = 1 << 26  # bytes
BAR = 1 << 30
Tree = dict[str, np.ndarray[Any, Any]]


def anonymous() -> int:
    """Return the bytes that this process holds which are in no file."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(r"^RssAnon:\s+(\d+) kB", status, re.MULTILINE)
    return 1024 * int(found[1]) if found else 0


def peak(function: Callable[[], Any], kept: int = 0) -> dict[str, float]:
    """Return the seconds of a call, and the most memory that it held beyond what there was, and what it returns."""
    gc.collect()
    before, most, ended = anonymous(), [0], threading.Event()

    def look() -> None:
        while not ended.wait(0.005):
            most[0] = max(most[0], anonymous())

    watcher = threading.Thread(target=look)
    watcher.start()
    start = time.perf_counter()
    result = function()
    seconds = time.perf_counter() - start
    ended.set()
    watcher.join()
    del result
    return {"seconds": seconds, "extra": max(0, most[0] - before - kept)}


def write_plainly(path: Path, tree: Tree) -> None:
    with path.open("wb") as file:
        for leaf in tree.values():
            file.write(leaf.data)
        file.flush()
        os.fsync(file.fileno())


def read_plainly(path: Path, leaves: int) -> Tree:
    with path.open("rb") as file:
        return {f"block_{number}": np.fromfile(file, np.float32, LEAF // 4) for number in range(leaves)}


def measure(gigabytes: float, folder: Path) -> dict[str, dict[str, float]]:
    """Return the figures by what was done."""
    leaves = max(1, round(gigabytes * (1 << 30) / LEAF))
    size, found = leaves * LEAF, dict[str, dict[str, float]]()
    ways: dict[str, tuple[Path, Callable[[Path, Tree], Any], Callable[[Path], Any]]] = {
        "plain copy": (folder / "plain", write_plainly, lambda path: read_plainly(path, leaves)),
        "file": (folder / "file.safetensors", checkpoint.save, checkpoint.restore),
        "folder": (folder / "folder", checkpoint.save, checkpoint.restore),
    }
    for name, (path, save, restore) in ways.items():
        tree: Tree = {f"block_{number}": np.full(LEAF // 4, number, np.float32) for number in range(leaves)}
        found[f"save, {name}"] = peak(lambda save=save, path=path, tree=tree: save(path, tree))
        del tree
        found[f"restore, {name}"] = peak(lambda restore=restore, path=path: restore(path), kept=size)
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return found


def main() -> None:
    """Measure, print and write."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.large", description=__doc__.partition("\n")[0])
    made.add_argument("--gb", type=float, default=10.0, help="the size of the tree")
    made.add_argument("--folder", type=Path, help="where to write; by default the system's temporary folder")
    made.add_argument("--results", type=Path, help="the folder of the JSON file")
    options = made.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        found = measure(options.gb, Path(folder))
    for name, row in found.items():
        print(f"{name:24}{row['seconds']:8.2f} s{row['extra'] / 2**20:9.0f} MiB beside the arrays")
    if options.results is not None:
        about = {"machine": results.machine(), "rounds": 1, "gigabytes": options.gb}
        results.write(options.results, "large", {**about, "rows": found})


if __name__ == "__main__":
    main()
