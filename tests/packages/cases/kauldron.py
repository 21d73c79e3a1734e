"""kauldron: keys of its own, and an immutable dict of its own as a state dict."""

import flax.linen as nn
import flax.serialization
import jax
import jax.numpy as jnp
from kauldron import random as kd_random
from kauldron.utils import immutabledict


class Model(nn.Module):
    @nn.compact
    def __call__(self, x, train=True):
        return nn.Dropout(0.5, deterministic=not train)(nn.Dense(4)(x))


x = jnp.ones((2, 3))
model = Model()
variables = model.init({"params": kd_random.PRNGKey(0), "dropout": kd_random.PRNGKey(1)}, x)
print("init", [leaf.sum() for leaf in jax.tree.leaves(variables)])
print("apply", model.apply(variables, x, rngs={"dropout": kd_random.PRNGKey(2)}).sum())
held = immutabledict.ImmutableDict({"a": jnp.ones(2)})
state = flax.serialization.to_state_dict(held)
print("state", sorted(state), type(flax.serialization.from_state_dict(held, state)).__name__)
