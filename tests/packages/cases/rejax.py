"""rejax: an agent trained for a few steps, wholly compiled."""

import flax.serialization
import jax
from rejax import PPO

algo = PPO.create(
    env="CartPole-v1",
    total_timesteps=16,
    num_envs=2,
    num_steps=4,
    num_epochs=1,
    num_minibatches=1,
    eval_freq=16,
    agent_kwargs={"hidden_layer_sizes": (4,)},
)
algo = algo.replace(eval_callback=lambda algo, state, rng: ())
state, _ = jax.jit(algo.train)(jax.random.PRNGKey(0))
print("steps", state.global_step)
print("actor", [abs(leaf).sum() for leaf in jax.tree.leaves(state.actor_ts.params)])
action = algo.make_act(state)(jax.numpy.ones(4), jax.random.PRNGKey(1))
print("action", action)
print("bytes", len(flax.serialization.to_bytes(state.actor_ts.params)))
