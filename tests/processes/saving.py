"""One process of several: saves a state, or restores it onto a mesh of its own and compares every leaf."""

import json
import sys
from pathlib import Path

import jax
import numpy as np

from batiste import checkpoint

SHAPES = {
    "rows": ((16, 6), ("x",)),
    "columns": ((6, 16), (None, "x")),
    "both": ((8, 8), ("y", "x")),
    "copied": ((5, 3), ()),
    "half": ((8,), ("y",)),
    "scalar": ((), ()),
    "empty": ((0, 4), ()),
    "large": ((1024, 512), ("x",)),
    "large_copied": ((512, 1024), ()),
}


def start(arguments):
    port, processes, rank = map(int, arguments[:3])
    if processes > 1:
        jax.distributed.initialize(
            f"127.0.0.1:{port}", processes, rank, heartbeat_timeout_seconds=10, shutdown_timeout_seconds=30
        )
    return processes, rank, arguments[3:]


def mesh_of():
    """Return a mesh of all devices, with two axes."""
    devices = np.array(jax.devices())
    return jax.sharding.Mesh(devices.reshape(-1, 2 if len(devices) > 2 else 1), ("x", "y"))


def values(name, shape):
    numbers = np.arange(int(np.prod(shape)), dtype=np.float32) + len(name)
    return numbers.reshape(shape) * (1 if name != "half" else 0.5)


def state(mesh, *, filled=True):
    """Return the state of these tests on a mesh: spread, copied, local, of NumPy, numbers, None, keys."""
    made = {}
    for name, (shape, axes) in SHAPES.items():
        host = values(name, shape) if filled else np.zeros(shape, np.float32)
        if name == "half":
            host = host.astype(jax.numpy.bfloat16)
        made[name] = jax.make_array_from_callback(shape, jax.NamedSharding(mesh, jax.P(*axes)), host.__getitem__)
    whole = jax.NamedSharding(mesh, jax.P())
    data = np.asarray(jax.random.key_data(jax.random.split(jax.random.key(3 if filled else 4), 2)))
    keys = jax.random.wrap_key_data(jax.make_array_from_callback(data.shape, whole, data.__getitem__))
    local = jax.numpy.arange(4) * filled
    plain = {"step": 7 if filled else 0, "rate": 0.5, "name": "run", "nothing": None, "flag": filled}
    return {"arrays": made, "keys": keys, "local": local, "host": np.arange(3.0) * filled, "plain": plain}


def check(restored, wanted):
    assert jax.tree.structure(restored) == jax.tree.structure(wanted)
    for (path, found), (_, leaf) in zip(
        jax.tree_util.tree_leaves_with_path(restored), jax.tree_util.tree_leaves_with_path(wanted), strict=True
    ):
        assert type(found) is type(leaf), (path, type(found))
        if not isinstance(leaf, jax.Array):
            assert np.array_equal(found, leaf), path
            continue
        assert found.sharding == leaf.sharding, (path, found.sharding, leaf.sharding)
        assert found.dtype == leaf.dtype, path
        if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            found, leaf = jax.random.key_data(found), jax.random.key_data(leaf)
        for mine, theirs in zip(found.addressable_shards, leaf.addressable_shards, strict=True):
            assert np.array_equal(mine.data, theirs.data), (path, mine.index)


def main(arguments):
    processes, rank, (action, folder, *rest) = start(arguments)
    mesh = mesh_of()
    if action == "save":
        for number, options in enumerate(json.loads(rest[0]) if rest else [{}]):
            place = Path(folder, f"state{number}")
            if options.pop("background", False):
                full = state(mesh)
                handle = checkpoint.save_async(place, full, step=3, **options)
                for leaf in jax.tree.leaves(full["arrays"]):
                    leaf.delete()
                assert handle.wait()
            else:
                checkpoint.save(place, state(mesh), step=3, **options)
            assert checkpoint.open(place).step == 3
    if action == "restore":
        for place in rest:
            for verify in (True, False):
                found = checkpoint.restore(Path(folder, place), state(mesh, filled=False), verify=verify)
                check(found, state(mesh))
    print("done")


if __name__ == "__main__":
    main(sys.argv[1:])
