"""The value of a traced program: two traces that compute the same have one, wherever they come from.

What a program computes is all in its trace, so that what is compiled may be kept by it, whatever the function read when
it was traced: a setting that has changed gives another trace.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from batiste.core._fingerprint import ByIdentity, Fingerprint, fingerprint
from batiste.core._trace import is_closed_jaxpr, is_jaxpr, is_literal

__all__ = ["program_value"]


def program_value(closed_jaxpr: Any) -> Fingerprint:
    """Return the value of a trace: its operations, their parameters and its constants.

    It is by value unless the trace has a large constant, a tracer, or calls a function that is not known by value.
    """
    return fingerprint(_closed(closed_jaxpr))


def _closed(closed_jaxpr: Any) -> Any:
    return (_open(closed_jaxpr.jaxpr), tuple(closed_jaxpr.consts))


def _open(jaxpr: Any) -> Any:
    numbers: dict[Any, int] = {}

    def named(atom: Any) -> Any:
        if is_literal(atom):
            return (np.asarray(atom.val), _of_jax(atom.aval))
        if atom not in numbers:
            numbers[atom] = len(numbers)
            return (numbers[atom], _of_jax(atom.aval))
        return numbers[atom]

    first = tuple(map(named, (*jaxpr.constvars, *jaxpr.invars)))
    equations = tuple(
        (
            equation.primitive.name,
            tuple(map(named, equation.invars)),
            tuple((name, _parameter(value)) for name, value in sorted(equation.params.items())),
            tuple(map(named, equation.outvars)),
        )
        for equation in jaxpr.eqns
    )
    return (first, equations, tuple(map(named, jaxpr.outvars)))


def _parameter(value: Any) -> Any:
    if is_closed_jaxpr(value):
        return _closed(value)
    if is_jaxpr(value):
        return _open(value)
    if isinstance(value, tuple | list):
        return tuple(map(_parameter, cast("tuple[Any, ...]", value)))
    if isinstance(value, Mapping):
        return tuple((name, _parameter(inner)) for name, inner in cast("Mapping[Any, Any]", value).items())
    return _of_jax(value)


def _of_jax(value: Any) -> Any:
    """Return what an object of JAX within a trace counts by: itself, where it has no ``==``; it does not change."""
    kind = cast("Any", type(value))
    is_own = str(kind.__module__).partition(".")[0] in {"jax", "jaxlib"} and not hasattr(value, "__wrapped__")
    return ByIdentity(value) if is_own and kind.__hash__ is object.__hash__ else value
