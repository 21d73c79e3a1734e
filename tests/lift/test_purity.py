"""Models with lifted transforms are pure functions.

They work within JAX's transforms, leak no tracer, and change no argument. Leaks are looked for in all but `custom_vjp`:
JAX keeps the functions that it is given for as long as the program, and they hold the module.
"""

import copy
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tests.lift.test_against_flax  # noqa: F401 - fills the cases
from tests.lift.support import BATISTE, CASES, KEYS, OTHER_KEYS, QUICKLY, weighted_sum
from tests.nn.oracle import assert_same

NAMES = [
    "boxes_in_scan_of_vmap",
    "branches_in_vmap_and_remat",
    "custom_gradient_in_scan",
    "decorated_methods",
    "derivatives_with_keys",
    "dropout_in_loops",
    "lifted_attributes",
    "map_variables_of_a_loop",
    "modules_among_arguments",
    "scan_carried_statistics",
    "scan_stacked_statistics",
    "switch_on_init",
    "vmap_collectives",
    "vmap_own_parameters",
]
LEAKS = [
    "decorated_methods",
    "derivatives_with_keys",
    "jvp_of_a_layer",
    "map_parameters",
    "modules_among_arguments",
    "remat_noise",
    "scan_carried_statistics",
    "scan_stacked_counter",
    "switch_on_init",
    "vmap_collectives",
    "vmap_own_parameters",
    "while_counting",
]
EAGER = [
    "boxes_in_scan_of_vmap",
    "decorated_methods",
    "map_parameters",
    "remat_scan_of_layers",
    "scan_carried_statistics",
    "scan_some_streams",
    "scan_value_of_a_key",
    "vmap_own_parameters",
    "vmap_some_streams",
]
PROGRAMS = pytest.mark.parametrize("name", NAMES)


@functools.cache
def model_of(name: str) -> tuple[Any, Any, Any]:
    """Return the model, its variables and its input."""
    model, (x,) = CASES[name].program(BATISTE), CASES[name].args
    return model, jax.jit(model.init, compiler_options=QUICKLY)(KEYS, x), x


def apply(model: Any, variables: Any, x: Any, rngs: Any = OTHER_KEYS) -> Any:
    return model.apply(variables, x, rngs=rngs, mutable=[name for name in variables if name != "params"])


def loss(model: Any, params: Any, variables: Any, x: Any) -> Any:
    output, changed = apply(model, {**variables, **params}, x)
    return weighted_sum(output), (output, changed)


def split(variables: Any) -> tuple[Any, Any]:
    params = {name: tree for name, tree in variables.items() if name == "params"}
    return params, {name: tree for name, tree in variables.items() if name != "params"}


@pytest.mark.usefixtures("short_collections")
@pytest.mark.parametrize("name", LEAKS)
def test_no_tracer_leaks(name):
    model, (x,) = CASES[name].program(BATISTE), CASES[name].args
    with jax.checking_leaks():
        params, others = split(jax.eval_shape(model.init, KEYS, x))
        function = functools.partial(loss, model)
        if CASES[name].gradients:
            function = jax.grad(function, has_aux=True)
        jax.eval_shape(function, params, others, x)


@PROGRAMS
def test_nothing_that_is_given_is_changed(name):
    model, variables, x = model_of(name)
    keys = dict(OTHER_KEYS)
    before = copy.deepcopy(jax.tree.map(np.asarray, (variables, x)))
    structure, text = jax.tree.structure(variables), repr(model)
    shapes = [jax.eval_shape(lambda *given: apply(model, *given, keys), variables, x) for _ in range(2)]
    assert jax.tree.all(jax.tree.map(lambda one, other: one == other, *shapes))
    jax.eval_shape(model.init, keys, x)
    assert_same(variables, before[0])
    assert_same(x, before[1])
    assert (jax.tree.structure(variables), repr(model)) == (structure, text)
    assert keys == OTHER_KEYS
    assert model.scope is None


@PROGRAMS
def test_within_transforms_of_jax(name):
    model, variables, x = model_of(name)
    params, others = split(variables)
    many = jnp.stack([x, x * 0.5])

    def run(params: Any, others: Any, many: Any) -> Any:
        derivative = jax.value_and_grad(functools.partial(loss, model), argnums=(0, 2), has_aux=True)
        one = [derivative(params, others, each) for each in many]
        mapped = jax.vmap(derivative, in_axes=(None, None, 0))(params, others, many)
        looped = jax.lax.scan(lambda _, each: (None, jax.checkpoint(derivative)(params, others, each)), None, many)[1]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *one), mapped, looped

    one, mapped, looped = jax.jit(run, compiler_options=QUICKLY)(params, others, many)
    assert_same(mapped, one, exact=False, tolerance=1e-5)
    assert_same(looped, one, exact=False, tolerance=1e-5)


@PROGRAMS
def test_init_within_vmap(name):
    model, _, x = model_of(name)
    keys = {stream: jax.random.split(key, 2) for stream, key in KEYS.items()}

    def run(keys: Any, x: Any) -> Any:
        one = [model.init(jax.tree.map(lambda key, number=number: key[number], keys), x) for number in range(2)]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *one), jax.vmap(model.init, in_axes=(0, None))(keys, x)

    one, mapped = jax.jit(run, compiler_options=QUICKLY)(keys, x)
    assert_same(mapped, one, exact=False)


@pytest.mark.parametrize("name", EAGER)
def test_init_as_compiled(name):
    model, variables, x = model_of(name)
    assert_same(model.init(KEYS, x), variables)


@pytest.mark.parametrize("name", ["scan_time", "vmap_own_parameters", "decorated_methods"])
def test_apply_as_compiled(name):
    model, variables, x = model_of(name)
    compiled = jax.jit(functools.partial(apply, model), compiler_options=QUICKLY)(variables, x)
    assert_same(apply(model, variables, x), compiled, exact=False)
