"""What is around a run: saves that fail, signals in every phase, loggers, progress, configuration, the page."""

import dataclasses
import html.parser
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import types
import warnings

import numpy as np
import pytest
import rich.console
import tensorboardX

from batiste import checkpoint, train
from batiste.errors import (
    ArgumentError,
    BatisteError,
    ConfigChangedWarning,
    LoopArgumentError,
    MissingPackageError,
    RunFolderError,
    UnsavedStepWarning,
)
from batiste.train import Loop, fit
from tests.train.recurrence import batch, begin, step


@pytest.fixture
def run(tmp_path):
    return checkpoint.Manager(tmp_path / "run")


# Saves that fail


def broken(folder):
    """Put a file in the place of the folder of a run, as a full or vanished disk does: nothing can be written."""
    shutil.rmtree(folder)
    folder.write_text("")


REFUSALS = {
    "full": ("os.fsync", OSError(28, "No space left on device")),
    "read-only": ("os.mkdir", OSError(30, "Read-only file system")),
}


@pytest.mark.parametrize("how", ["vanished", *REFUSALS])
def test_a_folder_that_fails_is_an_error_or_the_run_goes_on_in_memory(run, tmp_path, monkeypatch, how):
    expected = fit(step, begin(), batch, steps=9)["sum"]

    def fail(loop):
        if loop.step == 5 and run.latest() is not None:
            run.wait()
        if loop.step == 5 and how == "vanished":
            broken(run.folder)
        elif loop.step == 5:
            monkeypatch.setattr(REFUSALS[how][0], refuse)

    def refuse(*_):
        raise REFUSALS[how][1]

    options = {"steps": 9, "run": run, "save_every": 2, "log_every": 3, "hooks": [fail], "compile_cache": False}
    with pytest.raises(BatisteError) as error:
        fit(step, begin(), batch, **options)
    assert isinstance(error.value, OSError)
    monkeypatch.undo()
    if how != "vanished":
        assert run.latest() == 4
        assert checkpoint.verify(run.path(4)) is not None
        assert fit(step, begin(), batch, steps=9, run=run, compile_cache=False)["sum"] == expected
        shutil.rmtree(run.folder)
    else:
        run.folder.unlink()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert fit(step, begin(), batch, save_errors="warn", **options)["sum"] == expected
    told = [str(each.message) for each in caught if each.category is UnsavedStepWarning]
    assert any("The run goes on in memory" in text for text in told)
    monkeypatch.undo()
    if how != "vanished":
        assert run.latest() == 4


def test_a_file_of_rows_that_cannot_be_written(run):
    run.folder.mkdir(parents=True)
    (run.folder / "metrics.jsonl").mkdir()
    with pytest.raises((RunFolderError, OSError)):
        fit(step, begin(), batch, steps=3, run=run, log_every=1)


# Signals

PROGRAM = """
import sys, time, signal, os
import jax, jax.numpy as jnp, numpy as np
from batiste import train, checkpoint
phase = folder = None

def step(state, x):
    if phase == "compile" and state["n"].shape == ():
        print("now", flush=True)
        time.sleep(30)  # as a compiler that does not come back
    return {"n": state["n"] + x}, {"loss": x}

class Data:
    n = 0
    def __iter__(self):
        return self
    def __next__(self):
        if phase == "data" and self.n == 3:
            print("now", flush=True)
            time.sleep(30)
        self.n += 1
        return np.float32(self.n)
    def get_state(self):
        return self.n
    def set_state(self, n):
        self.n = n

def evaluate(state):
    if phase == "evaluate":
        print("now", flush=True)
        time.sleep(30)
    return {"n": state["n"]}

def life():
    run = checkpoint.Manager(folder)
    if phase.endswith("save"):
        save = run.save_async
        def slow(n, *args, **options):
            if n == (2 if phase == "save" else 4):
                print("now", flush=True)
                time.sleep(1.0)
            return save(n, *args, **options)
        run.save_async = slow
    for n, _ in train.Loop(step, {"n": jnp.float32(0)}, Data(), steps=8, run=run, save_every=2, evaluate=evaluate,
                           evaluate_every=3, compile_cache=False, log=None):
        if phase == "body" and n == 3:
            print("now", flush=True)
            time.sleep(0.7)

for line in sys.stdin:
    phase, folder = line.split()
    child = os.fork()
    if child == 0:
        try:
            life()
        except SystemExit as left:
            os._exit(left.code)
        except BaseException:
            os._exit(1)
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def lives():
    """Start a program that forks a process for each run, so that JAX is imported once."""
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        yield program
        program.stdin.close()


def stopped(program, phase, folder, *, twice=False):
    program.stdin.write(f"{phase} {folder}\n")
    program.stdin.flush()
    first = {program.stdout.readline().strip() for _ in range(2)}  # in whatever order
    child = int(next(line for line in first if line != "now"))
    time.sleep(0.2)
    os.kill(child, signal.SIGTERM)
    if twice:
        time.sleep(0.4)
        os.kill(child, signal.SIGTERM)
    start = time.monotonic()
    status = "now"
    while status == "now":
        status = program.stdout.readline().strip()
    return int(status), time.monotonic() - start, checkpoint.Manager(folder).steps()


@pytest.mark.parametrize(("phase", "steps"), [("data", [2, 3]), ("evaluate", [2, 3]), ("save", [2]), ("body", [2, 3])])
def test_sigterm_in_every_phase(phase, steps, tmp_path, lives):
    status, seconds, saved = stopped(lives, phase, tmp_path / "run")
    assert (status, saved) == (143, steps)
    assert seconds < 25  # and not the 30 that it would take


@pytest.mark.parametrize("phase", ["compile", "data", "body", "later-save"])
def test_a_second_one_leaves_at_once(phase, tmp_path, lives):
    status, seconds, saved = stopped(lives, phase, tmp_path / "run", twice=True)
    assert status == 143
    assert seconds < 25
    assert saved == ([] if phase == "compile" else [2])


WATCHED = """
import ctypes, os, signal, threading, time
from batiste.train._stop import stop_signals
with stop_signals(taken=True):
    def ask():
        for _ in range(2):
            time.sleep(0.4)
            os.kill(os.getpid(), signal.SIGTERM)
    threading.Thread(target=ask, daemon=True).start()
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # other threads of the process take it
    threading.Thread(target=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM]) or time.sleep(9),
                     daemon=True).start()
    ctypes.CDLL(None).sleep(8)  # as a compiler that does not return to Python
    print("it went on")
"""


def test_a_second_one_ends_a_program_that_is_stuck_outside_of_python(fresh_python):
    done = fresh_python(WATCHED)
    assert (done.returncode, done.stdout) == (143, "")
    assert "asked twice to stop" in done.stderr


# Loggers


def test_loggers_import_nothing_until_they_are_used(fresh_python):
    program = """
import sys
from batiste import train
made = [train.TensorBoard("x"), train.Wandb(project="p"), train.Mlflow(), train.Aim(), train.JsonLines("y"),
        train.progress(), train.early_stopping()]
print([name for name in ("tensorboardX", "wandb", "mlflow", "aim", "rich", "tyro", "matplotlib", "grain")
       if name in sys.modules])
"""
    assert fresh_python(program).stdout == "[]\n"


def test_several_loggers_at_once(run, tmp_path):
    heard = []
    logs = [heard.append, train.JsonLines(tmp_path / "more" / "rows.jsonl"), train.TensorBoard()]
    for n, _ in Loop(step, begin(), batch, steps=6, run=run, log=logs, log_every=1, save_every=2):
        if n == 5:
            break
    fit(step, begin(), batch, steps=6, run=run, log=logs, log_every=1)
    lines = [json.loads(line) for line in (tmp_path / "more" / "rows.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in heard] == [1, 2, 3, 4, 5, 5, 6]
    files = list((run.folder / "tensorboard").glob("events*"))
    assert len(files) == 2
    assert tensorboardX.__name__
    with pytest.raises(LoopArgumentError, match=r"with TensorBoard\(\)"):
        fit(step, begin(), batch, steps=1, log=train.TensorBoard())


class Service:
    """A stand-in for wandb, mlflow and aim: notes every call."""

    id, hash = "abc", "abc"

    def __init__(self):
        self.calls = []
        self.info = types.SimpleNamespace(run_id="abc")

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*args, **options):
            self.calls.append((name, args, options))
            return self

        return call

    def __setitem__(self, name, value):
        self.calls.append(("set", (name, value), {}))


@pytest.mark.parametrize("name", ["wandb", "mlflow", "aim"])
def test_adapters_of_services(run, name, monkeypatch):
    service = Service()
    monkeypatch.setitem(sys.modules, name, service)
    logger = {"wandb": train.Wandb, "mlflow": train.Mlflow, "aim": train.Aim}[name]

    def sample(loop):
        loop.picture("weights", np.zeros((2, 2)))
        loop.text("sample", "<b>")

    for steps in (2, 3):
        fit(step, begin(), batch, steps=steps, run=run, log=logger(), log_every=1, hooks=[sample], config={"rate": 0.1})
    names = [call[0] for call in service.calls]
    opened = [call for call in service.calls if call[0] in ("init", "start_run", "Run")]
    assert len(opened) == 2
    assert "abc" in opened[1][2].values()
    sent = {"wandb": "log", "mlflow": "log_metrics", "aim": "track"}[name]
    assert names.count(sent) >= 3
    assert names[-1] in ("finish", "end_run", "close")
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingPackageError, match=f"needs the package '{name}'"):
        fit(step, begin(), batch, steps=4, run=run, log=logger())


# Progress


def test_progress_in_plain_lines(capsys):
    ticks = iter(np.arange(0, 1000, 0.5))
    shown = train.progress(flops=1e12, peak=1e14, clock=lambda: next(ticks))
    fit(lambda s, x: (s, {"loss": x.mean()}), begin(), lambda n: np.ones(32, np.float32), steps=30, log=None,
        log_every=10, hooks=[shown])  # fmt: skip
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("step 10/30  loss 1  ")
    for words in ("ms/step", "examples/s", "MFU ", " left"):
        assert words in lines[0]


def test_progress_as_a_bar(monkeypatch):
    console = rich.console.Console(force_terminal=True, width=100, file=io.StringIO(), record=True)
    monkeypatch.setattr("rich.get_console", lambda: console)
    fit(step, begin(), batch, steps=30, log=None, log_every=10, hooks=[train.progress()])
    assert "30/30" in console.export_text()


def test_flops_of_a_step():
    def product(state, x):
        return state, {"loss": (x @ x).sum()}

    loop = Loop(product, begin(), lambda n: np.ones((64, 64), np.float32), steps=1)
    assert train.flops_of(loop, np.ones((64, 64), np.float32)) == pytest.approx(2 * 64**3, rel=0.05)


# Configuration


@dataclasses.dataclass(frozen=True)
class Optimizer:
    rate: float = 0.1
    name: str = "adam"


@dataclasses.dataclass(frozen=True)
class Config:
    optimizer: Optimizer = Optimizer()
    layers: tuple[int, ...] = (8, 8)
    steps: int = 3


def test_a_configuration_is_read_saved_and_compared(run):
    config = train.configured(Config, ["--optimizer.rate", "0.5", "--layers", "4", "2"])
    assert config == Config(Optimizer(0.5), (4, 2))
    fit(step, begin(), batch, steps=config.steps, run=run, config=config)
    saved = json.loads((run.folder / "config.json").read_text())
    assert saved == {"optimizer.rate": 0.5, "optimizer.name": "adam", "layers": [4, 2], "steps": 3}
    fit(step, begin(), batch, steps=4, run=run, config=config)
    with pytest.warns(ConfigChangedWarning) as caught:
        fit(step, begin(), batch, steps=5, run=run, config=Config(Optimizer(0.5, "sgd"), (4, 2), 5))
    assert str(caught[0].message).splitlines()[1:] == ['  optimizer.name: "adam" -> "sgd"', "  steps: 3 -> 5"]
    assert json.loads((run.folder / "config.json").read_text()) == saved
    for wrong in (3, None, Config(), "Config"):
        with pytest.raises(ArgumentError):
            train.configured(wrong)
    with pytest.raises(ArgumentError, match="was given config="):
        fit(step, begin(), batch, steps=5, config=3)


# The page


class Page(html.parser.HTMLParser):
    """What a browser would make of it: every tag has its end, nothing is fetched."""

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.problems = [], [], []

    def handle_starttag(self, tag, attributes):
        self.seen.append(tag)
        for name, value in attributes:
            if name in ("src", "href") and not value.startswith("data:"):
                self.problems.append((tag, name, value))
        if tag not in ("meta", "img", "link", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.seen.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.problems.append(("end", tag))


def test_the_page_of_a_run(run):
    def sample(loop):
        if loop.step % 4 == 0:
            loop.picture("digits <1>", np.linspace(0, 1, 64).reshape(8, 8))
            loop.text("sample", "<script>alert(1)</script>")
            warnings.warn("<b>odd</b>", UserWarning, stacklevel=2)

    with pytest.warns(UserWarning, match="odd"):
        fit(
            step, begin(), batch, steps=8, run=run, log_every=2, save_every=4, hooks=[sample], report=True,
            config=Config(), evaluate=lambda state: {"n": state["n"]}, evaluate_every=4,
        )  # fmt: skip
    text = (run.folder / "report.html").read_text()
    page = Page()
    page.feed(text)
    assert (page.problems, page.open) == ([], [])
    assert page.seen.count("polyline") == 2
    assert page.seen.count("img") == 2
    assert "script" not in page.seen
    for words in ("Curves", "Configuration", "optimizer.rate", "Environment", "Checkpoints", "&lt;script&gt;", "jax"):
        assert words in text
    with pytest.raises(ArgumentError, match="image="):
        Loop(step, begin(), batch).picture("x", np.zeros((2, 2, 2)))


def test_curves_of_odd_numbers():
    rows = [{"step": n, "a": value} for n, value in enumerate([1e308, -1e308, None, 3, "x", True])]
    assert "polyline" in train.curves("a", {"one": rows, "two": [{"step": 1, "a": 5.0}]})
    assert train.curves("b", {"one": rows}) == ""
    assert "nan" not in train.curves("a", {"one": [{"step": 2, "a": 0.0}]})
