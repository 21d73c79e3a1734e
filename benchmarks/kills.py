"""A run that is ended in the midst of whatever it does, again and again, beside the same run left alone.

    python -m benchmarks.kills                     # 200 kills, 20 signals, 10 full disks, 10 changes of devices
    python -m benchmarks.kills --ways kill=5 devices=3

The run has what a real one has: ``make_step`` with BatchNorm, dropout, accumulation, an average of the parameters and
clipping; ``fit`` with early stopping, the best state kept, an evaluation, rows, data of grain that is shuffled and
taken ahead, and saves in the background. In each life it is ended by ``kill -9``, by SIGTERM, by a disk that is full
from some moment on (a limit on the size of files, beyond which writing is an error), or by ``kill -9`` to go on on
another number of devices. When it comes to its end after so many lives, its rows, its final state and its best one are
compared with those of a run that nothing has ended: bit for bit, or, on other numbers of devices, within rounding and
with the same batches in the same order. A run that comes to its end too early begins again from nothing.

One program forks a process for each life, so that JAX is imported once.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import mmap
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax

from batiste import TrainState, checkpoint, nn, train
from batiste.errors import CheckpointWriteError, RunFolderError, UnsavedStepWarning
from benchmarks import results

ALONE = "alone"
WAYS = {"kill": 200, "signal": 20, "full disk": 10, "devices": 10}
STEPS, EXAMPLES, BATCH = 90, 64, 8
DEVICES = (1, 2, 4)
PHASES = ("begin", "step", "data", "evaluate")
EARLY = 0.2  # of the lives, which are ended by the clock: while they start, read a checkpoint or compile
SOON = 20  # steps, after fewer of which the others are ended
MEAN = 0.02  # seconds after that step


class Net(nn.Module):
    """A small network with all that changes between training and evaluation."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = nn.Dense(8, use_bias=False)(x)  # a bias would move by nothing but rounding, which Adam makes large
        x = nn.BatchNorm(use_running_average=not train)(x)
        return nn.Dense(1)(nn.Dropout(0.2, deterministic=not train)(nn.relu(x)))


def loss_fn(model: Any, batch: Any) -> Any:
    """Return the losses of the examples, and which examples they are: an integer that no rounding changes."""
    losses = ((model(batch["x"], train=model.train) - batch["y"]) ** 2)[:, 0]
    return losses, {"order": batch["index"] * (1 + batch["place"])}


def examples() -> dict[str, np.ndarray[Any, Any]]:
    x = np.random.default_rng(3).normal(size=(EXAMPLES, 4)).astype(np.float32)
    return {"x": x, "y": np.sin(x[:, :1]), "index": np.arange(EXAMPLES, dtype=np.int32)}


@dataclasses.dataclass(frozen=True)
class Life:
    """What one process does.

    Attributes:
      folder: that of the run.
      way: how it is ended; "" for not at all.
      number: the seed of all that is random about its end.
      devices: how many it has; 0 for one, without a mesh.
    """

    folder: Path
    way: str
    number: int
    devices: int = 0


def data(life: Life, phase: Any) -> Any:
    """Return shuffled batches of grain, taken ahead in a thread, over the devices."""
    whole = examples()
    rows = [{name: leaf[i] for name, leaf in whole.items()} for i in range(EXAMPLES)]
    few = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)

    def placed(batch: Any) -> Any:
        phase[0] = PHASES.index("data")
        return {**batch, "place": np.arange(BATCH, dtype=np.int32)}

    dataset = grain.MapDataset.source(rows).seed(5).shuffle().repeat().batch(BATCH).map(placed).to_iter_dataset(few)
    sharding = jax.NamedSharding(mesh_of(life), jax.P("data")) if life.devices else None
    return train.prefetch(train.from_grain(dataset), 2, sharding=sharding)


def mesh_of(life: Life) -> Any:
    devices = jax.devices()[: life.devices]
    return jax.make_mesh((life.devices,), ("data",), axis_types=(jax.sharding.AxisType.Auto,), devices=devices)


def new_state(life: Life) -> TrainState:
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(3e-2))
    state = TrainState.init(Net(), tx, rngs, jnp.ones((4, 4)), train=False)
    return jax.device_put(state, jax.NamedSharding(mesh_of(life), jax.P())) if life.devices else state


def live(life: Life, phase: Any) -> None:
    """Run until the end of the run, or of this process."""
    chance = random.Random(f"{life.way} {life.number}")  # noqa: S311 - it chooses moments
    early = life.way and chance.random() < EARLY
    left = chance.randrange(SOON)
    if early:
        threading.Timer(chance.uniform(0.02, 2.0), end_of, (life.way,)).start()
    whole = examples()
    whole["place"] = np.zeros(EXAMPLES, np.int32)

    def evaluate(state: TrainState) -> Any:
        phase[0] = PHASES.index("evaluate")
        found = train.evaluate(state, whole, loss_fn, averaged=True, batch_size=16)
        phase[0] = PHASES.index("step")
        return {"loss": found["loss"]}

    def count(loop: Any) -> None:
        nonlocal left
        phase[0] = PHASES.index("step")
        loop.kept["steps"] = loop.kept.get("steps", 0) + 1
        left -= 1
        if left < 0 and life.way and not early:
            threading.Timer(chance.expovariate(1 / MEAN), end_of, (life.way,)).start()
            left = 10 * STEPS
        if life.way:
            time.sleep(chance.uniform(0, 0.01))

    state = train.fit(
        train.make_step(loss_fn, accumulate=2, average=0.95),
        new_state(life),
        data(life, phase),
        steps=STEPS,
        run=checkpoint.Manager(life.folder, keep=[checkpoint.KeepLast(2)]),
        save_every=4,
        log_every=3,
        log=None,
        evaluate=evaluate,
        evaluate_every=5,
        compile_cache=life.folder.parent / "compiled",
        hooks=[count, train.early_stopping(patience=3, min_delta=0.02), train.keep_best()],
    )
    jax.block_until_ready(state)


def end_of(way: str) -> None:
    """End this process, or fill its disk."""
    if way in ("kill", "devices"):
        os.kill(os.getpid(), signal.SIGKILL)
    elif way == "signal":
        os.kill(os.getpid(), signal.SIGTERM)
    else:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))


def born(life: Life, phase: Any) -> int:
    """Fork a process for a life and return how it ended: its status, negative for a signal."""
    phase[0] = 0
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", UnsavedStepWarning)
        if life.devices:
            jax.config.update("jax_num_cpu_devices", life.devices)
        live(life, phase)
    except SystemExit as left:
        os._exit(left.code if isinstance(left.code, int) else 1)
    except (CheckpointWriteError, RunFolderError, OSError):
        if life.way != "full disk":
            traceback.print_exc()
        os._exit(3 if life.way == "full disk" else 1)
    except BaseException:  # noqa: BLE001 - the parent is told
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


EXPECTED = {
    "kill": (-signal.SIGKILL,),
    "devices": (-signal.SIGKILL,),
    "signal": (128 + signal.SIGTERM, -signal.SIGTERM),  # the second before the loop has begun
    "full disk": (3,),
}


def lives(folder: Path, way: str, times: int) -> dict[str, Any]:
    """Let a run be ended so many times and then come to its end; return what it was at, and what became of it."""
    phase = mmap.mmap(-1, 1)
    found: collections.Counter[str] = collections.Counter()
    begun, ended, reached = 0, 0, 0
    run = checkpoint.Manager(folder)
    while True:
        last = ended >= times
        devices = DEVICES[(begun + ended) % len(DEVICES)] if way == "devices" else 0
        began = reached
        status = born(Life(folder, "" if last else way, begun, devices), phase)
        begun += 1
        reached = run.latest() or 0
        if status == 0:
            if last:
                break
            found["came to its end first"] += 1
            shutil.rmtree(folder)
            reached = 0
            continue
        if last or status not in EXPECTED[way]:
            message = f"life {begun} of {way!r} ended with {status} after step {reached}"
            raise RuntimeError(message)
        ended += 1
        is_saving = way == "kill" and any(not path.name.startswith(".compiled") for path in run.leftovers())
        at = "save" if is_saving else PHASES[phase[0]]
        found[at] += 1
        found["made progress"] += reached > began
        if ended % 20 == 0:
            print(f"{way}: ended {ended} times, {dict(found)}", file=sys.stderr, flush=True)
    return {"lives": begun, "ended": ended, "at": dict(found)}


def outcome(folder: Path) -> dict[str, Any]:
    """Return rows, checkpoints, final and best state of a run."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [{name: value for name, value in json.loads(line).items() if name != "time"} for line in lines]
    run = checkpoint.Manager(folder)
    known = run.open().metadata["loop"]
    states = {"final": run.restore(), "best": checkpoint.restore(folder / "best")}
    kept = {name: known.get(name) for name in ("kept", "stopped", "data")}
    return {"rows": rows, "steps": run.steps(), "states": states, "kept": kept}


def differences(alone: dict[str, Any], other: dict[str, Any], *, rounding: float) -> list[str]:
    """Say how a run that was ended differs from the one left alone; nothing where it does not."""
    found: list[str] = []
    if not rounding:
        found += [name for name in ("rows", "kept") if alone[name] != other[name]]
    if alone["steps"] != other["steps"]:
        found.append("steps")
    if [row.get("order") for row in alone["rows"]] != [row.get("order") for row in other["rows"]]:
        found.append("order of the data")
    for one, two in zip(alone["rows"], other["rows"], strict=False):
        if one.keys() != two.keys() or not all(np.isclose(one[n], two[n], rounding, rounding) for n in one):
            found.append(f"row {one['step']}")
    for name, state in alone["states"].items():
        mine, theirs = (checkpoint_leaves(each) for each in (state, other["states"][name]))
        if mine.keys() != theirs.keys():
            found.append(f"{name}: other leaves")
            continue
        for path, leaf in mine.items():
            same = np.array_equal(leaf, theirs[path], equal_nan=leaf.dtype.kind == "f")
            if not same and not (rounding and np.allclose(leaf, theirs[path], rounding, rounding)):
                found.append(f"{name}: {path}")
    return found


def checkpoint_leaves(state: Any) -> dict[str, np.ndarray[Any, Any]]:
    """Return the arrays of a restored state by path; random keys as their numbers."""
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        is_key = isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        found[jax.tree_util.keystr(path)] = np.asarray(jax.random.key_data(leaf) if is_key else leaf)
    return found


def tried(ways: Mapping[str, int], folder: Path) -> dict[str, dict[str, Any]]:
    """Let a run be ended in some ways, each so many times, and return what became of each, without the arrays."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.kills", "--lives", str(folder)]
    command += ["--ways", *(f"{way}={times}" for way, times in {ALONE: 0, **ways}.items())]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603 - this very program
    if done.returncode:
        message = f"the lives in {folder} ended with {done.returncode}"
        raise RuntimeError(message)
    told: dict[str, dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    alone = outcome(folder / ALONE)
    for way in ways:
        other = outcome(folder / way)
        told[way] |= {"rows": len(other["rows"]), "last": other["steps"][-1]}
        told[way]["differences"] = differences(alone, other, rounding=2e-4 if way == "devices" else 0.0)
    return {way: told[way] for way in ways}


def main() -> int:
    """Measure, print and write."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [f"{way}={times}" for way, times in WAYS.items()]
    made.add_argument("--ways", nargs="+", default=known, metavar="WAY=TIMES", help=f"default: {' '.join(known)}")
    made.add_argument("--results", type=Path, help="the folder of the JSON file")
    made.add_argument("--lives", type=Path, help=argparse.SUPPRESS)
    options = made.parse_args()
    ways = {way: int(times) for way, _, times in (each.partition("=") for each in options.ways)}
    if options.lives is not None:  # a program that has not used JAX, so that what it forks can
        print(json.dumps({way: lives(options.lives / way, way, times) for way, times in ways.items()}))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        table = tried(ways, Path(folder))
    for way, row in table.items():
        print(f"{way}: {json.dumps(row)}")
    if options.results is not None:
        results.write(options.results, "kills", {"machine": results.machine(), "ways": table})
    return int(any(row["differences"] for row in table.values()))


if __name__ == "__main__":
    sys.exit(main())
