"""Groups of parameters by pattern, adapters, what an optimiser computes with, patience."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from batiste import TrainState, checkpoint, nn, train, tree
from batiste.errors import (
    AdapterMismatchError,
    AdapterStateError,
    ArgumentError,
    MergeConflictError,
    OptimizerTypeError,
    UnmatchedPathsError,
    UnmatchedPatternError,
)
from tests.nn.oracle import drawn


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, name="head")(nn.relu(nn.Dense(8, name="body")(x)))


X = drawn(3, 6, 4)
PARAMS = Net().init(jax.random.key(0), X)["params"]


def new(tx):
    return TrainState.create(apply_fn=Net().apply, params=PARAMS, tx=tx)


def square(model, batch):
    return jnp.mean((model(batch) - 1) ** 2, axis=-1)


def trained(state, steps=2):
    step = jax.jit(train.make_step(square))
    for _ in range(steps):
        state, _ = step(state, X)
    return state


def is_same(one, other):
    return jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), one, other))


def test_what_is_frozen_stays_and_has_no_state():
    state = new(train.freeze(optax.adam(1e-2), "body/**"))
    assert [path for path in tree.paths(state.opt_state) if "body" in path] == []
    after = trained(state)
    assert is_same(after.params["body"], PARAMS["body"])
    assert not is_same(after.params["head"], PARAMS["head"])
    plain = trained(new(optax.adam(1e-2)), 1)
    np.testing.assert_array_equal(trained(state, 1).params["head"]["kernel"], plain.params["head"]["kernel"])


def test_groups_have_optimisers_of_their_own():
    state = new(train.by_pattern({"head/kernel": optax.sgd(0.1), "**/bias": None, "**": optax.adam(1e-2)}))
    after = trained(state, 1)
    grads = jax.grad(lambda params: jnp.mean((Net().apply({"params": params}, X) - 1) ** 2))(PARAMS)
    np.testing.assert_allclose(
        after.params["head"]["kernel"], PARAMS["head"]["kernel"] - 0.1 * grads["head"]["kernel"], rtol=1e-5, atol=1e-7
    )
    assert is_same(after.params["body"]["bias"], PARAMS["body"]["bias"])
    assert [path.rpartition("mu/")[2] for path in tree.paths(state.opt_state) if "mu" in path] == ["body/kernel"]
    assert after.hyperparams()["head/kernel/learning_rate"] == 0.1
    again = new(train.by_pattern({"head/kernel": optax.sgd(0.1), "**/bias": None, "**": optax.adam(1e-2)}))
    assert jax.tree.structure(again) == jax.tree.structure(state)


def test_weight_decay_by_pattern():
    tx = optax.chain(optax.add_decayed_weights(0.5, mask=train.matching("**/kernel")), optax.sgd(1.0))
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    after = new(tx).apply_gradients(grads=zeros)
    np.testing.assert_allclose(after.params["body"]["kernel"], PARAMS["body"]["kernel"] / 2)
    assert is_same(after.params["body"]["bias"], PARAMS["body"]["bias"])


def test_patterns_that_cannot_work():
    with pytest.raises(UnmatchedPatternError, match="boddy"):
        new(train.freeze(optax.sgd(0.1), "boddy/**"))
    with pytest.raises(UnmatchedPathsError, match="head/bias"):
        new(train.by_pattern({"body/**": optax.sgd(0.1)}))
    with pytest.raises(ArgumentError):
        train.by_pattern({"**": optax.adam})
    with pytest.raises(ArgumentError):
        train.by_pattern({})
    with pytest.raises(ArgumentError):
        train.by_pattern([optax.sgd(0.1)])
    with pytest.raises(ArgumentError):
        train.freeze(optax.sgd(0.1))
    with pytest.raises(ArgumentError):
        train.matching()


def test_adapters_are_all_that_is_trained(tmp_path):
    base = new(optax.sgd(0.1))
    state = train.lora(base, jax.random.key(1), "**/kernel", rank=2, alpha=8.0, tx=optax.adamw(1e-2))
    assert sorted(tree.paths(state.params)) == [f"{layer}/kernel/{part}" for layer in ("body", "head") for part in "ab"]
    assert [path[-1] for path in tree.paths(state.opt_state) if "/mu/" in path] == ["a", "b"] * 2
    np.testing.assert_allclose(state.apply_fn(state.variables(), X), Net().apply({"params": PARAMS}, X), rtol=1e-6)
    after = trained(state, 3)
    assert is_same(after.collections["frozen_params"], PARAMS)
    merged = train.lora_merged(after)
    np.testing.assert_allclose(
        Net().apply({"params": merged}, X), after.apply_fn(after.variables(), X), rtol=1e-6, atol=1e-7
    )
    change = 4.0 * after.params["head"]["kernel"]["a"] @ after.params["head"]["kernel"]["b"]
    np.testing.assert_allclose(merged["head"]["kernel"], PARAMS["head"]["kernel"] + change, rtol=1e-5, atol=1e-6)
    assert not is_same(merged, PARAMS)
    checkpoint.save(tmp_path / "adapters", after)
    assert is_same(checkpoint.restore(tmp_path / "adapters", state).params, after.params)
    found = train.evaluate(after, [X], square)
    assert found["loss"] == pytest.approx(float(jnp.mean((Net().apply({"params": merged}, X) - 1) ** 2)), rel=1e-5)


def test_a_new_head_is_trained_whole_beside_adapters():
    base = new(optax.sgd(0.1))
    state = train.lora(base, jax.random.key(1), "body/kernel", rank=2, whole="head/**")
    assert sorted(tree.paths(state.params)) == ["body/kernel/a", "body/kernel/b", "head/bias", "head/kernel"]
    assert sorted(tree.paths(state.collections["frozen_params"])) == ["body/bias", "body/kernel"]
    np.testing.assert_array_equal(state.apply_fn(state.variables(), X), Net().apply({"params": PARAMS}, X))
    after = trained(state, 2)
    merged = train.lora_merged(after)
    assert jax.tree.structure(merged) == jax.tree.structure(PARAMS)
    assert is_same(merged["head"], after.params["head"])
    assert is_same(merged["body"]["bias"], PARAMS["body"]["bias"])
    assert not is_same(merged["head"]["bias"], PARAMS["head"]["bias"])
    assert not is_same(merged["body"]["kernel"], PARAMS["body"]["kernel"])
    with pytest.raises(AdapterStateError, match="head/bias"):
        train.lora_merged(after, {"body": after.params["body"]})
    with pytest.raises(AdapterMismatchError):
        train.lora_merged(after, {**after.params, "tail": after.params["body"]})
    with pytest.raises(MergeConflictError, match="head/kernel"):
        train.lora(base, jax.random.key(1), "**/kernel", rank=2, whole="head/**")
    with pytest.raises(UnmatchedPatternError, match="heed"):
        train.lora(base, jax.random.key(1), "**/kernel", rank=2, whole="heed/**")


def test_adapters_compute_in_the_dtype_of_the_policy():
    class Peek(nn.Module):
        @nn.compact
        def __call__(self, x):
            y = nn.Dense(3)(x)
            seen.append(y.dtype)
            return y

    seen = []
    variables = Peek().init(jax.random.key(0), X)
    base = TrainState.create(apply_fn=Peek().apply, params=variables["params"], tx=optax.sgd(0.1))
    state = train.lora(base, jax.random.key(1), "**/kernel", rank=2)
    after, _ = jax.eval_shape(train.make_step(square, policy="compute=bfloat16", accumulate=2), state, X)
    assert set(seen[-2:]) == {jnp.dtype("bfloat16")}
    assert after.collections["frozen_params"]["Dense_0"]["kernel"].dtype == jnp.float32


def test_adapters_that_cannot_be():
    base = new(optax.sgd(0.1))
    state = train.lora(base, jax.random.key(1), "**/kernel", rank=2)
    with pytest.raises(AdapterStateError, match="already"):
        train.lora(state, jax.random.key(1), "**/a", rank=2)
    with pytest.raises(AdapterStateError, match="no adapters"):
        train.lora_merged(base)
    with pytest.raises(UnmatchedPatternError):
        train.lora(base, jax.random.key(1), "**/kernal", rank=2)
    with pytest.raises(OptimizerTypeError):
        train.lora(base, jax.random.key(1), "**/kernel", rank=2, tx=optax.adam)


RATES = {
    "a number": (optax.adam(3e-3, b1=0.8), {"learning_rate": 3e-3, "b1": 0.8}),
    "a schedule": (optax.adamw(optax.linear_schedule(1.0, 0.0, 4), weight_decay=0.1), {"learning_rate": 0.5}),
    "injected": (optax.inject_hyperparams(optax.sgd)(0.2), {"learning_rate": 0.2}),
    "a chain in a chain": (
        optax.chain(
            optax.clip_by_global_norm(2.0), optax.chain(optax.scale_by_adam(), optax.scale_by_learning_rate(0.3))
        ),
        {"max_norm": 2.0, "learning_rate": 0.3},
    ),
    "a wrapper": (optax.apply_if_finite(optax.lion(optax.linear_schedule(1.0, 0.0, 4)), 5), {"learning_rate": 0.5}),
    "every second step": (optax.MultiSteps(optax.sgd(optax.linear_schedule(1.0, 0.0, 4)), 2), {"learning_rate": 0.75}),
    "a plateau": (
        optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau()),
        {"learning_rate": 0.1, "plateau_scale": 1.0},
    ),
    "by pattern": (train.by_pattern({"body/**": None, "**": optax.sgd(0.4)}), {"**/learning_rate": 0.4}),
}


@pytest.mark.parametrize("name", RATES)
def test_what_an_optimiser_computes_with(name):
    tx, expected = RATES[name]
    state = new(tx)
    for _ in range(2):
        extra = {"value": jnp.float32(1.0)} if name == "a plateau" else {}
        state = state.apply_gradients(grads=PARAMS, **extra)
    found = state.hyperparams()
    assert {each: pytest.approx(float(found[each])) for each in expected} == expected


def test_patience_is_a_value():
    patience = train.Patience.of(2, least=0.1)
    best, waited, over = [], [], []
    for value in (1.0, 0.95, 0.5, jnp.nan, 0.6):
        patience = jax.jit(train.Patience.update)(patience, value)
        best.append(float(patience.best))
        waited.append(int(patience.waited))
        over.append(bool(patience.is_over))
    assert (best, waited) == ([1.0, 1.0, 0.5, 0.5, 0.5], [0, 1, 0, 1, 2])
    assert over == [False, False, False, False, True]
    rising = train.Patience.of(1, mode="max").update(3).update(2)
    assert (float(rising.best), bool(rising.is_over)) == (3.0, True)
    for wrong in ({"limit": 0}, {"limit": 2, "least": -1.0}, {"limit": 2, "mode": "least"}):
        with pytest.raises(ArgumentError):
            train.Patience.of(**wrong)
