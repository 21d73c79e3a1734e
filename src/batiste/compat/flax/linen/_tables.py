"""The rows of a module's table, with Flax's fields: libraries build tables of their own from them (kauldron does)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self

import jax
import numpy as np

from batiste.core import unbox
from batiste.module import Module, table_of

__all__ = [
    "ArrayRepresentation",
    "ObjectRepresentation",
    "Row",
    "Table",
    "ValueRepresentation",
    "get_flops",
    "get_module_table",
    "size_and_bytes_of",
]


class ValueRepresentation:
    """What stands for an input or a result in a row."""

    def render(self) -> str:
        """Return it as text."""
        return repr(self)


@dataclasses.dataclass
class ArrayRepresentation(ValueRepresentation):
    """An array, of which the shape and the dtype are known."""

    shape: tuple[int, ...]
    dtype: Any

    @classmethod
    def from_array(cls, array: Any) -> Self:
        """Return what stands for an array, or for a shape with a dtype."""
        return cls(tuple(array.shape), array.dtype)

    @staticmethod
    def render_array(array: Any) -> str:
        """Return an array's dtype and shape as text."""
        return f"{np.dtype(array.dtype).name}[{','.join(map(str, array.shape))}]"

    def render(self) -> str:
        """Return its dtype and shape as text."""
        return self.render_array(self)


@dataclasses.dataclass
class ObjectRepresentation(ValueRepresentation):
    """Anything that is no array."""

    obj: Any

    def render(self) -> str:
        """Return its repr."""
        return repr(self.obj)


@dataclasses.dataclass
class Row:
    """One module of the table.

    Attributes:
      path: the names from the outermost module.
      module_copy: the module, unbound.
      method: the method that was called.
      inputs: what it was called with: arrays by shape and dtype; one input stands alone.
      outputs: what it returned, likewise.
      module_variables: its own variables by collection.
      counted_variables: those that count for its size: with those of submodules that are not listed, and none where it
        is listed again.
      flops: the floating-point operations of the call, or -1.
      vjp_flops: those of the call and its gradient, or -1.
    """

    path: tuple[str, ...]
    module_copy: Module
    method: str
    inputs: Any
    outputs: Any
    module_variables: dict[str, dict[str, Any]]
    counted_variables: dict[str, dict[str, Any]]
    flops: int
    vjp_flops: int

    def size_and_bytes(self, collections: Iterable[str]) -> dict[str, tuple[int, int]]:
        """Return for each collection how many numbers it has, and in how many bytes."""
        return {name: size_and_bytes_of(self.counted_variables.get(name, {})) for name in collections}


class Table(list[Row]):
    """The rows of a module's table.

    Attributes:
      module: the module.
      collections: the names of the collections.
    """

    def __init__(self, module: Module, collections: Sequence[str], rows: Iterable[Row]) -> None:
        super().__init__(rows)
        self.module = module
        self.collections = collections


def get_module_table(
    module: Module,
    depth: int | None,
    show_repeated: bool,
    compute_flops: bool,
    compute_vjp_flops: bool,
) -> Callable[..., Table]:
    """Return a function of random keys and inputs that returns the table of a module."""

    def table(rngs: Any, *args: Any, **kwargs: Any) -> Table:
        found, variables = table_of(
            module,
            rngs,
            args,
            kwargs,
            depth=depth,
            show_repeated=show_repeated,
            compute_flops=compute_flops,
            compute_vjp_flops=compute_vjp_flops,
        )
        rows = [
            Row(
                row.path,
                row.blueprint,
                row.method,
                _represented(row.shown_inputs),
                _represented(row.outputs),
                {c: {n: v for n, v in held.items() if "/" not in n} for c, held in row.variables.items()},
                {collection: dict(held) for collection, held in row.variables.items()},
                -1 if row.flops is None else row.flops,
                -1 if row.vjp_flops is None else row.vjp_flops,
            )
            for row in found
        ]
        return Table(module, tuple(variables), rows)

    return table


def _represented(tree: Any) -> Any:
    def each(leaf: Any) -> ValueRepresentation:
        is_array = hasattr(leaf, "shape") and hasattr(leaf, "dtype")
        return ArrayRepresentation.from_array(leaf) if is_array else ObjectRepresentation(leaf)

    return jax.tree.map(each, tree, is_leaf=lambda leaf: leaf is None)


def size_and_bytes_of(tree: Any) -> tuple[int, int]:
    """Return how many numbers a tree of arrays has, and in how many bytes."""
    leaves: list[Any] = jax.tree.leaves(unbox(tree))
    sizes = [math.prod(leaf.shape) for leaf in leaves]
    widths = [np.dtype(leaf.dtype).itemsize for leaf in leaves]
    return sum(sizes), sum(size * width for size, width in zip(sizes, widths, strict=True))


def get_flops(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> int:
    """Return the floating-point operations of a call, by the cost analysis of the program before it is compiled."""
    lowered: Any = jax.jit(fn).lower(*args, **kwargs)
    analysis: dict[str, float] = lowered.cost_analysis() or {}
    return int(analysis.get("flops", 0))
