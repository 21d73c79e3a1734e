"""Arrays read from one file: in any order, alone and together, ahead and not, they are what they are."""

import os

import numpy as np
import pytest
import safetensors.numpy

from batiste import checkpoint
from batiste.checkpoint import _ranges
from batiste.checkpoint._types import Damage
from batiste.errors import CheckpointChangedError
from tests.checkpoint.support import flip_bit, same_leaf

DTYPES = (np.uint8, np.float16, np.float32, np.float64, np.complex64)


def mixed():
    """Leaves of many sizes, none at all among them."""
    rng = np.random.default_rng(0)
    made = {}
    for number in range(60):
        dtype = DTYPES[number % len(DTYPES)]
        made[f"l{number:02}"] = rng.integers(0, 200, rng.choice([0, 1, 7, 100, 5000, 40000])).astype(dtype)
    return made


@pytest.fixture(params=["batiste", "safetensors"])
def written(request, tmp_path):
    path = tmp_path / "one.safetensors"
    if request.param == "batiste":
        checkpoint.save(path, mixed())
    else:
        safetensors.numpy.save_file(mixed(), path)
    return path


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("batch", [1, 3000, 100_000, 1 << 23])
def test_in_any_order(written, monkeypatch, batch, ahead):
    monkeypatch.setattr(_ranges, "_BATCH", batch)
    monkeypatch.setattr(_ranges, "_LARGE", batch // 4)
    monkeypatch.setattr(_ranges, "_PIECE", 999)
    opened, made = checkpoint.open(written), mixed()
    rng = np.random.default_rng(batch)
    for order in (list(made), list(rng.permutation(list(made))), ["l03", "l50", "l04"], []):
        found = list(opened.read_many(order, verify=True, ahead=ahead))
        assert [path for path, _ in found] == order
        assert [path for path, array in found if not same_leaf(array, made[path])] == []
        assert all(array.flags.aligned and array.flags.writeable for _, array in found)


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("batch", [1, 3000, 1 << 23])
def test_what_is_damaged_is_named(tmp_path, monkeypatch, batch, ahead):
    monkeypatch.setattr(_ranges, "_BATCH", batch)
    monkeypatch.setattr(_ranges, "_LARGE", batch // 4)
    made = mixed()
    path = tmp_path / "one.safetensors"
    checkpoint.save(path, made)
    opened = checkpoint.open(path)
    large = [name for name, leaf in made.items() if leaf.nbytes > 1000][:3]
    for name in large:
        at = path.stat()
        flip_bit(path, 8 * (path.read_bytes().find(made[name].tobytes()) + 500))
        os.utime(path, ns=(at.st_atime_ns, at.st_mtime_ns))  # as where a disk loses a bit, and nobody writes
    found = dict(opened.read_many(made, verify=True, ahead=ahead))
    assert [name for name, array in found.items() if isinstance(array, Damage)] == large
    assert not any(isinstance(array, Damage) for _, array in opened.read_many(made, verify=False, ahead=ahead))
    os.truncate(path, path.stat().st_size - 3000)  # behind the back of what is open
    with pytest.raises(CheckpointChangedError, match="bytes instead of"):
        dict(opened.read_many(made, verify=False, ahead=ahead))
    source = opened._source
    with path.open("rb", buffering=0) as file:
        read = _ranges.read_ranges(file, made, source.manifest.records, source._begins, verify=False, ahead=ahead)
        found = dict(read)
    lost = [name for name, array in found.items() if isinstance(array, Damage)]
    assert lost
    assert all("ends within it" in str(found[name]) for name in lost)
    assert all(same_leaf(array, made[name]) for name, array in found.items() if name not in [*lost, *large])


def test_who_stops_reading_leaves_nothing_behind(written):
    reading = checkpoint.open(written).read_many(mixed(), verify=True, ahead=True)
    assert next(reading)[0] == "l00"
    reading.close()
