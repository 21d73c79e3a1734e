"""Step 3: the blueprint. A module says what a network is; its variables are a dict that it does not hold.

Run it: python -m examples.day05.step_3_blueprint
"""

from typing import Any

import jax
import jax.numpy as jnp

from batiste import nn


class MLP(nn.Module):
    hidden: int
    out: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(nn.Dense(self.hidden, name="hidden")(x))
        return nn.Dense(self.out, name="head")(x)


class MLPWithSetup(nn.Module):
    """The same network, with its layers as attributes."""

    def setup(self) -> None:
        self.hidden = nn.Dense(16)
        self.head = nn.Dense(1)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(self.features(x))

    def features(self, x: jax.Array) -> jax.Array:
        return nn.relu(self.hidden(x))


def by_hand(params: dict[str, Any], x: jax.Array) -> jax.Array:
    hidden = jax.nn.relu(x @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    return hidden @ params["head"]["kernel"] + params["head"]["bias"]


def main() -> None:
    model = MLP(hidden=16)
    print("A blueprint holds settings, no arrays:", model)
    print("Written twice it is the same thing:", model == MLP(hidden=16), hash(model) == hash(MLP(hidden=16)))

    x = jax.random.normal(jax.random.key(1), (4, 2))
    variables = model.init(jax.random.key(0), x)
    print("init makes the variables, a dict:")
    print(" ", jax.tree.map(jnp.shape, variables))

    y = model.apply(variables, x)
    raw = by_hand(variables["params"], x)
    print("apply computes what the raw function of step 1 does:", bool(jnp.allclose(y, raw, atol=1e-6)))
    print("Twice the same bits:", bool(jnp.array_equal(y, model.apply(variables, x))))

    grads = jax.grad(lambda params: jnp.sum(model.apply({"params": params}, x) ** 2))(variables["params"])
    print("Gradients have the same structure:", jax.tree.structure(grads) == jax.tree.structure(variables["params"]))

    other = MLPWithSetup()
    same = jax.tree.map(jnp.array_equal, other.init(jax.random.key(0), x), variables)
    print("The same names give the same numbers, compact or setup:", all(map(bool, jax.tree.leaves(same))))
    print("Another method of the same blueprint:", other.apply(variables, x, method="features").shape)


if __name__ == "__main__":
    main()
