"""One process of two: saves what it may, and restores onto a mesh over both. Used by ``test_processes.py``."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from batiste import checkpoint, errors


def main(folder, port, rank):
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, rank)
    sharding = jax.NamedSharding(jax.make_mesh((2,), ("x",)), jax.P("x"))
    array = jax.jit(lambda: jnp.arange(8.0), out_shardings=sharding)()
    try:
        checkpoint.save(f"{folder}/x.safetensors", {"w": array})
    except errors.RemoteShardsError:
        pass
    else:
        sys.exit("a file was saved of which this process has a part")
    whole = multihost_utils.process_allgather(array, tiled=True)
    if rank == 0:
        checkpoint.save(f"{folder}/one.safetensors", {"w": whole})
    multihost_utils.sync_global_devices("saved")
    for path in (f"{folder}/one.safetensors", f"{folder}/folder"):
        for verify in (True, False):
            restored = checkpoint.restore(path, {"w": array}, verify=verify)["w"]
            mine = np.asarray(restored.addressable_shards[0].data)
            if restored.sharding != sharding or mine.tolist() != [4.0 * rank + offset for offset in range(4)]:
                sys.exit(f"{path} gave {mine} on process {rank}")
    multihost_utils.sync_global_devices("done")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
