"""Layers: inputs, options and masks that do not fit one another."""

import functools

import jax
import jax.numpy as jnp

from batiste import nn
from batiste.errors import (
    AttentionEinsumError,
    AttentionFunctionError,
    AttentionHeadsError,
    AttentionInputsError,
    AttentionMaskError,
    AttentionShapeError,
    AxesError,
    BatchApplyError,
    BatchAxesError,
    CacheLengthError,
    CacheMaskError,
    CacheShapeError,
    CacheSizeError,
    CarryDtypeError,
    CarryShapeError,
    CellMethodError,
    ChannelGroupsError,
    DotArgumentsError,
    DropoutRateError,
    EinsumEquationError,
    EmbeddingIdsError,
    EmbeddingRangeError,
    FeatureAxesError,
    Fp8DtypeError,
    GroupChoiceError,
    IgnoredPrecisionWarning,
    InexactDtypeError,
    InputDtypeError,
    InputRankError,
    KernelMaskShapeError,
    LinenDeprecationWarning,
    MaskRankError,
    NonMatrixError,
    NormMaskShapeError,
    NotACellError,
    PaddingError,
    PoolingWindowError,
    RepeatBlockError,
    RepeatCarryError,
    RepeatInputError,
    RepeatLayersError,
    RotaryShapeError,
    SequenceShapeError,
    SequentialLayersError,
    SpatialArgumentError,
    UnsupportedOptionError,
    WindowError,
)
from tests.errors.rows import key, raises, x


@raises(InexactDtypeError, "int32 cannot hold fractions", "jnp.float32")
def a_layer_in_integers():
    nn.Dense(2, dtype=jnp.int32).init(key, x)


@raises(InputRankError, "/ was given an input of shape ()", "x[None]")
def a_number_as_an_input():
    nn.Dense(2).init(key, jnp.float32(1))


@raises(AxesError, "/ has reduction_axes=3", "2 axes", "from -2 to 1")
def an_axis_that_is_not_there():
    nn.LayerNorm(reduction_axes=3).init(key, x)


@raises(BatchAxesError, "/ has batch_dims=(1,)", "batch_dims=(0,)")
def batch_axes_in_the_middle():
    nn.DenseGeneral(2, batch_dims=(1,)).init(key, jnp.ones((2, 3, 4)))


@raises(ChannelGroupsError, "/ cannot share 3 channels", "num_groups=2", "must divide 3")
def groups_that_do_not_divide():
    nn.GroupNorm(num_groups=2).init(key, x)


@raises(GroupChoiceError, "num_groups=3 and group_size=1", "num_groups=None")
def two_ways_to_group():
    nn.GroupNorm(num_groups=3, group_size=1).init(key, x)


@raises(FeatureAxesError, "/ has", "(2, 3)")
def a_group_norm_without_its_channels():
    nn.GroupNorm(num_groups=1, reduction_axes=0).init(key, x)


@raises(SpatialArgumentError, "/ has strides=(1, 2)", "kernel_size=(3,) has 1 spatial axes")
def strides_of_an_axis_too_many():
    nn.Conv(2, kernel_size=(3,), strides=(1, 2)).init(key, jnp.ones((1, 4, 3)))


@raises(PaddingError, "/ has padding='SOME'", "'CIRCULAR'")
def an_unknown_padding():
    nn.Conv(2, kernel_size=(3,), padding="SOME").init(key, jnp.ones((1, 4, 3)))


@raises(KernelMaskShapeError, "/ has a mask of shape (3, 3)", "kernel has shape (3, 3, 2)", "jnp.ones((3, 3, 2))")
def a_mask_of_another_shape_than_the_kernel():
    nn.Conv(2, kernel_size=(3,), mask=jnp.ones((3, 3))).init(key, jnp.ones((1, 4, 3)))


@raises(NormMaskShapeError, "/ was given a mask of shape (3, 2)", "(2, 3)", "mask[..., None]")
def a_mask_of_another_shape_than_the_input():
    nn.LayerNorm().init(key, x, mask=jnp.ones((3, 2)))


@raises(UnsupportedOptionError, "/ has feature_group_count=3")
def groups_of_an_unshared_convolution():
    nn.ConvLocal(3, kernel_size=(3,), feature_group_count=3).init(key, jnp.ones((1, 4, 3)))


@raises(EinsumEquationError, "/ cannot use einsum_str='ab,bc'", "no output", "'...d,dh->...h'")
def an_equation_without_an_output():
    nn.Einsum((3, 2), "ab,bc").init(key, x)


@raises(EmbeddingIdsError, "/ looks up rows by integer ids", "float32", "attend")
def vectors_are_looked_up():
    nn.Embed(10, 4).init(key, x)


@raises(NonMatrixError, "/kernel' has shape (2, 3, 4)", "error_on_non_matrix=False")
def a_spectral_norm_of_a_convolution():
    norm = nn.SpectralNorm(nn.Conv(4, kernel_size=(2,)), error_on_non_matrix=True)
    norm.init(key, jnp.ones((1, 4, 3)), update_stats=True)


@raises(DropoutRateError, "/ has rate=50", "from 0", "to 1")
def a_rate_in_percent():
    nn.Dropout(50, deterministic=False).init(key, x)


@raises(SequentialLayersError, "Sequential cannot chain layers=Dense", "Sequential([")
def one_layer_is_no_list():
    nn.Sequential(nn.Dense(2))


@raises(BatchApplyError, "merges 2 leading axes", "(3,)")
def too_few_axes_to_merge():
    nn.BatchApply(jnp.sin)(jnp.ones(3))


@raises(PoolingWindowError, "window_shape=(2, 2)", "(2, 3)", "2 spatial axes and one of channels")
def a_window_larger_than_the_image():
    nn.max_pool(x, (2, 2))


@raises(AttentionShapeError, "dot_product_attention cannot attend", "(1, 2, 1, 4)", "(1, 2, 1, 8)")
def a_query_of_another_depth():
    query, keys = jnp.ones((1, 2, 1, 4)), jnp.ones((1, 2, 1, 8))
    nn.dot_product_attention(query, keys, keys)


@raises(AttentionEinsumError, "dot_product_attention", "only one")
def half_of_the_einsums():
    q = jnp.ones((1, 2, 1, 4))
    nn.dot_product_attention(q, q, q, qk_attn_weights_einsum=jnp.einsum)


@raises(AttentionFunctionError, "attention_fn", "no argument 'module'", "sow_weights")
def weights_of_a_function_that_shows_none():
    def plain(
        query, key, value, *, mask, dropout_rng, dropout_rate, broadcast_dropout, deterministic, dtype, precision
    ):
        return value

    layer = nn.MultiHeadDotProductAttention(num_heads=1, attention_fn=plain)
    layer.init(key, jnp.ones((1, 2, 4)), sow_weights=True)


@raises(AttentionHeadsError, "/ cannot share out qkv_features=3 over num_heads=2")
def heads_that_do_not_divide():
    nn.MultiHeadDotProductAttention(num_heads=2).init(key, jnp.ones((1, 2, 3)))


@raises(AttentionInputsError, "without inputs_k", "layer(q, k, v)")
def values_without_keys():
    inputs = jnp.ones((1, 2, 4))
    nn.MultiHeadDotProductAttention(num_heads=2).init(key, inputs, None, inputs)


@raises(CacheShapeError, "/ decodes with a cache of shape (1, 5, 2, 2)", "(2, 1, 2, 2)", "one token a call")
def a_step_of_another_batch():
    layer = nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=4, decode=True)
    variables = layer.init(key, jnp.ones((1, 5, 4)))
    layer.apply(variables, jnp.ones((2, 1, 4)), mutable=["cache"])


@raises(CacheLengthError, "/ is given 3 tokens at once", "room for 2", "max_length")
def more_tokens_than_the_cache_holds():
    layer = nn.GroupedQueryAttention(num_heads=2, num_kv_heads=1, decode=True, max_length=2)
    variables = layer.init(key, jnp.ones((1, 2, 4)))
    layer.apply(variables, jnp.ones((1, 3, 4)), mutable=["cache"])


@raises(CacheSizeError, "/ has decode=True with max_length=None", "Set max_length")
def a_cache_without_a_size():
    nn.GroupedQueryAttention(num_heads=2, num_kv_heads=1, decode=True).init(key, jnp.ones((1, 3, 4)))


@raises(CacheMaskError, "/ is given a mask while decode=True", "position -1")
def a_mask_for_a_cache():
    layer = nn.GroupedQueryAttention(num_heads=2, num_kv_heads=1, decode=True, max_length=4)
    layer.init(key, jnp.ones((1, 3, 4)), mask=jnp.ones((1, 1, 3, 3)))


@raises(MaskRankError, "(2, 1, 3, 3), (1, 3, 3)", "[batch..., heads, queries, keys]")
def masks_of_different_rank():
    nn.combine_masks(jnp.ones((2, 1, 3, 3)), jnp.ones((1, 3, 3)))


@raises(RotaryShapeError, "whole pairs", "even depth")
def a_rotation_of_odd_depth():
    nn.rotary_angles(jnp.arange(3), 5)


@raises(WindowError, "/ has window=2 with causal=False", "causal=True")
def a_window_that_looks_both_ways():
    layer = nn.GroupedQueryAttention(num_heads=2, num_kv_heads=1, window=2, causal=False)
    layer.init(key, jnp.ones((1, 3, 4)))


@raises(CellMethodError, "Cell does not say its initialize_carry", "Write it in the class")
def a_cell_without_a_carry():
    class Cell(nn.RNNCellBase):
        pass

    Cell().initialize_carry(key, (3,))


@raises(NotACellError, "/ is to run over a sequence with cell=Dense,", "nn.RNN(nn.LSTMCell(64))")
def a_dense_layer_as_a_cell():
    nn.RNN(nn.Dense(2)).init(key, jnp.ones((1, 4, 3)))


@raises(CarryShapeError, "/ is given a carry of", "features=4", "initialize_carry")
def a_carry_of_two_sizes():
    nn.LSTMCell(4).init(key, (jnp.ones((2, 3)), jnp.ones((2, 4))), x)


@raises(CarryDtypeError, "/ runs Doubling over", "float32[2,3]", "float16[2,3]", "param_dtype")
def a_carry_that_changes_its_dtype():
    class Doubling(nn.RNNCellBase):
        param_dtype = jnp.float32
        num_feature_axes = 1

        @nn.nowrap
        def initialize_carry(self, rng, input_shape):
            return jnp.zeros(input_shape)

        def __call__(self, carry, inputs):
            return (2 * carry).astype(jnp.float16), inputs

    nn.RNN(Doubling()).init(key, jnp.ones((2, 5, 3)))


@raises(AttentionMaskError, "dot_product_attention_weights is given a mask of shape (5, 1, 2, 2)", "(1, 1, 2, 2)")
def a_mask_of_another_batch():
    inputs = jnp.ones((1, 2, 1, 4))
    nn.dot_product_attention(inputs, inputs, inputs, mask=jnp.ones((5, 1, 2, 2)))


@raises(SequenceShapeError, "/ cannot run over inputs of shape (3,)", "leaves none for time")
def a_sequence_without_time():
    nn.RNN(nn.LSTMCell(4)).init(key, jnp.ones(3))


@raises(Fp8DtypeError, "float16 is no 8-bit float type", "float8_e4m3fn")
def sixteen_bits_are_not_eight():
    dot_general = functools.partial(nn.NANOOFp8DotGeneralOp, e4m3_dtype=jnp.float16)
    nn.Dense(2, dot_general_cls=dot_general).init(key, x)


@raises(DotArgumentsError, "is called with 2 positional arguments", "it needs")
def a_product_without_its_axes():
    nn.Fp8DotGeneral().init(key, x, x)


@raises(LinenDeprecationWarning, "inputs_kv")
def an_argument_of_older_linen():
    inputs = jnp.ones((1, 2, 4))
    nn.MultiHeadDotProductAttention(num_heads=2).init(key, inputs, inputs_kv=inputs)


@raises(IgnoredPrecisionWarning, "does not use precision")
def a_precision_of_a_product_in_8_bits():
    nn.fp8_ops.dot_general_with_precision(x, x.T, (((1,), (0,)), ((), ())), precision="highest")


@raises(RepeatBlockError, "Repeat cannot repeat its block", "an object of type int", "Repeat(Block(...), 12")
def a_block_that_is_no_module():
    nn.Repeat(3, 2)


@raises(RepeatCarryError, "/layers_0 returns float32[2, 5] in place of float32[2, 3]", "Let the block keep shapes")
def a_block_that_changes_the_carry():
    nn.Repeat(nn.Dense(5), 2).init(key, x)


@raises(RepeatInputError, "Repeat at /: in_axes=(0,)", "for each of the 0 inputs", "nn.broadcast")
def axes_for_inputs_that_are_not_there():
    nn.Repeat(nn.Dense(3), 2, in_axes=(0,)).init(key, x)


@raises(RepeatLayersError, "Repeat at / needs equal layers", "is missing in layers_1", "stack_layers")
def a_layer_that_is_missing():
    model = nn.Repeat(nn.Dense(3), 2)
    variables = model.init(key, x)
    del variables["params"]["layers_1"]
    model.apply(variables, x)


@raises(InputDtypeError, "/ was given an input of dtype int32", "float", "x.astype(jnp.float32)")
def a_dropout_of_integers():
    nn.Dropout(0.5, deterministic=False).apply({}, jnp.arange(4), rngs={"dropout": key})


@raises(EmbeddingRangeError, "/ looks up the id 10, but has 10 rows", "num_embeddings", "jnp.clip")
def an_id_out_of_range():
    layer = nn.Embed(10, 4)
    variables = layer.init(key, jnp.arange(2))
    with jax.debug_nans(True):
        layer.apply(variables, jnp.array([1, 10]))
