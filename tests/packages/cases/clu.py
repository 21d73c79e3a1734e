"""clu: a table of parameters, and metrics that are Flax's dataclasses."""

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
from clu import metrics, parameter_overview

variables = nn.Dense(3).init(jax.random.key(0), jnp.ones((1, 2)))
print(parameter_overview.get_parameter_overview(variables["params"], include_stats=False))


@flax.struct.dataclass
class Metrics(metrics.Collection):
    accuracy: metrics.Accuracy
    loss: metrics.Average.from_output("loss")


held = Metrics.single_from_model_output(logits=jnp.eye(3), labels=jnp.array([0, 1, 1]), loss=jnp.ones(()))
print("metrics", held.merge(held).compute())
