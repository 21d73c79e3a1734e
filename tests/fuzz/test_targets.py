"""Files that were changed with intent, on every way in: success, or an error of the catalogue, in little memory."""

import random
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batiste import checkpoint
from tests.fuzz.mutate import mutated_bytes, mutated_json
from tests.fuzz.targets import TARGETS, bounded_memory, read_all

LONGEST = 20
"""Seconds that reading one small file may take, on a busy machine."""


class Places(dict):
    """A dict that Hypothesis prints in short."""

    def __repr__(self):
        return "places"


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A folder for each target, with its valid inputs."""
    found = Places()
    for name, target in TARGETS.items():
        folder = tmp_path_factory.mktemp(name)
        found[name] = folder, target.seeds(folder)
    return found


@pytest.mark.parametrize("name", TARGETS)
def test_valid_inputs_are_read(name, places):
    """Or else the attack would never get behind the door."""
    folder, seeds = places[name]
    for seed in seeds:
        path = TARGETS[name].write(seed, folder)
        TARGETS[name].use(path)
        if name == "pickle":  # with a set in it, which is opaque
            assert checkpoint.open(path)["**"]["a"]
        elif name not in {"mapping", "manifest"}:
            assert checkpoint.restore(path)
    if name == "manifest":
        assert checkpoint.restore(TARGETS[name].write(seeds[0], folder))["step"] == 3


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=40)
@given(number=st.integers(0, 1 << 32))
@pytest.mark.filterwarnings("default")
def test_hostile_inputs(name, number, places):
    folder, seeds = places[name]
    choice = random.Random(number)  # noqa: S311 - no secret
    target = TARGETS[name]
    path = target.write(target.mutate(choice.choice(seeds), choice), folder)
    start = time.monotonic()
    with bounded_memory():
        target.use(path)
    assert time.monotonic() - start < LONGEST


def test_mutations_are_many():
    choice = random.Random(0)  # noqa: S311 - no secret
    body = {"a": [1, {"b": "c"}], "d": None}
    assert len({repr(mutated_json(body, choice)) for _ in range(100)}) > 80
    assert len({mutated_bytes(b"0123456789", choice) for _ in range(100)}) > 80


def test_an_exception_of_another_kind_is_seen(tmp_path, monkeypatch):
    np.savez(tmp_path / "a.npz", w=np.ones(2))

    def broken(*_, **__):
        raise KeyError("w")

    monkeypatch.setattr(checkpoint, "restore", broken)
    with pytest.raises(KeyError):
        read_all(tmp_path / "a.npz")


def test_memory_is_bounded():
    with bounded_memory(1 << 28), pytest.raises(MemoryError):
        np.ones(1 << 30, np.uint8)
