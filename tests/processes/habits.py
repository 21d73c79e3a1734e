"""One process of several: what those try who come from programs in which each process has numbers of its own."""

import datetime as dt
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from batiste import TrainState, nn, shard, train, tree
from batiste.errors import ProcessesDifferError
from batiste.train import metrics
from tests.processes.saving import refused, say, start

ROWS = 8


def loss(model, batch):
    return (model(batch["x"])[..., 0] - batch["y"]) ** 2


def fresh(mesh, seed=0):
    rules = {"params/kernel": jax.P("data"), "**": jax.P()}
    shape = jax.ShapeDtypeStruct((ROWS, 4), jnp.float32)
    options = {} if mesh is None else {"mesh": mesh, "rules": rules}
    return TrainState.init(nn.Dense(1), optax.adam(1e-2), jax.random.key(seed), shape, **options)


def drawn(n):
    x = np.random.default_rng(n).normal(size=(ROWS, 4)).astype(np.float32)
    return {"x": x, "y": x.sum(1)}


def states_and_batches(mesh, rank):
    """A seed for each process, a part of the data for each process, and data that ends earlier, are refused."""
    step = train.make_step(loss)
    for place in (mesh, None):  # on all devices, and in each process by itself
        with refused(ProcessesDifferError, "process 1 has another value in the state", "params/kernel|rngs"):
            train.fit(step, fresh(place, seed=rank), drawn, steps=2, log=None)
        batches = [drawn(n) for n in range(6 - 2 * rank)]
        if place is None:
            with refused(ProcessesDifferError, "another end of its data", "after step 4"):
                train.fit(step, fresh(None), iter(batches), log=None)
    state = jax.device_put(fresh(mesh), jax.NamedSharding(mesh, jax.P()))  # of which no process waits for another
    with refused(ProcessesDifferError, "process 1 has another value in the batch", "global_batch"):
        train.evaluate(state, drawn(rank), loss, batch_size=4)
    with refused(ProcessesDifferError, "another number of batches", "2 batches", "4 batches"):
        train.evaluate(state, [drawn(0)] * (4 - 2 * rank), loss)
    assert train.evaluate(fresh(None), drawn(rank), loss, batch_size=4)["loss"] > 0  # which is this process's own


def rows(mesh, rank, folder):
    """Rows of which hooks decide are the same in all processes, and so is the moment at which time is over."""
    step = train.make_step(loss)
    options = {"log": None, "log_every": 2, "evaluate_every": 2}
    with refused(ProcessesDifferError, "process 1 has another row", r"eval/loss: 2", r"across_processes"):
        train.fit(step, fresh(mesh), drawn, steps=4, evaluate=lambda _: {"loss": 1.0 + rank}, **options)
    seen = []
    hooks = [train.at("row")(lambda loop: seen.append(loop.row["eval/loss"]))]
    nearly = {"evaluate": lambda _: {"loss": 1.0 + 1e-6 * rank}, "hooks": hooks}
    train.fit(step, fresh(mesh), drawn, steps=2, **nearly, **options)
    assert seen == [1.0]

    def slow(n):
        time.sleep(0.02 * (1 + rank))
        return drawn(n)

    for total in (False, True):
        limit = train.time_limit(dt.timedelta(seconds=0.5), total=total)
        state = train.fit(step, fresh(mesh), slow, steps=10_000, run=folder / str(total), log=None, hooks=[limit])
        assert 0 < int(state.step) < 10_000
        assert len({str(row) for row in gathered(int(state.step))}) == 1


def gathered(number):
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(np.array(number)))


def numbers(mesh, rank, count):
    """Metrics of parts add up to those of the whole, and arrays over all processes can be compared."""
    data = np.random.default_rng(0)
    logits, labels = data.normal(size=(30, 3)).astype(np.float32), data.integers(0, 3, 30)

    def measured(logits, labels):
        return {
            "accuracy": metrics.Accuracy.of(logits, labels),
            "matrix": metrics.ConfusionMatrix.of(logits.argmax(-1), labels, classes=3),
            "auroc": metrics.AUROC.of(jax.nn.sigmoid(logits[:, 0]), (labels == 0).astype(np.int32), bins=32),
        }

    def computed(found):
        return {name: np.asarray(metric.on_host().compute()) for name, metric in found.items()}

    measured = jax.jit(measured)
    whole = computed(measured(logits, labels))
    parts = computed(metrics.across_processes(measured(logits[rank::count], labels[rank::count])))
    cut = jax.NamedSharding(mesh, jax.P("data"))
    lying = train.global_batch((logits[train.local_rows(30, cut)], labels[train.local_rows(30, cut)]), cut)
    over = computed(metrics.across_processes(measured(*lying)))
    for name, number in whole.items():
        np.testing.assert_allclose(parts[name], number, rtol=1e-6)
        np.testing.assert_allclose(over[name], number, rtol=1e-6)
    large = metrics.Mean.from_sums({"total": np.float64(2**24 + 1), "weight": np.float64(1)})
    assert metrics.across_processes(large).total()["total"] == count * (2**24 + 1)
    one, two = fresh(mesh).params, fresh(mesh, seed=1).params
    assert not tree.diff(one, one)
    assert [(entry.path, entry.unequal) for entry in tree.diff(one, two)] == [("kernel", 4)]
    keys = jax.jit(lambda: jax.random.split(jax.random.key(0), 4), out_shardings=cut)()
    assert not tree.diff(keys, keys)


def main(arguments):
    count, rank, (folder,) = start(arguments)
    mesh = shard.mesh("data=-1")
    numbers(mesh, rank, count)
    states_and_batches(mesh, rank)
    rows(mesh, rank, Path(folder))
    say("done")


if __name__ == "__main__":
    main(sys.argv[1:])
