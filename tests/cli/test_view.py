"""``batiste view`` and ``batiste diagnose profile`` on what they are about: a run, a model, a checkpoint."""

import json
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from batiste import checkpoint
from batiste.cli._app import app

MODEL = """
from batiste import nn

model = nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(2)])
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name, number in (("slow", 1.0), ("fast", 2.0)):
        checkpoint.Manager(name).save(3, {"w": np.full(4, number)})
        (tmp_path / name / "metrics.jsonl").write_text(json.dumps({"step": 3, "time": 1, "loss": number}))
    (tmp_path / "viewed_models.py").write_text(MODEL)
    yield tmp_path
    sys.modules.pop("viewed_models", None)


def run(*words):
    done = CliRunner().invoke(app, words)
    return done.exit_code, done.stdout, done.stderr


def test_runs_and_their_difference(here):
    assert run("view", "slow", "--diff", "fast") == (0, "wrote view.html: 1 leaf\n", "")
    text = (here / "view.html").read_text()
    assert '"runs":["slow","fast"]' in text
    assert '"relative":1.0' in text
    code, _, said = run("view", "slow", "fast")
    assert (code, "view.html already exists" in said, "--force" in said) == (3, True, True)
    assert run("view", "slow", "fast", "--force", "--quiet") == (0, "", "")


def test_a_checkpoint_in_a_run(here):
    assert run("view", "slow/3", "--stats", "none", "-o", "a.html") == (
        0, "wrote a.html: 1 leaf, 1 of them not read (--stats all)\n", "",
    )  # fmt: skip
    assert '"title":"slow/3"' in (here / "a.html").read_text()


def test_a_model(here):
    assert run("view", "viewed_models:model", "--input", "3,5") == (0, "wrote view.html: 4 leaves\n", "")
    assert '"modules":{"":{"kind":"Sequential"' in (here / "view.html").read_text()
    code, _, said = run("view", "viewed_models:model", "-o", "b.html")
    assert (code, "the inputs that the model is called with" in said) == (3, True)


def test_what_does_not_go_together_is_refused(here):
    for words in (("slow/3", "fast/3"), ("viewed_models:model", "--diff", "slow/3"), ("slow/3", "--input", "2")):
        code, _, said = run("view", *words)
        assert (code, "Usage" in said) == (2, True)
    assert not (here / "view.html").exists()


def test_diagnose_profile_writes_its_picture(here):
    code, printed, _ = run(
        "diagnose", "profile", "viewed_models:model", "-i", "3,5", "-o", "runs=1", "-p", "p.svg", "--json"
    )
    found = json.loads(printed)
    assert (code, found["runs"]) == (0, 1)
    assert {"layers_0", "layers_2", "[no operation]"} <= {row["path"] for row in found["rows"]}
    assert (here / "p.svg").read_text().startswith("<svg")
    code, _, said = run("diagnose", "lint", "viewed_models:model", "-p", "q.svg")
    assert (code, "It is the one with a picture." in said) == (3, True)
