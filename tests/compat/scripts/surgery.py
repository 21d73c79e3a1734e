# ruff: noqa: T201 - it is a program, and what it prints is compared
"""Bytes, surgery on parameters, tables, bound modules, captured intermediates, and errors that are caught."""

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax import serialization, traverse_util
from flax.core import FrozenDict, freeze, unfreeze
from flax.core.frozen_dict import pretty_repr
from flax.errors import ScopeParamShapeError


class Block(nn.Module):
    features: int
    use_bias: bool = True

    def setup(self):
        self.norm = nn.LayerNorm()
        self.layers = [nn.Dense(self.features, use_bias=self.use_bias) for _ in range(2)]
        self.heads = {"a": nn.Dense(2), "b": nn.Dense(3)}

    def __call__(self, x):
        h = self.norm(x)
        for layer in self.layers:
            h = nn.gelu(layer(h))
        self.sow("intermediates", "h", h)
        return x + h, {k: head(h) for k, head in self.heads.items()}

    def encode(self, x):
        return self.norm(x)


class Net(nn.Module):
    depth: int = 2

    @nn.compact
    def __call__(self, ids, *, deterministic=True):
        x = nn.Embed(11, 8, name="embed")(ids)
        outs = []
        for i in range(self.depth):
            x, out = Block(8, name=f"block_{i}")(x)
            outs.append(out)
        x = nn.Dropout(0.1)(x, deterministic=deterministic)
        return x, outs


model = Net()
ids = jnp.arange(6).reshape(2, 3)
variables = model.init(jax.random.key(0), ids)
params = variables["params"]
print(type(variables).__name__, list(variables), model.depth)
print(pretty_repr(jax.tree.map(lambda a: a.shape, params))[:400])
print(freeze({"a": {"b": 1}}), unfreeze(freeze({"a": {"b": 1}})))
print(FrozenDict({"x": 1}).copy({"y": 2}), FrozenDict({"x": 1, "z": 3}).pop("x"))
table = nn.tabulate(model, jax.random.key(0), console_kwargs={"force_terminal": False, "width": 120})(ids)
print(all(name in table for name in ("block_0/layers_1", "Embed", "LayerNorm", "498", "2.0 KB")))
data = serialization.to_bytes(params)
print(len(data))
again = serialization.from_bytes(jax.tree.map(np.zeros_like, params), data)
print(jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), params, again)))
print(list(serialization.msgpack_restore(data))[:3], sorted(serialization.to_state_dict(optax.adam(1e-3).init(params))))
flat = traverse_util.flatten_dict(params, sep="/")
print(sorted(flat)[:6], len(flat))
mask = traverse_util.path_aware_map(lambda path, _: "frozen" if "embed" in path else "train", params)
tx = optax.multi_transform({"frozen": optax.set_to_zero(), "train": optax.sgd(0.1)}, mask)
grads = jax.tree.map(jnp.ones_like, params)
updates, _ = tx.update(grads, tx.init(params), params)
print({k: round(float(jnp.sum(v)), 3) for k, v in sorted(traverse_util.flatten_dict(updates, sep="/").items())[:4]})
decay = traverse_util.ModelParamTraversal(lambda path, _: path.endswith("kernel"))
print(sum(1 for _ in decay.iterate(params)))
out, state = model.apply(variables, ids, capture_intermediates=True, mutable=["intermediates"])
print(jax.tree.map(jnp.shape, state))
bound = model.bind(variables)
print(bound.variables["params"]["embed"]["embedding"].shape)
for method in (Block.encode, "encode"):
    print(Block(8).apply({"params": params["block_0"]}, jnp.ones((1, 8)), method=method).shape)
try:
    model.apply({"params": {**params, "embed": {"embedding": jnp.ones((3, 8))}}}, ids)
except ScopeParamShapeError as error:
    print("shape", type(error).__name__)
try:
    model.apply({"params": {k: v for k, v in params.items() if k != "block_0"}}, ids)
except flax.errors.ScopeParamNotFoundError as error:
    print("missing", type(error).__name__)
except flax.errors.ScopeCollectionNotFound as error:
    print("missing collection", type(error).__name__)
try:
    nn.Dropout(0.5, deterministic=False).apply({}, jnp.ones(3))
except flax.errors.InvalidRngError as error:
    print("rng", type(error).__name__)
try:
    model.depth = 3
except flax.errors.SetAttributeFrozenModuleError as error:
    print("frozen", type(error).__name__)
print(model.clone(depth=1).depth, model.copy(depth=3).depth, model == Net(2), hash(model) == hash(Net(2)))
print(jax.eval_shape(model.init, jax.random.key(0), ids)["params"]["embed"])
lifted = nn.vmap(nn.Dense, in_axes=0, out_axes=0, variable_axes={"params": 0}, split_rngs={"params": True})(3)
print(jax.tree.map(jnp.shape, lifted.init(jax.random.key(0), jnp.ones((4, 2)))))
print(f"{float(jnp.sum(out[0])):.4f} {float(optax.global_norm(params)):.4f}")
lazy = model.lazy_init(jax.random.key(0), jax.ShapeDtypeStruct((2, 3), jnp.int32))
print(lazy["params"]["embed"]["embedding"].shape)
