"""What is attacked: each format with valid inputs, with how an input is written, and with what is done with the file.

An input is what a stranger can choose freely. Digests, lengths and checksums that anyone can compute are put right when
it is written, so that the attack gets behind them.
"""

import contextlib
import dataclasses
import io
import json
import pickle
import re
import resource
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import jax
import msgpack
import numpy as np
import tensorstore
import xxhash

from batiste import checkpoint
from batiste.checkpoint import Checkpoint
from batiste.cli import _compare, _show
from batiste.errors import BatisteError, BatisteWarning
from batiste.importers import from_torch, load_mapping, plan_import, suggest_mapping
from tests.checkpoint.foreign import Torch, gguf, named, plain
from tests.fuzz.mutate import mutated_bytes, mutated_text

ALLOWED = (BatisteError, BatisteWarning)
"""The only exceptions that a file may cause."""

MORE_MEMORY = 1 << 30
"""How much memory a file of a few hundred bytes may make its reader ask for."""

STATE = {"fc.weight": np.ones((2, 3), np.float32), "fc.bias": np.zeros(2, np.float32), "emb.weight": np.ones((4, 3))}
LIKE = {"params": {"fc": {"kernel": np.ones((3, 2), np.float32), "bias": np.zeros(2, np.float32)}}}
TREE = {
    "params": {"h_0": {"kernel": np.ones((2, 3), np.float32)}, "h_1": {"kernel": np.zeros((2, 3), np.float32)}},
    "opt": [(np.ones(2, np.int8), None), {3: np.float64(2.0)}],
    "rng": jax.random.key(0),
    "step": 3,
    "name": "run",
}


@dataclasses.dataclass(frozen=True)
class Target:
    """One way in.

    Attributes:
      seeds: makes the valid inputs, in an empty folder.
      write: writes an input into the folder and returns what is opened.
      use: does with it what a user does.
      mutate: makes another input of one.
    """

    seeds: Callable[[Path], list[bytes]]
    write: Callable[[bytes, Path], Path]
    use: Callable[[Path], None]
    mutate: Callable


def read_all(path):
    """Open, verify, restore, show and import what is at a path; only errors of the catalogue are swallowed."""
    opened = None
    with contextlib.suppress(*ALLOWED):
        opened = checkpoint.open(path)
    with contextlib.suppress(*ALLOWED):
        checkpoint.verify(path)
    with contextlib.suppress(*ALLOWED):
        checkpoint.restore(path)
    with contextlib.suppress(*ALLOWED):
        checkpoint.restore(path, LIKE, missing="init", extra="drop", shape="pad", dtype="cast")
    with contextlib.suppress(*ALLOWED):
        suggest_mapping(path, LIKE)
    if isinstance(opened, Checkpoint):
        look(opened, path)


@contextlib.contextmanager
def terminal():
    """Catch what is printed, as bytes, and refuse what could steer a terminal."""
    screen = io.BytesIO()
    with io.TextIOWrapper(screen, "utf-8") as text, contextlib.redirect_stdout(text):
        yield
        text.flush()
        if re.search(rb"[\x00-\x09\x0b-\x1f\x7f]", screen.getvalue()):
            raise AssertionError(screen.getvalue())


def look(opened, path):
    """Do with an opened checkpoint what the command line does."""
    repr(opened)
    with terminal(), contextlib.suppress(*ALLOWED):
        _show.show(path, [], regex=False, stats=True, depth=None, paths_only=False, as_json=False)
    with terminal(), contextlib.suppress(*ALLOWED):
        _show.show(path, ["**"], regex=False, stats=False, depth=2, paths_only=False, as_json=True)
    options = {"regex": False, "rtol": 0.0, "atol": 0.0, "as_json": True, "quiet": False}
    with terminal(), contextlib.suppress(*ALLOWED):
        _compare.diff(path, path, [], values=False, **options)
    with terminal(), contextlib.suppress(*ALLOWED):
        _compare.diff(path, path, ["**"], values=True, **options)


def import_by(path):
    """Read a mapping and import by it, with a target and without."""
    rules = ()
    with contextlib.suppress(*ALLOWED):
        rules = load_mapping(path)
    for target in (None, LIKE):
        with contextlib.suppress(*ALLOWED):
            str(plan_import(STATE, target, rules))
        with contextlib.suppress(*ALLOWED):
            from_torch(STATE, target, rules, dtype="cast")


@contextlib.contextmanager
def bounded_memory(more=MORE_MEMORY):
    """Let allocations fail that are beyond reason."""
    used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def signed(text):
    """Return the text of a manifest with the digest that belongs to it."""
    head = re.match(r'(\{"format":"batiste\.checkpoint","version":[0-9]+,"digest":")[0-9a-f]{32}(.*)', text, re.DOTALL)
    if head is None:
        return text
    digest = xxhash.xxh3_128_hexdigest(f"{head[1]}{head[2]}".encode("utf-8", "replace"))
    return f"{head[1]}{digest}{head[2]}"


def folder_seeds(folder):
    checkpoint.save(
        folder / "run", TREE, step=3, metadata={"a": [1, {"b": None}]}, axes={"params/h_0/kernel": ["x", None]}
    )
    checkpoint.save(folder / "stacked", {"h": {"kernel": np.ones((3, 2, 2), np.float32)}}, stacked=["h"])
    seeds = [(folder / name / "batiste.json").read_bytes() for name in ("run", "stacked")]
    shutil.rmtree(folder / "stacked")
    return seeds


def write_manifest(data, folder):
    text = signed(data.decode("utf-8", "replace"))
    (folder / "run" / "batiste.json").write_text(text, encoding="utf-8", errors="replace")
    return folder / "run"


def safetensors_seeds(folder):
    checkpoint.save(folder / "seed.safetensors", TREE, step=3)
    rows = {"a.weight": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}, "__metadata__": {"format": "pt"}}
    raw = (folder / "seed.safetensors").read_bytes()
    end = 8 + struct.unpack("<Q", raw[:8])[0]
    return [raw[8:end].rstrip() + b"\0" + raw[end:], json.dumps(rows).encode() + b"\0" + bytes(16)]


def write_safetensors(data, folder):
    header, _, body = data.partition(b"\0")
    with contextlib.suppress(ValueError, RecursionError, AttributeError, TypeError, KeyError):
        rows = json.loads(header)
        rows["__metadata__"]["batiste"] = signed(rows["__metadata__"]["batiste"])
        header = json.dumps(rows, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")
    path = folder / "file.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + body)
    return path


def mutated_safetensors(data, random):
    """Change the header or, as often, the manifest that is text within it."""
    header, zero, body = data.partition(b"\0")
    with contextlib.suppress(ValueError, RecursionError, AttributeError, TypeError, KeyError):
        rows = json.loads(header)
        if random.random() < 0.5:
            text = rows["__metadata__"]["batiste"].encode("utf-8", "surrogatepass")
            rows["__metadata__"]["batiste"] = mutated_text(text, random).decode("utf-8", "replace")
            return json.dumps(rows).encode() + zero + body
    return mutated_text(data, random)


def msgpack_seeds(folder):
    del folder

    def array(shape, dtype, data):
        return msgpack.ExtType(1, msgpack.packb([shape, dtype, data]))

    chunked = {
        "__msgpack_chunked_array__": True,
        "shape": {"0": 2, "1": 2},
        "chunks": {"0": array([4], "uint8", bytes(4))},
    }
    tree = {
        "params": {"w": array([2, 2], "float32", bytes(16)), "b": array([], "bfloat16", bytes(2))},
        "opt_state": {"0": {"count": msgpack.ExtType(3, msgpack.packb([[], "int32", bytes(4)]))}, "1": None},
        "c": msgpack.ExtType(2, msgpack.packb([1.0, 2.0])),
        "step": 3,
        "name": "run",
        "raw": b"\x00",
    }
    return [msgpack.packb(tree), msgpack.packb({"w": chunked})]


def npz_seeds(folder):
    del folder
    plain, packed = io.BytesIO(), io.BytesIO()
    np.savez(plain, **{"a/w": np.ones((2, 3), np.float32), "b": np.asfortranarray(np.ones((2, 2), np.int64))})
    np.savez_compressed(packed, w=np.zeros(300))
    return [plain.getvalue(), packed.getvalue()]


def npy_seeds(folder):
    del folder
    seeds = []
    for array in (np.ones((2, 3), np.float32), np.asfortranarray(np.ones((2, 2), np.int8)), np.array(3.0)):
        file = io.BytesIO()
        np.save(file, array)
        seeds.append(b"a/w.npy\0" + file.getvalue())
    return seeds


def write_npy(data, folder):
    """A member of a zip whose checksum is right: its name, and its bytes."""
    name, _, body = data.partition(b"\0")
    with zipfile.ZipFile(
        folder / "file.npz", "w", zipfile.ZIP_DEFLATED if len(data) % 2 else zipfile.ZIP_STORED
    ) as made:
        made.writestr(name.decode("utf-8", "replace") or "x", body)
        made.writestr("other.npy", npy_seeds(folder)[0].partition(b"\0")[2])
    return folder / "file.npz"


def index_seeds(folder):
    checkpoint.save(folder / "one.safetensors", {"a": np.ones(2, np.float32), "b": {"c": np.ones(3, np.int8)}})
    checkpoint.save(folder / "two.safetensors", {"d": np.ones(2, np.float16)})
    table = {"a": "one.safetensors", "b/c": "one.safetensors", "d": "two.safetensors"}
    return [json.dumps({"metadata": {"total_size": 15}, "weight_map": table}).encode()]


def orbax_seeds(folder):
    checkpoint.save(folder / "run", {"a": {"b": np.ones(2, np.float32)}, "c": np.ones(3, np.int8)})
    state = next(path.parent for path in (folder / "run").rglob("_METADATA"))
    state.rename(folder / "state")
    return [(folder / "state" / "_METADATA").read_bytes()]


def pickle_seeds(folder):
    del folder
    made = {"a": {"w": np.ones((2, 3), np.float32)}, "s": np.float64(2.0), 3: [None, (1, b"x")], "o": {1, 2}}
    return [pickle.dumps(made, protocol) for protocol in (0, 2, 5)]


def torch_seeds(folder):
    """The pickle of a file of PyTorch, whose storages are right."""
    del folder
    made = Torch()
    flags = {"conj": True}
    tensors = {
        "w": made.tensor(np.ones((2, 3))),
        "v": made.tensor(None, storage=0, shape=(2,), strides=(3,), flags=flags),
    }
    return [named({"state_dict": named(tensors), "epoch": plain(3)})]


def write_torch(data, folder):
    """A file of either format, with one storage."""
    made = Torch()
    made.storages.append(np.ones((2, 3)))
    (folder / "file.pt").write_bytes(made.row(data) if len(data) % 2 else made.zip(data, compress=len(data) % 3 == 0))
    return folder / "file.pt"


def torch_file_seeds(folder):
    del folder
    made = Torch()
    content = named({"w": made.tensor(np.ones((2, 3), np.float32)), "b": made.tensor(np.ones(2, np.int8))})
    return [made.zip(content), made.row(content)]


def arrays_seeds(folder):
    del folder
    file = io.BytesIO()
    for array in (np.ones((2, 3), np.float32), np.asfortranarray(np.ones((2, 2), np.int8)), np.array(3.0)):
        np.save(file, array)
    return [file.getvalue(), b'{"width": 3}\n' + file.getvalue()]


def gguf_seeds(folder):
    del folder
    text = struct.pack("<Q", 5) + b"llama"
    pairs = [("general.architecture", 8, text), ("list", 9, struct.pack("<IQ2i", 5, 2, 1, 2))]
    return [gguf({"a.w": np.ones((2, 3), np.float32), "b": np.ones(3, np.int8)}, pairs)]


def t5x_seeds(folder):
    store = {"driver": "file", "path": str(folder / "run" / "target.w")}
    table = {"shape": [2, 3], "chunks": [2, 3], "dtype": "<f4"}
    made = {"driver": "zarr", "kvstore": store, "metadata": table}
    tensorstore.open(made, create=True).result().write(np.ones((2, 3), np.float32)).result()
    spec = {"driver": "zarr", "kvstore": {"driver": "file", "path": "target.w"}, "dtype": "float32", "metadata": table}
    array = msgpack.ExtType(1, msgpack.packb([[2], "float32", bytes(8)]))
    tree = {"version": 3, "optimizer": {"target": {"w": spec, "b": array}, "state": {"step": 3}}}
    return [msgpack.packb(tree)]


def write_t5x(data, folder):
    (folder / "run" / "checkpoint").write_bytes(data)
    return folder / "run"


def mapping_seeds(folder):
    del folder
    rules = [
        {"source": "fc", "target": "params/fc", "layout": "linear"},
        {
            "source": "{emb,x}",
            "target": "params/{1}",
            "layout": {"name": "weight_norm", "layout": "embedding"},
            "optional": True,
        },
        {"source": "emb.weight", "target": None, "same_as": "fc.weight"},
        {"source": "**.weight", "target": "a/{1}", "layout": {"name": "attention_in", "heads": 2}, "tied": True},
        {
            "source": "*",
            "target": "b",
            "layout": {"name": "reshape", "original": [2], "shape": [1, 2]},
            "optional": True,
        },
    ]
    return [json.dumps({"rules": rules[:count]}).encode() for count in (1, 5)]


def writer(name):
    """Return what writes an input as it is, under a name."""

    def write(data, folder):
        (folder / name).write_bytes(data)
        return folder / name

    return write


def write_orbax(data, folder):
    (folder / "state" / "_METADATA").write_bytes(data)
    return folder / "state"


TARGETS = {
    "manifest": Target(folder_seeds, write_manifest, read_all, mutated_text),
    "safetensors": Target(safetensors_seeds, write_safetensors, read_all, mutated_safetensors),
    "msgpack": Target(msgpack_seeds, writer("file.msgpack"), read_all, mutated_bytes),
    "npz": Target(npz_seeds, writer("file.npz"), read_all, mutated_bytes),
    "npy": Target(npy_seeds, write_npy, read_all, mutated_bytes),
    "index": Target(index_seeds, writer("model.safetensors.index.json"), read_all, mutated_text),
    "orbax": Target(orbax_seeds, write_orbax, read_all, mutated_text),
    "pickle": Target(pickle_seeds, writer("file.pkl"), read_all, mutated_bytes),
    "torch": Target(torch_seeds, write_torch, read_all, mutated_bytes),
    "torch_file": Target(torch_file_seeds, writer("file.bin"), read_all, mutated_bytes),
    "arrays": Target(arrays_seeds, writer("file.eqx"), read_all, mutated_bytes),
    "gguf": Target(gguf_seeds, writer("file.gguf"), read_all, mutated_bytes),
    "t5x": Target(t5x_seeds, write_t5x, read_all, mutated_bytes),
    "mapping": Target(mapping_seeds, writer("mapping.json"), import_by, mutated_text),
}
