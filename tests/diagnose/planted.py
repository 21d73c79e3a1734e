"""Six small models with one place each where a fault can be planted, and the faults.

The place is a module called ``planted``, deep inside of the model, under ``scan``, ``remat`` or a loop where the model
has one. Without a fault it multiplies by a parameter.
"""

import os
import random
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from batiste import nn

LOG: list[Any] = []
HELD: dict[str, int] = {"calls": 0}
TABLE = jnp.ones((64, 64))
NUMPY_TABLE = np.full((64, 64), 2.0, np.float32)
GENERATOR = np.random.default_rng(0)
COUNT = 0


class Thing:
    calls = 0


THING = Thing()


def helper(x):
    LOG.append(x.shape)
    return x


class Planted(nn.Module):
    fault: str = ""

    @nn.compact
    def __call__(self, x):
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        x = x * jnp.broadcast_to(scale, x.shape)
        if self.fault:
            return FAULTS[self.fault](self, x)
        return x


# --- faults: what the module does with its input


def _global(_, x):
    global COUNT  # noqa: PLW0603 - the fault
    COUNT += 1
    return x


def _list(_, x):
    LOG.append(x.shape)
    return x


def _dict(_, x):
    HELD["calls"] += 1
    return x


def _attribute(_, x):
    THING.calls += 1
    return x


def _class(module, x):
    type(module).seen = getattr(type(module), "seen", 0) + 1
    return x


def _clock(_, x):
    return x * (1 + time.time() % 1)


def _environment(_, x):
    return x * len(os.environ.get("HOME", "/"))


def _grow(module, x):
    held = module.variable("cache", "held", lambda: jnp.zeros((1, x.shape[-1])))
    held.value = jnp.concatenate([held.value, x.reshape(-1, x.shape[-1])[:1]])
    return x


def _sow(module, x):
    module.sow("losses", "size", jnp.sum(x))
    return x


def _twice(module, x):
    key = module.make_rng("dropout")
    return x + jax.random.normal(key, x.shape) + jax.random.uniform(key, x.shape)


def _constant_key(_, x):
    return x + jax.random.normal(jax.random.key(0), x.shape) * jax.random.normal(jax.random.key(0), x.shape)


def _masked(_, x):
    weights = jax.nn.softmax(jnp.where(jnp.zeros(x.shape, bool), x, -jnp.inf))
    return x * weights


FAULTS = {
    # check_pure
    "global": _global,
    "list": _list,
    "dict": _dict,
    "helper": lambda _, x: helper(x),
    "attribute": _attribute,
    "class": _class,
    "captured": lambda _, x: x + TABLE[0, 0] * jnp.sum(TABLE @ TABLE),
    "captured numpy": lambda _, x: x + jnp.sum(jnp.asarray(NUMPY_TABLE)),
    "numpy random": lambda _, x: x * np.random.rand(),  # noqa: NPY002 - the fault
    "python random": lambda _, x: x * random.random(),  # noqa: S311 - the fault
    "generator": lambda _, x: x * GENERATOR.random(),
    "clock": _clock,
    "environment": _environment,
    "grow": _grow,
    "sow": _sow,
    # keys
    "twice": _twice,
    "constant key": _constant_key,
    # find_nan
    "log": lambda _, x: jnp.log(-jnp.abs(x) - 1),
    "div": lambda _, x: x / (x - x),
    "exp": lambda _, x: jnp.exp(1e4 * jnp.abs(x) + 100),
    "masked": _masked,
    "sqrt backward": lambda _, x: x + jnp.sqrt(jnp.abs(x - jax.lax.stop_gradient(x))),
    "norm backward": lambda _, x: x + jnp.linalg.norm(x - jax.lax.stop_gradient(x)),
    # lint
    "stopped": lambda _, x: jax.lax.stop_gradient(x),
    "zero": lambda _, x: x * 0 + 1,
    "rounded": lambda _, x: jnp.round(x * 3),
    # dtypes
    "half": lambda _, x: (x.astype(jnp.bfloat16) * 2).astype(jnp.float32),
}


# --- models


class ResBlock(nn.Module):
    fault: str = ""

    @nn.compact
    def __call__(self, x):
        h = nn.Conv(8, (3, 3), use_bias=False)(x)
        h = nn.relu(nn.BatchNorm(use_running_average=False)(h))
        h = Planted(self.fault, name="planted")(h)
        h = nn.Conv(8, (3, 3), use_bias=False)(h)
        return x + nn.BatchNorm(use_running_average=False, scale_init=nn.initializers.zeros)(h)


class ResNet(nn.Module):
    fault: str = ""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(8, (3, 3), use_bias=False)(x)
        x = ResBlock(name="first")(x)
        x = nn.remat(ResBlock)(self.fault, name="second")(x)
        return nn.Dense(4)(x.mean((1, 2)))


class Block(nn.Module):
    fault: str = ""

    @nn.compact
    def __call__(self, x):
        mask = nn.make_causal_mask(x[..., 0])
        x = x + nn.MultiHeadDotProductAttention(2, dropout_rate=0.1, deterministic=False)(nn.LayerNorm()(x), mask=mask)
        h = Planted(self.fault, name="planted")(nn.gelu(nn.Dense(16)(nn.LayerNorm()(x))))
        return x + nn.Dropout(0.1, deterministic=False)(nn.Dense(8)(h))


class GPT(nn.Module):
    fault: str = ""

    @nn.compact
    def __call__(self, tokens):
        embed = nn.Embed(12, 8, name="embed")
        x = embed(tokens) + nn.Embed(6, 8, name="places")(jnp.arange(tokens.shape[1])[None])
        x = Block(name="h_0")(x)
        x = Block(self.fault, name="h_1")(x)
        return embed.attend(nn.LayerNorm()(x))


class Deep(nn.Module):
    fault: str = ""

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(8)(x)
        return nn.Dense(3)(nn.Repeat(Residual(self.fault), 3, name="h")(x))


class Residual(nn.Module):
    fault: str = ""

    @nn.compact
    def __call__(self, x):
        return x + Planted(self.fault, name="planted")(nn.tanh(nn.Dense(8)(x)))


class Cell(nn.RNNCellBase):
    fault: str = ""

    @nn.compact
    def __call__(self, carry, x):
        carry, x = nn.GRUCell(8, name="gru")(carry, x)
        return carry, Planted(self.fault, name="planted")(x)

    @property
    def num_feature_axes(self):
        return 1

    @nn.nowrap
    def initialize_carry(self, rng, input_shape):
        return jnp.zeros((*input_shape[:-1], 8))


class Recurrent(nn.Module):
    fault: str = ""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.RNN(Cell(self.fault, name="cell"), split_rngs={"params": False, "dropout": True})(x))


class Mixture(nn.Module):
    fault: str = ""

    @nn.compact
    def __call__(self, x):
        gates = jax.nn.softmax(nn.Dense(2, name="router")(x))
        experts = nn.vmap(Expert, variable_axes={"params": 0}, split_rngs={"params": True, "dropout": True},
                          in_axes=None, out_axes=-1, axis_size=2)  # fmt: skip
        return jnp.sum(experts(self.fault, name="experts")(x) * gates[..., None, :], -1)


class Expert(nn.Module):
    fault: str = ""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(8)(Planted(self.fault, name="planted")(nn.relu(nn.Dense(16)(x))))


class Tied(nn.Module):
    fault: str = ""

    @nn.compact
    def __call__(self, x):
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (x.shape[-1], 4))
        code = Planted(self.fault, name="planted")(nn.tanh(x @ kernel))
        return code @ kernel.T


_IMAGES = np.random.default_rng(1).normal(size=(4, 6, 6, 3)).astype(np.float32)
_ROWS = np.random.default_rng(2).normal(size=(6, 8)).astype(np.float32)
_SERIES = np.random.default_rng(3).normal(size=(2, 5, 4)).astype(np.float32)
_TOKENS = np.random.default_rng(4).integers(0, 12, (2, 6))

MODELS = {
    "resnet": (ResNet, _IMAGES, "second/planted"),
    "gpt": (GPT, _TOKENS, "h_1/planted"),
    "repeat": (Deep, _ROWS, "h_*/planted"),
    "rnn": (Recurrent, _SERIES, "cell/planted"),
    "moe": (Mixture, _ROWS, "experts/planted"),
    "tied": (Tied, _ROWS, "planted"),
}


def made(name, fault=""):
    """Return a model, its variables, its input, and the path of the place."""
    kind, x, path = MODELS[name]
    model = kind(fault)
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    sound = kind("") if fault not in {"grow", "sow"} else model
    return model, sound.init(rngs, x), x, path
