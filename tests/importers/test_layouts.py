"""Each layout against PyTorch's own formula, through a layer of batiste; and back, to the bit."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

from batiste import nn, tree
from batiste.errors import ExportMismatchError, ImportMismatchError
from batiste.importers import (
    Attention,
    AttentionIn,
    AttentionOut,
    BatchNorm,
    Conv,
    ConvTranspose,
    Embedding,
    FlattenLinear,
    FusedAttentionIn,
    Gru,
    Identity,
    LayerNorm,
    Layout,
    Linear,
    Lstm,
    Reshape,
    Rnn,
    Rule,
    Transpose,
    WeightNorm,
    from_torch,
    to_torch,
)
from tests.importers import formulas
from tests.importers.formulas import draw, tensors, to_first, to_last


@dataclasses.dataclass(frozen=True)
class Case:
    """A layer of PyTorch, the layer here, and what both should compute."""

    layout: Layout
    state: dict[str, Any]
    layer: nn.Module
    inputs: tuple[Any, ...]
    expected: Any
    outputs: Callable[[Any], Any] = np.asarray
    dropped: tuple[str, ...] = ()


def recurrent(kind, cell, layout, formula, end):
    count = {"lstm": 4, "gru": 3, "rnn": 1}[kind]
    shapes = {
        "weight_ih": (count * 5, 3),
        "weight_hh": (count * 5, 5),
        "bias_ih": (count * 5,),
        "bias_hh": (count * 5,),
    }
    state = tensors(**{f"{name}{end}": shape for name, shape in shapes.items()})
    x = draw(2, 4, 3)
    return Case(layout, state, nn.RNN(cell, name="layer"), (x,), formula(state, x, end), dropped=("bias_ih", "bias_hh"))


class Heads(nn.Module):
    """Attention with projections of its own names, as models outside of ``torch.nn`` have them."""

    @nn.compact
    def __call__(self, x):
        return nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=6, out_features=4, name="attn")(x, x, x)


class Flattened(nn.Module):
    """A dense layer behind a flattened image."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(4, name="layer")(x.reshape(len(x), -1))


def convolution(rank, groups=1):
    state = tensors(weight=(4, 4 // groups, *range(2, 2 + rank)), bias=(4,))
    x = draw(2, 4, *range(5, 5 + rank))
    layer = nn.Conv(4, range(2, 2 + rank), strides=2, padding=1, feature_group_count=groups)
    return Case(Conv(), state, layer, (to_last(x),), formulas.conv(state, x, 2, 1, groups), to_first)


def transposed(rank, *, transpose_kernel, groups=1):
    state = tensors(weight=(4, 4 // groups, *[4] * rank), bias=(4,))
    x = draw(2, 4, *range(3, 3 + rank))
    layer = nn.ConvTranspose(4, [4] * rank, strides=[2] * rank, padding=[(2, 2)] * rank,
                             transpose_kernel=transpose_kernel)  # fmt: skip
    expected = formulas.conv_transpose(state, x, 2, 1, groups)  # 4 - 1 - 1 = 2 around the dilated input
    return Case(ConvTranspose(transpose_kernel, groups), state, layer, (to_last(x),), expected, to_first)


def linear():
    state, x = tensors(weight=(4, 3), bias=(4,)), draw(2, 3)
    return Case(Linear(), state, nn.Dense(4), (x,), formulas.linear(state, x))


def linear_without_bias():
    state, x = tensors(weight=(4, 3)), draw(2, 3)
    return Case(Linear(), state, nn.Dense(4, use_bias=False), (x,), formulas.linear(state, x))


def linear_transposed():
    state, x = tensors(weight=(3, 4), bias=(4,)), draw(2, 3)
    return Case(Linear(transposed=True), state, nn.Dense(4), (x,), x @ state["weight"] + state["bias"])


def normed_linear(dim, lengths):
    state, x = tensors(weight_g=lengths, weight_v=(4, 3), bias=(4,)), draw(2, 3)
    expected = formulas.linear(formulas.weight_norm(state, dim), x)
    return Case(WeightNorm(dim=dim), state, nn.Dense(4), (x,), expected, dropped=("weight",))


def normed_convolution():
    state, x = tensors(weight_g=(4, 1, 1), weight_v=(4, 3, 5), bias=(4,)), draw(2, 3, 9)
    expected = formulas.conv(formulas.weight_norm(state), x)
    parametrized = {
        "parametrizations.weight.original0": state["weight_g"],
        "parametrizations.weight.original1": state["weight_v"],
        "bias": state["bias"],
    }
    layer = nn.Conv(4, (5,), padding=0)
    return Case(WeightNorm(Conv()), parametrized, layer, (to_last(x),), expected, to_first, ("parametrizations",))


def flattened():
    state, x = tensors(weight=(4, 24), bias=(4,)), draw(5, 2, 3, 4)
    return Case(FlattenLinear((2, 3, 4)), state, Flattened(), (to_last(x),), formulas.linear(state, x.reshape(5, -1)))


def batch_norm():
    state = tensors(weight=(4,), bias=(4,), running_mean=(4,), running_var=(4,))
    state["num_batches_tracked"] = np.asarray(7)
    x, dropped = draw(3, 4), ("num_batches_tracked",)
    layer = nn.BatchNorm(use_running_average=True)
    return Case(BatchNorm(), state, layer, (x,), formulas.batch_norm(state, x), dropped=dropped)


def layer_norm():
    state, x = tensors(weight=(6,), bias=(6,)), draw(3, 6)
    return Case(LayerNorm(), state, nn.LayerNorm(epsilon=1e-5), (x,), formulas.layer_norm(state, x))


def embedding():
    state, x = tensors(weight=(7, 4)), np.array([3, 1, 6])
    return Case(Embedding(), state, nn.Embed(7, 4), (x,), state["weight"][x])


def attention():
    shapes = {"in_proj_weight": (18, 6), "in_proj_bias": (18,), "out_proj__weight": (6, 6), "out_proj__bias": (6,)}
    state, x, y = tensors(**shapes), draw(2, 5, 6), draw(2, 3, 6, seed=2)
    layer = nn.MultiHeadDotProductAttention(num_heads=2)
    return Case(Attention(), state, layer, (x, y, y), formulas.multihead(state, x, y, y, 2))


def attention_of_several_sizes():
    state = tensors(
        q_proj_weight=(6, 6),
        k_proj_weight=(6, 4),
        v_proj_weight=(6, 5),
        in_proj_bias=(18,),
        out_proj__weight=(6, 6),
        out_proj__bias=(6,),
    )
    query, key, value = draw(2, 5, 6), draw(2, 3, 4, seed=2), draw(2, 3, 5, seed=3)
    layer = nn.MultiHeadDotProductAttention(num_heads=3)
    expected = formulas.multihead(state, query, key, value, 3)
    return Case(Attention(heads=3), state, layer, (query, key, value), expected)


CASES = {
    "linear": linear,
    "linear-without-bias": linear_without_bias,
    "linear-transposed": linear_transposed,
    "flatten-linear": flattened,
    "conv1d": lambda: convolution(1),
    "conv2d": lambda: convolution(2),
    "conv3d": lambda: convolution(3),
    "conv2d-groups": lambda: convolution(2, groups=2),
    "conv-transpose1d": lambda: transposed(1, transpose_kernel=False),
    "conv-transpose2d": lambda: transposed(2, transpose_kernel=False),
    "conv-transpose2d-kernel": lambda: transposed(2, transpose_kernel=True),
    "conv-transpose3d-kernel": lambda: transposed(3, transpose_kernel=True),
    "conv-transpose2d-groups": lambda: transposed(2, transpose_kernel=False, groups=2),
    "conv-transpose2d-kernel-groups": lambda: transposed(2, transpose_kernel=True, groups=4),
    "weight-norm": lambda: normed_linear(0, (4, 1)),
    "weight-norm-last": lambda: normed_linear(1, (1, 3)),
    "weight-norm-whole": lambda: normed_linear(None, ()),
    "weight-norm-conv": normed_convolution,
    "batch-norm": batch_norm,
    "layer-norm": layer_norm,
    "embedding": embedding,
    "attention": attention,
    "attention-of-several-sizes": attention_of_several_sizes,
    "lstm": lambda: recurrent("lstm", nn.OptimizedLSTMCell(5), Lstm(), formulas.lstm, ""),
    "lstm-layer": lambda: recurrent("lstm", nn.LSTMCell(5), Lstm(1, reverse=True), formulas.lstm, "_l1_reverse"),
    "gru": lambda: recurrent("gru", nn.GRUCell(5), Gru(), formulas.gru, ""),
    "gru-layer": lambda: recurrent("gru", nn.GRUCell(5), Gru(0), formulas.gru, "_l0"),
    "rnn": lambda: recurrent("rnn", nn.SimpleCell(5), Rnn(), formulas.rnn, ""),
}


def shapes_of(layer, *inputs):
    return jax.eval_shape(layer.init, jax.random.key(0), *inputs)


def path_of(shapes):
    """The path of the one layer that has parameters."""
    path = "params"
    node = shapes["params"]
    while len(node) == 1 and isinstance(next(iter(node.values())), dict) and set(node) & {"layer", "cell"}:
        name, node = next(iter(node.items()))
        path = f"{path}/{name}"
    return path


@pytest.mark.parametrize("name", CASES)
def test_the_layer_computes_what_pytorch_does(name):
    case = CASES[name]()
    shapes = shapes_of(case.layer, *case.inputs)
    mapping = [("", path_of(shapes), case.layout)]
    variables = from_torch(case.state, shapes, mapping)
    assert jax.tree.structure(variables) == jax.tree.structure(shapes)
    assert not tree.diff(jax.eval_shape(lambda: variables), shapes)
    found = case.outputs(np.asarray(case.layer.apply(variables, *case.inputs)))
    np.testing.assert_allclose(found, case.expected, rtol=1e-5, atol=1e-5)

    state = to_torch(variables, mapping)
    kept = {key for key in case.state if not key.startswith(case.dropped or "-")}
    assert {key: state[key].shape for key in kept} == {key: case.state[key].shape for key in kept}
    assert all(np.array_equal(state[key], case.state[key]) for key in kept)
    again = from_torch(state, shapes, mapping)
    assert not tree.diff(again, variables)


def test_attention_of_separate_layers():
    """As BERT has it: four linear layers; and fused, as GPT-2 has it: one that is transposed already."""
    shapes = {"q": (6, 4), "k": (6, 4), "v": (6, 4), "o": (4, 6)}
    state = {}
    for layer, shape in shapes.items():
        state |= {f"{layer}.{name}": value for name, value in tensors(ord(layer), weight=shape, bias=shape[:1]).items()}
    x, model = draw(2, 3, 4), Heads()
    target = shapes_of(model, x)
    mapping = [
        ("q", "params/attn/query", AttentionIn()),
        ("k", "params/attn/key", AttentionIn()),
        ("v", "params/attn/value", AttentionIn()),
        ("o", "params/attn/out", AttentionOut()),
    ]
    variables = from_torch(state, target, mapping)
    layers = {layer: {name: state[f"{layer}.{name}"] for name in ("weight", "bias")} for layer in shapes}
    projected = [formulas.linear(layers[layer], x) for layer in "qkv"]
    expected = formulas.linear(layers["o"], formulas.attention(*projected, 2))
    np.testing.assert_allclose(model.apply(variables, x), expected, rtol=1e-5, atol=1e-5)

    fused = {
        "c_attn.weight": np.concatenate([layers[layer]["weight"] for layer in "qkv"]).T,
        "c_attn.bias": np.concatenate([layers[layer]["bias"] for layer in "qkv"]),
        "c_proj.weight": layers["o"]["weight"].T,
        "c_proj.bias": layers["o"]["bias"],
    }
    mapping = [
        ("c_attn", "params/attn", FusedAttentionIn(transposed=True)),
        ("c_proj", "params/attn/out", AttentionOut(transposed=True)),
    ]
    assert not tree.diff(from_torch(fused, target, mapping), variables)
    back = to_torch(variables, mapping)
    assert back.keys() == fused.keys()
    assert all(np.array_equal(back[name], fused[name]) for name in fused)


def test_heads_without_a_target():
    state = tensors(weight=(6, 4), bias=(6,))
    kernel = from_torch(state, None, [("", "q", AttentionIn(heads=3))])["q"]["kernel"]
    assert np.array_equal(kernel, state["weight"].T.reshape(4, 3, 2))
    with pytest.raises(ImportMismatchError, match=r"nothing says how many heads there are; give the layout `heads=`"):
        from_torch(state, None, [("", "q", AttentionIn())])


def test_single_tensors():
    state = tensors(a=(2, 3), b=(2, 3, 4), c=(1, 6), d=(5,))
    mapping = [
        ("a", "a", Transpose()),
        ("b", "b", Transpose((2, 0, 1))),
        ("c", "c", Reshape((1, 6), (2, 3))),
        Rule("d", "d"),
    ]
    found = from_torch(state, None, mapping)
    assert np.array_equal(found["a"], state["a"].T)
    assert np.array_equal(found["b"], state["b"].transpose(2, 0, 1))
    assert np.array_equal(found["c"], state["c"].reshape(2, 3))
    assert np.array_equal(found["d"], state["d"])
    back = to_torch(found, mapping)
    assert all(np.array_equal(back[name], state[name]) for name in state)


def test_arrays_are_their_own_and_in_order():
    """Safetensors writes views of another order wrong, and a view would change with the model it came from."""
    state = tensors(weight=(4, 3), bias=(4,))
    found = from_torch(state, None, [("", "", Linear())])
    assert found["kernel"].flags.c_contiguous
    assert not np.shares_memory(found["bias"], state["bias"])
    back = to_torch(found, [("", "", Linear())])
    assert back["weight"].flags.c_contiguous
    assert not np.shares_memory(back["bias"], found["bias"])


MISFITS = [
    (Linear(), {"weight": (2, 3, 4)}, "the weight of a linear layer has 2 axes, and this one 3"),
    (Conv(), {"weight": (2, 3)}, "the weight of a convolution has 3 to 5 axes, and this one 2"),
    (ConvTranspose(), {"weight": (2, 3)}, "the weight of a convolution has 3 to 5 axes"),
    (FlattenLinear((2, 2)), {"weight": (3, 5)}, r"an image of \[2, 2\] has 4 inputs, and the layer 5"),
    (AttentionIn(heads=4), {"weight": (6, 5)}, "6 is not 4 heads of one size"),
    (FusedAttentionIn(heads=1), {"weight": (4, 5)}, "4 outputs are not those of queries, keys and values"),
    (FusedAttentionIn(heads=1), {"bias": (4,)}, r"a bias of \[4\] is not 3 of one size"),
    (Lstm(), {"weight_ih": (6, 5)}, "6 rows are not 4 gates of one size"),
    (ConvTranspose(groups=2), {"weight": (3, 2, 4)}, "3 inputs are not 2 groups of one size"),
    (WeightNorm(), {"weight_g": (1, 3), "weight_v": (4, 3)}, r"the lengths are \[1, 3\], and \[4, 1\] with dim=0"),
    (WeightNorm(dim=2), {"weight_g": (4, 1), "weight_v": (4, 3)}, "it has 2 axes, and dim=2 is none of them"),
    (WeightNorm(), {"weight_g": (4, 1)}, "WeightNorm needs more: there is no weight_v"),
    (Transpose((0, 2)), {"x": (6, 5)}, r"the axes \(0, 2\) are not those of 2 axes"),
    (Reshape((6,), (2, 3)), {"x": (5,)}, r"\[5\] cannot go from \[6\] to \[2, 3\]"),
]


@pytest.mark.parametrize(("layout", "shapes", "says"), MISFITS, ids=range(len(MISFITS)))
def test_a_tensor_that_does_not_fit(layout, shapes, says):
    single = "x" in shapes
    with pytest.raises(ImportMismatchError, match=says):
        from_torch(tensors(**shapes), None, [("x" if single else "", "y" if single else "", layout)])


@pytest.mark.parametrize("layout", [AttentionIn(), AttentionOut(), FusedAttentionIn(), Linear(), Conv(), Lstm()])
def test_a_leaf_that_does_not_fit(layout):
    leaves = {"kernel": np.ones(2)}
    if isinstance(layout, FusedAttentionIn):
        leaves = {role: {"kernel": np.ones((2, 3))} for role in ("query", "key", "value")}
    if isinstance(layout, Lstm):
        leaves = {f"i{gate}": {"kernel": np.ones(3)} for gate in "ifgo"}
    with pytest.raises(ExportMismatchError, match="axes"):
        to_torch({"params": {"q": leaves}}, [("q", "params/q", layout)])


REFUSED = [
    (
        Attention(heads=2),
        {"in_proj_weight": (18, 6), "bias_k": (1, 1, 6), "bias_v": (1, 1, 6)},
        "bias_k, bias_v: .*bias_kv",
    ),
    (Lstm(), {"weight_ih": (8, 3), "weight_hh": (8, 1), "weight_hr": (1, 2)}, "weight_hr: .*`proj_size`"),
    (Lstm(1, reverse=True), {"weight_hr_l1_reverse": (1, 2)}, "weight_hr_l1_reverse: .*`proj_size`"),
]


@pytest.mark.parametrize(("layout", "shapes", "says"), REFUSED, ids=range(len(REFUSED)))
def test_what_no_layer_here_has(layout, shapes, says):
    with pytest.raises(ImportMismatchError, match=says):
        from_torch(tensors(**shapes), None, [("", "layer", layout)])


def test_a_weight_without_a_direction():
    """Rows of zeros have no direction of their own, and come back as zeros."""
    kernel = draw(3, 4) * np.array([1, 0, 1, 1], np.float32)
    mapping = [("", "layer", WeightNorm())]
    state = to_torch({"layer": {"kernel": kernel}}, mapping)
    assert np.array_equal(state["weight_g"][1], [0])
    assert np.array_equal(from_torch(state, None, mapping)["layer"]["kernel"], kernel)


def test_one_weight_of_several_under_weight_norm():
    state = tensors(weight_ih_l0=(8, 3), weight_hh_l0_g=(8, 1), weight_hh_l0_v=(8, 2), bias_ih_l0=(8,), bias_hh_l0=(8,))
    plain = {
        **state,
        "weight_hh_l0": formulas.weight_norm({key.replace("hh_l0_", ""): state[key] for key in state})["weight"].astype(
            np.float32
        ),
    }
    del plain["weight_hh_l0_g"], plain["weight_hh_l0_v"]
    found = from_torch(state, None, [("", "cell", WeightNorm(Lstm(0), tensor="weight_hh_l0"))])
    assert not tree.diff(found, from_torch(plain, None, [("", "cell", Lstm(0))]), rtol=1e-6)


def test_groups_that_are_connected():
    kernel = np.ones((3, 4, 4), np.float32)
    with pytest.raises(ExportMismatchError, match="it connects channels of different groups, of which there are 2"):
        to_torch({"up": {"kernel": kernel}}, [("up", "up", ConvTranspose(groups=2))])


def test_layouts_are_values():
    assert Lstm(1) == Lstm(layer=1)
    assert len({Linear(), Linear(), Linear(transposed=True), Identity()}) == 3
