"""The formulas of `tests/importers` are PyTorch's: every layout against the layer of `torch.nn` itself."""

import operator

import jax
import ml_dtypes
import numpy as np
import pytest
import torch

from batiste import nn, tree
from batiste.errors import ImportMismatchError, RefusedCheckpointError
from batiste.importers import (
    Attention,
    BatchNorm,
    Conv,
    ConvTranspose,
    Embedding,
    FlattenLinear,
    Gru,
    LayerNorm,
    Linear,
    Lstm,
    Rnn,
    WeightNorm,
    from_torch,
    plan_import,
    to_torch,
)
from tests.importers.formulas import draw, to_first, to_last

pytestmark = pytest.mark.filterwarnings("default")


def weights(layer):
    """Give every parameter and every average of a layer other values than its first."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in layer.state_dict().items():
            if tensor.is_floating_point():
                drawn = torch.randn(tensor.shape, generator=generator)
                tensor.copy_(drawn.abs() + 0.5 if name.endswith("var") else drawn)
    return layer.eval()


def base(shapes):
    (name, inner), *rest = shapes["params"].items()
    return f"params/{name}" if not rest and isinstance(inner, dict) and name in {"cell", "layer"} else "params"


def compare(layer, layout, ours, inputs, theirs, outputs=np.asarray):
    """Assert that both layers compute the same, that a strict load takes what comes back, and that it is the same."""
    shapes = jax.eval_shape(ours.init, jax.random.key(0), *inputs)
    mapping = [("", base(shapes), layout)]
    variables = from_torch(layer.state_dict(), shapes, mapping)
    np.testing.assert_allclose(
        outputs(ours.apply(variables, *inputs)), theirs(layer).detach().numpy(), rtol=1e-5, atol=1e-5
    )
    back = to_torch(variables, mapping, tensors="torch")
    layer.load_state_dict(back)
    np.testing.assert_allclose(
        outputs(ours.apply(variables, *inputs)), theirs(layer).detach().numpy(), rtol=1e-5, atol=1e-5
    )
    assert not tree.diff(from_torch(back, shapes, mapping), variables)


def test_linear():
    x = draw(2, 3)
    compare(weights(torch.nn.Linear(3, 4)), Linear(), nn.Dense(4), (x,), lambda layer: layer(torch.tensor(x)))


def test_embedding():
    x = np.array([3, 1, 6])
    compare(weights(torch.nn.Embedding(7, 4)), Embedding(), nn.Embed(7, 4), (x,), lambda layer: layer(torch.tensor(x)))


def test_layer_norm():
    x = draw(3, 6)
    ours = nn.LayerNorm(epsilon=1e-5)
    compare(weights(torch.nn.LayerNorm(6)), LayerNorm(), ours, (x,), lambda layer: layer(torch.tensor(x)))


def test_group_norm():
    x = draw(3, 6, 5)
    ours = nn.GroupNorm(num_groups=2, epsilon=1e-5)
    layer = weights(torch.nn.GroupNorm(2, 6))
    compare(layer, LayerNorm(), ours, (to_last(x),), lambda layer: layer(torch.tensor(x)), to_first)


def test_batch_norm():
    x = draw(3, 4, 5, 6)
    ours = nn.BatchNorm(use_running_average=True)
    layer = weights(torch.nn.BatchNorm2d(4))
    compare(layer, BatchNorm(), ours, (to_last(x),), lambda layer: layer(torch.tensor(x)), to_first)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("groups", [1, 2])
def test_conv(rank, groups):
    kind = getattr(torch.nn, f"Conv{rank}d")
    x = draw(2, 4, *range(7, 7 + rank))
    layer = weights(kind(4, 6, 3, stride=2, padding=1, dilation=2, groups=groups))
    ours = nn.Conv(6, (3,) * rank, strides=2, padding=1, kernel_dilation=2, feature_group_count=groups)
    compare(layer, Conv(), ours, (to_last(x),), lambda layer: layer(torch.tensor(x)), to_first)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("transpose_kernel", [False, True])
def test_conv_transpose(rank, transpose_kernel):
    kind = getattr(torch.nn, f"ConvTranspose{rank}d")
    x = draw(2, 3, *range(4, 4 + rank))
    layer = weights(kind(3, 5, 4, stride=2, padding=1))
    ours = nn.ConvTranspose(
        5, (4,) * rank, strides=(2,) * rank, padding=((2, 2),) * rank, transpose_kernel=transpose_kernel
    )
    layout = ConvTranspose(transpose_kernel)
    compare(layer, layout, ours, (to_last(x),), lambda layer: layer(torch.tensor(x)), to_first)


@pytest.mark.parametrize("transpose_kernel", [False, True])
def test_conv_transpose_with_groups(transpose_kernel):
    x = draw(2, 4, 5, 6)
    layer = weights(torch.nn.ConvTranspose2d(4, 6, 4, stride=2, padding=1, groups=2))
    ours = nn.ConvTranspose(6, (4, 4), strides=(2, 2), padding=((2, 2), (2, 2)), transpose_kernel=transpose_kernel)
    layout = ConvTranspose(transpose_kernel, groups=2)
    compare(layer, layout, ours, (to_last(x),), lambda layer: layer(torch.tensor(x)), to_first)


@pytest.mark.parametrize("dim", [0, 1, None])
@pytest.mark.parametrize("where", ["utils", "utils.parametrizations"])
def test_weight_norm(where, dim):
    """Both of PyTorch's modules; each loads what comes back, under the older names."""
    x = draw(2, 4, 9)
    norm = operator.attrgetter(where)(torch.nn).weight_norm
    layer = weights(norm(torch.nn.Conv1d(4, 6, 3, groups=2), dim=dim))
    ours = nn.Conv(6, (3,), padding=0, feature_group_count=2)
    compare(layer, WeightNorm(Conv(), dim=dim), ours, (to_last(x),), lambda layer: layer(torch.tensor(x)), to_first)


def test_weight_norm_of_a_transposed_convolution():
    x = draw(2, 4, 9)
    layer = weights(torch.nn.utils.parametrizations.weight_norm(torch.nn.ConvTranspose1d(4, 6, 4, 2, 1), dim=1))
    ours = nn.ConvTranspose(6, (4,), strides=(2,), padding=((2, 2),))
    layout = WeightNorm(ConvTranspose(), dim=1)
    compare(layer, layout, ours, (to_last(x),), lambda layer: layer(torch.tensor(x)), to_first)


def test_what_no_layer_here_has():
    with pytest.raises(ImportMismatchError, match=r"weight_hr_l0: .*`proj_size`"):
        from_torch(torch.nn.LSTM(3, 5, proj_size=2).state_dict(), None, [("", "cell", Lstm(0))])
    attention = torch.nn.MultiheadAttention(6, 2, add_bias_kv=True)
    with pytest.raises(ImportMismatchError, match="bias_k, bias_v: "):
        from_torch(attention.state_dict(), None, [("", "attention", Attention(heads=2))])


def test_flatten_then_linear():
    class Flattened(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(4, name="layer")(x.reshape(len(x), -1))

    x = draw(5, 2, 3, 4)
    layer = weights(torch.nn.Linear(24, 4))
    compare(
        layer, FlattenLinear((2, 3, 4)), Flattened(), (to_last(x),), lambda layer: layer(torch.tensor(x).flatten(1))
    )


@pytest.mark.parametrize("sizes", [{}, {"kdim": 4, "vdim": 5}], ids=["fused", "apart"])
def test_attention(sizes):
    layer = weights(torch.nn.MultiheadAttention(6, 2, batch_first=True, **sizes))
    query, key, value = draw(2, 5, 6), draw(2, 3, sizes.get("kdim", 6)), draw(2, 3, sizes.get("vdim", 6), seed=3)
    ours = nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=6, out_features=6)
    compare(
        layer, Attention(), ours, (query, key, value), lambda layer: layer(*map(torch.tensor, (query, key, value)))[0]
    )


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_recurrent_layers(kind):
    cell = {"LSTM": nn.OptimizedLSTMCell, "GRU": nn.GRUCell, "RNN": nn.SimpleCell}[kind]
    layout = {"LSTM": Lstm, "GRU": Gru, "RNN": Rnn}[kind]
    layer = weights(getattr(torch.nn, kind)(3, 5, num_layers=1, bidirectional=True, batch_first=True))
    x = draw(2, 4, 3)
    state = layer.state_dict()
    variables = {}
    mapping = [("", "forward", layout(0)), ("", "backward", layout(0, reverse=True))]
    variables = from_torch(state, None, mapping)
    rows = [
        nn.RNN(cell(5), reverse=reverse, keep_order=reverse).apply({"params": {"cell": variables[name]}}, x)
        for name, reverse in (("forward", False), ("backward", True))
    ]
    np.testing.assert_allclose(
        np.concatenate(rows, -1), layer(torch.tensor(x))[0].detach().numpy(), rtol=1e-5, atol=1e-5
    )
    layer.load_state_dict(to_torch(variables, mapping, tensors="torch"))
    np.testing.assert_allclose(
        np.concatenate(rows, -1), layer(torch.tensor(x))[0].detach().numpy(), rtol=1e-5, atol=1e-5
    )


class Tied(torch.nn.Module):
    """A model whose head is its embedding."""

    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(5, 3)
        self.head = torch.nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight


def test_files(tmp_path):
    """Written by `torch.save`, wrapped, in half precision, with tied tensors."""
    model = torch.nn.DataParallel(Tied()).to(torch.bfloat16)
    path = tmp_path / "model.pt"
    torch.save({"state_dict": model.state_dict(), "epoch": 3}, path)
    mapping = [("embed", "embed", Embedding()), ("head.weight", None)]
    report = plan_import(path, None, mapping)
    assert report.complete
    assert (report.nested, report.stripped) == ("state_dict", ("module.",))
    found = from_torch(path, None, mapping)["embed"]["embedding"]
    assert found.dtype == ml_dtypes.bfloat16
    assert not tree.diff({"e": found}, {"e": from_torch(model.state_dict(), None, mapping)["embed"]["embedding"]})
    (back,) = to_torch({"embed": {"embedding": found}}, mapping[:1], tensors="torch").values()
    assert torch.equal(back, model.module.embed.weight)


def test_compiled_modules():
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = torch.compile(torch.nn.Linear(3, 2))

    report = plan_import(Net().state_dict(), None, [("fc", "fc", Linear())])
    assert report.complete
    assert report.stripped == ("*_orig_mod.",)


def test_a_whole_module_is_refused(tmp_path):
    """A pickle that asks for more than tensors is a program."""
    torch.save(torch.nn.Linear(3, 2), tmp_path / "model.pt")
    with pytest.raises(RefusedCheckpointError):
        from_torch(tmp_path / "model.pt", None, [("", "fc", Linear())])
