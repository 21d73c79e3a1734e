"""Any mesh that saved it, any mesh that restores it, and one device for who has no mesh."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from batiste import checkpoint
from tests.checkpoint.support import KINDS, assert_same_leaves


def mesh(*shape):
    return jax.make_mesh(shape, ("x", "y")[: len(shape)], axis_types=(jax.sharding.AxisType.Auto,) * len(shape))


def values():
    return {"w": jnp.arange(64.0).reshape(8, 8), "b": jnp.arange(8.0), "n": jnp.int32(3)}


def placed(sharding):
    return {
        name: jax.device_put(leaf, sharding if leaf.ndim else NamedSharding(sharding.mesh, PartitionSpec()))
        for name, leaf in values().items()
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("verify", [True, False])
def test_from_mesh_to_mesh(tmp_path, kind, verify):
    one = NamedSharding(mesh(8), PartitionSpec("x"))
    checkpoint.save(tmp_path / kind, placed(one))
    assert_same_leaves(checkpoint.restore(tmp_path / kind), values())
    other = NamedSharding(mesh(2, 4), PartitionSpec("y"))
    target = {
        "w": jax.ShapeDtypeStruct((8, 8), jnp.float32, sharding=NamedSharding(mesh(2, 4), PartitionSpec("x", "y"))),
        "b": jax.device_put(jnp.zeros(8), other),
        "n": jnp.int32(0),
    }
    restored = checkpoint.restore(tmp_path / kind, target, verify=verify)
    assert_same_leaves(restored, values())
    assert restored["w"].sharding == target["w"].sharding
    assert restored["w"].addressable_shards[0].data.shape == (4, 2)
    assert restored["b"].sharding == other
    assert len(restored["n"].devices()) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_by_rules(tmp_path, kind):
    checkpoint.save(tmp_path / kind, values())
    rows = NamedSharding(mesh(8), PartitionSpec("x"))
    restored = checkpoint.restore(tmp_path / kind, shardings={"w": rows, "{b,n}": None})
    assert restored["w"].sharding == rows
    assert type(restored["b"]) is np.ndarray
    restored = checkpoint.restore(tmp_path / kind, values(), shardings=lambda path, shape: rows if shape else None)
    assert_same_leaves(restored, values())
    assert restored["b"].sharding == rows
    single = jax.sharding.SingleDeviceSharding(jax.devices()[3])
    restored = checkpoint.restore(tmp_path / kind, shardings=single)
    assert {device.id for leaf in restored.values() for device in leaf.devices()} == {3}


def test_an_unverified_restore_reads_each_shard_alone(tmp_path, monkeypatch):
    checkpoint.save(tmp_path / "one.safetensors", values())
    boxes = []
    kind = checkpoint.Checkpoint
    original = kind.read_box

    def read_box(self, path, box):
        boxes.append((path, box))
        return original(self, path, box)

    monkeypatch.setattr(kind, "read_box", read_box)
    rows = NamedSharding(mesh(8), PartitionSpec("x"))
    checkpoint.restore(tmp_path / "one.safetensors", values(), shardings={"w": rows}, verify=False)
    assert sorted(box[0].start for path, box in boxes) == list(range(8))
    assert {path for path, _ in boxes} == {"w"}
