"""qwix: quantised inference and training of a model."""

import jax
import jax.numpy as jnp
import qwix
from flax import linen as nn


class Model(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(4)(nn.relu(nn.Dense(16)(x)))


model = Model()
x = jax.random.normal(jax.random.key(0), (8, 8))
variables = model.init(jax.random.key(1), x)
print("plain", model.apply(variables, x).sum())
rules = [qwix.QuantizationRule(module_path=".*", weight_qtype=jnp.int8, act_qtype=jnp.int8)]
quantized = qwix.quantize_model(model, qwix.PtqProvider(rules))
shapes = jax.eval_shape(quantized.init, jax.random.key(1), x)["params"]
params = qwix.quantize_params(variables["params"], shapes)
print("quantized", quantized.apply({"params": params}, x).sum())
trained = qwix.quantize_model(model, qwix.QtProvider(rules))
gradients = jax.grad(lambda params: (trained.apply({"params": params}, x) ** 2).sum())(variables["params"])
print("gradients", [leaf.sum() for leaf in jax.tree.leaves(gradients)])
lora = qwix.apply_lora_to_model(model, qwix.LoraProvider(module_path=".*", rank=2, alpha=1.0))
tuned = lora.init(jax.random.key(1), x)
print("lora", sorted(tuned["params"]), lora.apply(tuned, x).sum())
