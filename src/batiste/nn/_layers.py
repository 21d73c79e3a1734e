"""How the layers of a ``Repeat`` are stored, and what lies in each of them.

Each layer by itself (``h_0``, ``h_1``, ..., as a loop over blocks has them in Flax, with the same initial values), or
all layers stacked (``h``, with a leading layer axis). The variables that are given decide, for each collection;
``batiste.tree.stack_layers`` and ``unstack_layers`` turn one into the other. ``init`` makes layers.

Where layers follow a pattern of several blocks, those at one *place* of the pattern are alike; a loop runs over them
stacked with each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, cast

import jax
import jax.numpy as jnp

from batiste.core import Scope, add_axis, remove_axis, stack, unstack
from batiste.errors import RepeatLayersError
from batiste.module import Place
from batiste.shard import PARTITION_NAME

__all__ = ["Layers", "entry", "every", "interleaved"]

Stored: TypeAlias = dict[str, Any]
"""By collection the variables at one place of the pattern: a list of layers, or a tree with a leading axis."""


class Layers:
    """The variables of the layers of one call.

    Attributes:
      scope: the scope that the layers lie in.
      names: the names of the layers.
      period: the length of the pattern.
    """

    def __init__(self, scope: Scope, stack_name: str, names: Sequence[str], period: int) -> None:
        self.scope, self.names, self.period = scope, names, period
        self._stack_name, self._is_stacked = stack_name, dict[str, bool]()
        self._places: list[Stored] = [{} for _ in range(period)]

    def numbers(self, place: int) -> range:
        """Return the numbers of the layers at one place of the pattern."""
        return range(place, len(self.names), self.period)

    def read(self) -> None:
        """Take the variables out of the scope.

        Raises:
          RepeatLayersError: if the layers' variables differ in structure or shape, or some layers are missing.
        """
        for collection, node in self.scope.variables_in(True).items():
            self._is_stacked[collection] = self._stack_name in node
            if self._stack_name in node:
                stacked = remove_axis(node[self._stack_name], 0, {PARTITION_NAME: None})
                self._check_stacked(collection, stacked)
                for place, stored in enumerate(self._places):
                    stored[collection] = every(stacked, place, self.period)
                continue
            for place, stored in enumerate(self._places):
                layers = [node.get(self.names[number]) for number in self.numbers(place)]
                if any(layer is not None for layer in layers):
                    self._check_equal(collection, place, layers)
                    stored[collection] = layers

    def separate(self) -> None:
        """Take what is stacked apart, once for all layers."""
        for place, stored in enumerate(self._places):
            for name, layers in stored.items():
                stored[name] = layers if isinstance(layers, list) else unstack(layers, len(self.numbers(place)))

    def one(self, number: int) -> dict[str, Any]:
        """Return the variables of one layer, by collection."""
        stored, turn = self._places[number % self.period], number // self.period
        return {c: layers[turn] if isinstance(layers, list) else entry(layers, turn) for c, layers in stored.items()}

    def stacked(self, place: int) -> dict[str, Any]:
        """Return the variables of the layers at one place of the pattern, with a leading axis."""
        stored = self._places[place].items()
        return {c: stack(cast("list[Any]", held)) if isinstance(held, list) else held for c, held in stored}

    def publish(self, written: Sequence[Mapping[Place, Any]], *, is_stacked: bool) -> None:
        """Store what the layers wrote, the way that their collections are stored: a new one as the parameters are.

        Args:
          written: variables by place within a layer, for each layer, or if ``is_stacked`` for each place of the pattern
            with a leading axis.
          is_stacked: which of the two.

        Raises:
          RepeatLayersError: if not all layers wrote a variable that is stored stacked.
        """
        found: dict[Place, dict[int, Any]] = {}
        for index, values in enumerate(written):
            for place, value in values.items():
                found.setdefault(place, {})[index] = value
        for place, values in found.items():
            collection, *rest = place
            if self._is_stacked.get(collection, self._is_stacked.get("params", False)):
                if len(values) != len(written):
                    count = len(values) * (len(self.names) // len(written))
                    problem = f"{self._text(collection, self._stack_name, rest)} is written by {count} layers"
                    self._refuse(f"{problem} of {len(self.names)}")
                parts = list(values.values())
                whole = jax.tree.map(interleaved, *parts) if is_stacked else stack(parts)
                self._put(collection, self._stack_name, rest, add_axis(whole, 0, {PARTITION_NAME: None}))
                continue
            for index, value in values.items():
                numbers = self.numbers(index) if is_stacked else [index]
                entries = unstack(value, len(numbers)) if is_stacked else [value]
                for number, each in zip(numbers, entries, strict=True):
                    self._put(collection, self.names[number], rest, each)

    def _put(self, collection: str, name: str, rest: Sequence[str], value: Any) -> None:
        self.scope.publish({(collection, *self.scope.path, name, *rest): value})

    def _check_stacked(self, collection: str, tree: Any) -> None:
        for path, leaf in _by_path(tree).items():
            if jnp.ndim(leaf) == 0 or jnp.shape(leaf)[0] != len(self.names):
                place = self._text(collection, self._stack_name, path)
                shape = jnp.shape(leaf)
                self._refuse(f"{place} has shape {shape} in place of a leading axis of {len(self.names)} layers")

    def _check_equal(self, collection: str, place: int, layers: list[Any]) -> None:
        """Raise ``RepeatLayersError`` unless layers have the same paths and shapes."""
        numbers, first = list(self.numbers(place)), _by_path(layers[0])
        for number, layer in zip(numbers, layers, strict=True):
            found = _by_path(layer)
            for path in [*first, *found]:
                if path in first and path in found and jnp.shape(first[path]) == jnp.shape(found[path]):
                    continue
                sides = [
                    f"has shape {jnp.shape(side[path])} in {self.names[index]}" if path in side
                    else f"is missing in {self.names[index]}"
                    for side, index in ((first, numbers[0]), (found, number))
                ]  # fmt: skip
                self._refuse(f"{self._text(collection, '*', path)} {sides[0]}, but {sides[1]}")

    def _text(self, collection: str, name: str, rest: Sequence[Any]) -> str:
        return "/".join((collection, *self.scope.path, name, *(str(getattr(key, "key", key)) for key in rest)))

    def _refuse(self, problem: str) -> None:
        raise RepeatLayersError(path=self.scope.path_text, problem=problem)


def every(tree: Any, place: int, period: int) -> Any:
    """Return the entries of the leading axis of every leaf that stand at one place of a pattern."""

    def take(leaf: Any) -> Any:
        return jnp.reshape(leaf, (leaf.shape[0] // period, period, *leaf.shape[1:]))[:, place]

    return tree if period == 1 else jax.tree.map(take, tree)


def entry(tree: Any, index: int) -> Any:
    """Return one entry of the leading axis of every leaf."""

    def take(leaf: Any) -> Any:
        return leaf[index]

    return jax.tree.map(take, tree)


def interleaved(*arrays: Any) -> Any:
    """Return ``[layers, ...]`` of arrays ``[repetitions, ...]``, one for each place of the pattern."""
    if len(arrays) == 1:
        return arrays[0]
    return jnp.reshape(jnp.stack(arrays, 1), (-1, *arrays[0].shape[1:]))


def _by_path(tree: Any) -> dict[Any, Any]:
    pairs = cast("Any", jax.tree_util.tree_leaves_with_path(tree))
    return dict(pairs)
