"""The `batiste` command, in process: what each command prints, writes and returns."""

import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import serialization
from typer.testing import CliRunner

from batiste import checkpoint, tree
from batiste.cli._app import app
from batiste.cli._report import Exit
from batiste.cli._say import say_json
from tests.fuzz.targets import signed


def weights(scale=1.0):
    """Three equal layers and a head."""
    rng = np.random.default_rng(0)
    layers = {
        f"h_{number}": {
            "kernel": scale * rng.standard_normal((4, 4)).astype(np.float32),
            "bias": np.full(4, number, np.float32),
        }
        for number in range(3)
    }
    return {"params": {**layers, "head": {"kernel": scale * np.ones((4, 2), np.float32)}}}


def state():
    """All that a run saves: tuples, named tuples, a key, plain values."""
    made = weights()
    return {
        **made,
        "opt_state": optax.adam(1e-3).init(made["params"]),
        "rngs": {"dropout": jax.random.key(1)},
        "step": 3,
        "name": "run",
    }


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Work in an empty folder that holds a run's folder `run` and the file `weights.safetensors`."""
    monkeypatch.chdir(tmp_path)
    axes = {"params/head/kernel": ["embed", "mlp"]}
    checkpoint.save("run", state(), step=7, metadata={"note": "n"}, axes=axes)
    checkpoint.save("weights.safetensors", weights(), step=7)
    return tmp_path


def run(*arguments, input=None):  # noqa: A002 - as the runner calls it
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=input)


def done(*arguments, **options):
    answer = run(*arguments, **options)
    assert answer.exit_code == Exit.OK, answer.output
    return answer.stdout


def refused(code, *arguments, **options):
    """Run what must end with an error of the catalogue: one line, no traceback, nothing on standard output."""
    answer = run(*arguments, **options)
    assert answer.exit_code == Exit.ERROR, answer.output
    assert answer.stdout == ""
    assert answer.stderr.startswith("error: ")
    assert answer.stderr.count("\n") == 1
    assert answer.stderr.endswith(f"[{code}]\n")
    return answer.stderr


def kept(path, *, manifest):
    opened = checkpoint.open(path)
    assert opened.step == manifest.step
    assert opened.metadata == manifest.metadata
    return opened


@pytest.mark.usefixtures("here")
class TestShow:
    def test_tree(self):
        lines = done("show", "run").splitlines()
        assert lines[0].startswith("run: orbax, step 7, 25 leaves, ")
        assert any(line.split() == ["params/", "7", "leaves", "272", "B"] for line in lines)
        assert any(line.split() == ["dropout", "key<threefry2x32>[]", "8", "B"] for line in lines)
        assert sum("kernel" in line for line in lines) == 12

    def test_pattern_and_depth(self):
        lines = done("show", "run", "params/**", "--depth", "2").splitlines()
        assert [line.split()[0] for line in lines[1:]] == ["params/", "h_0/", "h_1/", "h_2/", "head/"]

    def test_paths_and_regex(self):
        assert done("show", "run", "--paths", "params/h_{0,1}/bias").split() == ["params/h_0/bias", "params/h_1/bias"]
        assert done("show", "run", "--paths", "-E", r"params/h_\d/bias").count("\n") == 3

    def test_json(self):
        body = json.loads(done("show", "run", "params/head/*", "--json"))
        assert (body["step"], body["metadata"], body["digests"]) == (7, {"note": "n"}, True)
        (leaf,) = body["leaves"]
        assert leaf["path"] == "params/head/kernel"
        assert (leaf["shape"], leaf["dtype"], leaf["bytes"]) == ([4, 2], "float32", 32)
        assert leaf["axes"] == ["embed", "mlp"]
        assert body["totals"]["params"] == {"leaves": 1, "count": 8, "bytes": 32}

    def test_stats(self):
        odd = np.array([1.0, 3.0, np.nan, np.inf, -np.inf, np.nan], np.float32)
        empty = np.zeros((0, 2), np.float32)
        checkpoint.save(
            "odd.safetensors",
            {
                "odd": odd,
                "empty": empty,
                "half": jnp.ones(3, jnp.bfloat16),
                "yes": np.array([True, False]),
                "text": "t",
            },
        )
        leaves = {
            leaf["path"]: leaf for leaf in json.loads(done("show", "odd.safetensors", "--stats", "--json"))["leaves"]
        }
        assert leaves["odd"]["stats"] == {"mean": 2, "spread": 1, "min": 1, "max": 3, "nan": 2, "inf": 2}
        assert leaves["empty"]["stats"]["mean"] is None
        assert leaves["half"]["stats"]["mean"] == 1
        assert leaves["yes"]["stats"]["mean"] == 0.5
        assert "stats" not in leaves["text"]
        assert "NaN" in done("show", "odd.safetensors", "--stats").splitlines()[1]

    def test_stats_are_those_of_numpy(self):
        body = json.loads(done("show", "weights.safetensors", "params/h_0/kernel", "--stats", "--json"))
        found, array = body["leaves"][0]["stats"], weights()["params"]["h_0"]["kernel"]
        wanted = {"mean": array.mean(), "spread": array.std(), "min": array.min(), "max": array.max()}
        assert all(math.isclose(found[name], value, rel_tol=1e-5) for name, value in wanted.items())

    def test_mistakes(self):
        assert "run" in refused("checkpoint/not-found", "show", "rum")
        assert "params/head/kernel" in refused("tree/unmatched-pattern", "show", "run", "params/haed/*")
        assert run("show", "run", "-E", "(").exit_code == Exit.USAGE
        assert run("show").exit_code == Exit.USAGE


@pytest.mark.usefixtures("here")
class TestDiff:
    def test_same(self):
        assert done("diff", "run", "run").startswith("no differences in 25 leaves")

    def test_differs(self):
        checkpoint.save("other", {**state(), "rngs": {"dropout": jax.random.key(2)}})
        answer = run("diff", "run", "other")
        assert answer.exit_code == Exit.DIFFERS
        assert "rngs/dropout" in answer.stdout
        assert run("diff", "run", "other", "--quiet").stdout == ""
        assert done("diff", "run", "other", "params/**").startswith("no differences in 7")
        body = json.loads(run("diff", "run", "other", "--json").stdout)
        assert [entry["path"] for entry in body["differences"]] == ["rngs/dropout"]

    def test_tolerance(self):
        checkpoint.save("near.safetensors", weights(1.0001))
        assert run("diff", "weights.safetensors", "near.safetensors").exit_code == Exit.DIFFERS
        done("diff", "weights.safetensors", "near.safetensors", "--rtol", "1e-3")
        done("diff", "weights.safetensors", "near.safetensors", "--no-values")

    def test_a_pattern_of_nothing_is_no_equality(self):
        refused("tree/unmatched-pattern", "diff", "run", "run", "param/**")


@pytest.mark.usefixtures("here")
class TestVerify:
    def test_whole(self):
        assert done("verify", "run", "weights.safetensors").count("every digest fits") == 2

    def test_damaged(self):
        data = bytearray(Path("weights.safetensors").read_bytes())
        data[-5] ^= 1
        Path("weights.safetensors").write_bytes(data)
        answer = run("verify", "run", "weights.safetensors")
        assert answer.exit_code == Exit.DIFFERS
        assert "run: ok" in answer.stdout
        assert "weights.safetensors: DAMAGED\n  params/" in answer.stdout
        report = json.loads(run("verify", "weights.safetensors", "--json").stdout)
        assert not report[0]["ok"]
        refused("checkpoint/damaged", "convert", "weights.safetensors", "copy.safetensors")
        refused("checkpoint/damaged", "convert", "weights.safetensors", "copy")
        assert sorted(path.name for path in Path().iterdir()) == ["run", "weights.safetensors"]

    def test_without_digests(self):
        np.savez("plain.npz", w=np.ones(3))
        assert "no digests" in done("verify", "plain.npz")
        assert run("verify", "--strict", "plain.npz").exit_code == Exit.DIFFERS
        refused("checkpoint/not-found", "verify", "nothing")


@pytest.mark.usefixtures("here")
class TestChanges:
    def test_select(self):
        old = checkpoint.open("run").manifest
        done("select", "run", "part", "{params,opt_state}/**", "rngs/*", "step", "-x", "**/bias")
        new = kept("part", manifest=old)
        assert [path for path in new.paths() if "bias" in path or path == "name"] == []
        assert new.manifest.records["rngs/dropout"].key == "threefry2x32"
        assert new.manifest.axes == old.axes
        assert isinstance(new.tree()["opt_state"][0], optax.ScaleByAdamState)
        assert checkpoint.restore("part")["step"] == 3

    def test_select_from_a_pipe(self):
        paths = done("show", "run", "--paths", "params/*/bias")
        done("select", "run", "biases.safetensors", "-", input=paths)
        assert checkpoint.open("biases.safetensors").paths() == paths.split()
        assert run("select", "run", "none", "-", input="").exit_code == Exit.USAGE

    def test_select_nothing(self):
        refused("checkpoint/argument", "select", "run", "none", "-x", "**")
        assert run("select", "run", "none").exit_code == Exit.USAGE

    def test_rename(self):
        old = checkpoint.open("run").manifest
        done("rename", "run", "new", "**/h_*/*={1}/layer_{2}/{3}", "name=title")
        new = kept("new", manifest=old)
        made = checkpoint.restore("new")
        assert isinstance(made["opt_state"][0], optax.ScaleByAdamState)
        assert "layer_2" in made["params"]
        assert "layer_2" in made["opt_state"][0].mu
        assert made["title"] == "run"
        assert new.manifest.records["rngs/dropout"].key == "threefry2x32"
        assert new.manifest.axes == old.axes
        assert run("rename", "run", "newer", "abc").exit_code == Exit.USAGE
        refused("tree/rename-collision", "rename", "run", "newer", "params/h_*/*=params/h/{2}")

    def test_cast(self):
        done("cast", "run", "half.safetensors", "bfloat16", "--pattern", "params/**")
        records = checkpoint.open("half.safetensors").manifest.records
        assert {record.dtype for path, record in records.items() if path.startswith("params/")} == {"bfloat16"}
        assert records["opt_state/0/mu/h_0/bias"].dtype == "float32"
        assert records["opt_state/0/count"].dtype == "int32"
        assert records["rngs/dropout"].key == "threefry2x32"
        done("verify", "half.safetensors")
        wanted = tree.cast(weights(), "bfloat16")
        assert not tree.diff(checkpoint.restore("half.safetensors")["params"], wanted["params"])
        assert "bfloot16" in refused("tree/value", "cast", "run", "other", "bfloot16")

    def test_merge(self):
        checkpoint.save("more.safetensors", {"params": {"extra": np.ones(2)}}, metadata={"note": "m", "new": 1})
        done("merge", "run", "more.safetensors", "all")
        opened = checkpoint.open("all")
        assert len(opened.paths()) == 26
        assert (opened.step, opened.metadata) == (7, {"note": "n", "new": 1})
        assert "--overwrite" in refused("tree/merge-conflict", "merge", "run", "weights.safetensors", "both")
        done("merge", "run", "weights.safetensors", "both", "--overwrite", "last")
        assert run("merge", "run").exit_code == Exit.USAGE

    def test_average(self):
        checkpoint.save("triple.safetensors", weights(3.0))
        done("average", "weights.safetensors", "triple.safetensors", "mean.safetensors", "--weights", "3,1")
        found = checkpoint.restore("mean.safetensors")
        assert not tree.diff(found, weights(1.5), rtol=1e-6)
        assert run("average", "run", "run", "m", "-w", "1").exit_code == Exit.USAGE
        refused("tree/mismatch", "average", "run", "weights.safetensors", "m")

    def test_stack_and_unstack(self):
        done("stack", "run", "stacked", "h")
        opened = checkpoint.open("stacked")
        assert opened.manifest.records["opt_state/0/mu/h/kernel"].shape == (3, 4, 4)
        assert opened.manifest.layers["params/h"] == {"layout": "stacked", "count": 3}
        done("convert", "stacked", "stacked.safetensors")
        assert checkpoint.open("stacked.safetensors").manifest.layers == opened.manifest.layers
        done("unstack", "stacked.safetensors", "apart", "h")
        assert done("diff", "run", "apart").startswith("no differences")
        assert kept("apart", manifest=opened.manifest).manifest.layers["params/h"]["layout"] == "per_layer"
        refused("tree/no-layers", "stack", "run", "other", "layer")

    def test_unstack_reads_no_damage(self):
        done("stack", "weights.safetensors", "stacked.safetensors", "h")
        data = bytearray(Path("stacked.safetensors").read_bytes())
        data[-5] ^= 1
        Path("stacked.safetensors").write_bytes(data)
        refused("checkpoint/damaged", "unstack", "stacked.safetensors", "apart", "h")
        assert not Path("apart").exists()

    @pytest.mark.parametrize("name", ["copy", "copy.safetensors", "copy.npz"])
    def test_convert(self, name):
        done("convert", "run", name)
        old, new = checkpoint.open("run").manifest, checkpoint.open(name).manifest
        assert (new.records, new.containers, new.axes, new.metadata) == (
            old.records,
            old.containers,
            old.axes,
            old.metadata,
        )

    def test_convert_what_others_wrote(self):
        np.savez("plain.npz", **{"encoder/kernel": np.ones((2, 3))})
        done("convert", "plain.npz", "plain.safetensors")
        assert "every digest fits" in done("verify", "plain.safetensors")
        assert ".pt" in refused("checkpoint/argument", "convert", "run", "run.pt")

    def test_convert_to_flax(self):
        """Containers are kept as Flax keeps them; what has no place there is lost only when that is said."""
        for also in ((), ("--dry-run",)):
            told = refused("checkpoint/format-loss", "convert", "run", "run.msgpack", *also)
            assert "the step: 7; metadata: note; logical names of axes: params/head/kernel; the type of " in told
            assert "--lossy" in told
        assert done("convert", "run", "run.msgpack", "--lossy", "--dry-run").startswith("would write run.msgpack: ")
        assert not Path("run.msgpack").exists()
        done("convert", "run", "run.msgpack", "--lossy")
        made = serialization.msgpack_restore(Path("run.msgpack").read_bytes())
        assert made["opt_state"]["0"]["count"] == 0
        assert not tree.diff(made["params"], weights()["params"])
        assert "--lossy" in refused("checkpoint/format-loss", "rename", "run", "a.msgpack", "name=title", "--dry-run")
        done("select", "weights.safetensors", "part.msgpack", "params/**", "--lossy")
        assert done("diff", "weights.safetensors", "part.msgpack") == "no differences in 7 leaves\n"


@pytest.mark.usefixtures("here")
class TestOutput:
    COMMANDS = (
        ("select", "run", "out", "params/*/bias"),
        ("rename", "run", "out", "name=title"),
        ("cast", "run", "out", "float16"),
        ("merge", "run", "out"),
        ("average", "run", "out"),
        ("stack", "run", "out", "h"),
        ("convert", "run", "out"),
    )

    @pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
    def test_dry_run_and_force(self, command):
        assert "would write out: " in done(*command, "--dry-run")
        assert not Path("out").exists()
        done("convert", "weights.safetensors", "out")
        before = checkpoint.open("out").paths()
        assert "--force" in refused("checkpoint/exists", *command, "--dry-run")
        assert "--force" in refused("checkpoint/exists", *command)
        assert checkpoint.open("out").paths() == before
        assert done(*command, "--force", "--quiet") == ""
        assert checkpoint.open("out").paths() != before
        assert checkpoint.leftovers(".") == []

    def test_onto_itself(self):
        done("cast", "run", "run", "float16", "--force")
        assert checkpoint.open("run").manifest.records["params/h_0/kernel"].dtype == "float16"
        done("verify", "run")

    def test_only_checkpoints_are_replaced(self, here):
        Path("thesis").mkdir()
        Path("thesis/text.md").write_text("years of work", encoding="utf-8")
        refused("checkpoint/argument", "convert", "run", "thesis", "--force")
        refused("checkpoint/argument", "convert", "run", here, "--force")
        refused("checkpoint/argument", "convert", "run", "run/copy")
        assert Path("thesis/text.md").read_text(encoding="utf-8") == "years of work"
        done("verify", "run")

    def test_a_failed_write_leaves_what_was_there(self, monkeypatch):
        done("convert", "weights.safetensors", "out.safetensors")
        before = Path("out.safetensors").read_bytes()

        def full(*_):
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr("os.fsync", full)
            assert "No space" in refused("checkpoint/write", "convert", "run", "out.safetensors", "--force")
        assert Path("out.safetensors").read_bytes() == before
        assert checkpoint.leftovers(".") == []


class TestHostile:
    """Names and metadata of strangers, printed."""

    @pytest.fixture
    def odd(self, tmp_path, monkeypatch):
        """Return a function that writes the folder `odd` with a manifest in which some words were exchanged."""
        monkeypatch.chdir(tmp_path)
        plain = {name: checkpoint.Record((), "python", 0, kind="int", value=1) for name in ("first", "second")}
        text = checkpoint.Manifest(plain, metadata={"scale": 1.5}).to_text()
        Path("odd").mkdir()

        def write(**words):
            changed = text
            for word, other in words.items():
                changed = changed.replace(f'"{word}"', other)
            Path("odd/batiste.json").write_text(signed(changed.replace("1.5", "Infinity")), encoding="utf-8")

        return write

    def test_names_that_would_steer_a_terminal(self, odd):
        odd(first=r'"\u001b[2J\u0007evil\nname"', second=r'"half\ud800"')
        for arguments in (("show", "odd"), ("show", "odd", "--paths"), ("diff", "odd", "odd", "--json")):
            assert done(*arguments).replace("\n", "").isprintable()
        assert done("show", "odd", "--paths").splitlines() == [r"\x1b[2J\x07evil\nname", r"half\ud800"]
        leaves = json.loads(done("show", "odd", "--json"))["leaves"]
        assert [leaf["path"] for leaf in leaves] == ["\x1b[2J\x07evil\nname", "half\ud800"]

    def test_metadata_that_json_does_not_have(self, odd, capsys):
        odd()
        assert json.loads(done("show", "odd", "--json"))["metadata"] == {"scale": "inf"}
        deep = "[" * 900 + "]" * 900  # deeper than the writer with indents goes from here
        say_json(json.loads(deep))
        assert "".join(capsys.readouterr().out.split()) == deep
