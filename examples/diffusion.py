"""A diffusion model of the handwritten digits, that draws the digit it is told.

    python -m examples.diffusion

The network learns which way leads from noise to an image, and sampling goes that way in small steps: flow matching
(Lipman and others 2022, https://arxiv.org/abs/2210.02747) with classes, which are left out now and then so that the
two answers can be compared (guidance; Ho and Salimans 2022, https://arxiv.org/abs/2207.12598). The digits come with
scikit-learn.

Measured on 2 CPU cores (71 s of CPU time): a loss of 0.421 on 360 held-out images; a nearest-neighbour judge, made of
those, takes 200 of 200 drawn digits for what they are to be.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from batiste import TrainState, nn, train

NO_CLASS = 10


class Flow(nn.Module):
    width: int = 256
    depth: int = 4

    @nn.compact
    def __call__(self, x, time, label):  # [batch, 64], [batch], [batch]
        angles = time[:, None] * jnp.pi * 2.0 ** jnp.arange(6)
        told = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
        told = nn.Dense(self.width)(told) + nn.Embed(11, self.width)(label)
        x = nn.Dense(self.width)(x)
        for _ in range(self.depth):
            y = nn.Dense(2 * self.width)(nn.LayerNorm()(x) + told)
            x = x + nn.Dense(self.width)(nn.silu(y))
        return nn.Dense(64)(nn.LayerNorm()(x))  # [batch, 64], the velocity


def loss_fn(model, batch):
    key = model.rngs["noise"] if model.train else jax.random.key(0)
    noise_key, time_key, drop_key = jax.random.split(key, 3)
    images, shape = batch["x"], batch["y"].shape
    noise = jax.random.normal(noise_key, images.shape)
    time = jax.random.uniform(time_key, shape)
    label = jnp.where(jax.random.bernoulli(drop_key, 0.1, shape), NO_CLASS, batch["y"])
    here = (1 - time[:, None]) * noise + time[:, None] * images
    return jnp.mean((model(here, time, label) - (images - noise)) ** 2, axis=-1)


@functools.partial(jax.jit, static_argnames="steps")
def sample(state, key, labels, steps=50, guidance=1.0):
    """Return an image for each label: from noise, in so many steps of Heun's method."""
    variables = state.variables(state.averaged_params())

    def velocity(x, time):
        times = jnp.full(len(x), time)
        told = state.apply_fn(variables, x, times, labels)
        untold = state.apply_fn(variables, x, times, jnp.full_like(labels, NO_CLASS))
        return told + guidance * (told - untold)

    def forward(x, time):
        first = velocity(x, time)
        second = velocity(x + first / steps, time + 1 / steps)
        return x + (first + second) / (2 * steps), None

    noise = jax.random.normal(key, (len(labels), 64))
    return jax.lax.scan(forward, noise, jnp.arange(steps) / steps)[0]


def drawn(images, brightness=" .:-=+*#%@"):
    """Return images `[n, 8, 8]` of -1 to 1, beside each other, as text."""
    levels = (np.clip(np.concatenate(list(images), axis=1) / 2 + 0.5, 0, 0.999) * len(brightness)).astype(int)
    return "\n".join("".join(2 * brightness[level] for level in row) for row in levels)


def main(steps=4000, batch=128):
    digits = load_digits()
    images, labels = digits.data.astype(np.float32) / 8 - 1, digits.target.astype(np.int32)
    held_out = np.arange(len(images)) % 5 == 0
    rngs = {"params": jax.random.key(0), "noise": jax.random.key(1)}
    tx = optax.adam(optax.cosine_decay_schedule(1e-3, steps))
    state = TrainState.init(Flow(), tx, rngs, images[:1], jnp.zeros(1), labels[:1])
    step = train.make_step(loss_fn, average=0.998)
    data = train.shuffled({"x": images[~held_out], "y": labels[~held_out]}, batch)
    state = train.fit(step, state, data, steps=steps, log_every=max(1, steps // 10), log=train.show)
    found = train.evaluate(state, {"x": images[held_out], "y": labels[held_out]}, step, batch_size=360, averaged=True)
    wanted = jnp.arange(200) % 10
    made = np.asarray(sample(state, jax.random.key(2), wanted))
    judge = KNeighborsClassifier(5).fit(images[held_out], labels[held_out])
    right = float((judge.predict(made) == wanted).mean())
    print(f"held-out loss {found['loss']:.3f}; {right:.0%} of 200 drawn digits are taken for what they are to be")
    print(drawn(made[:10].reshape(-1, 8, 8)))
    return found["loss"], right


if __name__ == "__main__":
    main()
