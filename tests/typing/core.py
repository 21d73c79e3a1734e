"""The core alone: variables have the type of their initialiser's result, filters and keys are checked."""

from typing import Any, assert_type

import jax
import jax.numpy as jnp

from batiste import core
from batiste.core import Scope, Variable


def function(scope: Scope, x: jax.Array) -> jax.Array:
    """A function of a scope."""
    assert_type(scope.push("a"), Scope)
    assert_type(scope.make_rng("dropout"), jax.Array)
    assert_type(scope.path, tuple[str, ...])
    assert_type(scope.is_mutable_collection("state"), bool)
    scope.push(3)  # pyright: ignore[reportArgumentType]
    return x


filters: list[core.CollectionFilter] = [True, "params", ["a"], ("a", "b"), {"a"}, core.DenyList(["a"])]
wrong: core.CollectionFilter = 3  # pyright: ignore[reportAssignmentType]
assert_type(core.in_filter(filters[0], "params"), bool)

core.apply(function, mutable=["state"])
core.apply(function, key_scheme="separated")
core.apply(function, key_scheme="separate")  # pyright: ignore[reportArgumentType]


def variables(scope: Scope) -> None:
    """A variable is what its initialiser returns."""
    held: Variable[jax.Array] = scope.variable("state", "a", lambda: jnp.zeros(2))
    assert_type(held.value, jax.Array)
    held.value = "text"  # pyright: ignore[reportAttributeAccessIssue]
    held.value = jnp.ones(2)
    _, made = core.init(function)(jax.random.key(0), jnp.ones(2))
    assert_type(made, dict[str, Any])
