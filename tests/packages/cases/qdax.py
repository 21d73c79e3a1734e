"""qdax: its networks, a genotype and a gradient."""

import jax
import jax.numpy as jnp
from qdax.core.neuroevolution.networks.networks import MLP, QModule

x = jax.random.normal(jax.random.key(0), (4, 3))
policy = MLP(layer_sizes=(8, 2), final_activation=jnp.tanh)
many = jax.vmap(policy.init)(jax.random.split(jax.random.key(1), 5), jnp.zeros((5, 3)))
print("policies", jax.vmap(policy.apply, in_axes=(0, None))(many, x).sum())
critic = QModule(n_critics=2, hidden_layer_sizes=(8,))
variables = critic.init(jax.random.key(2), x, x[:, :2])
print("critic", critic.apply(variables, x, x[:, :2]).sum())
