"""aqtp: dense layers with quantised products, in training."""

import functools

import jax
from aqt.jax.v2 import config as aqt_config
from aqt.jax.v2.flax import aqt_flax
from flax import linen as nn


class Model(nn.Module):
    mode: aqt_flax.QuantMode

    @nn.compact
    def __call__(self, x):
        config = aqt_config.config_v4(fwd_bits=8, dlhs_bits=8, drhs_bits=None)
        dot = functools.partial(aqt_flax.AqtDotGeneral, config, rhs_quant_mode=self.mode)
        return nn.Dense(4, dot_general_cls=dot)(nn.relu(nn.Dense(16, dot_general_cls=dot)(x)))


x = jax.random.normal(jax.random.key(0), (8, 8))
train = Model(aqt_flax.QuantMode.TRAIN)
variables = train.init(jax.random.key(1), x)
print("train", train.apply(variables, x, rngs={"params": jax.random.key(2)}).sum())
grads = jax.grad(lambda v: (train.apply(v, x, rngs={"params": jax.random.key(2)}) ** 2).sum())(variables)
print("gradient", [abs(leaf).sum() for leaf in jax.tree.leaves(grads)])
