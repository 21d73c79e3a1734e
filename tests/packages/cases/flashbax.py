"""flashbax and jumanji: a replay buffer in a state, and an agent's network."""

import flashbax
import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax.training.train_state import TrainState

buffer = flashbax.make_flat_buffer(max_length=32, min_length=2, sample_batch_size=4)
state = buffer.init({"obs": jnp.zeros(3)})
for i in range(8):
    state = buffer.add(state, {"obs": jnp.full(3, float(i))})
batch = buffer.sample(state, jax.random.PRNGKey(0)).experience.first["obs"]
model = nn.Dense(1)
train = TrainState.create(
    apply_fn=model.apply, params=model.init(jax.random.key(0), batch)["params"], tx=optax.adam(1e-2)
)
grads = jax.grad(lambda p: train.apply_fn({"params": p}, batch).sum())(train.params)
print("after", [leaf.sum() for leaf in jax.tree.leaves(train.apply_gradients(grads=grads).params)])
