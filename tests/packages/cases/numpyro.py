"""numpyro: a Flax module with random weights, fitted by variational inference."""

import jax
import numpyro
import numpyro.distributions as dist
from flax import linen as nn
from numpyro.contrib.module import flax_module, random_flax_module
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoNormal


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(nn.tanh(nn.Dense(4)(x)))


def model(x, y):
    net = random_flax_module("net", Net(), dist.Normal(0, 1), input_shape=(2,))
    numpyro.sample("y", dist.Normal(net(x)[:, 0], 1.0), obs=y)


def plain(x, y):
    net = flax_module("net", Net(), input_shape=(2,))
    numpyro.sample("y", dist.Normal(net(x)[:, 0], 1.0), obs=y)


x = jax.random.normal(jax.random.key(0), (16, 2))
y = x.sum(-1)
result = SVI(model, AutoNormal(model), numpyro.optim.Adam(0.01), Trace_ELBO()).run(
    jax.random.key(1), 20, x, y, progress_bar=False
)
print("random", result.losses[-1])
result = SVI(plain, lambda x, y: None, numpyro.optim.Adam(0.01), Trace_ELBO()).run(
    jax.random.key(1), 20, x, y, progress_bar=False
)
print("plain", result.losses[-1])
