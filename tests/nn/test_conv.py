"""Convolutions against Linen's, over all their options."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen
from jax import lax

from batiste import nn
from tests.nn.oracle import compare

RANDOM = np.random.default_rng(0)
X1 = RANDOM.normal(size=(2, 7, 6)).astype(np.float32)
X2 = RANDOM.normal(size=(2, 5, 6, 4)).astype(np.float32)
X3 = RANDOM.normal(size=(1, 4, 3, 5, 2)).astype(np.float32)
BF16 = jnp.bfloat16


def negated(*args, **kwargs):
    return -lax.conv_general_dilated(*args, **kwargs)


def to_float16(*arrays, dtype=None):
    del dtype
    return [None if array is None else jnp.asarray(array, jnp.float16) for array in arrays]


CONV = {
    "one axis": (X1, {"kernel_size": (3,)}),
    "integer size": (X1, {"kernel_size": 3}),
    "no batch axis": (X1[0], {"kernel_size": (3,)}),
    "many batch axes": (X1[None, :, None], {"kernel_size": (3,)}),
    "two axes": (X2, {"kernel_size": (3, 2)}),
    "three axes": (X3, {"kernel_size": (2, 3, 1), "strides": (1, 2, 1)}),
    "stride": (X2, {"kernel_size": (3, 3), "strides": 2}),
    "strides, valid": (X2, {"kernel_size": (3, 3), "strides": [2, 1], "padding": "VALID"}),
    "lower case": (X1, {"kernel_size": (4,), "padding": "same"}),
    "same, lower": (X1, {"kernel_size": (4,), "padding": "SAME_LOWER"}),
    "integer padding": (X2, {"kernel_size": (3, 3), "padding": 2}),
    "paddings": (X2, {"kernel_size": (3, 3), "padding": ((0, 2), 1)}),
    "dilated kernel": (X1, {"kernel_size": (3,), "kernel_dilation": 2}),
    "dilated input": (X1, {"kernel_size": (3,), "input_dilation": 2, "padding": 1}),
    "causal": (X1, {"kernel_size": (3,), "padding": "CAUSAL", "kernel_dilation": 2}),
    "causal with stride": (X1, {"kernel_size": (4,), "padding": "CAUSAL", "strides": 2}),
    "circular": (X1, {"kernel_size": (4,), "padding": "CIRCULAR"}),
    "circular, dilated, stride": (X2, {"kernel_size": (3, 2), "padding": "CIRCULAR", "kernel_dilation": (2, 1)}),
    "reflect": (X2, {"kernel_size": (3, 4), "padding": "REFLECT", "strides": (1, 2)}),
    "groups": (X1, {"kernel_size": (3,), "feature_group_count": 2}),
    "depthwise": (X2, {"kernel_size": (3, 3), "feature_group_count": 4}),
    "mask": (X1, {"kernel_size": (3,), "mask": np.tril(np.ones((3, 6, 4), np.float32))}),
    "bfloat16": (X1, {"kernel_size": (3,), "dtype": BF16}),
    "all in bfloat16": (jnp.asarray(X1, BF16), {"kernel_size": (3,), "param_dtype": BF16}),
    "promote_dtype": (X1, {"kernel_size": (3,), "promote_dtype": to_float16}),
    "convolution": (X1[0], {"kernel_size": (3,), "conv_general_dilated": negated}),
    "convolution's class": (X1, {"kernel_size": (3,), "conv_general_dilated_cls": lambda: negated}),
}


@pytest.mark.parametrize(("inputs", "options"), CONV.values(), ids=CONV)
def test_conv(inputs, options):
    compare(nn.Conv(features=4, **options), linen.Conv(features=4, **options), inputs)


LOCAL = {
    "one axis": (X1, {"kernel_size": (3,)}),
    "no batch axis": (X1[0], {"kernel_size": 3, "use_bias": False}),
    "two axes": (X2, {"kernel_size": (3, 2), "strides": 2, "padding": "CIRCULAR"}),
    "mask": (X1, {"kernel_size": (3,), "padding": "VALID", "mask": np.tril(np.ones((5, 18, 4), np.float32))}),
    "dilated kernel, stride": (X1, {"kernel_size": (3,), "strides": 2, "kernel_dilation": 2}),
    "dilated input": (X1, {"kernel_size": (2,), "input_dilation": 2, "padding": ((1, 2),)}),
    "causal in bfloat16": (X1, {"kernel_size": (3,), "padding": "CAUSAL", "dtype": BF16}),
}


@pytest.mark.parametrize(("inputs", "options"), LOCAL.values(), ids=LOCAL)
def test_conv_local(inputs, options):
    compare(nn.ConvLocal(features=4, **options), linen.ConvLocal(features=4, **options), inputs)


TRANSPOSE = {
    "one axis": (X1, {"kernel_size": 3}),
    "no batch axis, mask": (X1[0], {"kernel_size": (3,), "mask": np.tril(np.ones((3, 6, 4), np.float32))}),
    "strides": (X2, {"kernel_size": (3, 2), "strides": (2, 3)}),
    "valid": (X2, {"kernel_size": (2, 3), "strides": (2, 1), "padding": "VALID", "use_bias": False}),
    "paddings": (X2, {"kernel_size": (3, 3), "padding": ((1, 2), 3), "kernel_dilation": (2, 1)}),
    "transposed kernel": (X2, {"kernel_size": (3, 2), "strides": (2, 2), "transpose_kernel": True}),
    "circular": (X2, {"kernel_size": (3, 3), "strides": (2, 2), "padding": "CIRCULAR"}),
    "circular, transposed kernel": (
        X2,
        {"kernel_size": (4, 3), "strides": (2, 1), "padding": "CIRCULAR", "transpose_kernel": True},
    ),
    "circular, odd excess": (X1, {"kernel_size": (6,), "strides": (1,), "padding": "CIRCULAR"}),
    "bfloat16 summed in float32": (X1, {"kernel_size": 3, "dtype": BF16, "preferred_element_type": jnp.float32}),
    "promote_dtype": (X1, {"kernel_size": 3, "promote_dtype": to_float16}),
}


@pytest.mark.parametrize(("inputs", "options"), TRANSPOSE.values(), ids=TRANSPOSE)
def test_conv_transpose(inputs, options):
    compare(nn.ConvTranspose(features=4, **options), linen.ConvTranspose(features=4, **options), inputs)


def test_a_mask_of_booleans_is_one_of_numbers():
    mask = np.tril(np.ones((3, 6, 4), bool))
    ours = nn.Conv(4, (3,), mask=mask)
    compare(ours, linen.Conv(4, (3,), mask=mask.astype(np.float32)), X1)
