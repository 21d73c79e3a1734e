"""BERT (Devlin et al., 2018) in the manner of the transformers library: nested `setup`, attribute tables, two heads."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.core.frozen_dict import FrozenDict, freeze
from flax.linen.attention import dot_product_attention_weights

CONFIG = freeze({"vocab": 29, "hidden": 16, "heads": 4, "layers": 2, "positions": 12, "types": 2, "std": 0.02})


class BertEmbeddings(nn.Module):
    config: FrozenDict

    def setup(self):
        init = jax.nn.initializers.normal(stddev=self.config["std"])
        self.word_embeddings = nn.Embed(self.config["vocab"], self.config["hidden"], embedding_init=init)
        self.position_embeddings = nn.Embed(self.config["positions"], self.config["hidden"], embedding_init=init)
        self.token_type_embeddings = nn.Embed(self.config["types"], self.config["hidden"], embedding_init=init)
        self.LayerNorm = nn.LayerNorm(epsilon=1e-12)
        self.dropout = nn.Dropout(rate=0.1)

    def __call__(self, input_ids, token_type_ids, position_ids, deterministic: bool = True):
        embeds = self.word_embeddings(input_ids.astype("i4"))
        embeds = embeds + self.token_type_embeddings(token_type_ids) + self.position_embeddings(position_ids)
        return self.dropout(self.LayerNorm(embeds), deterministic=deterministic)


class BertSelfAttention(nn.Module):
    config: FrozenDict

    def setup(self):
        init = jax.nn.initializers.normal(self.config["std"])
        self.query = nn.Dense(self.config["hidden"], kernel_init=init)
        self.key = nn.Dense(self.config["hidden"], kernel_init=init)
        self.value = nn.Dense(self.config["hidden"], kernel_init=init)

    def _split_heads(self, x):
        return x.reshape((*x.shape[:2], self.config["heads"], -1))

    def __call__(self, hidden, attention_mask, deterministic=True):
        query, key, value = map(self._split_heads, (self.query(hidden), self.key(hidden), self.value(hidden)))
        bias = jnp.where(attention_mask[:, None, None] > 0, 0.0, jnp.finfo(hidden.dtype).min)
        dropout_rng = None if deterministic else self.make_rng("dropout")
        weights = dot_product_attention_weights(
            query,
            key,
            bias=bias,
            dropout_rng=dropout_rng,
            dropout_rate=0.1,
            broadcast_dropout=True,
            deterministic=deterministic,
        )
        output = jnp.einsum("...hqk,...khd->...qhd", weights, value)
        self.sow("intermediates", "attention_weights", weights)
        return output.reshape((*output.shape[:2], -1))


class BertLayer(nn.Module):
    config: FrozenDict

    def setup(self):
        self.attention = BertSelfAttention(self.config)
        self.output_dense = nn.Dense(self.config["hidden"])
        self.norms = [nn.LayerNorm(epsilon=1e-12), nn.LayerNorm(epsilon=1e-12)]
        self.feed_forward = {"up": nn.Dense(32), "down": nn.Dense(self.config["hidden"])}
        self.dropout = nn.Dropout(0.1)

    def __call__(self, hidden, attention_mask, deterministic: bool = True):
        attended = self.attention(hidden, attention_mask, deterministic=deterministic)
        attended = self.dropout(self.output_dense(attended), deterministic=deterministic)
        hidden = self.norms[0](attended + hidden)
        inner = nn.gelu(self.feed_forward["up"](hidden), approximate=False)
        inner = self.dropout(self.feed_forward["down"](inner), deterministic=deterministic)
        return self.norms[1](inner + hidden)


class BertForPreTraining(nn.Module):
    config: FrozenDict

    def setup(self):
        self.embeddings = BertEmbeddings(self.config)
        self.layers = [BertLayer(self.config, name=str(i)) for i in range(self.config["layers"])]
        self.pooler = nn.Dense(self.config["hidden"])
        self.transform = nn.Sequential([nn.Dense(self.config["hidden"]), nn.gelu, nn.LayerNorm()])
        self.bias = self.param("bias", nn.initializers.zeros, (self.config["vocab"],))
        self.seq_relationship = nn.Dense(2)

    def __call__(self, input_ids, attention_mask, deterministic: bool = True):
        types = jnp.zeros_like(input_ids)
        positions = jnp.broadcast_to(jnp.arange(input_ids.shape[-1]), input_ids.shape)
        hidden = self.embeddings(input_ids, types, positions, deterministic=deterministic)
        for layer in self.layers:
            hidden = layer(hidden, attention_mask, deterministic=deterministic)
        pooled = nn.tanh(self.pooler(hidden[:, 0]))
        shared = self.embeddings.variables["params"]["word_embeddings"]["embedding"]
        logits = self.transform(hidden) @ shared.T + self.bias
        return {"prediction_logits": logits, "seq_relationship_logits": self.seq_relationship(pooled)}


def build():
    tokens = jax.random.randint(jax.random.key(3), (2, 7), 0, CONFIG["vocab"])
    mask = jnp.arange(7)[None] < jnp.array([[7], [5]])
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    return BertForPreTraining(CONFIG), (tokens, mask), {"deterministic": False}, ["intermediates"], rngs
