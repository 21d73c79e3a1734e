"""What a manifest knows goes with the leaves: through a conversion, a part, and the algebra of trees."""

import dataclasses
import tracemalloc
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from batiste import checkpoint, nn, struct, tree
from tests.checkpoint.support import assert_same, same_leaf

FORMATS = ("folder", "file.safetensors", "file.npz")
LEAF = 4 << 20


@struct.dataclass
class Run:
    """A dataclass of a user."""

    params: object
    step: object


class Pair(NamedTuple):
    """A named tuple of a user."""

    left: object
    right: object


class Block(nn.Module):
    """A layer whose kernel has logical names."""

    @nn.compact
    def __call__(self, x):
        init = nn.with_partitioning(nn.initializers.lecun_normal(), ("embed", "mlp"))
        return nn.Dense(4, kernel_init=init, name="up")(x)


def made():
    """A state with everything that a manifest knows."""
    params = dict(Block().init(jax.random.key(0), jnp.ones((1, 3)))["params"])
    params["h"] = {"kernel": np.arange(60.0).reshape(5, 3, 4), "bias": np.arange(20).reshape(5, 4)}
    return {
        "run": Run(params=params, step=jnp.int32(7)),
        "opt_state": optax.adam(1e-3).init({"w": jnp.ones(3)}),
        "pair": Pair(np.ones(2), {1: np.zeros(3), 2: [np.ones(1), ()]}),
        "rngs": {"dropout": jax.random.key(3), "rbg": jax.random.key(4, impl="rbg")},
    }


@pytest.fixture(params=FORMATS)
def opened(request, tmp_path):
    checkpoint.save(
        tmp_path / request.param,
        made(),
        step=40,
        metadata={"note": ["x"], "loss": 0.5},
        axes={"run/params/h/kernel": ("layers", "embed", "mlp")},
        stacked=["run/params/h"],
    )
    return checkpoint.open(tmp_path / request.param)


def known(manifest):
    """All of a manifest that is not of one file."""
    return {name: getattr(manifest, name) for name in ("records", "containers", "step", "metadata", "axes", "layers")}


def test_what_is_known(opened):
    manifest = opened.manifest
    assert manifest.layers == {"run/params/h": {"layout": "stacked", "count": 5}}
    assert manifest.axes == {
        "run/params/h/kernel": ["layers", "embed", "mlp"],
        "run/params/up/kernel": ["embed", "mlp"],
    }
    assert manifest.containers["run"]["kind"] == "dataclass"


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(
    "form", [lambda one: one, lambda one: one.tree(), lambda one: one["**"]], ids=["opened", "tree", "part"]
)
def test_a_conversion_keeps_all(opened, tmp_path, kind, form):
    path = tmp_path / f"again_{kind}"
    checkpoint.save(path, form(opened))
    again = checkpoint.open(path)
    assert known(again.manifest) == known(opened.manifest)
    assert checkpoint.verify(path).digests
    plain = {**made(), "run": dataclasses.asdict(made()["run"])}
    plain["run"]["params"] = jax.tree.map(lambda leaf: leaf, nn.unbox(made()["run"].params))
    assert_same(checkpoint.restore(path), plain)
    target = made()
    assert jax.tree.structure(checkpoint.restore(path, target)) == jax.tree.structure(target)


def test_given_anew(opened, tmp_path):
    for number, source in enumerate((opened, opened.tree())):
        path = tmp_path / f"{number}.safetensors"
        checkpoint.save(path, source, step=0, metadata={})
        assert (checkpoint.open(path).step, checkpoint.open(path).metadata) == (0, {})


@pytest.mark.parametrize("kind", FORMATS)
def test_a_part(opened, tmp_path, kind):
    path = tmp_path / f"part_{kind}"
    checkpoint.save(path, tree.exclude(opened["run/**"], "**/up/**"))
    manifest = checkpoint.open(path).manifest
    assert manifest.containers == {"run": opened.manifest.containers["run"]}  # it still has all of its fields
    assert manifest.axes == {"run/params/h/kernel": ["layers", "embed", "mlp"]}
    assert manifest.layers == opened.manifest.layers
    assert (manifest.step, manifest.metadata) == (40, opened.metadata)
    checkpoint.save(tmp_path / f"less_{kind}", opened["run/params/**"])
    assert "run" not in checkpoint.open(tmp_path / f"less_{kind}").manifest.containers


def test_through_the_algebra(opened, tmp_path):
    part = tree.cast(opened["run/params/**"]["run"]["params"], jnp.bfloat16)
    moved = tree.merge(tree.rename(part, {"h/*": "encoder/blocks/{1}"}), {"rngs": opened["rngs/**"]["rngs"]})
    checkpoint.save(tmp_path / "new", moved)
    again = checkpoint.open(tmp_path / "new")
    assert again.manifest.axes == {
        "encoder/blocks/kernel": ["layers", "embed", "mlp"],
        "up/kernel": ["embed", "mlp"],
    }
    assert again.manifest.layers == {"encoder/blocks": {"layout": "stacked", "count": 5}}
    assert (again.step, again.metadata) == (40, opened.metadata)
    expected = np.arange(60.0).reshape(5, 3, 4).astype(jnp.bfloat16)
    assert same_leaf(again.lazy("encoder/blocks/kernel").read(), expected)


def test_axes_go_with_the_axes(opened, tmp_path):
    kernel = opened.lazy("run/params/h/kernel")
    leaves = {
        "rows": kernel[1:3],
        "layer": kernel[0],
        "last": kernel[..., 0],
        "turned": kernel.transpose(2, 0, 1),
        "back": kernel.transpose(),
        "flat": kernel.reshape(5, 12),
        "same": kernel.reshape(3, 5, 4),
        "scaled": kernel.map(lambda array: array * 2, elementwise=True),
    }
    checkpoint.save(tmp_path / "one.safetensors", leaves)
    again = checkpoint.open(tmp_path / "one.safetensors")
    assert again.manifest.axes == {
        "rows": ["layers", "embed", "mlp"],
        "layer": ["embed", "mlp"],
        "last": ["layers", "embed"],
        "turned": ["mlp", "layers", "embed"],
        "back": ["mlp", "embed", "layers"],
        "scaled": ["layers", "embed", "mlp"],
    }
    whole = np.arange(60.0).reshape(5, 3, 4)
    assert np.array_equal(again.lazy("turned").read(), whole.transpose(2, 0, 1))
    assert np.array_equal(again.lazy("last").read(), whole[..., 0])


def test_a_level_that_is_stacked_no_more(opened, tmp_path):
    part = opened["run/params/h/**"]["run"]["params"]["h"]
    for number, level in enumerate(
        ({"kernel": part["kernel"][:2], "bias": part["bias"]}, {name: leaf[0] for name, leaf in part.items()})
    ):
        checkpoint.save(tmp_path / f"{number}.npz", {"h": level})
        assert checkpoint.open(tmp_path / f"{number}.npz").manifest.layers == {}
    fewer = {"h": {name: leaf[:2] for name, leaf in part.items()}}
    checkpoint.save(tmp_path / "fewer.npz", fewer)
    assert checkpoint.open(tmp_path / "fewer.npz").manifest.layers == {"h": {"layout": "stacked", "count": 2}}


def test_from_several_and_from_memory(tmp_path):
    for number in (1, 2):
        checkpoint.save(
            tmp_path / f"{number}",
            {f"w{number}": np.ones(3)},
            step=number,
            metadata={"same": 1, "other": number, f"only{number}": 0},
        )
    one, two = (checkpoint.open(tmp_path / f"{number}") for number in (1, 2))
    checkpoint.save(tmp_path / "both", {**one.tree(), **two.tree()})
    both = checkpoint.open(tmp_path / "both")
    assert (both.step, both.metadata) == (None, {"same": 1, "only1": 0, "only2": 0})
    checkpoint.save(tmp_path / "mixed", {**one.tree(), "new": np.ones(2)})
    mixed = checkpoint.open(tmp_path / "mixed")
    assert (mixed.step, mixed.metadata) == (None, {})  # a new array is not of that step


def test_computed_of_several(opened, tmp_path):
    checkpoint.save(tmp_path / "other", opened, step=50, metadata={"loss": 0.5, "note": []})
    params = [source["run/params/**"]["run"]["params"] for source in (opened, checkpoint.open(tmp_path / "other"))]
    checkpoint.save(tmp_path / "mean", {"params": tree.average(params)})
    mean = checkpoint.open(tmp_path / "mean")
    assert mean.manifest.axes == {"params/h/kernel": ["layers", "embed", "mlp"], "params/up/kernel": ["embed", "mlp"]}
    assert mean.manifest.layers == {"params/h": {"layout": "stacked", "count": 5}}
    assert (mean.step, mean.metadata) == (None, {"loss": 0.5})  # what both say
    apart = tree.unstack_layers(params[0], "h")
    checkpoint.save(tmp_path / "apart", apart)
    assert checkpoint.open(tmp_path / "apart").manifest.axes["h_2/kernel"] == ["embed", "mlp"]
    checkpoint.save(tmp_path / "stacked", tree.stack_layers(checkpoint.open(tmp_path / "apart").tree(), "h"))
    stacked = checkpoint.open(tmp_path / "stacked")
    assert stacked.manifest.axes["h/kernel"] == [None, "embed", "mlp"]
    assert (stacked.step, np.asarray(stacked.lazy("h/kernel")).tolist()) == (
        40,
        np.asarray(params[0]["h"]["kernel"]).tolist(),
    )
    memory = jax.tree.map(lambda leaf: leaf.read(), params[0])
    checkpoint.save(tmp_path / "memory", tree.interpolate(params[0], memory, 0.5))
    assert checkpoint.open(tmp_path / "memory").step is None


@pytest.mark.parametrize("kind", FORMATS)
def test_keys_are_keys(tmp_path, kind):
    state = {"rngs": {"dropout": jax.random.key(1), "many": jax.random.split(jax.random.key(2, impl="rbg"), 3)}, "n": 1}
    checkpoint.save(tmp_path / kind, state)
    opened = checkpoint.open(tmp_path / kind)
    for part in (opened["rngs/**"], opened["rngs/{dropout,many}"], {"rngs": opened.tree()["rngs"]}):
        assert_same(part, {"rngs": state["rngs"]})
    assert_same(opened["rngs/dropout"], {"rngs": {"dropout": state["rngs"]["dropout"]}})
    assert jax.random.uniform(opened["rngs/dropout"]["rngs"]["dropout"]) == jax.random.uniform(jax.random.key(1))
    assert opened.lazy("rngs/many").shape == (3, 4)  # the data, where that is asked for
    assert not tree.diff(opened.tree(), state)


@pytest.mark.parametrize("kind", ["folder", "file.safetensors", "file.npz", "file.msgpack"])
def test_one_leaf_at_a_time(tmp_path, kind, monkeypatch):
    monkeypatch.setattr("batiste.checkpoint._orbax_write._TOGETHER", LEAF)
    leaves = {f"l{number}": np.full((1024, LEAF // 8192), number, np.float64) for number in range(8)}
    checkpoint.save(tmp_path / "source.safetensors", leaves)
    checkpoint.save(tmp_path / f"warm_{kind}", {"w": np.ones(2)})
    for source in (
        checkpoint.open(tmp_path / "source.safetensors"),
        checkpoint.open(tmp_path / "source.safetensors")["**"],
    ):
        tracemalloc.start()
        checkpoint.save(tmp_path / kind, source, overwrite=True)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        more = 1 if kind == "folder" else 0  # a thread of TensorStore may for an instant still hold what is written
        assert peak < (2.5 + more) * LEAF
        assert_same(checkpoint.restore(tmp_path / kind), leaves)
    assert {entry.name for entry in tmp_path.iterdir()} == {kind, f"warm_{kind}", "source.safetensors"}
