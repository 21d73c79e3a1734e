"""A variational autoencoder of the handwritten digits, and digits that nobody wrote.

    python -m examples.vae

Four numbers stand for each image of 8 by 8 pixels (Kingma and Welling 2013, https://arxiv.org/abs/1312.6114). The page
of the run, `runs/vae/report.html`, shows how the pictures become sharper; matplotlib writes them. The digits come with
scikit-learn.

Measured on 2 CPU cores (19 s of CPU time): an evidence lower bound of -23.49 nats for each of 360 held-out images, of
which the picture takes 19.43.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

from batiste import TrainState, nn, train

LATENT = 4


class VAE(nn.Module):
    hidden: int = 256

    def setup(self):
        self.encoder = nn.Sequential([nn.Dense(self.hidden), nn.gelu, nn.Dense(2 * LATENT)])
        self.decoder = nn.Sequential([nn.Dense(self.hidden), nn.gelu, nn.Dense(self.hidden), nn.gelu, nn.Dense(64)])

    def __call__(self, images):  # [batch, 64] of 0 to 1
        mean, log_variance = jnp.split(self.encoder(images), 2, axis=-1)
        noise = jax.random.normal(self.make_rng("noise"), mean.shape)
        return self.decode(mean + jnp.exp(log_variance / 2) * noise), mean, log_variance

    def decode(self, codes):  # [batch, LATENT]
        return self.decoder(codes)  # [batch, 64] logits


def loss_fn(model, images):
    """Return minus the evidence lower bound of each image, in nats, and its two parts."""
    rngs = None if model.train else {"noise": jax.random.key(0)}
    logits, mean, log_variance = model(images, rngs=rngs)
    picture = optax.sigmoid_binary_cross_entropy(logits, images).sum(-1)
    code = 0.5 * (jnp.exp(log_variance) + mean**2 - 1 - log_variance).sum(-1)
    return picture + code, {"picture": picture, "code": code}


def drawn(images, brightness=" .:-=+*#%@"):
    """Return images `[n, 8, 8]` of 0 to 1, beside each other, as text."""
    levels = (np.clip(np.concatenate(list(images), axis=1), 0, 0.999) * len(brightness)).astype(int)
    return "\n".join("".join(2 * brightness[level] for level in row) for row in levels)


def samples(state, count, key):
    codes = jax.random.normal(key, (count, LATENT))
    return nn.sigmoid(state.apply_fn(state.variables(), codes, method="decode")).reshape(-1, 8, 8)


@train.at("row")
def picture(loop):
    loop.picture("samples", np.concatenate(list(samples(loop.state, 8, jax.random.key(0))), axis=1))


def main(steps=6000, batch=128, run="runs/vae"):
    images = load_digits().data.astype(np.float32) / 16
    held_out = np.arange(len(images)) % 5 == 0
    rngs = {"params": jax.random.key(0), "noise": jax.random.key(1)}
    tx = optax.adam(optax.cosine_decay_schedule(2e-3, steps))
    state = TrainState.init(VAE(), tx, rngs, images[:1])
    step = train.make_step(loss_fn)
    data = train.shuffled(images[~held_out], batch)
    options = {"log_every": max(1, steps // 10), "log": train.show, "hooks": [picture], "report": True}
    state = train.fit(step, state, data, steps=steps, run=run, **options)
    found = train.evaluate(state, images[held_out], step, batch_size=100)
    print(f"held out: {found['loss']:.2f} nats an image, {found['picture']:.2f} for the picture")
    print(drawn(samples(state, 8, jax.random.key(1))))
    return found


if __name__ == "__main__":
    main()
