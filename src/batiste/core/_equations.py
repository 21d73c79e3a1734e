"""What one equation of a program takes: its matrix products and convolutions, and the bytes of its arrays.

*FLOPs* are two for each product of two numbers, as the field counts them for the utilisation of a chip. Zeros that a
stride puts between entries are not multiplied, those of padding are. What is done number by number does not count.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

__all__ = ["flops", "nbytes"]


def nbytes(aval: Any) -> int:
    """Return the bytes of an array; of what is no array (a token, a reference) none.

    Example:
      >>> import jax
      >>> from batiste import core
      >>> core.nbytes(jax.ShapeDtypeStruct((2, 3), "float32")), core.nbytes("no array")
      (24, 0)
    """
    shape, dtype = getattr(aval, "shape", None), getattr(aval, "dtype", None)
    if shape is None or dtype is None:
        return 0
    try:
        size = int(np.dtype(dtype).itemsize)
    except TypeError:  # random keys: numbers of 32 bits behind
        size = int(getattr(dtype, "itemsize", 8))
    return math.prod(map(int, shape)) * size


def flops(eqn: Any) -> int:
    """Return the FLOPs of a matrix product or convolution; 0 for anything else.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from batiste import core
      >>> program = jax.make_jaxpr(jnp.dot)(jnp.ones((2, 3)), jnp.ones((3, 4)))
      >>> [core.flops(equation) for equation in program.eqns]
      [48]
    """
    if eqn.primitive.name in ("dot_general", "ragged_dot", "ragged_dot_general"):
        return _products(eqn)
    if eqn.primitive.name == "conv_general_dilated":
        return _convolution(eqn)
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
