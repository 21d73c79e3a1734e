"""Layers whose products are in 8-bit floating point.

They are given to other layers as ``dot_general_cls``, ``nn.Dense(64, dot_general_cls=nn.Fp8DotGeneral)``, or as
einsums to attention. Each keeps three scales and three histories (of its input, its kernel and the gradient of its
output) as variables of the collection ``_overwrite_with_gradient``: what ``jax.grad`` returns for that collection are
their next values, which the training step puts in their place. ``_fp8_ops.py`` has the functions and tells the rest.

``Fp8DirectDotGeneralOp`` (also named ``Fp8DotGeneral``) and ``Fp8Einsum`` multiply the 8-bit values; the older
``Fp8DotGeneralOp`` and ``NANOOFp8DotGeneralOp`` (for accelerators with the FNUZ formats) round the values to 8 bits and
leave it to the compiler to find the 8-bit product.
"""

from __future__ import annotations

import functools
import warnings
from typing import Any

import jax.numpy as jnp

from batiste.errors import DotArgumentsError, LinenDeprecationWarning
from batiste.module import Module, nowrap
from batiste.nn._fp8_ops import (
    DimensionNumbers,
    dot_general_with_precision,
    fp8_scaled_dot_general,
    in_qdq,
    out_qdq,
)
from batiste.typing import Array, DTypeLike, PrecisionLike

__all__ = [
    "Fp8DirectDotGeneralOp",
    "Fp8DotGeneral",
    "Fp8DotGeneralBase",
    "Fp8DotGeneralOp",
    "Fp8Einsum",
    "NANOOFp8DotGeneralOp",
]


class Fp8DotGeneralBase(Module):
    """The scales and histories of one product, as variables of ``_overwrite_with_gradient``.

    Attributes:
      amax_history_length: for how many steps the largest magnitude is remembered.
      e4m3_dtype: the 8-bit type of values and weights.
      e5m2_dtype: the 8-bit type of gradients.
    """

    amax_history_length: int = 1024
    e4m3_dtype: Any = jnp.float8_e4m3fn
    e5m2_dtype: Any = jnp.float8_e5m2

    def setup(self) -> None:
        """Make the scales, ones, and the histories, zeros."""
        histories = (self.amax_history_length,)
        self.input_amax_history = self._meta("input_amax_history", jnp.zeros, histories)
        self.kernel_amax_history = self._meta("kernel_amax_history", jnp.zeros, histories)
        self.output_grad_amax_history = self._meta("output_grad_amax_history", jnp.zeros, histories)
        self.input_scale = self._meta("input_scale", jnp.ones, (1,))
        self.kernel_scale = self._meta("kernel_scale", jnp.ones, (1,))
        self.output_grad_scale = self._meta("output_grad_scale", jnp.ones, (1,))

    @nowrap
    def _meta(self, name: str, initial: Any, shape: tuple[int, ...]) -> Any:
        return self.variable("_overwrite_with_gradient", name, initial, shape, jnp.float32)

    @nowrap
    def _scaled_dot(self) -> Any:
        """Return ``fp8_scaled_dot_general`` with the scales and histories of this layer."""
        return functools.partial(
            fp8_scaled_dot_general,
            lhs_scale=self.input_scale.value,
            rhs_scale=self.kernel_scale.value,
            grad_scale=self.output_grad_scale.value,
            lhs_amax_history=self.input_amax_history.value,
            rhs_amax_history=self.kernel_amax_history.value,
            grad_amax_history=self.output_grad_amax_history.value,
        )

    @nowrap
    def _arguments(self, args: tuple[Any, ...]) -> tuple[Array, Array, DimensionNumbers]:
        """Return the two sides, in the dtype of the right one, and the axes."""
        if len(args) != 3:
            raise DotArgumentsError(
                path=self.path,
                given=f"{len(args)} positional arguments",
                expected="three: lhs, rhs and dimension_numbers",
                advice="Call it as lax.dot_general is called; precision and preferred_element_type are not used.",
            )
        lhs, rhs, dimension_numbers = args
        rhs = jnp.asarray(rhs)
        return jnp.asarray(lhs, rhs.dtype), rhs, dimension_numbers


class Fp8DotGeneralOp(Fp8DotGeneralBase):
    """A ``dot_general`` on fake-quantised values, whose products the compiler may do in 8 bits.

    Linen deprecates it in favour of ``Fp8DirectDotGeneralOp`` and ``Fp8Einsum``.

    Attributes:
      amax_history_length: for how many steps the largest magnitude is remembered.
      e4m3_dtype: the 8-bit type of values and weights.
      e5m2_dtype: the 8-bit type of gradients.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> import warnings
      >>> layer, x = nn.Dense(4, dot_general_cls=nn.Fp8DotGeneralOp), jnp.ones((2, 3))
      >>> with warnings.catch_warnings(action="ignore"):  # it is deprecated
      ...     variables = jax.eval_shape(layer.init, jax.random.key(0), x)
      >>> sorted(variables)
      ['_overwrite_with_gradient', 'params']
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if type(self) is Fp8DotGeneralOp:
            warnings.warn(
                "Fp8DotGeneralOp is deprecated: use Fp8DirectDotGeneralOp or Fp8Einsum.",
                LinenDeprecationWarning,
                stacklevel=2,
            )

    def __call__(self, *args: Any, **kwargs: Any) -> Array:
        """Return the product; the arguments are those of ``jax.lax.dot_general``, of which the first three count."""
        del kwargs
        lhs, rhs, dimension_numbers = self._arguments(args)
        kind = rhs.dtype
        lhs = in_qdq(kind, self.e4m3_dtype, lhs, self.input_scale.value, self.input_amax_history.value)
        rhs = in_qdq(kind, self.e4m3_dtype, rhs, self.kernel_scale.value, self.kernel_amax_history.value)
        out = dot_general_with_precision(lhs, rhs, dimension_numbers)
        return out_qdq(kind, self.e5m2_dtype, out, self.output_grad_scale.value, self.output_grad_amax_history.value)


class Fp8DirectDotGeneralOp(Fp8DotGeneralBase):
    """A ``dot_general`` that multiplies 8-bit values.

    Attributes:
      amax_history_length: for how many steps the largest magnitude is remembered.
      e4m3_dtype: not used: values and weights are E4M3.
      e5m2_dtype: not used: gradients are E5M2.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> layer = nn.Dense(4, dot_general_cls=nn.Fp8DirectDotGeneralOp)
      >>> variables = jax.eval_shape(layer.init, jax.random.key(0), jnp.ones((2, 3)))
      >>> list(variables["_overwrite_with_gradient"])
      ['Fp8DirectDotGeneralOp_0']
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Array:
        """Return the product; the arguments are those of ``jax.lax.dot_general``, of which the first three count."""
        del kwargs
        lhs, rhs, dimension_numbers = self._arguments(args)
        product = self._scaled_dot()
        return product(lhs, rhs, dimension_numbers, preferred_element_type=rhs.dtype, quantize_compute_type=rhs.dtype)


Fp8DotGeneral = Fp8DirectDotGeneralOp


class NANOOFp8DotGeneralOp(Fp8DotGeneralOp):
    """``Fp8DotGeneralOp`` with the FNUZ formats: no negative zero, one NaN, no infinity.

    Noune and others, "8-bit Numerical Formats for Deep Neural Networks" (2022), https://arxiv.org/abs/2206.02915.

    Attributes:
      amax_history_length: for how many steps the largest magnitude is remembered.
      e4m3_dtype: the 8-bit type of values and weights.
      e5m2_dtype: the 8-bit type of gradients.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> layer = nn.Dense(4, dot_general_cls=nn.NANOOFp8DotGeneralOp)
      >>> variables = jax.eval_shape(layer.init, jax.random.key(0), jnp.ones((2, 3)))
      >>> sorted(variables["_overwrite_with_gradient"])
      ['NANOOFp8DotGeneralOp_0']
    """

    e4m3_dtype: Any = jnp.float8_e4m3fnuz
    e5m2_dtype: Any = jnp.float8_e5m2fnuz


class Fp8Einsum(Fp8DotGeneralBase):
    """An einsum of two arrays that multiplies 8-bit values.

    Attributes:
      amax_history_length: for how many steps the largest magnitude is remembered.
      e4m3_dtype: not used: values and weights are E4M3.
      e5m2_dtype: not used: gradients are E5M2.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> product = nn.Fp8Einsum()
      >>> x, y = jnp.ones((2, 3)), jnp.ones((3, 4))
      >>> variables = product.init({}, "ab,bc->ac", x, y)
      >>> product.apply(variables, "ab,bc->ac", x, y).tolist()
      [[3.0, 3.0, 3.0, 3.0], [3.0, 3.0, 3.0, 3.0]]
    """

    def __call__(
        self,
        eqn: str,
        lhs: Array,
        rhs: Array,
        precision: PrecisionLike = None,
        preferred_element_type: DTypeLike | None = None,
    ) -> Array:
        """Return ``jnp.einsum(eqn, lhs, rhs)``.

        Args:
          eqn: the subscripts, such as ``"...ij,jk->...ik"``.
          lhs: the left side.
          rhs: the right side, whose dtype the product is computed in.
          precision: not used.
          preferred_element_type: what to sum in.
        """
        rhs = jnp.asarray(rhs)
        return jnp.einsum(
            eqn,
            jnp.asarray(lhs, rhs.dtype),
            rhs,
            precision=precision,
            preferred_element_type=preferred_element_type,
            _dot_general=functools.partial(self._scaled_dot(), quantize_compute_type=rhs.dtype),
        )
