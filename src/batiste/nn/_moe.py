"""A mixture of experts: many MLPs of which each token uses a few, chosen by a router.

Every token chooses its experts (token-choice routing). They then work in one of two forms. With a *capacity* each
expert has room for so many tokens, and one that comes too late passes by it (GShard, https://arxiv.org/abs/2006.16668);
shapes do not depend on the choices, so experts can lie on different devices. *Dropless*, tokens are sorted by expert
and every one is served, by a product over groups of rows (MegaBlocks, https://arxiv.org/abs/2211.15841); JAX has no
``vmap`` of such a product over groups that differ.

The losses that keep the router in balance are sown into the collection ``losses``: a training step adds them to its
own.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from batiste._arguments import array, function, number, whole_number
from batiste.core import lies_as, lies_whole
from batiste.dtypes import cast
from batiste.errors import InputRankError
from batiste.module import Module, compact
from batiste.nn._activations import silu
from batiste.nn._initializers import variance_scaling
from batiste.nn._linear import Dense
from batiste.typing import Array, DTypeLike, Initializer

__all__ = ["MoE"]

# An expert's kernel is [experts, in, out]: its fan does not count the experts.
_kernel_init = variance_scaling(1.0, "fan_in", "truncated_normal", batch_axis=(0,))


class _Experts(Module):
    """The gated MLPs of all experts, for tokens sorted by expert or for the same number of tokens each."""

    num_experts: int
    hidden_features: int
    activation: Callable[[Array], Array]
    dtype: DTypeLike | None
    param_dtype: DTypeLike
    kernel_init: Initializer

    @compact
    def __call__(self, inputs: Array, sizes: Array | None = None) -> Array:
        """Return the outputs of ``[experts, tokens, features]``; with ``sizes`` of ``[tokens, features]`` in groups."""
        features = inputs.shape[-1]
        wide, narrow = (features, self.hidden_features), (self.hidden_features, features)
        kernels = [
            self.param(name, self.kernel_init, (self.num_experts, *shape), self.param_dtype).astype(inputs.dtype)
            for name, shape in (("gate", wide), ("up", wide), ("down", narrow))
        ]

        def product(rows: Array, kernel: Array) -> Array:
            if sizes is None:
                return lax.dot_general(rows, kernel, (((2,), (1,)), ((0,), (0,))))
            return lax.ragged_dot(rows, kernel, sizes)

        gate, up, down = map(lies_whole, kernels)
        return product(self.activation(product(inputs, gate)) * product(inputs, up), down)


class MoE(Module):
    """A mixture of experts in the place of an MLP; each expert is gated: ``down(activation(gate(x)) * up(x))``.

    Besides its output it sows two numbers into the collection ``losses``, where that is mutable: ``load_balance``,
    which is 1 where all experts get as many tokens (Switch Transformer, https://arxiv.org/abs/2101.03961, equation 4),
    and ``router_z``, the mean square of the router's log-sum-exp (ST-MoE, https://arxiv.org/abs/2202.08906, equation
    5).

    On a mesh with Explicit axes tokens and experts are gathered, and every device serves all of them: for experts in
    parallel the axes are Auto ones.

    >>> import jax
    >>> import jax.numpy as jnp
    >>> from batiste import nn
    >>> layer, x = nn.MoE(num_experts=4, hidden_features=8), jnp.ones((2, 3, 5))
    >>> layer.apply(layer.init(jax.random.key(0), x), x).shape
    (2, 3, 5)

    Attributes:
      num_experts: how many experts there are.
      hidden_features: the features inside of an expert.
      top_k: how many experts a token uses.
      capacity_factor: how many times its even share an expert has room for; None serves every token.
      normalize: whether the weights of a token's experts sum to one.
      activation: what the gate goes through.
      dtype: what experts compute in; None takes that of the input. The router computes in float32.
      param_dtype: the element type of the parameters.
      kernel_init: draws the experts' kernels, ``[experts, in, out]``.
      router_init: draws the router's kernel, ``[features, experts]``.
    """

    num_experts: int
    hidden_features: int
    top_k: int = 2
    capacity_factor: float | None = 1.25
    normalize: bool = True
    activation: Callable[[Array], Array] = silu
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    kernel_init: Initializer = _kernel_init
    router_init: Initializer = variance_scaling(1.0, "fan_in", "truncated_normal")

    @compact
    def __call__(self, inputs: Array) -> Array:
        """Send every token through its experts.

        Args:
          inputs: ``[batch..., features]``.

        Returns:
          ``[batch..., features]``; zeros for a token that none of its experts has room for.

        Raises:
          ArgumentError: a size or ``capacity_factor`` is no number of its kind, or the input is no array.
          InputRankError: the input has no axes.
        """
        inputs = jnp.asarray(array(inputs, "inputs", self))
        if inputs.ndim < 1:
            raise InputRankError(path=self.path, shape=inputs.shape, expected="at least one axis, [batch..., features]")
        experts = whole_number(self.num_experts, "num_experts", self, low=1)
        top_k = whole_number(self.top_k, "top_k", self, low=1, high=experts)
        function(self.activation, "activation", self)
        rows = lies_whole(inputs).reshape(-1, inputs.shape[-1])
        rows = rows if self.dtype is None else cast(rows, self.dtype)
        router = Dense(
            experts, use_bias=False, dtype=jnp.float32, param_dtype=self.param_dtype, kernel_init=self.router_init,
            name="router",
        )  # fmt: skip
        logits = lies_whole(router(rows))
        weights, chosen = lax.top_k(jax.nn.softmax(logits, axis=-1), top_k)
        if self.normalize:
            weights = weights / weights.sum(-1, keepdims=True)
        self._sow_losses(logits, chosen)
        blocks = _Experts(
            experts,
            whole_number(self.hidden_features, "hidden_features", self, low=1),
            self.activation,
            self.dtype,
            self.param_dtype,
            self.kernel_init,
            name="experts",
        )
        if self.capacity_factor is None:
            outputs = _dropless(blocks, rows, chosen, experts)
        else:
            factor = number(self.capacity_factor, "capacity_factor", self, above=0)
            room = max(1, math.ceil(factor * len(rows) * top_k / experts))
            outputs = _with_capacity(blocks, rows, chosen, experts, min(room, len(rows)))
        mixed = jnp.einsum("tkf,tk->tf", outputs, weights.astype(outputs.dtype))
        return lies_as(mixed.astype(rows.dtype).reshape(inputs.shape), inputs)

    def _sow_losses(self, logits: Array, chosen: Array) -> None:
        if self.is_initializing():
            return  # a state that kept them would grow with every step
        experts = logits.shape[-1]
        served = jax.nn.one_hot(chosen, experts, dtype=logits.dtype).mean((0, 1))
        likely = jax.nn.softmax(logits, axis=-1).mean(0)
        self.sow("losses", "load_balance", experts * jnp.sum(served * likely))
        self.sow("losses", "router_z", jnp.mean(jnp.square(jax.nn.logsumexp(logits, axis=-1))))


def _dropless(blocks: _Experts, rows: Array, chosen: Array, experts: int) -> Array:
    """Return what each token's experts make of it, ``[tokens, top_k, features]``: rows sorted by expert, and back."""
    flat = chosen.reshape(-1)
    order = jnp.argsort(flat, stable=True)
    sizes = jax.nn.one_hot(flat, experts, dtype=jnp.int32).sum(0)
    made = blocks(rows[order // chosen.shape[-1]], sizes)
    return made[jnp.argsort(order)].reshape(*chosen.shape, rows.shape[-1])


def _with_capacity(blocks: _Experts, rows: Array, chosen: Array, experts: int, room: int) -> Array:
    """Return the same, with zeros where an expert has no room: first choices are seated before second ones."""
    tokens, top_k = chosen.shape
    flat = chosen.T.reshape(-1)  # all first choices, then all second ones
    hits = jax.nn.one_hot(flat, experts, dtype=jnp.int32)
    seat = jnp.take_along_axis(jnp.cumsum(hits, 0) - 1, flat[:, None], 1)[:, 0]
    who = jnp.tile(jnp.arange(tokens), top_k)
    seats = jnp.zeros((experts, room, rows.shape[-1]), rows.dtype)
    seats = seats.at[flat, seat].set(rows[who], mode="drop", unique_indices=True)
    made = blocks(seats).at[flat, seat].get(mode="fill", fill_value=0)
    return made.reshape(top_k, tokens, rows.shape[-1]).swapaxes(0, 1)
