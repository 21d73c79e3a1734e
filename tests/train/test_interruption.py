"""A run that is killed, at any moment and as often as it takes, ends with the bits of one that is not.

Each program is killed for good, with SIGKILL, at a moment that it is told: while it takes a batch, in an evaluation, in
the body, when a row has been written, and in the middle of a save, when the folder of the save is there and the
checkpoint is not. It is then started again. SIGTERM comes from outside, as a scheduler sends it, or twice from within.
"""

import json
import signal
import subprocess
import sys

import pytest

from batiste import checkpoint

PROGRAM = """
import hashlib, os, signal, sys, threading, time
import jax, jax.numpy as jnp, numpy as np
from batiste import checkpoint, train

folder, kind, moment, at = *sys.argv[1:4], int(sys.argv[4])

def now(name, n):
    if (name, n) == (moment, at):
        os.kill(os.getpid(), signal.SIGKILL)

class Source:
    def __len__(self):
        return 64

    def __getitem__(self, index):
        return np.random.default_rng(index).normal(size=8).astype(np.float32)

    def __repr__(self):
        return "Source()"

class Numbers:
    def __init__(self):
        self.random = np.random.default_rng(5)

    def __iter__(self):
        return self

    def __next__(self):
        return self.random.normal(size=(4, 8)).astype(np.float32)

    def get_state(self):
        return self.random.bit_generator.state

    def set_state(self, state):
        self.random.bit_generator.state = state

class Told:
    def __init__(self, data):
        self.iterator, self.taken = iter(data), 0

    def __iter__(self):
        return self

    def __next__(self):
        now("batch", self.taken)
        self.taken += 1
        if moment == "wait":
            time.sleep(0.05)
        return next(self.iterator)

    def get_state(self):
        return {"taken": self.taken, "data": self.iterator.get_state()}

    def set_state(self, state):
        self.taken = state["taken"]
        self.iterator.set_state(state["data"])

def data():
    if kind == "plain":
        return Numbers()
    import grain
    few = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
    return grain.MapDataset.source(Source()).shuffle(seed=4).repeat().batch(4).to_iter_dataset(few)

def step(state, x):
    noise = jax.random.normal(jax.random.fold_in(state["key"], state["n"]), x.shape)
    def loss(w):
        return jnp.mean((jnp.tanh((x + 0.1 * noise) @ w) - x[:, :1]) ** 2)
    value, grads = jax.value_and_grad(loss)(state["w"])
    m = 0.9 * state["m"] + grads
    return {"w": state["w"] - 0.1 * m, "m": m, "n": state["n"] + 1, "key": state["key"]}, {"loss": value}

def evaluate(state):
    now("evaluation", int(state["n"]))
    return {"norm": jnp.linalg.norm(state["w"])}

def watch(stage=f".{at}.batiste-"):
    while not (os.path.isdir(folder) and any(name.startswith(stage) for name in os.listdir(folder))):
        time.sleep(0.0002)
    os.kill(os.getpid(), signal.SIGKILL)

if moment == "save":
    threading.Thread(target=watch, daemon=True).start()
start = {"w": jnp.ones((8, 1)), "m": jnp.zeros((8, 1)), "n": 0, "key": jax.random.key(2)}
loop = train.Loop(
    step, start, Told(data()), steps=30, run=checkpoint.Manager(folder, keep=[checkpoint.KeepLast(2)]), save_every=6,
    log_every=4, log=lambda row: now("row", row["step"]), evaluate=evaluate, evaluate_every=10,
    compile_cache=os.path.join(os.path.dirname(folder), "compiled"),
)
for n, _ in loop:
    now("body", n)
    if moment == "wait":
        print(n, flush=True)
print(loop.step, hashlib.sha256(b"".join(np.asarray(loop.state[k]).tobytes() for k in ("w", "m", "n"))).hexdigest())
"""

KILLS = {
    "plain": [("batch", 3), ("save", 6), ("evaluation", 10), ("save", 18), ("body", 24), ("row", 28)],
    "grain": [("batch", 8), ("save", 30)],
}


def command(folder, kind, moment="none", at=0):
    return [sys.executable, "-W", "error", "-c", PROGRAM, str(folder), kind, moment, str(at)]


def outcome(folder, *more):
    done = subprocess.run(command(folder, *more), capture_output=True, text=True, check=False)
    return done.returncode, done.stdout.strip(), done.stderr


def rows_of(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "time"} for row in rows]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Return the result and the rows of a run that nothing interrupts, by the kind of its data."""
    found = {}

    def run(kind):
        if kind not in found:
            folder = tmp_path_factory.mktemp("whole") / kind
            status, result, errors = outcome(folder, kind)
            assert (status, errors) == (0, "")
            found[kind] = result, rows_of(folder)
        return found[kind]

    return run


@pytest.mark.parametrize("kind", KILLS)
def test_killed_again_and_again(kind, whole, tmp_path):
    folder = tmp_path / "run"
    for moment, at in KILLS[kind]:
        status, result, errors = outcome(folder, kind, moment, at)
        assert (status, result, errors) == (-signal.SIGKILL, "", ""), (moment, at)
        if moment == "save":
            assert list(folder.glob(f".{at}.batiste-*"))
            assert not (folder / str(at)).exists()
    status, result, errors = outcome(folder, kind)
    assert (status, errors) == (0, "")
    assert (result, rows_of(folder)) == whole(kind)
    assert [row["step"] for row in rows_of(folder)] == [4, 8, 10, 12, 16, 20, 24, 28, 30]
    assert sorted(path.name for path in folder.iterdir()) == ["24", "30", "metrics.jsonl"]


def test_asked_to_stop(whole, tmp_path):
    folder = tmp_path / "run"
    with subprocess.Popen(command(folder, "plain", "wait"), stdout=subprocess.PIPE, text=True) as running:
        seen = [running.stdout.readline() for _ in range(3)]
        running.send_signal(signal.SIGTERM)
        seen += running.stdout.readlines()
    assert running.returncode == 143
    assert 3 <= len(seen) < 30
    assert seen[-1] == f"{len(seen)}\n"
    assert (folder / str(len(seen))).is_dir()
    assert outcome(folder, "plain")[:2] == (0, whole("plain")[0])
    assert rows_of(folder) == whole("plain")[1]


TWICE = """
import os, signal, sys, threading, time
import jax.numpy as jnp
from batiste import checkpoint, train

begun, forever, sync = threading.Event(), threading.Event(), os.fsync

def stuck(file):
    if threading.current_thread() is threading.main_thread():
        return sync(file)
    begun.set()
    forever.wait()

run = checkpoint.Manager(sys.argv[1])
step = lambda state, x: (state + x, {"loss": state})
with open(sys.argv[1] + ".txt", "w") as mine:
    for n, _ in train.Loop(step, jnp.zeros(()), lambda n: 1.0, steps=30, run=run, save_every=5, compile_cache=False):
        mine.write(f"{n} ")
        if n == 7:
            run.wait()
            os.fsync = stuck
        if n == 11:
            begun.wait()
            signal.raise_signal(signal.SIGTERM)
            time.sleep(0.3)
            signal.raise_signal(signal.SIGTERM)
"""


def test_asked_twice_while_a_save_goes_on_that_never_ends(tmp_path):
    folder = tmp_path / "run"
    ended = subprocess.run([sys.executable, "-c", TWICE, str(folder)], capture_output=True, timeout=300, check=False)
    assert (ended.returncode, ended.stderr) == (143, b"")
    assert (tmp_path / "run.txt").read_text().split() == [str(n) for n in range(1, 12)]  # what the program has open
    run = checkpoint.Manager(folder)
    assert run.steps() == [5]
    assert checkpoint.verify(run.path(5)).leaves == 1
    assert run.cleanup()
