"""A state that several processes save and restore together, beside Orbax alone.

``python -m benchmarks.processes --size-mb 1000 --processes 1 2 4`` starts so many processes on this machine, which hold
the state cut along its first axes, and save and restore it with batiste and with Orbax in turns. The figures are of the
slowest process: wall time, the processor's time of one process, and the bytes that it has written and read. Times are
the least of all rounds, in which the contenders begin in turns: on a virtual machine the first to write into memory
that others have not just freed may take five times as long, whoever that is.

Bytes are those of system calls, of which the page cache answers most of those that read: how many a process asks for
does not depend on the disk. Beside them stands what a process may read: its own shards and one chunk, which is the
part of an array that one process has saved.

``unchecked`` is a restoration without digests, which is what Orbax does. ``file`` is the least that a save can be: each
process writes its shards into a file, flushes it to the disk, and puts it in the place of the one before. batiste does
so as well; Orbax removes what was there first, and flushes nothing.
"""

import argparse
import json
import logging
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np

from batiste import checkpoint, launch
from benchmarks import results

OPERATIONS = ("save", "restore", "unchecked")
LEAVES = 32


def moved() -> tuple[int, int]:
    """Return how many bytes this process has read and written."""
    rows = dict(line.split(": ") for line in Path("/proc/self/io").read_text(encoding="utf-8").splitlines())
    return int(rows["rchar"]), int(rows["wchar"])


def make_state(megabytes: int) -> dict[str, jax.Array]:
    sharding = jax.NamedSharding(jax.sharding.Mesh(np.array(jax.devices()), ("x",)), jax.P("x"))
    rows, columns = 64, megabytes * (1 << 20) // 4 // LEAVES // 64

    def fill(index: tuple[slice, ...]) -> Any:
        part = range(*index[0].indices(rows))
        return np.random.default_rng(part.start).standard_normal((len(part), columns), dtype=np.float32)

    return {f"w{at}": jax.make_array_from_callback((rows, columns), sharding, fill) for at in range(LEAVES)}


def contenders(folder: Path, state: Any) -> dict[str, dict[str, Callable[[], Any]]]:
    from orbax import checkpoint as orbax

    target = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), state)
    ours, theirs = folder / "batiste", folder / "orbax"
    writer = orbax.Checkpointer(orbax.StandardCheckpointHandler())

    def flushed() -> None:
        target = folder / f"file_{jax.process_index()}"
        with target.with_suffix(".new").open("wb") as file:
            for leaf in state.values():
                for shard in leaf.addressable_shards:
                    file.write(memoryview(np.asarray(shard.data)).cast("B"))
            file.flush()
            os.fsync(file.fileno())
        target.with_suffix(".new").replace(target)

    return {
        "file": {"save": flushed},
        "batiste": {
            "save": lambda: checkpoint.save(ours, state, overwrite=True),
            "restore": lambda: checkpoint.restore(ours, target),
            "unchecked": lambda: checkpoint.restore(ours, target, verify=False),
        },
        "orbax": {
            "save": lambda: writer.save(theirs, args=orbax.args.StandardSave(state), force=True),
            "unchecked": lambda: writer.restore(theirs, args=orbax.args.StandardRestore(target)),
        },
    }


def work(folder: Path, megabytes: int, rounds: int) -> None:
    """Measure in one process, and print a line of JSON."""
    warnings.simplefilter("ignore")
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    if int(os.environ["OMPI_COMM_WORLD_SIZE"]) > 1:
        jax.distributed.initialize(heartbeat_timeout_seconds=60)
    state = make_state(megabytes)
    found: dict[str, dict[str, list[list[float]]]] = {}
    for number in range(rounds + 1):
        turned = list(contenders(folder, state).items())
        turned = turned[number % len(turned) :] + turned[: number % len(turned)]
        for name, actions in turned:
            for operation, action in actions.items():
                before, start, used = moved(), time.perf_counter(), time.process_time()
                jax.block_until_ready(action())
                row = [time.perf_counter() - start, time.process_time() - used]
                row += [after - first for after, first in zip(moved(), before, strict=True)]
                if number:
                    found.setdefault(name, {}).setdefault(operation, []).append(row)
    own = sum(shard.data.nbytes for leaf in state.values() for shard in leaf.addressable_shards)
    limits = {"own": own, "chunk": state["w0"].nbytes // jax.process_count()}
    sys.stdout.write(json.dumps({"programs": found, "limits": limits}) + "\n")


def measure(count: int, megabytes: int, rounds: int) -> dict[str, Any]:
    """Return the figures of the slowest process, by program and operation, and what each may read."""
    folder = Path(tempfile.mkdtemp())
    try:
        command = ["-m", "benchmarks.processes", "--worker", str(folder), "--size-mb", str(megabytes)]
        said = StringIO()
        status = launch.launch([*command, "--rounds", str(rounds)], processes=count, output=said)
    finally:
        shutil.rmtree(folder)
    if status:
        raise SystemExit(said.getvalue())
    rows = [json.loads(line.partition("] ")[2]) for line in said.getvalue().splitlines() if "] {" in line]
    found: dict[str, Any] = {"limits": rows[0]["limits"], "programs": {}}
    for name, operations in rows[0]["programs"].items():
        for operation in operations:
            of_each = [list(zip(*row["programs"][name][operation], strict=True)) for row in rows]
            worst = [max(min(columns[at]) for columns in of_each) for at in (0, 1)]
            worst += [max(max(columns[at]) for columns in of_each) for at in (2, 3)]
            figures = dict(zip(("seconds", "processor", "read", "written"), worst, strict=True))
            found["programs"].setdefault(name, {})[operation] = figures
    return found


def report(count: int, found: dict[str, Any]) -> None:
    own, chunk = (found["limits"][name] / 1e6 for name in ("own", "chunk"))
    print(f"\n{count} process{'es' if count > 1 else ''}: each has {own:.1f} MB, in chunks of {chunk:.1f} MB")
    print(f"{'':24}{'s':>9}{'cpu s':>9}{'read MB':>10}{'written MB':>12}")
    for operation in OPERATIONS:
        for name, operations in found["programs"].items():
            if operation in operations:
                row = operations[operation]
                print(
                    f"{operation + ', ' + name:24}{row['seconds']:9.2f}{row['processor']:9.2f}"
                    f"{row['read'] / 1e6:10.1f}{row['written'] / 1e6:12.1f}"
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size-mb", type=int, default=1000, help="the size of the state")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4], help="how many processes")
    parser.add_argument("--rounds", type=int, default=6, help="how often each is measured, after one that is not")
    parser.add_argument("--results", type=Path, help="a folder for processes.json")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.worker, options.size_mb, options.rounds)
        return
    tables = {}
    for count in options.processes:
        tables[str(count)] = measure(count, options.size_mb, options.rounds)
        report(count, tables[str(count)])
    if options.results:
        about = {"machine": results.machine(), "rounds": options.rounds, "megabytes": options.size_mb}
        results.write(options.results, "processes", {**about, "processes": tables})


if __name__ == "__main__":
    main()
