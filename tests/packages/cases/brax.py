"""brax: networks of its agents, and a gradient."""

import jax
from brax.training.agents.ppo import networks

made = networks.make_ppo_networks(
    observation_size=4, action_size=2, policy_hidden_layer_sizes=(8,), value_hidden_layer_sizes=(8,)
)
x = jax.random.normal(jax.random.key(0), (3, 4))
params = made.policy_network.init(jax.random.key(1))
print("policy", made.policy_network.apply(None, params, x).sum())
params = made.value_network.init(jax.random.key(2))
print("value", made.value_network.apply(None, params, x).sum())
