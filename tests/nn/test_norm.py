"""Normalisations against Linen's, over all their options."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

from batiste import nn
from tests.nn.oracle import Mode, assert_same, compare

X = np.random.default_rng(0).normal(1.0, 2.0, size=(2, 5, 6)).astype(np.float32)
MASK = np.random.default_rng(1).random((2, 5, 6)) < 0.7
BF16 = jnp.bfloat16
HALF = jnp.asarray(X, BF16)

COMMON = {
    "default": (X, {}, {}),
    "slow variance": (X, {"use_fast_variance": False}, {}),
    "compute in bfloat16": (HALF, {"dtype": BF16}, {}),
    "promoted": (HALF, {}, {}),
    "all in bfloat16": (HALF, {"dtype": BF16, "param_dtype": BF16, "force_float32_reductions": False}, {}),
    "bfloat16 statistics of float32": (X, {"dtype": BF16, "force_float32_reductions": False}, {}),
    "float32 out of bfloat16": (HALF, {"dtype": jnp.float32}, {}),
    "integers": (X.astype(np.int32), {}, {}),
    "complex": (X + 1j * X[::-1], {}, {}),
    "no scale": (X, {"use_scale": False}, {}),
    "mask": (X, {}, {"mask": MASK}),
    "mask of a column, slow variance": (X, {"use_fast_variance": False}, {"mask": MASK}),
    "epsilon": (X, {"epsilon": 0.1}, {}),
}


LAYERS = ["LayerNorm", "RMSNorm", "GroupNorm", "InstanceNorm"]
SHORT = ["default", "slow variance", "promoted", "all in bfloat16", "mask"]
PAIRS = [(layer, name) for layer in LAYERS for name in COMMON if layer in {"LayerNorm", "GroupNorm"} or name in SHORT]


@pytest.mark.parametrize(("layer", "name"), PAIRS)
def test_common_options(layer, name):
    inputs, options, kwargs = COMMON[name]
    options = options | ({"num_groups": 3} if layer == "GroupNorm" else {})
    mode = Mode(kwargs)
    compare(getattr(nn, layer)(**options), getattr(linen, layer)(**options), inputs, modes=[mode], init=mode)


ONE_LAYER = {
    "no bias": ("LayerNorm", X, {"use_bias": False}),
    "two axes": ("LayerNorm", X, {"reduction_axes": (1, 2), "feature_axes": (2, 1)}),
    "apart": ("LayerNorm", X, {"reduction_axes": 2, "feature_axes": 1}),
    "initialisers": (
        "LayerNorm",
        X,
        {"scale_init": jax.nn.initializers.uniform(), "bias_init": jax.nn.initializers.ones},
    ),
    "rms of two axes": ("RMSNorm", X, {"reduction_axes": (-2, -1), "feature_axes": (-1,)}),
    "group size": ("GroupNorm", X, {"num_groups": None, "group_size": 2}),
    "groups, last axis": ("GroupNorm", X, {"num_groups": 2, "reduction_axes": -1}),
    "groups, batch axis": ("GroupNorm", X, {"num_groups": 2, "reduction_axes": (0, 2), "use_bias": False}),
    "groups of one axis": ("GroupNorm", X[0, 0], {"num_groups": 2}),
    "groups of images": ("GroupNorm", X[..., None] * X[:, :, None], {"num_groups": 3}),
    "instances, other axis": ("InstanceNorm", X, {"feature_axes": 1}),
    "instances, two axes": ("InstanceNorm", X[..., None], {"feature_axes": (-3, 2)}),
    "instances without positions": ("InstanceNorm", X[0], {}),
}


@pytest.mark.parametrize(("layer", "inputs", "options"), ONE_LAYER.values(), ids=ONE_LAYER)
def test_options_of_one_layer(layer, inputs, options):
    compare(getattr(nn, layer)(**options), getattr(linen, layer)(**options), inputs)


@pytest.mark.parametrize("groups", [None, [[0, 1], [2, 3]]], ids=["all", "pairs"])
@pytest.mark.parametrize("layer", LAYERS)
def test_mapped_axis(layer, groups):
    """Statistics over the members of a mapped axis: with `jax.vmap`, or with `jax.shard_map` in groups."""
    options = {"axis_name": "copies"} | ({"num_groups": 3} if layer == "GroupNorm" else {})
    x = np.random.default_rng(2).normal(size=(4, 2, 5, 6)).astype(np.float32)
    ours, theirs = getattr(nn, layer)(**options), getattr(linen, layer)(**options)
    variables = jax.vmap(lambda x: ours.init(jax.random.key(0), x), axis_name="copies", out_axes=None)(x)
    if groups is None:
        results = [jax.jit(jax.vmap(m.apply, (None, 0), axis_name="copies"))(variables, x) for m in (ours, theirs)]
    else:
        ours, theirs = (m.clone(axis_index_groups=groups) for m in (ours, theirs))
        mesh = jax.make_mesh((4,), ("copies",), (jax.sharding.AxisType.Auto,), devices=jax.devices()[:4])
        spec = jax.sharding.PartitionSpec("copies")
        results = [
            jax.jit(jax.shard_map(m.apply, mesh=mesh, in_specs=(None, spec), out_specs=spec, check_vma=False))(
                variables, x
            )
            for m in (ours, theirs)
        ]
    assert_same(*results)


def test_a_mask_broadcasts():
    """Linen's GroupNorm cannot take a mask with one entry for all channels; ours can."""
    mask = MASK[..., :1]
    layer = nn.GroupNorm(3)
    variables = layer.init(jax.random.key(0), X)
    wide = layer.apply(variables, X, mask=np.broadcast_to(mask, X.shape))
    assert_same(layer.apply(variables, X, mask=mask), wide, exact=False)
    assert_same(layer.apply(variables, X, mask=mask[..., 0][..., None].astype(np.float32)), wide, exact=False)
    low = nn.LayerNorm().apply(variables, X, mask=MASK[0])
    assert_same(low, nn.LayerNorm().apply(variables, X, mask=np.broadcast_to(MASK[0], X.shape)), exact=False)


def test_a_masked_entry_has_no_say():
    x = X.copy()
    x[~MASK] = 1e3
    variables = nn.LayerNorm().init(jax.random.key(0), X)
    first, second = (nn.LayerNorm().apply(variables, inputs, mask=MASK) for inputs in (X, x))
    np.testing.assert_allclose(np.asarray(first)[MASK], np.asarray(second)[MASK], rtol=1e-5, atol=1e-6)


def test_statistics_are_in_float32_under_strict_promotion(strict_dtypes):
    del strict_dtypes
    for layer in (nn.LayerNorm(dtype=BF16), nn.RMSNorm(dtype=BF16), nn.GroupNorm(3, dtype=BF16)):
        variables = layer.init(jax.random.key(0), HALF)
        assert layer.apply(variables, HALF).dtype == BF16


def test_layers_are_what_the_text_says():
    variables = {"params": {}}
    groups = nn.GroupNorm(1, use_scale=False, use_bias=False).apply(variables, X)
    layers = nn.LayerNorm(reduction_axes=(1, 2), use_scale=False, use_bias=False).apply(variables, X)
    np.testing.assert_allclose(groups, layers, atol=1e-6)
    groups = nn.GroupNorm(6, use_scale=False, use_bias=False).apply(variables, X)
    instances = nn.InstanceNorm(use_scale=False, use_bias=False).apply(variables, X)
    np.testing.assert_allclose(groups, instances, atol=1e-6)
