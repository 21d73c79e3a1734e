"""The demo from the command line: what it prints, what it writes, and how it fails."""

import dataclasses
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from batiste.diagnose import summary
from examples.demo import report
from examples.demo.__main__ import keep_programs, main
from examples.demo.augment import Augment
from examples.demo.data import digits
from examples.demo.model import ConvNet
from examples.demo.problems import DemoError
from examples.demo.training import Progress, evaluate

pytestmark = pytest.mark.usefixtures("users_rules")
ROOT = Path(__file__).parents[2]
FILES = ["curves.png", "metrics.jsonl", "variables.npz"]


def demo(folder, *options):
    return main(["--out", str(folder), "--no-compile-cache", *options])


def problem(capsys):
    """Return the one line that was printed as a problem."""
    text = capsys.readouterr().err
    assert text.startswith("demo: ")
    assert text.count("\n") == 1
    return text


def kept(folder):
    return sorted(path.name for path in (folder / "batiste" / "xla").iterdir())


def train_in_a_fresh_process(folder, *options):
    """Train for one epoch on a few images, with the user's cache below ``folder``."""
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    data = ["--data", "fashion-mnist", "--data-dir", str(folder), "--epochs", "1", "--batch-size", "32"]
    return subprocess.run(
        [sys.executable, "-m", "examples.demo", "--out", str(folder / "out"), *data, *options],
        cwd=ROOT,
        env={**environment, "XDG_CACHE_HOME": str(folder / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_second_run_finds_its_programs(tmp_path):
    write_fashion(tmp_path)
    assert train_in_a_fresh_process(tmp_path, "--no-compile-cache").returncode == 0
    assert not (tmp_path / "cache" / "batiste").exists()
    assert train_in_a_fresh_process(tmp_path).returncode == 0
    programs = kept(tmp_path / "cache")
    assert any(name.startswith("jit_train_step-") for name in programs)
    assert train_in_a_fresh_process(tmp_path).returncode == 0
    assert kept(tmp_path / "cache") == programs


@pytest.mark.usefixtures("no_kept_programs")
def test_a_cache_that_cannot_be_written_is_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    keep_programs()
    assert "Compiled programs are not kept: the user's cache folder cannot be written (" in problem(capsys)
    assert jax.config.jax_compilation_cache_dir is None


def nested(arrays):
    tree = {}
    for path, array in arrays.items():
        *parents, name = path.split("/")
        level = tree
        for parent in parents:
            level = level.setdefault(parent, {})
        level[name] = array
    return tree


def test_digits_are_learned_and_written(tmp_path, capsys):
    assert demo(tmp_path / "a/b", "--epochs", "4") == 0
    printed = capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "a/b").iterdir()) == FILES
    lines = [json.loads(line) for line in (tmp_path / "a/b/metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4]
    assert [line["step"] for line in lines] == [22, 44, 66, 88]
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert lines[-1]["test_accuracy"] > 0.85
    assert (tmp_path / "a/b/curves.png").read_bytes().startswith(b"\x89PNG")
    assert printed.index("params/ConvBlock_0/Conv_0/kernel") < printed.index("epoch 1/4")
    assert f"test accuracy: {lines[-1]['test_accuracy']:.2%}" in printed.splitlines()[-1]
    assert "images/s" in printed

    with np.load(tmp_path / "a/b/variables.npz", allow_pickle=False) as arrays:
        variables = nested(arrays)
    data, model = digits(), ConvNet(brightest=16)
    logits = jax.jit(lambda images: model.apply(variables, images, train=False))(data.test_images)
    accuracy = float(jnp.mean(logits.argmax(-1) == data.test_labels))
    assert accuracy == pytest.approx(lines[-1]["test_accuracy"], abs=1e-6)


def write_fashion(folder, images=96, size=8):
    random = np.random.default_rng(0)
    for part in ("train", "t10k"):
        labels = random.integers(0, 10, images)
        pictures = np.zeros((images, size, size)) + 25 * labels[:, None, None]
        for name, array in ((f"{part}-images-idx3-ubyte.gz", pictures), (f"{part}-labels-idx1-ubyte.gz", labels)):
            head = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes()
            (folder / name).write_bytes(gzip.compress(head + array.astype(np.uint8).tobytes()))


def test_fashion_mnist_from_a_folder(tmp_path, capsys):
    write_fashion(tmp_path)
    options = ["--data", "fashion-mnist", "--data-dir", str(tmp_path), "--epochs", "1", "--batch-size", "32"]
    assert demo(tmp_path / "out", *options) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == FILES
    assert "of 96 images" in capsys.readouterr().out


def test_too_poor_an_accuracy_is_said_where_the_settings_promise_more(tmp_path, capsys, monkeypatch):
    class Untrained:
        def variables(self):
            return {"params": {"w": np.zeros(2)}}

    def train(_model, _data, _augment, follow, **_):
        follow(Progress(1, 1, 1, loss=2.3, accuracy=0.1, images_per_second=1.0, test_accuracy=0.9))
        return Untrained()

    monkeypatch.setattr("examples.demo.__main__.train", train)
    assert demo(tmp_path) == 1
    assert "the test accuracy is below the 98.5% that these settings promise" in problem(capsys)
    assert demo(tmp_path, "--epochs", "1") == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--epochs", "0"], "argument --epochs: invalid positive value: '0'"),
        (["--epochs", "many"], "argument --epochs"),
        (["--batch-size", "-3"], "argument --batch-size"),
        (["--seed", "-1"], "argument --seed"),
        (["--data", "mnist"], "argument --data: invalid choice: 'mnist'"),
        (["--dat", "digits"], "unrecognized arguments"),
        (["--data-dir", "x"], "--data-dir is where Fashion-MNIST is"),
    ],
)
def test_a_wrong_option_is_one_line_and_status_2(tmp_path, capsys, options, message):
    with pytest.raises(SystemExit) as caught:
        demo(tmp_path / "out", *options)
    assert caught.value.code == 2
    assert message in problem(capsys)
    assert not (tmp_path / "out").exists()


def test_missing_data_writes_nothing(tmp_path, capsys):
    assert demo(tmp_path / "out", "--data", "fashion-mnist", "--data-dir", str(tmp_path / "none")) == 1
    assert "is missing" in problem(capsys)
    assert list(tmp_path.iterdir()) == []


def test_a_batch_larger_than_the_data(tmp_path, capsys):
    assert demo(tmp_path / "out", "--batch-size", "5000") == 1
    assert "--batch-size 5000 is more than the 1438 training images" in problem(capsys)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert demo(tmp_path / "file/out") == 1
    assert "cannot be written" in problem(capsys)
    assert demo(tmp_path / "file") == 1
    assert "cannot be written" in problem(capsys)


@pytest.mark.parametrize("module", ["sklearn.datasets", "matplotlib.figure"])
def test_a_missing_package_is_named_before_training(tmp_path, capsys, monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    assert demo(tmp_path / "out") == 1
    assert "pip install" in problem(capsys)
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    (tmp_path / "metrics.jsonl").write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    monkeypatch.setattr(report, "_draw", full)
    with pytest.raises(DemoError, match=r"curves.png cannot be written: No space left"):
        report.write(tmp_path, [], {"params": {"w": np.ones(2)}})
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_bar_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")  # a dumb one has 80 columns, whatever COLUMNS says
    seen = Progress(epoch=1, step=1, steps=2, loss=0.5, accuracy=0.25, images_per_second=1234.0)
    with report.following(1) as follow:
        follow(dataclasses.replace(seen, test_accuracy=0.75))
        follow(dataclasses.replace(seen, step=2))
    printed = capsys.readouterr().out
    assert "epoch 1/1  loss 0.500  accuracy 25.00%  test 75.00%  1,234 images/s" in printed
    assert "2/2" in printed
    report.show(summary(ConvNet(brightest=16), jnp.zeros((1, 8, 8, 1)), train=False))
    assert "│ params/ConvBlock_0/Conv_0/kernel" in capsys.readouterr().out


def test_stopped_from_the_keyboard(tmp_path, capsys, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("examples.demo.__main__.train", stop)
    assert demo(tmp_path / "out") == 130
    assert problem(capsys) == "demo: stopped\n"
    assert list((tmp_path / "out").iterdir()) == []


def test_as_a_program():
    run = subprocess.run(
        [sys.executable, "-m", "examples.demo", "--epochs", "x"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == "demo: argument --epochs: invalid positive value: 'x'; see --help\n"


def test_augmentation_without_movement_is_the_image_and_a_flip_is_its_mirror():
    images = np.random.default_rng(0).integers(0, 17, (16, 8, 8, 1), dtype=np.uint8)
    key = jax.random.key(0)
    np.testing.assert_allclose(Augment()(key, images), images, atol=1e-4)
    flipped = np.asarray(Augment(flip=True)(key, images))
    is_mirror = np.array([np.allclose(a, b[:, ::-1], atol=1e-4) for a, b in zip(flipped, images, strict=True)])
    is_same = np.array([np.allclose(a, b, atol=1e-4) for a, b in zip(flipped, images, strict=True)])
    assert (is_mirror ^ is_same).all()
    assert 0 < is_mirror.sum() < 16
    moved = Augment(turn=0.2, scale=0.1, shear=0.1, shift=1.0)(key, images)
    assert moved.shape == images.shape
    assert not np.allclose(moved, images)


def test_evaluation_counts_a_last_batch_that_is_not_full(monkeypatch):
    monkeypatch.setattr("examples.demo.training.EVALUATION_BATCH", 4)
    monkeypatch.setattr("examples.demo.training.count_right", lambda _, images, labels: (images == labels).sum())
    labels = np.arange(10)
    assert evaluate(None, np.where(labels < 7, labels, -1), labels) == 0.7
