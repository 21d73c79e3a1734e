"""Random module trees: with `keep_name=True` a lifted class has the paths that it has without the transform.

Without it the trees have the paths, the first values and the results that they have in Linen.
"""

import dataclasses
import functools
from typing import Any

import flax.linen
import hypothesis
import jax
import jax.numpy as jnp
import pytest
from hypothesis import strategies

from batiste import nn
from tests.lift.support import KEYS, QUICKLY, row
from tests.nn.oracle import assert_same, cheap_initializer

X = jnp.ones((2,) * 6)
"""Each `vmap` takes one axis off; the last is the layers' own."""


def transforms(nn: Any) -> dict[str, Any]:
    """Return transforms of a class with two arguments, of which the second is None."""
    stacked = {"variable_axes": {"params": 0, "state": 0}, "split_rngs": {"params": True}}
    return {
        "vmap": functools.partial(nn.vmap, in_axes=(0, None), **stacked),
        "scan": functools.partial(nn.scan, length=2, **stacked),
        "remat": nn.remat,
        "jit": nn.jit,
        "map_variables": functools.partial(nn.map_variables, mapped_collections="params", init=True),
        "fold_rngs": nn.fold_rngs,
        "add_metadata_axis": functools.partial(nn.add_metadata_axis, variable_axes={"params": 0}),
    }


TRANSFORMS = transforms(nn)


@dataclasses.dataclass(frozen=True)
class Tree:
    """A module tree: what the class is called, how it holds its children, and how it is lifted."""

    name: str
    style: str
    transforms: tuple[str, ...]
    is_named: bool
    children: tuple["Tree", ...]

    def __str__(self):
        return f"{self.name}:{self.style}{list(self.transforms)}({', '.join(map(str, self.children))})"


def trees(names: Any = tuple(TRANSFORMS)) -> Any:
    def node(children: Any) -> Any:
        return strategies.builds(
            Tree,
            strategies.sampled_from(["A", "B", "Layer"]),
            strategies.sampled_from(["compact", "list", "attributes", "fields"]),
            strategies.lists(strategies.sampled_from(names), max_size=2).map(tuple),
            strategies.booleans(),
            children,
        )

    def nodes(inner: Any) -> Any:
        return node(strategies.lists(inner, max_size=3).map(tuple))

    return strategies.recursive(node(strategies.just(())), nodes, max_leaves=10).filter(lambda tree: _vmaps(tree) < 6)


def _vmaps(tree: Tree) -> int:
    return tree.transforms.count("vmap") + max(map(_vmaps, tree.children), default=0)


def maker(tree: Tree, nn: Any, lift: Any, place: str = "given") -> Any:
    """Return a function that makes the module, given its name.

    Args:
      tree: what is made.
      nn: of which library.
      lift: called with a transform's name and a class.
      place: how given names of children begin.
    """
    places = [f"{place}_{number}" for number in range(len(tree.children))]
    makers = [
        functools.partial(maker(child, nn, lift, name), name=name if child.is_named else None)
        for name, child in zip(places, tree.children, strict=True)
    ]

    def run(module: Any, x: Any, parts: Any) -> Any:
        shift = module.variable("state", "shift", jnp.zeros, (2,))
        x = jnp.tanh(x * row(module.param("scale", cheap_initializer, (2,)), x) + row(shift.value, x))
        for part in parts:
            x, _ = part(x, None)
        return x, None

    class Compact(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return run(self, x, [make() for make in makers])

    class List(nn.Module):
        def setup(self):
            self.parts = [make(name=None) for make in makers]

        @nn.compact
        def __call__(self, x, _):
            return run(self, x, self.parts)

    class Attributes(nn.Module):
        def setup(self):
            for number, make in enumerate(makers):
                setattr(self, f"part_{number}", make(name=None))

        @nn.compact
        def __call__(self, x, _):
            return run(self, x, [getattr(self, f"part_{number}") for number in range(len(makers))])

    class Fields(nn.Module):
        parts: Any = ()

        @nn.compact
        def __call__(self, x, _):
            return run(self, x, self.parts)

    kind: Any = {"compact": Compact, "list": List, "attributes": Attributes, "fields": Fields}[tree.style]
    kind.__name__ = kind.__qualname__ = tree.name
    for name in tree.transforms:
        kind = lift(name, kind)

    def make(name: str | None = None) -> Any:
        fields = {"parts": tuple(each() for each in makers)} if tree.style == "fields" else {}
        return kind(name=name, **fields)

    return make


def model_of(tree: Tree, nn: Any, lift: Any) -> Any:
    class Top(nn.Module):
        @nn.compact
        def __call__(self, x):
            return maker(tree, nn, lift)()(x, None)[0]

    return Top()


def shapes(tree: Tree, lift: Any) -> tuple[dict[str, Any], Any]:
    model = model_of(tree, nn, lift)
    variables = jax.eval_shape(model.init, KEYS, X)
    output = jax.eval_shape(model.apply, variables, X)
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}, output


@hypothesis.settings(max_examples=40, report_multiple_bugs=False)
@hypothesis.given(trees())
def test_paths_are_the_same_with_and_without_transforms(tree):
    plain, output = shapes(tree, lambda _, kind: kind)
    lifted, lifted_output = shapes(tree, lambda name, kind: TRANSFORMS[name](kind, keep_name=True))
    assert list(plain) == list(lifted)
    assert output == lifted_output
    for path, leaf in plain.items():  # what transforms add comes in front
        assert lifted[path].shape[lifted[path].ndim - leaf.ndim :] == leaf.shape
        assert lifted[path].dtype == leaf.dtype


@hypothesis.settings(max_examples=12, report_multiple_bugs=False)
@hypothesis.given(trees())
def test_random_trees_are_as_in_flax(tree):
    def run(x: Any) -> Any:
        results: list[Any] = []
        for library in (nn, flax.linen):
            known = transforms(library)
            model = model_of(tree, library, lambda name, kind, known=known: known[name](kind))
            output, variables = model.init_with_output(KEYS, x)
            results.append((variables, output, model.apply(variables, x * 2)))
        return results

    ours, theirs = jax.jit(run, compiler_options=QUICKLY)(X)
    assert_same(ours[0], theirs[0])
    assert_same(ours[1:], theirs[1:], exact=False)


@pytest.mark.parametrize("name", [*TRANSFORMS, "remat_scan"])
def test_a_kept_name_and_one_as_in_flax(name):
    def lift(library: Any, **options: Any) -> Any:
        known = {**transforms(library), "remat_scan": functools.partial(library.remat_scan, lengths=(2,))}
        return known[name](library.Dense, **options).__name__

    assert lift(nn, keep_name=True) == "Dense"
    assert lift(nn) == lift(flax.linen)
