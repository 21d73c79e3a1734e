"""A variational autoencoder (Kingma and Welling, 2013): a named stream for the latent, methods, intermediates."""

import flax
import jax
import jax.numpy as jnp
from flax import linen as nn


class Encoder(nn.Module):
    latents: int

    @nn.compact
    def __call__(self, x, train):
        for features in (4, 8):
            x = nn.Conv(features, (3, 3), strides=(2, 2))(x)
            x = nn.BatchNorm(use_running_average=not train)(x)
            x = nn.PReLU()(x)
        x = x.reshape((x.shape[0], -1))
        self.sow("intermediates", "features", x)
        mean_x = nn.Dense(self.latents, name="fc2_mean")(x)
        logvar_x = nn.Dense(self.latents, name="fc2_logvar")(x)
        return mean_x, logvar_x


class Decoder(nn.Module):
    @nn.compact
    def __call__(self, z):
        z = nn.relu(nn.Dense(2 * 2 * 8, name="fc1")(z)).reshape((-1, 2, 2, 8))
        z = nn.relu(nn.ConvTranspose(4, (3, 3), strides=(2, 2), transpose_kernel=True)(z))
        return nn.ConvTranspose(1, (3, 3), strides=(2, 2))(z)


def reparameterize(rng, mean, logvar):
    return mean + jax.random.normal(rng, logvar.shape) * jnp.exp(0.5 * logvar)


class VAE(nn.Module):
    latents: int = 3

    def setup(self):
        self.encoder = Encoder(self.latents)
        self.decoder = Decoder()

    def __call__(self, x, train=True):
        mean, logvar = self.encoder(x, train)
        z = reparameterize(self.make_rng("latent"), mean, logvar)
        return self.decoder(z), mean, logvar

    def generate(self, z):
        return nn.sigmoid(self.decoder(z))


def build():
    images = jax.random.normal(jax.random.key(3), (2, 8, 8, 1))
    rngs = {"params": jax.random.key(0), "latent": jax.random.key(1)}
    model = VAE()
    names = flax.traverse_util.flatten_dict({"a": {"b": 1}}, sep="/")
    assert names == {"a/b": 1}
    return model, (images,), {"train": True}, ["batch_stats", "intermediates"], rngs
