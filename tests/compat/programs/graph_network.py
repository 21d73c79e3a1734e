"""A graph network (Battaglia et al., 2018): messages along edges, sums at nodes, a state shared by steps."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct


@struct.dataclass
class Graph:
    nodes: jax.Array
    edges: jax.Array
    globals_: jax.Array
    senders: jax.Array
    receivers: jax.Array


class MLP(nn.Module):
    feature_sizes: Sequence[int]
    dropout_rate: float = 0.0
    deterministic: bool = True
    activation: Callable[[jax.Array], jax.Array] = nn.relu

    @nn.compact
    def __call__(self, inputs):
        x = inputs
        for size in self.feature_sizes:
            x = nn.Dense(features=size)(x)
            x = self.activation(x)
            x = nn.Dropout(rate=self.dropout_rate, deterministic=self.deterministic)(x)
        return x


class GraphNet(nn.Module):
    latent_size: int
    num_mlp_layers: int
    message_passing_steps: int
    skip_connections: bool = True
    dropout_rate: float = 0.1
    deterministic: bool = True

    @nn.compact
    def __call__(self, graph):
        sizes = [self.latent_size] * self.num_mlp_layers
        embed = nn.Dense(self.latent_size, name="embed_nodes")
        graph = graph.replace(
            nodes=embed(graph.nodes),
            edges=nn.Dense(self.latent_size, name="embed_edges")(graph.edges),
            globals_=nn.Dense(self.latent_size)(graph.globals_),
        )
        for _ in range(self.message_passing_steps):
            update = {
                kind: MLP(sizes, dropout_rate=self.dropout_rate, deterministic=self.deterministic, name=None)
                for kind in ("edges", "nodes", "globals")
            }
            context = jnp.broadcast_to(graph.globals_, graph.edges.shape)
            ends = (graph.nodes[graph.senders], graph.nodes[graph.receivers])
            edges = update["edges"](jnp.concatenate([graph.edges, *ends, context], axis=-1))
            received = jax.ops.segment_sum(edges, graph.receivers, num_segments=graph.nodes.shape[0])
            context = jnp.broadcast_to(graph.globals_, graph.nodes.shape)
            nodes = update["nodes"](jnp.concatenate([graph.nodes, received, context], axis=-1))
            pooled = jnp.concatenate([nodes.mean(0), edges.mean(0), graph.globals_], axis=-1)
            new = graph.replace(nodes=nodes, edges=edges, globals_=update["globals"](pooled))
            if self.skip_connections:
                new = new.replace(nodes=new.nodes + graph.nodes, edges=new.edges + graph.edges)
            graph = new.replace(nodes=nn.LayerNorm()(new.nodes), edges=nn.LayerNorm()(new.edges))
        return graph.replace(globals_=nn.Dense(2, name="decode")(graph.globals_))


def build():
    keys = jax.random.split(jax.random.key(3), 2)
    graph = Graph(
        nodes=jax.random.normal(keys[0], (5, 3)),
        edges=jax.random.normal(keys[1], (7, 2)),
        globals_=jnp.ones(4),
        senders=jnp.array([0, 1, 2, 3, 4, 0, 2]),
        receivers=jnp.array([1, 2, 3, 4, 0, 3, 0]),
    )
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    return GraphNet(6, 2, 2, deterministic=False), (graph,), {}, False, rngs
