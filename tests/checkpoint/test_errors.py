"""Every error of the package: the smallest program that raises it, its three parts, and the way through a pickle."""

import importlib.util
import json
import pickle

import jax
import numpy as np
import pytest

from batiste import checkpoint, errors
from batiste.checkpoint import _arrays
from batiste.errors import _checkpoint as catalogue

ONE = {"w": np.ones(1)}


def damaged(folder, _):
    checkpoint.save(folder / "one", ONE)
    (folder / "one" / "batiste.json").write_text("{}")
    checkpoint.open(folder / "one")


def changed(folder, _):
    checkpoint.save(folder / "one", ONE)
    opened = checkpoint.open(folder / "one")
    checkpoint.save(folder / "one", ONE, overwrite=True)
    checkpoint.verify(opened)


def exists(folder, _):
    checkpoint.save(folder / "one.safetensors", ONE)
    checkpoint.save(folder / "one.safetensors", ONE)


def mismatch(folder, _=None, **policies):
    checkpoint.save(folder / "one.safetensors", ONE)
    checkpoint.restore(folder / "one.safetensors", {"v": np.ones(1)}, **policies)


def refused(folder, _):
    (folder / "x.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": "../x"}}))
    checkpoint.open(folder)


def write(folder, _):
    (folder / "file").write_text("")
    checkpoint.save(folder / "file" / "one", ONE)


def package(folder, patch):
    patch.setattr(importlib.util, "find_spec", lambda _: None)
    checkpoint.save(folder / "one", ONE)


def remote(folder, patch):
    """One process cannot make such an array, so one says that it is one."""
    array = jax.numpy.ones(1)
    patch.setattr(type(array), "is_fully_addressable", False)
    checkpoint.save(folder / "one", {"w": array})


def newer(folder, _):
    checkpoint.save(folder / "one", ONE)
    text = (folder / "one" / "batiste.json").read_text()
    start, rest = '{"format":"batiste.checkpoint","version":3,"digest":"', text.partition('"digest":"')[2][32:]
    digest = _arrays.digest_bytes(start.encode(), rest.encode())
    (folder / "one" / "batiste.json").write_text(start + digest + rest)
    checkpoint.open(folder / "one")


PROGRAMS = {
    errors.CheckpointArgumentError: lambda folder, _: checkpoint.save(folder / "one.pt", ONE),
    errors.CheckpointChangedError: changed,
    errors.CheckpointExistsError: exists,
    errors.CheckpointFormatError: newer,
    errors.CheckpointMismatchError: mismatch,
    errors.CheckpointNotFoundError: lambda folder, _: checkpoint.open(folder / "one"),
    errors.CheckpointWriteError: write,
    errors.DamagedCheckpointError: damaged,
    errors.FormatLossError: lambda folder, _: checkpoint.save(folder / "one.msgpack", ONE, step=1),
    errors.MissingPackageError: package,
    errors.NoStepError: lambda folder, _: checkpoint.Manager(folder).open(),
    errors.RefusedCheckpointError: refused,
    errors.RemoteShardsError: remote,
    errors.UnknownPolicyError: lambda folder, _: mismatch(folder, extra="ignore"),
    errors.UnmatchedPolicyError: lambda folder, _: mismatch(folder, extra={"x": "drop"}),
    errors.UnsavableLeafError: lambda folder, _: checkpoint.save(folder / "one", {"w": object()}),
    errors.UnsavableTreeError: lambda folder, _: checkpoint.save(folder / "one", {1.5: np.ones(1)}),
}


def test_every_error_has_a_program():
    named = {getattr(catalogue, name) for name in catalogue.__all__} - {errors.CheckpointError}
    assert set(PROGRAMS) == named


@pytest.mark.parametrize("kind", PROGRAMS, ids=lambda kind: kind.__name__)
def test_error(kind, tmp_path, monkeypatch):
    with pytest.raises(kind) as caught:
        PROGRAMS[kind](tmp_path, monkeypatch)
    monkeypatch.undo()
    text = str(caught.value)
    assert len(text.splitlines()) >= 3  # what is wrong, what to write instead, the code
    assert f"[{kind.code}]" in text
    assert "{" not in kind.hint.format(**caught.value.context).replace('{"params', "")
    again = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - our own
    assert (type(again), str(again)) == (kind, text)


def test_a_tracer_is_no_leaf(tmp_path):
    with pytest.raises(errors.UnsavableLeafError, match=r"w: .*Tracer of dtype float32"):
        jax.jit(lambda leaf: checkpoint.save(tmp_path / "one", {"w": leaf}))(np.float32(1))


def test_all_unsavable_leaves_are_named(tmp_path):
    tree = {
        "a": print,
        "b": np.ones(1),
        "c": np.array(["text"]),
        "d": np.array([object()]),
        "e": jax.ShapeDtypeStruct((), "int8"),
    }
    with pytest.raises(errors.UnsavableLeafError) as caught:
        checkpoint.save(tmp_path / "one", tree)
    assert [line.split(":")[0].strip() for line in str(caught.value).splitlines()[1:-2]] == ["a", "c", "d", "e"]
    assert list(tmp_path.iterdir()) == []
