"""Every layer under each switch of JAX and each kind of key gives what it gives without, beside Flax where Flax has it.

`init` and a training call, with gradients in it, run once per layer and switch; the values agree with the plain
call. By default two layers stand for all; `BATISTE_SWITCHES=all` takes every
row of `cases.py`.
"""

import contextlib
import os
from typing import Any

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from batiste import nn
from tests.laws.cases import CASES, Case
from tests.laws.test_laws import as_jax, call, gradient
from tests.nn.oracle import assert_same, cheapened

CHOSEN = ("Embed", "BatchNorm")
LAYERS = list(CASES) if os.environ.get("BATISTE_SWITCHES") == "all" else CHOSEN

SWITCHES = {
    "disable_jit": jax.disable_jit,
    "debug_nans": lambda: jax.debug_nans(True),
    "debug_infs": lambda: jax.debug_infs(True),
    "matmul precision": lambda: jax.default_matmul_precision("highest"),
    "default device": lambda: jax.default_device(jax.devices()[1]),
    "tracer leaks": jax.checking_leaks,
    "rank promotion": lambda: jax.numpy_rank_promotion("raise"),
    "strict dtypes": lambda: jax.numpy_dtype_promotion("strict"),
    "x64": lambda: jax.enable_x64(True),
}


def run(name: str, key: Any = None) -> Any:
    """Return initial variables, outputs, mutated variables and gradients."""
    case: Case = CASES[name]
    base = jax.random.key(0) if key is None else key
    rngs = {stream: jax.random.fold_in(base, number) for number, stream in enumerate(("params", *case.rngs))}
    args = as_jax(case.args)
    variables = cheapened(case.make()).init(rngs, *args, **case.train)
    outputs = call(case, variables, args)
    return variables, outputs, gradient(call, case, variables, args) if case.has_gradient else None


@pytest.fixture(scope="module")
def plain() -> dict[str, Any]:
    return {}


@pytest.mark.parametrize("switch", SWITCHES)
@pytest.mark.parametrize("name", LAYERS)
def test_a_switch_changes_no_value(name, switch, plain):
    if name not in plain:
        plain[name] = jax.tree.map(np.asarray, run(name))
    if switch == "strict dtypes" and not CASES[name].is_strict:
        return  # the row says that it mixes dtypes on purpose
    with SWITCHES[switch]():
        results = run(name)
    assert_same(jax.tree.map(np.asarray, results), plain[name], exact=False, tolerance=1e-4, what=switch)


def test_no_transfer_within_a_compiled_step():
    for name in LAYERS:
        case = CASES[name]
        args = jax.device_put(as_jax(case.args))
        variables = cheapened(case.make()).init(
            {stream: jax.random.key(0) for stream in ("params", *case.rngs)}, *args, **case.train
        )
        step = jax.jit(lambda v, *args, case=case: call(case, v, args))
        expected = step(variables, *args)
        with jax.transfer_guard("disallow"):
            again = step(variables, *args)
        assert_same(again, expected)


KEYS = {
    "typed": lambda: jax.random.key(3),
    "raw": lambda: jax.random.PRNGKey(3),
    "rbg": lambda: jax.random.key(3, impl="rbg"),
    "unsafe_rbg": lambda: jax.random.key(3, impl="unsafe_rbg"),
}


def drawing(nn: Any) -> dict[str, tuple[Any, Any]]:
    class Scanned(nn.Module):
        @nn.compact
        def __call__(self, x):
            def body(module, carry, _):
                return module(carry), None

            options = {"variable_axes": {"params": 1}, "split_rngs": {"params": True, "dropout": True}, "length": 3}
            return nn.scan(body, **options)(nn.Dense(2, name="d"), x, None)[0]

    class Mapped(nn.Module):
        @nn.compact
        def __call__(self, x):
            options = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}, "axis_size": 3}
            return nn.vmap(nn.Dense, in_axes=None, **options)(2, name="d")(x)

    class Both(nn.Module):
        @nn.compact
        def __call__(self, x):
            def body(module, carry, _):
                return module(carry).mean(0), None

            options = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}
            mapped = nn.vmap(nn.Dense, in_axes=None, axis_size=2, **options)(2, name="d")
            return nn.scan(body, length=3, **options)(mapped, x, None)[0]

    x = jnp.ones((1, 2))
    return {"scan": (Scanned(), x), "vmap": (Mapped(), x), "scan over vmap": (Both(), x)}


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("model", ["scan", "vmap", "scan over vmap"])
def test_the_values_are_linens_for_keys_of_every_kind(model, kind):
    (ours, x), (theirs, _) = drawing(nn)[model], drawing(flax.linen)[model]
    keys = {"params": KEYS[kind](), "dropout": jax.random.fold_in(KEYS[kind](), 1)}
    variables = ours.init(keys, x)
    assert_same(variables, jax.jit(theirs.init)(keys, x))
    assert_same(jax.jit(ours.init)(keys, x), variables)
    outputs = [
        jax.jit(lambda v, m=m: m.apply(v, x, rngs={"dropout": keys["dropout"]}))(variables) for m in (ours, theirs)
    ]
    assert_same(*outputs, exact=False)


def test_without_jit_initial_values_are_the_same():
    for model, x in drawing(nn).values():
        keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
        compiled = model.init(keys, x)
        with contextlib.ExitStack() as stack:
            stack.enter_context(jax.disable_jit())
            assert_same(model.init(keys, x), compiled, exact=False)
