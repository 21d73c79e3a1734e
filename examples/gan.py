"""A generative adversarial network: two networks with a state each, in one step.

    python -m examples.gan

The generator draws digits, the discriminator tells them from real ones, and each learns from the other (Goodfellow and
others 2014, https://arxiv.org/abs/1406.2661). A state of `train.fit` is any tree, so that two states are a state: one
checkpoint, one step, one program. The digits come with scikit-learn.

Measured on 2 CPU cores (27 s of CPU time): from a made digit to the nearest of 360 held-out ones it is 1.42, from
those to the nearest made one 1.40; from them to the nearest digit that was trained with it is 1.06.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

from batiste import TrainState, nn, train

NOISE = 16


class Generator(nn.Module):
    @nn.compact
    def __call__(self, noise):  # [batch, NOISE]
        x = noise
        for _ in range(2):
            x = nn.relu(nn.LayerNorm()(nn.Dense(256)(x)))
        return nn.sigmoid(nn.Dense(64)(x))  # [batch, 64], of 0 to 1


class Discriminator(nn.Module):
    @nn.compact
    def __call__(self, images):  # [batch, 64]
        x = images
        for _ in range(2):
            x = nn.leaky_relu(nn.Dense(256)(x), 0.2)
        return nn.Dense(1)(x)[..., 0]  # [batch], positive for what looks real


class States(NamedTuple):
    generator: TrainState
    discriminator: TrainState


def step(states, real):
    """Return both states after a step: the discriminator's first, then the generator's against the new one."""
    generator, discriminator = states
    noise = jax.random.normal(generator.step_rngs()["noise"], (len(real), NOISE))
    images = generator.apply_fn(generator.variables(), noise)

    def telling(params):
        def judge(images):
            return discriminator.apply_fn(discriminator.variables(params), images).sum()

        real_loss = nn.softplus(-discriminator.apply_fn(discriminator.variables(params), real)).mean()
        made_loss = nn.softplus(discriminator.apply_fn(discriminator.variables(params), images)).mean()
        slope = jnp.sum(jax.grad(judge)(real) ** 2, axis=-1).mean()  # R1: Mescheder and others 2018, arXiv:1801.04406
        return real_loss + made_loss + 0.5 * slope

    discriminator_loss, grads = jax.value_and_grad(telling)(discriminator.params)
    discriminator = discriminator.apply_gradients(grads=grads)

    def deceiving(params):
        images = generator.apply_fn(generator.variables(params), noise)
        return nn.softplus(-discriminator.apply_fn(discriminator.variables(), images)).mean()

    generator_loss, grads = jax.value_and_grad(deceiving)(generator.params)
    generator = generator.apply_gradients(grads=grads)
    return States(generator, discriminator), {"generator": generator_loss, "discriminator": discriminator_loss}


def new_states():
    tx = optax.adam(3e-4, b1=0.5)
    rngs = {"params": jax.random.key(0), "noise": jax.random.key(1)}
    generator = TrainState.init(Generator(), tx, rngs, jnp.zeros((1, NOISE)))
    return States(generator, TrainState.init(Discriminator(), tx, jax.random.key(2), jnp.zeros((1, 64))))


def nearest(images, others):
    """Return the mean distance of each image to the nearest of others."""
    return np.sqrt(((images[:, None] - others[None]) ** 2).sum(-1)).min(1).mean()


def drawn(images, brightness=" .:-=+*#%@"):
    """Return images `[n, 8, 8]` of 0 to 1, beside each other, as text."""
    levels = (np.clip(np.concatenate(list(images), axis=1), 0, 0.999) * len(brightness)).astype(int)
    return "\n".join("".join(2 * brightness[level] for level in row) for row in levels)


def main(steps=6000, batch=64):
    images = load_digits().data.astype(np.float32) / 16
    is_held_out = np.arange(len(images)) % 5 == 0
    held_out, known = images[is_held_out], images[~is_held_out]
    data = train.shuffled(known, batch)
    states = train.fit(step, new_states(), data, steps=steps, log_every=max(1, steps // 10), log=train.show)
    noise = jax.random.normal(jax.random.key(3), (len(held_out), NOISE))
    generator = states.generator
    made = np.asarray(generator.apply_fn(generator.variables(), noise))
    found = {
        "made to real": nearest(made, held_out),
        "real to made": nearest(held_out, made),
        "real to real": nearest(held_out, known),
    }
    print("distance to the nearest:", ", ".join(f"{name} {distance:.2f}" for name, distance in found.items()))
    print(drawn(made[:8].reshape(-1, 8, 8)))
    return found


if __name__ == "__main__":
    main()
