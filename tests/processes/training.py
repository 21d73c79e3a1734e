"""One process of several: trains a small network on its part of the batches, and is interrupted if it is told so."""

import json
import logging
import os
import signal
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from batiste import TrainState, checkpoint, nn, train
from batiste import _processes as processes
from tests.processes.saving import mesh_of, say, start

ROWS, STEPS = 16, 20


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(nn.Dropout(0.1, deterministic=False)(nn.relu(nn.Dense(8)(x))))


def step(state, batch):
    def loss_fn(params):
        predicted = state.apply_fn(state.variables(params), batch["x"], rngs=state.step_rngs())
        return jnp.mean((predicted - batch["y"]) ** 2)

    loss, grads = jax.value_and_grad(loss_fn)(state.params)
    return state.apply_gradients(grads=grads), {"loss": loss}


def begin(mesh):
    """Return the first state, with kernels cut along their first axis where that can be."""
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    state = TrainState.init(Net(), optax.adam(0.05), rngs, jax.ShapeDtypeStruct((ROWS, 4), jnp.float32))

    def placed(leaf):
        if not isinstance(leaf, jax.Array) or jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return leaf
        host = np.asarray(leaf)
        cut = jax.P("x") if host.ndim == 2 and host.shape[0] % mesh.shape["x"] == 0 else jax.P()
        return jax.make_array_from_callback(host.shape, jax.NamedSharding(mesh, cut), host.__getitem__)

    return jax.tree.map(placed, state)


class Batches:
    """Batches with a position: each process draws its rows of what all of them draw together."""

    def __init__(self, sharding):
        self.at, self.sharding = 0, sharding

    def __iter__(self):
        return self

    def __next__(self):
        self.at += 1
        return batch_of(self.at - 1, self.sharding)

    def get_state(self):
        return {"at": self.at, "process": jax.process_index()}

    def set_state(self, state):
        assert state["process"] == jax.process_index()
        self.at = state["at"]


def batch_of(n, sharding):
    data = np.random.default_rng(n)
    x = data.normal(size=(ROWS, 4)).astype(np.float32)
    rows = train.local_rows(ROWS, sharding)
    part = {"x": x[rows], "y": np.sin(x[rows].sum(1, keepdims=True))}
    return train.global_batch(part, sharding)


def main(arguments):
    _, rank, (folder, text) = start(arguments)
    options = json.loads(text)
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s", stream=sys.stdout)
    mesh = mesh_of()
    sharding = jax.NamedSharding(mesh, jax.P("x"))
    slow = options.get("slow", 0.0)
    at = options.get("at", -1) if options.get("rank", 0) == rank else -1
    run = checkpoint.Manager(Path(folder), keep=[checkpoint.KeepLast(3)])

    def batches(n):
        time.sleep(slow)
        if n == at:
            os.kill(os.getpid(), getattr(signal, options["signal"]))
        return batch_of(n, sharding)

    def other(state, batch):
        state, metrics = step(state, batch)
        return state, {"loss": metrics["loss"] + 1}

    def evaluate(state):
        return {"norm": optax.tree.norm(state.params)}

    if "patience" in options:
        processes.check_alike.__kwdefaults__["seconds"] = options["patience"]
    if options.get("late") == rank:
        time.sleep(3600)
    state = begin(mesh)
    program = other if options.get("other") == rank else step
    loop = train.Loop(
        program,
        state,
        Batches(sharding) if options.get("iterator") else batches,
        steps=options.get("steps", STEPS),
        run=run,
        save_every=5,
        log_every=4,
        evaluate=evaluate,
        evaluate_every=8,
    )
    say(f"starts at {loop.step}")
    try:
        for _ in loop:
            pass
    except SystemExit:
        say(f"stopped at {loop.step}")
        raise
    whole = jax.jit(lambda state: state, out_shardings=jax.NamedSharding(mesh, jax.P()))(loop.state.params)
    say("params", [float(np.asarray(leaf, np.float64).sum()) for leaf in jax.tree.leaves(whole)])


if __name__ == "__main__":
    main(sys.argv[1:])
