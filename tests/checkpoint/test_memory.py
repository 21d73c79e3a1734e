"""What a save holds in memory beside the tree: one leaf in a file, two transactions of some megabytes in a folder."""

import tracemalloc

import numpy as np
import pytest

from batiste import checkpoint
from tests.checkpoint.support import KINDS

LEAF = 4 << 20


def peak(function):
    """The bytes that a call has allocated at once, beyond what was there."""
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="module")
def leaves():
    return {f"l{number}": np.full((1024, LEAF // 8192), number, np.float64).T for number in range(10)}


@pytest.mark.parametrize("kind", KINDS)
def test_saving(tmp_path, leaves, kind, monkeypatch):
    monkeypatch.setattr("batiste.checkpoint._orbax_write._TOGETHER", LEAF)
    checkpoint.save(tmp_path / f"warm_{kind}", {"w": np.ones(2)})
    more = 1 if kind == "folder" else 0  # a thread of TensorStore may for an instant still hold what is written
    assert peak(lambda: checkpoint.save(tmp_path / kind, leaves)) < (2.5 + more) * LEAF


def test_converting_to_a_file(tmp_path, leaves):
    checkpoint.save(tmp_path / "folder", leaves)
    opened = checkpoint.open(tmp_path / "folder")
    assert peak(lambda: checkpoint.save(tmp_path / "file.safetensors", opened)) < 2.5 * LEAF


def test_verifying(tmp_path, leaves):
    checkpoint.save(tmp_path / "file.safetensors", leaves)
    assert peak(lambda: checkpoint.verify(tmp_path / "file.safetensors")) < 2.5 * LEAF
