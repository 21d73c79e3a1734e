"""Step 7: TrainState and Optax. One pytree for all that training changes, and one program however often it is rebuilt.

Run it: python -m examples.day05.step_7_train_state
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from batiste import TrainState, nn


def circle(key: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    points = jax.random.uniform(key, (count, 2), minval=-1.0, maxval=1.0)
    return points, (jnp.sum(points**2, axis=1) < 0.5).astype(jnp.float32)


class Net(nn.Module):
    hidden: int = 32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = nn.Dense(self.hidden)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
        x = nn.Dropout(0.1, deterministic=not train)(x)
        return nn.Dense(1)(x)[:, 0]


TRACES: list[str] = []  # a line for each time that JAX traces the step, in order to count them


@jax.jit
def step(state: TrainState, points: jax.Array, labels: jax.Array) -> tuple[TrainState, jax.Array]:
    TRACES.append("step")

    def loss_fn(params: Any) -> tuple[jax.Array, Any]:
        logits, changed = state.apply_fn(
            state.variables(params), points, train=True, rngs=state.step_rngs(), mutable=list(state.collections)
        )
        return optax.sigmoid_binary_cross_entropy(logits, labels).mean(), changed

    (loss, changed), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    return state.apply_gradients(grads=grads, collections=changed), loss


def new_state(rate: float) -> TrainState:
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    tx = optax.inject_hyperparams(optax.adam)(learning_rate=rate)
    return TrainState.init(Net(), tx, rngs, jax.ShapeDtypeStruct((1, 2), jnp.float32), train=False)


def main(steps: int = 200) -> list[float]:
    points, labels = circle(jax.random.key(1), 512)
    state = new_state(0.02)
    print("Beside params and opt_state it carries:", list(state.collections), "and the streams", list(state.rngs))

    losses = []
    for _ in range(steps):
        state, loss = step(state, points, labels)
        losses.append(float(loss))
    logits = state.apply_fn(state.variables(), points, train=False)
    right = float(jnp.mean((logits > 0) == (labels > 0)))
    print(f"Loss: {losses[0]:.3f} at first, {losses[-1]:.3f} after {int(state.step)} steps; {right:.0%} right.")

    step(new_state(0.02), points, labels)
    print("Times the step was traced, with a model and an optimiser built again:", len(TRACES))
    slower = optax.tree.set(state.opt_state, learning_rate=jnp.float32(0.002))
    step(state.replace(opt_state=slower), points, labels)
    print("And with another learning rate, which inject_hyperparams made data:", len(TRACES))
    return losses


if __name__ == "__main__":
    main()
