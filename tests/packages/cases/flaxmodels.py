"""flaxmodels: a residual network in training and in inference, and a save."""

import flax.serialization
import flaxmodels
import jax

model = flaxmodels.ResNet18(output="logits", pretrained=None, normalize=False, num_classes=10)
x = jax.random.uniform(jax.random.key(0), (2, 32, 32, 3))
variables = model.init(jax.random.key(1), x)
print("variables", sorted(variables), sum(leaf.size for leaf in jax.tree.leaves(variables)))
logits, updates = model.apply(variables, x, train=True, mutable=["batch_stats"])
print("train", logits.sum(), sum(abs(leaf).sum() for leaf in jax.tree.leaves(updates)))
print("test", model.apply({**variables, **updates}, x, train=False).sum())
print("bytes", len(flax.serialization.to_bytes(variables)))
