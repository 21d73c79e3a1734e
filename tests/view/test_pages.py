"""The data in a page are those of the checkpoint; what Chromium makes of them is `make test-view`'s to look at."""

import json
import math
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from batiste import checkpoint, nn, view
from batiste.errors import ArgumentError, RunNotFoundError, UnmatchedPatternError
from batiste.tree import LazyArray

RANDOM = np.random.default_rng(0)
KERNEL = RANDOM.normal(size=(6, 4)).astype(np.float32)
TREE = {
    "params": {
        "dense": {"kernel": KERNEL, "bias": np.zeros(4, np.float16)},
        "norm": {"scale": np.asarray([1.0, np.nan, np.inf, 3.0], np.float32)},
    },
    "step": 12,
    "counts": np.asarray([2**53 + 1, -5], np.int64),
    "key": jax.random.key(0),
}


@pytest.fixture
def saved(tmp_path):
    checkpoint.save(tmp_path / "one", TREE, step=12, metadata={"note": "</script><b>&"})
    other = {**TREE, "step": 13, "params": {**TREE["params"], "dense": {"kernel": KERNEL * 2, "extra": np.ones(3)}}}
    checkpoint.save(tmp_path / "two", other, step=13)
    return tmp_path


def embedded(page):
    """Return the data as they stand in the page."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.html, flags=re.DOTALL)
    return json.loads(found[1])


def leaf(data, path, column):
    at = data["leaves"]["path"].index(path)
    found = data["leaves"][column]
    return found[at] if isinstance(found, list) else found.get(str(at))


def test_the_page_has_the_numbers_of_the_checkpoint(saved):
    data = embedded(view.checkpoint(saved / "one", spectra="**/kernel"))
    kernel, shown = KERNEL.astype(float), leaf(data, "params/dense/kernel", "stats")
    np.testing.assert_allclose(shown[:4], [kernel.mean(), kernel.std(), kernel.min(), kernel.max()], rtol=1e-12)
    assert leaf(data, "params/dense/kernel", "bins") == np.histogram(kernel, 40)[0].tolist()
    spectrum = leaf(data, "params/dense/kernel", "spectrum")
    np.testing.assert_allclose(spectrum["values"], np.linalg.svd(kernel, compute_uv=False), rtol=1e-10)
    assert (spectrum["at"], spectrum["count"]) == ([1, 2, 3, 4], 4)
    assert leaf(data, "params/norm/scale", "stats") == [2.0, 1.0, 1.0, 3.0, 1, 1]
    assert sum(leaf(data, "params/norm/scale", "bins")) == 2
    assert leaf(data, "counts", "stats")[2:4] == [-5, 2**53 + 1]
    assert leaf(data, "params/dense/bias", "bins")[20] == 4
    assert leaf(data, "params/dense/bias", "shape") == [4]
    assert leaf(data, "params/dense/bias", "dtype") == "float16"
    assert leaf(data, "params/dense/bias", "spectrum") is None


def test_every_leaf_is_there_with_its_bytes_and_what_is_no_array_with_its_value(saved):
    data = embedded(view.checkpoint(saved / "one", stats="none"))
    opened = checkpoint.open(saved / "one")
    assert data["leaves"]["path"] == opened.paths()
    assert sum(data["leaves"]["bytes"]) == opened.manifest.bytes
    assert leaf(data, "step", "value") == "12"
    assert leaf(data, "key", "dtype").startswith("key<")
    assert leaf(data, "key", "shape") == []
    assert data["leaves"]["stats"] == {}
    assert data["leaves"]["unread"] == 4
    assert "step 12" in data["facts"]


def test_the_budget_reads_the_smallest_leaves_first_and_nothing_else(saved, monkeypatch):
    read, inside = [], LazyArray.read

    def noted(self, index=None):
        read.append((self.dtype.name, self.shape))
        return inside(self, index)

    monkeypatch.setattr(LazyArray, "read", noted)
    data = embedded(view.checkpoint(saved / "one", stats=8 + 16))
    assert read == [("float16", (4,)), ("int64", (2,))]
    assert data["leaves"]["unread"] == 2
    assert leaf(data, "params/dense/kernel", "shape") == [6, 4]


def test_budgets():
    for given, expected in (("all", math.inf), ("none", 0), ("2GB", 2e9), ("1.5 kB", 1500), ("7", 7), (12, 12)):
        page = view.tree({"a": np.ones(1000, np.float32)}, stats=given)
        assert page.data["leaves"]["unread"] == (expected < 4000), given
    with pytest.raises(ArgumentError, match="bytes such as '2GB'"):
        view.tree({}, stats="2 giga")


def test_differences_are_those_of_tree_diff(saved):
    data = embedded(view.checkpoint(saved / "one", diff=saved / "two"))
    kernel = leaf(data, "params/dense/kernel", "diff")
    assert kernel["kind"] == "value"
    assert math.isclose(kernel["distance"], np.abs(KERNEL).max(), rel_tol=1e-6)
    assert math.isclose(kernel["relative"], 1.0, rel_tol=1e-6)
    assert kernel["unequal"] == 24
    assert leaf(data, "params/dense/bias", "diff")["kind"] == "missing"
    assert leaf(data, "params/dense/extra", "diff")["kind"] == "extra"
    assert leaf(data, "params/norm/scale", "diff") == {"kind": "equal"}
    assert (leaf(data, "step", "diff")["left"], leaf(data, "step", "diff")["right"]) == ("12", "13")
    assert data["compared"]["path"] == str(saved / "two")
    unread = embedded(view.checkpoint(saved / "one", diff=saved / "two", stats="none"))
    assert leaf(unread, "params/dense/kernel", "diff") is None  # nothing is said of what nobody has looked at
    assert leaf(unread, "params/dense/extra", "diff")["kind"] == "extra"


def test_a_damaged_leaf_is_shown_as_such(saved):
    place = checkpoint.open(saved / "one").path
    checkpoint.save(place.with_name("flat.safetensors"), {"a": np.arange(4.0), "b": np.ones(3)})
    file = place.with_name("flat.safetensors")
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(bytes(raw))
    data = embedded(view.checkpoint(file))
    assert "digest" in leaf(data, "b", "damage")
    assert leaf(data, "b", "stats") is None
    assert leaf(data, "a", "stats")[3] == 3.0


def test_a_page_is_one_file_that_asks_for_nothing(saved):
    page = view.checkpoint(saved / "one")
    place = page.write(saved / "page.html")
    text = place.read_text(encoding="utf-8")
    assert text == page.html
    assert text.count("</script>") == 2  # the data, and the program; nothing of the checkpoint ends either
    assert re.findall(r'(?:src|href)="([^"]*)"', text) == ["data:,"]
    assert "http" not in re.sub(r"http-equiv|http://www.w3.org/2000/svg", "", text)
    assert embedded(page)["tables"][0]["rows"] == [["note", "</script><b>&"]]
    assert "srcdoc=" in page._repr_html_()
    assert not list(saved.glob("*.new"))


def test_a_tree_in_memory_with_its_shardings():
    mesh = jax.make_mesh((8,), ("data",))
    lies = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data", None))
    state = {
        "w": jax.device_put(jnp.ones((8, 2), jnp.bfloat16), lies),
        "shape": jax.ShapeDtypeStruct((3,), "int8"),
        "n": 3,
    }
    data = view.tree(state, diff={**state, "n": 4}).data
    assert leaf(data, "w", "sharding") == "(data, -) on data=8"
    assert leaf(data, "w", "dtype") == "bfloat16"
    assert leaf(data, "w", "stats")[0] == 1.0
    assert leaf(data, "shape", "bytes") == 3
    assert leaf(data, "n", "diff")["right"] == "4"


def test_a_checkpoint_says_how_its_arrays_lay(tmp_path):
    mesh = jax.make_mesh((4, 2), ("data", "model"))
    lies = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(("data", "model"), None))
    checkpoint.save(tmp_path / "at", {"a.b": {"w": jax.device_put(jnp.ones((8, 2)), lies)}, "n": np.ones(2)})
    opened = checkpoint.open(tmp_path / "at")
    assert opened.shardings() == {"a.b/w": "(data+model, -) on data=4, model=2"}
    assert leaf(view.checkpoint(tmp_path / "at").data, "a.b/w", "sharding") == "(data+model, -) on data=4, model=2"
    (tmp_path / "at" / "state" / "_sharding").write_text("[1]")
    assert checkpoint.open(tmp_path / "at").shardings() == {}


def run(folder, name, rate):
    home = folder / name
    home.mkdir()
    rows = [{"step": step, "time": step, "loss": math.exp(-rate * step)} for step in range(5)]
    (home / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (home / "config.json").write_text(json.dumps({"width": 3, "rate": rate}))
    checkpoint.save(home / "4", {"w": np.full(3, rate)}, step=4)
    return home


def test_runs_over_each_other(tmp_path):
    slow, fast = run(tmp_path, "slow", 0.1), run(tmp_path, "fast", 0.5)
    data = embedded(view.runs(slow, fast))
    assert data["runs"] == ["slow", "fast"]
    assert [curve["name"] for curve in data["curves"]] == ["loss"]
    assert data["curves"][0]["svg"].count("<polyline") == 2
    assert data["tables"][0]["rows"] == [["rate", "0.1", "0.5"], ["width", "3", "3"]]
    assert leaf(data, "w", "stats")[0] == 0.1
    compared = embedded(view.runs(slow, diff=fast))
    assert compared["runs"] == ["slow", "fast"]
    assert math.isclose(leaf(compared, "w", "diff")["relative"], 4.0)
    with pytest.raises(RunNotFoundError, match="neither metrics"):
        view.runs(tmp_path)
    with pytest.raises(RunNotFoundError, match="no folder was given"):
        view.runs()


def test_a_model_has_its_modules_and_no_numbers():
    data = embedded(view.model(nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(2)]), jnp.ones((3, 5))))
    assert data["leaves"]["path"][0] == "params/layers_0/kernel"
    assert data["modules"]["layers_0"]["flops"] == 2 * 3 * 5 * 4
    assert data["modules"][""]["flops"] == 2 * 3 * 5 * 4 + 2 * 3 * 4 * 2
    assert data["leaves"]["stats"] == {}
    assert data["leaves"]["unread"] == 0


def test_a_spectrum_of_what_is_not_there_is_refused(saved):
    with pytest.raises(UnmatchedPatternError, match="params/dense/kernel"):
        view.checkpoint(saved / "one", spectra="params/dense/kernl")


def test_large_numbers_and_many_values():
    rows = view.tree({"a": np.asarray([[1e308, -1e308]]), "b": RANDOM.normal(size=(258, 260))}, spectra=["a", "b"]).data
    assert leaf(rows, "a", "stats")[:2] == [0.0, 1e308]
    assert leaf(rows, "a", "bins")[0] == leaf(rows, "a", "bins")[-1] == 1
    spectrum = leaf(rows, "b", "spectrum")
    assert (len(spectrum["values"]), spectrum["count"], spectrum["at"][-1]) == (256, 258, 258)
    assert 1 < spectrum["rank"] < 258
    assert leaf(view.tree({"c": np.full((2, 2), np.nan)}, spectra="c").data, "c", "spectrum")["values"] == []


def test_the_page_of_a_checkpoint_takes_no_jax(saved):
    program = "import sys; from batiste import view; view.checkpoint(sys.argv[1]).html; sys.exit('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program, str(saved / "one")], check=False, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
