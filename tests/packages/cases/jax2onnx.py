"""jax2onnx: a model of Linen's layers as an ONNX graph."""

from collections import Counter

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax2onnx import to_onnx


class Model(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(4, (3, 3))(x))
        x = nn.LayerNorm()(nn.avg_pool(x, window_shape=(2, 2), strides=(2, 2)))
        return nn.Dense(3)(x.reshape(x.shape[0], -1))


model = Model()
variables = model.init(jax.random.key(0), jnp.ones((1, 8, 8, 3)))
graph = to_onnx(lambda x: model.apply(variables, x), [(1, 8, 8, 3)]).graph
print("inputs", [value.name for value in graph.input], "nodes", sorted(Counter(n.op_type for n in graph.node).items()))
print("weights", sorted(tuple(value.dims) for value in graph.initializer if len(value.dims) > 1))
