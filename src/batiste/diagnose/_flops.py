"""What the equations of a program cost: the operations of matrix products and convolutions, by the call they belong to.

The body of a loop counts as often as it runs, a branch as the dearest. A product of ``[m, k]`` and ``[k, n]`` counts
``2 m k n``, a convolution twice the products of its kernel; what is computed number by number is not counted, as in
the usual analytic counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from batiste.diagnose._evaluate import called, is_branch
from batiste.diagnose._program import Place, inner_jaxprs, is_closed, place_of

__all__ = ["Costed", "costed", "equation_flops", "nbytes"]


class Costed(NamedTuple):
    """An equation that holds no program of its own.

    Attributes:
      equation: the equation.
      place: where it stands.
      times: how often it runs.
      flops: the operations of all its runs.
    """

    equation: Any
    place: Place
    times: int
    flops: int


def costed(jaxpr: Any, place: Place = Place(), times: int = 1) -> Iterator[Costed]:  # noqa: B008 - an immutable value
    """Yield every equation of a program and of the programs within it."""
    for equation in jaxpr.eqns:
        at = place_of(equation, place)
        name = equation.primitive.name
        if is_branch(equation):
            branches = [list(costed(branch.jaxpr, at, times)) for branch in equation.params["branches"]]
            yield from max(branches, key=lambda each: sum(one.flops for one in each))
        elif name == "while":
            for key, inner in inner_jaxprs(equation):
                if key == "body_jaxpr":
                    yield from costed(inner.jaxpr, at, times)
        elif (inner := called(equation)) is not None:
            length = equation.params["length"] if name == "scan" else 1
            yield from costed(inner.jaxpr if is_closed(inner) else inner, at, times * length)
        else:
            yield Costed(equation, at, times, times * equation_flops(equation))


def equation_flops(equation: Any) -> int:
    """Return the operations of one run of an equation; 0 for what is no product and no convolution."""
    name = equation.primitive.name
    if name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(shape[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        numbers = equation.params["dimension_numbers"]
        outputs = kernel[numbers.rhs_spec[0]]
        groups = equation.params.get("batch_group_count", 1)
        return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) // max(1, outputs) // max(1, groups)
    if name in {"ragged_dot", "ragged_dot_general"}:
        return 2 * math.prod(equation.invars[0].aval.shape) * equation.outvars[0].aval.shape[-1]
    return 0


def nbytes(aval: Any) -> int:
    """Return the size of an array in memory."""
    return math.prod(map(int, aval.shape)) * getattr(aval.dtype, "itemsize", 8)
