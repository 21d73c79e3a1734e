"""gemma: a small transformer of its, a gradient, and a save."""

import flax.serialization
import jax
import jax.numpy as jnp
from gemma import gm
from gemma.gm.nn import _config, _modules

config = _config.TransformerConfig(
    num_embed=32,
    embed_dim=16,
    hidden_dim=32,
    num_heads=2,
    head_dim=8,
    num_kv_heads=1,
    final_logit_softcap=None,
    use_post_attn_norm=True,
    use_post_ffw_norm=True,
    attention_types=[_modules.AttentionType.GLOBAL, _modules.AttentionType.LOCAL_SLIDING],
    sliding_window_size=4,
)


class Small(gm.nn.Transformer):
    config: _config.TransformerConfig = config


model = Small(dtype=jnp.float32)
tokens = jnp.arange(2, 10)[None]
variables = model.init(jax.random.key(0), tokens)
print("logits", model.apply(variables, tokens).logits.sum())


def loss(params):
    logits = model.apply({"params": params}, tokens).logits
    return -jax.nn.log_softmax(logits)[0, jnp.arange(7), tokens[0, 1:]].mean()


value, gradients = jax.value_and_grad(loss)(variables["params"])
print("loss", value, "gradient", sum(abs(leaf).sum() for leaf in jax.tree.leaves(gradients)))
print("bytes", len(flax.serialization.to_bytes(variables)))
