"""Boxes: words about an array beside the array, which modules do not see and ``init`` stores."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from batiste.core import (
    AxisMetadata,
    add_axis,
    apply,
    init,
    is_axis_metadata,
    map_axis_meta,
    remove_axis,
    replace_boxed,
    unbox,
)
from tests.core.compiling import compiled

KEY = jax.random.key(0)


@jax.tree_util.register_pytree_node_class
@dataclasses.dataclass(frozen=True)
class Named(AxisMetadata[Any]):
    """A box that names the axes of its array."""

    value: Any
    names: tuple[str | None, ...]

    def unbox(self):
        return self.value

    def replace_boxed(self, val):
        return Named(val, self.names)

    def add_axis(self, index, params):
        return Named(self.value, (*self.names[:index], params.get("name"), *self.names[index:]))

    def remove_axis(self, index, params):
        return Named(self.value, self.names[:index] + self.names[index + 1 :])

    def tree_flatten(self):
        return (self.value,), self.names

    @classmethod
    def tree_unflatten(cls, names, children):
        return cls(children[0], names)


def boxed(initialiser, *names):
    return lambda *args: Named(initialiser(*args), names)


TREE = {"a": Named(jnp.ones(2), ("x",)), "b": [jnp.zeros(3), Named(Named(jnp.ones(()), ()), ())], "c": 3}


def test_unbox():
    plain = unbox(TREE)
    assert jax.tree.map(jnp.shape, plain) == {"a": (2,), "b": [(3,), ()], "c": ()}
    assert not any(map(is_axis_metadata, jax.tree.leaves(plain, is_leaf=is_axis_metadata)))
    assert is_axis_metadata(TREE["a"])


def test_replace_boxed():
    again = replace_boxed(TREE, jax.tree.map(lambda leaf: leaf + 1, unbox(TREE)))
    assert again["a"].names == ("x",)
    assert again["a"].value.tolist() == [2, 2]
    assert isinstance(again["b"][1].value, Named)
    assert again["b"][1].value.value == 2
    assert again["c"] == 4


def test_axes_come_and_go():
    added = add_axis(TREE, 0, {"name": "layers"})
    assert added["a"].names == ("layers", "x")
    again = remove_axis(added, 0, {})["a"]
    assert again.names == ("x",)
    assert again.value is TREE["a"].value
    assert map_axis_meta(lambda box: box.names, TREE)["a"] == ("x",)


def function(scope, x):
    kernel = scope.param("kernel", boxed(jax.nn.initializers.lecun_normal(), "in", "out"), (3, 3))
    whole = scope.param("whole", boxed(jax.nn.initializers.ones, "in"), (3,), unbox=False)
    count = scope.variable("state", "count", boxed(jnp.zeros), ())
    held = scope.variable("state", "held", boxed(jnp.zeros), (), unbox=False)
    if scope.is_mutable_collection("state"):
        count.value += 1
        held.value = Named(held.value.value + 2, ("changed",))
    return x @ kernel, whole, count.value, held.value


def test_init_stores_boxes_and_functions_get_arrays():
    x = jnp.ones((1, 3))
    (output, whole, count, held), variables = init(function)(KEY, x)
    assert variables["params"]["kernel"].names == ("in", "out")
    expected = jax.jit(lambda key: jax.nn.initializers.lecun_normal()(key, (3, 3)))(
        init(lambda scope: scope.make_rng("params"))(KEY)[0]
    )
    np.testing.assert_array_equal(variables["params"]["kernel"].value, expected)
    assert isinstance(output, jax.Array)
    assert whole.names == ("in",)
    assert (count, held.value, held.names) == (1, 2, ("changed",))
    assert variables["state"]["count"].names == ()
    again, changed = apply(function, mutable=["state"])(variables, x)
    assert changed["state"]["count"].value == 2
    np.testing.assert_array_equal(again[0], output)


def test_arrays_without_boxes_are_taken_too():
    x = jnp.ones((1, 3))
    variables = init(function)(KEY, x)[1]
    output = apply(lambda scope, x: function(scope, x)[0])({**unbox(variables), "state": variables["state"]}, x)
    np.testing.assert_array_equal(output, apply(function)(variables, x)[0])


def test_boxes_are_one_program_and_trace_abstractly():
    def many(scope):
        for index in range(3):
            scope.param(f"w{index}", boxed(jax.nn.initializers.normal(0.5), "in"), (11,))

    with compiled() as names:
        init(many)(KEY)
    assert names.count("finish") == 1
    shapes = jax.eval_shape(lambda: init(many)(KEY)[1])
    assert shapes["params"]["w0"].names == ("in",)
    assert shapes["params"]["w0"].value.shape == (11,)
