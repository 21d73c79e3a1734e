"""One process of several: saves a state, or restores it onto a mesh of its own and compares every leaf."""

import errno
import json
import os
import sys
import zlib
from pathlib import Path
from unittest import mock

import jax
import numpy as np
import pytest

from batiste import _processes as processes
from batiste import checkpoint, errors
from batiste.checkpoint import _together
from batiste.checkpoint._arrays import digest_array

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
    "large_copied_too": ((512, 1024), ()),
}


def start(arguments):
    port, processes, rank = map(int, arguments[:3])
    if processes > 1:
        jax.distributed.initialize(
            f"127.0.0.1:{port}", processes, rank, heartbeat_timeout_seconds=10, shutdown_timeout_seconds=30
        )
    return processes, rank, arguments[3:]


def say(*words):
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def mesh_of():
    """Return a mesh of all devices, with two axes."""
    devices = np.array(jax.devices())
    return jax.sharding.Mesh(devices.reshape(-1, 2 if len(devices) > 2 else 1), ("x", "y"))


def values(name, shape):
    return np.random.default_rng(zlib.crc32(name.encode())).normal(size=shape).astype(np.float32)


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
    """Compare every leaf with the one that is wanted: its kind, its place, its values on this process."""
    assert jax.tree.structure(restored) == jax.tree.structure(wanted)
    rows = zip(jax.tree_util.tree_leaves_with_path(restored), jax.tree_util.tree_leaves_with_path(wanted), strict=True)
    for (path, found), (_, leaf) in rows:
        assert type(found) is type(leaf), (path, type(found))
        if not isinstance(leaf, jax.Array):
            assert np.array_equal(found, leaf), path
            continue
        assert found.dtype == leaf.dtype, path
        assert found.sharding == leaf.sharding, (path, found.sharding, leaf.sharding)
        for mine, theirs in zip(bare(found).addressable_shards, bare(leaf).addressable_shards, strict=True):
            assert np.array_equal(mine.data, theirs.data), (path, mine.index)


def bare(leaf):
    return jax.random.key_data(leaf) if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def refused(kind, *says):
    """Return a context that wants an error with these words."""
    return pytest.raises(kind, match="(?s)" + ".*".join(says))


def save(folder, name, options):
    full = state(mesh_of())
    if options.pop("background", False):
        handle = checkpoint.save_async(folder / name, full, step=3, **options)
        for leaf in jax.tree.leaves(full["arrays"]):
            leaf.delete()  # as a step does that has taken its memory
        handle.wait()
    else:
        checkpoint.save(folder / name, full, step=3, **options)
    assert checkpoint.open(folder / name).step == 3


def restore(folder, names):
    for name in names:
        for verify in (True, False):
            found = checkpoint.restore(folder / name, state(mesh_of(), filled=False), verify=verify)
            check(found, state(mesh_of()))


def bare_trees(folder, rank):
    """What is saved and restored without a target, with shardings in its place."""
    arrays = {name: leaf for name, leaf in state(mesh_of())["arrays"].items() if name != "empty"}
    checkpoint.save(folder / "arrays", arrays)
    table = {name: leaf.sharding for name, leaf in arrays.items()}
    check(checkpoint.restore(folder / "arrays", shardings=table), arrays)
    everywhere = jax.NamedSharding(mesh_of(), jax.P())
    copied = checkpoint.restore(folder / "arrays", {"rows": arrays["rows"]}, extra="drop", shardings=everywhere)["rows"]
    assert np.array_equal(copied, values("rows", SHAPES["rows"][0]))
    if rank == 0:  # which asks the other processes for nothing
        local = checkpoint.restore(folder / "arrays")
        assert np.array_equal(local["columns"], values("columns", SHAPES["columns"][0]))


def refusals(folder, rank):
    """What cannot work is refused in every process, and nothing is left of it."""
    array = state(mesh_of())["arrays"]["rows"]
    with refused(errors.ProcessesDifferError, "process 1 has another value", "host: int64", "n: 1"):
        checkpoint.save(folder / "other", {"host": np.full(3, rank), "n": rank, "w": array})
    with refused(errors.ProcessesDifferError, "process 1 has another tree", "y: int", "x: int"):
        checkpoint.save(folder / "other", {"xy"[rank]: 1, "w": array})
    with refused(errors.ProcessesDifferError, "process 1 has another path", "other1", "other0"):
        checkpoint.save(folder / f"other{rank}", {"w": array})
    kind = errors.UnsavableLeafError if rank == 1 else errors.ProcessFailedError
    with refused(kind, "object"):
        checkpoint.save(folder / "other", {"w": array, "bad": object() if rank else 1})
    with refused(errors.CheckpointExistsError, "state0"):
        checkpoint.save(folder / "state0", {"w": array})
    kind = errors.CheckpointMismatchError if rank == 1 else errors.ProcessFailedError
    with refused(kind, "missing" if rank else "process 1|Process 1"):
        checkpoint.restore(
            folder / "state0", {"arrays": {"rows": array, **({"missing": array} if rank else {})}}, extra="drop"
        )
    with refused(errors.RemoteShardsError, "rows"):
        checkpoint.save(folder / "other.safetensors", {"rows": array})
    with mock.patch.object(_together, "ArrayWriter", disk_is_full if rank else _together.ArrayWriter):
        kind = errors.CheckpointWriteError if rank else errors.ProcessFailedError
        with refused(kind, "No space left"):
            checkpoint.save(folder / "other", {"w": array, "v": jax.numpy.ones(3)})
    with mock.patch.object(_together, "merge", disk_is_full):
        kind = errors.ProcessFailedError if rank else errors.CheckpointWriteError
        with refused(kind, "No space left"):
            checkpoint.save(folder / "state0", {"w": array}, overwrite=True)
    processes.meet("refused", what="the end", seconds=60)
    assert not [path.name for path in folder.iterdir() if "other" in path.name or path.name.startswith(".")]


def disk_is_full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def measured(folder, name):
    """Print how many bytes this process has read to restore what it holds, and how many it holds."""
    sharding = jax.NamedSharding(jax.sharding.Mesh(np.array(jax.devices()), ("x",)), jax.P("x"))
    target = {f"w{at}": jax.ShapeDtypeStruct((64, 1 << 15), jax.numpy.float32, sharding=sharding) for at in range(4)}
    if name == "make":
        made = jax.jit(lambda: jax.tree.map(lambda it: jax.numpy.ones(it.shape), target), out_shardings=sharding)()
        checkpoint.save(folder / "measured", made)
        return
    checkpoint.restore(folder / name, target)  # which loads what it needs
    for verify in (True, False):
        before = bytes_read()
        found = checkpoint.restore(folder / name, target, verify=verify)
        after = bytes_read()
        own = sum(shard.data.nbytes for leaf in jax.tree.leaves(found) for shard in leaf.addressable_shards)
        say(json.dumps({"verify": verify, "read": after - before, "own": own}))


def bytes_read():
    text = Path("/proc/self/io").read_text(encoding="utf-8")
    return int(text.partition("rchar: ")[2].split()[0])


def dies(folder, rank):
    """Process 1 dies in the middle of a save; the others say so."""
    arrays = state(mesh_of())["arrays"]
    checkpoint.save(folder / "dies", arrays)
    with mock.patch.object(
        _together, "digest_array", (lambda _: os.kill(os.getpid(), 9)) if rank == 1 else digest_array
    ):
        checkpoint.save(folder / "dies", arrays, overwrite=True)


def main(arguments):
    _, rank, (folder, *actions) = start(arguments)
    for action in actions:
        name, _, text = action.partition("=")
        given = json.loads(text) if text else None
        place = Path(folder)
        match name:
            case "save":
                for number, options in enumerate(given):
                    save(place, f"state{number}", options)
            case "restore":
                restore(place, given)
            case "bare":
                bare_trees(place, rank)
            case "refuse":
                refusals(place, rank)
            case "measure":
                measured(place, given)
            case "die":
                dies(place, rank)
    say("done")


if __name__ == "__main__":
    main(sys.argv[1:])
