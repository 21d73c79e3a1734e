"""BatchNorm against Linen's: training, evaluation, running averages, mapped axes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

from batiste import nn
from batiste.errors import ModifyScopeVariableError
from tests.nn.oracle import Mode, assert_same, compare

X = np.random.default_rng(0).normal(1.0, 2.0, size=(4, 5, 6)).astype(np.float32)
MASK = np.random.default_rng(1).random((4, 5, 6)) < 0.7
BF16 = jnp.bfloat16
HALF = jnp.asarray(X, BF16)
TRAIN = Mode({"use_running_average": False}, mutable=["batch_stats"])
EVAL = Mode({"use_running_average": True})

OPTIONS = {
    "default": (X, {}),
    "one axis": (X[0, 0], {}),
    "axis": (X, {"axis": 1}),
    "axes": (X, {"axis": (1, -1)}),
    "momentum": (X, {"momentum": 0.9, "epsilon": 1e-3}),
    "integer momentum": (X, {"momentum": 0}),
    "slow variance": (X, {"use_fast_variance": False}),
    "no scale, no bias": (X, {"use_scale": False, "use_bias": False}),
    "compute in bfloat16": (HALF, {"dtype": BF16}),
    "promoted": (HALF, {}),
    "bfloat16 statistics": (HALF, {"force_float32_reductions": False}),
    "all in bfloat16": (HALF, {"dtype": BF16, "param_dtype": BF16, "force_float32_reductions": False}),
    "integers": (X.astype(np.int32), {}),
    "initialisers": (X, {"scale_init": jax.nn.initializers.uniform(), "bias_init": jax.nn.initializers.ones}),
}


@pytest.mark.parametrize(("inputs", "options"), OPTIONS.values(), ids=OPTIONS)
def test_options(inputs, options):
    compare(nn.BatchNorm(**options), linen.BatchNorm(**options), inputs, modes=[TRAIN, EVAL], init=EVAL)


@pytest.mark.parametrize("is_fast", [True, False], ids=["fast", "slow"])
def test_mask(is_fast):
    mode = Mode({"use_running_average": False, "mask": MASK}, mutable=["batch_stats"])
    ours, theirs = (library.BatchNorm(use_fast_variance=is_fast) for library in (nn, linen))
    compare(ours, theirs, X, modes=[mode], init=TRAIN)


@pytest.mark.parametrize("is_fast", [True, False], ids=["fast", "slow"])
def test_mapped_axis(is_fast):
    options = {"use_running_average": False, "axis_name": "copies", "use_fast_variance": is_fast}
    ours, theirs = nn.BatchNorm(**options), linen.BatchNorm(**options)
    variables = ours.init(jax.random.key(0), X[0])  # outside of the mapped axis

    def run(module):
        def one(variables, x):
            return module.apply(variables, x, mutable=["batch_stats"])

        return jax.jit(jax.vmap(one, (None, 0), axis_name="copies"))(variables, X)

    assert_same(run(ours), run(theirs))
    together = nn.BatchNorm(use_running_average=False).apply(variables, X, mutable=["batch_stats"])
    np.testing.assert_allclose(run(ours)[0], together[0], atol=1e-5)


def test_init_leaves_the_averages_alone():
    variables = nn.BatchNorm(use_running_average=False).init(jax.random.key(0), X)
    assert_same(variables["batch_stats"], {"mean": jnp.zeros(6), "var": jnp.ones(6)})


def test_averages_move_step_by_step():
    """Five training steps, each compared; the third with a momentum that is traced."""
    ours, theirs = nn.BatchNorm(use_running_average=False), linen.BatchNorm(use_running_average=False)
    first = second = ours.init(jax.random.key(0), X)
    for step in range(5):
        x = X + step
        _, update = jax.jit(lambda v, x: ours.apply(v, x, mutable=["batch_stats"]))(first, x)
        first = {**first, **update}
        _, update = jax.jit(lambda v, x: theirs.apply(v, x, mutable=["batch_stats"]))(second, x)
        second = {**second, **update}
        assert_same(first, second)


def test_momentum_may_be_traced():
    def step(library, variables, momentum):
        layer = library.BatchNorm(use_running_average=False, momentum=momentum)
        return layer.apply(variables, X, mutable=["batch_stats"])

    variables = nn.BatchNorm(use_running_average=False).init(jax.random.key(0), X)
    results = [jax.jit(lambda v, m, library=library: step(library, v, m))(variables, 0.9) for library in (nn, linen)]
    assert_same(*results)


def test_training_without_a_mutable_collection_says_so():
    layer = nn.BatchNorm(use_running_average=False)
    variables = layer.init(jax.random.key(0), X)
    with pytest.raises(ModifyScopeVariableError, match="batch_stats"):
        layer.apply(variables, X)
