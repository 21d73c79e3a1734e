"""Functions for products in 8-bit floating point, with scales that follow what was seen.

Micikevicius and others, "FP8 Formats for Deep Learning" (2022), https://arxiv.org/abs/2209.05433: values and weights
are rounded to E4M3 (3 digits), gradients to E5M2 (a wider range), each after division by a *scale*, so that the largest
magnitude of the last steps, the *amax history*, uses the whole range (*delayed scaling*).

Scales and histories are not trained: the custom derivatives here return their next values in the place of their
gradients, and the training step overwrites them with those instead of adding an update. So a step stays pure, and the
history of the gradients themselves is known at all. The layers of ``_fp8.py`` keep them as variables.

There are two ways. ``in_qdq`` and ``out_qdq`` round and scale back at once (*fake quantisation*), and leave it to the
compiler to find 8-bit products; ``fp8_scaled_dot_general`` multiplies the 8-bit values themselves.
"""

from __future__ import annotations

import functools
import warnings
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax import lax

from batiste.errors import DotArgumentsError, Fp8DtypeError, IgnoredPrecisionWarning
from batiste.typing import Array, DTypeLike, PrecisionLike

__all__ = [
    "DimensionNumbers",
    "compute_amax_history",
    "compute_scale",
    "dequantize",
    "dot_general_with_precision",
    "fp8_scaled_dot_general",
    "get_fp8_max",
    "in_q",
    "in_qdq",
    "out_dq",
    "out_qdq",
    "qdq",
    "quantize",
    "quantize_dequantize_update",
    "quantized_dot",
    "update_fp8_meta",
]

_FORWARD = lax.Precision.DEFAULT  # lets the accelerator sum 8-bit products in its fast way
_BACKWARD = lax.Precision.HIGHEST  # gradients are summed exactly

DimensionNumbers = tuple[tuple[Any, Any], tuple[Any, Any]]
"""Contracting and batch axes of both sides, as ``jax.lax.dot_general`` takes them."""


# Numbers and scales.


def get_fp8_max(fp8_dtype: DTypeLike, out_dtype: DTypeLike) -> Any:
    """Return the largest finite number of an 8-bit float type, as a scalar of ``out_dtype``.

    Raises:
      Fp8DtypeError: ``fp8_dtype`` is none of the four 8-bit float types.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> nn.fp8_ops.get_fp8_max(jnp.float8_e4m3fn, jnp.float32).item()
      448.0
    """
    known = (jnp.float8_e4m3fn, jnp.float8_e5m2, jnp.float8_e4m3fnuz, jnp.float8_e5m2fnuz)
    if jnp.dtype(fp8_dtype) not in [jnp.dtype(kind) for kind in known]:
        raise Fp8DtypeError(given=jnp.dtype(fp8_dtype).name, known=", ".join(jnp.dtype(kind).name for kind in known))
    return cast("Any", jnp.finfo(fp8_dtype)).max.astype(out_dtype)


def quantize(x: Array, q_dtype: DTypeLike, scale: Array, compute_dtype: DTypeLike) -> Array:
    """Return ``x / scale`` in the 8-bit type ``q_dtype``; what is out of its range becomes its largest number.

    Args:
      x: an array of any shape.
      q_dtype: an 8-bit float type.
      scale: ``[1]``.
      compute_dtype: what the division is in.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> x = jnp.array([1.0, 1000.0])
      >>> small = nn.fp8_ops.quantize(x, jnp.float8_e4m3fn, jnp.ones(1), jnp.float32)
      >>> small.astype(float).tolist()
      [1.0, 448.0]
    """
    largest = get_fp8_max(q_dtype, compute_dtype)
    scaled = x / jnp.broadcast_to(scale.astype(compute_dtype), x.shape)
    return jnp.clip(scaled, -largest, largest).astype(q_dtype)


def dequantize(x: Array, dq_dtype: DTypeLike, scale: Array) -> Array:
    """Return ``x * scale`` in ``dq_dtype``, for an ``x`` of any shape and a ``scale`` of shape ``[1]``.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> x = jnp.array([0.5, 1.0], jnp.float8_e4m3fn)
      >>> nn.fp8_ops.dequantize(x, jnp.float32, jnp.full(1, 4.0)).tolist()
      [2.0, 4.0]
    """
    return x.astype(dq_dtype) * jnp.broadcast_to(scale.astype(dq_dtype), x.shape)


def qdq(x: Array, q_dtype: DTypeLike, scale: Array, compute_dtype: DTypeLike) -> Array:
    """Return ``x``, in its own dtype, with only those digits that ``q_dtype`` has (fake quantisation).

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> x = jnp.array([1.0, 1.06])
      >>> nn.fp8_ops.qdq(x, jnp.float8_e4m3fn, jnp.ones(1), jnp.float32).tolist()
      [1.0, 1.0]
    """
    return dequantize(quantize(x, q_dtype, scale, compute_dtype), x.dtype, scale)


def compute_scale(amax: Array, scale: Array, fp8_max: Any, margin: int = 0) -> Array:
    """Return the scale that brings ``amax`` to the largest 8-bit number, ``2**margin`` below it.

    Args:
      amax: the largest magnitude seen, a scalar.
      scale: the scale so far, which stays where ``amax`` is zero or not finite.
      fp8_max: the largest number of the 8-bit type.
      margin: powers of two to stay away from it.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> scale = nn.fp8_ops.compute_scale(jnp.float32(896), jnp.ones(1), 448.0)
      >>> scale.tolist()
      [2.0]
    """
    inverse = 1.0 / scale
    new = (fp8_max / amax) / (2**margin)
    new = jnp.where(amax > 0.0, new, inverse)
    return 1.0 / jnp.where(jnp.isfinite(amax), new, inverse)


def compute_amax_history(x: Array, amax_history: Array) -> Array:
    """Return the history, ``[steps]``, turned by one and with the largest magnitude of ``x`` in front.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> history = jnp.array([1.0, 2.0, 3.0])
      >>> nn.fp8_ops.compute_amax_history(jnp.array([-5.0, 4.0]), history).tolist()
      [5.0, 3.0, 1.0]
    """
    newest = jnp.max(jnp.abs(x)).astype(amax_history.dtype)
    return jnp.concatenate([newest[None], amax_history[2:], amax_history[: min(1, len(amax_history) - 1)]])


def update_fp8_meta(x: Array, q_dtype: DTypeLike, scale: Array, amax_history: Array) -> tuple[Array, Array]:
    """Return the scale for ``x``, from the history before it, and the history with it.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> x, history = jnp.array([-5.0, 4.0]), jnp.array([896.0, 0.0])
      >>> kind, one = jnp.float8_e4m3fn, jnp.ones(1)
      >>> scale, history = nn.fp8_ops.update_fp8_meta(x, kind, one, history)
      >>> scale.tolist(), history.tolist()
      ([2.0], [5.0, 896.0])
    """
    largest = get_fp8_max(q_dtype, jnp.float32)
    new_scale = compute_scale(jnp.max(amax_history, axis=0), scale, largest)
    return new_scale, compute_amax_history(x, amax_history)


def quantize_dequantize_update(
    x: Array, q_dtype: DTypeLike, scale: Array, amax_history: Array, compute_dtype: DTypeLike
) -> tuple[Array, Array, Array]:
    """Return ``x`` fake-quantised with its new scale, that scale, and the new history.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> x, history = jnp.array([-5.0, 1.06]), jnp.array([448.0, 0.0])
      >>> kind, one, wide = jnp.float8_e4m3fn, jnp.ones(1), jnp.float32
      >>> update = nn.fp8_ops.quantize_dequantize_update
      >>> x, scale, history = update(x, kind, one, history, wide)
      >>> x.tolist(), scale.tolist(), history.tolist()
      ([-5.0, 1.0], [1.0], [5.0, 448.0])
    """
    new_scale, new_history = update_fp8_meta(x, q_dtype, scale, amax_history)
    return qdq(x, q_dtype, new_scale, compute_dtype), new_scale, new_history


# Fake quantisation, of values on the way in and of gradients on the way back.


@functools.partial(cast("Any", jax.custom_vjp), nondiff_argnums=(0, 1))
def in_qdq(compute_dtype: DTypeLike, q_dtype: DTypeLike, inp: Array, scale: Array, amax_history: Array) -> Array:
    """Return ``inp`` fake-quantised; its gradient passes, and scale and history get their next values as gradients.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> x, history = jnp.array([1.0, 1.06]), jnp.zeros(2)
      >>> kind = jnp.float8_e4m3fn
      >>> nn.fp8_ops.in_qdq(jnp.float32, kind, x, jnp.ones(1), history).tolist()
      [1.0, 1.0]
    """
    return quantize_dequantize_update(inp, q_dtype, scale, amax_history, compute_dtype)[0]


def _in_qdq_forward(
    compute_dtype: DTypeLike, q_dtype: DTypeLike, inp: Array, scale: Array, amax_history: Array
) -> tuple[Array, tuple[Array, Array]]:
    out, new_scale, new_history = quantize_dequantize_update(inp, q_dtype, scale, amax_history, compute_dtype)
    return out, (new_scale, new_history)


def _in_qdq_backward(
    compute_dtype: DTypeLike, q_dtype: DTypeLike, new: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array, Array]:
    del compute_dtype, q_dtype
    return gradient, *new


in_qdq.defvjp(_in_qdq_forward, _in_qdq_backward)


@functools.partial(cast("Any", jax.custom_vjp), nondiff_argnums=(0, 1))
def out_qdq(compute_dtype: DTypeLike, q_dtype: DTypeLike, out: Array, scale: Array, amax_history: Array) -> Array:
    """Return ``out`` as it is; its gradient is fake-quantised, and scale and history follow the gradient.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> x, history = jnp.array([1.0, 0.5]), jnp.zeros(2)
      >>> kind = jnp.float8_e5m2
      >>> nn.fp8_ops.out_qdq(jnp.float32, kind, x, jnp.ones(1), history).tolist()
      [1.0, 0.5]
    """
    del compute_dtype, q_dtype, scale, amax_history
    return out


def _out_qdq_forward(
    compute_dtype: DTypeLike, q_dtype: DTypeLike, out: Array, scale: Array, amax_history: Array
) -> tuple[Array, tuple[Array, Array]]:
    del compute_dtype, q_dtype
    return out, (scale, amax_history)


def _out_qdq_backward(
    compute_dtype: DTypeLike, q_dtype: DTypeLike, meta: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array, Array]:
    return quantize_dequantize_update(gradient, q_dtype, *meta, compute_dtype)


out_qdq.defvjp(_out_qdq_forward, _out_qdq_backward)


@functools.partial(cast("Any", jax.custom_jvp), nondiff_argnums=(2, 3, 4))
def dot_general_with_precision(
    lhs: Array,
    rhs: Array,
    dimension_numbers: DimensionNumbers,
    precision: PrecisionLike = None,
    preferred_element_type: DTypeLike | None = None,
) -> Array:
    """Return ``lax.dot_general`` of the two, summed fast forwards and exactly in the derivatives.

    ``precision`` and ``preferred_element_type`` are there for the signature only, and are not used.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> x, y = jnp.ones((2, 3)), jnp.ones((3, 4))
      >>> nn.fp8_ops.dot_general_with_precision(x, y, (((1,), (0,)), ((), ()))).tolist()
      [[3.0, 3.0, 3.0, 3.0], [3.0, 3.0, 3.0, 3.0]]
    """
    if precision is not None or preferred_element_type is not None:
        _warn_ignored("dot_general_with_precision", "precision and preferred_element_type")
    return lax.dot_general(lhs, rhs, dimension_numbers, precision=_FORWARD)


@dot_general_with_precision.defjvp
def _dot_general_tangent(
    dimension_numbers: DimensionNumbers,
    precision: PrecisionLike,
    preferred_element_type: DTypeLike | None,
    primals: tuple[Array, Array],
    tangents: tuple[Array, Array],
) -> tuple[Array, Array]:
    del precision, preferred_element_type
    (lhs, rhs), (lhs_dot, rhs_dot) = primals, tangents
    tangent = lax.dot_general(lhs, rhs_dot, dimension_numbers, precision=_BACKWARD) + lax.dot_general(
        lhs_dot, rhs, dimension_numbers, precision=_BACKWARD
    )
    return lax.dot_general(lhs, rhs, dimension_numbers, precision=_FORWARD), tangent


# Products of the 8-bit values themselves.


@functools.partial(cast("Any", jax.custom_vjp), nondiff_argnums=(0, 1))
def in_q(
    compute_dtype: DTypeLike, q_dtype: DTypeLike, inp: Array, scale: Array, amax_history: Array
) -> tuple[Array, Array]:
    """Return ``inp`` in 8 bits and its new scale; scale and history get their next values as gradients.

    No gradient passes to ``inp``: ``quantized_dot``, which is given ``inp`` too, computes it.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> x, kind, one = jnp.array([1.0, 2.0]), jnp.float8_e4m3fn, jnp.ones(1)
      >>> small, scale = nn.fp8_ops.in_q(jnp.float32, kind, x, one, jnp.zeros(2))
      >>> small.dtype, scale.tolist()
      (dtype(float8_e4m3fn), [1.0])
    """
    new_scale, _ = update_fp8_meta(inp, q_dtype, scale, amax_history)
    return quantize(inp, q_dtype, new_scale, compute_dtype), new_scale


def _in_q_forward(
    compute_dtype: DTypeLike, q_dtype: DTypeLike, inp: Array, scale: Array, amax_history: Array
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    new_scale, new_history = update_fp8_meta(inp, q_dtype, scale, amax_history)
    return (quantize(inp, q_dtype, new_scale, compute_dtype), new_scale), (new_scale, new_history)


def _in_q_backward(
    compute_dtype: DTypeLike, q_dtype: DTypeLike, new: tuple[Array, Array], gradient: Any
) -> tuple[None, Array, Array]:
    del compute_dtype, q_dtype, gradient
    return None, *new


in_q.defvjp(_in_q_forward, _in_q_backward)


@functools.partial(cast("Any", jax.custom_vjp), nondiff_argnums=(0,))
def out_dq(dq_type: DTypeLike, lhs_scale: Array, rhs_scale: Array, out: Array) -> Array:
    """Return the product of 8-bit values scaled back, in ``dq_type``; the gradient passes as it is.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> two = jnp.full(1, 2.0)
      >>> nn.fp8_ops.out_dq(jnp.float32, two, two, jnp.ones(3)).tolist()
      [4.0, 4.0, 4.0]
    """
    return dequantize(out, dq_type, lhs_scale * rhs_scale)


def _out_dq_forward(dq_type: DTypeLike, lhs_scale: Array, rhs_scale: Array, out: Array) -> tuple[Array, None]:
    return out_dq(dq_type, lhs_scale, rhs_scale, out), None


def _out_dq_backward(dq_type: DTypeLike, _: None, gradient: Array) -> tuple[None, None, Array]:
    del dq_type
    return None, None, gradient


out_dq.defvjp(_out_dq_forward, _out_dq_backward)


@functools.partial(cast("Any", jax.custom_vjp), nondiff_argnums=(8, 9))
def quantized_dot(
    lhs: Array,
    q_lhs: Array,
    lhs_scale: Array,
    rhs: Array,
    q_rhs: Array,
    rhs_scale: Array,
    out_grad_scale: Array,
    out_grad_amax_history: Array,
    dimension_numbers: DimensionNumbers,
    preferred_element_type: DTypeLike | None = None,
) -> Array:
    """Return the product of two arrays that are given in 8 bits too, not scaled back yet.

    Its derivatives multiply 8-bit values as well: the gradient is brought to E5M2 first, and its scale and history get
    their next values as gradients.

    Args:
      lhs: the left side, which only its gradient is for.
      q_lhs: the left side in 8 bits.
      lhs_scale: the scale of the left side, ``[1]``.
      rhs: the right side, which only its gradient is for.
      q_rhs: the right side in 8 bits.
      rhs_scale: the scale of the right side, ``[1]``.
      out_grad_scale: the scale of the gradient of the output, ``[1]``.
      out_grad_amax_history: the history of that gradient, ``[steps]``.
      dimension_numbers: contracting and batch axes, as in ``jax.lax.dot_general``.
      preferred_element_type: what to sum in.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> x, y, one = jnp.ones((2, 3)), jnp.ones((3, 4)), jnp.ones(1)
      >>> small = [each.astype(jnp.float8_e4m3fn) for each in (x, y)]
      >>> axes, wide = (((1,), (0,)), ((), ())), jnp.float32
      >>> sides = (x, small[0], one, y, small[1], one)
      >>> nn.fp8_ops.quantized_dot(*sides, one, jnp.zeros(2), axes, wide).tolist()
      [[3.0, 3.0, 3.0, 3.0], [3.0, 3.0, 3.0, 3.0]]
    """
    del lhs, lhs_scale, rhs, rhs_scale, out_grad_scale, out_grad_amax_history
    return lax.dot_general(
        q_lhs, q_rhs, dimension_numbers, precision=_FORWARD, preferred_element_type=preferred_element_type
    )


def _quantized_dot_forward(
    lhs: Array,
    q_lhs: Array,
    lhs_scale: Array,
    rhs: Array,
    q_rhs: Array,
    rhs_scale: Array,
    out_grad_scale: Array,
    out_grad_amax_history: Array,
    dimension_numbers: DimensionNumbers,
    preferred_element_type: DTypeLike | None,
) -> tuple[Array, tuple[Any, ...]]:
    del lhs, rhs
    out = lax.dot_general(
        q_lhs, q_rhs, dimension_numbers, precision=_FORWARD, preferred_element_type=preferred_element_type
    )
    return out, (q_lhs, lhs_scale, q_rhs, rhs_scale, out_grad_scale, out_grad_amax_history)


def _quantized_dot_backward(
    dimension_numbers: DimensionNumbers,
    preferred_element_type: DTypeLike | None,
    residuals: tuple[Any, ...],
    gradient: Array,
) -> tuple[Any, ...]:
    q_lhs, lhs_scale, q_rhs, rhs_scale, scale, history = residuals
    kind = gradient.dtype if preferred_element_type is None else preferred_element_type
    new_scale, new_history = update_fp8_meta(gradient, jnp.float8_e5m2, scale, history)
    q_gradient = quantize(gradient, jnp.float8_e5m2, new_scale, kind)
    of_lhs = _transposed_dot(q_gradient, q_rhs, q_lhs.ndim, dimension_numbers, kind, side=0)
    of_rhs = _transposed_dot(q_gradient, q_lhs, q_rhs.ndim, dimension_numbers, kind, side=1)
    return (
        dequantize(of_lhs, kind, rhs_scale * new_scale),
        None,
        None,
        dequantize(of_rhs, kind, lhs_scale * new_scale),
        None,
        None,
        new_scale,
        new_history,
    )


quantized_dot.defvjp(_quantized_dot_forward, _quantized_dot_backward)


def _transposed_dot(
    gradient: Array, other: Array, ndim: int, dimension_numbers: DimensionNumbers, kind: DTypeLike, *, side: int
) -> Array:
    """Return the gradient of one side of a ``dot_general``, from that of its output and from the other side.

    ``lax.dot_general`` lays its output out as ``[batch..., lhs kept..., rhs kept...]``. Contracted with the kept axes
    of the other side, that gives ``[batch..., kept..., contracted...]``, which is brought back to the order of the
    ``ndim`` axes of this side.
    """
    contracting, batch = dimension_numbers
    of_this, of_other = (
        dict(zip(("contract", "batch"), (contracting[i], batch[i]), strict=True)) for i in (side, 1 - side)
    )
    kept = [axis for axis in range(ndim) if axis not in (*of_this["contract"], *of_this["batch"])]
    other_kept = [axis for axis in range(other.ndim) if axis not in (*of_other["contract"], *of_other["batch"])]
    batch_axes = range(len(of_this["batch"]))
    start = len(batch_axes) + (len(kept) if side == 0 else 0)
    product = lax.dot_general(
        gradient,
        other,
        ((range(start, start + len(other_kept)), other_kept), (batch_axes, of_other["batch"])),
        precision=_BACKWARD,
        preferred_element_type=kind,
    )
    by_other = sorted(zip(of_other["contract"], of_this["contract"], strict=True))
    order = [*of_this["batch"], *kept, *(axis for _, axis in by_other)]
    return lax.transpose(product, sorted(range(ndim), key=order.__getitem__))


def fp8_scaled_dot_general(
    lhs: Array,
    rhs: Array,
    dimension_numbers: DimensionNumbers,
    precision: PrecisionLike = None,
    preferred_element_type: DTypeLike | None = None,
    *,
    lhs_scale: Array | None = None,
    rhs_scale: Array | None = None,
    grad_scale: Array | None = None,
    lhs_amax_history: Array | None = None,
    rhs_amax_history: Array | None = None,
    grad_amax_history: Array | None = None,
    quantize_compute_type: DTypeLike = jnp.float32,
) -> Array:
    """Return ``lax.dot_general`` of the two, computed on their values in 8 bits.

    Args:
      lhs: the left side.
      rhs: the right side.
      dimension_numbers: contracting and batch axes, as in ``jax.lax.dot_general``.
      precision: not used.
      preferred_element_type: what to sum in, and the dtype of the output.
      lhs_scale: the scale of the left side so far, ``[1]``.
      rhs_scale: the scale of the right side so far, ``[1]``.
      grad_scale: the scale of the gradient of the output so far, ``[1]``.
      lhs_amax_history: the largest magnitudes of the left side, ``[steps]``.
      rhs_amax_history: the largest magnitudes of the right side, ``[steps]``.
      grad_amax_history: the largest magnitudes of the gradient of the output, ``[steps]``.
      quantize_compute_type: what to divide by the scales in.

    Returns:
      The product, scaled back. The gradients of scales and histories are their next values.

    Raises:
      DotArgumentsError: a scale or a history is not given.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> x, y, axes = jnp.ones((2, 3)), jnp.ones((3, 4)), (((1,), (0,)), ((), ()))
      >>> sides = ("lhs", "rhs", "grad")
      >>> scales = {f"{side}_scale": jnp.ones(1) for side in sides}
      >>> histories = {f"{side}_amax_history": jnp.zeros(2) for side in sides}
      >>> product = nn.fp8_ops.fp8_scaled_dot_general
      >>> product(x, y, axes, None, jnp.float32, **scales, **histories).tolist()
      [[3.0, 3.0, 3.0, 3.0], [3.0, 3.0, 3.0, 3.0]]
    """
    if precision is not None:
        _warn_ignored("fp8_scaled_dot_general", "precision")
    meta = (lhs_scale, rhs_scale, grad_scale, lhs_amax_history, rhs_amax_history, grad_amax_history)
    if any(part is None for part in meta):
        raise DotArgumentsError(
            path="fp8_scaled_dot_general",
            given="a scale or a history that is None",
            expected="all three scales and all three histories",
            advice="Use the layer Fp8DirectDotGeneralOp, which keeps them as variables.",
        )
    kind: Any = jnp.result_type(lhs, rhs) if preferred_element_type is None else preferred_element_type
    q_type = jnp.float8_e4m3fn
    left: Any = in_q(quantize_compute_type, q_type, lhs, lhs_scale, lhs_amax_history)
    right: Any = in_q(quantize_compute_type, q_type, rhs, rhs_scale, rhs_amax_history)
    (q_lhs, new_lhs_scale), (q_rhs, new_rhs_scale) = left, right
    out = quantized_dot(
        lhs,
        q_lhs,
        new_lhs_scale,
        rhs,
        q_rhs,
        new_rhs_scale,
        grad_scale,
        grad_amax_history,
        dimension_numbers,
        kind,
    )
    return out_dq(kind, new_lhs_scale, new_rhs_scale, out)


def _warn_ignored(function: str, arguments: str) -> None:
    warnings.warn(f"{function} does not use {arguments}.", IgnoredPrecisionWarning, stacklevel=3)
