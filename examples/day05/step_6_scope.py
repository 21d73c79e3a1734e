"""Step 6: the invisible cursor. A scope written from nothing in forty lines, beside the real one.

Run it: python -m examples.day05.step_6_scope
"""

import hashlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from batiste import core, nn


class Scope:
    """A cursor over nested variables: where it stands, what it may make, and the key of its stream."""

    def __init__(self, variables: dict[str, Any], key: jax.Array | None = None, path: tuple[str, ...] = ()) -> None:
        self.variables = variables
        self.key = key  # a scope with a key fills the dict; one without only reads
        self.path = path
        self.draws = 0
        self.names: set[str] = set()

    def push(self, name: str) -> "Scope":
        self.reserve(name)
        return Scope(self.variables, self.key, (*self.path, name))

    def reserve(self, name: str) -> None:
        if name in self.names:
            message = f"{name!r} is taken at /{'/'.join(self.path)}"
            raise ValueError(message)
        self.names.add(name)

    def place(self, collection: str) -> dict[str, Any]:
        node = self.variables
        for name in (collection, *self.path):
            node = node.setdefault(name, {}) if self.key is not None else node[name]
        return node

    def make_rng(self) -> jax.Array:
        self.draws += 1
        text = "".join(self.path).encode() + bytes([self.draws])  # the place, and which draw it is
        number = int.from_bytes(hashlib.sha1(text, usedforsecurity=False).digest()[:4], "big")
        return jax.random.fold_in(self.key, jnp.uint32(number))

    def param(self, name: str, init_fn: Callable[..., jax.Array], *args: Any) -> jax.Array:
        self.reserve(name)
        place = self.place("params")
        if name not in place:
            place[name] = init_fn(self.make_rng(), *args)
        return place[name]


def dense(scope: Any, x: jax.Array, features: int) -> jax.Array:
    kernel = scope.param("kernel", nn.initializers.lecun_normal(), (x.shape[-1], features))
    bias = scope.param("bias", nn.initializers.zeros_init(), (features,))
    return x @ kernel + bias


def mlp(scope: Any, x: jax.Array) -> jax.Array:
    x = nn.relu(dense(scope.push("hidden"), x, 16))
    return dense(scope.push("head"), x, 1)


class MLP(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(nn.Dense(16, name="hidden")(x))
        return nn.Dense(1, name="head")(x)


def same(one: Any, two: Any) -> bool:
    equal = jax.tree.structure(one) == jax.tree.structure(two)
    return equal and all(map(bool, jax.tree.leaves(jax.tree.map(jnp.array_equal, one, two))))


def main() -> None:
    x = jax.random.normal(jax.random.key(1), (4, 2))
    key = jax.random.key(0)

    ours: dict[str, Any] = {}
    y = mlp(Scope(ours, key), x)
    print("Our scope, filled on the way:", jax.tree.map(jnp.shape, ours))

    y_real, real = core.init(mlp)(key, x)
    print("The real scope, the same function: the same tree, the same bits:", same(ours, real) and same(y, y_real))
    print("A module is such a function, with its scope held for it:", same(ours, MLP().init(key, x)))
    print("On apply the same code reads what it made:", same(mlp(Scope(ours), x), core.apply(mlp)(real, x)))

    try:
        scope = Scope({}, key)
        scope.push("hidden")
        scope.push("hidden")
    except ValueError as error:
        print("A name is given once:", error)


if __name__ == "__main__":
    main()
