"""sbx-rl: an agent's networks, a few steps of training, a prediction and a save."""

import tempfile
from pathlib import Path

import gymnasium as gym
import jax
import numpy as np
from sbx import PPO

env = gym.make("CartPole-v1")
model = PPO("MlpPolicy", env, n_steps=64, batch_size=32, n_epochs=1, seed=0, policy_kwargs={"net_arch": [8]})
model.learn(total_timesteps=64)
print("actor", [float(abs(leaf).sum()) for leaf in jax.tree.leaves(model.policy.actor_state.params)])
print("action", int(model.predict(np.ones(4, np.float32), deterministic=True)[0]))
with tempfile.TemporaryDirectory() as folder:
    model.save(Path(folder) / "agent")
    again = PPO.load(Path(folder) / "agent")
print("again", int(again.predict(np.ones(4, np.float32), deterministic=True)[0]))
