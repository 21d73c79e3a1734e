"""Laws that hold for every layer: each test runs over every row of `cases.py`."""

import copy
import functools
import pickle
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.laws.cases import CASES, Case
from tests.nn.oracle import assert_same, cheapened

pytestmark = pytest.mark.parametrize("name", CASES)
MODES = pytest.mark.parametrize("is_training", [True, False], ids=["train", "evaluate"])


def keys(case: Case, seed: int = 0) -> dict[str, Any]:
    return {name: jax.random.key(seed + number, impl="rbg") for number, name in enumerate(("params", *case.rngs))}


@functools.cache
def variables_of(name: str) -> Any:
    case = CASES[name]
    return cheapened(case.make()).init(keys(case), *case.args, **case.train)


def call(case: Case, variables: Any, args: Any, *, is_training: bool = True) -> tuple[Any, Any]:
    """Return the outputs and the variables after the call."""
    if not is_training:
        kwargs = case.train if case.evaluate is None else case.evaluate
        return case.make().apply(variables, *args, **kwargs), variables
    rngs = keys(case)
    result = case.make().apply(variables, *args, rngs=rngs, mutable=list(case.mutable), **case.train)
    return result[0], {**variables, **result[1]}


def as_jax(tree: Any) -> Any:
    return jax.tree.map(jnp.asarray, tree)


def cast(tree: Any, dtype: Any) -> Any:
    def one(leaf: Any) -> Any:
        return jnp.asarray(leaf, dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else jnp.asarray(leaf)

    return jax.tree.map(one, tree)


def total(outputs: Any) -> Any:
    return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(outputs) if jnp.issubdtype(leaf.dtype, jnp.floating))


def gradient(function: Any, case: Case, variables: Any, args: Any) -> Any:
    """Return the gradient of the sum of outputs with respect to parameters and floating-point inputs."""

    def loss(params: Any, floating: Any) -> Any:
        rest = iter(floating)
        filled = [next(rest) if jnp.issubdtype(arg.dtype, jnp.floating) else arg for arg in args]
        outputs, _ = function(case, {**variables, "params": params}, filled)
        return total(outputs)

    floating = [arg for arg in as_jax(args) if jnp.issubdtype(arg.dtype, jnp.floating)]
    return jax.grad(loss, argnums=(0, 1))(variables.get("params", {}), floating)


@MODES
def test_applying_twice_gives_the_same_bits_and_changes_no_argument(name, is_training):
    case, variables = CASES[name], variables_of(name)
    before = copy.deepcopy((jax.tree.map(np.asarray, variables), case.args))
    first = call(case, variables, case.args, is_training=is_training)
    assert_same(first, call(case, variables, case.args, is_training=is_training))
    assert_same((variables, case.args), before)


@MODES
def test_jit_equals_eager(name, is_training):
    case, variables = CASES[name], variables_of(name)
    jitted = jax.jit(lambda v, *args: call(case, v, args, is_training=is_training))(variables, *case.args)
    with jax.disable_jit():
        eager = call(case, variables, as_jax(case.args), is_training=is_training)
    assert_same(jitted, eager, exact=False, tolerance=1e-5)


def test_vmap_equals_a_loop(name):
    case, variables = CASES[name], variables_of(name)
    many = [np.stack([arg, np.roll(arg, 1, axis=0)]) for arg in case.args]
    mapped = jax.jit(jax.vmap(lambda *args: call(case, variables, args)))(*many)
    looped = [call(case, variables, [arg[index] for arg in many]) for index in range(2)]
    assert_same(mapped, jax.tree.map(lambda *leaves: jnp.stack(leaves), *looped), exact=False, tolerance=1e-5)


def test_scan_equals_a_loop(name):
    case, variables = CASES[name], as_jax(variables_of(name))
    many = [np.stack([arg, np.roll(arg, 1, axis=0)]) for arg in case.args]

    def body(variables: Any, args: Any) -> Any:
        outputs, variables = call(case, variables, args)
        return variables, outputs

    last, scanned = jax.lax.scan(body, variables, many)
    looped = []
    for index in range(2):
        outputs, variables = call(case, variables, [arg[index] for arg in many])
        looped.append(outputs)
    expected = jax.tree.map(lambda *leaves: jnp.stack(leaves), *looped)
    assert_same((scanned, last), (expected, variables), exact=False, tolerance=1e-5)


def test_gradients_are_finite_and_the_same_when_computed_again_later(name):
    case, variables = CASES[name], variables_of(name)
    if not case.has_gradient:
        return
    plain = jax.jit(lambda v: gradient(call, case, v, case.args))(variables)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(plain))
    assert any(np.any(leaf) for leaf in jax.tree.leaves(plain))

    def remembered(case: Case, variables: Any, args: Any) -> Any:
        return jax.checkpoint(lambda v, args: call(case, v, args))(variables, args)

    again = jax.jit(lambda v: gradient(remembered, case, v, case.args))(variables)
    assert_same(again, plain, exact=False, tolerance=1e-5)


def test_each_precision_is_kept(name):
    """All inputs and variables in one dtype, under strict promotion: so are the outputs."""
    case, promotion = CASES[name], "strict" if CASES[name].is_strict else "standard"
    for dtype in case.precisions:
        with jax.enable_x64(dtype == "float64"), jax.numpy_dtype_promotion(promotion):
            variables, args = cast((variables_of(name), case.args), dtype)
            outputs, _ = jax.jit(lambda *given: call(case, *given))(variables, args)
            leaves = [leaf for leaf in jax.tree.leaves(outputs) if jnp.issubdtype(leaf.dtype, jnp.floating)]
            assert all(np.isfinite(np.asarray(leaf, np.float64)).all() for leaf in leaves)
            if case.keeps_dtype:
                assert {str(leaf.dtype) for leaf in leaves} == {dtype}


@MODES
def test_numpy_inputs_are_as_good_as_arrays(name, is_training):
    case, variables = CASES[name], variables_of(name)
    numpy_variables = jax.tree.map(np.asarray, variables)
    wide = [arg.astype(f"{arg.dtype.kind}8") for arg in case.args]  # what NumPy makes by itself, and JAX narrows
    jax.eval_shape(lambda v: call(case, v, wide, is_training=is_training), variables)
    with warnings.catch_warnings(action="error"):
        given = call(case, numpy_variables, wide, is_training=is_training)
    assert_same(given, call(case, variables, as_jax(case.args), is_training=is_training))


@pytest.mark.usefixtures("short_collections")
def test_no_tracer_leaks_and_no_rank_is_promoted(name):
    case, variables = CASES[name], variables_of(name)
    with jax.checking_leaks(), jax.numpy_rank_promotion("raise"):
        jax.make_jaxpr(lambda v, *args: call(case, v, args))(variables, *case.args)
        jax.eval_shape(
            lambda key, *args: case.make().init(keys(case) | {"params": key}, *args, **case.train),
            keys(case)["params"],
            *case.args,
        )


def test_a_pickled_layer_is_the_same_layer(name):
    case = CASES[name]
    layer, twin = case.make(), case.make()
    assert layer == twin
    assert hash(layer) == hash(twin)
    again = pickle.loads(pickle.dumps(layer))  # noqa: S301 - its own bytes
    assert again == layer
    assert repr(again) == repr(layer)


def test_shapes_are_known_without_running(name):
    case = CASES[name]

    def init(key: Any, *args: Any) -> Any:
        return case.make().init(keys(case) | {"params": key}, *args, **case.train)

    shapes = jax.eval_shape(init, keys(case)["params"], *case.args)
    made = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), variables_of(name))
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), shapes) == made
