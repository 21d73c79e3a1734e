"""Step 1: a network in plain JAX. Its parameters are a dict, and all that is done to them is done by hand.

The task of all seven steps: points in a square, and whether each lies inside a circle. No straight line separates the
two, so a hidden layer is needed.

Run it: python -m examples.day05.step_1_raw_jax
"""

from typing import Any

import jax
import jax.numpy as jnp

HIDDEN = 16


def circle(key: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    points = jax.random.uniform(key, (count, 2), minval=-1.0, maxval=1.0)
    return points, (jnp.sum(points**2, axis=1) < 0.5).astype(jnp.float32)


def init_params(key: jax.Array) -> dict[str, Any]:
    first, second = jax.random.split(key)  # one key per random draw; a key is never used twice
    return {
        "hidden": {"kernel": jax.random.normal(first, (2, HIDDEN)), "bias": jnp.zeros(HIDDEN)},
        "head": {"kernel": jax.random.normal(second, (HIDDEN, 1)) / HIDDEN**0.5, "bias": jnp.zeros(1)},
    }


def predict(params: dict[str, Any], points: jax.Array) -> jax.Array:
    hidden = jax.nn.relu(points @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    return (hidden @ params["head"]["kernel"] + params["head"]["bias"])[:, 0]


def loss_fn(params: dict[str, Any], points: jax.Array, labels: jax.Array) -> jax.Array:
    logits = predict(params, points)
    return jnp.mean(jax.nn.softplus(logits) - labels * logits)


@jax.jit
def step(params: dict[str, Any], points: jax.Array, labels: jax.Array) -> tuple[dict[str, Any], jax.Array]:
    loss, grads = jax.value_and_grad(loss_fn)(params, points, labels)
    return jax.tree.map(lambda p, g: p - 0.5 * g, params, grads), loss


def main(steps: int = 300) -> list[float]:
    params = init_params(jax.random.key(0))
    points, labels = circle(jax.random.key(1), 512)
    print("The parameters are a dict and nothing more:")
    print(" ", jax.tree.map(jnp.shape, params))

    before, losses = params, []
    for _ in range(steps):
        params, loss = step(params, points, labels)
        losses.append(float(loss))
    print(f"Loss: {losses[0]:.3f} at first, {losses[-1]:.3f} after {steps} steps of gradient descent.")
    print("The dict we began with is as it was:", bool(jnp.all(before["head"]["bias"] == 0)))
    return losses


if __name__ == "__main__":
    main()
