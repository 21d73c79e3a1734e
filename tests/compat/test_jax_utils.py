"""Replication, prefetching, padding and scans give Flax's arrays, on the eight devices of the tests."""

import flax.core.partial_eval
import flax.jax_utils as theirs
import flax.training.common_utils as their_common
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import batiste.compat.flax.core.partial_eval
import batiste.compat.flax.jax_utils as ours
import batiste.compat.flax.training.common_utils as common
from batiste.errors import BatchSizesError, LazyInitError, ReplicaAxisError, ScanAxesError
from tests.compat.pairs import text

LIBRARIES = (ours, theirs)


def described(tree):
    return text(jax.tree.map(lambda x: (np.asarray(x).tolist(), x.dtype, getattr(x, "sharding", None)), tree))


def test_replicate():
    tree = {"a": jnp.arange(3), "b": 2.0, "c": np.ones((2, 2)), "n": None}
    for options in ({}, {"devices": jax.devices()[2:5]}, {"axis_name": "other"}):
        wanted = theirs.replicate(tree, **options)
        got = ours.replicate(tree, **options)
        assert described(got) == described(wanted)
        assert described(ours.unreplicate(got)) == described(theirs.unreplicate(wanted))
    assert ours.replicate({}) == {}
    key = jax.random.key(0)
    assert jax.random.key_data(ours.replicate(key)).tolist() == jax.random.key_data(theirs.replicate(key)).tolist()


def test_unreplicate():
    assert ours.unreplicate({"a": np.ones(2)})["a"] == 1
    assert jax.jit(ours.unreplicate)(jnp.arange(3.0)) == 0
    mapped = jax.pmap(lambda x: x * 2)(jnp.arange(8.0))
    assert ours.unreplicate(mapped) == 0
    sharded = jax.device_put(
        jnp.arange(16.0).reshape(2, 8), jax.NamedSharding(jax.make_mesh((8,), ("x",)), jax.P(None, "x"))
    )
    assert ours.unreplicate(sharded).tolist() == list(range(8))
    for wrong in ({"a": [1, 2]}, 3, jnp.ones(())):
        with pytest.raises(ReplicaAxisError):
            ours.unreplicate(wrong)


def test_pmean():
    xs = jnp.arange(8.0)
    assert jax.vmap(lambda x: ours.pmean({"a": x}, "i"), axis_name="i")(xs)["a"].tolist() == [3.5] * 8


@pytest.mark.parametrize("size", [1, 2, 5])
def test_prefetch(size):
    batches = [{"x": np.ones((8, 2)) * i, "y": np.arange(8)} for i in range(4)]
    wanted = [described(batch) for batch in theirs.prefetch_to_device(iter(batches), size)]
    assert [described(batch) for batch in ours.prefetch_to_device(iter(batches), size)] == wanted
    assert len(list(ours.prefetch_to_device(batches, size))) == 4  # Flax repeats a list without end
    assert list(ours.prefetch_to_device(iter([]), size)) == []


def test_prefetch_reads_ahead():
    asked = []

    def batches():
        for i in range(4):
            asked.append(i)
            yield np.full((8, 1), i)

    prefetched = ours.prefetch_to_device(batches(), 2)
    assert asked == []
    next(prefetched)
    assert asked == [0, 1]
    next(prefetched)
    assert asked == [0, 1, 2]


def forward(params, x, y=None, **more):
    assert x["a"].shape[0] == 8
    return {"x": jax.tree.map(lambda leaf: leaf * params, x), "y": y, **more}


@pytest.mark.parametrize("batch", [1, 3, 8, 20])
@pytest.mark.parametrize("least", [None, 4])
def test_pad_shard_unpad(batch, least):
    x = {"a": np.arange(batch), "b": np.ones((batch, 2))}
    for y in (None, np.arange(batch) * 1.5):
        run = [lib.pad_shard_unpad(forward)(2.0, x, y=y, min_device_batch=least) for lib in LIBRARIES]
        assert described(run[0]) == described(run[1])
    named = [
        lib.pad_shard_unpad(forward, static_argnames=("k",), static_return=True)(2.0, x, k="text") for lib in LIBRARIES
    ]
    assert text(named[0]) == text(named[1])


def test_pad_shard_unpad_around_pmap():
    double = jax.pmap(lambda p, x: x * p, in_axes=(None, 0))
    assert ours.pad_shard_unpad(double)(2.0, np.arange(11.0)).tolist() == (2 * np.arange(11.0)).tolist()


def test_errors_of_padding():
    identity = ours.pad_shard_unpad(lambda p, *x: x)
    with pytest.raises(BatchSizesError, match=r"\[3, 4\]"):
        identity(1, np.ones(3), np.ones(4))
    with pytest.raises(BatchSizesError, match="no batch"):
        identity(1)
    with pytest.raises(ReplicaAxisError, match="static_argnums"):
        identity(1, 3.0)
    with pytest.raises(ReplicaAxisError, match="static_return"):
        ours.pad_shard_unpad(lambda p, x: x.sum())(1, np.ones(5))


SCANS = [
    {}, {"axis": 1}, {"axis": -1}, {"axis": (0, 1)}, {"axis": (2, 0), "unroll": 2}, {"axis": (0, 1, 2)},
    {"axis": (1, 2), "keepdims": True}, {"axis": (0, 1, 2), "keepdims": True, "unroll": (1, 2)}, {"axis": (0, -1)},
]  # fmt: skip


@pytest.mark.parametrize("place", range(len(SCANS)))
def test_scan_in_dim(place):
    options = SCANS[place]
    xs = np.arange(24.0).reshape(2, 3, 4)
    scanned = {axis % 3 for axis in np.atleast_1d(options.get("axis", 0)).tolist()}
    shape = [1 if axis in scanned else extent for axis, extent in enumerate(xs.shape)]
    init = jnp.zeros(
        shape if options.get("keepdims") else [e for axis, e in enumerate(xs.shape) if axis not in scanned]
    )

    def body(carry, x):
        return carry + x["a"], {"y": carry * x["a"] + x["b"]}

    got, wanted = (lib.scan_in_dim(body, init, {"a": xs, "b": xs + 1}, **options) for lib in LIBRARIES)
    assert described(got) == described(wanted)


def test_errors_of_scans():
    for axes in ((), (1, 1)):
        with pytest.raises(ScanAxesError):
            ours.scan_in_dim(lambda c, x: (c, x), 0.0, np.ones((2, 2)), axis=axes)


KEY = jax.random.PRNGKey(0)


def network(x, scale=3, **more):
    drawn = jax.jit(lambda value, key: (value + 1, jax.random.normal(key, (2,))))(x, KEY)
    rectified = jax.nn.relu(jax.nn.relu(jnp.zeros(2)) + x[0])
    return {
        "drawn": drawn, "kernel": jax.random.normal(KEY, (x.shape[-1],)) * scale, "rectified": rectified,
        "sum": x.sum(), "length": x.shape[0], "remat": jax.checkpoint(lambda a, b: (a * 2, b * 2))(x, jnp.ones(1)),
        "choice": jax.lax.cond(x[0, 0] > 0, lambda: jnp.ones(2), lambda: jnp.zeros(2)), **more,
    }  # fmt: skip


@pytest.mark.parametrize("spec", [(3, 2), ((3, 2), jnp.float16)], ids=["shape", "shape and dtype"])
def test_partial_eval_by_shape(spec):
    got = ours.partial_eval_by_shape(network, [spec], scale=2, extra=jnp.ones(1))
    wanted = theirs.partial_eval_by_shape(network, [spec], scale=2, extra=jnp.ones(1))
    assert text(got) == text(wanted)
    assert isinstance(got["kernel"], jax.Array)


def test_partial_eval_of_other_arguments():
    for fn, args in (
        (lambda x, y: (x, y), ([(3, 2)], 5)),
        (lambda x, y: (x, y), ([(3, 2), (1,)],)),
        (lambda: 3, ([],)),
    ):
        assert text(ours.partial_eval_by_shape(fn, *args)) == text(theirs.partial_eval_by_shape(fn, *args))
    ran = ours.partial_eval_by_shape(lambda x: (np.ones(1), "text", None, x), [jax.ShapeDtypeStruct((2,), jnp.int32)])
    assert text(ran) == "(array([1.]), 'text', None, ShapeDtypeStruct(shape=(2,), dtype=int32))"


def test_lazy_init():
    shape = jax.ShapeDtypeStruct((2, 3), jnp.float32)
    for lib in (batiste.compat.flax.core.partial_eval, flax.core.partial_eval):
        drawn = lib.lazy_init(lambda key, x: {"k": jax.random.normal(key, (x.shape[1],))})(KEY, shape)
        assert drawn["k"].tolist() == jax.random.normal(KEY, (3,)).tolist()
        assert lib.lazy_init(lambda x: x + 1)(np.ones(2)).tolist() == [2.0, 2.0]
    with pytest.raises(LazyInitError, match=r"\['a'\]\[1\]"):
        batiste.compat.flax.core.partial_eval.lazy_init(lambda x: {"a": (1, x * 2)})(shape)


def test_common_utils():
    trees = [{"l": 1.5, "n": {"a": np.ones(2)}}, {"l": 2.5, "n": {"a": np.zeros(2)}}]
    key = jax.random.PRNGKey(3)
    batch = {"x": np.arange(32).reshape(16, 2), "y": jnp.ones(8)}
    for run in (
        lambda lib: lib.shard(batch),
        lambda lib: lib.shard_prng_key(key),
        lambda lib: lib.stack_forest(trees),
        lambda lib: lib.get_metrics([theirs.replicate(tree) for tree in trees]),
        lambda lib: lib.onehot(jnp.array([0, 2, 5]), 4),
        lambda lib: lib.onehot(jnp.array([[0, 2], [1, -1]]), 3, on_value=2, off_value=-1),
    ):
        with jax.numpy_rank_promotion("allow"):
            wanted = run(their_common)
        assert described(run(common)) == described(wanted)
    assert common.onehot(1, 3).tolist() == [0.0, 1.0, 0.0]
    for wrong in (np.ones(9), 3):
        with pytest.raises(ReplicaAxisError):
            common.shard({"x": wrong})
