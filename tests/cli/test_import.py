"""`batiste import-torch`: weights of PyTorch become a checkpoint, or one line says why not."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from batiste import checkpoint, tree
from batiste.cli._report import Exit
from batiste.importers import AttentionIn, BatchNorm, Linear, Rule, dump_mapping, from_torch
from tests.cli.test_cli import done, refused, run

MAPPING = (
    Rule("h.*.fc", "params/h_{1}", Linear()),
    Rule("h.*.bn", "params/norm_{1}", BatchNorm()),
)


def state():
    rng = np.random.default_rng(0)
    drawn = {}
    for number in range(2):
        drawn[f"h.{number}.fc.weight"] = rng.standard_normal((3, 4), dtype=np.float32)
        drawn[f"h.{number}.fc.bias"] = rng.standard_normal(3, dtype=np.float32)
        drawn[f"h.{number}.bn.running_mean"] = rng.standard_normal(3, dtype=np.float32)
        drawn[f"h.{number}.bn.num_batches_tracked"] = np.zeros((), np.int64)
    return drawn


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_file(state(), "torch.safetensors")
    (tmp_path / "mapping.json").write_text(dump_mapping(MAPPING), encoding="utf-8")
    return tmp_path


@pytest.mark.usefixtures("here")
class TestImport:
    def test_a_checkpoint(self):
        said = done("import-torch", "torch.safetensors", "out", "--mapping", "mapping.json")
        assert said.splitlines() == [
            "dropped: h.0.bn.num_batches_tracked, h.1.bn.num_batches_tracked",
            "wrote out: 6 leaves, 144 B",
        ]
        assert not tree.diff(checkpoint.restore("out"), from_torch(state(), None, MAPPING))
        assert done("import-torch", "torch.safetensors", "out.safetensors", "-m", "mapping.json", "-q") == ""
        assert done("diff", "out", "out.safetensors").startswith("no differences")

    def test_dry_run(self, here):
        said = done("import-torch", "torch.safetensors", "out", "-m", "mapping.json", "--dry-run").splitlines()
        assert "h.1.fc.weight -> params/h_1/kernel (Linear)" in said
        assert said[-1] == "would write out: 6 leaves, 144 B"
        assert not (here / "out").exists()

    def test_like_another(self):
        wanted = from_torch(state(), None, MAPPING)
        checkpoint.save("like", tree.cast(wanted, {"**": "bfloat16"}))
        arguments = ("import-torch", "torch.safetensors", "out", "-m", "mapping.json", "--like", "like")
        assert "bfloat16[3] in the target, float32 from" in refused("importers/mismatch", *arguments)
        done(*arguments, "--dtype", "cast")
        assert checkpoint.restore("out")["params"]["h_0"]["kernel"].dtype.name == "bfloat16"

    def test_mistakes(self, here):
        arguments = ("import-torch", "torch.safetensors", "out", "--mapping")
        (here / "less.json").write_text(dump_mapping(MAPPING[:1]), encoding="utf-8")
        text = refused("importers/mismatch", *arguments, "less.json")
        assert "h.0.bn.running_mean: float32[3], no rule takes it" in text
        assert "--ignore" in text
        done(*arguments, "less.json", "--ignore", "**.bn.*")
        assert "overwritten" in refused("checkpoint/exists", *arguments, "mapping.json")
        assert "minilm" in refused("importers/unknown-mapping", *arguments, "minlim", "--force")
        assert "No such file" in refused("importers/mapping-file", *arguments, "absent.json", "--force")
        assert "Say which" in refused("importers/nested", *arguments, "mapping.json", "--force", "--nested", "ema")
        assert "has no tensors" in refused("importers/unmatched-rule", *arguments, "minilm", "--force")
        assert "no layout" not in refused("checkpoint/not-found", "import-torch", "absent", "x", "-m", "mapping.json")
        assert run("import-torch", "torch.safetensors", "out").exit_code == Exit.USAGE

    def test_heads_without_a_target(self, here):
        save_file({"q.weight": np.zeros((6, 4), np.float32)}, "q.safetensors")
        for heads in (None, 3):
            (here / "q.json").write_text(dump_mapping([("q", "q", AttentionIn(heads))]), encoding="utf-8")
            if heads is None:
                assert "heads" in refused("importers/mismatch", "import-torch", "q.safetensors", "out", "-m", "q.json")
        done("import-torch", "q.safetensors", "out", "-m", "q.json")
        assert checkpoint.restore("out")["q"]["kernel"].shape == (4, 3, 2)
