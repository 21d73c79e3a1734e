"""Files that PyTorch, safetensors, Equinox, Keras and others write themselves, beside what these read of them."""

import argparse
import collections
import json
import pickle
import random
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.torch
import torch

from batiste import checkpoint, tree
from batiste.errors import BatisteError, RefusedCheckpointError
from batiste.importers import Embedding, Linear, from_torch

pytestmark = pytest.mark.filterwarnings("default")

FORMS = {"zip": True, "before 1.6": False}
SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".pth.tar", ".pkl", ".model", ".t7", "")
TARGET = {"params": {"fc": {"kernel": np.zeros((2, 3), np.float32), "bias": np.zeros(3, np.float32)}}}
STATE = {"fc.weight": torch.arange(6.0).reshape(3, 2), "fc.bias": torch.ones(3)}


def tensors():
    """A tensor of each kind that has a counterpart here, by what it is."""
    matrix = torch.arange(24.0).reshape(4, 6)
    waves = torch.tensor([1 + 2j, 3 - 4j])
    plain = [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8]
    plain += [torch.uint8, torch.bool, torch.complex64, torch.complex128, torch.uint16, torch.uint32, torch.uint64]
    plain += [torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz]
    return {
        **{str(dtype): torch.ones(2, 3).to(dtype) for dtype in plain},
        "matrix": matrix,
        "turned": matrix.T,
        "part": matrix[1:3, ::2],
        "spread": torch.ones(1).expand(5),
        "no axes": torch.tensor(3.0),
        "empty": torch.zeros(0, 3),
        "conjugate": waves.conj(),
        "negative": waves.clone().conj().imag,
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "noted": noted(),
    }


def noted():
    made = torch.nn.Parameter(torch.ones(2))
    made.note = 1
    return made


def bits(tensor):
    """The bytes of a tensor as it is after all that was put off."""
    whole = tensor.detach().resolve_conj().resolve_neg().contiguous()
    return whole.reshape(-1).view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("form", FORMS)
def test_every_tensor(tmp_path, form):
    made = tensors()
    if not FORMS[form]:  # that format has no place for these
        names = ("uint16", "uint32", "uint64", "float8")
        made = {
            name: tensor for name, tensor in made.items() if not any(map(name.removeprefix("torch.").startswith, names))
        }
    torch.save(made, tmp_path / "a.pt", _use_new_zipfile_serialization=FORMS[form])
    restored = checkpoint.restore(tmp_path / "a.pt")
    assert restored.keys() == made.keys()
    for name, tensor in made.items():
        assert restored[name].shape == tuple(tensor.shape), name
        assert restored[name].dtype.name == str(tensor.dtype).removeprefix("torch."), name
        assert restored[name].tobytes() == bits(tensor), name


@pytest.mark.parametrize("form", FORMS)
def test_a_training_state(tmp_path, form):
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(4, 2)).sum().backward()
    optimizer.step()
    made = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 4, "none": None}
    torch.save(made, tmp_path / "a.pt", _use_new_zipfile_serialization=FORMS[form])
    restored = checkpoint.restore(tmp_path / "a.pt")
    wanted = {name: tensor.numpy() for name, tensor in made["model"].items()}
    assert not tree.diff(restored["model"], wanted)
    assert np.array_equal(restored["optimizer"]["state"]["0"]["exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"])
    assert restored["optimizer"]["param_groups"][0]["betas"] == [0.9, 0.999]
    assert (restored["epoch"], restored["none"]) == (4, None)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("form", FORMS)
def test_any_suffix(tmp_path, form, suffix):
    torch.save({"w": torch.arange(3.0)}, tmp_path / f"a{suffix}", _use_new_zipfile_serialization=FORMS[form])
    assert checkpoint.restore(tmp_path / f"a{suffix}")["w"].tolist() == [0, 1, 2]


BESIDE = {
    "dtype": torch.float32,
    "device": torch.device("cpu"),
    "set": {1, 2},
    "frozenset": frozenset({3}),
    "bytearray": bytearray(b"x"),
    "NumPy scalar": np.float64(3.5),
    "NumPy array": np.arange(3),
    "size": torch.Size([2, 3]),
    "complex": 1 + 2j,
    "OrderedDict": collections.OrderedDict(a=1),
    "defaultdict": collections.defaultdict(list),
    "Counter": collections.Counter("ab"),
    "Namespace": argparse.Namespace(rate=0.1),
    "Path": Path("runs"),
    "Random": random.Random(0),  # noqa: S311 - no secret
    "Linear": torch.nn.Linear(2, 2),
    "sparse": torch.eye(2).to_sparse(),
}


@pytest.mark.parametrize("name", BESIDE)
@pytest.mark.parametrize("form", FORMS)
def test_weights_beside_other_things(tmp_path, recwarn, capfd, form, name):
    path = tmp_path / "a.pt"
    made = {"state_dict": STATE, "extra": BESIDE[name]}
    torch.save(made, path, _use_new_zipfile_serialization=FORMS[form])
    recwarn.clear()
    capfd.readouterr()
    for how in ({"nested": "state_dict"}, {}):
        got = from_torch(path, TARGET, [("fc", "params/fc", Linear())], **how)
        assert np.array_equal(got["params"]["fc"]["kernel"], STATE["fc.weight"].numpy().T)
    opaque = checkpoint.open(path).manifest.opaque
    if opaque:
        with pytest.raises(RefusedCheckpointError) as raised:
            checkpoint.restore(path)
        assert name.lower() in str(raised.value).lower() or name == "dtype"
        assert "\x1b" not in str(raised.value)
    assert (list(recwarn), capfd.readouterr()) == ([], ("", ""))


def test_a_pickle_of_tensors(tmp_path):
    for protocol in range(2, 6):
        (tmp_path / "a.pkl").write_bytes(pickle.dumps({"w": torch.arange(3.0), "n": np.ones(2)}, protocol))
        restored = checkpoint.restore(tmp_path / "a.pkl")
        assert (restored["w"].tolist(), restored["n"].tolist()) == ([0, 1, 2], [1, 1])


def test_a_program_of_torchscript(tmp_path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "a.pt")
    with pytest.raises(RefusedCheckpointError, match="TorchScript"):
        checkpoint.open(tmp_path / "a.pt")


def test_what_is_cut(tmp_path):
    for form in FORMS.values():
        torch.save(STATE, tmp_path / "a.pt", _use_new_zipfile_serialization=form)
        raw = (tmp_path / "a.pt").read_bytes()
        for length in (20, len(raw) // 3, len(raw) - 1):
            (tmp_path / "a.pt").write_bytes(raw[:length])
            with pytest.raises(BatisteError) as raised:
                checkpoint.open(tmp_path / "a.pt")
            assert "Flax writes it" not in str(raised.value)


class Tied(torch.nn.Module):
    """A model whose head is its embedding."""

    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(5, 3)
        self.head = torch.nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight


def test_shared_tensors_of_safetensors(tmp_path):
    model = Tied()
    safetensors.torch.save_model(model, tmp_path / "a.safetensors")
    target = {
        "params": {
            "embed": {"embedding": np.zeros((5, 3), np.float32)},
            "head": {"kernel": np.zeros((3, 5), np.float32)},
        }
    }
    rules = [("embed", "params/embed", Embedding()), ("head", "params/head", Linear())]
    got = from_torch(tmp_path / "a.safetensors", target, rules)["params"]
    weight = model.embed.weight.detach().numpy()
    assert np.array_equal(got["embed"]["embedding"], weight)
    assert np.array_equal(got["head"]["kernel"], weight.T)


def test_equinox(tmp_path):
    equinox = pytest.importorskip("equinox", reason="Equinox is optional")
    jax = pytest.importorskip("jax")
    model = equinox.nn.MLP(2, 3, 4, 2, key=jax.random.key(0))
    with (tmp_path / "a.eqx").open("wb") as file:
        file.write((json.dumps({"width": 4}) + "\n").encode())
        equinox.tree_serialise_leaves(file, model)
    like = equinox.filter_eval_shape(equinox.nn.MLP, 2, 3, 4, 2, key=jax.random.key(1))
    assert equinox.tree_equal(checkpoint.restore(tmp_path / "a.eqx", like), model)


def test_gguf(tmp_path):
    library = pytest.importorskip("gguf", reason="gguf is optional")
    quants = pytest.importorskip("gguf.quants", reason="gguf is optional")
    array = np.random.default_rng(0).standard_normal((4, 256)).astype(np.float32)
    kind = library.GGMLQuantizationType.Q8_0
    writer = library.GGUFWriter(tmp_path / "a.gguf", "llama")
    writer.add_tensor("plain", array)
    writer.add_tensor("half", array.astype(np.float16))
    writer.add_tensor("packed", quants.quantize(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    restored = checkpoint.restore(tmp_path / "a.gguf")
    assert np.array_equal(restored["plain"], array)
    assert np.array_equal(restored["half"], array.astype(np.float16))
    assert np.array_equal(restored["packed"], quants.dequantize(quants.quantize(array, kind), kind))
    assert checkpoint.open(tmp_path / "a.gguf").lazy("packed")[1:2].read().shape == (1, 256)


def test_ml_dtypes_are_those_of_pytorch():
    assert np.dtype(ml_dtypes.bfloat16).itemsize == torch.bfloat16.itemsize
