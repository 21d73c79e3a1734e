"""Initial values with less to compile are those that ``jax.random`` draws, bit for bit."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batiste.core import fingerprint, fold_numbers
from batiste.core import init as core_init
from batiste.core._draws import Arithmetic, draw_bits, fold_keys, small_constants, split_off_bits

INIT = jax.nn.initializers
WORDS = st.integers(0, 2**32 - 1)


@settings(max_examples=50, deadline=None)
@given(WORDS, st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=4), st.booleans())
def test_keys_are_folded_as_jax_folds_them(seed: int, rows: list[tuple[int, int]], typed: bool) -> None:
    key = (jax.random.key if typed else jax.random.PRNGKey)(np.uint32(seed))
    numbers = np.array(rows, np.uint32)
    folded = fold_keys(key, numbers)
    expected = [fold_numbers(key, row) for row in numbers]
    assert folded is not None
    np.testing.assert_array_equal(folded, [jax.random.key_data(each) if typed else each for each in expected])


@pytest.mark.parametrize("make", [jax.random.key, jax.random.PRNGKey], ids=["typed", "raw"])
@pytest.mark.parametrize("shape", [(1, 7), (3, 3, 5, 11), (64, 65)])
@pytest.mark.parametrize(
    "initialiser",
    [INIT.lecun_normal(), INIT.normal(0.02), INIT.uniform(), INIT.truncated_normal(), INIT.orthogonal()],
    ids=["lecun_normal", "normal", "uniform", "truncated_normal", "orthogonal"],
)
def test_bits_of_another_program_give_the_same_values(initialiser: Any, shape: tuple[int, ...], make: Any) -> None:
    key, numbers = make(3), np.array([5, 4_000_000_000], np.uint32)

    def draw(key: Any, numbers: Any) -> list[Any]:
        return [initialiser(fold_numbers(key, numbers), shape, jnp.float32)]

    split = split_off_bits(jax.make_jaxpr(draw)(key, numbers), 2)
    folded = fold_keys(key, numbers[None])
    assert split is not None
    assert folded is not None
    arithmetic = Arithmetic(fingerprint((initialiser, shape)), *split)
    size = arithmetic.bits_for(1)
    assert size is not None
    (found,) = arithmetic(draw_bits(folded[0], size))
    np.testing.assert_array_equal(found, jax.jit(draw)(key, numbers)[0])


def twice(key: Any) -> Any:
    return jax.random.normal(key, (3,)) + jax.random.normal(key, (3,))


def split_first(key: Any) -> Any:
    return jax.random.normal(jax.random.split(key)[0], (3,))


def seen(key: Any) -> Any:
    return jax.random.normal(key, (3,)) + jax.random.key_data(key)[0]


def few_bits(key: Any) -> Any:
    return jax.random.normal(key, (3,), jnp.bfloat16)


@pytest.mark.parametrize("function", [twice, split_first, seen, few_bits])
def test_what_draws_in_another_way_is_left_whole(function: Any) -> None:
    key, numbers = jax.random.key(0), np.array([1], np.uint32)
    traced = jax.make_jaxpr(lambda key, numbers: [function(fold_numbers(key, numbers))])(key, numbers)
    assert split_off_bits(traced, 1) is None


def test_keys_of_other_kinds_are_left_to_jax() -> None:
    numbers = np.array([[1]], np.uint32)
    assert fold_keys(jax.random.key(0, impl="rbg"), numbers) is None
    assert fold_keys(jax.device_put(jax.random.key(0), jax.devices()[0]), numbers) is None
    with jax.threefry_partitionable(False):
        assert fold_keys(jax.random.key(0), numbers) is None


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
@pytest.mark.parametrize("partitionable", [True, False])
@pytest.mark.parametrize("wide", [False, True], ids=["32", "64"])
def test_init_draws_what_the_initialiser_draws(impl: str, partitionable: bool, wide: bool) -> None:
    def model(scope: Any) -> None:
        scope.param("kernel", INIT.lecun_normal(), (9, 8))
        scope.param("narrow", INIT.lecun_normal(), (9, 8), jnp.float32)
        scope.param("again", twice)
        scope.param("bias", INIT.zeros, (8,))

    with jax.threefry_partitionable(partitionable), jax.enable_x64(wide):
        variables = core_init(model)(jax.random.key(0, impl=impl))[1]["params"]
        eager = jax.jit(core_init(model))(jax.random.key(0, impl=impl))[1]["params"]
    jax.tree.map(np.testing.assert_array_equal, variables, eager)


@pytest.mark.parametrize("value", [0, 1.5, True], ids=str)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.int32], ids=lambda dtype: dtype.__name__)
def test_small_constants_need_no_program(value: Any, dtype: Any) -> None:
    (found,) = small_constants(jax.make_jaxpr(lambda: jnp.full((3, 2), value, dtype))()) or [None]
    assert found is not None
    expected = jnp.full((3, 2), value, dtype)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def test_other_values_are_no_constants() -> None:
    assert small_constants(jax.make_jaxpr(lambda: jnp.arange(3))()) is None
    assert small_constants(jax.make_jaxpr(lambda: jnp.zeros(2**17))()) is None
    assert small_constants(jax.make_jaxpr(lambda x: jnp.broadcast_to(x, (3,)))(1.0)) is None


def test_every_constant_of_init_has_memory_of_its_own() -> None:
    def model(scope: Any) -> None:
        for name in "abc":
            scope.param(name, INIT.zeros, (2**10,))

    params = core_init(model)(jax.random.key(0))[1]["params"]
    made = jax.jit(core_init(model))(jax.random.key(0))[1]["params"]
    assert len({leaf.unsafe_buffer_pointer() for tree in (params, made) for leaf in tree.values()}) == 6
    doubled = jax.jit(lambda params: jax.tree.map(lambda leaf: leaf + 1, params), donate_argnums=0)(params)
    again = core_init(model)(jax.random.key(0))[1]["params"]
    assert all(float(leaf.sum()) == 2**10 for leaf in doubled.values())
    assert all(float(leaf.sum()) == 0 for leaf in again.values())
