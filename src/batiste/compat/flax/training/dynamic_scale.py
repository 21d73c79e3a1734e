"""``flax.training.dynamic_scale``: loss scaling for gradients in half precision.

Small gradients become 0 in float16. So the loss is multiplied by a large scale, and the gradients, in float32, are
divided by it. A scale that is too large makes them infinite: then the scale is halved and the step should be left out.
After many finite steps it is doubled. Micikevicius et al., *Mixed Precision Training*, 2017,
https://arxiv.org/abs/1710.03740.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from batiste.compat.flax.struct import dataclass, field
from batiste.typing import Array, PyTree

__all__ = ["DynamicScale", "DynamicScaleResult"]


class DynamicScaleResult(NamedTuple):
    """What a function with a scaled loss returns.

    Attributes:
      dynamic_scale: the scale for the next step.
      finite: whether all gradients are finite; if not, the step should be left out.
      aux: what the function returned: the loss, or the loss and its auxiliary data.
      grad: the gradients in float32.
    """

    dynamic_scale: DynamicScale
    finite: Array
    aux: Any
    grad: PyTree


@dataclass
class DynamicScale:
    """A scale of the loss that adapts itself.

    Attributes:
      growth_factor: by what the scale grows after ``growth_interval`` finite steps.
      backoff_factor: by what it shrinks after a step that was not finite.
      growth_interval: how many finite steps in a row let it grow.
      fin_steps: how many finite steps in a row there were.
      scale: the scale.
      minimum_scale: what the scale does not fall below; None sets no limit.
    """

    growth_factor: float = field(pytree_node=False, default=2.0)
    backoff_factor: float = field(pytree_node=False, default=0.5)
    growth_interval: int = field(pytree_node=False, default=2000)
    fin_steps: int | Array = 0
    scale: float | Array = 65536.0
    minimum_scale: float | None = field(pytree_node=False, default=np.finfo(np.float32).tiny)

    def value_and_grad(
        self,
        fun: Callable[..., Any],
        argnums: int | Sequence[int] = 0,
        has_aux: bool = False,
        axis_name: str | None = None,
    ) -> Callable[..., DynamicScaleResult]:
        """Return a function that computes a loss and its gradients under the scale.

        Args:
          fun: returns a scalar loss, or a pair of it and auxiliary data.
          argnums: which arguments are differentiated by.
          has_aux: whether ``fun`` returns a pair.
          axis_name: a named axis, as of ``jax.pmap``, that gradients are averaged over.
        """

        def scaled(*args: Any) -> Any:
            made = fun(*args)
            return (made[0] * self.scale, made[1]) if has_aux else made * self.scale

        differentiated = jax.value_and_grad(scaled, argnums=argnums, has_aux=has_aux)

        def unscaled(gradient: Any) -> Array:
            return jnp.asarray(gradient, jnp.float32) / self.scale

        def value_and_grad(*args: Any) -> DynamicScaleResult:
            value, grads = differentiated(*args)
            value = (value[0] / self.scale, value[1]) if has_aux else value / self.scale
            grads = jax.tree.map(unscaled, grads)
            if axis_name is not None:
                grads = lax.pmean(grads, axis_name)
            finite = jnp.array(True)
            for gradient in jax.tree.leaves(grads):
                finite &= jnp.all(lax.is_finite(gradient))
            return DynamicScaleResult(self._after(finite), finite, value, grads)

        return value_and_grad

    def _after(self, finite: Array) -> DynamicScale:
        """Return the scale for the next step."""
        ripe = self.fin_steps == self.growth_interval
        largest: Any = np.finfo(np.float32).max
        grown = jnp.where(ripe, jnp.minimum(self.scale * self.growth_factor, largest), self.scale)
        shrunk: Any = self.scale * self.backoff_factor
        if self.minimum_scale is not None:
            shrunk = jnp.maximum(shrunk, self.minimum_scale)
        steps = jnp.where(finite & jnp.logical_not(ripe), self.fin_steps + 1, 0)
        scale = jnp.where(finite, grown, shrunk)
        return DynamicScale(
            self.growth_factor, self.backoff_factor, self.growth_interval, steps, scale, self.minimum_scale
        )
