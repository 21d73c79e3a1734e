"""Averages, ways between two trees, task vectors."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batiste import errors, tree
from tests.tree.support import Reads, same, transformer

numbers = st.floats(-4, 4, width=32)


def shifted(params, by):
    return jax.tree.map(lambda leaf: leaf + np.float32(by), params)


def close(left, right):
    return not tree.diff(left, right, rtol=1e-6, atol=1e-6)


def test_average_is_the_mean():
    params = transformer(1)
    assert close(tree.average([params, shifted(params, 1), shifted(params, 5)]), shifted(params, 2))
    assert same(tree.average([params]), params)


def test_only_the_proportions_of_weights_count():
    params = transformer(1)
    for weights in ([3, 1], [0.75, 0.25], [-3, -1]):
        assert close(tree.average([params, shifted(params, 4)], weights=weights), shifted(params, 1))


@given(numbers)
def test_interpolate(weight):
    one, two = {"a": np.float32([1, 2])}, {"a": np.float32([3, -2])}
    expected = {"a": ((1 - weight) * one["a"] + weight * two["a"]).astype(np.float32)}
    assert close(tree.interpolate(one, two, weight), expected)


def test_the_ends_are_exact():
    one, two = {"a": np.float32([0.1, np.inf])}, {"a": np.float32([0.7, np.nan])}
    assert same(tree.interpolate(one, two, 0.0), one)
    assert np.array_equal(tree.interpolate(one, two, 1.0)["a"], two["a"], equal_nan=True)
    assert same(tree.add_scaled(one, two, 0), one)


def test_task_vectors():
    base, tuned = transformer(2), shifted(transformer(2), 0.5)
    vector = tree.add_scaled(tuned, base, -1.0)
    assert close(vector, jax.tree.map(lambda leaf: np.full_like(leaf, 0.5), base))
    assert close(tree.add_scaled(base, vector, 2.0), shifted(base, 1.0))


def test_half_precision_is_summed_in_single():
    many = [{"a": jnp.full(3, 1.0, jnp.bfloat16)}, {"a": jnp.full(3, 0.0078125, jnp.bfloat16)}]
    result = tree.average([many[0], *[many[1]] * 255])["a"]
    assert result.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.float32(result), (1 + 255 * 0.0078125) / 256, rtol=2**-8)


def test_the_first_tree_gives_dtypes_and_what_is_not_floating():
    one = {"w": np.ones(2, np.float16), "step": np.int32(3), "key": jax.random.key(0)}
    two = {"w": np.zeros(2, np.float64), "step": np.int32(9), "key": jax.random.key(1)}
    result = tree.average([one, two])
    assert (result["w"].dtype, result["w"].tolist()) == (np.float16, [0.5, 0.5])
    assert (result["step"], result["key"]) == (one["step"], one["key"])
    assert tree.average([{"w": np.ones(1)}, {"w": np.array([3])}])["w"].tolist() == [2.0]


def test_double_and_complex_numbers_keep_their_precision():
    third = {"d": np.array([1 / 3]), "c": np.array([1j / 3])}
    result = tree.interpolate(third, {"d": np.zeros(1), "c": np.zeros(1, complex)}, 0.5)
    assert (result["d"].tolist(), result["c"].tolist()) == ([1 / 6], [1j / 6])


def test_numpy_stays_numpy_and_jax_wins():
    one, two = {"a": np.ones(2, np.float32)}, {"a": jnp.zeros(2)}
    assert type(tree.average([one, one])["a"]) is np.ndarray
    assert isinstance(tree.average([one, two])["a"], jax.Array)
    assert tree.average([{"a": np.ones(2)}, two])["a"].tolist() == [0.5, 0.5]


def test_optax_states_are_averaged():
    params = transformer(1)
    state = optax.adam(1e-3).init(params)
    result = tree.average([state, state])
    assert same(result, state)
    assert type(result[0]) is type(state[0])


def test_inside_jit_with_a_traced_weight_and_differentiated():
    one, two = {"a": jnp.ones(2), "n": np.ones(2)}, {"a": jnp.zeros(2), "n": np.zeros(2)}
    result = jax.jit(tree.interpolate)(one, two, 0.25)
    assert (result["a"].tolist(), result["n"].tolist()) == ([0.75] * 2, [0.75] * 2)
    slope = jax.grad(lambda weight: tree.add_scaled(one, one, weight)["a"].sum())(1.0)
    assert slope == 2.0


@pytest.mark.usefixtures("strict_dtypes")
def test_no_dtype_is_promoted_by_accident():
    one = {"a": jnp.ones(2, jnp.bfloat16), "b": jnp.ones(2)}
    result = tree.interpolate(one, one, jnp.float32(0.5))
    assert (result["a"].dtype, result["b"].dtype) == (jnp.bfloat16, jnp.float32)


def test_lazy_trees_give_lazy_sums_that_read_what_is_needed():
    one, two = Reads(np.arange(20, dtype=np.float32).reshape(4, 5)), Reads(np.ones((4, 5), np.float32))
    result = tree.average([{"a": one.lazy}, {"a": two.lazy}, {"a": jnp.ones((4, 5))}])["a"]
    assert (type(result), result.dtype, one.boxes, two.boxes) == (tree.LazyArray, np.float32, [], [])
    np.testing.assert_allclose(result[1].read(), (one.array[1] + 2) / 3, rtol=1e-6)
    assert (one.elements, two.elements) == (5, 5)
    half = tree.add_scaled({"a": one.lazy.astype("float16")}, {"a": two.lazy}, 0.5)["a"]
    assert half.read().dtype == np.float16
    step = tree.interpolate({"a": one.lazy}, {"a": two.lazy}, 0.5)["a"].read()
    np.testing.assert_allclose(step, (one.array + 1) / 2)


def test_a_tree_of_weight_zero_is_not_read():
    one, two = Reads(np.ones(2)), Reads(np.ones(2))
    assert tree.average([{"a": one.lazy}, {"a": two.lazy}], weights=[1, 0])["a"].read().tolist() == [1, 1]
    assert two.boxes == []


def test_abstract_trees_give_abstract_sums():
    abstract = {"a": jax.ShapeDtypeStruct((2,), jnp.bfloat16)}
    assert tree.average([abstract, {"a": np.ones(2)}]) == abstract


def test_trees_that_do_not_fit_are_listed():
    one = {"a": np.ones(2), "b": np.ones(1), "s": np.ones((2, 3))}
    with pytest.raises(errors.TreeMismatchError) as raised:
        tree.average([one, one, {"a": np.ones(2), "c": np.ones(1), "s": np.ones(2)}])
    assert str(raised.value).splitlines()[:4] == [
        "The trees cannot be combined leaf by leaf: tree 0 and tree 2 differ.",
        "  b: only in tree 0",
        "  c: only in tree 2",
        "  s: float64[2, 3] in tree 0, float64[2] in tree 2",
    ]


@pytest.mark.parametrize(
    ("one", "two", "cure"),
    [
        ({"w": np.ones(2)}, {"w": np.ones(3)}, "models of one size"),
        ({"w": np.ones(2)}, {"params": {"w": np.ones(2)}}, "Tree 1 .* give what it has at 'params'"),
        ({"params": {"w": np.ones(2)}}, {"w": np.ones(2)}, "Tree 0 .* give what it has at 'params'"),
        ({"h": {"w": np.ones((2, 3))}}, {"h_0": {"w": np.ones(3)}, "h_1": {"w": np.ones(3)}}, "stack_layers"),
        ({"w": np.ones(2)}, {"w": np.ones(2), "b": np.ones(1)}, "exclude"),
        ({"w": np.ones(2, int)}, {"w": np.ones(2)}, 'kinds="all"'),
    ],
    ids=["size", "level", "level-first", "layers", "extra", "kind"],
)
def test_the_cure_is_for_what_differs(one, two, cure):
    for combine in (
        tree.average,
        lambda trees: tree.interpolate(*trees, 0.5),
        lambda trees: tree.add_scaled(*trees, 2),
    ):
        with pytest.raises(errors.TreeMismatchError, match=cure) as raised:
            combine([one, two])
        assert isinstance(raised.value, ValueError)


@pytest.mark.parametrize(
    ("trees", "weights"), [([], None), ([1.0], [1, 2]), ([1.0, 2.0], [1, -1]), ([1.0], [float("nan")])], ids=str
)
def test_weights_that_cannot_work(trees, weights):
    with pytest.raises(errors.TreeValueError):
        tree.average(trees, weights=weights)


def test_what_is_no_array_is_an_error():
    with pytest.raises(errors.NotAnArrayError, match="a: str"):
        tree.average([{"a": "x"}])
