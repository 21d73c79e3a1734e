"""What one equation of a program costs beside its products: arithmetic, and whether its result has to be in memory.

Matrix products and convolutions are counted by ``batiste.core.flops``. What is done number by number (sums,
exponentials, comparisons) is counted apart, one for each number that comes out.

A compiler *fuses* what is computed number by number into what reads it, so that it takes no memory of its own; which
operations these are is in the tables here.
"""

from __future__ import annotations

import math
from typing import Any

__all__ = ["elementwise_operations", "is_dear", "is_fused", "touches_part"]

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
_DEAR = frozenset({
    "acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "cbrt", "cos", "cosh", "digamma", "div", "erf",
    "erf_inv", "erfc", "exp", "exp2", "expm1", "lgamma", "log", "log1p", "logistic", "pow", "rem", "rsqrt", "sin",
    "sinh", "sqrt", "tan", "tanh",
})  # fmt: skip
_REDUCTIONS = frozenset({
    "argmax", "argmin", "cumlogsumexp", "cummax", "cummin", "cumprod", "cumsum", "reduce_and", "reduce_max",
    "reduce_min", "reduce_or", "reduce_prod", "reduce_sum", "reduce_window_max", "reduce_window_sum", "reduce_xor",
})  # fmt: skip
_PARTS = frozenset({"dynamic_slice", "dynamic_update_slice", "gather", "scatter", "scatter-add", "scatter_add"})


def is_fused(primitive: str) -> bool:
    """Say whether a compiler computes the result where it is read."""
    return primitive in _ARITHMETIC or primitive in _MOVES or primitive.startswith("random_")


def is_dear(primitive: str) -> bool:
    """Say whether a compiler computes the result once, also if it is read more often."""
    return primitive in _DEAR


def touches_part(primitive: str) -> bool:
    """Say whether an operation reads or writes only a part of its first operand."""
    return primitive in _PARTS


def elementwise_operations(eqn: Any) -> int:
    """Return how many numbers are computed one by one."""
    name = eqn.primitive.name
    if name in _ARITHMETIC:
        return sum(math.prod(var.aval.shape) for var in eqn.outvars)
    if name in _REDUCTIONS or name in ("scatter-add", "scatter_add"):
        at = -1 if name.startswith("scatter") else 0
        return math.prod(eqn.invars[at].aval.shape)
    return 0
