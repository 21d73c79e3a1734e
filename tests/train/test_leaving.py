"""A loop that is left, in whatever way, has saved the steps that it promised, and goes on to the same bits.

``BATISTE_LEAVES=1`` leaves it at more steps.
"""

import gc
import json
import os
import signal
import warnings

import jax.numpy as jnp
import numpy as np
import pytest

from batiste import checkpoint
from batiste.errors import (
    CheckpointWriteError,
    DataExhaustedError,
    LoopArgumentError,
    MetricError,
    NonFiniteMetricError,
    UnsavedStepWarning,
)
from batiste.train import Loop, fit
from tests.train.recurrence import batch, begin, step

STEPS, EVERY = 12, 4


class LeftError(Exception):
    """Raised by a part of a test."""


def new_loop(run, at, way=""):
    """Return a loop, of which the part that is named raises once, at a step."""
    raising = {way}

    def part(name, n, result):
        if name in raising and n == at:
            raising.discard(name)
            raise LeftError
        return result

    return Loop(
        step, begin(), lambda n: part("data", n, batch(n)), steps=STEPS, run=run, save_every=EVERY, log_every=2,
        log=lambda row: part("log", row["step"], None),
        evaluate=lambda state: part("evaluate", int(state["n"]), {"sum": state["sum"]}), evaluate_every=2,
        compile_cache=False,
    )  # fmt: skip


def by_break(loop, at):
    for n, _ in loop:
        if n == at:
            break


def by_return(loop, at):
    for n, _ in loop:
        if n == at:
            return


def by_closing(loop, at):
    steps = iter(loop)
    while next(steps)[0] != at:
        pass
    steps.close()


def by_forgetting(loop, at):
    steps = iter(loop)
    while next(steps)[0] != at:
        pass
    del steps
    gc.collect()


def by_an_error(loop, at, kind=LeftError):
    def body():
        for n, _ in loop:
            if n == at:
                raise kind

    with pytest.raises(kind):
        body()


def by_ctrl_c(loop, at):
    by_an_error(loop, at, KeyboardInterrupt)


def by_exit(loop, at):
    by_an_error(loop, at, SystemExit)


def by_a_part(loop, at):
    with pytest.raises(LeftError):
        by_break(loop, at + 1)


WAYS = {
    "break": ("", by_break),
    "return": ("", by_return),
    "close": ("", by_closing),
    "forgotten": ("", by_forgetting),
    "error": ("", by_an_error),
    "Ctrl-C": ("", by_ctrl_c),
    "exit": ("", by_exit),
    "data": ("data", by_a_part),
    "log": ("log", by_a_part),
    "evaluate": ("evaluate", by_a_part),
}


def promised(at):
    return list(range(EVERY, at + 1, EVERY))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    run = checkpoint.Manager(tmp_path_factory.mktemp("whole"))
    loop = new_loop(run, 0)
    for _ in loop:
        pass
    return np.asarray(loop.state["sum"]).tobytes(), rows_of(run)


def rows_of(run):
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "time"} for row in rows]


MOMENTS = [2, 4, 6, 8, 12] if os.environ.get("BATISTE_LEAVES") else [4, 12]
CASES = [(way, at) for way in WAYS for at in MOMENTS if (way, at) != ("data", STEPS)]  # where no data is taken any more


@pytest.mark.parametrize(("way", "at"), [*CASES, ("break", 6), ("evaluate", 6)])
def test_the_steps_that_were_due_are_there(way, at, tmp_path, whole):
    part, leave = WAYS[way]
    run = checkpoint.Manager(tmp_path)
    loop = new_loop(run, at, part)
    leave(loop, at)
    assert run.steps() == promised(at)
    assert run.leftovers() == []
    anew = way in ("break", "evaluate", "log")  # from the last checkpoint, as another program would
    again = new_loop(run, 0) if anew else loop
    for _ in again:
        pass
    assert run.steps() == promised(STEPS)
    assert np.asarray(again.state["sum"]).tobytes() == whole[0]
    assert rows_of(run) == whole[1]


def test_a_signal_in_a_body_that_is_left(tmp_path):
    before = {each: signal.signal(each, lambda *_: None) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        run = checkpoint.Manager(tmp_path)
        for n, _ in Loop(step, begin(), batch, steps=STEPS, run=run, save_every=100):
            if n == 3:
                signal.raise_signal(signal.SIGTERM)
                break
        assert run.steps() == [3]

        def failing():
            for n, _ in Loop(step, begin(), batch, steps=STEPS, run=run, save_every=100):
                if n == 5:
                    signal.raise_signal(signal.SIGINT)
                    raise LeftError

        with pytest.raises(LeftError):
            failing()
        assert run.steps() == [3, 5]

        def impatient():
            for n, _ in Loop(step, begin(), batch, steps=STEPS, run=run, save_every=4):
                if n == 8:
                    signal.raise_signal(signal.SIGINT)
                    signal.raise_signal(signal.SIGINT)

        with pytest.raises(KeyboardInterrupt):
            impatient()
        assert run.steps() == [3, 5]
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def test_data_that_ends_early_and_data_that_is_empty(tmp_path):
    run = checkpoint.Manager(tmp_path)
    with pytest.warns(match="cannot go on"), pytest.raises(DataExhaustedError):
        fit(step, begin(), [np.float32(1)] * 6, steps=STEPS, run=run, save_every=EVERY)
    assert run.steps() == [4, 6]
    empty = checkpoint.Manager(tmp_path / "empty")
    with pytest.warns(match="cannot go on"), pytest.raises(DataExhaustedError, match="after step 0"):
        fit(step, begin(), [], steps=STEPS, run=empty)
    assert empty.steps() == []


def test_a_save_that_cannot_be_made_is_told(tmp_path, monkeypatch):
    run = checkpoint.Manager(tmp_path)
    real, broken = run.save_async, [True]

    def save_async(step, *args, **kwargs):
        if broken:
            raise CheckpointWriteError(path=tmp_path / str(step), reason="No space left on device", cure="Make room.")
        return real(step, *args, **kwargs)

    monkeypatch.setattr(run, "save_async", save_async)
    loop = Loop(step, begin(), batch, steps=STEPS, run=run, save_every=EVERY)
    with pytest.warns(UnsavedStepWarning, match=r"(?s)left after step 4: CheckpointWriteError.*No space left"):
        by_break(loop, 4)
    evaluating = new_loop(run, 4, "evaluate")
    with pytest.raises(LeftError) as error:
        by_break(evaluating, 5)
    assert "No space left" in error.value.__notes__[0]
    with pytest.raises(CheckpointWriteError):  # the due step is tried again, and first of all
        by_break(loop, 5)
    assert loop.step == 4
    broken.clear()
    for _ in loop:
        pass
    assert run.steps() == [4, 8, 12]


def test_a_save_is_made_again_where_the_state_was_replaced(tmp_path):
    run = checkpoint.Manager(tmp_path)
    loop = Loop(step, begin(), batch, steps=STEPS, run=run, save_every=EVERY)
    loop.save()
    assert run.steps() == []
    run.wait()
    assert run.steps() == [0]
    for n, _ in loop:
        if n == 4:
            loop.save()
            loop.state = {**loop.state, "sum": jnp.float32(7)}
            break
    assert run.restore(step=4)["sum"] == 7
    assert run.steps() == [0, 4]
    with pytest.raises(LoopArgumentError, match="nowhere to save"):
        Loop(step, begin(), batch).save()


# Metrics that are not finite


def diverging(at):
    def function(state, x):
        state, _ = step(state, x)
        return state, {"loss": x, "norm": jnp.where(x == at, jnp.nan, x)}

    return function


def test_a_metric_that_went_wrong_is_not_forgotten(tmp_path):
    """Whoever leaves the loop before it is told must not go on, nor save, as if nothing had been."""
    run = checkpoint.Manager(tmp_path)
    loop = Loop(diverging(5), begin(), batch, steps=STEPS, run=run, save_every=EVERY, log_every=6)
    by_break(loop, 6)
    assert run.steps() == [4]
    for use in (loop.save, lambda: by_break(loop, 8)):
        with pytest.raises(NonFiniteMetricError, match="'norm' is nan at step 5") as error:
            use()
        text = str(error.value)
        assert "The state after step" in text
        assert (
            "is finite throughout. Nothing was saved from that step on; the last checkpoint is that of step 4" in text
        )
    assert run.steps() == [4]
    due = Loop(diverging(5), begin(), batch, steps=STEPS, run=checkpoint.Manager(tmp_path / "due"), save_every=6)
    with pytest.warns(UnsavedStepWarning, match="NonFiniteMetricError: 'norm' is nan at step 5"):
        by_break(due, 6)
    with pytest.raises(NonFiniteMetricError, match=r"infinity in 'sum'.*There is no `run`"):
        fit(lambda s, x: ({**step(s, x)[0], "sum": s["sum"] / 0}, {"loss": s["sum"] / 0}), begin(), batch, steps=1)


def test_metrics_that_may_be_infinite_are_no_best(tmp_path):
    run = checkpoint.Manager(tmp_path, keep=[checkpoint.KeepBest("loss"), checkpoint.KeepLast(1)])

    def function(state, x):
        return step(state, x)[0], {"loss": jnp.array([0.5, 0.1, jnp.nan, -jnp.inf, 0.7])[x.astype(int) - 1]}

    fit(function, begin(), batch, steps=5, run=run, save_every=1, log_every=1, finite=False, evaluate_every=1,
        evaluate=lambda _: {"nan": float("nan")})  # fmt: skip
    assert run.steps() == [2, 5]
    assert [row["loss"] for row in rows_of(run)][2:4] == [None, None]


BAD = {
    "an array": lambda x: {"a": jnp.stack([x, x])},
    "complex": lambda x: {"a": x + 1j},
    "a text": lambda _: {"a": "low"},
    "None": lambda x: {"a": None, "b": x},
    "an object": lambda _: {"a": object()},
    "nested": lambda x: {"b": x, "c": {"a": "low"}},
}


@pytest.mark.parametrize("name", BAD)
def test_a_metric_that_is_no_number_is_named(name):
    with pytest.raises(MetricError, match=r"returns '(c/)?a' among its metrics"):
        fit(lambda s, x: (s, BAD[name](x)), begin(), batch, steps=1)
    with pytest.raises(MetricError, match=r"evaluate\(\) returns '(c/)?a' among"):
        fit(step, begin(), batch, steps=1, evaluate=lambda _: BAD[name](np.float32(1)), evaluate_every=1)


def test_metrics_of_every_kind_of_number():
    good = {
        "int8": np.int8(-3), "uint64": np.uint64(7), "bool": np.bool_(1), "bfloat16": jnp.bfloat16(0.5), "python": 3,
        "yes": True, "float8": jnp.float8_e4m3fn(2), "zero": {"d": np.array(1.5)}, "listed": [1, np.float16(2)],
    }  # fmt: skip
    wanted = {
        "int8": -3, "uint64": 7, "bool": 1, "bfloat16": 0.5, "python": 3, "yes": 1, "float8": 2, "zero/d": 1.5,
        "listed/0": 1, "listed/1": 2,
    }  # fmt: skip
    heard = []
    fit(lambda s, _: (s, good), begin(), batch, steps=1, log=heard.append, evaluate=lambda _: good, evaluate_every=1)
    row = {name: value for name, value in heard[0].items() if name not in ("step", "time")}
    assert row == {**wanted, **{f"eval/{name}": value for name, value in wanted.items()}}
    assert all(type(value) is float for value in row.values())
    assert fit(lambda s, _: (s, None), begin(), batch, steps=1)["n"] == 0


def test_a_metric_that_the_best_is_asked_by_must_be_there(tmp_path):
    def best(metric, **options):
        run = checkpoint.Manager(tmp_path / metric.replace("/", "-"), keep=[checkpoint.KeepBest(metric)])
        fit(step, begin(), batch, steps=4, run=run, save_every=2, **options)
        return run

    with pytest.raises(LoopArgumentError, match=r"(?s)KeepBest\('los'\).*no row has that metric, but loss.*'loss'\?"):
        best("los")
    with pytest.raises(LoopArgumentError, match="no row has that metric"):
        best("eval/loss")
    options = {"evaluate": lambda state: {"accuracy": state["sum"]}, "evaluate_every": 2}
    with pytest.raises(LoopArgumentError, match=r"but eval/accuracy, loss\.(?s:.*)Did you mean 'eval/accuracy'"):
        best("eval/acuracy", **options)
    with pytest.raises(LoopArgumentError, match="what evaluate returns begins with 'eval/'"):
        best("accuracy", **options)
    assert best("eval/accuracy", **options).steps()
    assert best("loss").steps()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert checkpoint.Manager(tmp_path / "eval-acuracy").steps() == [2]  # what was done is not lost
