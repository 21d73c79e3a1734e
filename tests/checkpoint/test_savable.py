"""What cannot be saved is refused before anything is written; what surrounds a tree is kept, or refused as well."""

import collections
import datetime as dt
import decimal
import enum
import json
import math
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from batiste import checkpoint, errors
from tests.checkpoint.support import WHOLE
from tests.checkpoint.trees import assert_exact

FORMATS = (*WHOLE, "file.msgpack")


class Colour(enum.IntEnum):
    RED = 1


class Metres(np.ndarray):
    """An array of a user that means more than its numbers."""


class Attributes(dict):
    """A dict of a user that JAX takes for a leaf."""


def deleted():
    array = jnp.ones(3)
    array.delete()
    return array


def nested(depth):
    made = 1
    for _ in range(depth):
        made = [made]
    return made


LEAVES = {
    "a masked array": lambda: np.ma.masked_array([1.0, 2.0], [False, True]),
    "masked": lambda: np.ma.masked,
    "a matrix": lambda: np.ones((1, 2)).view(np.matrix),
    "records": lambda: np.rec.array([(1, 2.0)], dtype=[("a", int), ("b", float)]),
    "a structured array": lambda: np.zeros(2, [("a", "i4")]),
    "a structured scalar": lambda: np.zeros(2, [("a", "i4")])[0],
    "an array of a user": lambda: np.ones(2).view(Metres),
    "dates": lambda: np.array(["2020-01-01"], "M8[D]"),
    "a duration": lambda: np.timedelta64(3, "s"),
    "objects": lambda: np.array([object()]),
    "texts": lambda: np.array(["a"]),
    "bytes": lambda: np.array([b"a"]),
    "a text of NumPy": lambda: np.str_("a"),
    "more than 64 bits": lambda: np.longdouble(1),
    "no bits": lambda: np.zeros(2, jax.dtypes.float0),
    "33 axes": lambda: np.ones((1,) * 33),
    "a member of an enum": lambda: Colour.RED,
    "a decimal": lambda: decimal.Decimal(1),
    "a date": lambda: dt.datetime(2020, 1, 1, tzinfo=dt.UTC),
    "a path": lambda: Path("a"),
    "a set": lambda: {1},
    "a function": lambda: print,
    "a bytearray": lambda: bytearray(b"a"),
    "a deleted array": deleted,
    "a shape": lambda: jax.ShapeDtypeStruct((1,), "float32"),
    "half of a character": lambda: "\ud800",
    "a dict of a user": lambda: Attributes(a=np.ones(1)),
    "a view of a dict": lambda: types.MappingProxyType({"a": np.ones(1)}),
}
CONTAINERS = {
    "a default that is no type": lambda: collections.defaultdict(lambda: 0, a=np.ones(1)),
    "keys of one name": lambda: collections.OrderedDict([(1, np.ones(1)), ("1", np.ones(1))]),
    "fractions": lambda: {1.5: np.ones(1)},
    "flags": lambda: {True: np.ones(1)},
    "tuples": lambda: {(1, 2): np.ones(1)},
    "None": lambda: collections.OrderedDict([(None, np.ones(1))]),
    "integers of NumPy": lambda: {np.int64(1): np.ones(1)},
    "a large integer": lambda: {10**30: np.ones(1)},
    "half of a character": lambda: {"\ud800": np.ones(1)},
}


@pytest.mark.parametrize("kind", FORMATS)
def test_leaves_that_are_refused(tmp_path, kind):
    for name, make in LEAVES.items():
        with pytest.raises(errors.UnsavableLeafError, match=r"\n  here: "):
            checkpoint.save(tmp_path / "above" / kind, {"here": make(), "w": np.ones(1)})
        assert list(tmp_path.iterdir()) == [], name


@pytest.mark.parametrize("kind", FORMATS)
def test_containers_that_are_refused(tmp_path, kind):
    for name, make in CONTAINERS.items():
        with pytest.raises(errors.UnsavableTreeError):
            checkpoint.save(tmp_path / "above" / kind, {"here": make(), "w": np.ones(1)})
        assert list(tmp_path.iterdir()) == [], name


@pytest.mark.parametrize("kind", ["folder", "file.npz"])
def test_names_that_are_too_long(tmp_path, kind):
    checkpoint.save(tmp_path / kind, {"é" * 16_000: np.ones(1)})
    assert_exact(checkpoint.restore(tmp_path / kind), {"é" * 16_000: np.ones(1)})
    with pytest.raises(errors.UnsavableTreeError, match="16001 characters"):
        checkpoint.save(tmp_path / "above" / kind, {"é" * 16_001: np.ones(1)})
    assert not (tmp_path / "above").exists()


@pytest.mark.parametrize("kind", FORMATS)
def test_numbers_at_the_edges(tmp_path, kind):
    tree = {"nan": float("nan"), "zero": -0.0, "inf": complex(-0.0, float("-inf")), "int": 2**64 - 1, "least": -(2**63)}
    tree |= {
        f"{name}": np.dtype(name).type(1) for name in ("int64", "uint64", "float64", "float16", "bool", "complex128")
    }
    checkpoint.save(tmp_path / kind, tree)
    assert_exact(checkpoint.restore(tmp_path / kind), tree)
    assert_exact(checkpoint.restore(tmp_path / kind, tree), tree)


@pytest.mark.parametrize("kind", WHOLE)
def test_an_integer_longer_than_python_prints(tmp_path, kind):
    checkpoint.save(tmp_path / kind, {"n": -(10**5000)})
    assert checkpoint.restore(tmp_path / kind)["n"] == -(10**5000)
    with pytest.raises(errors.UnsavableLeafError, match="64 bits"):
        checkpoint.save(tmp_path / "above" / "one.msgpack", {"n": 2**64})
    assert not (tmp_path / "above").exists()


@pytest.mark.parametrize("kind", WHOLE)
def test_a_memory_map_is_an_array(tmp_path, kind):
    mapped = np.memmap(tmp_path / "raw", np.float64, "w+", shape=(3,))
    mapped[:] = [1, 2, 3]
    checkpoint.save(tmp_path / kind, {"w": mapped})
    assert_exact(checkpoint.restore(tmp_path / kind), {"w": np.array(mapped)})


@pytest.mark.parametrize("kind", WHOLE)
def test_an_optimiser_with_names(tmp_path, kind):
    params = {"w": jnp.ones(2)}
    state = optax.named_chain(("scale", optax.scale(1.0)), ("adam", optax.scale_by_adam())).init(params)
    checkpoint.save(tmp_path / kind, {"opt": state})
    found = checkpoint.restore(tmp_path / kind)["opt"]
    assert type(found) is collections.OrderedDict
    assert list(found) == ["scale", "adam"]
    part = checkpoint.open(tmp_path / kind)["opt/adam/**"]["opt"]
    assert type(part) is collections.OrderedDict
    assert list(part) == ["adam"]


def test_forms_go_along_with_lazy_arrays(tmp_path):
    tree = {"scalar": np.float64(1.5), "big": np.arange(3, dtype=">i4"), "plain": np.ones(())}
    checkpoint.save(tmp_path / "one.npz", tree)
    opened = checkpoint.open(tmp_path / "one.npz")
    checkpoint.save(tmp_path / "two.safetensors", opened)
    checkpoint.save(tmp_path / "three", opened["**"])
    for name in ("two.safetensors", "three"):
        assert_exact(checkpoint.restore(tmp_path / name), tree)
    with pytest.raises(errors.FormatLossError, match="byte order: big"):
        checkpoint.save(tmp_path / "four.msgpack", opened)
    checkpoint.save(tmp_path / "four.msgpack", opened, lossy=True)
    assert_exact(checkpoint.restore(tmp_path / "four.msgpack"), {**tree, "big": np.arange(3, dtype="i4")})


@pytest.mark.parametrize("kind", WHOLE)
def test_metadata_comes_back(tmp_path, kind):
    given = {
        "numbers": (np.int64(3), jnp.float32(1.5), np.bool_(True), np.float16("nan"), jnp.asarray(7)),
        "deep": {"a": [{"loss": math.inf}, -math.inf, None, "é"]},
        "many": list(range(1000)),
    }
    checkpoint.save(tmp_path / kind, {"w": np.ones(1)}, metadata=given)
    found = checkpoint.open(tmp_path / kind).metadata
    assert repr(found["numbers"]) == "[3, 1.5, True, nan, 7]"
    assert found["deep"] == {"a": [{"loss": math.inf}, -math.inf, None, "é"]}
    assert found["many"] == given["many"]
    text = checkpoint.open(tmp_path / kind).manifest.to_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    checkpoint.save(tmp_path / f"again_{kind}", checkpoint.open(tmp_path / kind))
    assert repr(checkpoint.open(tmp_path / f"again_{kind}").metadata) == repr(found)


@pytest.mark.parametrize(
    ("metadata", "where"),
    [
        ({"x": {1: 2}}, r"metadata\['x'\]\[1\]"),
        ({"x": [0, np.ones(2)]}, r"metadata\['x'\]\[1\]"),
        ({"x": 1j}, r"metadata\['x'\]"),
        ({"x": b"bytes"}, "bytes"),
        ({"x": "\ud800"}, "surrogate"),
        ({"x": deleted}, "function"),
        ({"x": 10**5000}, "digits"),
        ({"x": nested(300)}, "levels deep"),
        ({"x": nested(100_000)}, "levels deep"),
        ("text", "no mapping"),
        ([("x", 1)], "no mapping"),
    ],
)
def test_metadata_that_is_refused(tmp_path, metadata, where):
    run = checkpoint.Manager(tmp_path / "run")
    for save in (
        lambda: checkpoint.save(tmp_path / "a", {}, metadata=metadata),
        lambda: run.save(1, {}, metadata=metadata),
    ):
        with pytest.raises(errors.ArgumentError, match=where):
            save()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "options",
    [
        {"compress": True},
        {"stacked": "params/h"},
        {"clock": 3.0},
        {"axes": "w"},
        {"axes": {"w": "ab"}},
        {"axes": {"w": (1, 2)}},
        {"axes": {"v": ("a", "b")}},
        {"step": 1.0},
        {"step": -1},
    ],
)
def test_options_that_are_refused(tmp_path, options):
    with pytest.raises((errors.ArgumentError, errors.CheckpointArgumentError), match=next(iter(options))):
        checkpoint.save(tmp_path / "above" / "one.safetensors", {"w": np.ones((1, 2))}, **options)
    assert list(tmp_path.iterdir()) == []
