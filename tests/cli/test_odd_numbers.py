"""Odd numbers on the command line: exit codes that can be believed, and nothing written of what would be lost."""

import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from typer.testing import CliRunner

from batiste import checkpoint
from batiste.cli._app import app
from batiste.cli._report import Exit
from tests.tree.odd_numbers import DTYPES, array, dtype_of

inf, nan = math.inf, math.nan


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize(
    ("left", "right", "options", "code"),
    [
        ([inf], [1.0], ["--rtol", "1e-5"], Exit.DIFFERS),
        ([inf], [-inf], ["--rtol", "1e-5", "--atol", "1e30"], Exit.DIFFERS),
        ([1.0], [inf], ["--rtol", "1e-5"], Exit.DIFFERS),
        ([inf, -inf, nan], [inf, -inf, nan], ["--rtol", "1e-5"], Exit.OK),
        ([nan], [1.0], ["--rtol", "0.5", "--atol", "1e30"], Exit.DIFFERS),
        ([0.0], [-0.0], [], Exit.OK),
        ([0.0], [5e-324], [], Exit.DIFFERS),
        ([1.0], [1.0 + 2**-52], [], Exit.DIFFERS),
        ([1.0], [1.0 + 2**-52], ["--rtol", "1e-15"], Exit.OK),
        ([1.0], [1.0], ["--rtol", "nan"], Exit.USAGE),
        ([1.0], [1.0], ["--atol", "inf"], Exit.ERROR),
        ([1.0], [1.0], ["--atol", "-1"], Exit.USAGE),
    ],
    ids=str,
)
def test_diff(left, right, options, code):
    checkpoint.save("one.npz", {"a": np.array(left)})
    checkpoint.save("two.npz", {"a": np.array(right)})
    assert run("diff", "one.npz", "two.npz", *options, "--quiet").exit_code == code


def test_diff_of_keys_integers_and_plain_values():
    one = {"key": jax.random.key(0), "count": np.array([2**53]), "n": 2**70, "x": nan}
    checkpoint.save("one.npz", one)
    checkpoint.save("same.npz", one)
    assert run("diff", "one.npz", "same.npz").exit_code == Exit.OK
    for name, value in (("key", jax.random.key(1)), ("count", np.array([2**53 + 1])), ("n", 2**70 + 1), ("x", 0.0)):
        checkpoint.save("two.npz", {**one, name: value}, overwrite=True)
        answer = run("diff", "one.npz", "two.npz", "--json", *(["--atol", "9"] if name == "key" else []))
        assert answer.exit_code == Exit.DIFFERS
        assert [entry["path"] for entry in json.loads(answer.stdout)["differences"]] == [name]


@pytest.mark.parametrize("target", ["half.npz", "half.safetensors", "half.msgpack", "half"])
def test_a_cast_that_would_lose_more_than_precision_writes_nothing(target):
    checkpoint.save("one.npz", {"good": np.ones(3, np.float32), "large": np.array([1.0, 1e6], np.float32)})
    checkpoint.save(target, {"old": np.ones(1)})
    before = sorted(Path().iterdir())
    answer = run("cast", "one.npz", target, "float16", "--force")
    assert answer.exit_code == Exit.ERROR
    assert "tree/cast-loss" in answer.stderr
    assert "large: float32[2] -> float16: 1 of 2 elements are beyond 65504" in answer.stderr
    assert sorted(Path().iterdir()) == before
    assert checkpoint.restore(target)["old"].tolist() == [1.0]
    assert run("cast", "one.npz", "good.npz", "float16", "--pattern", "good").exit_code == Exit.OK
    assert run("cast", "one.npz", "all.npz", "bfloat16").exit_code == Exit.OK


def test_integers_are_cast_when_told_and_fit():
    checkpoint.save("one.npz", {"n": np.array([1, 200]), "mask": np.array([True])})
    assert run("cast", "one.npz", "bytes.npz", "uint8", "--all").exit_code == Exit.OK
    assert checkpoint.restore("bytes.npz")["n"].tolist() == [1, 200]
    assert run("cast", "one.npz", "signed.npz", "int8", "--all").exit_code == Exit.ERROR
    assert run("cast", "one.npz", "key.npz", "U3", "--all").exit_code == Exit.ERROR


def test_average():
    most = np.finfo(np.float32).max
    checkpoint.save("one.npz", {"a": np.array([most, inf, 1.0], np.float32), "h": np.full(2, 6e4, np.float16)})
    arguments = ["average", *["one.npz"] * 10, "mean.npz"]
    assert run(*arguments).exit_code == Exit.OK
    found = checkpoint.restore("mean.npz")
    assert (found["a"].tolist(), found["h"].tolist()) == ([most, inf, 1.0], [60000.0] * 2)
    for weights in ("1,-1", "nan,1", "inf,1", "0,0"):
        assert run("average", "one.npz", "one.npz", "no.npz", f"--weights={weights}").exit_code == Exit.ERROR
    checkpoint.save("wide.npz", {"a": np.ones(3, np.float32), "h": np.full(2, 1e6, np.float32)})
    assert "cast-loss" in run("average", "one.npz", "wide.npz", "no.npz").stderr
    checkpoint.save("odd.npz", {"a": np.ones(3, np.complex64), "h": np.full(2, 1, np.float16)})
    assert "tree/mismatch" in run("average", "one.npz", "odd.npz", "no.npz").stderr
    assert not Path("no.npz").exists()


@pytest.mark.parametrize(
    "values",
    [
        np.array([1e308, 1.7e308, -1e308]),
        np.full(10, np.finfo(np.float64).max),
        np.array([5e-324, 0.0, 1e-323]),
        np.array([1e-200, 3e-200]),
        np.array([1e200, 3e200]),
        np.array([2**63 - 1, 2**63 - 2, -(2**63)]),
        np.array([2**64 - 1, 1], np.uint64),
        np.array([0, 255], np.uint8),
        np.array([True, False, True]),
        np.array([-0.0, 0.0], np.float16),
        np.array([3e38 + 3e38j, 1], np.complex64),
        np.array([6e4, 6e4, -6e4], np.float16),
        np.array([1, -8], dtype_of("int4")),
    ],
    ids=str,
)
def test_statistics(values):
    """Against Python's exact numbers, or NumPy in the widest dtype."""
    checkpoint.save("one.npz", {"a": values})
    stats = json.loads(run("show", "one.npz", "--stats", "--json").stdout)["leaves"][0]["stats"]
    wide = values.astype(np.complex128) if values.dtype.kind == "c" else values.astype(np.longdouble)
    wide = np.abs(wide).astype(np.longdouble) if values.dtype.kind == "c" else wide
    assert math.isclose(stats["mean"], float(wide.mean()), rel_tol=1e-12, abs_tol=5e-324)
    assert math.isclose(stats["spread"], float(wide.std()), rel_tol=1e-12, abs_tol=5e-324)
    assert (stats["min"], stats["max"]) == (wide.min(), wide.max())
    if values.dtype.kind in "iu":
        assert (stats["min"], stats["max"]) == (values.min().item(), values.max().item())
    assert (stats["nan"], stats["inf"]) == (0, 0)


def test_statistics_and_counts_of_every_dtype():
    leaves = {name: array(name) for name in DTYPES}
    checkpoint.save("odd.npz", {**leaves, "key": jax.random.split(jax.random.key(0), 3), "n": 2**70})
    body = json.loads(run("show", "odd.npz", "--stats", "--json").stdout)
    found = {leaf["path"]: leaf for leaf in body["leaves"]}
    for name, leaf in leaves.items():
        wide = leaf.astype(np.complex128)
        assert (found[name]["count"], found[name]["bytes"]) == (leaf.size, leaf.nbytes)
        if name not in ("complex64", "complex128"):
            odd = found[name]["stats"]["nan"], found[name]["stats"]["inf"]
            assert odd == (np.isnan(wide).sum(), np.isinf(wide).sum())
    assert (found["key"]["count"], found["key"]["bytes"]) == (3, 24)
    assert body["totals"][""]["count"] == sum(map(np.size, leaves.values())) + 4


def test_verify_is_about_bits():
    values = np.array([0x7FC00001, 0xFFC12345, 0x80000000, 1], np.uint32).view(np.float32)
    checkpoint.save("one.safetensors", {"a": values, "b": jnp.array([1e-45, -0.0])})
    assert run("verify", "one.safetensors").exit_code == Exit.OK
    assert checkpoint.restore("one.safetensors")["a"].tobytes() == values.tobytes()
    path = Path("one.safetensors")
    raw = bytearray(path.read_bytes())
    raw[raw.index(values.tobytes())] ^= 2  # another NaN
    path.write_bytes(raw)
    assert run("verify", "one.safetensors").exit_code == Exit.DIFFERS
