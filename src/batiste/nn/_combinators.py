"""Combinators: layers one after the other, and functions under more batch axes than they know."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp

from batiste._arguments import function, shown, whole_number
from batiste.errors import BatchApplyError, SequentialLayersError
from batiste.module import Module, compact
from batiste.typing import Array

__all__ = ["BatchApply", "Sequential"]


class Sequential(Module):
    """Layers one after the other: each is called with what the one before it returns.

    A tuple is handed on as positional arguments, a dict as keyword arguments, anything else as one argument. Functions
    may stand between Modules, and may make Modules of their own: ``lambda x: Dense(x.shape[-1])(x)``.

    Attributes:
      layers: Modules and functions.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> model = nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(1)])
      >>> y, variables = model.init_with_output(jax.random.key(0), jnp.ones((2, 3)))
      >>> y.shape, sorted(variables["params"])
      ((2, 1), ['layers_0', 'layers_2'])
    """

    layers: Sequence[Callable[..., Any]]

    def __post_init__(self) -> None:
        """Check that ``layers`` is a sequence.

        Raises:
          SequentialLayersError: it is a single layer, a generator or the like, or has something that is no layer.
        """
        layers: Any = self.layers
        if not isinstance(layers, Sequence) or isinstance(layers, str):
            kind = type(layers).__name__
            raise SequentialLayersError(path="Sequential", given=kind, problem="it is no sequence")
        for each in cast("Sequence[Any]", layers):
            if not callable(each):
                problem = "it cannot be called"
                raise SequentialLayersError(path="Sequential", given=shown(each), problem=problem)
        super().__post_init__()

    @compact
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the last layer returns, where the first one is called with these arguments.

        Raises:
          SequentialLayersError: there are no layers, or one cannot be called.
        """
        if not self.layers:
            raise SequentialLayersError(path=self.path, given=self.layers, problem="there is nothing to call")
        first, *others = self.layers
        outputs: Any = first(*args, **kwargs)
        for layer in others:
            if isinstance(outputs, tuple):
                outputs = layer(*outputs)
            elif isinstance(outputs, dict):
                outputs = layer(**outputs)
            else:
                outputs = layer(outputs)
        return outputs


class BatchApply:
    """A function called with its first axes merged into one, and split again in what it returns.

    ``BatchApply(f)(x)`` with ``x`` ``[time, batch, ...]`` calls ``f`` with ``[time * batch, ...]``, and returns
    ``[time, batch, ...]``. Arrays with fewer axes are handed over as they are; at least one must have as many.

    Args:
      f: a function or a bound Module, of arrays and pytrees of arrays.
      num_dims: how many axes are merged, 1 or more.

    Raises:
      ArgumentError: ``f`` is no function, or ``num_dims`` no such number.

    Example:
      >>> import numpy as np
      >>> from batiste import nn
      >>> sums = nn.BatchApply(lambda x: x.sum(axis=1))
      >>> sums(np.ones((2, 5, 3))).shape
      (2, 5)
    """

    def __init__(self, f: Callable[..., Any], num_dims: int = 2) -> None:
        self._f = function(f, "f", "BatchApply", what="a function or a layer")
        self.num_dims = whole_number(num_dims, "num_dims", "BatchApply", low=1)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return what ``f`` returns for the merged arguments, with its first axis split.

        Raises:
          BatchApplyError: no argument has as many axes, two differ in them, or ``f`` returns something without them.
        """
        leaves = jax.tree.leaves((args, kwargs))
        extents = {jnp.shape(leaf)[: self.num_dims] for leaf in leaves if jnp.ndim(leaf) >= self.num_dims}
        if len(extents) != 1:
            advice = (
                "All inputs with these axes must agree in them." if extents else "Give one input that has these axes."
            )
            raise self._error(leaves, advice)
        (leading,) = extents
        merged_args, merged_kwargs = jax.tree.map(self._merge, (args, kwargs))
        outputs = self._f(*merged_args, **merged_kwargs)

        def split(output: Array) -> Array:
            if jnp.shape(output)[:1] != (math.prod(leading),):
                advice = f"The function must keep the merged axis, but returned the shape {jnp.shape(output)}."
                raise self._error(leaves, advice)
            return jnp.reshape(output, leading + output.shape[1:])

        return jax.tree.map(split, outputs)

    def _merge(self, leaf: Any) -> Any:
        if jnp.ndim(leaf) < self.num_dims:
            return leaf
        shape = jnp.shape(leaf)
        return jnp.reshape(leaf, (math.prod(shape[: self.num_dims]), *shape[self.num_dims :]))

    def _error(self, leaves: list[Any], advice: str) -> BatchApplyError:
        shapes = ", ".join(str(jnp.shape(leaf)) for leaf in leaves)
        return BatchApplyError(path="BatchApply", num_dims=self.num_dims, shapes=shapes, advice=advice)
