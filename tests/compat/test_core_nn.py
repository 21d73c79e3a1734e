"""`core.nn`: layers as functions of a scope, each compared with Flax's."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import core as flax_core
from flax.core import nn as flax_nn

from batiste.compat.flax import core, errors
from batiste.compat.flax.core import nn
from batiste.errors import (
    AttentionHeadsError,
    AxesError,
    CacheShapeError,
    EmbeddingIdsError,
    UnsupportedOptionError,
)
from tests.compat.pairs import assert_same_start, text
from tests.nn.oracle import drawn

RNGS = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
X, GRID = drawn(2, 2, 5, 8), drawn(3, 2, 3, 4, 6)
LENGTHS = jnp.array([[[1], [1], [1], [0], [0]], [[1], [1], [0], [0], [0]]])
SEGMENTS = jnp.array([[[1], [1], [2], [2], [0]], [[1], [1], [1], [2], [2]]])


@pytest.fixture(autouse=True)
def rules_of_users(users_rules):
    """Flax's own code broadcasts by rank."""


def init_and_apply(core, function, args, kwargs):
    """Return what comes of a layer on `init`, and on `apply` with everything mutable."""
    output, variables = core.init(function)(RNGS, *args, **kwargs)
    apply = core.apply(function, mutable=True)
    applied = jax.jit(lambda variables, rngs: apply(variables, *args, rngs=rngs, **kwargs))
    return output, variables, applied(variables, {"dropout": RNGS["dropout"]})


def assert_same_layer(name, args, kwargs):
    got = init_and_apply(core, getattr(nn, name), args, kwargs)
    wanted = init_and_apply(flax_core, getattr(flax_nn, name), args, kwargs)
    ours, theirs = (jax.tree_util.tree_leaves_with_path(jax.tree.map(np.asarray, tree)) for tree in (got, wanted))
    assert [path for path, _ in ours] == [path for path, _ in theirs]
    for (path, leaf), (_, want) in zip(ours, theirs, strict=True):
        assert (leaf.shape, leaf.dtype) == (want.shape, want.dtype), path
        loose = 1e-2 if leaf.dtype == jnp.bfloat16 else 1e-6
        np.testing.assert_allclose(leaf.astype(float), want.astype(float), rtol=loose, atol=loose, err_msg=str(path))
    jax.tree.map(assert_same_start, got[1].get("params"), wanted[1].get("params"))


CASES = {
    "dense": ("dense", (X, 3), {}),
    "dense without bias": ("dense", (X, 3), {"bias": False}),
    "dense in half": ("dense", (X, 3), {"dtype": jnp.bfloat16}),
    "dense_general": ("dense_general", (X, (3, 2)), {}),
    "dense_general over two axes": ("dense_general", (X, 3), {"axis": (-2, -1)}),
    "dense_general with batch axes": ("dense_general", (X, 3), {"batch_dims": (0,), "bias_init": jax.random.normal}),
    "conv": ("conv", (X, 3, (3,)), {}),
    "conv with options": (
        "conv",
        (X, 4, (3,)),
        {"strides": (2,), "padding": "VALID", "feature_group_count": 2, "kernel_dilation": (2,)},
    ),
    "conv of a wider input": ("conv", (X, 3, (3,)), {"input_dilation": (2,), "padding": ((1, 1),)}),
    "conv_transpose": ("conv_transpose", (X, 3, (3,)), {"strides": (2,)}),
    "conv_transpose valid": ("conv_transpose", (X, 3, (3,)), {"padding": "VALID", "kernel_dilation": (2,)}),
    "batch_norm": ("batch_norm", (X,), {}),
    "batch_norm over averages": ("batch_norm", (X, True), {"momentum": 0.5}),
    "batch_norm of two axes": ("batch_norm", (X,), {"axis": (0, 2), "bias": False}),
    "batch_norm elsewhere": ("batch_norm", (X,), {"kind": "averages"}),
    "layer_norm": ("layer_norm", (X,), {"scale_init": jax.random.normal}),
    "layer_norm in half": ("layer_norm", (X.astype(jnp.bfloat16),), {"dtype": jnp.bfloat16, "scale": False}),
    "group_norm": ("group_norm", (X, 4), {"scale_init": jax.random.normal, "bias_init": jax.random.normal}),
    "group_norm by size": ("group_norm", (GRID, None, 2), {"bias": False}),
    "group_norm in half": ("group_norm", (X, 2), {"dtype": jnp.bfloat16}),
    "dropout": ("dropout", (X, 0.5), {}),
    "dropout with a key": ("dropout", (X, 0.3), {"rng": jax.random.key(7)}),
    "dropout of nothing": ("dropout", (X, 0.0), {}),
    "dropout of all": ("dropout", (X, 1.0), {}),
    "no dropout": ("dropout", (X, 0.5, True), {}),
    "attention": ("multi_head_dot_product_attention", (X, X, 2), {}),
    "attention to itself": ("multi_head_dot_product_attention", (X, None, 2), {"bias": False}),
    "attention to another": (
        "multi_head_dot_product_attention",
        (X, X[:, :4, :6], 2),
        {"qkv_features": 4, "out_features": 6},
    ),
    "causal attention": ("multi_head_dot_product_attention", (X, X, 2), {"causal_mask": True}),
    "padded attention": ("multi_head_dot_product_attention", (X, X, 2), {"padding_mask": LENGTHS}),
    "padded keys": (
        "multi_head_dot_product_attention",
        (X, X, 2),
        {"padding_mask": LENGTHS, "key_padding_mask": LENGTHS[::-1], "causal_mask": True},
    ),
    "padded keys alone": ("multi_head_dot_product_attention", (X, X, 2), {"key_padding_mask": LENGTHS}),
    "segments": (
        "multi_head_dot_product_attention",
        (X, X, 2),
        {"segmentation": SEGMENTS, "padding_mask": LENGTHS, "causal_mask": True},
    ),
    "segments of keys": (
        "multi_head_dot_product_attention",
        (X, X, 2),
        {"segmentation": SEGMENTS, "key_segmentation": SEGMENTS[::-1]},
    ),
    "attention with dropout": ("multi_head_dot_product_attention", (X, X, 2), {"dropout_rate": 0.5}),
    "attention with other dropout": (
        "multi_head_dot_product_attention",
        (X, X, 2),
        {"dropout_rate": 0.5, "broadcast_dropout": False, "dropout_rng": jax.random.key(9)},
    ),
    "deterministic attention": (
        "multi_head_dot_product_attention",
        (X, X, 2),
        {"dropout_rate": 0.5, "deterministic": True},
    ),
    "attention in half": ("multi_head_dot_product_attention", (X, X, 2), {"dtype": jnp.bfloat16}),
    "attention over a grid": ("multi_head_dot_product_attention", (GRID, GRID, 3), {"causal_mask": True}),
    "attention along rows": ("multi_head_dot_product_attention", (GRID, GRID, 3), {"attention_axis": (2,)}),
    "attention along columns": (
        "multi_head_dot_product_attention",
        (GRID, GRID, 3),
        {"attention_axis": (1,), "dropout_rate": 0.5},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_layers(case):
    assert_same_layer(*CASES[case])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"axis": (2,)},
        {"axis": 1},
        {"axis": (2, 1)},
        {"dropout_rng": jax.random.key(4), "dropout_rate": 0.4},
        {"axis": (1,), "dropout_rng": jax.random.key(4), "dropout_rate": 0.4, "broadcast_dropout": False},
    ],
    ids=str,
)
def test_dot_product_attention(options):
    query, key, value = (drawn(number, 2, 3, 4, 2, 5) for number in range(3))
    got = nn.dot_product_attention(None, query, key, value, **options)
    wanted = flax_nn.dot_product_attention(None, query, key, value, **options)
    np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6)


def test_bias_of_attention():
    query, key, value = (drawn(number, 2, 3, 4, 2, 5) for number in range(3))
    for shape, axis in (((2, 2, 3, 4, 3, 4), None), ((1, 1, 3, 4, 3, 4), None), ((2, 3, 2, 4, 4), (2,))):
        bias = drawn(5, *shape)
        got = nn.dot_product_attention(None, query, key, value, bias=bias, axis=axis)
        wanted = flax_nn.dot_product_attention(None, query, key, value, bias=bias, axis=axis)
        np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6)


def test_padding_masks():
    ours, theirs = nn.attention.make_padding_mask, flax_nn.attention.make_padding_mask
    for segmentation in (False, True):
        for args in (
            (LENGTHS, LENGTHS[:, :4], (2, 5, 2, 8), (2, 4, 2, 8)),
            (SEGMENTS, SEGMENTS, (2, 5, 2, 8), (2, 5, 2, 8), (1,)),
        ):
            got, wanted = (make(*args, segmentation_mask=segmentation) for make in (ours, theirs))
            assert got.dtype == wanted.dtype
            np.testing.assert_array_equal(got, wanted)


def test_padding_masks_of_a_grid():
    """Flax's takes the keys of a grid in the wrong order, and fails where one axis is attended."""
    shape = (2, 3, 4, 2, 8)
    rows, columns = jax.random.randint(jax.random.key(0), (2, *shape[:-2], 1), 0, 3)
    got = nn.attention.make_padding_mask(rows, columns, shape, shape, segmentation_mask=True)
    np.testing.assert_array_equal(got, rows[..., 0][:, None, :, :, None, None] == columns[:, None, None, None, ..., 0])
    got = nn.attention.make_padding_mask(rows, columns, shape, shape, (2,))
    np.testing.assert_array_equal(got, (rows * columns[..., 0][:, :, None])[:, :, None])


def test_embeddings():
    def model(nn, scope, indices):
        table = scope.child(nn.embedding, "words")(5, 3)
        return table.lookup(indices), table.attend(table.lookup(indices)), type(table).__name__

    indices = jnp.array([[1, 2], [4, 0]])
    got, variables = core.init(functools.partial(model, nn))(RNGS, indices)
    wanted, wanted_variables = flax_core.init(functools.partial(model, flax_nn))(RNGS, indices)
    assert jax.tree.structure(variables) == jax.tree.structure(wanted_variables)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-6)
    jax.tree.map(close, variables, wanted_variables)  # compiled, `normal` differs in its last bit
    jax.tree.map(close, got[:2], wanted[:2])
    assert got[2] == wanted[2]
    with pytest.raises(EmbeddingIdsError):
        nn.Embedding(jnp.ones((2, 2))).lookup(jnp.ones(2))


def decode(core, nn):
    """Return what comes of five steps with a cache."""

    def layer(scope, x):
        return nn.multi_head_dot_product_attention(scope, x, x, 2, causal_mask=True, cache=True)

    whole, variables = core.init(layer)(RNGS, X)
    params, cache = variables["params"], {"entry": variables["cache"]["entry"](X.shape[:2])}
    steps = []
    for number in range(X.shape[1]):
        step = core.apply(layer, mutable=["cache"])
        y, changed = step({"params": params, "cache": cache}, X[:, number : number + 1])
        cache = changed["cache"]
        steps.append(y)
    entry = cache["entry"]
    return whole, jnp.concatenate(steps, 1), entry.key, entry.value, entry.i


def test_decoding():
    got, wanted = decode(core, nn), decode(flax_core, flax_nn)
    for ours, theirs in zip(got, wanted, strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(got[1], got[0], rtol=1e-6, atol=1e-6)


def test_mistakes():
    def attend(x, **options):
        return core.init(nn.multi_head_dot_product_attention)(RNGS, x, x, **options)

    with pytest.raises(AttentionHeadsError, match="3"):
        attend(X, num_heads=3)
    with pytest.raises(AxesError, match="between the batch and the heads"):
        attend(X, num_heads=2, attention_axis=(2,))
    with pytest.raises(UnsupportedOptionError, match="causal_mask"):
        attend(X, num_heads=2, cache=True)
    _, variables = attend(X, num_heads=2, cache=True, causal_mask=True)
    with pytest.raises(CacheShapeError, match="batch and of all positions"):
        variables["cache"]["entry"](X.shape)
    cache = {"entry": variables["cache"]["entry"](X.shape[:2])}
    step = core.apply(nn.multi_head_dot_product_attention, mutable=["cache"])
    with pytest.raises(CacheShapeError, match="one position"):
        step({**variables, "cache": cache}, X, X, 2, causal_mask=True, cache=True)
    with pytest.raises(errors.InvalidRngError):
        core.apply(nn.dropout)({}, X, 0.5)


def test_signatures():
    for name in ("batch_norm", "conv", "conv_transpose", "dense", "dense_general", "dot_product_attention", "dropout"):
        ours, theirs = (inspect.signature(getattr(module, name)).parameters for module in (nn, flax_nn))
        assert list(ours) == list(theirs), name
        for parameter in theirs:
            if not parameter.endswith("_init"):
                assert text(ours[parameter].default) == text(theirs[parameter].default), (name, parameter)
