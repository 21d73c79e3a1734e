"""The error of a number that is not finite names the module and the operation that made it, found in its own step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from batiste import TrainState, nn
from batiste.errors import NonFiniteMetricError
from batiste.train import Loop, NonFinite, fit, make_step

X = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)


class Logarithm(nn.Module):
    @nn.compact
    def __call__(self, x):
        return jnp.log(x)


class Length(nn.Module):
    @nn.compact
    def __call__(self, x):
        return jnp.linalg.norm(x, axis=-1)  # whose gradient at 0 is NaN


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = Length(name="length")(nn.Dense(4, name="body", use_bias=False)(x))
        return Logarithm(name="scores")(x + 1.0)


def loss_fn(model, batch):
    return model(batch["x"]) * batch["scale"]


def begin():
    return TrainState.init(Net(), optax.sgd(1e-2), jax.random.key(0), X)


def data(bad, **wrong):
    return lambda n: {"x": X, "scale": np.ones(4, np.float32), **(wrong if n + 1 == bad else {})}


def told(step, batches, **options):
    loop = Loop(step, begin(), batches, steps=40, log=None, log_every=20, compile_cache=False, **options)
    texts = []
    for _ in range(2):  # who goes on is told again
        with pytest.raises(NonFiniteMetricError) as error:
            list(loop)
        texts.append(str(error.value))
    assert texts[0] == texts[1]
    return texts[0]


@pytest.mark.parametrize("jitted", [False, True])
def test_the_forward_pass(jitted):
    step = make_step(loss_fn)
    text = told(jax.jit(step) if jitted else step, data(7, x=np.full_like(X, np.inf)))
    assert "'loss' is nan at step 7" in text
    assert "`diagnose.find_nan` on step 7: The first NaN is made by `dot_general` at body, in the forward pass" in text


def test_the_step_before():
    """The loss is a number where the gradient is not, and the next loss shows it: the step that did it is named."""
    text = told(make_step(loss_fn), data(6, x=np.zeros_like(X)))
    assert "'loss' is nan at step 7" in text
    assert "`diagnose.find_nan` on step 6: The first infinity is made by `div` at length" in text


def test_the_backward_pass():
    def step(w, scale):
        loss, grad = jax.value_and_grad(lambda w: jnp.tanh(w * scale) * scale)(w)
        return w - grad, {"loss": loss}

    with pytest.raises(NonFiniteMetricError, match=r"find_nan` on step 3: .*infinity is made by `mul` .*backward pass"):
        fit(step, jnp.float32(0), lambda n: np.float32(1e30 if n == 2 else 0), steps=9, log=None)


def test_a_state_that_is_too_large_to_be_held(tmp_path, monkeypatch):
    monkeypatch.setattr("batiste.train._past._BYTES", 8)
    bad = data(7, x=np.full_like(X, np.inf))
    assert "find_nan" not in told(make_step(loss_fn), bad)
    text = told(make_step(loss_fn), bad, run=tmp_path, save_every=3)
    assert "`diagnose.find_nan` on step 7: The first NaN is made by `dot_general` at body" in text
    far = told(make_step(loss_fn), bad, run=tmp_path / "far", save_every=4)
    assert "on the batch of step 7 and the state after step 4: The first NaN" in far


def test_batches_that_are_not_held_any_more(monkeypatch):
    monkeypatch.setattr("batiste.train._past._BATCHES", 16)
    text = told(make_step(loss_fn), data(17, x=np.full_like(X, np.inf)))
    assert "on the batch of step 17 and the state after step 0: The first NaN" in text


def test_a_state_that_is_replaced_is_not_done_again():
    loop = Loop(make_step(loss_fn), begin(), data(7, x=np.full_like(X, np.inf)), steps=9, log=None)

    def body():
        for n, _ in loop:
            if n == 3:
                loop.state = begin()

    with pytest.raises(NonFiniteMetricError) as error:
        body()
    assert "find_nan" not in str(error.value)


def test_an_update_that_was_skipped_once_too_often(tmp_path):
    policy = NonFinite("skip", limit=1)
    bad = {"x": np.full_like(X, np.inf), "scale": np.ones(4, np.float32)}
    with pytest.raises(NonFiniteMetricError, match=r"(?s)at step 2.*find_nan` on step 2: .*`dot_general` at body"):
        fit(make_step(loss_fn), begin(), lambda n: bad, steps=4, run=tmp_path, finite=policy, log=None)


def test_what_cannot_be_looked_into():
    def outside(state, batch):
        number = jax.ShapeDtypeStruct((), "float32")
        loss = jax.pure_callback(lambda x: np.float32(np.nan) * x.sum(), number, batch["x"])
        return state, {"loss": loss}

    text = told(outside, data(0))
    assert "`diagnose.find_nan`" in text
    compiled = jax.jit(make_step(loss_fn)).lower(begin(), data(0)(0)).compile()
    assert "find_nan" not in told(compiled, data(3, x=np.full_like(X, np.inf)))
    mine = NonFinite(explain=lambda state, batch: f"{sorted(batch)}, step {int(state.step)}")
    assert "['scale', 'x'], step 2" in told(make_step(loss_fn), data(3, x=np.full_like(X, np.inf)), finite=mine)
