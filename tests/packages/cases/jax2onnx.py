"""jax2onnx: a model written as ONNX."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax2onnx import to_onnx


class Model(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(4)(nn.relu(nn.LayerNorm()(nn.Dense(16)(x))))


model = Model()
variables = model.init(jax.random.key(0), jnp.ones((2, 8)))
made = to_onnx(lambda x: model.apply(variables, x), inputs=[(2, 8)])
print("operations", sorted(node.op_type for node in made.graph.node)[:4], len(made.graph.initializer) > 0)
