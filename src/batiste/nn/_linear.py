"""Linear layers: a product with a learned kernel, and a bias.

With ``x`` the input, ``W`` the kernel and ``b`` the bias, all of them compute ``y = x W + b``; they differ in which
axes are contracted:

* ``Dense``: the last axis of the input, into one axis of features;
* ``DenseGeneral``: any axes, into any number of axes of features, with axes that have a kernel of their own;
* ``Einsum``: whatever an einsum equation says.

The product and the sum run in one jitted function (``_jitted.py``). A layer whose ``promote_dtype`` or ``dot_general``
is replaced runs step by step instead, since what replaces it need not be a function of arrays alone. Convolutions are
in ``_conv.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax.numpy as jnp
import numpy as np
from jax import lax

from batiste._arguments import array, function, text, whole_number, whole_numbers
from batiste.dtypes import canonicalize_dtype, cast, promote_dtype
from batiste.errors import AxesError, BatchAxesError, EinsumEquationError, InputRankError
from batiste.module import Module, compact, merge_param
from batiste.nn._axes import sorted_axes
from batiste.nn._initializers import FlattenedInitializer, lecun_normal, zeros
from batiste.nn._jitted import jitted
from batiste.typing import Array, DotGeneral, DTypeLike, Initializer, PrecisionLike

__all__ = ["Dense", "DenseGeneral", "Einsum", "PromoteDtype"]

PromoteDtype: TypeAlias = Callable[..., list[Any]]
"""A function with the signature of ``batiste.dtypes.promote_dtype``."""

_Dimensions: TypeAlias = tuple[tuple[tuple[int, ...], tuple[int, ...]], tuple[tuple[int, ...], tuple[int, ...]]]
"""As ``jax.lax.dot_general`` takes them: (contracted, batch), each as (of the input, of the kernel)."""


class Dense(Module):
    """A linear map of the last axis: ``y = x W + b``.

    ``[batch..., inputs]`` becomes ``[batch..., features]``. Parameters: ``kernel`` ``[inputs, features]`` and ``bias``
    ``[features]``.

    Attributes:
      features: how many numbers come out.
      use_bias: whether a bias is added.
      dtype: what to compute in; None takes what input and parameters promote to.
      param_dtype: what parameters are kept in.
      precision: how exactly products are computed, as ``jax.lax.dot_general`` takes it.
      kernel_init: draws the kernel.
      bias_init: draws the bias.
      promote_dtype: brings input, kernel and bias to one dtype.
      dot_general: computes the product in place of ``jax.lax.dot_general``.
      dot_general_cls: makes what computes the product, for one with state of its own.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> layer = nn.Dense(4)
      >>> variables = layer.init(jax.random.key(0), jnp.ones((2, 3)))
      >>> jax.tree.map(jnp.shape, variables)
      {'params': {'bias': (4,), 'kernel': (3, 4)}}
      >>> layer.apply(variables, jnp.ones((2, 3))).shape
      (2, 4)
    """

    features: int
    use_bias: bool = True
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    precision: PrecisionLike = None
    kernel_init: Initializer = lecun_normal()
    bias_init: Initializer = zeros
    promote_dtype: PromoteDtype = promote_dtype
    dot_general: DotGeneral | None = None
    dot_general_cls: Any = None

    @compact
    def __call__(self, inputs: Array) -> Array:
        """Return ``[batch..., features]`` for ``inputs`` ``[batch..., inputs]``.

        Raises:
          ArgumentError: ``features`` is no whole number, or the input is no array.
          InputRankError: the input is a single number.
        """
        inputs = array(inputs, "inputs", self)
        features = whole_number(self.features, "features", self)
        if inputs.ndim == 0:
            raise InputRankError(path=self.path, shape=(), expected="at least one axis, [batch..., inputs]")
        kernel = self.param("kernel", self.kernel_init, (inputs.shape[-1], features), self.param_dtype)
        bias = self.param("bias", self.bias_init, (features,), self.param_dtype) if self.use_bias else None
        last = inputs.ndim - 1
        return _product(self, inputs, kernel, bias, (((last,), (0,)), ((), ())), (*(1,) * last, features))


class DenseGeneral(Module):
    """A linear map of any axes: ``y = x W + b``, where ``x W`` sums over ``axis``.

    ``[batch_dims..., kept..., axis...]``, with the last two in any order, becomes ``[batch_dims..., kept...,
    features...]``. Parameters: ``kernel`` ``[batch_dims..., axis..., features...]`` and ``bias`` ``[batch_dims...,
    features...]``: each entry of the batch axes has a map of its own. The kernel is drawn as the matrix
    ``[batch_dims and axis, features]``, as in Linen.

    Attributes:
      features: how many numbers come out, for each axis that comes out.
      axis: the axes to sum over; they count in the order of the input.
      batch_dims: the axes with a map of their own: none, or the first ones in order.
      use_bias: whether a bias is added.
      dtype: what to compute in; None takes what input and parameters promote to.
      param_dtype: what parameters are kept in.
      kernel_init: draws the kernel.
      bias_init: draws the bias.
      precision: how exactly products are computed, as ``jax.lax.dot_general`` takes it.
      promote_dtype: brings input, kernel and bias to one dtype.
      dot_general: computes the product in place of ``jax.lax.dot_general``.
      dot_general_cls: makes what computes the product, for one with state of its own.
    """

    features: int | Sequence[int]
    axis: int | Sequence[int] = -1
    batch_dims: Sequence[int] = ()
    use_bias: bool = True
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    kernel_init: Initializer = lecun_normal()
    bias_init: Initializer = zeros
    precision: PrecisionLike = None
    promote_dtype: PromoteDtype = promote_dtype
    dot_general: DotGeneral | None = None
    dot_general_cls: Any = None

    @compact
    def __call__(self, inputs: Array) -> Array:
        """Return ``[batch_dims..., kept..., features...]``.

        Raises:
          ArgumentError: ``features`` or axes are no whole numbers, or the input is no array.
          AxesError: an axis is out of range, named twice, or both contracted and a batch axis.
          BatchAxesError: ``batch_dims`` are not the leading axes in order.
        """
        inputs = array(inputs, "inputs", self)
        axes, batch = _contracted_and_batch(self, inputs.ndim)
        features = whole_numbers(self.features, "features", self)
        shape = inputs.shape
        batch_shape, axes_shape = tuple(shape[i] for i in batch), tuple(shape[i] for i in axes)
        kept = inputs.ndim - len(axes) - len(batch)
        kernel_init = function(self.kernel_init, "kernel_init", self)
        if (len(batch), len(axes), len(features)) != (0, 1, 1):
            flat_shape = (math.prod(batch_shape + axes_shape), math.prod(features))
            kernel_init = FlattenedInitializer(kernel_init, flat_shape)
        kernel = self.param("kernel", kernel_init, (*batch_shape, *axes_shape, *features), self.param_dtype)
        bias = None
        if self.use_bias:
            bias_shape = (*batch_shape, *features)
            bias_init = function(self.bias_init, "bias_init", self)
            if len(bias_shape) > 1:
                bias_init = FlattenedInitializer(bias_init, (math.prod(bias_shape),))
            bias = self.param("bias", bias_init, bias_shape, self.param_dtype)
        kernel_axes = tuple(range(len(batch), len(batch) + len(axes)))
        bias_extents = (*batch_shape, *(1,) * kept, *features)
        return _product(self, inputs, kernel, bias, ((axes, kernel_axes), (batch, batch)), bias_extents)


class Einsum(Module):
    """A linear map that an einsum equation describes: ``y = einsum(equation, x, W) + b``.

    The equation names the input, the kernel and the output, as in ``"...d,dhk->...hk"``. The bias has those axes of the
    output that the kernel has.

    Attributes:
      shape: the shape of the kernel.
      einsum_str: the equation; None if it is given to the call.
      use_bias: whether a bias is added.
      dtype: what to compute in; None takes what input and parameters promote to.
      param_dtype: what parameters are kept in.
      precision: how exactly products are computed, as ``jax.lax.dot_general`` takes it.
      kernel_init: draws the kernel.
      bias_init: draws the bias.
      promote_dtype: brings input, kernel and bias to one dtype.
      preferred_element_type: what products are summed in and returned in, as ``jnp.einsum`` takes it.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> layer = nn.Einsum((3, 2, 4), "...d,dhk->...hk")
      >>> y, variables = layer.init_with_output(jax.random.key(0), jnp.ones((5, 3)))
      >>> y.shape, variables["params"]["bias"].shape
      ((5, 2, 4), (2, 4))
    """

    shape: Sequence[int]
    einsum_str: str | None = None
    use_bias: bool = True
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    precision: PrecisionLike = None
    kernel_init: Initializer = lecun_normal()
    bias_init: Initializer = zeros
    promote_dtype: PromoteDtype = promote_dtype
    preferred_element_type: DTypeLike | None = None

    @compact
    def __call__(self, inputs: Array, einsum_str: str | None = None) -> Array:
        """Return what the equation makes of ``inputs`` and the kernel.

        Args:
          inputs: an array with the axes that the equation gives it.
          einsum_str: the equation, if the constructor was given none.

        Raises:
          ArgumentError: ``shape`` is no sequence of whole numbers, the equation is no text, or the input is no array.
          EinsumEquationError: the equation has not two operands and an output, or does not fit their shapes.
        """
        inputs = array(inputs, "inputs", self)
        equation = text(merge_param("einsum_str", self.einsum_str, einsum_str), "einsum_str", self, what="an equation")
        equation = equation.replace(" ", "")
        shape = whole_numbers(self.shape, "shape", self)
        bias_shape, bias_extents = _bias_axes(equation, inputs.shape, shape, self.path)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        bias = self.param("bias", self.bias_init, bias_shape, self.param_dtype) if self.use_bias else None
        options = (equation, bias_extents, self.precision, self.preferred_element_type)
        if self.promote_dtype is promote_dtype:
            dtype = canonicalize_dtype(inputs, kernel, bias, dtype=self.dtype)
            return _einsum_and_add(inputs, kernel, bias, *options, np.dtype(dtype))
        inputs, kernel, bias = self.promote_dtype(inputs, kernel, bias, dtype=self.dtype)
        return _einsum_and_add(inputs, kernel, bias, *options, None)


def _contracted_and_batch(layer: DenseGeneral, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the contracted axes and the batch axes."""
    axes = sorted_axes(layer.axis, rank, argument="axis", layer=layer)
    if isinstance(layer.batch_dims, tuple) and len(layer.batch_dims) == 0:
        return axes, ()
    batch = sorted_axes(layer.batch_dims, rank, argument="batch_dims", layer=layer)
    leading = tuple(range(len(batch)))
    if batch != leading:
        raise BatchAxesError(path=layer.path, given=batch, expected=leading)
    if set(batch) & set(axes):
        problem = "one is in batch_dims as well"
        raise AxesError(
            path=layer.path, argument="axis", given=layer.axis, rank=rank, problem=problem, low=-rank, high=rank - 1
        )
    return axes, batch


def _bias_axes(
    equation: str, inputs_shape: tuple[int, ...], shape: tuple[int, ...], path: tuple[str, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shape of the bias, and the extents it takes to add it to the output."""
    operands, arrow, output = equation.partition("->")
    terms = operands.split(",")
    if not arrow or len(terms) != 2:
        problem = "it names no output" if not arrow else f"it has {len(terms)} operands in place of two"
        raise EinsumEquationError(path=path, given=equation, problem=problem)
    ranks = (len(inputs_shape), len(shape))
    labels = [_labels(term, rank) for term, rank in zip(terms, ranks, strict=True)]
    for name, found, rank in zip(("input", "kernel"), labels, ranks, strict=True):
        if found is None:
            problem = f"the {name} has {rank} axes"
            raise EinsumEquationError(path=path, given=equation, problem=problem)
    extents = dict(zip(labels[1] or (), shape, strict=True))
    letters = output.replace("...", "")
    unknown, twice = sorted(set(letters) - set(operands)), [one for one in letters if letters.count(one) > 1]
    unequal = [
        f"the axis {label!r} has {extent} entries in the input and {extents[label]} in the kernel"
        for label, extent in zip(labels[0] or (), inputs_shape, strict=True)
        if label in extents and 1 not in (extent, extents[label]) and extent != extents[label]
    ]
    if unknown or twice or unequal:
        problem = f"the output has {', '.join(map(repr, unknown))}, which neither the input nor the kernel has"
        if not unknown:
            problem = unequal[0] if unequal else f"the output has {twice[0]!r} twice"
        raise EinsumEquationError(path=path, given=equation, problem=problem)
    hidden = max(sum(isinstance(label, int) for label in found or ()) for found in labels)
    made = _labels(output, len(output.replace("...", "")) + ("..." in output) * hidden) or ()
    bias_extents = tuple(extents.get(label, 1) for label in made)
    return tuple(extents[label] for label in made if label in extents), bias_extents


def _labels(term: str, rank: int) -> tuple[str | int, ...] | None:
    """Return a label for each axis of a term: its letter, or for one in the ellipsis its number from the right.

    None if the term has another number of axes than ``rank``.
    """
    head, ellipsis, tail = term.partition("...")
    hidden = rank - len(head) - len(tail)
    if hidden < 0 or (hidden > 0 and not ellipsis):
        return None
    return (*head, *range(hidden - 1, -1, -1), *tail)


def _product(
    layer: Dense | DenseGeneral,
    inputs: Array,
    kernel: Array,
    bias: Array | None,
    dimensions: _Dimensions,
    bias_extents: tuple[int, ...],
) -> Array:
    """Return ``inputs`` times ``kernel`` plus ``bias`` with the options of ``layer``."""
    is_plain = layer.dot_general is None and layer.dot_general_cls is None
    if is_plain and layer.promote_dtype is promote_dtype:
        dtype = canonicalize_dtype(inputs, kernel, bias, dtype=layer.dtype)
        return _multiply_and_add(inputs, kernel, bias, dimensions, bias_extents, layer.precision, np.dtype(dtype))
    inputs, kernel, bias = layer.promote_dtype(inputs, kernel, bias, dtype=layer.dtype)
    dot_general: DotGeneral | None = layer.dot_general
    if layer.dot_general_cls is not None:
        dot_general = layer.dot_general_cls()
    outputs = (dot_general or lax.dot_general)(inputs, kernel, dimensions, precision=layer.precision)
    return outputs if bias is None else outputs + jnp.reshape(bias, bias_extents)


@jitted(arrays=3)
def _multiply_and_add(
    inputs: Array,
    kernel: Array,
    bias: Array | None,
    dimensions: _Dimensions,
    bias_extents: tuple[int, ...],
    precision: PrecisionLike,
    dtype: np.dtype[Any],
) -> Array:
    outputs = lax.dot_general(cast(inputs, dtype), cast(kernel, dtype), dimensions, precision=precision)
    return outputs if bias is None else outputs + jnp.reshape(cast(bias, dtype), bias_extents)


@jitted(arrays=3)
def _einsum_and_add(
    inputs: Array,
    kernel: Array,
    bias: Array | None,
    equation: str,
    bias_extents: tuple[int, ...],
    precision: PrecisionLike,
    preferred_element_type: DTypeLike | None,
    dtype: np.dtype[Any] | None,
) -> Array:
    if dtype is not None:
        inputs, kernel = cast(inputs, dtype), cast(kernel, dtype)
        bias = None if bias is None else cast(bias, dtype)
    outputs = jnp.einsum(equation, inputs, kernel, precision=precision, preferred_element_type=preferred_element_type)
    return outputs if bias is None else outputs + jnp.reshape(bias, bias_extents)
