"""Ids, files, types and tracebacks: `flax.ids`, `flax.io`, `flax.typing`, `flax.struct`, `flax.traceback_util`."""

import copy
import pickle
import sys
import threading
import types
import typing
from pathlib import Path

import flax.ids
import flax.io
import flax.struct
import flax.typing
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from batiste import struct as own_struct
from batiste.compat.flax import ids, io, struct, traceback_util
from batiste.compat.flax import typing as compat_typing
from batiste.errors import AlreadyExistsError, BackendModeError, BatisteError
from tests.compat.pairs import assert_same, outcome


def test_ids():
    first, second = ids.uuid(), ids.uuid()
    assert first != second
    assert first == first  # noqa: PLR0124 - by value
    assert copy.copy(first) not in (first, second)
    assert copy.deepcopy(first) not in (first, second)
    assert pickle.loads(pickle.dumps(first)) == first  # noqa: S301 - its own
    for module in (ids, flax.ids):
        assert repr(module.FlaxId(7)) == "FlaxId(7)"
        assert hash(module.FlaxId(7)) == hash(7)
        assert module.FlaxId(7) == module.FlaxId(7)
        assert module.FlaxId(7) != 7
        assert repr([module.UUIDManager()() for _ in range(2)]) == "[FlaxId(1), FlaxId(1)]"


def test_ids_of_threads():
    given = []
    threads = [threading.Thread(target=lambda: given.extend(ids.uuid().id for _ in range(500))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(given)) == 2000


def listed(folder: Path):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_files(tmp_path):
    folders = {library: tmp_path / library.__name__.split(".")[0] for library in (io, flax.io)}

    def steps(lib):
        base = folders[lib]
        name = str(base)
        lib.makedirs(f"{name}/d/e")
        lib.makedirs(f"{name}/d/e")
        with lib.GFile(f"{name}/a", "wb") as file:
            file.write(b"hi")
        yield lib.copy(f"{name}/a", f"{name}/b"), listed(base)
        yield lib.copy(f"{name}/a", f"{name}/b", overwrite=True), listed(base)
        yield lib.rename(f"{name}/a", f"{name}/c"), listed(base)
        yield lib.rename(f"{name}/c", f"{name}/b", overwrite=True), listed(base)
        with lib.GFile(f"{name}/b", "r") as file:
            yield file.read()
        yield sorted(lib.listdir(name)), lib.isdir(name), lib.isdir(f"{name}/b"), lib.exists(f"{name}/x")
        yield lib.getsize(f"{name}/b"), sorted(Path(path).name for path in lib.glob(f"{name}/*"))
        yield lib.rmtree(f"{name}/d"), lib.remove(f"{name}/b"), listed(base)

    assert list(steps(io)) == list(steps(flax.io))


def test_errors_of_files(tmp_path):
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    for move in ("copy", "rename"):
        names = str(tmp_path / "a"), str(tmp_path / "b")
        assert_same(
            lambda move=move, names=names: getattr(io, move)(*names),
            lambda move=move, names=names: getattr(flax.io, move)(*names),
        )
        with pytest.raises(AlreadyExistsError):
            getattr(io, move)(*names)
    nothing = str(tmp_path / "nothing")
    for run in (io.listdir, io.getsize, io.remove, io.rmtree, lambda path: io.GFile(path, "r")):
        with pytest.raises(io.NotFoundError):
            run(nothing)
    assert io.NotFoundError is flax.io.NotFoundError


def test_backends(monkeypatch, tmp_path):
    assert io.io_mode is io.BackendMode.DEFAULT
    assert [mode.name for mode in io.BackendMode] == [mode.name for mode in flax.io.BackendMode]
    with pytest.raises(BackendModeError):
        io.set_mode("TF")
    with pytest.raises(AttributeError):
        io.nothing  # noqa: B018 - to be refused
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(ImportError, match="pip install tensorflow"):
        io.set_mode(io.BackendMode.TF)
    asked = []
    gfile = types.SimpleNamespace(
        listdir=lambda path: asked.append(path) or ["x"],
        stat=lambda path: types.SimpleNamespace(length=7),
        exists=lambda path: False,
        rename=lambda *args: asked.append(args),
    )
    tensorflow = types.SimpleNamespace(io=types.SimpleNamespace(gfile=gfile))
    monkeypatch.setitem(sys.modules, "tensorflow", tensorflow)
    with io.override_mode(io.BackendMode.TF):
        assert io.io_mode is io.BackendMode.TF
        assert io.listdir("gs://a") == ["x"]
        assert io.getsize("gs://a") == 7
        io.rename("gs://a", "gs://b", overwrite=True)
    assert asked == ["gs://a", ("gs://a", "gs://b", True)]
    assert io.io_mode is io.BackendMode.DEFAULT
    io.set_mode(io.BackendMode.DEFAULT)
    assert io.listdir(str(tmp_path)) == []


def test_types():
    for lib in (compat_typing, flax.typing):
        inward = lib.In("x")
        assert (repr(inward), repr(lib.Out(3))) == ("In(axis='x')", "Out(axis=3)")
        assert inward == lib.In("x")
        assert hash(inward) == hash(lib.In("x"))
        with pytest.raises(AttributeError):
            inward.axis = "y"
        mapping = lib.HashableMapping({"a": 1, "b": 2})
        assert hash(mapping) == hash(lib.HashableMapping({"b": 2, "a": 1}))
        assert mapping == lib.HashableMapping({"b": 2, "a": 1})
        assert mapping != {"a": 1, "b": 2}
        assert repr(mapping.update({"c": 3})) == "{'a': 1, 'b': 2, 'c': 3}"
        assert (len(mapping), mapping["a"], "a" in mapping, list(mapping)) == (2, 1, True, ["a", "b"])
        assert lib.has_shape_dtype(np.float32(1))
        assert not lib.has_shape_dtype(3)
        assert lib.is_key_like("a")
        assert type(lib.MISSING) is lib.Missing
    assert isinstance("a", compat_typing.Key)
    assert isinstance(jnp.ones(1), compat_typing.ShapeDtype)


@pytest.mark.parametrize("count", [0, 1, 999, 1000, 1023, 1500, 10**6, 10**6 + 1, 10**9 + 5, 10**12, 10**15])
def test_sizes(count):
    assert repr(compat_typing.SizeBytes(count, count)) == repr(flax.typing.SizeBytes(count, count))


def test_sizes_of_trees():
    tree = {"a": jnp.ones((2, 3)), "b": np.ones(2, np.int8), "s": jax.ShapeDtypeStruct((4,), jnp.bfloat16)}
    for lib in (compat_typing, flax.typing):
        assert repr(lib.SizeBytes.from_any(tree)) == "12 (34 B)"
        assert repr(lib.SizeBytes.from_array(tree["a"]) + lib.SizeBytes(1, 4)) == "7 (28 B)"
        assert [bool(lib.SizeBytes(size, 1)) for size in (0, 1)] == [False, True]
        assert not lib.SizeBytes.from_any(3)


def test_aliases_can_be_read():
    aliases = [name for name in compat_typing.__all__ if not isinstance(getattr(compat_typing, name), type)]
    for name in aliases:
        typing.get_type_hints(types.SimpleNamespace(__annotations__={"x": getattr(compat_typing, name)}))


def test_structs():
    assert struct.dataclass is own_struct.dataclass

    made = []
    for lib in (struct, flax.struct):

        class Node(lib.PyTreeNode):
            a: int
            b: str = lib.field(pytree_node=False, default="b", metadata={"m": 1})

        class Free(lib.PyTreeNode, frozen=False):
            a: int

        free = Free(1)
        free.a = 2
        node = Node(1)
        made.append((repr(node.replace(a=5)), jax.tree.structure(node), hash(node) == hash(Node(1)), free.a))
        assert isinstance(outcome(lambda node=node: node.replace(c=1)), TypeError)
        assert isinstance(outcome(lambda node=node: setattr(node, "a", 3)), AttributeError)
    assert str(made[0]) == str(made[1])


def test_tracebacks():
    traceback_util.register_exclusion(__file__)
    traceback_util.hide_flax_in_tracebacks()
    traceback_util.show_flax_in_tracebacks()
    assert traceback_util.api_boundary(test_ids) is test_ids


def test_every_error_of_flax_that_is_raised_here_is_one_of_ours():
    assert issubclass(AlreadyExistsError, BatisteError)
    assert AlreadyExistsError.__name__ in dir(flax.errors)
