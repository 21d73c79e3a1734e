"""Step 4: lazy shapes. ``init`` needs to know what the input looks like, not what it is, and never runs the model.

Run it: python -m examples.day05.step_4_lazy_shapes
"""

from typing import Any

import jax
import jax.numpy as jnp

from batiste import nn
from batiste.diagnose import summary


class MLP(nn.Module):
    hidden: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(nn.Dense(self.hidden, name="hidden")(x))
        return nn.Dense(1, name="head")(x)


def program(function: Any, *args: Any) -> str:
    """Return the operations that ``function`` consists of, as text."""
    return str(jax.make_jaxpr(function)(*args))


def main() -> None:
    points = jax.ShapeDtypeStruct((1, 2), jnp.float32)
    print("What init would make, before any array exists:")
    print(summary(MLP(hidden=16), points))

    variables = MLP(hidden=16).init(jax.random.key(0), points)
    print("\ninit takes the shape of the input alone:", variables["params"]["hidden"]["kernel"].shape)
    wider = MLP(hidden=16).init(jax.random.key(0), jax.ShapeDtypeStruct((1, 30), jnp.float32))
    print("Another input, another kernel, the same blueprint:", wider["params"]["hidden"]["kernel"].shape)

    model, x = MLP(hidden=16), jnp.ones((1, 2))
    print("A matrix product in the program of apply:", "dot_general" in program(model.apply, variables, x))
    print("A matrix product in the program of init: ", "dot_general" in program(model.init, jax.random.key(0), x))

    huge = summary(MLP(hidden=200_000), jax.ShapeDtypeStruct((1, 200_000), jnp.float32))
    print(f"A model of {huge.bytes / 1e9:.0f} GB, measured without a byte of it: {huge.parameters:,} parameters.")


if __name__ == "__main__":
    main()
