"""The loop over steps: what it computes, when it waits, what it writes, and how a run goes on after it was left."""

import functools
import json
import logging
import signal
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import rich.console

from batiste import checkpoint, nn
from batiste.errors import (
    ArgumentError,
    DataExhaustedError,
    LoopArgumentError,
    MetricError,
    NonFiniteMetricError,
    RunMismatchError,
    StepResultError,
)
from batiste.train import Loop, TrainState, fit, show


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(8)(x))
        return nn.Dense(1)(nn.Dropout(0.2, deterministic=not train)(x))


def new_state():
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    return TrainState.init(Net(), optax.adam(1e-2), rngs, jnp.ones((4, 3)), train=False)


def step(state, x):
    def loss_fn(params):
        y, changed = state.apply_fn(
            state.variables(params), x, train=True, rngs=state.step_rngs(), mutable=list(state.collections)
        )
        return jnp.mean((y - 1) ** 2), changed

    (loss, changed), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    return state.apply_gradients(grads=grads, collections=changed), {
        "loss": loss,
        "norms": {"grads": optax.tree.norm(grads)},
    }


def batch(number):
    return np.random.default_rng(number).normal(size=(4, 3)).astype(np.float32)


def add(state, x):
    """A step that is compiled in no time: the state counts and sums up."""
    return {"n": state["n"] + 1, "sum": state["sum"] + x}, {"loss": x}


def zero():
    return {"n": jnp.int32(0), "sum": jnp.float32(0)}


def number(n):
    return np.float32(n + 1)


def host(tree):
    leaves = [
        jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        for leaf in map(jnp.asarray, jax.tree.leaves(tree))
    ]
    return [np.asarray(leaf) for leaf in leaves]


def same_bits(one, other):
    return all(a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in zip(host(one), host(other), strict=True))


def rows_of(run):
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert all(time.time() - 1000 < row.pop("time") < time.time() + 1 for row in rows)
    return rows


@pytest.fixture
def run(tmp_path):
    return checkpoint.Manager(tmp_path / "run")


@pytest.fixture
def safe_signals():
    """Let no signal of a test end the tests; return those that came past the loop."""
    came = []
    before = {each: signal.signal(each, lambda it, _: came.append(it)) for each in (signal.SIGTERM, signal.SIGINT)}
    yield came
    for each, handler in before.items():
        signal.signal(each, handler)


# What it computes


@pytest.mark.usefixtures("users_rules")
def test_it_computes_what_a_bare_loop_does(caplog):
    traces = []

    def counted(state, x):
        traces.append(1)
        return step(state, x)

    state, losses = new_state(), []
    compiled = jax.jit(step)
    for n in range(7):
        state, metrics = compiled(state, batch(n))
        losses.append(metrics)
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        loop = Loop(counted, new_state(), batch, steps=7)
        seen = list(loop)
    assert same_bits(loop.state, state)
    assert loop.step == 7
    assert [n for n, _ in seen] == [1, 2, 3, 4, 5, 6, 7]
    assert same_bits([metrics for _, metrics in seen], losses)
    assert len(traces) == 1
    assert sum("Finished XLA compilation of jit(counted)" in record.getMessage() for record in caplog.records) == 1
    assert same_bits(fit(counted, new_state(), batch, steps=7), state)
    assert len(traces) == 1


def test_the_state_is_donated_unless_the_step_is_compiled_already():
    mine = zero()
    fit(add, mine, number, steps=2)
    assert mine["sum"].is_deleted()
    kept = zero()
    assert fit(jax.jit(add), kept, number, steps=2)["sum"] == 3
    assert kept["sum"] == 0
    compiled = jax.jit(add).lower(kept, number(0)).compile()
    assert fit(compiled, kept, number, steps=2)["sum"] == 3
    scaled = functools.partial(jax.jit(lambda by, state, x: add(state, by * x)), jnp.float32(2))
    assert fit(scaled, kept, number, steps=2)["sum"] == 6


def test_an_array_that_is_in_the_state_twice():
    array = jnp.ones(3)
    final = fit(lambda s, x: ({"a": s["a"] + x, "b": s["b"]}, {"loss": x}), {"a": array, "b": array}, number, steps=2)
    assert (final["a"].tolist(), final["b"].tolist()) == ([4, 4, 4], [1, 1, 1])


@pytest.mark.parametrize("kind", list(jax.sharding.AxisType)[:2], ids=lambda kind: kind.name)
def test_a_sharded_state_stays_where_it_is(run, caplog, kind):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(kind,))
    rows, columns = (jax.NamedSharding(mesh, jax.P(*spec)) for spec in (("data", None), (None, "data")))

    def make():
        return {
            "w": jax.device_put(np.arange(64, dtype=np.float32).reshape(8, 8), rows),
            "v": jax.device_put(np.ones((8, 8), np.float32), columns),
            "key": jax.random.key(3),
            "n": 0,
        }

    traces = []

    def sharded_step(state, x):
        traces.append(1)
        w = jnp.sin(state["w"]) + x + jax.random.uniform(jax.random.fold_in(state["key"], state["n"]))
        return {"w": w, "v": state["v"] + jnp.cos(state["v"]), "key": state["key"], "n": state["n"] + 1}, {
            "loss": w.mean()
        }

    whole = fit(sharded_step, make(), number, steps=8)
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        for n, _ in Loop(sharded_step, make(), number, steps=8, run=run, save_every=2):
            if n == 5:
                break
        resumed = Loop(sharded_step, make(), number, steps=8, run=run)
        assert resumed.step == 4
        for _ in resumed:
            pass
    assert sum("Finished XLA compilation of jit(sharded_step)" in it.getMessage() for it in caplog.records) <= 1
    assert len(traces) == 1
    for final in (whole, resumed.state):
        assert final["w"].sharding.is_equivalent_to(rows, 2)
        assert final["v"].sharding.is_equivalent_to(columns, 2)
        assert len(final["n"].sharding.device_set) == 8
    assert same_bits(resumed.state, whole)
    with pytest.raises(StepResultError, match="missing"):
        fit(lambda state, x: ({"w": state["w"]}, {"loss": x}), make(), number, steps=1)


def test_nothing_waits_for_the_device():
    def slow(state, x):
        for _ in range(20):
            state = jnp.tanh(state @ state)
        return state + x, {"loss": state.mean()}

    loop = Loop(slow, jnp.ones((600, 600)), number, steps=100, log_every=100)
    steps = iter(loop)
    next(steps)
    loop.state.block_until_ready()
    start = time.perf_counter()
    for _ in range(4):
        next(steps)
    handed_out = time.perf_counter() - start
    loop.state.block_until_ready()
    assert handed_out < (time.perf_counter() - start) / 2


def test_weak_types_come_back(run):
    def make():
        return {"rate": jnp.asarray(0.5), "w": jnp.ones(3, jnp.bfloat16), "n": 0}

    def scaled(state, x):
        return {"rate": state["rate"], "w": state["w"] * state["rate"], "n": state["n"] + 1}, {"loss": x}

    whole = fit(scaled, make(), number, steps=4)
    fit(scaled, make(), number, steps=2, run=run)
    resumed = fit(scaled, make(), number, steps=4, run=run)
    finished = fit(scaled, make(), number, steps=4, run=run)
    for final in (resumed, finished):
        assert jax.tree.map(lambda leaf: leaf.weak_type, final) == {"rate": True, "w": False, "n": True}
        assert same_bits(final, whole)


# What it says


def test_rows_are_means_over_the_steps_since_the_row_before(run):
    heard = []
    fit(
        add, zero(), number, steps=11, run=run, log_every=4, log=heard.append,
        evaluate=lambda state: {"sum": state["sum"], "half": {"n": state["n"] / 2}}, evaluate_every=6,
    )  # fmt: skip
    assert rows_of(run) == [
        {"step": 4, "loss": 2.5},
        {"step": 6, "loss": 5.5, "eval/half/n": 3.0, "eval/sum": 21.0},
        {"step": 8, "loss": 7.5},
        {"step": 11, "loss": 10.0},
    ]
    assert [{**row, "time": 0} for row in heard] == [{**row, "time": 0} for row in rows_of(run)]
    best = run.open(11).metadata["metrics"]
    assert best == {"loss": 10.0}


def test_a_row_is_written_when_the_next_step_has_begun():
    heard = []
    loop = iter(Loop(add, zero(), number, steps=9, log_every=3, log=heard.append))
    told = [len(heard) for _ in loop]
    assert told == [0, 0, 0, 1, 1, 1, 2, 2, 3]


def test_a_body_that_is_left_after_a_row_was_due_has_it():
    heard = []
    for n, _ in Loop(add, zero(), number, log_every=3, log=heard.append):
        if n == 3:
            break
    assert [row["step"] for row in heard] == [3]


def test_a_scalar_alone_is_the_loss(caplog, capsys, monkeypatch):
    with caplog.at_level(logging.INFO):
        fit(lambda s, x: (s, x), zero(), number, steps=2, log_every=1)
    assert [record.getMessage() for record in caplog.records if record.name == "batiste.train"] == [
        "step 1  loss 1",
        "step 2  loss 2",
    ]
    assert capsys.readouterr().out == ""
    show({"step": 3, "time": 1e9, "loss": 0.123456, "eval/accuracy": 0.5})
    assert capsys.readouterr().out == "step 3  loss 0.12346  eval/accuracy 0.5\n"
    monkeypatch.setitem(sys.modules, "rich", None)
    show({"step": 4, "loss": 1e-9})
    assert capsys.readouterr().out == "step 4  loss 1e-09\n"


def test_a_row_that_goes_to_a_file_has_no_colours(capsys, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    with monkeypatch.context() as terminal:
        terminal.setattr("sys.stdout.isatty", lambda: True)
        console = rich.console.Console()
        terminal.setattr("rich.get_console", lambda: console)
        show({"step": 1, "loss": 0.5})
    assert "\x1b[" in capsys.readouterr().out
    monkeypatch.setattr("rich.get_console", lambda: console)
    show({"step": 2, "loss": 0.5})
    assert capsys.readouterr().out == "step 2  loss 0.5\n"


def test_metrics_are_real_scalars():
    def returning(metrics):
        with pytest.raises(MetricError) as error:
            fit(lambda s, x: (s, metrics(x)), zero(), number, steps=1)
        return str(error.value)

    assert "'a/b' among its metrics, which cannot be one: it has the shape (2,)" in returning(
        lambda x: {"a": {"b": jnp.stack([x, x])}}
    )
    assert "its dtype is complex64" in returning(lambda x: {"a": x + 1j})
    assert "that name already" in returning(lambda x: {"step": x})
    assert "'eval/loss' among" in returning(lambda x: {"eval": {"loss": x}})
    good = {"i": jnp.int8(1), "b": jnp.bool_(1), "h": jnp.bfloat16(0.5)}
    heard = []
    fit(lambda s, x: (s, good), zero(), number, steps=1, log=heard.append)
    assert {name: heard[0][name] for name in good} == {"i": 1, "b": 1, "h": 0.5}
    with pytest.raises(MetricError, match=r"evaluate\(\) returns 'a'"):
        fit(add, zero(), number, steps=1, evaluate=lambda _: {"a": np.ones(2)}, evaluate_every=1)


def test_a_number_that_is_not_finite_ends_the_run_before_it_is_saved(run):
    def diverging(state, x):
        return {**add(state, x)[0]}, {"loss": x, "norm": jnp.where(x == 5, jnp.inf, x)}

    with pytest.raises(NonFiniteMetricError, match="'norm' is inf at step 5") as error:
        fit(diverging, zero(), number, steps=20, run=run, save_every=2, log_every=10)
    assert (error.value.context["step"], error.value.context["metric"]) == (5, "norm")
    assert run.steps() == [2, 4]
    assert fit(diverging, zero(), number, steps=20, run=run, log_every=5, finite=False)["n"] == 20
    assert [row["norm"] for row in rows_of(run)] == [None, 8, 13, 18]


# How a run goes on


@pytest.mark.usefixtures("users_rules")
@pytest.mark.parametrize("save_every", [1, 3, 100])
def test_a_run_that_is_left_goes_on(run, tmp_path, save_every):
    whole = checkpoint.Manager(tmp_path / "whole")
    options = {"steps": 12, "log_every": 5, "evaluate": lambda state: {"step": state.step}, "evaluate_every": 6}
    expected = fit(step, new_state(), batch, run=whole, **options)
    for leave in (2, 5, 7, 11):
        loop = Loop(step, new_state(), batch, run=run, save_every=save_every, **options)
        for n, _ in loop:
            if n == leave:
                loop.save()
                break
        assert run.latest() == leave
    assert same_bits(fit(step, new_state(), batch, run=run, save_every=save_every, **options), expected)
    assert rows_of(run) == rows_of(whole)
    assert [row["step"] for row in rows_of(run)] == [5, 6, 10, 12]


def test_a_finished_run_returns_at_once(run):
    expected = fit(add, zero(), number, steps=3, run=run)
    mine = zero()

    def forbidden(*_):
        raise AssertionError

    assert same_bits(fit(forbidden, mine, forbidden, steps=3, run=run), expected)
    assert same_bits(fit(forbidden, zero(), iter(()), steps=2, run=run), expected)
    assert mine["sum"].is_deleted()
    kept = zero()
    fit(jax.jit(add), kept, number, steps=3, run=run)
    assert kept["sum"] == 0
    assert fit(add, zero(), number, steps=0)["n"] == 0


def test_iterating_again_goes_on(run):
    loop = Loop(add, zero(), iter(range(1, 100)), steps=6)
    for n, _ in loop:
        if n == 2:
            break
    assert [n for n, _ in loop] == [3, 4, 5, 6]
    assert loop.state["sum"] == 21
    assert list(loop) == []
    with pytest.raises(LoopArgumentError, match="nowhere to save"):
        loop.save()


def test_what_the_body_does_to_the_state_is_saved(run):
    loop = Loop(add, zero(), number, steps=4, run=run, save_every=2)
    for n, _ in loop:
        if n == 2:
            loop.state = {**loop.state, "sum": jnp.float32(100)}
    assert run.restore(step=2)["sum"] == 100
    assert loop.state["sum"] == 107


def test_a_checkpoint_of_the_loop_is_a_checkpoint_of_the_state(run):
    final = fit(add, zero(), number, steps=3, run=run)
    assert same_bits(checkpoint.restore(run.path(3), zero()), final)


def test_another_run_is_in_the_folder(run):
    fit(add, zero(), number, steps=3, run=run)
    with pytest.raises(RunMismatchError) as error:
        fit(add, {"n": jnp.int32(0), "sum": jnp.zeros(2), "more": jnp.ones(2)}, number, steps=5, run=run)
    text = str(error.value)
    assert "the state of its step 3 does not fit this one" in text
    assert "sum: the target has float32[2], the checkpoint has float32[]" in text
    assert "more: the target has float32[2], the checkpoint has nothing" in text


def test_the_last_checkpoints_are_kept(tmp_path):
    run = checkpoint.Manager(tmp_path, keep=[checkpoint.KeepLast(1), checkpoint.KeepBest("eval/loss")])
    (tmp_path / ".1.batiste-00000000").mkdir()
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 5}\n{"step": 2, "lo')
    fit(
        add, zero(), number, steps=8, run=run, save_every=2, evaluate_every=2,
        evaluate=lambda state: {"loss": abs(state["n"] - 4.0)},
    )  # fmt: skip
    assert run.steps() == [4, 8]
    assert run.leftovers() == []
    assert [row["step"] for row in rows_of(run)] == [2, 4, 6, 8]


# What cannot work


def test_a_step_that_cannot_be_repeated():
    def failing(function, state=None):
        kept = zero() if state is None else state
        with pytest.raises(StepResultError) as error:
            fit(function, kept, number, steps=3)
        assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(kept))
        return str(error.value)

    def wider(state, x):
        return {"n": state["n"] + 1.0, "sum": state["sum"] + jnp.stack([x, x]), "new": x}, {"loss": x}

    assert "it returns a dict, which is no pair" in failing(lambda s, x: s)
    assert "a tuple of 3" in failing(lambda s, x: (s, x, x))
    text = failing(wider)
    assert "The step wider() cannot be repeated" in text
    for path in ("n", "new", "sum"):
        assert f"\n  {path}: " in text
    assert "tuple" in failing(lambda s, x: ((s[0], s[1]), x), [jnp.ones(1), jnp.ones(2)])


@pytest.mark.usefixtures("users_rules")
def test_a_state_whose_static_fields_change():
    with pytest.raises(StepResultError, match="static fields"):
        fit(lambda s, x: (s.replace(tx=optax.sgd(0.1)), {"loss": x.mean()}), new_state(), batch, steps=2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": -1}, "given steps=-1"),
        ({"save_every": 0}, "given save_every=0"),
        ({"log_every": 0}, "given log_every=0"),
        ({"evaluate_every": -5}, "given evaluate_every=-5"),
    ],
)
def test_arguments(options, words):
    with pytest.raises(ArgumentError, match=words):
        Loop(add, zero(), number, **options)


def test_data_that_ends_early_is_saved_and_said(run):
    def until(end):
        def data(n):
            if n == end:
                raise StopIteration
            return number(n)

        return data

    with pytest.raises(DataExhaustedError, match="no batch after step 4, and the run is to have 9 steps"):
        fit(add, zero(), until(4), steps=9, run=run)
    assert run.steps() == [4]
    assert fit(add, zero(), number, steps=9, run=run)["sum"] == 45


def test_without_a_number_of_steps_the_data_ends_the_run(run):
    heard = []
    assert fit(add, zero(), [1.0, 2.0, 3.0], log=heard.append)["sum"] == 6
    assert [(row["step"], row["loss"]) for row in heard] == [(3, 2.0)]


# How it is asked to stop


def test_a_signal_ends_it_after_the_step(run, safe_signals):
    def data(n):
        if n == 4:
            signal.raise_signal(signal.SIGINT)
        return number(n)

    with pytest.raises(KeyboardInterrupt):
        fit(add, zero(), data, steps=9, run=run)
    assert run.steps() == [5]
    loop = Loop(add, zero(), number, steps=9, run=run)

    def body():
        for n, _ in loop:
            if n == 7:
                signal.raise_signal(signal.SIGTERM)
                signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit) as left:
        body()
    assert left.value.code == 143
    assert run.steps() == [5, 7]
    assert fit(add, zero(), number, steps=9, run=run)["sum"] == 45
    assert safe_signals == []
    signal.raise_signal(signal.SIGINT)
    assert safe_signals == [signal.SIGINT]


def test_a_second_one_ends_it_at_once(run, safe_signals):
    def data(n):
        if n == 4:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        return number(n)

    with pytest.raises(KeyboardInterrupt):
        fit(add, zero(), data, steps=9, run=run)
    assert (run.steps(), safe_signals) == ([], [])


def test_a_signal_ends_an_evaluation_which_is_done_again(run, safe_signals):
    ask = [True]

    def evaluate(state):
        if ask:
            ask.clear()
            signal.raise_signal(signal.SIGTERM)
            pytest.fail("it went on")
        return {"sum": state["sum"]}

    for steps in (9, 6):  # in the middle, and at the end of a run
        again = checkpoint.Manager(run.folder / str(steps))
        ask.append(True)
        options = {"steps": steps, "run": again, "log_every": 4, "evaluate": evaluate, "evaluate_every": 6}
        with pytest.raises(SystemExit):
            fit(add, zero(), number, **options)
        assert (again.steps(), [row["step"] for row in rows_of(again)]) == ([6], [4])
        for _ in range(2):
            fit(add, zero(), number, **options)
            assert rows_of(again)[:2] == [{"step": 4, "loss": 2.5}, {"step": 6, "loss": 5.5, "eval/sum": 21.0}]
            assert len(rows_of(again)) == (4 if steps == 9 else 2)
    assert safe_signals == []


def test_a_signal_in_a_body_that_is_left_is_not_lost(run, safe_signals):
    for _ in Loop(add, zero(), number, steps=3, run=run):
        signal.raise_signal(signal.SIGTERM)
        break
    assert safe_signals == [signal.SIGTERM]


def test_without_a_run_or_in_another_thread_signals_are_left_alone(run, safe_signals):
    fit(add, zero(), lambda n: signal.raise_signal(signal.SIGINT) or number(n), steps=1)
    assert safe_signals == [signal.SIGINT]
    found = []
    thread = threading.Thread(target=lambda: found.append(fit(add, zero(), number, steps=2, run=run)))
    thread.start()
    thread.join()
    assert found[0]["n"] == 2


# Compiled programs


@pytest.mark.usefixtures("no_kept_programs")
def test_compiled_programs_are_kept_in_the_folder_of_the_run(run, tmp_path):
    def names(folder):
        return {path.name.split("-")[0] for path in folder.glob("*")}

    before = jax.config.jax_compilation_cache_dir, jax.config.jax_persistent_cache_min_compile_time_secs

    def kept(state, x):
        return add(state, x)

    def given(state, x):
        return add(state, x)

    def nowhere(state, x):
        return add(state, x)

    fit(kept, zero(), number, steps=2, run=run)
    assert "jit_kept" in names(run.folder / "compiled")
    fit(given, zero(), number, steps=2, compile_cache=tmp_path / "mine")
    assert "jit_given" in names(tmp_path / "mine")
    off = checkpoint.Manager(tmp_path / "off")
    fit(nowhere, zero(), number, steps=2, run=off, compile_cache=False)
    assert not (off.folder / "compiled").exists()
    assert before == (jax.config.jax_compilation_cache_dir, jax.config.jax_persistent_cache_min_compile_time_secs)
