"""Step 2: Adam and batch normalisation by hand. One tree of state becomes four, and every one goes in and comes out.

Adam keeps two averages for each parameter (Kingma and Ba 2014, https://arxiv.org/abs/1412.6980). Batch normalisation
keeps running statistics that no gradient changes (Ioffe and Szegedy 2015, https://arxiv.org/abs/1502.03167).

Run it: python -m examples.day05.step_2_adam_and_batch_norm
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

HIDDEN = 16
Tree = dict[str, Any]


def circle(key: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    points = jax.random.uniform(key, (count, 2), minval=-1.0, maxval=1.0)
    return points, (jnp.sum(points**2, axis=1) < 0.5).astype(jnp.float32)


def init_trees(key: jax.Array) -> tuple[Tree, Tree]:
    first, second = jax.random.split(key)
    params = {
        "hidden": {"kernel": jax.random.normal(first, (2, HIDDEN)), "bias": jnp.zeros(HIDDEN)},
        "norm": {"scale": jnp.ones(HIDDEN), "bias": jnp.zeros(HIDDEN)},
        "head": {"kernel": jax.random.normal(second, (HIDDEN, 1)) / HIDDEN**0.5, "bias": jnp.zeros(1)},
    }
    return params, {"norm": {"mean": jnp.zeros(HIDDEN), "var": jnp.ones(HIDDEN)}}


def predict(params: Tree, stats: Tree, points: jax.Array, *, train: bool) -> tuple[jax.Array, Tree]:
    x = points @ params["hidden"]["kernel"] + params["hidden"]["bias"]
    mean, var = stats["norm"]["mean"], stats["norm"]["var"]
    if train:
        mean, var = x.mean(axis=0), x.var(axis=0)
        stats = {
            "norm": {
                "mean": 0.9 * stats["norm"]["mean"] + 0.1 * mean,
                "var": 0.9 * stats["norm"]["var"] + 0.1 * var,
            }
        }
    x = (x - mean) * jax.lax.rsqrt(var + 1e-5) * params["norm"]["scale"] + params["norm"]["bias"]
    logits = jax.nn.relu(x) @ params["head"]["kernel"] + params["head"]["bias"]
    return logits[:, 0], stats


def loss_fn(params: Tree, stats: Tree, points: jax.Array, labels: jax.Array) -> tuple[jax.Array, Tree]:
    logits, stats = predict(params, stats, points, train=True)
    return jnp.mean(jax.nn.softplus(logits) - labels * logits), stats


def adam(grads: Tree, mu: Tree, nu: Tree, count: jax.Array, rate: float = 0.05) -> tuple[Tree, Tree, Tree]:
    mu = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, mu, grads)
    nu = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g**2, nu, grads)
    first, second = 1 - 0.9**count, 1 - 0.999**count  # both averages start at zero and are too small at first
    updates = jax.tree.map(lambda m, v: -rate * (m / first) / (jnp.sqrt(v / second) + 1e-8), mu, nu)
    return updates, mu, nu


@jax.jit
def step(
    params: Tree, stats: Tree, mu: Tree, nu: Tree, count: jax.Array, points: jax.Array, labels: jax.Array
) -> tuple[Tree, Tree, Tree, Tree, jax.Array, jax.Array]:
    (loss, stats), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, stats, points, labels)
    updates, mu, nu = adam(grads, mu, nu, count + 1)
    return jax.tree.map(jnp.add, params, updates), stats, mu, nu, count + 1, loss


def difference_from_optax(steps: int) -> float:
    """Return the greatest difference of an update from that of ``optax.adam``, relative to the learning rate."""
    params, _ = init_trees(jax.random.key(0))
    tx = optax.adam(0.05)
    state = tx.init(params)
    mu = nu = jax.tree.map(jnp.zeros_like, params)
    greatest = 0.0
    for count in range(steps):
        grads = jax.tree.map(lambda p, n=count: jnp.sin(p + n), params)  # any gradients will do
        ours, mu, nu = adam(grads, mu, nu, jnp.asarray(count + 1))
        theirs, state = tx.update(grads, state, params)
        gaps = jax.tree.map(lambda a, b: jnp.abs(a - b).max() / 0.05, ours, theirs)
        greatest = max(greatest, *map(float, jax.tree.leaves(gaps)))
    return greatest


def main(steps: int = 100) -> list[float]:
    points, labels = circle(jax.random.key(1), 512)
    params, stats = init_trees(jax.random.key(0))
    mu = nu = jax.tree.map(jnp.zeros_like, params)
    count = jnp.zeros((), jnp.int32)
    losses = []
    for _ in range(steps):
        params, stats, mu, nu, count, loss = step(params, stats, mu, nu, count, points, labels)
        losses.append(float(loss))
    print("Four trees and a counter go through every step:")
    for name, tree in {"params": params, "stats": stats, "mu": mu, "nu": nu}.items():
        print(f"  {name:6} {len(jax.tree.leaves(tree))} arrays")
    print(f"Loss: {losses[0]:.3f} at first, {losses[-1]:.3f} after {steps} steps of Adam.")

    logits, same = predict(params, stats, points, train=False)
    right = float(jnp.mean((logits > 0) == (labels > 0)))
    print(f"With the running statistics {right:.0%} of the points are right, and the statistics stay: {same is stats}.")
    print("Our Adam does what Optax's does:", difference_from_optax(5) < 1e-5)
    return losses


if __name__ == "__main__":
    main()
