"""Attention held to Linen: the functions, the masks, and the multi-head layers over their options."""

import inspect
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

from batiste.errors import (
    AttentionEinsumError,
    AttentionFunctionError,
    AttentionHeadsError,
    AttentionInputsError,
    AttentionShapeError,
    CacheShapeError,
    InvalidRngError,
    LinenDeprecationWarning,
    MaskRankError,
)
from batiste.nn._attention import dot_product_attention, dot_product_attention_weights
from batiste.nn._fp8 import Fp8DirectDotGeneralOp, Fp8Einsum
from batiste.nn._masks import combine_masks, make_attention_mask, make_causal_mask
from batiste.nn._multihead import MultiHeadAttention, MultiHeadDotProductAttention, SelfAttention
from tests.nn.oracle import QUICKLY, Mode, assert_same, compare, drawn

Q, K, V = drawn(0, 2, 3, 2, 4), drawn(1, 2, 5, 2, 4), drawn(2, 2, 5, 2, 6)
ones = jax.nn.initializers.ones
BIAS = drawn(3, 1, 2, 3, 5)
MASK = jnp.array([[[[1, 1, 0, 1, 0]]]])
X, KV = drawn(4, 2, 3, 6), drawn(5, 2, 5, 7)
DROPOUT = {"dropout": 7}


def halved_dot(lhs, rhs, dimension_numbers, precision=None, preferred_element_type=None):
    return 0.5 * jax.lax.dot_general(lhs, rhs, dimension_numbers, precision, preferred_element_type)


# The functions.


FUNCTION_OPTIONS = {
    "plain": {},
    "bias-mask-precision": {"bias": BIAS, "mask": MASK, "precision": "highest"},
    "bfloat16-dropout": {"dtype": jnp.bfloat16, "dropout_rate": 0.4, "broadcast_dropout": False, "mask": MASK != 0},
    "float32-softmax": {"dtype": jnp.bfloat16, "force_fp32_for_softmax": True, "bias": BIAS, "dropout_rate": 0.4},
    "float16-deterministic": {"dtype": jnp.float16, "bias": BIAS, "deterministic": True, "dropout_rate": 0.4},
    "dot-general": {"einsum_dot_general": halved_dot},
}


@pytest.mark.parametrize("options", FUNCTION_OPTIONS.values(), ids=FUNCTION_OPTIONS.keys())
def test_functions_equal_linen(options):
    def run(attend, weigh):
        def loss(query, key, value):
            rng = jax.random.key(1)
            out = attend(query, key, value, dropout_rng=rng, **options)
            weights = weigh(query, key, dropout_rng=rng, **options)
            return jnp.sum(jnp.sin(out.astype(jnp.float32))), (out, weights)

        return jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True), compiler_options=QUICKLY)(Q, K, V)

    ours = run(dot_product_attention, dot_product_attention_weights)
    theirs = run(linen.dot_product_attention, linen.dot_product_attention_weights)
    assert_same(ours, theirs)


def test_own_einsums_are_used():
    ours = dot_product_attention(Q, K, V, qk_attn_weights_einsum=jnp.einsum, attn_weights_value_einsum=jnp.einsum)
    assert_same(ours, linen.dot_product_attention(Q, K, V))


def test_no_batch_axes_and_many():
    assert_same(dot_product_attention(Q[0], K[0], V[0]), linen.dot_product_attention(Q[0], K[0], V[0]))
    many = [x[None, :, None] for x in (Q, K, V)]
    assert_same(dot_product_attention(*many)[0, :, 0], dot_product_attention(Q, K, V))


def test_dropping_everything_gives_zeros():  # Linen divides zero by zero here
    out = dot_product_attention(Q, K, V, dropout_rate=1.0, dropout_rng=jax.random.key(0))
    np.testing.assert_array_equal(out, jnp.zeros_like(out))


def test_root_rounds_as_jax_does():
    from batiste.nn._attention import _root

    depths = range(1, 1025)
    for dtype in (jnp.float32, jnp.bfloat16, jnp.float16):
        ours = np.stack([_root(depth, dtype) for depth in depths])
        np.testing.assert_array_equal(ours, np.asarray(jnp.sqrt(jnp.asarray(depths)).astype(dtype)))


@pytest.mark.parametrize("name", ["dot_product_attention", "dot_product_attention_weights"])
@pytest.mark.parametrize(
    ("query", "key", "problem"),
    [
        (Q, K[:1], "batch axes"),
        (Q, K[:, :, :1], "heads"),
        (Q, K[..., :3], "depths"),
        (Q, K[0], "number of axes"),
        (Q[0, 0], K[0, 0], "at least three"),
    ],
)
def test_shapes_that_do_not_fit(name, query, key, problem):
    function = {"dot_product_attention": lambda q, k: dot_product_attention(q, k, k)}.get(
        name, dot_product_attention_weights
    )
    with pytest.raises(AttentionShapeError, match=problem) as error:
        function(query, key)
    assert str(query.shape) in str(error.value)


def test_as_many_keys_as_values():
    with pytest.raises(AttentionShapeError, match="as many keys as values"):
        dot_product_attention(Q, K, V[:, :2])


def test_einsums_come_in_pairs_and_alone():
    with pytest.raises(AttentionEinsumError, match="only one"):
        dot_product_attention(Q, K, V, qk_attn_weights_einsum=jnp.einsum)
    both = {"qk_attn_weights_einsum": jnp.einsum, "attn_weights_value_einsum": jnp.einsum}
    with pytest.raises(AttentionEinsumError, match="together with precision"):
        dot_product_attention(Q, K, V, precision="high", **both)
    with pytest.raises(AttentionEinsumError, match="together with precision"):
        dot_product_attention_weights(Q, K, einsum=jnp.einsum, einsum_dot_general=jax.lax.dot_general)


def test_dropout_needs_a_key():
    with pytest.raises(InvalidRngError, match="dropout_rng is None"):
        dot_product_attention(Q, K, V, dropout_rate=0.5)


# The masks.


@pytest.mark.parametrize("extra", [0, 2])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bool_])
def test_masks_equal_linen(extra, dtype):
    tokens, keys = jnp.array([[1, 1, 2], [1, 0, 0]]), jnp.array([[1, 1, 2, 0], [1, 0, 0, 3]])
    for pairwise in (jnp.multiply, jnp.equal, jnp.greater_equal):
        ours = make_attention_mask(tokens, keys, pairwise, extra_batch_dims=extra, dtype=dtype)
        assert_same(ours, linen.make_attention_mask(tokens, keys, pairwise, extra_batch_dims=extra, dtype=dtype))
    for x in (tokens, tokens[0]):
        assert_same(
            make_causal_mask(x, extra_batch_dims=extra, dtype=dtype),
            linen.make_causal_mask(x, extra_batch_dims=extra, dtype=dtype),
        )


def test_combined_masks_equal_linen():
    causal = make_causal_mask(jnp.ones((2, 3)))
    padding = make_attention_mask(jnp.array([[1, 1, 0], [1, 0, 0]]), jnp.ones((2, 3), int), dtype=jnp.bool_)
    for masks in ((causal, None, padding), (causal, padding, causal), (padding,), (None, causal)):
        for dtype in (jnp.float32, jnp.bool_):
            assert_same(combine_masks(*masks, dtype=dtype), linen.combine_masks(*masks, dtype=dtype))
    assert combine_masks() is None
    assert combine_masks(None, None) is None


def test_masks_of_different_ranks_do_not_combine():
    with pytest.raises(MaskRankError, match=r"\(2, 1, 3, 3\), \(1, 3, 3\)"):
        combine_masks(jnp.ones((2, 1, 3, 3)), jnp.ones((1, 3, 3)))


def test_masks_take_numpy():
    assert isinstance(make_causal_mask(np.ones((2, 3))), jax.Array)
    assert isinstance(combine_masks(np.ones((1, 1, 2, 2)), np.ones((1, 1, 2, 2))), jax.Array)


# The layers.


def pair(name="MultiHeadDotProductAttention", **options):
    ours = {
        "MultiHeadAttention": MultiHeadAttention,
        "MultiHeadDotProductAttention": MultiHeadDotProductAttention,
        "SelfAttention": SelfAttention,
    }[name]
    return ours(num_heads=2, **options), getattr(linen, name)(num_heads=2, **options)


LAYER_OPTIONS = {
    "plain": ({}, (X,)),
    "cross": ({"qkv_features": 8, "out_features": 5, "use_bias": False}, (X, KV, KV + 1)),
    "float32-softmax": ({"dtype": jnp.bfloat16, "force_fp32_for_softmax": True}, (X,)),
    "bfloat16": ({"param_dtype": jnp.bfloat16}, (X.astype(jnp.bfloat16),)),
    "initialisers": ({"out_kernel_init": ones, "out_bias_init": ones, "precision": "highest"}, (X,)),
    "products": ({"qkv_dot_general": halved_dot, "out_dot_general_cls": lambda: halved_dot}, (X,)),
}


@pytest.mark.parametrize(("options", "inputs"), LAYER_OPTIONS.values(), ids=LAYER_OPTIONS.keys())
def test_multi_head_attention_equals_linen(options, inputs):
    # XLA may keep what is bfloat16 in more digits between two operations, and does so by how they are grouped.
    is_exact = jnp.bfloat16 not in options.values()
    variables = compare(*pair(**options), *inputs, exact=is_exact, tolerance=1e-6 if is_exact else 0.02)
    assert set(variables["params"]) == {"query", "key", "value", "out"}


def test_normalised_queries_and_keys_equal_linen():
    variables = compare(*pair(normalize_qk=True), X, KV, exact=False, tolerance=3e-6)
    assert {"query_ln", "key_ln"} <= set(variables["params"])


def test_mask_dropout_and_sown_weights_equal_linen():
    mask = jnp.tri(3)[None, None]
    off = Mode({"deterministic": True})
    sown = Mode({"deterministic": False, "mask": mask, "sow_weights": True}, ["intermediates"], DROPOUT)
    given = Mode({"deterministic": False, "dropout_rng": jax.random.key(5)})
    compare(*pair(dropout_rate=0.3), X, init=off, modes=[sown])
    half = {"dropout_rate": 0.3, "broadcast_dropout": False, "dtype": jnp.bfloat16}
    compare(*pair(**half), X, init=off, modes=[given, off], gradients=False)


def test_fp8_einsums_and_products_equal_linen():
    def make(library):
        return {
            "qkv_dot_general_cls": library.Fp8DirectDotGeneralOp,
            "qk_attn_weights_einsum_cls": library.Fp8Einsum,
            "attn_weights_value_einsum_cls": library.Fp8Einsum,
        }

    class Ours:
        Fp8DirectDotGeneralOp = Fp8DirectDotGeneralOp
        Fp8Einsum = Fp8Einsum

    ours = MultiHeadDotProductAttention(num_heads=2, **make(Ours))
    variables = compare(ours, linen.MultiHeadDotProductAttention(num_heads=2, **make(linen)), X)
    assert {"Fp8Einsum_0", "Fp8Einsum_1"} <= set(variables["_overwrite_with_gradient"])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_old_call_signatures_equal_linen():
    compare(*pair("SelfAttention"), X, modes=[Mode({"mask": jnp.tri(3)[None, None]})], gradients=False)
    compare(*pair(), X, init=Mode({"inputs_kv": KV}), modes=[Mode({"inputs_kv": KV})], gradients=False)


def test_old_call_signatures_warn():
    with pytest.warns(LinenDeprecationWarning, match="SelfAttention is deprecated"):
        SelfAttention(num_heads=2).init(jax.random.key(0), X)
    with pytest.warns(LinenDeprecationWarning, match="inputs_kv is deprecated"):
        MultiHeadDotProductAttention(num_heads=2).init(jax.random.key(0), X, inputs_kv=KV)
    assert issubclass(LinenDeprecationWarning, DeprecationWarning)


def test_short_name_gives_short_paths():
    from batiste.module import Module, compact

    class Two(Module):
        @compact
        def __call__(self, x):
            return MultiHeadAttention(2)(x) + MultiHeadAttention(2)(x)

    assert set(Two().init(jax.random.key(0), X)["params"]) == {"MultiHeadAttention_0", "MultiHeadAttention_1"}


@pytest.mark.parametrize("name", ["MultiHeadAttention", "MultiHeadDotProductAttention", "SelfAttention"])
def test_signatures_are_linens(name):
    ours, theirs = (type(layer) for layer in pair(name))
    for part in ("__init__", "__call__"):
        parameters = [
            {p.name: p.kind for p in inspect.signature(getattr(cls, part)).parameters.values()}
            for cls in (ours, theirs)
        ]
        for each in parameters:  # every Module's own, by keyword here
            each.pop("parent", None)
            each.pop("name", None)
        assert list(parameters[0].items()) == list(parameters[1].items())


@pytest.mark.parametrize("batch", [(), (2, 2)])
def test_decoding_equals_linen_and_the_causal_pass(batch):
    x = drawn(8, *batch, 4, 6)
    ours, theirs = pair(decode=True)
    variables, other = ours.init(jax.random.key(0), x), jax.jit(theirs.init)(jax.random.key(0), x)
    assert_same(variables, other)
    plain = MultiHeadDotProductAttention(num_heads=2)
    full = plain.apply({"params": variables["params"]}, x, mask=make_causal_mask(x[..., 0]))
    for step in range(4):
        token = x[..., step : step + 1, :]
        y, state = ours.apply(variables, token, mutable=["cache"])
        y_linen, state_linen = theirs.apply(other, token, mutable=["cache"])
        assert_same((y, state), (y_linen, dict(state_linen)))
        np.testing.assert_allclose(y, full[..., step : step + 1, :], atol=2e-6)
        variables, other = {**variables, **state}, {**other, **state_linen}
    assert variables["cache"]["cache_index"] == 4


def test_decoding_keeps_the_given_mask():
    ours, theirs = pair(decode=True)
    variables = ours.init(jax.random.key(0), X)
    for _ in range(2):
        results = [
            layer.apply(variables, X[:, :1], mask=jnp.array([0, 1, 1])[None, None, None, :], mutable=["cache"])
            for layer in (ours, theirs)
        ]
        assert_same(*[(y, dict(state)) for y, state in results])
        variables = {**variables, **results[0][1]}


def test_a_decoding_step_must_fit_its_cache():
    layer = MultiHeadDotProductAttention(num_heads=2, decode=True)
    variables = layer.init(jax.random.key(0), X)
    for given in (X[:, :2], X[:1, :1]):
        with pytest.raises(CacheShapeError, match=r"\(2, 3, 2, 3\)"):
            layer.apply(variables, given, mutable=["cache"])


def test_attention_fn_gets_what_its_signature_names():
    seen = {}

    def named(query, key, value, mask=None, dropout_rng=None):
        seen.update(mask=mask, dropout_rng=dropout_rng)
        return query

    def anything(query, key, value, **rest):
        seen.update(rest=rest)
        return query

    mask = jnp.ones((1, 1, 3, 3))
    for function in (named, anything):
        seen.clear()
        layer = MultiHeadDotProductAttention(num_heads=2, attention_fn=function)
        compare(
            layer,
            linen.MultiHeadDotProductAttention(num_heads=2, attention_fn=function),
            X,
            modes=[Mode({"mask": mask})],
            gradients=False,
        )
    assert seen["rest"] == {}  # as in Linen: `**rest` names nothing


def test_attention_fn_that_cannot_sow():
    layer = MultiHeadDotProductAttention(num_heads=2, attention_fn=lambda query, key, value: query)
    with pytest.raises(AttentionFunctionError, match="'module'"):
        layer.init(jax.random.key(0), X, sow_weights=True)


def test_keys_and_values_that_contradict():
    layer = MultiHeadDotProductAttention(num_heads=2)
    with pytest.raises(AttentionInputsError, match="without inputs_k"):
        layer.init(jax.random.key(0), X, None, KV)
    with pytest.raises(AttentionInputsError, match="besides"), warnings.catch_warnings():
        layer.init(jax.random.key(0), X, KV, inputs_kv=KV)


def test_heads_must_divide_features():
    with pytest.raises(AttentionHeadsError, match="qkv_features=6 over num_heads=4"):
        MultiHeadDotProductAttention(num_heads=4).init(jax.random.key(0), X)
