"""What the equations of a program cost: the operations of matrix products and convolutions, by the call they belong to.

The body of a loop counts as often as it runs, a branch as the dearest. A product of ``[m, k]`` and ``[k, n]`` counts
``2 m k n``, a convolution twice the products of its kernel; what is computed number by number is not counted, as in
the usual analytic counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from batiste.core import flops
from batiste.diagnose._evaluate import called, is_branch
from batiste.diagnose._program import Place, inner_jaxprs, is_closed, place_of

__all__ = ["Costed", "costed"]


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
            yield Costed(equation, at, times, times * flops(equation))
