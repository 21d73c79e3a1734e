"""What one equation of a program costs: arithmetic, and whether its result has to be in memory.

*FLOPs* are those of matrix products and convolutions, two for each product of two numbers, as the field counts them for
the utilisation of a chip. Zeros that a stride puts between entries are not multiplied, those of padding are. What is
done number by number (sums, exponentials, comparisons) is counted apart, one for each number that comes out.

A compiler *fuses* what is computed number by number into what reads it, so that it takes no memory of its own; which
operations these are is in the tables here.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

__all__ = ["elementwise_operations", "flops", "is_fused", "nbytes", "touches_part"]

_MOVES = frozenset({
    "broadcast_in_dim", "bitcast_convert_type", "convert_element_type", "copy", "copy_p", "expand_dims", "iota",
    "optimization_barrier", "pvary", "reduce_precision", "reshape", "reshard", "rev", "sharding_constraint", "slice",
    "squeeze", "stop_gradient", "transpose",
})  # fmt: skip
_ARITHMETIC = frozenset({
    "abs", "acos", "acosh", "add", "add_any", "and", "asin", "asinh", "atan", "atan2", "atanh", "cbrt", "ceil", "clamp",
    "conj", "cos", "cosh", "digamma", "div", "eq", "erf", "erf_inv", "erfc", "exp", "exp2", "expm1", "floor", "ge",
    "gt", "imag", "integer_pow", "is_finite", "le", "lgamma", "log", "log1p", "logistic", "lt", "max", "min", "mul",
    "ne", "neg", "nextafter", "not", "or", "population_count", "pow", "real", "rem", "round", "rsqrt", "select_n",
    "shift_left", "shift_right_arithmetic", "shift_right_logical", "sign", "sin", "sinh", "sqrt", "square", "sub",
    "tan", "tanh", "xor",
})  # fmt: skip
_REDUCTIONS = frozenset({
    "argmax", "argmin", "cumlogsumexp", "cummax", "cummin", "cumprod", "cumsum", "reduce_and", "reduce_max",
    "reduce_min", "reduce_or", "reduce_prod", "reduce_sum", "reduce_window_max", "reduce_window_sum", "reduce_xor",
})  # fmt: skip
_PARTS = frozenset({"dynamic_slice", "dynamic_update_slice", "gather", "scatter", "scatter-add", "scatter_add"})


def is_fused(primitive: str) -> bool:
    """Say whether a compiler computes the result where it is read."""
    return primitive in _ARITHMETIC or primitive in _MOVES or primitive.startswith("random_")


def touches_part(primitive: str) -> bool:
    """Say whether an operation reads or writes only a part of its first operand."""
    return primitive in _PARTS


def nbytes(aval: Any) -> int:
    """Return the bytes of an array; of what is no array (a token, a reference) none."""
    shape, dtype = getattr(aval, "shape", None), getattr(aval, "dtype", None)
    if shape is None or dtype is None:
        return 0
    try:
        size = int(np.dtype(dtype).itemsize)
    except TypeError:  # random keys: numbers of 32 bits behind
        size = int(getattr(dtype, "itemsize", 8))
    return math.prod(map(int, shape)) * size


def flops(eqn: Any) -> int:
    """Return the FLOPs of a matrix product or convolution; 0 for anything else."""
    if eqn.primitive.name in ("dot_general", "ragged_dot", "ragged_dot_general"):
        return _products(eqn)
    if eqn.primitive.name == "conv_general_dilated":
        return _convolution(eqn)
    return 0


def elementwise_operations(eqn: Any) -> int:
    """Return how many numbers are computed one by one."""
    name = eqn.primitive.name
    if name in _ARITHMETIC:
        return sum(math.prod(var.aval.shape) for var in eqn.outvars)
    if name in _REDUCTIONS or name in ("scatter-add", "scatter_add"):
        at = -1 if name.startswith("scatter") else 0
        return math.prod(eqn.invars[at].aval.shape)
    return 0


def _products(eqn: Any) -> int:
    out = math.prod(eqn.outvars[0].aval.shape)
    lhs = eqn.invars[0].aval.shape
    if eqn.primitive.name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        return 2 * out * math.prod(lhs[axis] for axis in contracted)
    numbers = eqn.params.get("ragged_dot_dimension_numbers")
    if numbers is None:
        return 2 * out * lhs[-1]
    (contracted, _), _ = numbers.dot_dimension_numbers
    ragged = set(numbers.lhs_ragged_dimensions)
    groups = eqn.invars[2].aval.shape[-1]  # a ragged axis that is summed over is shared out among the groups
    shared = groups if ragged & set(contracted) else 1
    return 2 * out * math.prod(lhs[axis] for axis in contracted) // shared


def _convolution(eqn: Any) -> int:
    """Count an input once for each entry of the kernel that meets it, and an output once for each that makes it.

    Along an axis the smaller of the two counts: a stride leaves inputs out, and a gradient has zeros between them.
    """
    numbers = eqn.params["dimension_numbers"]
    lhs, rhs, out = (var.aval.shape for var in (*eqn.invars[:2], eqn.outvars[0]))
    pairs = 1
    for of_lhs, of_rhs, of_out in zip(numbers.lhs_spec[2:], numbers.rhs_spec[2:], numbers.out_spec[2:], strict=True):
        pairs *= min(lhs[of_lhs], out[of_out]) * rhs[of_rhs]
    batch, features = out[numbers.out_spec[0]], out[numbers.out_spec[1]]
    return 2 * batch * features * rhs[numbers.rhs_spec[1]] * pairs
