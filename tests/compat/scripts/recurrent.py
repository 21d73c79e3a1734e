# ruff: noqa: T201 - it is a program, and what it prints is compared
"""A recurrent model, a schedule, loss scaling, batches ahead of time, replicas, a cursor, and Orbax."""

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen.initializers as init
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax import jax_utils, struct
from flax import linen as nn
from flax.cursor import cursor
from flax.linen.attention import make_causal_mask
from flax.linen.dtypes import promote_dtype
from flax.training import common_utils, dynamic_scale, lr_schedule, orbax_utils, prefetch_iterator, train_state


class CharRNN(nn.Module):
    vocab: int
    hidden: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, ids, lengths):
        x = nn.Embed(self.vocab, self.hidden, dtype=self.dtype)(ids)
        fwd, bwd = nn.RNN(nn.OptimizedLSTMCell(self.hidden)), nn.RNN(nn.GRUCell(self.hidden))
        x = nn.Bidirectional(fwd, bwd)(x, seq_lengths=lengths)
        carry, x = nn.RNN(nn.LSTMCell(self.hidden), return_carry=True)(x)
        x = nn.MultiHeadDotProductAttention(2)(x, mask=make_causal_mask(ids))
        return nn.DenseGeneral((self.vocab,), kernel_init=init.xavier_normal())(x), carry


class ScanMLP(nn.Module):
    @nn.compact
    def __call__(self, x):
        @partial(nn.scan, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        def body(mdl, carry, _):
            return nn.tanh(nn.Dense(carry.shape[-1])(carry)), None

        x, _ = nn.remat(lambda m, x: body(m, x, None))(self, x)
        return x


model = CharRNN(7, 8)
ids = jnp.arange(12).reshape(2, 6) % 7
lengths = jnp.array([6, 3])
params = model.init(jax.random.key(0), ids, lengths)["params"]
print(jax.tree.map(jnp.shape, params))
print(jax.tree.map(jnp.shape, ScanMLP().init(jax.random.key(1), jnp.ones((2, 4)))))
schedule = lr_schedule.create_cosine_learning_rate_schedule(0.01, 10, 5, 1)
state = train_state.TrainState.create(apply_fn=model.apply, params=params, tx=optax.adam(schedule))
scale = dynamic_scale.DynamicScale(growth_interval=2)


def step(state, scale, ids):
    def loss_fn(params):
        logits, _ = state.apply_fn({"params": params}, ids, lengths)
        return optax.softmax_cross_entropy_with_integer_labels(logits, ids).mean()

    scale, finite, loss, grads = scale.value_and_grad(loss_fn)(state.params)
    return state.apply_gradients(grads=grads), scale, loss, finite


step = jax.jit(step)
for batch in prefetch_iterator.PrefetchIterator(iter([ids, ids + 1, ids])):
    state, scale, loss, finite = step(state, scale, batch % 7)
    print(int(state.step), f"{float(loss):.4f}", float(scale.scale), bool(finite))
replicated = jax_utils.replicate(state.params)
print(jax.tree.leaves(jax_utils.unreplicate(replicated))[0].shape)
print(common_utils.shard({"x": np.ones((8, 3))})["x"].shape)
ahead = jax_utils.prefetch_to_device(iter([np.ones((1, 2))]), 1, devices=jax.devices()[:1])
print([batch.shape for batch in ahead])
c = cursor(state.params)
built = c["Embed_0"]["embedding"].set(jnp.zeros(3))
print(type(built).__name__, jax.tree.map(jnp.shape, built["Embed_0"]))
with tempfile.TemporaryDirectory() as folder:
    checkpointer = ocp.PyTreeCheckpointer()
    target = {"model": state.params, "step": 3}
    checkpointer.save(Path(folder) / "a", target, save_args=orbax_utils.save_args_from_target(target))
    how = orbax_utils.restore_args_from_target(target, None)
    restored = checkpointer.restore(Path(folder) / "a", item=target, restore_args=how)
    print(jax.tree.all(jax.tree.map(lambda a, b: bool(np.all(np.asarray(a) == np.asarray(b))), target, restored)))


@struct.dataclass
class Config:
    widths: Sequence[int] = struct.field(pytree_node=False, default=(1, 2))
    act: Callable = struct.field(pytree_node=False, default=nn.relu)
    scale: jax.Array = struct.field(default_factory=lambda: jnp.ones(()))


class Node(struct.PyTreeNode):
    a: int
    b: Any = None


print(jax.tree.leaves(Config()), Config().replace(widths=(3,)).widths, Node(1).replace(b=2))
print(promote_dtype(jnp.ones(1), None, dtype=jnp.bfloat16)[0].dtype)
print(
    nn.dot_product_attention(*[jnp.ones((1, 2, 1, 4))] * 3).shape, nn.combine_masks(jnp.ones((1, 1, 2, 2)), None).shape
)
