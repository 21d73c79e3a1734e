"""``train.evaluate``: each example once, whatever batches it comes in, with one program."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from batiste import TrainState, nn, train
from batiste.errors import ArgumentError, LoopArgumentError, LossError, NoAverageError, NoBatchError
from batiste.train import metrics

RANDOM = np.random.default_rng(0)
DATA = {"x": RANDOM.normal(size=(25, 4)).astype(np.float32), "y": np.arange(25) % 3}


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(8)(x))
        return nn.Dense(3)(nn.Dropout(0.5, deterministic=not train)(x))


def loss_fn(model, batch):
    logits = model(batch["x"], train=model.train)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["y"])
    return losses, {"accuracy": logits.argmax(-1) == batch["y"]}


def in_sums(model, batch):
    losses, found = loss_fn(model, batch)
    return losses.mean(), {"accuracy": found["accuracy"].mean(), "perplexity": metrics.Perplexity.of(losses)}


STATE = TrainState.init(
    Net(), optax.adam(1e-2), {"params": jax.random.key(0), "dropout": jax.random.key(1)}, DATA["x"], train=False
)


def expected(params=STATE.params):
    logits = Net().apply({"params": params, **STATE.collections}, DATA["x"], train=False)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, DATA["y"])
    return {"loss": float(losses.mean()), "accuracy": float((logits.argmax(-1) == DATA["y"]).mean())}


@pytest.mark.parametrize("loss", [loss_fn, in_sums])
@pytest.mark.parametrize("size", [25, 10])
def test_a_last_batch_that_is_shorter_counts_less(loss, size):
    found = train.evaluate(STATE, DATA, loss, batch_size=size)
    wanted = expected()
    for name, value in wanted.items():
        assert isinstance(found[name], float)
        assert found[name] == pytest.approx(value, rel=1e-6)
    if loss is in_sums:
        assert found["perplexity"] == pytest.approx(np.exp(wanted["loss"]), rel=1e-6)


def test_one_program_serves_all_batches():
    traces = []

    def counted(model, batch):
        traces.append(batch["x"].shape)
        return loss_fn(model, batch)

    batches = [{name: each[start : start + 10] for name, each in DATA.items()} for start in (0, 10, 20)]
    for _ in range(3):
        train.evaluate(STATE, batches, counted)
    assert traces == [(10, 4)] * 2  # to see what it returns, and to compile it


def test_data_comes_in_three_ways():
    batches = [{name: each[start : start + 5] for name, each in DATA.items()} for start in range(0, 25, 5)]
    whole = train.evaluate(STATE, DATA, loss_fn, batch_size=5)
    assert train.evaluate(STATE, batches, loss_fn) == whole
    assert train.evaluate(STATE, iter(batches), loss_fn) == whole
    assert train.evaluate(STATE, batches.__getitem__, loss_fn, steps=5) == whole
    assert train.evaluate(STATE, batches, loss_fn, steps=2) == train.evaluate(STATE, batches[:2], loss_fn)


def test_an_average_and_a_policy_are_those_of_the_step():
    step = train.make_step(loss_fn, average=0.5, policy="compute=bfloat16")
    state, _ = jax.jit(step)(step.prepare(STATE), DATA)
    found = train.evaluate(state, DATA, loss_fn, averaged=True, batch_size=25)
    own = Net().apply({"params": state.averaged_params(), **state.collections}, DATA["x"], train=False)
    losses = optax.softmax_cross_entropy_with_integer_labels(own, DATA["y"])
    assert found["loss"] == pytest.approx(float(losses.mean()), rel=1e-6)
    rounded = train.evaluate(state, DATA, step, averaged=True, batch_size=25)
    assert rounded["loss"] != found["loss"]
    assert rounded["loss"] == pytest.approx(found["loss"], rel=2e-2)
    with pytest.raises(NoAverageError):
        train.evaluate(STATE, DATA, loss_fn, averaged=True, batch_size=25)


def test_it_is_what_fit_evaluates_with():
    rows = []
    train.fit(
        train.make_step(loss_fn),
        jax.tree.map(jnp.copy, STATE),
        lambda n: DATA,
        steps=2,
        evaluate=lambda state: train.evaluate(state, DATA, loss_fn, batch_size=25),
        evaluate_every=1,
        log=rows.append,
    )
    assert [set(row) for row in rows] == [{"step", "time", "loss", "accuracy", "eval/loss", "eval/accuracy"}] * 2


WRONG = {
    "nothing": (NoBatchError, lambda: train.evaluate(STATE, [], loss_fn)),
    "no loss": (LossError, lambda: train.evaluate(STATE, [DATA], lambda model, batch: None)),
    "whole arrays": (LoopArgumentError, lambda: train.evaluate(STATE, DATA, loss_fn)),
    "no function": (ArgumentError, lambda: train.evaluate(STATE, [DATA], None)),
    "no end": (ArgumentError, lambda: train.evaluate(STATE, lambda n: DATA, loss_fn)),
    "no size": (ArgumentError, lambda: train.evaluate(STATE, DATA, loss_fn, batch_size=0)),
    "no number": (ArgumentError, lambda: train.evaluate(STATE, [DATA], loss_fn, steps=1.5)),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments(name):
    kind, program = WRONG[name]
    with pytest.raises(kind):
        program()
