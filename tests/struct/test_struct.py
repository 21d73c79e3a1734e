"""Frozen pytree dataclasses, held against ``flax.struct`` where both say something."""

import copy
import dataclasses
import pickle
import subprocess
import sys
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Generic, TypeVar

import cloudpickle
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from batiste import struct
from batiste.errors import BatisteError, FrozenStructError, StructFieldError, StructOptionError

T = TypeVar("T")


@struct.dataclass
class Point:
    x: Any
    y: Any
    label: str = struct.field(default="p", pytree_node=False)


class Pair(struct.PyTreeNode):
    left: Any
    right: Any = 0
    name: str = struct.field(default="pair", pytree_node=False)


class Triple(Pair):
    last: Any = struct.field(default=3)

    def total(self):
        return self.left + self.right + self.last


class Same(Pair):
    pass


class Box(struct.PyTreeNode, Generic[T]):
    value: T


class Abstract(struct.PyTreeNode, ABC):
    x: Any

    @abstractmethod
    def area(self): ...


class Concrete(Abstract):
    def area(self):
        return self.x**2


def every_kind():
    return [Point(1.0, 2.0, "a"), Pair(1, 2), Triple(1, 2), Same(1, right=2), Box(3.0), Concrete(2.0)]


@pytest.mark.parametrize("decorate", [struct.dataclass, flax.struct.dataclass], ids=["batiste", "flax"])
def test_trees_keys_and_definitions_are_those_of_flax(decorate):
    @decorate
    class Node:
        b: Any
        a: Any
        static: str = struct.field(default="s", pytree_node=False)
        inner: Any = None

    node = Node({"k": 1}, 2, "t", (3, 4))
    paths = [(jax.tree_util.keystr(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(node)]
    assert paths == [(".b['k']", 1), (".a", 2), (".inner[0]", 3), (".inner[1]", 4)]
    assert jax.tree.map(lambda leaf: leaf * 10, node) == Node({"k": 10}, 20, "t", (30, 40))
    assert str(jax.tree.structure(node)) == "PyTreeDef(CustomNode(Node[('t',)], [{'k': *}, *, (*, *)]))"


def test_fields_of_either_library_work_in_the_other():
    @struct.dataclass
    class Ours:
        x: int
        y: int = flax.struct.field(default=1, pytree_node=False)

    @flax.struct.dataclass
    class Theirs:
        x: int
        y: int = struct.field(default=1, pytree_node=False)

    assert jax.tree.leaves(Ours(5)) == jax.tree.leaves(Theirs(5)) == [5]


def test_a_field_that_jax_calls_static_is_static():
    @struct.dataclass
    class Node:
        x: int
        y: int = dataclasses.field(default=1, metadata={"static": True})

    assert jax.tree.leaves(Node(5)) == [5]


def test_field_keeps_metadata_and_takes_the_options_of_dataclasses():
    @struct.dataclass
    class Node:
        x: list[int] = struct.field(default_factory=list, metadata={"unit": "m"}, kw_only=True)
        y: int = struct.field(default=2, repr=False)

    assert dataclasses.fields(Node)[0].metadata == {"unit": "m", "pytree_node": True}
    assert Node(7, x=[1]).y == 7
    assert repr(Node()) == f"{Node.__qualname__}(x=[])"


def test_the_decorator_with_arguments_and_twice():
    @struct.dataclass(kw_only=True, order=True)
    class Node:
        x: int = 1
        y: int

    assert Node(y=2) < Node(y=3)
    assert struct.dataclass(Node) is Node
    assert struct.dataclass(Pair) is Pair


def test_keyword_only_base():
    class Node(struct.PyTreeNode, kw_only=True):
        x: int = 1
        y: int

    class More(Node):
        z: int

    node = More(3, y=2)
    assert (node.x, node.y, node.z) == (1, 2, 3)
    assert jax.tree.leaves(node) == [1, 2, 3]


def test_instances_are_frozen():
    for node in every_kind():
        name = dataclasses.fields(node)[0].name
        with pytest.raises(FrozenStructError, match=rf"replace\({name}=\.\.\.\)"):
            setattr(node, name, 5)
        with pytest.raises(dataclasses.FrozenInstanceError):
            delattr(node, name)
        with pytest.raises(FrozenStructError):
            node.another = 5


def test_an_ordinary_subclass_may_have_attributes_of_its_own():
    class Cached(Point):
        pass

    node = Cached(1, 2)
    node.note = "fine"
    assert node.note == "fine"
    with pytest.raises(FrozenStructError):
        node.x = 3
    with pytest.raises(FrozenStructError):
        del node.x
    del node.note
    assert not hasattr(node, "note")


def test_frozen_false_is_obeyed():
    @struct.dataclass(frozen=False)
    class Node:
        x: int

    node = Node(1)
    node.x = 2
    assert jax.tree.leaves(node) == [2]


def test_replace_copies():
    for node in every_kind():
        first = dataclasses.fields(node)[0].name
        changed = node.replace(**{first: 41})
        assert type(changed) is type(node)
        assert getattr(changed, first) == 41
        assert getattr(node, first) != 41
        assert changed == dataclasses.replace(node, **{first: 41})


def test_replace_of_an_unknown_field_names_the_nearest():
    with pytest.raises(StructFieldError, match=r"Pair has no such field; its fields are: left, right, name") as caught:
        Pair(1).replace(rihgt=2)
    assert "Did you mean 'right'?" in str(caught.value)
    assert isinstance(caught.value, TypeError)
    assert isinstance(pickle.loads(pickle.dumps(caught.value)), StructFieldError)  # noqa: S301


def test_a_replace_of_ones_own_is_kept():
    @struct.dataclass
    class Node:
        x: int

        def replace(self):
            return "mine"

    class Other(struct.PyTreeNode):
        x: int

        def replace(self):
            return "mine"

    assert Node(1).replace() == Other(1).replace() == "mine"


def test_slots():
    @struct.dataclass(slots=True)
    class Node:
        x: int
        y: int = struct.field(default=1, pytree_node=False)

    assert not hasattr(Node(1), "__dict__")
    assert jax.tree.leaves(jax.tree.map(lambda leaf: leaf + 1, Node(1))) == [2]
    assert copy.copy(Node(3)) == Node(3).replace() == Node(3)
    with pytest.raises(StructOptionError, match="Drop slots=True"):

        class Wrong(struct.PyTreeNode, slots=True):
            x: int


def test_a_field_made_after_the_others_is_no_part_of_the_tree():
    @struct.dataclass
    class Node:
        x: Any
        double: Any = struct.field(init=False)

        def __post_init__(self):
            object.__setattr__(self, "double", (self.x, self.x))

    node = jax.tree.map(lambda leaf: leaf + 1, Node(1))
    assert node.double == (2, 2)
    assert jax.tree.leaves(node) == [2]
    with pytest.raises(StructFieldError):
        node.replace(double=1)


def test_jit_traces_once_per_static_value():
    traces = []

    @jax.jit
    def move(node):
        traces.append(node.label)
        return node.replace(x=node.x + 1)

    for _ in range(3):
        assert move(Point(1.0, jnp.ones(2), "a")).x == 2.0
    assert move(Point(1.0, jnp.ones(2), "b")).label == "b"
    assert traces == ["a", "b"]


def test_inside_the_transforms():
    node = Point(jnp.arange(3.0), jnp.ones(3))
    gradient = jax.grad(lambda n: (n.x * n.y).sum())(node)
    np.testing.assert_array_equal(gradient.y, np.arange(3.0))
    assert gradient.label == "p"
    assert jax.vmap(lambda n: n.x + n.y)(node).shape == (3,)
    carried, _ = jax.lax.scan(lambda n, _: (n.replace(x=n.x + 1), None), node, None, length=4)
    np.testing.assert_array_equal(carried.x, np.arange(3.0) + 4)
    assert jax.eval_shape(lambda n: n, node).x.shape == (3,)


def test_methods_of_subclasses_work_under_jit():
    assert jax.jit(Triple.total)(Triple(1, 2)) == 6
    assert jax.jit(Concrete.area)(Concrete(3.0)) == 9.0
    assert jax.tree.map(lambda leaf: leaf + 1, Same(1, 2, "n")) == Same(2, 3, "n")
    assert jax.tree_util.keystr(jax.tree_util.tree_leaves_with_path(Same(1))[1][0]) == ".right"


def test_copies_and_pickles():
    for node in every_kind():
        for made in (
            copy.copy(node),
            copy.deepcopy(node),
            pickle.loads(pickle.dumps(node)),  # noqa: S301
            cloudpickle.loads(cloudpickle.dumps(node)),
        ):
            assert made == node
            assert type(made) is type(node)
            assert jax.tree.structure(made) == jax.tree.structure(node)


SENDER = """
import sys, cloudpickle
from typing import Any
from batiste import struct

@struct.dataclass
class Decorated:
    x: Any
    label: str = struct.field(default="d", pytree_node=False)

class Node(struct.PyTreeNode):
    x: Any
    label: str = struct.field(default="n", pytree_node=False)

class Child(Node):
    z: Any = 5

class Empty(Child):
    pass

class Methods(Child):
    def total(self):
        return self.x + self.z

def make(x):
    return [Decorated(x), Node(x, label="m"), Child(x), Empty(x), Methods(x)]

sys.stdout.buffer.write(cloudpickle.dumps((make, make(1))))
"""

RECEIVER = """
import sys, pickle, jax
make, sent = pickle.loads(sys.stdin.buffer.read())
for nodes in (sent, make(1)):
    assert [jax.tree.leaves(node) for node in nodes] == [[1], [1], [1, 5], [1, 5], [1, 5]], nodes
    moved = jax.jit(lambda t: jax.tree.map(lambda leaf: leaf + 1, t))(nodes)
    assert [node.x for node in moved] == [2] * 5
    assert [node.label for node in moved] == ["d", "m", "n", "n", "n"]
    assert moved[4].total() == 8
    assert nodes[0].replace(x=7).x == 7
    assert jax.tree_util.keystr(jax.tree_util.tree_leaves_with_path(nodes[2])[1][0]) == ".z"
    try:
        nodes[1].x = 3
    except AttributeError:
        pass
    else:
        raise SystemExit("not frozen")
assert sent == make(1)
"""


def test_classes_of_a_main_program_travel_to_another_process(tmp_path: Path):
    (tmp_path / "sender.py").write_text(SENDER)
    sent = subprocess.run([sys.executable, tmp_path / "sender.py"], check=True, capture_output=True)
    got = subprocess.run([sys.executable, "-c", RECEIVER], check=False, capture_output=True, input=sent.stdout)
    assert got.returncode == 0, got.stderr.decode()


def test_every_error_of_this_file_is_of_the_catalogue():
    for kind in (FrozenStructError, StructFieldError, StructOptionError):
        assert issubclass(kind, BatisteError)
        assert kind.code.startswith("struct/")
