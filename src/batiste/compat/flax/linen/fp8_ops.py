"""Products in 8-bit floating point: ``flax.linen.fp8_ops``.

The rules of differentiation behind these functions have no names of their own here.
"""

from __future__ import annotations

from batiste.nn.fp8_ops import (
    Fp8DirectDotGeneralOp,
    Fp8DotGeneral,
    Fp8DotGeneralBase,
    Fp8DotGeneralOp,
    Fp8Einsum,
    NANOOFp8DotGeneralOp,
    compute_amax_history,
    compute_scale,
    dequantize,
    dot_general_with_precision,
    fp8_scaled_dot_general,
    get_fp8_max,
    in_q,
    in_qdq,
    out_dq,
    out_qdq,
    qdq,
    quantize,
    quantize_dequantize_update,
    quantized_dot,
    update_fp8_meta,
)

__all__ = [
    "Fp8DirectDotGeneralOp",
    "Fp8DotGeneral",
    "Fp8DotGeneralBase",
    "Fp8DotGeneralOp",
    "Fp8Einsum",
    "NANOOFp8DotGeneralOp",
    "OVERWRITE_WITH_GRADIENT",
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

OVERWRITE_WITH_GRADIENT = "_overwrite_with_gradient"
"""The collection whose variables a training step replaces by their gradients."""
