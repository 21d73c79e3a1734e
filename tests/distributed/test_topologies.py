"""Any number of processes to any other: what N have saved, M restore, whole and no more than their own."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from batiste import checkpoint
from tests.processes import saving
from tests.processes.support import run

COUNTS = (1, 2, 4)
CHUNK = 1 << 21  # of the arrays that are measured, where four processes have saved them
TABLES = 1 << 18  # the manifest and the nodes of the database


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with the state as 1, 2, 4 and 8 processes have saved it."""
    place = tmp_path_factory.mktemp("topologies")
    for count in (*COUNTS, 8):
        (place / str(count)).mkdir()
        run(count, "tests.processes.saving", place / str(count), "save=" + json.dumps([{}]))
    return place


@pytest.mark.parametrize("count", [*COUNTS, 8])
def test_restored_by(folder, count):
    names = [f"{saved}/state0" for saved in (*COUNTS, 8)]
    run(count, "tests.processes.saving", folder, "restore=" + json.dumps(names))


@pytest.mark.parametrize("saved", [*COUNTS, 8])
def test_without_a_mesh(folder, saved):
    place = folder / str(saved) / "state0"
    assert checkpoint.verify(place).digests
    for name, found in checkpoint.restore(place)["arrays"].items():
        assert np.array_equal(found, saving.values(name, found.shape).astype(found.dtype)), name


@pytest.mark.parametrize("saved", [1, 4])
def test_each_process_reads_its_own_bytes(tmp_path, saved):
    if saved == 1:
        checkpoint.save(tmp_path / "measured", {f"w{at}": jnp.ones((64, 1 << 15)) for at in range(4)})
    else:
        run(saved, "tests.processes.saving", tmp_path, 'measure="make"')
    for count in (2, 4):
        for text in run(count, "tests.processes.saving", tmp_path, 'measure="measured"'):
            for line in text.splitlines():
                if line.startswith("{"):
                    row = json.loads(line)
                    share = 4 * 64 * (1 << 17) // count
                    assert row["own"] == share
                    twice = row["verify"] and saved == 1  # each process checks its share of the whole digests, too
                    chunk = CHUNK if saved > 1 else 64 << 17  # one process saves an array of 8 MB as one chunk
                    assert row["read"] <= share * (1 + twice) + chunk * (1 if saved > 1 else 4) + TABLES, row


def test_an_older_mesh_of_one_process(tmp_path):
    """A mesh of eight devices in one process is saved as before, with a digest for each array."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()).reshape(4, 2), ("x", "y"))
    checkpoint.save(tmp_path / "one", saving.state(mesh))
    text = (tmp_path / "one" / "batiste.json").read_text(encoding="utf-8")
    assert text.startswith('{"format":"batiste.checkpoint","version":1,')
    run(2, "tests.processes.saving", tmp_path, 'restore=["one"]')
