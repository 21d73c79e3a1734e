"""Layers in each floating-point dtype, for shapes and values at the edges, beside float64 NumPy.

A row says what a layer computes, as a formula in NumPy of its float64 inputs. Each row runs for every dtype, for plain,
empty and size-1 extents, and for values about 1e-4, 1, 3e2 and 6e4, the last near the end of float16. The tolerance is
that of one rounding to the dtype at the scale of the result, times what is stated in `ROUNDINGS`. By default float16
stands for all, being the narrowest; `BATISTE_NUMERICS=all` takes the others too.
"""

import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from batiste import nn

KEY = jax.random.key(0)
DTYPES = ("float16", "bfloat16", "float32", "float64") if os.environ.get("BATISTE_NUMERICS") else ("float16",)
ROUNDINGS = 8.0
"""Roundings to the dtype that a layer may add up to: inputs, products, statistics and the result."""
SHAPES = ((2, 3, 4), (0, 3, 4), (1, 1, 4), (2, 1, 1))
SCALES = (1e-4, 1.0, 3e2, 6e4)


def normal(x: Any, axes: Any, epsilon: float, *, centred: bool = True) -> Any:
    mean = x.mean(axes, keepdims=True) if centred else 0
    variance = ((x - mean) ** 2).mean(axes, keepdims=True)
    return (x - mean) / np.sqrt(variance + epsilon)


def per_length(kernel: Any) -> Any:
    return kernel / np.sqrt((kernel**2).sum(0, keepdims=True) + 1e-12)


def spectral(kernel: Any) -> Any:
    size = np.linalg.norm(kernel, 2)
    left = size / np.sqrt(size**2 + 1e-12)  # the lengths of the two vectors, which the epsilon makes less than 1
    right = left * size / np.sqrt((left * size) ** 2 + 1e-12)
    return kernel / (left * size * right)


def softmax(weights: Any) -> Any:
    weights = np.exp(weights - weights.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def norm(layer: Any, axes: Any, **options: Any) -> Any:
    def run(x: Any, dtype: Any) -> Any:
        made = layer(param_dtype=dtype, use_fast_variance=False)
        y, _ = made.apply(made.init(KEY, x), x, mutable=["batch_stats"])
        return y, lambda wide: normal(wide, axes, made.epsilon, **options)

    return run


def half_norm(x: Any, dtype: Any) -> Any:
    """Statistics in the dtype itself, which for float16 are float32 all the same."""
    made = nn.LayerNorm(param_dtype=dtype, use_fast_variance=False, force_float32_reductions=dtype == jnp.bfloat16)
    return made.apply(made.init(KEY, x), x), lambda wide: normal(wide, -1, made.epsilon)


def reparametrised(wrapper: Any, formula: Any, **options: Any) -> Any:
    """The weight that a wrapped `Dense` uses, whose kernel is the input, for an input of one-hot vectors."""

    def run(x: Any, dtype: Any) -> Any:
        kernel = jnp.reshape(x, (-1, x.shape[-1]))
        if not kernel.size:
            return x, lambda wide: wide
        layer = wrapper(nn.Dense(kernel.shape[-1], use_bias=False, param_dtype=dtype), param_dtype=dtype)
        eye = jnp.eye(kernel.shape[0], dtype=dtype)
        variables = layer.init(KEY, eye, **options)
        params = {**variables["params"], "layer_instance": {"kernel": kernel}}
        variables = {**variables, "params": params}
        if "update_stats" in options:  # begin where power iteration ends
            vector = np.linalg.svd(np.asarray(kernel, np.float64))[2][:1]
            variables["batch_stats"]["layer_instance/kernel/u"] = jnp.asarray(vector, dtype)
        y, _ = layer.apply(variables, eye, mutable=["batch_stats"], **options)
        return y, lambda wide: formula(wide.reshape(kernel.shape))

    return run


def attention(x: Any, dtype: Any) -> Any:
    """One head attends to itself with weights of its scaled input, so that products stay within float16."""
    del dtype
    heads = x[..., None, :]
    scale = np.asarray(1 / max(1.0, float(jnp.max(jnp.abs(x), initial=0))), x.dtype)
    y = nn.dot_product_attention(heads * scale, heads * scale, heads)

    def formula(wide: Any) -> Any:
        query = wide * np.float64(scale)
        return (softmax(query @ query.swapaxes(-1, -2) / np.sqrt(wide.shape[-1])) @ wide)[..., None, :]

    return y, formula


def dense(x: Any, dtype: Any) -> Any:
    layer = nn.Dense(3, param_dtype=dtype)
    variables = {"params": {"kernel": jnp.full((x.shape[-1], 3), 0.125, dtype), "bias": jnp.ones(3, dtype)}}
    return layer.apply(variables, x), lambda wide: wide.sum(-1, keepdims=True) * np.full(3, 0.125) + 1


def convolution(x: Any, dtype: Any) -> Any:
    layer = nn.Conv(1, (1,), param_dtype=dtype, use_bias=False)
    variables = {"params": {"kernel": jnp.full((1, x.shape[-1], 1), 0.125, dtype)}}
    return layer.apply(variables, x), lambda wide: wide.sum(-1, keepdims=True) * 0.125


def cell(x: Any, dtype: Any) -> Any:
    """From a carry of zeros, `SimpleCell` with unit weights is the hyperbolic tangent of its input."""
    layer = nn.SimpleCell(x.shape[-1], param_dtype=dtype)
    eye = jnp.eye(x.shape[-1], dtype=dtype)
    variables = {"params": {"i": {"kernel": eye, "bias": jnp.zeros(x.shape[-1], dtype)}, "h": {"kernel": eye}}}
    return layer.apply(variables, jnp.zeros_like(x), x)[0], np.tanh


def gated(made: Any, gate: str, formula: Any) -> Any:
    """A cell whose weights are all zero but for those from the input to one gate, which are a unit matrix."""

    def run(x: Any, dtype: Any) -> Any:
        layer = made(x.shape[-1], param_dtype=dtype)
        carry = jax.tree.map(jnp.zeros_like, layer.initialize_carry(KEY, x.shape))
        shapes = jax.eval_shape(layer.init, KEY, jax.tree.map(lambda c: c.astype(dtype), carry), x)
        params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)["params"]
        params[gate]["kernel"] = jnp.eye(x.shape[-1], dtype=dtype)
        _, y = layer.apply({"params": params}, jax.tree.map(lambda c: c.astype(dtype), carry), x)
        return y, formula

    return run


def one_step(x: Any, dtype: Any) -> Any:
    """`RNN` over a time axis of one step."""
    layer = nn.RNN(nn.SimpleCell(x.shape[-1], param_dtype=dtype))
    eye = jnp.eye(x.shape[-1], dtype=dtype)
    held = {"i": {"kernel": eye, "bias": jnp.zeros(x.shape[-1], dtype)}, "h": {"kernel": eye}}
    flat = jnp.reshape(x, (-1, 1, x.shape[-1]))
    return jnp.reshape(layer.apply({"params": {"cell": held}}, flat), x.shape), np.tanh


def embedded(x: Any, dtype: Any) -> Any:
    table = jnp.reshape(x, (-1, x.shape[-1]))
    layer = nn.Embed(*table.shape, param_dtype=dtype)
    ids = jnp.arange(table.shape[0])
    return layer.apply({"params": {"embedding": table}}, ids), lambda wide: wide.reshape(-1, wide.shape[-1])


def weighted(made: Any, kernel_shape: Any) -> Any:
    """A layer whose weights are all an eighth, and whose bias is one."""

    def run(x: Any, dtype: Any) -> Any:
        layer = made(param_dtype=dtype)
        kernel = jnp.full(kernel_shape(x), 0.125, dtype)
        y = layer.apply({"params": {"kernel": kernel, "bias": jnp.ones(kernel.shape[-1:], dtype)}}, x)
        return y, lambda wide: wide.sum(-1, keepdims=True) * np.full(kernel.shape[-1], 0.125) + 1

    return run


def einsum(x: Any, dtype: Any) -> Any:
    shape = (x.shape[-1], 3)
    layer = weighted(lambda **options: nn.Einsum(shape, "...d,df->...f", **options), lambda _: shape)
    return layer(x, dtype)


def local(x: Any, dtype: Any) -> Any:
    layer = nn.ConvLocal(1, (1,), param_dtype=dtype, use_bias=False)
    variables = {"params": {"kernel": jnp.full((*x.shape[1:2], x.shape[-1], 1), 0.125, dtype)}}
    return layer.apply(variables, x), lambda wide: wide.sum(-1, keepdims=True) * 0.125


def rectified(x: Any, dtype: Any) -> Any:
    slope = {"params": {"negative_slope": jnp.asarray(0.125, dtype)}}
    return nn.PReLU(param_dtype=dtype).apply(slope, x), lambda wide: np.where(wide >= 0, wide, 0.125 * wide)


def heads(x: Any, dtype: Any) -> Any:
    """Attention over one key: whatever the weights are, the result is the value, projected by unit matrices."""
    flat, size = jnp.reshape(x, (-1, 1, x.shape[-1])), x.shape[-1]
    layer = nn.MultiHeadDotProductAttention(1, param_dtype=dtype, use_bias=False)
    eye = jnp.eye(size, dtype=dtype)
    zero, unit = {"kernel": jnp.zeros((size, 1, size), dtype)}, {"kernel": eye[:, None]}
    params = {"query": zero, "key": zero, "value": unit, "out": {"kernel": eye[None]}}
    return jnp.reshape(layer.apply({"params": params}, flat), x.shape), lambda wide: wide


def pool(function: Any, formula: Any) -> Any:
    def run(x: Any, dtype: Any) -> Any:
        del dtype
        return function(x, x.shape[1:2]), lambda wide: formula(wide, axis=1, keepdims=True)

    return run


def half_tanh(wide: Any) -> Any:
    return 0.5 * np.tanh(wide)


def lstm(wide: Any) -> Any:
    return 0.5 * np.tanh(half_tanh(wide))


ROWS = {
    "Dense": dense,
    "DenseGeneral": weighted(lambda **options: nn.DenseGeneral(3, **options), lambda x: (x.shape[-1], 3)),
    "Einsum": einsum,
    "Embed": embedded,
    "Conv": convolution,
    "ConvTranspose": weighted(lambda **options: nn.ConvTranspose(1, (1,), **options), lambda x: (1, x.shape[-1], 1)),
    "ConvLocal": local,
    "PReLU": rectified,
    "LayerNorm": norm(nn.LayerNorm, -1),
    "LayerNorm, not forced": half_norm,
    "RMSNorm": norm(nn.RMSNorm, -1, centred=False),
    "GroupNorm": norm(lambda **options: nn.GroupNorm(1, **options), (1, 2)),
    "InstanceNorm": norm(nn.InstanceNorm, 1),
    "BatchNorm": norm(lambda **options: nn.BatchNorm(use_running_average=False, **options), (0, 1)),
    "WeightNorm": reparametrised(nn.WeightNorm, per_length),
    "SpectralNorm": reparametrised(nn.SpectralNorm, spectral, update_stats=True),
    "attention": attention,
    "SimpleCell": cell,
    "GRUCell": gated(nn.GRUCell, "in", half_tanh),
    "MGUCell": gated(nn.MGUCell, "in", half_tanh),
    "LSTMCell": gated(nn.LSTMCell, "ig", lstm),
    "OptimizedLSTMCell": gated(nn.OptimizedLSTMCell, "ig", lstm),
    "RNN": one_step,
    "MultiHeadDotProductAttention": heads,
    "avg_pool": pool(nn.avg_pool, np.mean),
    "max_pool": pool(nn.max_pool, np.max),
    "min_pool": pool(nn.min_pool, np.min),
}


PRODUCTS = {"Dense", "DenseGeneral", "Einsum", "Conv", "ConvTranspose", "ConvLocal"}
"""Layers that add products, which may cancel: a rounding is one at the scale of the input."""

ELSEWHERE = {
    "Bidirectional": "two RNN",
    "ConvLSTMCell": "the gates of LSTMCell around Conv",
    "Dropout": "scales what it keeps: tests/nn/test_dropout.py",
    "GroupedQueryAttention": "beside formulas: tests/nn/test_attention_modern.py",
    "MoE": "beside a formula: tests/nn/test_moe.py",
    "MultiHeadAttention": "MultiHeadDotProductAttention by its other name",
    "Repeat": "calls other layers",
    "SelfAttention": "MultiHeadDotProductAttention with one input",
    "Sequential": "calls other layers",
}
"""Layers that have no row, with the reason; ``tests/laws/test_rows.py`` asks one or the other of each layer."""


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ROWS)
def test_beside_float64(name, dtype):
    for shape in SHAPES:
        for scale in SCALES if shape == SHAPES[0] else (1.0,):
            values = np.random.default_rng(1).uniform(0.25, 1, size=shape) * scale
            values = values * np.where(np.arange(values.size).reshape(shape) % 3, 1, -1)
            with jax.enable_x64(dtype == "float64"):
                x = jnp.asarray(values, dtype)
                y, formula = ROWS[name](x, jnp.dtype(dtype))
                wide = np.asarray(x).astype(np.float64)
                given, kind = np.asarray(y).astype(np.float64), y.dtype
            assert kind == dtype
            if not x.size:
                assert not given.size
                continue
            want = formula(wide)
            unit = float(jnp.finfo(dtype).eps)
            size = max(np.abs(want).max(), np.abs(wide).max() if name in PRODUCTS else 0)
            np.testing.assert_allclose(
                given, want, atol=ROUNDINGS * unit * size + 1e-30, rtol=0, err_msg=f"{shape} {scale}"
            )
