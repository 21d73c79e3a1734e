"""A run killed at random moments, again and again, ends with the bits and the rows of one that is left alone.

It has what a real run has: BatchNorm, dropout, accumulation, averages of the parameters, early stopping, hooks that
keep values, shuffled data (of our own, and of grain), and saves in the background. One program forks a process for each
life of the run, so that JAX is imported once. ``BATISTE_KILLS`` sets how often each kind is killed: 200 for a thorough
run.
"""

import json
import os
import subprocess
import sys

import pytest

KILLS = int(os.environ.get("BATISTE_KILLS", "2"))

PROGRAM = """
import hashlib, os, random, signal, sys, threading, time
import jax, jax.numpy as jnp, numpy as np, optax
from batiste import TrainState, checkpoint, nn, train

folder, kind, kills = sys.argv[1], sys.argv[2], int(sys.argv[3])
KILLED = 9

class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(8)(x))
        return nn.Dense(1)(nn.Dropout(0.2, deterministic=not train)(nn.relu(x)))

def examples():
    x = np.random.default_rng(3).normal(size=(64, 4)).astype(np.float32)
    return {"x": x, "y": np.sin(x[:, :1])}

def data():
    whole = examples()
    if kind == "own":
        return train.shuffled(whole, 8, seed=5)
    import grain
    rows = [{"x": whole["x"][i], "y": whole["y"][i]} for i in range(64)]
    few = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
    return grain.MapDataset.source(rows).seed(5).shuffle().repeat().batch(8).to_iter_dataset(few)

def step(both, batch):
    state, average = both["state"], both["average"]
    def loss_of(params):
        y, changed = state.apply_fn(state.variables(params), batch["x"], train=True, rngs=state.step_rngs(),
                                    mutable=list(state.collections))
        return jnp.mean((y - batch["y"]) ** 2), changed
    (loss, changed), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    state = state.apply_gradients(grads=grads, collections=changed)
    return {"state": state, "average": optax.incremental_update(state.params, average, 0.05)}, {"loss": loss}

whole = examples()

def evaluate(both):
    y = both["state"].apply_fn({**both["state"].variables(both["average"])}, whole["x"], train=False)
    return {"loss": jnp.mean((y - whole["y"]) ** 2)}

def life(seed):
    chance = random.Random(seed)
    if seed is not None:
        threading.Timer(chance.uniform(0.05, 1.6), lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    tx = optax.MultiSteps(optax.chain(optax.clip_by_global_norm(1.0), optax.adam(3e-2)), every_k_schedule=2)
    state = TrainState.init(Net(), tx, rngs, jnp.ones((4, 4)), train=False)
    start = {"state": state, "average": jax.tree.map(jnp.copy, state.params)}

    def count(loop):
        loop.kept["steps"] = loop.kept.get("steps", 0) + 1
        if seed is not None:
            time.sleep(chance.uniform(0, 0.02))

    loop = train.Loop(
        step, start, data(), steps=90, run=checkpoint.Manager(folder, keep=[checkpoint.KeepLast(2)]), save_every=4,
        log_every=3, log=None, evaluate=evaluate, evaluate_every=5, compile_cache=os.path.dirname(folder) + "/compiled",
        hooks=[count, train.early_stopping(patience=3, min_delta=0.02), train.keep_best()],
    )
    for _ in loop:
        pass
    leaves = [np.asarray(leaf) if leaf.dtype != jax.random.key(0).dtype else np.asarray(jax.random.key_data(leaf))
              for leaf in jax.tree.leaves(loop.state)]
    print(hashlib.sha256(b"".join(leaf.tobytes() for leaf in leaves)).hexdigest(), loop.step, loop.stopped,
          sorted(loop.kept.items()), flush=True)

killed = 0
while True:
    child = os.fork()
    if child == 0:
        try:
            life(killed if killed < kills else None)
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        killed += 1
    elif status == 0 and killed < kills:  # it came to its end first: once more from the beginning
        import shutil
        shutil.rmtree(folder)
        killed += 1
    else:
        print(killed, file=sys.stderr)
        sys.exit(os.waitstatus_to_exitcode(status))
"""


def outcome(folder, kind, kills):
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, str(folder), kind, str(kills)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    told = [{name: value for name, value in row.items() if name != "time"} for row in rows]
    return done.stdout.splitlines()[-1], told


@pytest.mark.parametrize("kind", ["own", "grain"])
def test_killed_at_random_moments(kind, tmp_path):
    whole = outcome(tmp_path / "whole", kind, 0)
    killed = outcome(tmp_path / "killed", kind, KILLS)
    assert killed == whole
    assert "eval/loss was best" in whole[0]
    assert len(whole[1]) > 20
