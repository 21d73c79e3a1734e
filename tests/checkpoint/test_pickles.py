"""Pickles of arrays are read without being run: what is on the list has a meaning, and whatever else a name."""

import argparse
import collections
import datetime as dt
import functools
import os
import pickle
import random
import sys

import flax.core
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batiste import checkpoint, errors
from batiste.checkpoint._pickle import BrokenPickleError, Call, Name, Pairs, Persistent, Span, read_pickle
from tests.checkpoint.support import Pair, assert_same
from tests.fuzz.mutate import mutated_bytes
from tests.fuzz.targets import bounded_memory


class Bomb:
    """Runs a program where it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch it_has_run",)


class Settings:
    """An object of a user."""

    def __init__(self):
        self.width = 3


ARRAYS = {
    "numbers": np.arange(6.0).reshape(2, 3),
    "order of columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "a view": np.arange(12.0).reshape(3, 4)[::2, 1:],
    "no axes": np.array(3),
    "nothing": np.zeros((0, 3)),
    "other byte order": np.arange(3).astype(">i4"),
    "complex, other byte order": np.array([1 + 2j, 3], ">c16"),
    "half": np.ones(3, ml_dtypes.bfloat16),
    "eighth": np.ones(3, ml_dtypes.float8_e4m3fn),
    "flags": np.array([True, False]),
    "large": np.arange(5000, dtype=np.int16),
    "a scalar": np.float32(2.5),
    "a scalar of ml_dtypes": ml_dtypes.bfloat16(2),
    "of JAX": jnp.arange(6, dtype=jnp.bfloat16).reshape(2, 3),
}


@pytest.mark.parametrize("protocol", range(6))
def test_arrays(tmp_path, protocol):
    path = tmp_path / "weights"
    path.write_bytes(pickle.dumps(ARRAYS, protocol))
    restored = checkpoint.restore(path)
    for name, array in ARRAYS.items():
        wanted = np.asarray(array)
        wanted = np.asarray(wanted, wanted.dtype.newbyteorder("="))
        assert (restored[name].dtype, restored[name].shape) == (wanted.dtype, wanted.shape), name
        assert restored[name].tobytes() == wanted.tobytes(), name
    opened = checkpoint.open(path)
    assert opened.lazy("numbers")[1:, :2].read().tolist() == [[3, 4]]
    assert opened.lazy("order of columns")[1:, :2].read().tolist() == [[3, 4]]
    assert (opened.manifest.storage["format"], opened.has_digests) == ("pickle", False)
    checkpoint.save(tmp_path / "file.safetensors", opened)
    assert_same(checkpoint.restore(tmp_path / "file.safetensors"), restored)


@pytest.mark.parametrize("protocol", range(6))
def test_containers_and_plain_values(tmp_path, protocol):
    made = {
        "dict": {"a": {"w": np.ones(2)}, "none": None, "empty": {}},
        "ordered": collections.OrderedDict(a=np.ones(2), b=3),
        "default": collections.defaultdict(list, a=[1, 2]),
        "counted": collections.Counter("abb"),
        "frozen": flax.core.freeze({"a": {"w": np.ones(2)}}),
        "list": [1, (2, 3.5), [np.zeros(2)]],
        "numbers": {0: np.zeros(1), 1: np.ones(1), -3: 2},
        "text": "ü" * 5000,
        "short": "é\n",
        "bytes": b"\x00\xff" * 3000,
        "flags": [True, False, None],
        "large": 3**200,
        "complex": 1 + 2j,
        "infinite": float("inf"),
        "shared": [np.ones(3)] * 2,
    }
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(made, protocol))
    expected = {**made, "frozen": flax.core.unfreeze(made["frozen"])}
    expected |= {name: dict(made[name]) for name in ("ordered", "default", "counted")}
    assert_same(checkpoint.restore(tmp_path / "a.pkl"), expected)


def test_states_and_keys(tmp_path):
    state = optax.adam(1e-3).init({"w": jnp.ones(3)})
    made = {"opt": state, "pair": Pair(np.ones(2), {"a": np.zeros(1)}), "key": jax.random.key(3, impl="rbg")}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(made))
    restored = checkpoint.restore(tmp_path / "a.pkl")
    assert restored["pair"].keys() == {"left", "right"}
    assert restored["opt"][0].keys() == {"count", "mu", "nu"}
    assert jax.random.key_data(restored["key"]).tolist() == jax.random.key_data(made["key"]).tolist()
    assert jax.random.key_impl(restored["key"]) == "rbg"
    assert_same(checkpoint.restore(tmp_path / "a.pkl", made), made)


OPAQUE = {
    "os.system": Bomb(),
    "Settings": Settings(),
    "argparse.Namespace": argparse.Namespace(rate=0.1),
    "functools.partial": functools.partial(max, 1),
    "datetime.date": dt.date(2020, 1, 1),
    "builtins.set": {1, 2},
    "builtins.frozenset": frozenset({3}),
    "random.Random": random.Random(0),  # noqa: S311 - no secret
    "builtins.max": max,
    "Python objects": np.array([1, "a"], object),
    "text": np.array(["a", "bc"]),
    "dates": np.array(["2020-01-01"], "datetime64[D]"),
    "records": np.zeros(3, [("a", "f4")]),
    "MaskedArray": np.ma.masked_array([1, 2], [True, False]),
}


@pytest.mark.parametrize("words", OPAQUE)
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_what_is_opaque_is_named_and_left_out(tmp_path, monkeypatch, words, protocol):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"w": np.ones(2), "x": {"y": OPAQUE[words]}}, protocol))
    opened = checkpoint.open("a.pkl")
    said = "posix.system" if words == "os.system" else words
    said = "_mareconstruct" if words == "MaskedArray" else said
    assert opened.manifest.opaque.keys() == {"x/y"}
    assert said in opened.manifest.opaque["x/y"]
    assert_same(opened["**"], {"w": np.ones(2)})
    assert_same(checkpoint.restore("a.pkl", {"w": np.zeros(2)}, extra="drop"), {"w": np.ones(2)})
    asked = [
        lambda: checkpoint.restore("a.pkl"),
        opened.tree,
        lambda: opened.lazy("x/y"),
        lambda: opened["x/*"],
        lambda: checkpoint.save("new", opened),
    ]
    for ask in asked:
        with pytest.raises(errors.RefusedCheckpointError, match="x/y") as raised:
            ask()
        assert said in str(raised.value)
    with pytest.raises(errors.CheckpointMismatchError, match="x/y"):
        checkpoint.restore("a.pkl", {"w": np.zeros(2)})
    assert not (tmp_path / "it_has_run").exists()
    assert not (tmp_path / "new").exists()


def test_keys_that_are_one_text(tmp_path):
    made = {0: np.zeros(2), "0": np.ones(2), True: np.ones(1), "True": 3, 1.5: 1, "1.5": 2, (1, 2): 4}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(made))
    restored = checkpoint.restore(tmp_path / "a.pkl")
    names = {"0 (int)", "0", "True (bool)", "True", "1.5 (float)", "1.5", "(1, 2)"}
    assert restored.keys() == names
    assert restored["0"].tolist() == [1, 1]
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({0: 1, "0": 2, "0 (int)": 3}))
    with pytest.raises(errors.RefusedCheckpointError, match="have the name"):
        checkpoint.open(tmp_path / "a.pkl")


def test_several_pickles_in_one_file(tmp_path):
    path = tmp_path / "a.pkl"
    first, second = pickle.dumps({"w": np.arange(3.0)}), pickle.dumps([np.ones(2)])
    path.write_bytes(first + second)
    opened = checkpoint.restore(path)
    assert (opened[0]["w"].tolist(), opened[1][0].tolist()) == ([0, 1, 2], [1, 1])
    path.write_bytes(first + b"\r\n" + bytes(9))
    assert checkpoint.restore(path)["w"].tolist() == [0, 1, 2]
    path.write_bytes(first + second + b"more")
    opened = checkpoint.open(path)
    assert opened.manifest.opaque == {"2": "4 bytes that are no pickle"}
    assert opened.lazy("0/w").read().tolist() == [0, 1, 2]


def test_a_file_of_joblib_is_called_so(tmp_path):
    path = tmp_path / "a.joblib"
    path.write_bytes(b"\x80\x04\x8c\x19joblib.numpy_pickle_stuff\x10" + bytes(60))
    with pytest.raises(errors.CheckpointFormatError, match="joblib"):
        checkpoint.open(path)


def test_a_pickle_is_never_called_something_else(tmp_path):
    for protocol in (2, 5):
        raw = pickle.dumps({"w": np.arange(300.0)}, protocol)
        for name in ("a", "a.npz", "a.msgpack", "a.pt", "a.safetensors"):
            (tmp_path / name).write_bytes(raw[: len(raw) // 2])
            with pytest.raises(errors.CheckpointFormatError, match="pickle"):
                checkpoint.open(tmp_path / name)
            (tmp_path / name).write_bytes(raw)
            assert checkpoint.open(tmp_path / name).manifest.storage["format"] == "pickle"
    for text in ("(a remark.", "copyright of nobody.", "c.", "]"):
        (tmp_path / "text").write_text(text)
        with pytest.raises(errors.CheckpointFormatError, match="no known format"):
            checkpoint.open(tmp_path / "text")


BOMBS = {
    "a text of an exabyte": b"\x80\x04\x8d" + (1 << 60).to_bytes(8, "little") + b"a.",
    "doubled fifty times": b"\x80\x02(K\x01K\x01t" + b"2\x86" * 50 + b".",
    "itself": b"\x80\x02]q\x00h\x00a.",
    "nested": b"\x80\x02" + b"]" * 5000 + b"a" * 4999 + b".",
    "the same array a thousand times": pickle.dumps([np.ones(1 << 20)] * 1200),
    "an array of an exabyte": pickle.dumps({"w": np.ones(3)}, 2).replace(
        b"K\x03\x85", b"\x8a\x07" + b"\x00" * 6 + b"\x10\x85"
    ),
    "a negative extent": pickle.dumps({"w": np.ones(3)}, 2).replace(b"K\x03\x85", b"J\xff\xff\xff\xff\x85"),
    "no text": b"\x80\x04K\x01K\x02\x93.",
    "nothing on the stack": b"\x80\x02R.",
    "no end": b"\x80\x02]",
    "a later protocol": b"\x80\x09].",
    "an extension": b"\x80\x02\x82\x01.",
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs(tmp_path, name):
    (tmp_path / "a.pkl").write_bytes(BOMBS[name])
    with pytest.raises((errors.RefusedCheckpointError, errors.CheckpointFormatError)):
        checkpoint.restore(tmp_path / "a.pkl")


def test_a_memo_takes_no_more_than_what_is_in_it(tmp_path):
    (tmp_path / "a.pkl").write_bytes(b"\x80\x02}r\xff\xff\xff\xff.")
    with bounded_memory(1 << 26):
        assert checkpoint.restore(tmp_path / "a.pkl") == {}


SEEDS = [
    pickle.dumps(value, protocol)
    for protocol in range(6)
    for value in ({"w": np.ones(3), "b": Bomb(), "s": Settings()}, [{1, 2}, Pair(1, "a"), jnp.ones(2), b"a", 1.5, None])
]
DESCRIPTIONS = (Call, Name, Pairs, Persistent, Span, list, tuple, bool, int, float, str, type(None), object)


@settings(max_examples=300)
@given(number=st.integers(0, 1 << 32))
def test_nothing_but_descriptions_is_ever_built(number):
    """Python says of each import, call of code and file that it is asked for: there is none."""
    choice = random.Random(number)  # noqa: S311 - no secret
    data = choice.choice(SEEDS)
    for _ in range(choice.randrange(3)):
        data = mutated_bytes(data, choice)
    asked = []
    watched = ("import", "exec", "compile", "os.", "subprocess", "open", "socket", "ctypes", "pickle.find_class")
    WATCHES.append(lambda event: asked.append(event) if event.startswith(watched) else None)
    try:
        root = read_pickle(data, 0, len(data))[0]
    except BrokenPickleError:
        root = None
    finally:
        WATCHES.pop()
    assert asked == []
    waiting, seen = [root], set()
    while waiting:
        node = waiting.pop()
        assert type(node) in DESCRIPTIONS
        if id(node) not in seen:
            seen.add(id(node))
            waiting += node if isinstance(node, list | tuple) else []
            waiting += [part for pair in node.items for part in pair] if isinstance(node, Pairs | Call) else []
            waiting += [node.function, node.args, node.state, *node.appended] if isinstance(node, Call) else []


WATCHES = []


def watch(event, _):
    """Tell the watches what the interpreter was asked for; a hook, once set, stays."""
    for each in WATCHES:
        each(event)


sys.addaudithook(watch)
