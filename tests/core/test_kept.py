"""What is kept is bounded, and kept only for what is known by value; ``BATISTE_MODELS`` says of how many models."""

import gc
import os

import jax
import jax.numpy as jnp
import optax

from batiste import TrainState, nn
from batiste.core import UNKNOWN, Valued, fingerprint, kept

MODELS = int(os.environ.get("BATISTE_MODELS", "400"))  # 10,000 take two minutes


def test_the_last_results_are_kept_for_what_is_known_by_value():
    made = []

    @kept(maxsize=2)
    def make(valued):
        made.append(valued)
        return len(made)

    one, two, three = (Valued(fingerprint(number)) for number in (1, 2, 3))
    assert [make(each) for each in (one, two, one, Valued(fingerprint(1)))] == [1, 2, 1, 1]
    assert [make(each) for each in (three, one, two)] == [3, 1, 4]
    unknown = Valued(fingerprint((1, UNKNOWN)))
    assert [make(unknown), make(unknown)] == [5, 6]
    assert unknown == unknown  # noqa: PLR0124
    assert unknown != Valued(unknown.value)


def one_of_many(number):
    class Model(nn.Module):
        width: int
        factor: float

        @nn.compact
        def __call__(self, x):
            x = nn.Dense(2, kernel_init=lambda key, shape, dtype=jnp.float32: number * jnp.ones(shape, dtype))(x)
            return nn.remat(nn.Dense)(self.width)(x) * self.factor

    model, x = Model(2, float(number)), jnp.ones((1, 2))
    variables = jax.eval_shape(model.init, jax.random.key(0), x)
    state = TrainState.create(apply_fn=model.apply, params={"w": x}, tx=optax.sgd(number))
    jax.make_jaxpr(model.apply)(variables, x)
    assert hash(model) != hash(Model(2, number + 0.5))
    assert state.apply_fn == model.apply


def test_different_models_leave_nothing_behind():
    """Of each there are a class, a model with its own initialiser, a lifted class, an optimiser and a state."""
    for number in range(100):
        one_of_many(number)
    gc.collect()
    before = len(gc.get_objects())
    for number in range(100, 100 + MODELS):
        one_of_many(number)
    gc.collect()
    assert len(gc.get_objects()) - before < 25 * min(MODELS, 1024) + 5_000  # the shapes of so many initialisers
