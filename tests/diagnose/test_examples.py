"""No tool has a finding on a model of the examples.

With ``BATISTE_FAULTS=all`` every tool looks at every one; by default at the smallest.
"""

import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from batiste.diagnose import check_pure, dtypes, find_nan, keys, lint, summary
from examples import actor_critic, adversarial, diffusion, gan, gpt, llama, lstm, resnet, vae
from examples.demo.model import ConvNet

ALL = os.environ.get("BATISTE_FAULTS") == "all"
DRAW = np.random.default_rng(0)


def real(*shape):
    return jnp.asarray(DRAW.uniform(size=shape), jnp.float32)


def whole(high, *shape):
    return jnp.asarray(DRAW.integers(0, high, shape), jnp.int32)


MODELS = {
    "actor_critic": (actor_critic.ActorCritic(), (real(4, 4),), {}),
    "adversarial": (adversarial.Net(), (16 * real(4, 64),), {}),
    "diffusion": (diffusion.Flow(width=32, depth=2), (real(4, 64), real(4), whole(10, 4)), {}),
    "generator": (gan.Generator(), (real(4, gan.NOISE),), {}),
    "discriminator": (gan.Discriminator(), (real(4, 64),), {}),
    "gpt": (gpt.GPT(width=32, depth=2), (whole(30, 2, 16),), {}),
    "lstm": (lstm.Reader(), (whole(20, 3, lstm.LONGEST), jnp.asarray([5, 7, 9])), {}),
    "resnet": (resnet.ResNet(widths=(8, 16)), (255 * real(4, 28, 28),), {"train": True}),
    "vae": (vae.VAE(hidden=32), (real(4, 64),), {}),
    "llama": (llama.Llama(llama.Config()), (whole(100, 2, 8),), {}),
    "demo": (ConvNet(brightest=16), (16 * real(4, 8, 8, 1),), {"train": True}),
}


@pytest.mark.usefixtures("users_rules")
@pytest.mark.parametrize("name", MODELS if ALL else ["actor_critic"])
def test_no_tool_has_a_finding_on_an_example(name):
    model, inputs, options = MODELS[name]
    rngs = {stream: jax.random.key(number) for number, stream in enumerate(("params", "dropout", "code"))}
    variables = model.init(rngs, *inputs, **options)
    variables = {kind: tree for kind, tree in variables.items() if kind != "perturbations"}
    del rngs["params"]
    given = {"rngs": rngs, "mutable": [kind for kind in variables if kind != "params"] or False, **options}
    assert keys(model, variables, *inputs, **given).findings == []
    assert lint(model, variables, *inputs, rngs=rngs, optimizer=optax.adam(1e-3), **options) == []
    assert check_pure(model, variables, *inputs, **given) == []
    assert find_nan(model, variables, *inputs, **given) is None
    assert dtypes(model, variables, *inputs, **given).rows
    assert summary(model, *inputs, rngs={"params": jax.random.key(0), **rngs}, **options).modules
