"""Laws of layers' arithmetic where a formula, and not another library, says what is right."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from batiste import nn
from batiste.errors import AttentionMaskError, CacheLengthError

KEY = jax.random.key(0)
RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("padding", ["CIRCULAR", "SAME", "VALID"])
def test_a_transposed_convolution_is_the_transpose(padding):
    """`<Conv x, y> = <x, ConvTranspose y>` with one kernel, for kernels, strides and dilations of two axes."""
    choices = list(itertools.product((1, 2, 3, 4), (1, 2, 3), (1, 2)))
    for number, (size, stride, dilation) in enumerate(choices):
        other_size, other_stride, other_dilation = choices[(5 * number + 7) % len(choices)]
        options = {
            "kernel_size": (size, other_size),
            "strides": (stride, other_stride),
            "kernel_dilation": (dilation, other_dilation),
            "padding": padding,
            "use_bias": False,
        }
        variables = {"params": {"kernel": jnp.asarray(RANDOM.normal(size=(size, other_size, 2, 3)), jnp.float32)}}
        y = jnp.asarray(RANDOM.normal(size=(1, 3, 2, 3)), jnp.float32)
        back = nn.ConvTranspose(2, transpose_kernel=True, **options).apply(variables, y)
        x = jnp.asarray(RANDOM.normal(size=back.shape), jnp.float32)
        forth = nn.Conv(3, **options).apply(variables, x)
        assert forth.shape == y.shape
        np.testing.assert_allclose(jnp.vdot(forth, y), jnp.vdot(x, back), rtol=1e-3, atol=1e-3, err_msg=str(options))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "int8", "uint8", "int32", "bool"])
@pytest.mark.parametrize("padding", ["SAME", "SAME_LOWER", "VALID", ((1, 1),)])
def test_means_of_windows(dtype, padding):
    values = RANDOM.integers(0, 2 if dtype == "bool" else 120, size=(2, 40, 1))
    x = jnp.asarray(values, dtype)
    for window, strides, include in itertools.product((2, 7, 40), (1, 3), (True, False)):
        y = nn.avg_pool(x, (window,), (strides,), padding, include)
        wide = np.asarray(x, np.float64)
        pads = lax.padtype_to_pads((40,), (window,), (strides,), padding) if isinstance(padding, str) else padding
        padded, there = (np.pad(each, ((0, 0), *pads, (0, 0))) for each in (wide, np.ones_like(wide)))
        starts = range(0, padded.shape[1] - window + 1, strides)
        sums, counts = (np.stack([each[:, i : i + window].sum(1) for i in starts], 1) for each in (padded, there))
        want = sums / (window if include else counts)
        tolerance = 1e-2 if dtype == "bfloat16" else 1e-3 if dtype == "float16" else 1e-6
        np.testing.assert_allclose(np.asarray(y, np.float64), want, rtol=tolerance)


def test_sums_of_windows_in_half_precision():
    ones = jnp.ones((1, 64, 64, 1), jnp.bfloat16)
    assert float(nn.pool(ones, 0.0, lax.add, (64, 64), None, "VALID")[0, 0, 0, 0]) == 4096


@pytest.mark.parametrize("what", ["mask", "bias"])
def test_what_widens_the_weights_is_refused(what):
    query, key = jnp.ones((1, 2, 3, 4)), jnp.ones((1, 5, 3, 4))
    for shape in ((2, 3, 2, 5), (1, 3, 2, 4), (1, 3, 3, 5), (1, 2, 2, 5), (1, 1, 3, 2, 5), (7, 5)):
        for function, arrays in (
            (nn.dot_product_attention, (query, key, key)),
            (nn.dot_product_attention_weights, (query, key)),
        ):
            with pytest.raises(AttentionMaskError, match=what):
                function(*arrays, **{what: jnp.ones(shape)})
    whole = nn.dot_product_attention(query, key, key, **{what: jnp.ones((1, 1, 1, 1))})
    assert whole.shape == query.shape
    layer = nn.GroupedQueryAttention(num_heads=2)
    with pytest.raises(AttentionMaskError):
        layer.init(KEY, jnp.ones((1, 3, 4)), mask=jnp.ones((2, 1, 3, 3)))


def decoding(make, length):
    layer = make(decode=True)
    x = jnp.asarray(RANDOM.normal(size=(2, length, 4)), jnp.float32)
    return layer, layer.init(KEY, x), x


def test_decoding_takes_the_row_of_a_whole_mask():
    def make(**options):
        return nn.MultiHeadDotProductAttention(2, qkv_features=4, **options)

    layer, variables, x = decoding(make, 5)
    mask = nn.make_causal_mask(x[..., 0]) * jnp.asarray(RANDOM.integers(0, 2, (2, 1, 5, 5)) | np.eye(5, dtype=int))
    want = make().apply({"params": variables["params"]}, x, mask=mask)
    for step in range(5):
        y, cache = layer.apply(variables, x[:, step : step + 1], mask=mask, mutable=["cache"])
        variables = {**variables, **cache}
        np.testing.assert_allclose(y[:, 0], want[:, step], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("grouped", [False, True], ids=["multi-head", "grouped"])
def test_decoding_past_the_end(grouped):
    def make(**options):
        if grouped:
            return nn.GroupedQueryAttention(num_heads=2, max_length=2, **options)
        return nn.MultiHeadDotProductAttention(2, qkv_features=4, **options)

    layer, variables, x = decoding(make, 2)
    step = jax.jit(lambda variables: layer.apply(variables, x[:, :1], mutable=["cache"]))
    for _ in range(2):
        y, cache = step(variables)
        assert np.isfinite(y).all()
        variables = {**variables, **cache}
    with pytest.raises(CacheLengthError, match="3 tokens in all"):
        layer.apply(variables, x[:, :1], mutable=["cache"])
    assert np.isnan(step(variables)[0]).all()


NORMS = {
    "LayerNorm": nn.LayerNorm,
    "RMSNorm": nn.RMSNorm,
    "GroupNorm": lambda **options: nn.GroupNorm(1, **options),
    "InstanceNorm": nn.InstanceNorm,
    "BatchNorm": lambda **options: nn.BatchNorm(use_running_average=False, momentum=0.0, **options),
}


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("fast", [True, False])
def test_members_with_different_counts(name, fast):
    """Statistics over a mapped axis are those of all entries that the masks of all members leave."""
    x = jnp.asarray(RANDOM.normal(3, 2, size=(3, 2, 4, 2)), jnp.float32)
    mask = jnp.asarray(RANDOM.integers(0, 2, size=(3, 2, 4, 2)), bool).at[1].set(False).at[0].set(True)
    layer = NORMS[name](axis_name="members", use_fast_variance=fast)
    variables = layer.init(KEY, x[0])
    run = jax.vmap(
        lambda x, mask: layer.apply(variables, x, mask=mask, mutable=["batch_stats"])[0], axis_name="members"
    )
    y = run(x, mask)
    axes = {
        "LayerNorm": (0, 3),
        "RMSNorm": (0, 3),
        "GroupNorm": (0, 2, 3),
        "InstanceNorm": (0, 2),
        "BatchNorm": (0, 1, 2),
    }
    wide = np.ma.array(np.asarray(x, np.float64), mask=~np.asarray(mask))
    over = axes[name]
    mean = 0 if name == "RMSNorm" else wide.mean(over, keepdims=True)
    variance = ((wide - mean) ** 2).mean(over, keepdims=True)
    epsilon = layer.epsilon
    np.testing.assert_allclose(
        y, (np.asarray(x) - np.ma.getdata(mean)) / np.sqrt(np.ma.getdata(variance) + epsilon), atol=2e-4
    )


@pytest.mark.parametrize("name", NORMS)
def test_nothing_to_average(name):
    layer = NORMS[name]()
    x = jnp.asarray(RANDOM.normal(size=(3, 4, 2)), jnp.float32)
    variables = layer.init(KEY, x)

    def loss(x, mask):
        y, changed = layer.apply(variables, x, mask=mask, mutable=["batch_stats"])
        return jnp.sum(y**2), (y, changed)

    (_, (y, changed)), gradient = jax.value_and_grad(loss, has_aux=True)(x, jnp.zeros((3, 4, 2), bool))
    assert np.isfinite(y).all()
    assert np.isfinite(gradient).all()
    for empty in (x[:0], x[:, :0], x[..., :0]):
        fresh = layer.init(KEY, empty)
        y, changed_by_empty = layer.apply(fresh, empty, mutable=["batch_stats"])
        assert y.shape == empty.shape
        kept = {"batch_stats": fresh["batch_stats"]} if "batch_stats" in fresh else {}
        assert jax.tree.all(jax.tree.map(np.array_equal, changed_by_empty, kept))
    if name == "BatchNorm":
        assert jax.tree.all(jax.tree.map(np.array_equal, changed, {"batch_stats": variables["batch_stats"]}))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32"])
def test_ids_out_of_range(dtype):
    info = np.iinfo(dtype)
    for count in (0, 1, 2, 200, 300):
        table = np.arange(2 * count, dtype=np.float32).reshape(count, 2)
        ids = [
            i for i in (0, -1, count - 1, count, -count, -count - 1, info.min, info.max) if info.min <= i <= info.max
        ]
        want = np.array([table[i] if -count <= i < count else (np.nan, np.nan) for i in ids])
        y = nn.Embed(count, 2).apply({"params": {"embedding": jnp.asarray(table)}}, jnp.asarray(ids, dtype))
        np.testing.assert_array_equal(y, want)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "uint32"])
def test_lengths_in_any_integer_type(dtype):
    layer = nn.Bidirectional(nn.RNN(nn.GRUCell(3)), nn.RNN(nn.GRUCell(3)), return_carry=True)
    x = jnp.asarray(RANDOM.normal(size=(3, 4, 2)), jnp.float32)
    variables = layer.init(KEY, x)
    want = layer.apply(variables, x, seq_lengths=jnp.array([0, 2, 4]))
    given = layer.apply(variables, x, seq_lengths=jnp.array([0, 2, 4], dtype))
    assert jax.tree.all(jax.tree.map(np.array_equal, given, want))


@pytest.mark.parametrize("name", ["LSTMCell", "OptimizedLSTMCell", "SimpleCell", "GRUCell", "MGUCell"])
def test_cells_in_any_mix_of_dtypes(name):
    kinds = (jnp.float32, jnp.bfloat16, jnp.float16)
    for dtype, param_dtype, of_inputs in itertools.product((None, *kinds), kinds, (*kinds, jnp.int32)):
        layer = nn.RNN(getattr(nn, name)(3, dtype=dtype, param_dtype=param_dtype), return_carry=True)
        x = jnp.ones((1, 4, 2), of_inputs)
        carry, outputs = jax.eval_shape(lambda x, layer=layer: layer.init_with_output(KEY, x)[0], x)
        assert outputs.shape == (1, 4, 3)
        assert {state.shape for state in jax.tree.leaves(carry)} == {(1, 3)}


def test_layers_without_inputs_or_outputs():
    for layer, x in (
        (nn.Dense(3), (2, 0)),
        (nn.Dense(0), (2, 3)),
        (nn.DenseGeneral((0, 2)), (2, 4)),
        (nn.Conv(3, (2,)), (2, 4, 0)),
        (nn.ConvTranspose(0, (2,)), (2, 4, 3)),
        (nn.MultiHeadAttention(2, qkv_features=4), (2, 0, 4)),
        (nn.RNN(nn.GRUCell(3)), (2, 0, 4)),
    ):
        y, variables = layer.init_with_output(KEY, jnp.ones(x))
        assert np.isfinite(y).all()
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(variables))
