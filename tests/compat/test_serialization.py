"""State dicts and bytes are Flax's: the same bytes out, the same values in, and errors where Flax has them."""

import threading
from collections import OrderedDict
from typing import Any, NamedTuple

import flax.core
import flax.serialization as theirs
import flax.struct
import jax
import jax.numpy as jnp
import msgpack
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

import batiste.compat.flax.core
import batiste.compat.flax.serialization as ours
import batiste.compat.flax.struct
from batiste.errors import (
    ArrayBytesError,
    CorruptBytesError,
    HandlerRegisteredError,
    StateDictError,
    StateDictKeysError,
    UnserializableError,
)
from batiste.struct import PyTreeNode, field
from tests.compat.pairs import assert_same, outcome, text


class Pair(NamedTuple):
    left: Any
    right: Any


NUMBERS = [
    1, -1, 1.5, True, None, "text", b"bytes", 1 + 2j, float("nan"), 1e300,
    np.float32(1.5), np.int64(3), np.bool_(True), np.complex64(1 + 1j), np.complex128(1j), np.float64(2),
    np.datetime64("2020-01-01"), np.longdouble(1),
]  # fmt: skip
ARRAYS = [
    np.array(3.0), np.zeros((2, 3), np.int8), np.zeros((0, 2)), np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.arange(12).reshape(3, 4)[:, ::2], np.arange(3, dtype=np.float16), np.array([True, False]),
    jnp.ones(3, jnp.bfloat16), jnp.int4(3), jnp.array([1, 2], jnp.float8_e4m3fn), jnp.float32(2), jnp.arange(5),
    jax.random.PRNGKey(0),
]  # fmt: skip
TREES = [
    [1, 2], (1, 2), {"b": (1, [2, {"c": 3}]), "a": {}}, {1: 2}, (), [], {}, Pair(1, {"x": (2,)}), [Pair((), [])],
    jax.tree_util.Partial(max, 1, key=[2]), {"b": np.ones(2), "a": jnp.zeros(3)}, OrderedDict(b=1, a=2),
]  # fmt: skip

LEAVES = st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=3) | st.none() | st.booleans() | st.binary()
NESTED = st.recursive(
    LEAVES,
    lambda inner: (
        st.dictionaries(st.text("abc", max_size=2), inner, max_size=3)
        | st.lists(inner, max_size=3)
        | st.lists(inner, max_size=2).map(tuple)
    ),
    max_leaves=8,
)


def in_both(run):
    assert_same(lambda: run(ours), lambda: run(theirs))


@given(NESTED)
def test_same_bytes(tree):
    in_both(lambda lib: lib.to_state_dict(tree))
    in_both(lambda lib: lib.to_bytes(tree))
    in_both(lambda lib: lib.msgpack_serialize(lib.to_state_dict(tree)))
    in_both(lambda lib: lib.msgpack_restore(lib.to_bytes(tree)))
    in_both(lambda lib: lib.from_bytes(tree, theirs.to_bytes(tree)))
    assert text(theirs.from_bytes(tree, ours.to_bytes(tree))) == text(tree)


@pytest.mark.parametrize("place", range(len(NUMBERS + ARRAYS + TREES)))
def test_same_bytes_of(place):
    value = [*NUMBERS, *ARRAYS, *TREES][place]
    for tree in (value, {"k": value}):
        in_both(lambda lib, tree=tree: lib.to_state_dict(tree))
        in_both(lambda lib, tree=tree: lib.to_bytes(tree))
        in_both(lambda lib, tree=tree: lib.msgpack_serialize(tree))
        in_both(lambda lib, tree=tree: lib.msgpack_restore(lib.to_bytes(tree)))
        in_both(lambda lib, tree=tree: lib.from_bytes(tree, lib.to_bytes(tree)))
        in_both(lambda lib, tree=tree: lib.is_serializable(tree))


@pytest.mark.parametrize("chunk", [1, 16, 39])
def test_same_chunks(monkeypatch, chunk):
    monkeypatch.setattr(ours, "MAX_CHUNK_SIZE", chunk)
    monkeypatch.setattr(theirs, "MAX_CHUNK_SIZE", chunk)
    array = np.arange(10.0, dtype=np.float32)
    fortran = np.asfortranarray(array.reshape(2, 5))
    trees: list[Any] = [array, {"x": fortran, "y": {"z": jnp.arange(3)}}, [array], (array,), np.zeros(3, np.complex128)]
    for tree in [*trees, np.zeros((5, 0)), np.float32(3), jnp.ones((2, 2), jnp.bfloat16)]:
        in_both(lambda lib, tree=tree: lib.to_bytes(tree))
        in_both(lambda lib, tree=tree: lib.msgpack_serialize(lib.to_state_dict(tree)))
        in_both(lambda lib, tree=tree: lib.from_bytes(tree, theirs.to_bytes(tree)))


def test_the_largest_chunk():
    assert ours.MAX_CHUNK_SIZE == theirs.MAX_CHUNK_SIZE


def test_in_place():
    for lib in (ours, theirs):
        kept, changed = {"x": jnp.ones(2)}, {"x": jnp.ones(2), "y": {"z": jnp.ones(1)}}
        lib.msgpack_serialize(kept)
        lib.msgpack_serialize(changed, in_place=True)
        assert isinstance(kept["x"], jax.Array)
        assert isinstance(changed["x"], np.ndarray)
        assert isinstance(changed["y"]["z"], np.ndarray)


def test_restored_arrays_cannot_be_written_to():
    assert not ours.msgpack_restore(ours.to_bytes(np.ones(2))).flags.writeable


def test_the_target_gives_the_structure_and_no_shapes():
    target = {"w": jnp.zeros((3, 4)), "n": 1}
    state = {"w": np.ones(5, np.int8), "n": {"other": 2}, "more": 3}
    in_both(lambda lib: lib.from_state_dict(target, state))
    in_both(lambda lib: lib.from_bytes(target, lib.to_bytes(state)))
    assert ours.from_bytes(None, ours.to_bytes(state)).keys() == state.keys()


def test_optimiser_states():
    params = {"w": jnp.ones(2), "b": jnp.zeros(())}
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    state = tx.update(params, tx.init(params), params)[1]
    assert ours.to_bytes(state) == theirs.to_bytes(state)
    restored = ours.from_bytes(tx.init(params), theirs.to_bytes(state))
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, restored, state)


def test_named_tuples_of_old():
    state = {"name": "Pair", "fields": {"0": "left", "1": "right"}, "values": {"0": 7, "1": {"x": 8}}}
    in_both(lambda lib: lib.from_state_dict(Pair(1, {"x": 2}), state))


def declared(struct):
    @struct.dataclass
    class Node:
        a: Any
        name: str = struct.field(pytree_node=False, default="n")
        b: Any = None

    class Child(struct.PyTreeNode):
        node: Node
        more: Any = 0

    return Node, Child


def test_dataclasses():
    sides = (ours, batiste.compat.flax.struct), (theirs, flax.struct)
    made = []
    for lib, struct in sides:
        node, child = declared(struct)
        tree = {"c": child(node(jnp.ones(2), "m", [1]), 5), "n": node(1)}
        made.append((lib.to_state_dict(tree), lib.to_bytes(tree), lib.from_bytes(tree, lib.to_bytes(tree))))
        assert lib.is_serializable(node)
        assert lib.is_serializable(tree["n"])
        assert lib.from_state_dict(node(1, "m", [2]), {"a": 9, "b": {"0": 8}}) == node(9, "m", [8])
        for wrong in ({"a": 1}, {"a": 1, "b": None, "name": "x"}, {"a": 1, "b": 2, "z": 3}):
            assert isinstance(
                outcome(lambda lib=lib, node=node, wrong=wrong: lib.from_state_dict(node(1), wrong)), ValueError
            )
    assert text(made[0]) == text(made[1])


def test_dataclasses_of_batiste_and_what_is_made_from_them():
    class Node(PyTreeNode):
        a: Any
        kind: Any = field(pytree_node=False, default=None)
        made: int = field(default=0, init=False)

    class Plain(Node):
        pass

    assert ours.to_state_dict(Node([1], "k")) == {"a": {"0": 1}}
    assert ours.from_state_dict(Node([1], "k"), {"a": {"0": 2}}) == Node([2], "k")
    assert ours.is_serializable(Plain)  # it is declared through PyTreeNode
    with pytest.raises(HandlerRegisteredError):
        ours.register_serialization_state(Node, lambda node: {}, lambda node, state: node)


def test_one_dataclass_module():
    frozen = batiste.compat.flax.core.freeze({"p": {"w": np.ones(2)}})
    theirs_frozen = flax.core.freeze({"p": {"w": np.ones(2)}})
    assert ours.to_bytes({"f": frozen}) == theirs.to_bytes({"f": theirs_frozen})


class Custom:
    def __init__(self, x):
        self.x = x


class Sub(Custom):
    pass


def test_registered_types():
    paths = []

    def load(target, state):
        paths.append(ours.current_path())
        return Custom(ours.from_state_dict(target.x, state["x"], name="x"))

    ours.register_serialization_state(Custom, lambda custom: {"x": ours.to_state_dict(custom.x)}, load, override=True)
    assert ours.to_state_dict({"k": [Custom((1,))]}) == {"k": {"0": {"x": {"0": 1}}}}
    assert ours.from_state_dict({"k": [Custom((1,))]}, {"k": {"0": {"x": {"0": 5}}}})["k"][0].x == (5,)
    assert paths == ["./k/0"]
    assert ours.current_path() == ""
    assert type(ours.to_state_dict(Sub(1))) is Sub
    with pytest.raises(HandlerRegisteredError):
        ours.register_serialization_state(Custom, lambda custom: {}, load)
    ours.register_serialization_state(Custom, lambda custom: {3: 4}, load, override=True)
    with pytest.raises(StateDictError, match="no string"):
        ours.to_state_dict({"k": Custom(1)})


def test_every_thread_has_its_own_path():
    seen = {}
    barrier = threading.Barrier(2, timeout=10)

    class Slow:
        pass

    def load(target, state):
        barrier.wait()
        seen[state] = ours.current_path()
        return target

    ours.register_serialization_state(Slow, lambda slow: {}, load)
    threads = [threading.Thread(target=ours.from_state_dict, args=({name: Slow()}, {name: name})) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {"a": "./a", "b": "./b"}


MISFITS = [
    (Pair(1, 2), {"left": 5}), (Pair(1, 2), {"left": 5, "right": 1, "c": 2}), (Pair(1, 2), [5, 1]),
    ([1, 2], {"0": 1}), ([1, 2], {"0": 1, "2": 1}), ([1, 2], [3, 4]), ((1, 2), {"0": 1}), ((1, 2), 5),
    ({"a": 1}, {"b": 1}), ({"a": {"b": 1}, "c": 2}, {"a": {}, "c": 2}), ({"a": 1}, 5), ({"a": 1}, None),
    ({1: 1}, {1: 3}),
]  # fmt: skip


@pytest.mark.parametrize("place", range(len(MISFITS)))
def test_misfits(place):
    target, state = MISFITS[place]
    in_both(lambda lib: lib.from_state_dict(target, state))
    with pytest.raises(StateDictKeysError):
        ours.from_state_dict(target, state)


def test_a_misfit_says_where():
    with pytest.raises(StateDictKeysError, match=r"at \./a/0, a dict: b only in the target"):
        ours.from_state_dict({"a": [{"b": 1}]}, {"a": {"0": {}}})


def test_what_cannot_be_written():
    for value in (np.array([1, "a"], object), np.zeros(2, [("a", "f4")]), jax.random.key(0)):
        with pytest.raises(ArrayBytesError):
            ours.to_bytes({"x": value})
    for value in (object(), range(3), {1}, OrderedDict(a=1), 2**70, test_misfits):
        with pytest.raises(UnserializableError):
            ours.to_bytes({"x": value})
    with pytest.raises(UnserializableError, match="to_state_dict first"):
        ours.msgpack_serialize((1, 2))
    with pytest.raises(StateDictError, match="read '1'"):
        ours.to_state_dict({1: 2, "1": 3})


@pytest.mark.parametrize("content", [b"garbage\xc1", b"", b"\x01\x02", theirs.to_bytes(np.ones(3))[:-3]])
def test_what_cannot_be_read(content):
    with pytest.raises(CorruptBytesError):
        ours.msgpack_restore(content)
    assert isinstance(outcome(lambda: theirs.msgpack_restore(content)), ValueError)


def test_what_others_have_written():
    for written in ({"a": [1, 2], 2: "x"}, msgpack.ExtType(9, b"hh"), msgpack.Timestamp(1, 2)):
        in_both(lambda lib, written=written: lib.msgpack_restore(msgpack.packb(written)))
    in_both(lambda lib: lib.msgpack_restore(memoryview(theirs.to_bytes(np.ones(3)))))


def test_better_than_flax():
    big_endian = np.arange(3, dtype=">i4")  # Flax writes the bytes as they are, and reads other numbers
    assert ours.from_bytes(None, ours.to_bytes(big_endian)).tolist() == [0, 1, 2]
    assert theirs.from_bytes(None, ours.to_bytes(big_endian)).tolist() == [0, 1, 2]
    for texts in (np.array(["a", "bc"]), np.array([b"a", b"bc"])):  # Flax writes them, and cannot read them
        assert ours.to_bytes(texts) == theirs.to_bytes(texts)
        assert ours.from_bytes(None, ours.to_bytes(texts)).tolist() == texts.tolist()


def test_msgpack_loads_late(fresh_python):
    done = fresh_python(
        "import sys, batiste.compat.flax.serialization as s; assert 'msgpack' not in sys.modules;"
        "sys.modules['msgpack'] = None\ntry: s.to_bytes(1)\nexcept ImportError as error: print(error)"
    )
    assert "pip install batiste[checkpoint]" in done.stdout, done.stderr
