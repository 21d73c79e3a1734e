"""Random trees of modules: both libraries make the same variables, keys and results of them.

A tree is drawn as plain data and built in either library: how each node makes its children (in a compact method, in
``setup``, from a field), how often it calls them, which variables it has itself, and whether a child is shared.
"""

import dataclasses
from typing import Any

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings

from tests.module.libraries import same

X = jnp.linspace(-1.0, 1.0, 6).reshape(2, 3)
KEYS = {"params": jax.random.key(0), "noise": jax.random.key(1)}


@dataclasses.dataclass(frozen=True)
class Node:
    """A module of the tree.

    Attributes:
      style: how it makes its children.
      container: what holds them where they are attributes.
      children: the nodes below it, with the name that each is given, or None.
      calls: how often it calls each child.
      parameter: whether it has a parameter of its own, before, after or not at all.
      noise: whether it draws keys.
      counter: whether it has a variable that it changes.
    """

    style: str
    container: str
    children: tuple[tuple["Node", str | None], ...]
    calls: int
    parameter: str
    noise: bool
    counter: bool


def nodes(children: Any) -> Any:
    """Return a strategy for nodes whose children come from the strategy ``children``."""
    return st.builds(
        Node,
        style=st.sampled_from(["compact", "setup", "field", "shared"]),
        container=st.sampled_from(["list", "tuple", "dict", "nested"]),
        children=children,
        calls=st.integers(1, 2),
        parameter=st.sampled_from(["none", "before", "after"]),
        noise=st.booleans(),
        counter=st.booleans(),
    )


def named(children: Any) -> Any:
    """Return a strategy for children with names, where they have one, of their own."""
    names = st.permutations([None, None, "left", "right"])
    return st.tuples(st.lists(children, min_size=1, max_size=3), names).map(
        lambda drawn: tuple(zip(drawn[0], drawn[1], strict=False))
    )


trees = st.recursive(nodes(st.just(())), lambda children: nodes(named(children)), max_leaves=5)


def held(container: str, modules: list[Any]) -> Any:
    """Return modules in a container of a kind."""
    if container == "dict":
        return {f"k{index}": module for index, module in enumerate(modules)}
    if container == "nested":
        return {"all": (modules[:1], {"rest": modules[1:]})}
    return tuple(modules) if container == "tuple" else modules


def listed(container: str, value: Any) -> list[Any]:
    """Return the modules that ``held`` put in a container."""
    if container == "dict":
        return list(value.values())
    if container == "nested":
        first, rest = value["all"]
        return [*first, *rest["rest"]]
    return list(value)


def build(nn: Any, node: Node, name: str | None, **parent: Any) -> Any:
    """Return the module of a node."""

    class Tree(nn.Module):
        below: Any = None

        def setup(self):
            if node.style == "setup":
                self.layers = held(node.container, [build(nn, child, given) for child, given in node.children])

        @nn.compact
        def __call__(self, x):
            if node.parameter == "before":
                x = x * self.param("scale", jax.nn.initializers.uniform(), (1, 3))
            if node.counter:
                count = self.variable("state", "count", lambda: jnp.zeros(()))
                count.value += x.sum()
            if node.style == "setup":
                layers = listed(node.container, self.layers)
            elif node.style == "compact":
                layers = [build(nn, child, given) for child, given in node.children]
            else:
                layers = listed(node.container, self.below)
            for layer in layers:
                for _ in range(node.calls):
                    x = jnp.tanh(x) + layer(x)
            if node.noise:
                x = x + jax.random.uniform(self.make_rng("noise"), (1, 3))
                x = x + jax.random.uniform(self.make_rng("params"), (1, 3))
            if node.parameter == "after":
                x = x + self.param("bias", jax.nn.initializers.uniform(), (1, 3))
            return x

    below = None
    if node.style in {"field", "shared"}:
        modules = [build(nn, child, given, parent=None) for child, given in node.children]
        if node.style == "shared":
            modules = modules + modules[:1]
        below = held(node.container, modules)
    return Tree(below, name=name, **parent)


@pytest.mark.filterwarnings("ignore::batiste.errors.AdoptedNameWarning")  # Linen says nothing
@settings(max_examples=15)
@given(trees)
def test_trees_are_linens(tree):
    def program(nn):
        model = build(nn, tree, None)
        output, variables = model.init_with_output(KEYS, X)
        made = model.init(KEYS, X)
        applied = model.apply(variables, X, rngs=KEYS, mutable=["state"], capture_intermediates=True)
        paths = {path: module.name for path, module in model.module_paths(KEYS, X).items()}
        return variables, output, jax.tree.structure(made) == jax.tree.structure(variables), applied, paths

    same(program)
