"""Two processes save, one restores; one saves, two restore; and what cannot work is refused in both."""

import json
import shutil

import jax
import numpy as np
import pytest
from typer.testing import CliRunner

from batiste import checkpoint, errors
from batiste.checkpoint._arrays import digest_bytes
from batiste.cli._app import app
from tests.processes import saving
from tests.processes.support import run

WAYS = [{}, {"compress": True}, {"background": True}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return the folder in which two processes have saved, after they have restored what one process saved."""
    place = tmp_path_factory.mktemp("processes")
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:4]).reshape(2, 2), ("x", "y"))
    checkpoint.save(place / "one", saving.state(mesh))
    names = ["one", *(f"state{number}" for number in range(len(WAYS)))]
    said = run(
        2, "tests.processes.saving", place, f"save={json.dumps(WAYS)}", f"restore={json.dumps(names)}", "bare", "refuse"
    )
    assert all(text.endswith("done\n") for text in said)
    return place


@pytest.mark.parametrize("name", ["state0", "state1", "state2"])
def test_one_process_restores(folder, name):
    for devices in (1, 8):
        chosen = np.array(jax.devices()[:devices])
        mesh = jax.sharding.Mesh(chosen.reshape(-1, 2 if devices > 1 else 1), ("x", "y"))
        saving.check(checkpoint.restore(folder / name, saving.state(mesh, filled=False)), saving.state(mesh))
    for place, found in checkpoint.restore(folder / name)["arrays"].items():
        assert type(found) is np.ndarray
        assert np.array_equal(found, saving.values(place, found.shape).astype(found.dtype)), place


def test_every_array_has_a_digest(folder):
    opened = checkpoint.open(folder / "state0")
    assert checkpoint.verify(opened).digests
    parts = {path: record.chunk for path, record in opened.manifest.records.items() if record.chunk}
    assert parts["arrays/rows"] == (8, 6)
    assert parts["arrays/columns"] == (6, 8)
    assert "arrays/copied" not in parts


def test_each_process_has_written_its_part(folder):
    sizes = [
        sum(file.stat().st_size for file in (folder / "state0" / "state" / f"ocdbt.process_{rank}").rglob("*"))
        for rank in range(2)
    ]
    assert max(sizes) < 1.05 * min(sizes)


def test_orbax_reads_it(folder):
    import orbax.checkpoint as ocp

    place = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    wanted = {"rows": jax.ShapeDtypeStruct((16, 6), np.float32, sharding=place)}
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        arguments = ocp.checkpoint_utils.construct_restore_args(wanted)
        found = reader.restore(
            folder / "state0" / "state",
            args=ocp.args.PyTreeRestore({"arrays": wanted}, restore_args={"arrays": arguments}, partial_restore=True),
        )
    assert np.array_equal(found["arrays"]["rows"], saving.values("rows", (16, 6)))


def test_the_command_line_needs_no_mesh(folder, tmp_path):
    def command(*words):
        result = CliRunner().invoke(app, [str(word) for word in words])
        assert result.exit_code == 0, result.output
        return result.output

    source = folder / "state0"
    command("verify", source)
    assert "large_copied" in command("show", source)
    command("select", source, tmp_path / "part", "arrays/**")
    command("convert", source, tmp_path / "all.safetensors")
    command("diff", source, tmp_path / "all.safetensors")
    for place in ("part", "all.safetensors"):
        saved = checkpoint.open(tmp_path / place)
        assert checkpoint.verify(saved).digests
        assert not any(record.chunk for record in saved.manifest.records.values())


def test_a_damaged_part_is_found(folder, tmp_path):
    place = tmp_path / "copy"
    shutil.copytree(folder / "state0", place)
    wanted = saving.values("large", (1024, 512))[512:].tobytes()
    for file in (place / "state").rglob("d/*"):
        data = file.read_bytes()
        if wanted in data:
            at = data.index(wanted)
            file.write_bytes(data[: at + 5] + bytes([data[at + 5] ^ 1]) + data[at + 6 :])
    with pytest.raises(
        errors.DamagedCheckpointError, match=r"arrays/large: the digest of float32\[1024,512\] does not fit"
    ):
        checkpoint.verify(place)
    with pytest.raises(errors.DamagedCheckpointError, match="arrays/large"):
        checkpoint.restore(place)


@pytest.mark.parametrize(
    "change",
    [
        {"chunk": [8, 3]},
        {"chunk": [0, 6]},
        {"chunk": [8]},
        {"chunk": "86"},
        {"chunk": [True, 6]},
        {"parts": []},
        {"parts": [1, 2]},
        {"parts": None},
    ],
)
def test_a_hostile_manifest_is_refused(folder, change):
    text = (folder / "state0" / "batiste.json").read_text(encoding="utf-8")
    body = json.loads(text)
    body["leaves"]["arrays/rows"] |= change
    start, rest = (
        '{"format":"batiste.checkpoint","version":2,"digest":"',
        json.dumps(body).partition('"digest": "')[2][32:],
    )
    forged = f"{start}{digest_bytes(start.encode(), rest.encode())}{rest}"
    with pytest.raises(errors.RefusedCheckpointError, match="not well formed"):
        checkpoint.Manifest.from_text(forged.replace('": "', '":"', 0), "here")
