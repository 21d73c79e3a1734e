"""An actor and critic (Mnih et al., 2016) over frames: one torso, a recurrent core, an ensemble of critics."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.initializers import constant, orthogonal
from flax.training.train_state import TrainState


class Torso(nn.Module):
    features: Sequence[int]

    @nn.compact
    def __call__(self, x):
        x = x.astype(jnp.float32) / 255.0
        for i, size in enumerate(self.features):
            x = nn.Conv(size, (3, 3), strides=(2, 2), name=f"conv{i + 1}", kernel_init=orthogonal(jnp.sqrt(2)))(x)
            x = nn.relu(x)
        return x.reshape((*x.shape[:-3], -1))


class ScannedRNN(nn.Module):
    size: int

    @nn.compact
    def __call__(self, carry, inputs):
        features, done = inputs
        carry = jnp.where(done[:, None], self.initialize_carry(features.shape[0], self.size), carry)
        return nn.GRUCell(features=self.size)(carry, features)

    @staticmethod
    def initialize_carry(batch, size):
        return nn.GRUCell(features=size, parent=None).initialize_carry(jax.random.key(0), (batch, size))


class Critic(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.tanh(nn.Dense(6, kernel_init=orthogonal(jnp.sqrt(2)), bias_init=constant(0.0))(x))
        return jnp.squeeze(nn.Dense(1, kernel_init=orthogonal(1.0))(x), axis=-1)


class ActorCritic(nn.Module):
    num_outputs: int
    hidden: int = 8
    critics: int = 2

    @nn.compact
    def __call__(self, frames, done):
        x = nn.relu(nn.Dense(self.hidden, name="hidden")(Torso((4, 4))(frames)))
        core = nn.scan(ScannedRNN, variable_broadcast="params", in_axes=0, out_axes=0, split_rngs={"params": False})(
            self.hidden
        )
        carry = ScannedRNN.initialize_carry(x.shape[1], self.hidden)
        carry, x = core(carry, (x, done))
        logits = nn.Dense(self.num_outputs, kernel_init=orthogonal(0.01), name="logits")(x)
        ensemble = nn.vmap(
            Critic,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=None,
            out_axes=0,
            axis_size=self.critics,
        )
        log_std = self.param("log_std", nn.initializers.zeros, (self.num_outputs,))
        return nn.log_softmax(logits), ensemble(name="critics")(x), jnp.exp(log_std)


def build():
    frames = jax.random.randint(jax.random.key(3), (3, 2, 8, 8, 2), 0, 255).astype(jnp.uint8)
    done = jnp.array([[False, True], [True, False], [False, False]])
    model = ActorCritic(4)
    assert TrainState.__name__ == "TrainState"
    return model, (frames, done), {}, False, {"params": jax.random.key(0)}
