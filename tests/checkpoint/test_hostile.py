"""Files made by someone who means harm are refused: nothing large is allocated, and nothing of theirs is run."""

import contextlib
import json
import pickle
import resource
import struct
import sys
import zipfile
from pathlib import Path

import flax.serialization
import jax
import msgpack
import numpy as np
import orbax.checkpoint
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from orbax.checkpoint import v1
from safetensors.numpy import save_file

from batiste import checkpoint, errors
from batiste.checkpoint._arrays import digest_bytes
from batiste.checkpoint._manifest import Manifest
from batiste.checkpoint._types import Record
from tests.checkpoint.support import Pair, files_of


class Ran(Exception):
    """A file has made the program do something."""


class Bomb:
    """A pickle that runs code."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('a file has run code')",))


def safetensors(path, header, data=b""):
    text = json.dumps(header).encode() if isinstance(header, dict) else header
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


@pytest.fixture
def little_memory():
    """Let allocations of more than a few gigabytes fail."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    old = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (2 << 30), old[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, old)


def one_folder(path, **changes):
    """A folder whose manifest was changed and signed again, as an attacker would."""
    checkpoint.save(path, {"a": np.arange(4.0), "b": {"c": np.ones(2)}}, overwrite=True)
    text = (path / "batiste.json").read_text()
    manifest = Manifest.from_text(text, "")
    for name, change in changes.items():
        getattr(manifest, name).update(change)
    (path / "batiste.json").write_text(manifest.to_text())
    return path


@pytest.mark.usefixtures("little_memory")
def test_absurd_sizes(tmp_path):
    huge = 10**15
    one_folder(tmp_path / "one", records={"a": Record((huge,), "float64", 8 * huge, "0" * 32)})
    with pytest.raises(errors.DamagedCheckpointError, match=r"a: it would take .* bytes"):
        checkpoint.restore(tmp_path / "one")
    one_folder(tmp_path / "two", records={"a": Record((5,), "float64", 40, "0" * 32)})
    with pytest.raises(
        errors.DamagedCheckpointError, match=r"a: it is stored as 32 bytes, and the manifest says float64\[5\]"
    ):
        checkpoint.restore(tmp_path / "two")
    safetensors(tmp_path / "a.safetensors", {"w": {"dtype": "F32", "shape": [huge], "data_offsets": [0, 4 * huge]}})
    with pytest.raises(errors.RefusedCheckpointError, match="bytes at 0 to"):
        checkpoint.open(tmp_path / "a.safetensors")
    (tmp_path / "b.safetensors").write_bytes(struct.pack("<Q", 1 << 62) + b"{")
    with pytest.raises(errors.CheckpointFormatError, match="header would be"):
        checkpoint.open(tmp_path / "b.safetensors")
    array = msgpack.packb([[huge], "float32", b""])
    (tmp_path / "c.msgpack").write_bytes(msgpack.packb({"w": msgpack.ExtType(1, array)}))
    with pytest.raises(errors.CheckpointFormatError, match="with 0 bytes"):
        checkpoint.open(tmp_path / "c.msgpack")
    (tmp_path / "d.msgpack").write_bytes(b"\x81\xa1w\xc6\xff\xff\xff\xff")
    with pytest.raises(errors.CheckpointFormatError, match="of length 4294967295"):
        checkpoint.open(tmp_path / "d.msgpack")
    (tmp_path / "e.msgpack").write_bytes(b"\x81\xa1w\xdd\xff\xff\xff\xff")
    with pytest.raises(errors.CheckpointFormatError, match="of length 4294967295"):
        checkpoint.open(tmp_path / "e.msgpack")


@pytest.mark.usefixtures("little_memory")
def test_a_zip_bomb(tmp_path):
    with (
        zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("w.npy", "w") as member,
    ):
        np.lib.format.write_array_header_1_0(member, {"descr": "|u1", "fortran_order": False, "shape": (3 << 30,)})
        member.write(bytes(1 << 20))
    data = bytearray((tmp_path / "bomb.npz").read_bytes())
    size_in_directory = data.rindex(b"PK\x01\x02") + 24
    data[size_in_directory : size_in_directory + 4] = struct.pack("<I", (3 << 30) + 128)
    (tmp_path / "bomb.npz").write_bytes(data)
    with pytest.raises(errors.RefusedCheckpointError, match="would become"):
        checkpoint.open(tmp_path / "bomb.npz")


def test_a_header_that_lies_about_its_member(tmp_path):
    with zipfile.ZipFile(tmp_path / "lie.npz", "w") as archive, archive.open("w.npy", "w") as member:
        np.lib.format.write_array_header_1_0(member, {"descr": "|u1", "fortran_order": False, "shape": (10**12,)})
    with pytest.raises(errors.RefusedCheckpointError, match="says 1000000000000"):
        checkpoint.open(tmp_path / "lie.npz")


def test_a_compressed_folder_that_would_fill_the_memory(tmp_path):
    checkpoint.save(tmp_path / "one", {"a": np.ones(3)}, compress=True)
    manifest = Manifest.from_text((tmp_path / "one" / "batiste.json").read_text(), "")
    manifest.records["a"] = Record((1 << 40,), "uint8", 1 << 40, "0" * 32)
    (tmp_path / "one" / "batiste.json").write_text(manifest.to_text())
    with pytest.raises(errors.DamagedCheckpointError, match="more than what is on the disk can stand for"):
        checkpoint.restore(tmp_path / "one")


@pytest.mark.parametrize("depth", [300, 100_000])
def test_deep_nesting(tmp_path, depth):
    one_folder(tmp_path / "one", records={"x/" * depth + "x": Record((), "python", 0, kind="int", value=1)})
    with pytest.raises(errors.RefusedCheckpointError, match="levels"):
        checkpoint.open(tmp_path / "one")
    one_folder(tmp_path / "two", containers={"x/" * depth + "x": {"kind": "dict"}})
    with pytest.raises(errors.RefusedCheckpointError, match="levels"):
        checkpoint.open(tmp_path / "two")
    (tmp_path / "a.msgpack").write_bytes(b"\x81\xa1a" * depth + b"\x01")
    with pytest.raises(errors.CheckpointFormatError, match="nested too deeply"):
        checkpoint.open(tmp_path / "a.msgpack")
    safetensors(tmp_path / "a.safetensors", b'{"a":' * depth + b"1" + b"}" * depth)
    with pytest.raises(errors.CheckpointError):
        checkpoint.open(tmp_path / "a.safetensors")
    safetensors(
        tmp_path / "b.safetensors", {"x/" * depth + "x": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}, b"\x00"
    )
    with pytest.raises(errors.RefusedCheckpointError, match="levels"):
        checkpoint.open(tmp_path / "b.safetensors")


def test_a_deep_tree_is_not_saved_either(tmp_path):
    tree = {"leaf": np.ones(1)}
    for _ in range(250):
        tree = {"x": tree}
    with pytest.raises(errors.UnsavableTreeError, match="levels"):
        checkpoint.save(tmp_path / "one", tree)


def test_paths_out_of_the_folder(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("secret")
    for name in ("../secret", str(secret), "state/../../secret"):
        one_folder(tmp_path / "one", files={name: (6, "0" * 32)})
        with pytest.raises(errors.RefusedCheckpointError, match="outside"):
            checkpoint.open(tmp_path / "one")
        for name_in_index in (name, "..", ""):
            index = tmp_path / "model.safetensors.index.json"
            index.write_text(json.dumps({"weight_map": {"w": name_in_index}}))
            with pytest.raises(errors.RefusedCheckpointError, match="outside"):
                checkpoint.open(index)
    evil = {"../../x": np.ones(1), "..": {"/etc/passwd": np.ones(1)}, "\x00": np.ones(1)}
    checkpoint.save(tmp_path / "in" / "evil", evil)
    assert {file.relative_to(tmp_path / "in").parts[0] for file in files_of(tmp_path / "in")} == {"evil"}
    assert set(checkpoint.restore(tmp_path / "in" / "evil")) == set(evil)


def test_orbax_names_out_of_the_folder(tmp_path):
    (tmp_path / "one").mkdir()
    row = {"key_metadata": [{"key": "/../../etc", "key_type": 2}], "value_metadata": {"value_type": "np.ndarray"}}
    (tmp_path / "one" / "_METADATA").write_text(json.dumps({"tree_metadata": {"x": row}, "use_ocdbt": False}))
    with pytest.raises(errors.RefusedCheckpointError, match="outside"):
        checkpoint.open(tmp_path / "one")
    for text in ("[]", "{}", '{"tree_metadata": 3}', '{"tree_metadata": {"x": {}}}', "[" * 100_000, "\x00"):
        (tmp_path / "one" / "_METADATA").write_text(text)
        with pytest.raises(errors.CheckpointFormatError, match="not those of Orbax"):
            checkpoint.open(tmp_path / "one")


def test_pickles(tmp_path):
    np.savez(tmp_path / "a.npz", w=np.array([Bomb()], dtype=object))
    with pytest.raises(errors.RefusedCheckpointError, match="pickle"):
        checkpoint.open(tmp_path / "a.npz")
    (tmp_path / "b.safetensors").write_bytes(pickle.dumps(Bomb()))
    (tmp_path / "c").write_bytes(pickle.dumps(Bomb()))
    (tmp_path / "d.npz").write_bytes(pickle.dumps(Bomb()))
    for name in ("b.safetensors", "c", "d.npz"):
        with pytest.raises(errors.CheckpointFormatError):
            checkpoint.open(tmp_path / name)


def test_classes_are_not_imported_and_code_is_not_run(tmp_path):
    checkpoint.save(tmp_path / "one", {"p": Pair(np.ones(1), np.ones(2))})
    assert type(checkpoint.restore(tmp_path / "one")["p"]) is Pair
    manifest = Manifest.from_text((tmp_path / "one" / "batiste.json").read_text(), "")
    fields = manifest.containers["p"]["fields"]
    for module, name in (
        ("antigravity", "Pair"),
        ("os", "system"),
        ("subprocess", "Popen"),
        ("optax.nothing", "Pair"),
        ("batiste.__main__", "Pair"),
        ("tests.checkpoint.support", "variables"),
        ("tests.checkpoint.support", "Pair.__new__"),
        ("builtins", "tuple"),
        ("", ""),
        (3, None),
    ):
        manifest.containers["p"] = {"kind": "namedtuple", "module": module, "name": name, "fields": fields}
        (tmp_path / "one" / "batiste.json").write_text(manifest.to_text())
        restored = checkpoint.restore(tmp_path / "one")["p"]
        assert type(restored) is dict
        assert set(restored) == {"left", "right"}
    assert "antigravity" not in sys.modules
    assert "batiste.__main__" not in sys.modules


def test_a_constructor_is_not_called(tmp_path):
    checkpoint.save(tmp_path / "one", {"p": Pair(np.ones(1), np.ones(2))})

    class Loud(Pair):
        def __new__(cls, *args):
            raise Ran

    Pair.Loud = Loud
    try:
        manifest = Manifest.from_text((tmp_path / "one" / "batiste.json").read_text(), "")
        manifest.containers["p"]["name"] = "Pair.Loud"
        (tmp_path / "one" / "batiste.json").write_text(manifest.to_text())
        assert len(jax.tree.leaves(tuple(checkpoint.restore(tmp_path / "one")["p"]))) == 2
    finally:
        del Pair.Loud


def test_containers_that_lie(tmp_path):
    for row in (
        {"kind": "tuple", "size": 10**12},
        {"kind": "list", "size": "x"},
        {"kind": "dict", "keys": "int"},
        {"kind": "none"},
        {"kind": "unheard of"},
        {"kind": "namedtuple"},
    ):
        one_folder(tmp_path / "one", containers={"b": row})
        assert set(checkpoint.restore(tmp_path / "one")["b"]) == {"c"}
    for containers in ({"a": {"kind": "dict"}}, {"a/b": {"kind": "dict"}}, {"x": 3}, {"x": {"kind": 3}}, {"x": {}}):
        one_folder(tmp_path / "two", containers=containers)
        with pytest.raises(errors.RefusedCheckpointError):
            checkpoint.open(tmp_path / "two")


@given(
    data=st.binary(max_size=200),
    start=st.sampled_from([b"", b"\x81\xa1a", b"\x10\0\0\0\0\0\0\0{", b"PK\x03\x04", b"\xdf"]),
)
def test_any_bytes_are_a_checkpoint_error(tmp_path_factory, data, start):
    path = tmp_path_factory.getbasetemp() / "any"
    for name in ("any", "any.safetensors", "any.npz", "any.index.json"):
        path = path.with_name(name)
        path.write_bytes(start + data)
        with contextlib.suppress(errors.CheckpointError):
            checkpoint.restore(path)


def mutated(data, rng):
    """The bytes of a file with a bit flipped, an end cut off, a page zeroed, something put in or taken out."""
    at = int(rng.integers(max(1, len(data))))
    some = bytes(rng.integers(0, 256, 3, dtype=np.uint8))
    return (
        data[:at] + bytes(byte ^ (1 << int(rng.integers(8))) for byte in data[at : at + 1]) + data[at + 1 :],
        data[:at],
        data[:at] + bytes(len(data[at : at + 16])) + data[at + 16 :],
        data[:at] + some + data[at:],
        data[:at] + data[at + int(rng.integers(1, 9)) :],
    )[int(rng.integers(5))]


FOREIGN = {
    "v0": lambda path, made: orbax.checkpoint.PyTreeCheckpointer(use_ocdbt=False).save(path, made),
    "v1": v1.save,
    "flax.msgpack": lambda path, made: path.write_bytes(flax.serialization.to_bytes(made)),
    "numpy.npz": lambda path, made: np.savez(path, **made["params"]),
    "packed.npz": lambda path, made: np.savez_compressed(path, **made["params"]),
    "other.safetensors": lambda path, made: save_file(made["params"], path),
}


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.filterwarnings("ignore")  # of NumPy and Orbax about what they read and about themselves
def test_damaged_files_of_others(tmp_path, name):
    """They have no digests, so damage may go unnoticed; but it never is anything else than an error of this library."""
    FOREIGN[name](tmp_path / name, {"params": {"k": np.ones((4, 4), np.float32), "b": np.zeros(3)}, "step": 5})
    rng = np.random.default_rng(0)
    files = files_of(tmp_path / name)
    for _ in range(60):
        file = files[int(rng.integers(len(files)))]
        whole = file.read_bytes()
        file.write_bytes(mutated(whole, rng))
        for load in (checkpoint.restore, checkpoint.verify, lambda path: checkpoint.open(path)["**"]):
            with contextlib.suppress(errors.BatisteError):
                load(tmp_path / name)
        file.write_bytes(whole)
    checkpoint.restore(tmp_path / name)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


PARTS = st.sampled_from(
    ["leaves", "containers", "step", "files", "axes", "storage", "metadata", "saved_at", "layers", "versions"]
)
WORDS = st.sampled_from(["dict", "tuple", "namedtuple", "none", "dataclass", "stacked", "int", "optax", "EmptyState"])
ROWS = st.dictionaries(
    st.sampled_from(["kind", "keys", "size", "fields", "module", "name", "layout", "count"]), JSON | WORDS, max_size=4
)
LEAF_PARTS = st.none() | st.sampled_from(["shape", "dtype", "bytes", "xxh3_128", "key", "python"])


@settings(max_examples=150)
@given(part=PARTS, value=JSON | ROWS, at=st.none() | st.sampled_from(["", "a", "b", "b/c", "b/0"]), leaf=LEAF_PARTS)
def test_any_manifest_is_a_checkpoint_error(tmp_path_factory, part, value, at, leaf):
    """Whatever a manifest says, well signed: it is refused, or all that can be done with it is harmless."""
    base = tmp_path_factory.getbasetemp() / "manifest"
    base.mkdir(exist_ok=True)
    checkpoint.save(base / "one.npz", {"a": np.ones(2, np.uint32), "b": {"c": np.ones((2, 3))}}, overwrite=True)
    made = checkpoint.open(base / "one.npz").manifest
    body = json.loads(made.to_text())
    if leaf is not None:
        body["leaves"]["a"][leaf] = value
    elif at is not None and isinstance(body[part], dict):
        body[part][at] = value
    else:
        body[part] = value
    del body["digest"]
    start, rest = '{"format":"batiste.checkpoint","version":1,"digest":"', '",' + json.dumps(body)[1:]
    text = start + digest_bytes(start.encode(), rest.encode()) + rest
    (base / "folder").mkdir(exist_ok=True)
    (base / "folder" / "batiste.json").write_text(text)
    with contextlib.suppress(errors.BatisteError):
        checkpoint.restore(base / "folder")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Manifest, "to_text", lambda _: text)
        checkpoint.save(base / "two.npz", checkpoint.open(base / "one.npz"), overwrite=True)
    with contextlib.suppress(errors.BatisteError):
        opened = checkpoint.open(base / "two.npz")
        for use in (
            checkpoint.restore,
            checkpoint.verify,
            repr,
            lambda opened: checkpoint.save(base / "three.safetensors", opened, overwrite=True),
            lambda opened: checkpoint.save(base / "three.safetensors", opened["**"], overwrite=True),
        ):
            with contextlib.suppress(errors.BatisteError):
                use(opened)
