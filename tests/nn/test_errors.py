"""Every error of layers, raised by the smallest program, with what it says: the layer, what was given, the way out."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from batiste import errors, nn
from batiste.dtypes import canonicalize_dtype
from batiste.errors import LayerError

X = np.ones((2, 4, 6), np.float32)


def run(layer, *args, **kwargs):
    """Call a layer that is part of a model, so that it has a path."""

    class Model(nn.Module):
        @nn.compact
        def __call__(self, *args):
            return layer.clone(name="here", parent=self)(*args, **kwargs)

    return Model().init({"params": jax.random.key(0), "dropout": jax.random.key(1)}, *args)


CASES = {
    "number into Dense": (
        "InputRankError",
        lambda: run(nn.Dense(3), jnp.float32(1)),
        "/here was given .* shape \\(\\)",
    ),
    "image without channels": ("InputRankError", lambda: run(nn.Conv(3, (3, 3)), X[0]), "at least 3 axes"),
    "transposed, without channels": ("InputRankError", lambda: run(nn.ConvTranspose(3, (3, 3)), X[0]), "3 axes"),
    "number into GroupNorm": ("InputRankError", lambda: run(nn.GroupNorm(1), jnp.float32(1)), "channels"),
    "axis out of range": ("AxesError", lambda: run(nn.LayerNorm(reduction_axes=3), X), "reduction_axes=3(.|\n)*to 2"),
    "axis named twice": ("AxesError", lambda: run(nn.DenseGeneral(3, axis=(2, -1)), X), "named twice"),
    "axis twice": (
        "AxesError",
        lambda: run(nn.DenseGeneral(3, axis=0, batch_dims=(0,)), X),
        "batch_dims as well",
    ),
    "dropout axis": ("AxesError", lambda: run(nn.Dropout(0.5, (5,), deterministic=False), X), "broadcast_dims"),
    "axis of a scalar weight": ("AxesError", lambda: run(nn.WeightNorm(nn.PReLU(), variable_filter=None), X), "0 axes"),
    "inner batch axis": ("BatchAxesError", lambda: run(nn.DenseGeneral(3, batch_dims=(1,)), X), r"batch_dims=\(0,\)"),
    "channels of groups": (
        "ChannelGroupsError",
        lambda: run(nn.Conv(4, (3,), feature_group_count=4), X),
        "6 input channels .* feature_group_count=4(.|\n)*1, 2, 3, 6",
    ),
    "features of groups": ("ChannelGroupsError", lambda: run(nn.Conv(3, (3,), feature_group_count=2), X), "3 features"),
    "normalised groups": ("ChannelGroupsError", lambda: run(nn.GroupNorm(), X), "num_groups=32"),
    "size of groups": ("ChannelGroupsError", lambda: run(nn.GroupNorm(None, 4), X), "group_size=4"),
    "two kinds of groups": ("GroupChoiceError", lambda: run(nn.GroupNorm(3, 2), X), "num_groups=3 and group_size=2"),
    "no kind of groups": ("GroupChoiceError", lambda: run(nn.GroupNorm(None), X), "num_groups=None"),
    "groups without channels": ("FeatureAxesError", lambda: run(nn.GroupNorm(3, reduction_axes=1), X), r"\(1, -1\)"),
    "batch of instances": ("FeatureAxesError", lambda: run(nn.InstanceNorm(feature_axes=0), X), r"x\[None\]"),
    "strides": ("SpatialArgumentError", lambda: run(nn.Conv(3, (3,), strides=(1, 2)), X), r"strides=\(1, 2\)"),
    "dilation": (
        "SpatialArgumentError",
        lambda: run(nn.ConvTranspose(3, (3,), kernel_dilation=(1, 2)), X),
        "kernel_dilation",
    ),
    "unknown padding": ("PaddingError", lambda: run(nn.Conv(3, (3,), padding="SOME"), X), "'CIRCULAR'"),
    "padding of another layer": ("PaddingError", lambda: run(nn.ConvTranspose(3, (3,), padding="CAUSAL"), X), "'SAME'"),
    "too many widths": ("PaddingError", lambda: run(nn.Conv(3, (3,), padding=(1, 1)), X), "Give 1 entries"),
    "no pair": ("PaddingError", lambda: run(nn.Conv(3, (3,), padding=((1, 1, 1),)), X), "pair"),
    "causal images": ("PaddingError", lambda: run(nn.Conv(3, (3, 3), padding="CAUSAL"), X), "2 spatial axes"),
    "named padding, dilated": ("PaddingError", lambda: run(nn.Conv(3, (3,), input_dilation=2), X), "input_dilation"),
    "mask of a kernel": (
        "KernelMaskShapeError",
        lambda: run(nn.Conv(4, (3,), mask=np.ones((3, 6, 1))), X),
        r"\(3, 6, 1\).*\(3, 6, 4\)",
    ),
    "mask of an input": (
        "NormMaskShapeError",
        lambda: run(nn.LayerNorm(), X, mask=np.ones((2, 4, 5))),
        r"\(2, 4, 5\).*\(2, 4, 6\)",
    ),
    "mask of more axes": (
        "NormMaskShapeError",
        lambda: run(nn.BatchNorm(False), X, mask=np.ones((1, 2, 4, 6))),
        "mask",
    ),
    "groups of positions": (
        "UnsupportedOptionError",
        lambda: run(nn.ConvLocal(4, (3,), feature_group_count=2), X),
        "feature_group_count=2",
    ),
    "equation without output": ("EinsumEquationError", lambda: run(nn.Einsum((6, 3), "abc,cd"), X), "no output"),
    "three operands": ("EinsumEquationError", lambda: run(nn.Einsum((6, 3), "abc,cd,de->abe"), X), "3 operands"),
    "axes of the input": ("EinsumEquationError", lambda: run(nn.Einsum((6, 3), "ab,bc->ac"), X), "input has 3 axes"),
    "axes of the kernel": ("EinsumEquationError", lambda: run(nn.Einsum((6, 3), "abc,c->ab"), X), "kernel has 2 axes"),
    "ids that are no integers": ("EmbeddingIdsError", lambda: run(nn.Embed(5, 3), X), "float32(.|\n)*attend"),
    "weight of three axes": (
        "NonMatrixError",
        lambda: run(nn.SpectralNorm(nn.Conv(3, (2,)), error_on_non_matrix=True), X, update_stats=True),
        r"kernel' has shape \(2, 6, 3\)",
    ),
    "rate": ("DropoutRateError", lambda: run(nn.Dropout(1.5, deterministic=False), X), "rate=1.5"),
    "no layers": ("SequentialLayersError", lambda: run(nn.Sequential([]), X), "nothing to call"),
    "a layer": ("SequentialLayersError", lambda: nn.Sequential(nn.Dense(3)), "Dense: it is no sequence"),
    "no axis to merge": ("BatchApplyError", lambda: nn.BatchApply(jnp.sin)(jnp.ones(3)), r"\(3,\)"),
    "other axes to merge": ("BatchApplyError", lambda: nn.BatchApply(jnp.add)(X, X.swapaxes(0, 1)), "agree"),
    "merged axis is lost": ("BatchApplyError", lambda: nn.BatchApply(jnp.sum)(X), "keep the merged axis"),
    "window": ("PoolingWindowError", lambda: nn.max_pool(X, (2, 2, 2)), r"window_shape=\(2, 2, 2\)"),
    "window of one number": ("PoolingWindowError", lambda: nn.max_pool(X, 2), "no sequence"),
    "pooling strides": ("PoolingWindowError", lambda: nn.avg_pool(X, (2,), strides=(1, 1)), "strides"),
    "pooling padding": ("PoolingWindowError", lambda: nn.avg_pool(X, (2,), padding="CIRCULAR"), "'CIRCULAR'"),
    "pooling widths": ("PoolingWindowError", lambda: nn.avg_pool(X, (2,), padding=(1,)), "no pairs"),
    "pooling widths of one axis": ("PoolingWindowError", lambda: nn.avg_pool(X, (2,), padding=1), "1 spatial axes"),
    "integers for fractions": ("InexactDtypeError", lambda: canonicalize_dtype(X, dtype=jnp.int8), "int8"),
    "layer in integers": ("InexactDtypeError", lambda: run(nn.Dense(3, dtype=jnp.int32), X), "int32"),
}


@pytest.mark.parametrize(("error", "program", "text"), CASES.values(), ids=CASES)
def test_error(error, program, text):
    with pytest.raises(getattr(errors, error), match=text) as caught:
        program()
    again = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - its own bytes
    assert str(again) == str(caught.value)


def test_every_error_of_layers_is_here():
    raised = {error for error, _, _ in CASES.values()}
    known = {name for name in errors.__all__ if getattr(errors, name).__module__ == LayerError.__module__}
    repeat = {name for name in known if name.startswith("Repeat")}  # in test_repeat.py, in every way of running
    elsewhere = {"EmbeddingRangeError", "InputDtypeError"}  # in tests/module/test_edges.py and the catalogue
    assert known - repeat - elsewhere - {"LayerError"} == raised
