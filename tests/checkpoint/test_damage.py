"""One flipped bit anywhere is found and named, and nothing damaged is loaded.

`BATISTE_BIT_FLIPS` sets how many bits are flipped: 500 for a thorough run.
"""

import os
import re
import shutil

import jax
import numpy as np
import pytest

from batiste import checkpoint, errors
from tests.checkpoint.support import WHOLE, assert_same, files_of, flip_bit, training

FLIPS = int(os.environ.get("BATISTE_BIT_FLIPS", "40"))


@pytest.fixture(params=WHOLE)
def saved(request, tmp_path):
    path = tmp_path / request.param
    checkpoint.save(path, training(width=32), step=3, metadata={"note": "x" * 50})
    return path


def refused(path, state):
    """Assert that no way of loading a checkpoint gives anything, and return what the errors said."""
    said = []
    for load in (checkpoint.verify, checkpoint.restore, lambda path: checkpoint.restore(path, state)):
        with pytest.raises(errors.CheckpointError) as caught:
            load(path)
        said.append(str(caught.value))
    return said


def test_every_flipped_bit(saved):
    state = training(width=32)
    files = [file for file in files_of(saved) if file.stat().st_size]
    weights = np.array([file.stat().st_size for file in files])
    rng = np.random.default_rng(0)
    for number in range(FLIPS):
        # Half of them wherever there are bytes, which is mostly in arrays; half in any file, which is mostly elsewhere.
        file = files[rng.choice(len(files), p=weights / weights.sum() if number % 2 else None)]
        bit = int(rng.integers(8 * file.stat().st_size))
        flip_bit(file, bit)
        try:
            refused(saved, state)
        finally:
            flip_bit(file, bit)
    assert_same(checkpoint.restore(saved), state)


def test_a_compressed_folder(tmp_path):
    state = training(width=32)
    checkpoint.save(tmp_path / "one", state, compress=True)
    assert_same(checkpoint.restore(tmp_path / "one"), state)
    files = [file for file in files_of(tmp_path / "one") if file.stat().st_size]
    rng = np.random.default_rng(1)
    for _ in range(FLIPS // 4):
        file = files[rng.choice(len(files))]
        bit = int(rng.integers(8 * file.stat().st_size))
        flip_bit(file, bit)
        refused(tmp_path / "one", state)
        flip_bit(file, bit)


def test_large_files_of_arrays_have_the_digests_of_their_arrays(tmp_path, monkeypatch):
    monkeypatch.setattr("batiste.checkpoint._directory._LARGE", 1000)
    state = training(width=32)
    checkpoint.save(tmp_path / "one", state)
    manifest = checkpoint.open(tmp_path / "one").manifest
    large = [tmp_path / "one" / name for name, (_, digest) in manifest.files.items() if not digest]
    assert large
    assert all(file.parent.name == "d" for file in large)
    assert sum(file.stat().st_size for file in large) > manifest.bytes // 2
    rng = np.random.default_rng(2)
    found = 0
    for _ in range(FLIPS):
        file = large[rng.integers(len(large))]
        bit = int(rng.integers(8 * file.stat().st_size))
        flip_bit(file, bit)
        try:
            assert_same(checkpoint.restore(tmp_path / "one"), state)  # a bit of which no array is made
        except errors.DamagedCheckpointError:
            found += 1
        flip_bit(file, bit)
    assert found > 0
    with large[0].open("ab") as file:
        file.write(b"0")
    with pytest.raises(errors.DamagedCheckpointError, match="bytes instead of"):
        checkpoint.verify(tmp_path / "one")


def test_a_folder_that_is_called_as_the_one_for_arrays_is_within(tmp_path):
    checkpoint.save(tmp_path / "d", {"w": np.arange(6.0)})
    for file in (tmp_path / "d").iterdir():
        if file.is_file() and file.name != "batiste.json" and file.stat().st_size:
            flip_bit(file, 3)
            with pytest.raises(errors.DamagedCheckpointError, match=re.escape(file.name)):
                checkpoint.restore(tmp_path / "d")
            flip_bit(file, 3)
    assert_same(checkpoint.restore(tmp_path / "d"), {"w": np.arange(6.0)})


def test_the_leaf_is_named(saved):
    state = training(width=32)
    kernel = np.asarray(state["params"]["h_1"]["kernel"]).tobytes()
    for file in files_of(saved):
        at = file.read_bytes().find(kernel)
        if at >= 0:
            flip_bit(file, 8 * (at + 1000) + 5)
            break
    for text in refused(saved, state):
        assert re.search(r"params/h_1/kernel: (the digest of float32\[32,32\] does not fit|Bad CRC-32)", text)
    opened = checkpoint.open(saved)
    with pytest.raises(errors.DamagedCheckpointError, match="params/h_1/kernel"):
        opened.lazy("params/h_1/kernel").read()
    assert opened.lazy("params/h_2/kernel").read().shape == (32, 32)
    part = {"params": {"head": state["params"]["head"]}}
    assert_same(checkpoint.restore(saved, part, extra="drop"), part)  # what is asked for is whole
    if saved.suffix != ".npz":  # a zip has checksums of its own, which no one can leave out
        assert_same(jax.tree.structure(checkpoint.restore(saved, verify=False)), jax.tree.structure(state))


def test_every_damaged_leaf_is_named(saved):
    state = training(width=32)
    for name in ("h_0", "h_2"):
        kernel = np.asarray(state["params"][name]["kernel"]).tobytes()
        for file in files_of(saved):
            at = file.read_bytes().find(kernel)
            if at >= 0:
                flip_bit(file, 8 * at)
    for text in refused(saved, state):
        assert "params/h_0/kernel" in text
        assert "params/h_2/kernel" in text
        assert "params/h_1" not in text


def test_truncation(saved):
    state = training(width=32)
    for file in files_of(saved):
        whole = file.read_bytes()
        for length in {0, len(whole) // 2, max(0, len(whole) - 1)} - {len(whole)}:
            file.write_bytes(whole[:length])
            refused(saved, state)
        file.write_bytes(whole)
    assert_same(checkpoint.restore(saved), state)


def test_something_appended(saved):
    state = training(width=32)
    for file in files_of(saved):
        whole = file.read_bytes()
        file.write_bytes(whole + b" ")
        refused(saved, state)
        file.write_bytes(whole)


def test_zeroed_pages(saved):
    state = training(width=32)
    for file in files_of(saved):
        whole = file.read_bytes()
        for start in range(0, len(whole), 4096):
            page = whole[:start] + bytes(len(whole[start : start + 4096])) + whole[start + 4096 :]
            if page != whole:
                file.write_bytes(page)
                refused(saved, state)
        file.write_bytes(whole)


def test_deleted_files(saved):
    state = training(width=32)
    for file in files_of(saved):
        shutil.copy(file, file.with_name("aside"))
        aside = file.with_name("aside").rename(saved.parent / "aside")
        file.unlink()
        refused(saved, state)
        aside.rename(file)
    assert_same(checkpoint.restore(saved), state)


def test_files_of_another_checkpoint(tmp_path):
    one, two = {"a": np.arange(600.0), "b": np.ones(3)}, {"a": np.arange(600.0) + 1, "b": np.ones(3)}
    for name, tree in (("one", one), ("two", two)):
        checkpoint.save(tmp_path / name, tree)
        checkpoint.save(tmp_path / f"{name}.safetensors", tree)
    shutil.rmtree(tmp_path / "one" / "state")
    shutil.copytree(tmp_path / "two" / "state", tmp_path / "one" / "state")
    assert "a: the digest of float64[600] does not fit" in refused(tmp_path / "one", one)[0]


def test_no_array_values_and_no_storage_talk(saved):
    state = training(width=32)
    for file in files_of(saved):
        if file.stat().st_size > 4000:
            whole = file.read_bytes()
            file.write_bytes(whole[:2000])
            for text in refused(saved, state):
                assert all(len(line) < 300 for line in text.splitlines())
                assert "pybind11" not in text
            file.write_bytes(whole)
