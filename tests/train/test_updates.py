"""Gradients, collections and optimiser states that do not fit the state are refused, and never broadcast or cast."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from batiste import TrainState, nn
from batiste.errors import (
    BatisteError,
    GradientsMismatchError,
    OptimizerStateError,
    StateArgumentError,
    StateCallError,
    StateCollectionError,
)

TXS = {
    "sgd": lambda: optax.sgd(1.0),
    "adam": lambda: optax.adam(0.1),
    "clipped": lambda: optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(0.1)),
    "many steps": lambda: optax.MultiSteps(optax.sgd(0.1), 2),
}
SHAPES = {
    (2, 3): [(), (3,), (2,), (1, 3), (2, 1), (1, 1), (4, 2, 3), (3, 2), (2, 3, 1), (0, 3)],
    (): [(1,), (1, 1), (3,)],
    (1,): [(), (1, 1), (3,)],
}


def make(tx, shape=(2, 3), dtype=jnp.float32):
    return TrainState.create(apply_fn=None, params={"a": {"w": jnp.zeros(shape, dtype)}, "b": jnp.ones(2)}, tx=tx)


def update(state, grad, *, jitted):
    def apply(state, grad):
        return state.apply_gradients(grads={"a": {"w": grad}, "b": jnp.ones(2)})

    return jax.eval_shape(apply, state, grad) if jitted else apply(state, grad)


@pytest.mark.usefixtures("users_rules")
@pytest.mark.parametrize("jitted", [False, True])
@pytest.mark.parametrize("name", TXS)
def test_a_gradient_of_another_shape(name, jitted):
    for shape, others in SHAPES.items():
        state = make(TXS[name](), shape)
        for other in others:
            with pytest.raises(GradientsMismatchError) as error:
                update(state, jnp.ones(other), jitted=jitted)
            text = str(error.value)
            assert f"The gradient of 'a/w' has the shape {other}, and the parameter has {shape}." in text
            assert isinstance(error.value, ValueError)
        assert update(state, jnp.ones(shape), jitted=True).params["a"]["w"].shape == shape


@pytest.mark.parametrize("name", TXS)
def test_a_gradient_of_another_kind(name):
    state = make(TXS[name]())
    for dtype in (jnp.complex64, jnp.int32, jnp.uint8, jnp.bool_):
        with pytest.raises(GradientsMismatchError, match=f"'a/w' is {dtype.dtype.name}, and the parameter is float32"):
            update(state, jnp.ones((2, 3), dtype), jitted=True)
    for precision in (jnp.bfloat16, jnp.float16):
        assert update(state, jnp.ones((2, 3), precision), jitted=True).params["a"]["w"].dtype == jnp.float32
        half = update(make(TXS[name](), dtype=precision), jnp.ones((2, 3)), jitted=True)
        assert half.params["a"]["w"].dtype == precision
    mixed = update(make(optax.sgd(0.1), dtype=jnp.complex64), jnp.ones((2, 3)), jitted=True)
    assert mixed.params["a"]["w"].dtype == jnp.complex64
    whole = TrainState.create(apply_fn=None, params={"w": jnp.ones(2), "n": jnp.ones(2, int)}, tx=optax.sgd(0.1))
    grads = jax.grad(lambda p: jnp.sum(p["w"] * p["n"]), allow_int=True)(whole.params)
    with pytest.raises(GradientsMismatchError, match="'n' is int32, which has no gradient"):
        whole.apply_gradients(grads=grads)


TREES = {
    "missing": (lambda w, b: {"a": {"w": w}}, "No gradient is given for 'b'"),
    "more": (lambda w, b: {"a": {"w": w, "v": w}, "b": b}, "no parameter is there for 'a/v'|No parameter"),
    "none": (lambda w, b: {"a": {"w": None}, "b": b}, "No gradient is given for 'a/w'"),
    "nothing": (lambda w, b: None, "No gradient is given for 'a/w' "),
    "a list in the place of an array": (lambda w, b: {"a": {"w": [w]}, "b": b}, "'a/w/0'"),
    "a tuple of both": (lambda w, b: ({"w": w}, b), "No gradient"),
    "with the value": (lambda w, b: (1.0, {"a": {"w": w}, "b": b}), "value_and_grad returns a pair"),
    "with aux": (lambda w, b: ({"a": {"w": w}, "b": b}, 1.0), "With has_aux=True jax.grad returns a pair"),
    "of all variables": (lambda w, b: {"params": {"a": {"w": w}, "b": b}}, r"give grads\['params'\]"),
    "an array": (lambda w, b: w, "No gradient is given for 'a/w'"),
}


@pytest.mark.parametrize("tree", TREES)
@pytest.mark.parametrize("name", ["sgd", "clipped"])
def test_gradients_of_another_tree(name, tree):
    make_tree, words = TREES[tree]
    state = make(TXS[name]())
    with pytest.raises(GradientsMismatchError, match=words):
        state.apply_gradients(grads=make_tree(jnp.ones((2, 3)), jnp.ones(2)))
    arrays = state.replace(params=jax.tree.map(np.asarray, state.params))
    with pytest.raises(GradientsMismatchError, match=words):
        arrays.apply_gradients(grads=make_tree(np.ones((2, 3), np.float32), np.ones(2, np.float32)))


def test_the_collection_that_takes_its_gradient_as_its_value_must_have_one():
    name = "_overwrite_with_gradient"
    state = TrainState.create(
        apply_fn=None, params={"params": {"w": jnp.ones(2)}, name: {"s": jnp.ones(())}}, tx=optax.sgd(0.1)
    )
    with pytest.raises(GradientsMismatchError, match=f"No gradient is given for '{name}'"):
        state.apply_gradients(grads={"params": {"w": jnp.ones(2)}})
    with pytest.raises(GradientsMismatchError, match=r"'s' of shape \(\) the shape \(3,\)"):
        state.apply_gradients(grads={"params": {"w": jnp.ones(2)}, name: {"s": jnp.ones(3)}})


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_what_asks_for_other_gradients_has_them():
    """One gradient for each example, as differential privacy wants, and one for the fast parameters of lookahead."""
    tx = optax.chain(optax.contrib.differentially_private_aggregate(1.0, 0.0, 0), optax.sgd(0.1))
    for shapes in ({"k": (2, 3), "b": (3,)}, {"k": (3, 3), "b": (3,)}):
        params = {name: jnp.ones(shape) for name, shape in shapes.items()}
        state = TrainState.create(apply_fn=None, params=params, tx=tx)
        grads = {name: jnp.ones((5, *shape)) for name, shape in shapes.items()}
        wanted, _ = tx.update(grads, tx.init(params), params)
        found = state.apply_gradients(grads=grads)
        jax.tree.map(np.testing.assert_array_equal, found.params, optax.apply_updates(params, wanted))
    fast = {"w": jnp.ones(2)}
    lookahead = TrainState.create(
        apply_fn=None, params=optax.LookaheadParams.init_synced(fast), tx=optax.lookahead(optax.sgd(0.1), 2, 0.5)
    )
    assert lookahead.apply_gradients(grads=fast).step == 1


# The state of the optimiser


@pytest.mark.usefixtures("users_rules")
@pytest.mark.parametrize("other", [{"w": (5, 3)}, {"w": (1, 3)}, {"w": ()}, {"w": (3,)}, {"v": (2, 3)}, {}])
def test_the_state_of_another_optimiser_or_model(other):
    tx = optax.adam(0.1)
    params = {"w": jnp.zeros((2, 3))}
    state = TrainState.create(apply_fn=None, params=params, tx=tx)
    wrong = state.replace(opt_state=tx.init({name: jnp.ones(shape) for name, shape in other.items()}))
    for jitted in (False, True):
        apply = (
            (lambda s, g: s.apply_gradients(grads=g))
            if not jitted
            else jax.jit(lambda s, g: s.apply_gradients(grads=g))
        )
        with pytest.raises(OptimizerStateError, match=r"0/(mu|nu)|lacks|called"):
            jax.eval_shape(apply, wrong, params) if jitted else apply(wrong, params)
    for of in (optax.sgd(0.1, momentum=0.9), optax.chain(optax.clip(1.0), optax.adam(0.1))):
        with pytest.raises(OptimizerStateError, match="replace"):
            state.replace(opt_state=of.init(params)).apply_gradients(grads=params)


# Collections


def with_statistics():
    model = nn.BatchNorm(use_running_average=False)
    return TrainState.init(model, optax.sgd(0.1), jax.random.key(0), jnp.ones((4, 3)))


COLLECTIONS = {
    "another shape": (
        {"batch_stats": {"mean": jnp.ones(4), "var": jnp.ones(3)}},
        r"'batch_stats/mean' of shape \(4,\)",
    ),
    "a scalar": ({"batch_stats": {"mean": jnp.ones(()), "var": jnp.ones(3)}}, r"'batch_stats/mean' of shape \(\)"),
    "one is missing": ({"batch_stats": {"var": jnp.ones(3)}}, "batch_stats without 'batch_stats/mean'"),
    "empty": ({"batch_stats": {}}, "without 'batch_stats/mean'"),
    "none": ({"batch_stats": None}, "without 'batch_stats/mean'"),
    "unknown": ({"params": {}}, "given params"),
    "misspelt": ({"batch_stat": {}}, "Did you mean 'batch_stats'"),
    "a list": (["batch_stats"], "an object of type list, and not collections by name"),
}


@pytest.mark.parametrize("name", COLLECTIONS)
def test_collections_that_do_not_fit(name):
    state = with_statistics()
    given, words = COLLECTIONS[name]
    with pytest.raises(StateCollectionError, match=words):
        state.apply_gradients(grads=state.params, collections=given)


def test_a_collection_may_gain_variables():
    state = with_statistics()
    more = {"batch_stats": {**state.collections["batch_stats"], "count": jnp.ones(())}}
    assert "count" in state.apply_gradients(grads=state.params, collections=more).collections["batch_stats"]


# How the methods are called


def test_calls_that_lack_an_argument_or_its_name():
    model, x = nn.Dense(3), jnp.ones((1, 2))
    params = model.init(jax.random.key(0), x)["params"]
    tx = optax.sgd(0.1)
    state = TrainState.create(apply_fn=model.apply, params=params, tx=tx)
    calls = {
        lambda: TrainState.create(params=params, tx=tx): r"create\(\) was not given apply_fn=",
        lambda: TrainState.create(apply_fn=model.apply): r"was not given params=, tx=",
        lambda: TrainState.create(model.apply, params, tx): r"takes its arguments by name, and was given 3 without",
        lambda: state.apply_gradients(params): r"state.apply_gradients\(grads=grads\)",
        state.apply_gradients: r"was not given grads=",
    }
    for call, words in calls.items():
        with pytest.raises(StateCallError, match=words) as error:
            call()
        assert isinstance(error.value, TypeError)
    wrong = {
        lambda: TrainState.create(apply_fn=model, params=params, tx=tx): "apply_fn=model.apply",
        lambda: TrainState.create(apply_fn="apply", params=params, tx=tx): "an object of type str is no function",
        lambda: TrainState.init(nn.Dense, tx, jax.random.key(0), x): "Dense is a class",
        lambda: TrainState.init(params, tx, jax.random.key(0), x): "has no init and apply",
        lambda: TrainState.init(model, jax.random.key(0), tx, x): r"init\(\) was given tx=",
    }
    for call, words in wrong.items():
        with pytest.raises(BatisteError, match=words):
            call()
    with pytest.raises(StateArgumentError):
        TrainState.create(apply_fn=model, params=params, tx=tx)
    assert TrainState.create(apply_fn=None, params=params, tx=tx).apply_fn is None
