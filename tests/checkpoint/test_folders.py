"""Folders: what is written with TensorStore is what Orbax reads, v0 and v1, at the speed of its bytes."""

import json
import os
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tensorstore
from jax.sharding import NamedSharding, PartitionSpec
from orbax.checkpoint import v1

from batiste import checkpoint, errors, tree
from batiste.checkpoint import _orbax, _orbax_write
from batiste.checkpoint._arrays import BYTES_BY_DTYPE, dtype_by_name
from tests.checkpoint.support import assert_same, files_of, flip_bit, same_leaf

MANY = int(os.environ.get("BATISTE_LEAVES", "2000"))
"""The number of leaves that times are taken with; 16000 for a thorough run."""


def every_kind():
    """Arrays of each dtype, rank and size around the borders, as NumPy has them and as JAX does."""
    rng = np.random.default_rng(0)
    made = {}
    for name in BYTES_BY_DTYPE:
        dtype = dtype_by_name(name)
        values = rng.integers(0, 2, 6).astype(np.float32)
        made[name] = {
            "vector": values.astype(dtype),
            "scalar": values[0].astype(dtype),
            "none": np.empty((0, 3), dtype),
        }
        made[name]["matrix"] = values.astype(dtype).reshape(2, 3).T
    mesh = jax.make_mesh((4, 2), ("a", "b"))
    for spec in (PartitionSpec("a"), PartitionSpec(None, "b"), PartitionSpec(("a", "b")), PartitionSpec()):
        made[f"sharded {spec}"] = jax.device_put(jnp.arange(128.0).reshape(16, 8), NamedSharding(mesh, spec))
    made["jax"] = {name: jnp.ones((2, 2), name) for name in ("bfloat16", "float8_e4m3fn", "int4", "bool", "complex64")}
    made["keys"] = jax.random.split(jax.random.key(3), (2, 3))
    made["strided"] = np.arange(100.0).reshape(10, 10)[::2, ::-3]
    made["swapped"] = np.arange(5, dtype=">i4")
    return made


def plain(made):
    """What Orbax can say of such a tree: arrays of some size, bytes where it has no dtype."""
    found = {}
    for path, leaf in tree.flatten(made).items():
        data = jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf
        array = np.asarray(data)
        if array.size:
            found[path] = np.array(array, array.dtype.newbyteorder("="), order="C")
    return found


@pytest.mark.parametrize(("whole", "copied"), [(0, 0), (1 << 20, 0), (1 << 20, 1 << 17)])
@pytest.mark.parametrize("compress", [False, True])
def test_every_kind_of_array(tmp_path, monkeypatch, whole, copied, compress):
    """Through both ways of writing, in many small transactions, with chunks that are cut."""
    monkeypatch.setattr(_orbax_write, "WHOLE_BYTES", whole)
    monkeypatch.setattr("batiste.checkpoint._save.WHOLE_BYTES", whole)
    monkeypatch.setattr(_orbax_write, "_COPIED_BYTES", copied)
    monkeypatch.setattr(_orbax_write, "_TOGETHER", 100)
    monkeypatch.setattr(_orbax_write, "_CHUNK_BYTES", 64)
    made = every_kind()
    checkpoint.save(tmp_path / "one", made, compress=compress)
    assert checkpoint.verify(tmp_path / "one").digests
    restored = checkpoint.restore(tmp_path / "one")
    ours, theirs = tree.flatten(made), tree.flatten(restored)
    assert [path for path in ours if not same_leaf(ours[path], theirs[path])] == []
    assert all(leaf.flags.writeable for leaf in theirs.values() if isinstance(leaf, np.ndarray))
    opened = checkpoint.open(tmp_path / "one")
    for path, leaf in plain(made).items():
        if leaf.ndim == 2:
            assert same_leaf(opened.lazy(path)[1:, :1].read(), leaf[1:, :1])
    assert_same(checkpoint.restore(tmp_path / "one", made), made)


def test_orbax_opens_it(tmp_path, monkeypatch):
    made = {**every_kind(), "a.b/c%": {"": np.ones(2), "d.e": np.zeros(1)}, "large": np.arange(3e5)}
    del made["jax"]["int4"]
    monkeypatch.setattr(_orbax_write, "_CHUNK_BYTES", 1 << 19)
    checkpoint.save(tmp_path / "one", made, step=3)
    expected = {}
    for path, leaf in plain(made).items():
        kept = leaf if leaf.dtype.name not in _orbax._BYTES_ONLY else leaf.view(np.uint8)
        expected[_orbax.stored_name(path)] = kept
    loads = {
        "v1": lambda: v1.load(tmp_path / "one"),
        "v0, standard": lambda: ocp.StandardCheckpointer().restore(tmp_path / "one" / "state"),
        "v0, pytree": lambda: ocp.PyTreeCheckpointer().restore(tmp_path / "one" / "state"),
    }
    for name, load in loads.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it takes shardings from the checkpoint
            found = load()
        leaves = {tuple(key.key for key in path): leaf for path, leaf in jax.tree.leaves_with_path(found)}
        assert set(leaves) == set(expected), name
        assert [path for path, leaf in leaves.items() if not same_leaf(leaf, expected[path])] == [], name
        for path, leaf in made.items():
            if path.startswith("sharded"):
                assert found[path].sharding == leaf.sharding
    assert v1.metadata(tmp_path / "one").custom_metadata == {"batiste": True}
    assert v1.is_orbax_checkpoint(tmp_path / "one")


def test_the_tables_are_those_of_orbax(tmp_path):
    """For the same tree, Orbax writes the same tables; only how arrays are cut into chunks is batiste's own."""
    made = {name: leaf for name, leaf in every_kind().items() if name.startswith("sharded")}
    made |= {"one": jnp.ones(3), "host": {"two": np.ones(2)}}
    checkpoint.save(tmp_path / "ours", made)
    v1.save(tmp_path / "theirs", made)

    def table(name, file):
        return json.loads((tmp_path / name / file).read_text())

    assert table("ours", "state/_sharding") == table("theirs", "state/_sharding")
    ours, theirs = table("ours", "state/_METADATA"), table("theirs", "state/_METADATA")
    for rows in (ours["tree_metadata"], theirs["tree_metadata"]):
        for row in rows.values():
            row["value_metadata"].pop("write_shape", None)
    assert ours == theirs
    ours, theirs = table("ours", "_CHECKPOINT_METADATA"), table("theirs", "_CHECKPOINT_METADATA")
    assert ours.keys() == theirs.keys()
    assert ours["item_handlers"] == theirs["item_handlers"]


def test_what_orbax_wrote_for_earlier_releases_is_read(tmp_path):
    """Folders whose arrays Orbax wrote know of no arrays that are one entry."""
    made = {"a": {"b": jnp.arange(6.0)}, "c": np.ones((2, 3), np.int16)}
    checkpoint.save(tmp_path / "one", made)
    v1.save(tmp_path / "theirs", made)
    manifest = checkpoint.open(tmp_path / "one").manifest
    del manifest.storage["whole_bytes"]
    manifest.files = {}
    (tmp_path / "theirs" / "batiste.json").write_text(manifest.to_text())
    assert checkpoint.verify(tmp_path / "theirs").digests
    assert_same(checkpoint.restore(tmp_path / "theirs", made), made)


TIMES = """
import json, sys, time
import numpy as np
from batiste import checkpoint
folder, many = sys.argv[1], int(sys.argv[2])
made = {f"block_{number}": {"kernel": np.full((8, 8), number, np.float32)} for number in range(many)}
part = {"block_7": {"kernel": np.zeros((8, 8), np.float32)}}
operations = {
    "save": lambda path: checkpoint.save(path, made, overwrite=True),
    "open": checkpoint.open,
    "restore": checkpoint.restore,
    "part": lambda path: checkpoint.restore(path, part, extra="drop"),
}
taken = {}
for _ in range(4):
    for name in ("folder", "file.safetensors"):
        for operation, run in operations.items():
            start = time.process_time()
            run(f"{folder}/{name}")
            taken.setdefault((operation, name), []).append(time.process_time() - start)
best = {key: min(times) for key, times in taken.items()}
print(json.dumps({name: best[name, "folder"] / best[name, "file.safetensors"] for name in operations}))
"""


def test_many_small_arrays_take_the_time_of_their_bytes(fresh_python, tmp_path):
    """Ratios to the single file in processor time, the least of four, since other work takes turns with this."""
    done = fresh_python(TIMES, str(tmp_path), str(MANY))
    assert done.returncode == 0, done.stderr
    ratios = json.loads(done.stdout)
    assert ratios["save"] < 4, ratios  # Orbax took 30; `make bench` has the bars, which are 3 and 6
    assert ratios["restore"] < 8, ratios
    assert ratios["open"] < 3, ratios
    assert ratios["part"] < 4, ratios
    assert len(files_of(tmp_path / "folder")) < 20


def test_a_part_reads_little(tmp_path, monkeypatch):
    made = {f"l{number}": np.full(2000, number, np.float32) for number in range(300)}
    checkpoint.save(tmp_path / "one", made)
    opened = checkpoint.open(tmp_path / "one")
    store = opened._source._arrays()
    asked = []
    begin = type(store)._begin
    monkeypatch.setattr(
        type(store), "_begin", lambda self, name, record: asked.append(name) or begin(self, name, record)
    )
    checkpoint.restore(opened, {"l5": np.zeros(2000, np.float32)}, extra="drop")
    assert asked == ["l5"]


def test_an_entry_of_another_leaf_is_no_leaf(tmp_path):
    """The database's own entries, exchanged by hand: the digest finds it, and the length where there is none."""
    checkpoint.save(tmp_path / "one", {"a": np.arange(6.0), "b": np.arange(6.0) + 1, "c": np.arange(3.0)})
    base = {"driver": "file", "path": f"{tmp_path / 'one' / 'state'}/"}
    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result()
    store["a/c/0"] = store["b/c/0"]
    with pytest.raises(errors.DamagedCheckpointError, match=r"a: the digest of float64\[6\] does not fit"):
        checkpoint.restore(tmp_path / "one")
    store["a/c/0"] = store["c/c/0"]
    with pytest.raises(errors.DamagedCheckpointError, match=r"a: (it is stored as 24 bytes|it cannot be read)"):
        checkpoint.restore(tmp_path / "one", verify=False)
    del store["a/c/0"]
    with pytest.raises(errors.DamagedCheckpointError, match="a: it cannot be read"):
        checkpoint.restore(tmp_path / "one", verify=False)
    assert checkpoint.open(tmp_path / "one").lazy("b")[1:3].read().tolist() == [2.0, 3.0]


@pytest.mark.parametrize("leaves", [1, 700])
def test_a_flipped_bit_in_small_arrays(tmp_path, leaves):
    made = {f"l{number}": np.full(40, number, np.int32) for number in range(leaves)}
    checkpoint.save(tmp_path / "one", made)
    rng = np.random.default_rng(leaves)
    files = [file for file in files_of(tmp_path / "one") if file.stat().st_size]
    for _ in range(12):
        file = files[rng.integers(len(files))]
        bit = int(rng.integers(8 * file.stat().st_size))
        flip_bit(file, bit)
        with pytest.raises(errors.DamagedCheckpointError):
            checkpoint.restore(tmp_path / "one")
        flip_bit(file, bit)
    assert_same(checkpoint.restore(tmp_path / "one"), made)
