"""`batiste runs`: listing, comparing, the page, and cleaning."""

import json
from xml.etree import ElementTree as ET

import jax.numpy as jnp
import numpy as np
import pytest
from typer.testing import CliRunner

from batiste import checkpoint, train
from batiste.cli._app import app


def step(state, x):
    return {"n": state["n"] + 1}, {"loss": x, "a<b": 2 * x}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for name, rate in (("one", 0.1), ("two", 0.2)):
        train.fit(
            step, {"n": jnp.int32(0)}, lambda n, rate=rate: np.float32(n * rate), steps=8, run=folder / name,
            save_every=2, log_every=2, log=None, config={"rate": rate, "same": 1},
        )  # fmt: skip
    (folder / "other").mkdir()
    return folder


def said(*words, code=0):
    done = CliRunner().invoke(app, ["runs", *map(str, words)])
    assert done.exit_code == code, done.output
    return done.output


def test_list(folder):
    lines = said("list", folder).splitlines()
    assert len(lines) == 2
    assert "step 8  4 checkpoints" in lines[0]
    assert "loss 0.65" in lines[0]
    rows = json.loads(said("list", folder / "two", "--json"))
    assert [(row["step"], row["checkpoints"], row["config"]["rate"]) for row in rows] == [(8, [2, 4, 6, 8], 0.2)]
    assert "no such folder" in said("list", folder / "three", code=3)


def test_compare(folder, tmp_path):
    text = said("compare", folder / "one", folder / "two", "--picture", tmp_path / "both.svg")
    assert "  loss  last 0.65  lowest 0.05  highest 0.65" in text
    assert "config rate  0.2" in text
    assert "same" not in text
    picture = ET.parse(tmp_path / "both.svg").getroot()  # noqa: S314 - our own
    assert len([each for each in picture.iter() if each.tag.endswith("polyline")]) == 4
    assert "--force" in said("compare", folder / "one", "--picture", tmp_path / "both.svg", code=3)
    assert "They have a<b, loss" in said("compare", folder / "one", "--metric", "accuracy", code=3)
    assert "neither metrics.jsonl" in said("compare", folder / "other", code=3)


def test_report(folder):
    said("report", folder / "one")
    text = (folder / "one" / "report.html").read_text()
    assert "a&lt;b" in text
    assert "<polyline" in text


def test_clean(folder):
    run = checkpoint.Manager(folder / "two")
    (folder / "two" / ".9.batiste-00000000").mkdir()
    assert "would remove" in said("clean", folder / "two", "--dry-run")
    assert run.steps() == [2, 4, 6, 8]
    said("clean", folder, "--keep", "2", "--compiled")
    assert run.steps() == [6, 8]
    assert run.leftovers() == []
    assert not (folder / "one" / "compiled").exists()
