"""Files and folders of other programs: each written as its program writes it, opened, read, converted, compared."""

import contextlib
import io
import json
import struct
import zipfile
import zlib

import flax.serialization
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import orbax.checkpoint
import pytest
import tensorstore
from jax.experimental.array_serialization import serialization

from batiste import checkpoint, errors
from batiste.cli import _show
from tests.checkpoint.foreign import Torch, gguf, named
from tests.checkpoint.support import assert_same

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of Flax and Orbax about themselves
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


def assert_read(path, expected, capsys, form):
    """Open, show, restore, verify and convert what is at a path, and compare each time."""
    opened = checkpoint.open(path)
    assert opened.manifest.storage["format"] == form
    assert not checkpoint.verify(path).digests
    assert_same(checkpoint.restore(path), expected)
    for name, record in opened.manifest.records.items():
        if record.kind is None and record.shape and record.shape[0]:
            assert opened.lazy(name)[:1].read().tobytes() == opened.lazy(name).read()[:1].tobytes()
    _show.show(path, [], regex=False, stats=False, depth=None, paths_only=False, as_json=False)
    assert form in capsys.readouterr().out
    new = path.with_name("converted.npz")
    checkpoint.save(new, opened, overwrite=True)
    assert_same(checkpoint.restore(new), expected)


def narrow(path, dtype, shape, size):
    rows = {
        "good": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
        "narrow": {"dtype": dtype, "shape": shape, "data_offsets": [8, 8 + size]},
    }
    text = json.dumps(rows).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + np.ones(2, np.float32).tobytes() + bytes(size))


@pytest.mark.parametrize("dtype", ["F4", "F6_E2M3", "F6_E3M2"])
def test_one_tensor_of_few_bits_does_not_close_a_safetensors_file(tmp_path, dtype):
    path = tmp_path / "a.safetensors"
    narrow(path, dtype, [2, 4], 4 if dtype == "F4" else 6)
    opened = checkpoint.open(path)
    assert opened.lazy("good").read().tolist() == [1, 1]
    for ask in (lambda: opened.lazy("narrow"), lambda: checkpoint.restore(path)):
        with pytest.raises(errors.RefusedCheckpointError, match=rf"'narrow' is {dtype}\[2,4\]"):
            ask()
    for shape, size in (([2, 4], 5), ([3], 2), ([1 << 60], 4)):
        narrow(path, dtype, shape, size)
        with pytest.raises(errors.RefusedCheckpointError, match="narrow"):
            checkpoint.open(path)


@pytest.mark.parametrize("dtype", ["F8_E8M0", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"])
def test_bytes_in_safetensors_are_read(tmp_path, dtype):
    narrow(tmp_path / "a.safetensors", dtype, [3], 3)
    assert checkpoint.restore(tmp_path / "a.safetensors")["narrow"].shape == (3,)


ODD = {
    "text": np.array(["a", "bc"]),
    "bytes": np.array([b"a"]),
    "dates": np.array(["2020-01-01"], "datetime64[D]"),
    "durations": np.array([3], "timedelta64[s]"),
    "records": np.zeros(3, [("a", "f4")]),
    "Python objects": np.array([1, "a"], object),
    "longdouble": np.zeros(2, np.longdouble),
}


@pytest.mark.parametrize("what", ODD)
def test_one_odd_member_does_not_close_an_npz_file(tmp_path, what):
    path = tmp_path / "a.npz"
    np.savez(path, **{"a/w": np.arange(3.0), "odd": ODD[what], "big": np.arange(3).astype(">i4")})
    opened = checkpoint.open(path)
    assert opened.lazy("a/w").read().tolist() == [0, 1, 2]
    assert_same(opened.lazy("big").read(), np.arange(3, dtype=np.int32))
    with pytest.raises(errors.RefusedCheckpointError, match="'odd' is an array of"):
        opened.lazy("odd")
    target = {"a": {"w": np.zeros(3)}, "big": np.zeros(3, np.int32)}
    assert_same(checkpoint.restore(path, target, extra="drop")["a"], {"w": np.arange(3.0)})
    np.savez(path, odd=ODD[what])
    with pytest.raises(errors.RefusedCheckpointError, match="pickle"):
        checkpoint.open(path)


def test_members_of_an_npz_file_that_are_other_files(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, w=np.arange(3.0))
    with zipfile.ZipFile(path, "a") as archive, archive.open("w.npy") as member:
        archive.writestr("v", member.read())
        archive.writestr("readme.txt", "hello")
        archive.mkdir("folder")
    opened = checkpoint.open(path)
    assert opened.lazy("v").read().tolist() == [0, 1, 2]
    assert opened.manifest.opaque == {"readme.txt": "a file that is no array"}
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("damaged.npy", "hello, world")
    with pytest.raises(errors.CheckpointFormatError, match="'damaged': the magic string is not correct"):
        checkpoint.open(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_compressed_in_any_way(tmp_path, method):
    path = tmp_path / "a.npz"
    array = io.BytesIO()
    np.save(array, np.arange(300.0))
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("w.npy", array.getvalue())
    raw = path.read_bytes()
    assert checkpoint.restore(path)["w"].tolist() == list(range(300))
    for at in range(0, len(raw), 1 + len(raw) // 60):
        path.write_bytes(raw[:at] + bytes([raw[at] ^ 16]) + raw[at + 1 :])
        with contextlib.suppress(errors.CheckpointError):
            checkpoint.restore(path)


def test_names_that_are_folders_too(tmp_path):
    np.savez(tmp_path / "a.npz", **{"a": np.zeros(1), "a/b": np.ones(1), "a/b/c": np.ones(2)})
    rows = {name: {"dtype": "U8", "shape": [1], "data_offsets": [at, at + 1]} for at, name in enumerate(("a", "a/b"))}
    text = json.dumps(rows).encode()
    (tmp_path / "b.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"\x00\x01")
    for name in ("a.npz", "b.safetensors"):
        opened = checkpoint.open(tmp_path / name)
        assert (opened.lazy("a").read().tolist(), opened.lazy("a/b").read().tolist()) == ([0], [1])
        assert checkpoint.restore(tmp_path / name)["a/b"].tolist() == [1]
        assert opened["a/*"]["a"]["b"].read().tolist() == [1]
        for end in ("", ".safetensors", ".npz", ".msgpack"):  # the names become the keys of one dict
            checkpoint.save(tmp_path / f"saved-{name}{end}", opened)
            saved = checkpoint.restore(tmp_path / f"saved-{name}{end}")
            assert {key: leaf.tolist() for key, leaf in saved.items()} == {
                key: leaf.tolist() for key, leaf in checkpoint.restore(tmp_path / name).items()
            }


def test_npy(tmp_path, capsys):
    for number, array in enumerate(
        (
            np.arange(6.0).reshape(2, 3),
            np.asfortranarray(np.arange(6).reshape(2, 3)),
            np.arange(3).astype(">f4"),
            np.array(3),
            np.ones(3, ml_dtypes.bfloat16),
        )
    ):
        path = tmp_path / f"{number}.npy"
        np.save(path, array)
        assert_read(path, np.asarray(array, array.dtype.newbyteorder("="), order="C"), capsys, "npy")
    np.save(tmp_path / "odd.npy", np.array(["a"]))
    with pytest.raises(errors.RefusedCheckpointError, match="text"):
        checkpoint.open(tmp_path / "odd.npy")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(errors.CheckpointFormatError, match="cannot be read"):
        checkpoint.open(path)


def test_equinox(tmp_path, capsys):
    """`tree_serialise_leaves` is `numpy.save` of one leaf after the other, and of what is no array, nothing."""
    arrays = [np.arange(6, dtype=np.float32).reshape(2, 3), np.ones(3, ml_dtypes.bfloat16), np.asarray(2.5)]
    file = io.BytesIO()
    for array in arrays:
        np.save(file, array)
    path = tmp_path / "model.eqx"
    path.write_bytes(file.getvalue())
    assert_read(path, arrays, capsys, "equinox")
    target = {"layer": (jnp.zeros((2, 3)), jnp.zeros(3, jnp.bfloat16)), "rate": 1.0, "z": jnp.tanh}
    restored = checkpoint.restore(path, target)
    assert_same(restored["layer"], (jnp.asarray(arrays[0]), jnp.asarray(arrays[1])))
    assert (restored["rate"], restored["z"]) == (2.5, jnp.tanh)
    path.write_bytes(b'{"width": 3}\n' + file.getvalue())
    assert checkpoint.restore(path, target)["rate"] == 2.5
    assert checkpoint.open(path).metadata == {"header": {"width": 3}}
    with pytest.raises(errors.CheckpointMismatchError, match="the target has 1 arrays"):
        checkpoint.restore(path, [jnp.zeros(3)])
    with pytest.raises(errors.CheckpointMismatchError, match="layer/0"):
        checkpoint.restore(path, {**target, "layer": target["layer"][::-1]})


def test_gguf(tmp_path, capsys):
    tensors = {
        "blk.0.w": np.arange(6, dtype=np.float32).reshape(2, 3),
        "half": np.ones(3, np.float16),
        "brain": np.ones((2, 1, 2), ml_dtypes.bfloat16),
        "small": np.arange(5, dtype=np.int8),
    }
    words = struct.pack("<Q", 5) + b"llama"
    pairs = [
        ("general.architecture", 8, words),
        ("n", 4, struct.pack("<I", 7)),
        ("l", 9, struct.pack("<IQ3i", 5, 3, 1, 2, 3)),
    ]
    path = tmp_path / "model"
    path.write_bytes(gguf(tensors, pairs))
    assert_read(path, tensors, capsys, "gguf")
    assert checkpoint.open(path).metadata == {"general.architecture": "llama", "n": 7}
    path.write_bytes(gguf({"w": ((2, 32), 8, bytes(68))}))
    assert str(checkpoint.open(path).manifest.records["w"]) == "float32[2,32]"
    endless = struct.pack("<IQ", 9, 1 << 60)
    for raw in (
        gguf(tensors)[:40],
        gguf(tensors)[:-60],
        gguf({}, [("a", 9, endless)]),
        gguf(tensors)[:8] + b"\xff" * 40,
    ):
        path.write_bytes(raw)
        with pytest.raises(errors.CheckpointFormatError, match="GGUF"):
            checkpoint.open(path)


def test_what_reads_a_format_is_named_where_it_is_missing(tmp_path, monkeypatch):
    (tmp_path / "a.gguf").write_bytes(gguf({"w": ((2, 32), 8, bytes(68))}))
    (tmp_path / "a.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    opened = checkpoint.open(tmp_path / "a.gguf")
    assert checkpoint.open  # its file is loaded before the packages are hidden
    checkpoint.restore  # noqa: B018 - and this one's
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(errors.MissingPackageError, match=r"'gguf'.*\n.*pip install 'batiste\[files\]'"):
        opened.lazy("w").read()
    with pytest.raises(errors.MissingPackageError, match=r"'h5py'.*\n.*pip install 'batiste\[files\]'"):
        checkpoint.open(tmp_path / "a.h5")


def test_pytorch_needs_no_pytorch(tmp_path, monkeypatch):
    made = Torch()
    (tmp_path / "a.pt").write_bytes(made.zip(named({"w": made.tensor(np.ones(2))})))
    opening = checkpoint.open
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert opening(tmp_path / "a.pt").lazy("w").read().tolist() == [1, 1]


def spec(place, name, value, driver, path):
    metadata = {"chunks": list(value.shape), "compressor": {"id": "gzip"}, "shape": list(value.shape)}
    store = {"driver": "file", "path": str(place / name)}
    made = {"driver": "zarr", "dtype": value.dtype.name, "kvstore": store, "metadata": metadata}
    tensorstore.open(made, create=True).result().write(value).result()
    if driver == "gcs":
        return {**made, "kvstore": {"driver": "gcs", "bucket": "a-bucket"}, "path": path}
    return {**made, "kvstore": {"driver": driver, "path": path}}


def test_t5x(tmp_path, capsys):
    place = tmp_path / "checkpoint_1000"
    place.mkdir()
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    target = {
        "near": spec(place, "target.near", array, "file", "target.near"),
        "bucket": spec(place, "target.bucket", array + 1, "gcs", "runs/7/checkpoint_1000/target.bucket/"),
        "far": spec(place, "target.far", array + 2, "gfile", "/cns/somewhere/checkpoint_1000.tmp/target.far"),
        "half": spec(place, "target.half", array.astype(ml_dtypes.bfloat16), "file", "target.half"),
        "scale": np.ones(3, np.float32),
    }
    state = {"version": 3, "optimizer": {"state": {"step": np.int32(1000)}, "target": target}}
    (place / "checkpoint").write_bytes(flax.serialization.msgpack_serialize(state))
    found = {
        "near": array,
        "bucket": array + 1,
        "far": array + 2,
        "half": array.astype(ml_dtypes.bfloat16),
        "scale": np.ones(3, np.float32),
    }
    expected = {"version": 3, "optimizer": {"state": {"step": np.asarray(1000, np.int32)}, "target": found}}
    assert_read(place, expected, capsys, "t5x")
    with pytest.raises(errors.CheckpointFormatError, match="steps checkpoint_1000"):
        checkpoint.open(tmp_path)
    (place / "target.far" / ".zarray").unlink()
    with pytest.raises(errors.DamagedCheckpointError, match="optimizer/target/far"):
        checkpoint.open(place)
    target["far"]["kvstore"]["path"] = "../../etc/passwd"
    (place / "checkpoint").write_bytes(flax.serialization.msgpack_serialize(state))
    with pytest.raises(errors.DamagedCheckpointError, match="is not there"):
        checkpoint.open(place)


@pytest.mark.parametrize("together", [False, True])
def test_arrays_of_jax(tmp_path, capsys, together):
    arrays = {"model/w": jnp.arange(6.0).reshape(2, 3), "model/deep/b": jnp.ones(3, jnp.bfloat16)}
    manager = serialization.GlobalAsyncCheckpointManager()
    root = tmp_path / "run"
    if together:
        specs = [
            {
                "driver": "zarr",
                "kvstore": {"driver": "ocdbt", "base": {"driver": "file", "path": f"{root}/"}, "path": name},
            }
            for name in arrays
        ]
        manager.serialize(list(arrays.values()), specs)
    else:
        manager.serialize_with_paths(list(arrays.values()), [str(root / name) for name in arrays])
    manager.wait_until_finished()
    expected = {"model": {"w": np.asarray(arrays["model/w"]), "deep": {"b": np.asarray(arrays["model/deep/b"])}}}
    assert_read(root, expected, capsys, "zarr")


def test_trees_of_jax(tmp_path, capsys):
    pytest.importorskip("flatbuffers", reason="JAX needs it to save trees, and batiste to read them")
    from jax.experimental.array_serialization import pytree_serialization

    made = {"a": [jnp.arange(3.0), jnp.ones((2, 2), jnp.bfloat16)], "b": None, "c": (jnp.asarray(3),)}
    pytree_serialization.save(made, tmp_path / "run")
    expected = {**made, "a": [np.asarray(leaf) for leaf in made["a"]], "c": (np.asarray(made["c"][0]),)}
    assert_read(tmp_path / "run", expected, capsys, "zarr")


def test_hdf5(tmp_path, capsys):
    library = pytest.importorskip("h5py", reason="h5py is optional")
    path = tmp_path / "model.weights.h5"
    with library.File(path, "w") as file:
        file["layers/dense/vars/0"] = np.arange(6, dtype=np.float32).reshape(2, 3)
        file.create_dataset("layers/dense/vars/1", data=np.arange(300.0), chunks=(30,), compression="gzip")
        file["big"] = np.arange(3).astype(">i4")
        file["flags"] = np.array([True, False])
    expected = {
        "layers": {"dense": {"vars": {"0": np.arange(6, dtype=np.float32).reshape(2, 3), "1": np.arange(300.0)}}},
        "big": np.arange(3, dtype=np.int32),
        "flags": np.array([True, False]),
    }
    assert_read(path, expected, capsys, "hdf5")
    (tmp_path / "secret").write_bytes(bytes(80))
    with library.File(path, "a") as file:
        file["text"] = "hello"
        file["link"] = library.ExternalLink("other.h5", "/x")
        file.create_dataset("outside", (10,), "f8", external=str(tmp_path / "secret"))
        file.create_dataset("endless", (1 << 50,), "f4", chunks=(1 << 10,))
    with pytest.raises(errors.RefusedCheckpointError, match="describes"):
        checkpoint.open(path)
    with library.File(path, "a") as file:
        del file["endless"]
        file["again"] = file["big"]  # a second name, which is no second group
        file["softly"] = library.SoftLink("/layers/dense/vars/0")
        file["nowhere"] = library.SoftLink("/nothing")
        file["layers/round"] = file["layers"]
        file["empty"] = library.Empty("f4")
    opened = checkpoint.open(path)
    assert opened.manifest.opaque.keys() == {"text", "outside", "link", "nowhere"}
    assert opened.manifest.records.keys() == {
        "again", "big", "flags", "layers/dense/vars/0", "layers/dense/vars/1", "softly",
    }  # fmt: skip
    assert opened.lazy("again").read().tolist() == [0, 1, 2]
    assert opened.lazy("softly").shape == (2, 3)
    assert opened.lazy("big").read().tolist() == [0, 1, 2]
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(errors.CheckpointFormatError, match="HDF5"):
        checkpoint.open(path)


def write_torch(path):
    made = Torch()
    path.write_bytes(made.zip(named({"w": made.tensor(np.arange(3.0))})))


FILES = {
    "flax_model.msgpack": lambda path: checkpoint.save(path, {"w": np.arange(3.0)}),
    "pytorch_model.bin": write_torch,
    "model.safetensors": lambda path: checkpoint.save(path, {"w": np.arange(3.0)}),
    "weights.npz": lambda path: np.savez(path, w=np.arange(3.0)),
    "model.gguf": lambda path: path.write_bytes(gguf({"w": np.arange(3, dtype=np.float32)})),
}


@pytest.mark.parametrize("name", FILES)
def test_a_folder_as_it_was_downloaded(tmp_path, name):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "README.md").write_text("(a model.")
    (tmp_path / "LICENSE").write_text("(c) nobody. Copy it.")
    (tmp_path / ".hidden.npz").write_bytes(b"")
    with pytest.raises(errors.CheckpointFormatError, match="nothing in it is known"):
        checkpoint.open(tmp_path)
    FILES[name](tmp_path / name)
    assert checkpoint.restore(tmp_path)["w"].tolist() == [0, 1, 2]
    for other in FILES.keys() - {name}:
        FILES[other](tmp_path / other)
        with pytest.raises(errors.CheckpointFormatError) as raised:
            checkpoint.open(tmp_path)
        assert name in str(raised.value)
        assert other in str(raised.value)
        (tmp_path / other).unlink()


def test_weights_as_the_cache_of_a_hub_has_them(tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    names = {leaf: f"model-0000{number}-of-00002.safetensors" for number, leaf in enumerate("ab", 1)}
    for leaf, name in names.items():
        checkpoint.save(tmp_path / name, {leaf: np.ones(3)})
        (tmp_path / name).rename(blobs / leaf)
        (snapshot / name).symlink_to(f"../../blobs/{leaf}")
    (blobs / "index").write_text(json.dumps({"weight_map": names}))
    index = snapshot / "model.safetensors.index.json"
    index.symlink_to("../../blobs/index")
    (tmp_path / "latest").symlink_to("snapshots/abc")
    for path in (snapshot, index, tmp_path / "latest", tmp_path / "latest" / index.name):
        assert checkpoint.restore(path).keys() == {"a", "b"}
    assert checkpoint.restore(snapshot / names["a"]).keys() == {"a"}


def test_an_index_that_names_an_index(tmp_path):
    for name in ("model.safetensors.index.json", "other.index.json"):
        index = tmp_path / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": {"a": name}}))
        (tmp_path / "other.index.json").write_text(json.dumps({"weight_map": {"a": index.name}}))
        with pytest.raises(errors.RefusedCheckpointError, match="which is an index too"):
            checkpoint.open(index)


def test_shards_of_flax(tmp_path):
    for number, leaf in enumerate(("a", "b")):
        checkpoint.save(tmp_path / f"flax_model-{number}.msgpack", {"params": {leaf: np.full(2, number)}})
    table = {f"params/{leaf}": f"flax_model-{number}.msgpack" for number, leaf in enumerate(("a", "b"))}
    (tmp_path / "flax_model.msgpack.index.json").write_text(json.dumps({"weight_map": table}))
    assert_same(checkpoint.restore(tmp_path), {"params": {"a": np.full(2, 0), "b": np.full(2, 1)}})


def test_a_save_of_orbax_that_was_interrupted(tmp_path):
    with orbax.checkpoint.CheckpointManager(tmp_path / "run") as manager:
        manager.save(1, args=orbax.checkpoint.args.StandardSave({"w": np.ones(3)}))
    left = tmp_path / "run" / "2.orbax-checkpoint-tmp"
    (left / "default.orbax-checkpoint-tmp").mkdir(parents=True)
    about = tmp_path / "run" / "1" / "_CHECKPOINT_METADATA"
    (left / about.name).write_bytes(about.read_bytes())
    (tmp_path / "3" / "default.orbax-checkpoint-tmp-1").mkdir(parents=True)
    (tmp_path / "3" / about.name).write_bytes(about.read_bytes())
    for path in (left, left / "default.orbax-checkpoint-tmp", tmp_path / "3"):
        with pytest.raises(errors.RefusedCheckpointError, match="interrupted"):
            checkpoint.open(path)
    assert checkpoint.restore(tmp_path / "run" / "1")["w"].tolist() == [1, 1, 1]
    with pytest.raises(errors.CheckpointFormatError, match="the steps 1"):
        checkpoint.open(tmp_path / "run")


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "empty"),
        (b"PK\x03\x04" + bytes(60), "cut"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"<!DOCTYPE html>", "page of text"),
        (b'{"a": 1}', "JSON"),
        (b"\x1f\x8b\x08" + bytes(60), "compressed"),
        (zlib.compress(bytes(60)), "compressed"),
        (bytes(257) + b"ustar" + bytes(300), "tar"),
    ],
)
def test_what_else_a_file_is(tmp_path, raw, said):
    for name in ("a", "a.npz", "a.pt", "a.msgpack", "a.bin"):
        (tmp_path / name).write_bytes(raw)
        with pytest.raises(errors.CheckpointFormatError, match=said):
            checkpoint.open(tmp_path / name)


def test_a_checkpoint_of_tensorflow_is_called_so(tmp_path):
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "model-1"\nall_model_checkpoint_paths: "model-1"\n')
    (tmp_path / "model-1.index").write_bytes(bytes(60))
    with pytest.raises(errors.CheckpointFormatError, match="TensorFlow"):
        checkpoint.open(tmp_path)


ENDINGS = {
    "a.safetensor": ".safetensors",
    "a.safetensros": ".safetensors",
    "a.Safetensors": ".safetensors",
    "a.pth": ".safetensors",
    "a.NPZ": ".npz",
    "a.npy": ".npz",
    "a.nps": ".npz",
    "a.msgpak": ".msgpack",
    "a.pkl": ".msgpack",
    ".npz": ".npz",
}


@pytest.mark.parametrize("name", ENDINGS)
def test_an_ending_that_looks_like_one(tmp_path, name):
    for save in (checkpoint.save, checkpoint.save_async):
        with pytest.raises(errors.CheckpointArgumentError, match=f"`{ENDINGS[name]}` file"):
            save(tmp_path / name, {"w": np.ones(2)})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["run", "v1.5", "model.best", "a.b", "run.2024-01-02", "step_100"])
def test_a_folder_may_have_a_dot_in_its_name(name):
    assert checkpoint.format_of(name) == "orbax"


def test_paths_that_are_too_long(tmp_path):
    long = tmp_path / ("x" * 5000)
    for path in (long, long / "a", tmp_path / ("y" * 300)):
        with pytest.raises(errors.CheckpointError):
            checkpoint.open(path)
    for name in ("x" * 5000, "x" * 260, "x" * 300 + ".npz"):
        with pytest.raises(errors.CheckpointWriteError, match="shorter name"):
            checkpoint.save(tmp_path / name, {"w": np.ones(2)})
    assert list(tmp_path.iterdir()) == []
