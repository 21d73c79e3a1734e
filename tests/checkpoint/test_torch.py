"""PyTorch's files, written by hand as PyTorch writes them: read without it, whatever lies beside the weights.

`tests/pretrained/test_files.py` compares with PyTorch itself.
"""

import json
import pickle
import zipfile

import ml_dtypes
import numpy as np
import pytest

from batiste import checkpoint, errors
from batiste.importers import Linear, from_torch
from tests.checkpoint.foreign import Torch, called, named, plain
from tests.checkpoint.support import assert_same

FORMS = ("zip", "packed", "row")
SUFFIXES = ("", ".pt", ".pth", ".bin", ".ckpt", ".pth.tar", ".pkl", ".model", ".t7", ".npz", ".msgpack")


def write(path, form, made, content):
    raw = made.row(content) if form == "row" else made.zip(content, compress=form == "packed")
    path.write_bytes(raw)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("form", FORMS)
def test_tensors(tmp_path, form, order):
    made = Torch(order)
    array = np.arange(24, dtype=np.float32).reshape(4, 6)
    waves = np.array([1 + 2j, 3 - 4j], np.complex64)
    content = {
        "plain": made.tensor(array),
        "turned": made.tensor(None, storage=0, shape=(6, 4), strides=(1, 6)),
        "part": made.tensor(None, storage=0, start=7, shape=(2, 3), strides=(6, 1)),
        "one": made.tensor(None, storage=0, start=5, shape=(), strides=()),
        "none": made.tensor(None, storage=0, shape=(0, 3), strides=(3, 1)),
        "spread": made.tensor(None, storage=0, start=1, shape=(2, 3), strides=(0, 1)),
        "half": made.tensor(np.ones(3, ml_dtypes.bfloat16)),
        "flags": made.tensor(np.array([True, False])),
        "waves": made.tensor(waves, flags={"conj": True}),
        "negated": made.tensor(None, storage=0, shape=(3,), strides=(1,), flags={"neg": True}),
        "parameter": called(
            "torch._utils._rebuild_parameter", made.tensor(np.ones(2, np.int64)), plain(True), plain(1)
        ),
        "of a class": called(
            "torch._tensor._rebuild_from_type_v2",
            b"ctorch._utils\n_rebuild_tensor_v2\n",
            b"cmine\nTensor\n",
            made.tensor(np.ones(2, np.int8)).partition(b"\n_rebuild_tensor_v2\n")[2].removesuffix(b"R"),
            plain(None),
        ),
    }
    write(tmp_path / "model", form, made, named(content))
    restored = checkpoint.restore(tmp_path / "model")
    expected = {
        "plain": array,
        "turned": array.T,
        "part": array.reshape(-1)[7:].reshape(-1)[[0, 1, 2, 6, 7, 8]].reshape(2, 3),
        "one": np.float32(5),
        "none": np.zeros((0, 3), np.float32),
        "spread": np.array([[1, 2, 3], [1, 2, 3]], np.float32),
        "half": np.ones(3, ml_dtypes.bfloat16),
        "flags": np.array([True, False]),
        "waves": waves.conj(),
        "negated": -array[0, :3],
        "parameter": np.ones(2, np.int64),
        "of a class": np.ones(2, np.int8),
    }
    assert_same(restored, {name: np.asarray(value) for name, value in expected.items()})
    opened = checkpoint.open(tmp_path / "model")
    assert opened.lazy("turned")[2:4, 1].read().tolist() == [8, 9]
    assert opened.lazy("waves")[1:].read().tolist() == [3 + 4j]
    assert opened.manifest.storage["format"] == "torch"
    checkpoint.save(tmp_path / "new.npz", opened)
    assert_same(checkpoint.restore(tmp_path / "new.npz"), restored)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_content_tells(tmp_path, form, suffix):
    made = Torch()
    write(tmp_path / f"model{suffix}", form, made, named({"w": made.tensor(np.arange(3.0))}))
    assert_same(checkpoint.restore(tmp_path / f"model{suffix}"), {"w": np.arange(3.0)})


BESIDE = {
    "torch.float32": b"ctorch\nfloat32\n",
    "torch.device": called("torch.device", plain("cpu")),
    "argparse.Namespace": b"cargparse\nNamespace\n)\x81" + named({"rate": plain(0.1)}) + b"b",
    "pathlib.PosixPath": called("pathlib.PosixPath", plain("runs")),
    "posix.system": called("posix.system", plain("touch it_has_run")),
    "mine.Config": b"cmine\nConfig\n)\x81}(" + plain("width") + plain(3) + b"ub",
    "torch.nn.modules.linear.Linear": b"ctorch.nn.modules.linear\nLinear\n)\x81}b",
}
PLAIN = {
    "size": called("torch.Size", plain((2, 3))),
    "scalar": pickle.dumps(np.float64(3.5), 2)[2:-1],
    "array": pickle.dumps(np.arange(3), 2)[2:-1],
    "ordered": b"ccollections\nOrderedDict\n)R(" + plain("a") + plain(1) + b"u",
    "default": b"ccollections\ndefaultdict\n(c__builtin__\nlist\ntR",
    "complex": plain(1 + 2j),
    "bytes": pickle.dumps(bytearray(b"x"), 2)[2:-1],
}


@pytest.mark.parametrize("form", ["zip", "row"])
@pytest.mark.parametrize("name", [*BESIDE, *PLAIN])
def test_weights_beside_other_things(tmp_path, monkeypatch, form, name):
    monkeypatch.chdir(tmp_path)
    made = Torch()
    kernel, bias = np.arange(6, dtype=np.float32).reshape(3, 2), np.ones(3, np.float32)
    weights = named({"fc.weight": made.tensor(kernel), "fc.bias": made.tensor(bias)})
    other = BESIDE.get(name) or PLAIN[name]
    write(tmp_path / "nested.pt", form, made, named({"state_dict": weights, "extra": other}))
    target = {"params": {"fc": {"kernel": np.zeros((2, 3), np.float32), "bias": np.zeros(3, np.float32)}}}
    for how in ({"nested": "state_dict"}, {}):
        got = from_torch("nested.pt", target, [("fc", "params/fc", Linear())], **how)
        assert_same(got["params"]["fc"]["kernel"], kernel.T)
    opened = checkpoint.open("nested.pt")
    assert opened["state_dict/**"]["state_dict"]["fc.bias"].read().tolist() == [1, 1, 1]
    assert not (tmp_path / "it_has_run").exists()
    if name in PLAIN:
        assert opened.manifest.opaque == {}
        assert "extra" in checkpoint.restore("nested.pt")
        return
    assert opened.manifest.opaque == {"extra": name}
    with pytest.raises(errors.RefusedCheckpointError, match=rf"'extra' is {name}"):
        checkpoint.restore("nested.pt")
    among = weights[:-1] + plain("extra") + other + b"u"
    write(tmp_path / "among.pt", form, made, among)
    got = from_torch("among.pt", target, [("fc", "params/fc", Linear())])
    assert_same(got["params"]["fc"]["kernel"], kernel.T)
    write(tmp_path / "alone.pt", form, Torch(), named({"x": other}))
    with pytest.raises(errors.RefusedCheckpointError, match="more than tensors") as raised:
        checkpoint.open("alone.pt")
    assert name in str(raised.value)


def test_a_tensor_of_a_kind_that_is_none_here_is_named(tmp_path):
    made = Torch()
    sparse = called("torch._utils._rebuild_sparse_tensor", plain("torch.sparse_coo"), plain((1, 2)))
    made_of = named({"w": made.tensor(np.ones(2)), "s": sparse})
    (tmp_path / "a.pt").write_bytes(made.zip(made_of))
    opened = checkpoint.open(tmp_path / "a.pt")
    assert opened.manifest.opaque == {"s": "torch._utils._rebuild_sparse_tensor"}
    with pytest.raises(errors.ImportMismatchError, match=r"s: torch\._utils\._rebuild_sparse_tensor"):
        from_torch(tmp_path / "a.pt", None, [("w", "params/w")])


def test_what_is_cut_or_lies(tmp_path):
    path = tmp_path / "a.pt"
    made = Torch()
    content = named({"w": made.tensor(np.arange(300.0))})
    for raw in (made.zip(content), made.row(content)):
        for length in (30, 100, len(raw) // 2, len(raw) - 1):
            path.write_bytes(raw[:length])
            with pytest.raises(errors.CheckpointFormatError) as raised:
                checkpoint.open(path)
            assert "MessagePack" not in str(raised.value)
    more = Torch()
    path.write_bytes(more.zip(named({"w": more.tensor(np.ones(3), shape=(4,), strides=(1,))})))
    with pytest.raises(errors.CheckpointFormatError, match="has 24 bytes"):
        checkpoint.open(path)
    spread = Torch()
    path.write_bytes(spread.zip(named({"w": spread.tensor(np.ones(1), shape=(1 << 40,), strides=(0,))})))
    with pytest.raises(errors.RefusedCheckpointError, match="would become"):
        checkpoint.open(path)
    path.write_bytes(Torch().zip(named({"w": b"I1\n"})))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("archive/code/model.py", "")
    with pytest.raises(errors.RefusedCheckpointError, match="TorchScript"):
        checkpoint.open(path)
    absent = Torch()
    content = named({"w": absent.tensor(np.ones(3))})
    absent.storages.clear()
    path.write_bytes(absent.zip(content))
    with pytest.raises(errors.CheckpointFormatError, match="data/0"):
        checkpoint.open(path)


def test_names_that_are_one_text(tmp_path):
    made = Torch()
    pairs = {0: made.tensor(np.zeros(2)), "0": made.tensor(np.ones(2))}
    (tmp_path / "a.pt").write_bytes(made.zip(named(pairs)))
    assert_same(checkpoint.restore(tmp_path / "a.pt"), {"0 (int)": np.zeros(2), "0": np.ones(2)})


def test_a_pickle_of_tensors_that_pytorch_has_not_written(tmp_path):
    """``pickle.dumps`` of a tensor keeps its storage as a file before 1.6, in a text."""
    inner, outer = Torch(), Torch()
    inner.storages.append(np.arange(3.0))
    where = b"(" + plain("storage") + b"ctorch\nDoubleStorage\n" + plain("0") + plain("cpu") + plain(3) + b"NtQ"
    text = pickle.dumps(inner.row(where).decode("latin-1"), 2)[2:-1]
    data = called("_codecs.encode", text, plain("latin1"))
    storage = called("torch.storage._load_from_bytes", data)
    tail = [plain(0), plain((3,)), plain((1,)), b"I00\n", b"N"]
    content = named({"w": called("torch._utils._rebuild_tensor_v2", storage, *tail)})
    del outer
    (tmp_path / "a.pkl").write_bytes(b"\x80\x02" + content + b".")
    assert_same(checkpoint.restore(tmp_path / "a.pkl"), {"w": np.arange(3.0)})


def test_shards(tmp_path):
    for number, name in enumerate("ab"):
        made = Torch()
        write(tmp_path / f"pytorch_model-{number}.bin", "zip", made, named({name: made.tensor(np.full(2, number))}))
    table = {name: f"pytorch_model-{number}.bin" for number, name in enumerate("ab")}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": table}))
    assert_same(checkpoint.restore(tmp_path), {"a": np.full(2, 0), "b": np.full(2, 1)})
