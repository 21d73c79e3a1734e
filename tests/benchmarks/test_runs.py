"""The programs run on tiny models: one row, the accelerator's script, and every measure by itself."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from benchmarks import __main__ as command
from benchmarks import gpu, large, leaves, measures, models, plans, report, running, worker
from benchmarks.models import contract
from benchmarks.rows import selected

TINY = contract.mlp(2)


def test_a_quick_row_runs_and_prints_its_table(tmp_path, capsys):
    arguments = ["--quick", "--rounds", "1", "--rows", "eager_mlp_10", "--peers", "--results", str(tmp_path)]
    assert command.main(arguments) == 0
    found = json.loads((tmp_path / "eager_mlp_10.json").read_text(encoding="utf-8"))
    assert found["samples"][0].keys() == {"raw", "batiste"}
    assert found["samples"][0]["raw"]["call"] > 0
    assert found["quick"] is True
    printed = capsys.readouterr().out
    assert "eager apply, 10 Dense" in printed
    assert "met" in printed


def test_a_row_that_nobody_knows(capsys):
    assert command.main(["--rows", "nothing"]) == 2
    assert "no row matches nothing" in capsys.readouterr().out


def test_rows_are_listed(capsys):
    assert command.main(["list"]) == 0
    assert "trace_grad_48" in capsys.readouterr().out


def runner():
    return running.Runner(rounds=2, quick=True, long=False, peers=("linen",), say=lambda _: None)


def test_a_mismatch_stops_the_row(monkeypatch):
    monkeypatch.setattr(worker, "start", lambda job, _: {"batiste": "outputs differ", "linen": ""})
    with pytest.raises(running.MismatchError, match="eager_mlp_10: batiste: outputs differ"):
        runner().run(selected(["eager_mlp_10"])[0])


def test_a_peer_that_fails_is_named_and_the_row_goes_on(monkeypatch):
    def start(job, _):
        if job["measure"] == "compare":
            return {"batiste": "", "linen": models.FAILED + "ImportError: gone"}
        return {"call": 1.0}

    monkeypatch.setattr(worker, "start", start)
    found = runner().run(selected(["eager_mlp_10"])[0])
    assert found["absent"] == {"linen": "ImportError: gone"}
    assert [set(sample) for sample in found["samples"]] == [{"raw", "batiste"}] * 2


def test_a_worker_that_fails_is_named(monkeypatch):
    def start(job, _):
        if job["measure"] == "compare":
            return dict.fromkeys(job["contenders"], "")
        if job["contender"] == "linen":
            message = "Traceback\nMemoryError: too much"
            raise worker.WorkerError(message)
        return {"call": 1.0}

    monkeypatch.setattr(worker, "start", start)
    assert runner().run(selected(["eager_mlp_10"])[0])["absent"] == {"linen": "MemoryError: too much"}


def test_workers_are_not_helped_by_earlier_ones(monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "somewhere")
    found = running.environment((("A", "b"),))
    assert "JAX_COMPILATION_CACHE_DIR" not in found
    assert found["JAX_ENABLE_COMPILATION_CACHE"] == "false"
    assert found["A"] == "b"


@pytest.mark.parametrize("name", ["trace_apply", "trace_grad", "eager", "call", "step", "train_state"])
def test_measures_of_what_is_warm(name):
    found = measures.MEASURES[name]("batiste", TINY, 1)
    assert all(value >= 0 for value in found.values())
    if name == "step":
        assert {"trace", "lower", "compile", "run", "instructions"} <= found.keys()
        assert found["instructions"] > 10
    if name == "call":
        assert found["leaves"] == 4


def test_init_counts_programs():
    found = measures.init("batiste", contract.mlp(3, width=13), 1)
    assert found["programs"] <= found["initialisers"] == 2


def test_peak_of_init_is_at_least_the_variables():
    found = measures.peak("batiste", contract.mlp(2, width=1024), 1)
    assert found["variables"] == 2 * 4 * (1024 * 1024 + 1024)
    assert found["allowed"] > found["variables"]
    assert found["peak"] > 0


def test_instructions_are_counted_in_every_computation():
    text = "HloModule m\n\n%f (p: f32[]) -> f32[] {\n  %p = f32[] parameter(0)\n  ROOT %a.1 = f32[] add(%p, %p)\n}\n"
    assert len(measures.INSTRUCTION.findall(text)) == 2


def test_a_tiny_step_of_the_accelerators_script():
    spec = dataclasses.replace(gpu.specs(tiny=True)["GPT-2"], depth=1)
    found = gpu.measure_jax("batiste", spec, tiny=True)
    assert found["step"] > 0
    assert found["attention"] == "xla"


@pytest.mark.parametrize("name", ["GPT-2", "ResNet-50"])
@pytest.mark.parametrize("contender", ["raw", "batiste", "linen", "nnx"])
def test_steps_of_the_accelerators_models_keep_their_types(name, contender):
    spec = gpu.specs(tiny=True)[name]
    model, params, state, x, y = models.packed(contender, spec)
    optimizer = gpu.optimizer(spec)
    carry = (params, state, optimizer.init(params))
    assert jax.eval_shape(model.apply, params, state, x).dtype == "bfloat16"
    after, value = jax.eval_shape(contract.functional_step(model, optimizer), carry, x, y)
    kinds = [{leaf.dtype for leaf in jax.tree.leaves(each[0])} for each in (carry, after)]
    assert kinds[0] == kinds[1] == {np.dtype("float32")}
    assert value.dtype == "float32"


def test_the_accelerators_script_says_that_there_is_none(monkeypatch, capsys):
    monkeypatch.setattr(gpu, "start", lambda _: {"device": "cpu", "platform": "cpu", "memory": None, "jax": "0"})
    assert gpu.main([]) == 2
    assert "finds no GPU" in capsys.readouterr().out


def test_the_accelerators_script_writes_its_table(monkeypatch, tmp_path, capsys):
    def start(job):
        if job["do"] == "device":
            return {"device": "NVIDIA H200", "platform": "gpu", "memory": 100 * 2**30, "jax": "0"}
        if job["do"] == "compare":
            return "outputs differ" if job["contender"] == "linen" else ""
        if job["spec"]["batch"] > 32:
            message = "out of memory"
            raise gpu.JobError(message)
        return {"step": 0.1, "compile": 1.0, "peak": None, "attention": "cudnn"}

    monkeypatch.setattr(gpu, "start", start)
    monkeypatch.setattr(gpu, "absent", lambda contender: "torch is not installed" if contender == "torch" else "")
    assert gpu.main(["--models", "gpt2", "--rounds", "1", "--results", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))["models"]["GPT-2"]
    assert found["shape"] == "batch 32, length 1024, bfloat16, attention by cudnn"
    assert found["absent"] == {"linen": "differs from raw JAX: outputs differ", "torch": "torch is not installed"}
    used = found["samples"][0]["raw"]["utilisation"]
    assert used == pytest.approx(found["operations"] / 0.1 / 989e12)
    assert "| PyTorch, torch.compile | torch is not installed |" in capsys.readouterr().out


def test_what_plans_and_stages_cost_is_written():
    found = plans.measure("8B", compiles=False)
    assert found["devices"] == 8
    assert found["seconds"] > 0
    assert found["peak"] > 2**20
    table = report.plans({"plans": {"rows": {"8B": found, "70B": {**found, "seconds": 11.0, "peak": 2e9}}}})
    assert "| 8B | 8 |" in table
    assert "| 70B | 8 | 11.0 s ✗ | 2.00 GB ✓ |" in table
    row = {"instructions_ratio": 1.2, "time_ratio": 1.0, "largest_difference": 1e-9}
    assert "| instructions | 1.200 ✗ |" in report.pipeline({"pipeline": row})


def test_one_large_checkpoint(monkeypatch, tmp_path):
    monkeypatch.setattr(large, "LEAF", 1 << 20)
    rows = large.measure(4 / 1024, tmp_path)
    assert set(rows) == {f"{what}, {how}" for what in ("save", "restore") for how in ("plain copy", "file", "folder")}
    assert all(row["seconds"] > 0 for row in rows.values())
    assert all(row["extra"] < large.BAR for row in rows.values())
    assert not list(tmp_path.iterdir())
    written = report.large({"large": {"gigabytes": 4 / 1024, "rows": rows}})
    assert written.count("\n") == 1 + len(rows)


def test_what_models_leave_behind():
    assert leaves.left_behind(3)["models"] == 3
