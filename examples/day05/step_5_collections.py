"""Step 5: collections and mutation. Every kind of state has a collection, and a call names those that it may change.

Run it: python -m examples.day05.step_5_collections
"""

import jax
import jax.numpy as jnp

from batiste import nn
from batiste.errors import ModifyScopeVariableError


class Centre(nn.Module):
    """Subtracts the mean of the batch in training, and a running mean afterwards."""

    momentum: float = 0.9

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        running = self.variable("batch_stats", "mean", jnp.zeros, x.shape[-1:])
        if not train:
            return x - running.value
        mean = x.mean(axis=0)
        if not self.is_initializing():
            running.value = self.momentum * running.value + (1 - self.momentum) * mean
        return x - mean


class Net(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = nn.relu(nn.Dense(8)(Centre()(x, train=train)))
        self.sow("intermediates", "hidden", x)
        x = nn.Dropout(0.5, deterministic=not train)(x)
        return nn.Dense(1)(x)


def main() -> None:
    model = Net()
    x = 3 + jax.random.normal(jax.random.key(1), (32, 2))
    variables = model.init(jax.random.key(0), x, train=False)
    print("Collections:", sorted(variables))

    rngs = {"dropout": jax.random.key(2)}
    y, changed = model.apply(variables, x, train=True, rngs=rngs, mutable=["batch_stats"])
    print("A call that may change batch_stats returns them beside the result:", y.shape, list(changed))
    print("  before:", variables["batch_stats"]["Centre_0"]["mean"])
    print("  after: ", changed["batch_stats"]["Centre_0"]["mean"].round(2))

    try:
        model.apply(variables, x, train=True, rngs=rngs)
    except ModifyScopeVariableError as error:
        print("A call that may not:")
        print("  " + str(error).replace("\n", "\n  "))

    _, seen = model.apply(variables, x, train=False, mutable=["intermediates"])
    print("What sow kept, only because it was asked for:", seen["intermediates"]["hidden"][0].shape)

    again = model.apply(variables, x, train=True, rngs=rngs, mutable=["batch_stats"])[0]
    other = model.apply(variables, x, train=True, rngs={"dropout": jax.random.key(3)}, mutable=["batch_stats"])[0]
    print("The same key drops the same units:", bool(jnp.array_equal(y, again)))
    print("Another key drops others:", not bool(jnp.array_equal(y, other)))

    variables = {**variables, **changed}
    print("The next state is made of the old one and what changed:", sorted(variables))


if __name__ == "__main__":
    main()
