"""Programs with lifted transforms do the same in Linen and in batiste: variables, keys, results, changes, gradients."""

import jax
import numpy as np
import pytest
from flax import linen

from batiste import nn
from tests.lift.programs import (  # noqa: F401 - they fill the cases
    arguments,
    boxes,
    branches,
    calls,
    derivatives,
    nesting,
    scan,
    sharing,
    storing,
    variables,
    vmap,
)
from tests.lift.support import CASES, X, compare
from tests.nn.oracle import assert_same, cheap_initializer


@pytest.mark.parametrize("name", CASES)
def test_as_in_flax(name):
    compare(CASES[name])


def test_a_scan_without_the_check_counts_its_keys_once():
    def made(nn):
        class Step(nn.Module):
            @nn.compact
            def __call__(self, carry, _):
                return nn.Dropout(0.5, deterministic=False)(nn.Dense(4, kernel_init=cheap_initializer)(carry)), None

        over = {"variable_axes": {"params": 0}, "split_rngs": {"params": True, "dropout": True}, "length": 3}
        return nn.scan(Step, check_constancy_invariants=False, **over)()

    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    start = made(linen).init(keys, X, None)
    assert_same(made(nn).init(keys, X, None), start)
    wanted, _ = made(linen).apply(start, X, None, rngs=keys)
    np.testing.assert_allclose(made(nn).apply(start, X, None, rngs=keys)[0], wanted, rtol=1e-6)
