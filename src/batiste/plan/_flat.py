"""A traced program as one list of steps: calls are put in their place, loops and branches stay.

``jax.jit``, ``jax.checkpoint`` and custom derivatives are calls of a program within a program. What a value costs, and
how long it lives, does not stop at their borders, so each call is replaced by its equations. Values get numbers, since
one inner program may be called more than once.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from jax.extend.core import Literal

from batiste.plan._names import Pass, Place, place_of

__all__ = ["Body", "Step", "flat", "inner"]

_CALLS = ("jaxpr", "call_jaxpr", "fun_jaxpr")
_NOT_CALLS = frozenset({"scan", "while", "cond", "shard_map", "pallas_call", "scatter", "reduce", "custom_root"})


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """One equation.

    Attributes:
      eqn: JAX's equation.
      name: the name of its primitive.
      ins: the numbers of its operands; None for a number written into the program.
      outs: the numbers of its results.
      place: the module and the pass that it belongs to, within the program.
    """

    eqn: Any
    name: str
    ins: tuple[int | None, ...]
    outs: tuple[int, ...]
    place: Place


@dataclasses.dataclass(frozen=True, slots=True)
class Body:
    """A program.

    Attributes:
      steps: its equations, in order.
      ins: the numbers of its arguments.
      outs: the numbers of its results; None for one that is written into the program.
      avals: the shape and dtype of each value by number.
    """

    steps: tuple[Step, ...]
    ins: tuple[int, ...]
    outs: tuple[int | None, ...]
    avals: tuple[Any, ...]


def inner(program: Any) -> Any:
    """Return the program without the constants that it is closed over."""
    return getattr(program, "jaxpr", program)


def flat(program: Any) -> Body:
    """Return a program of JAX, closed or not, as one list of steps."""
    jaxpr = inner(program)
    building = _Building()
    ins = tuple(building.new(var.aval) for var in jaxpr.invars)
    outs = building.put(jaxpr, list(ins), ((), Pass.FORWARD))
    return Body(_used(building.steps, outs), ins, tuple(outs), tuple(building.avals))


def _used(steps: list[Step], outs: list[int | None]) -> tuple[Step, ...]:
    """Return the steps that a result depends on, and those with an effect; a compiler drops the others as well."""
    asked = set(outs)
    kept: list[Step] = []
    for step in reversed(steps):
        if asked.intersection(step.outs) or step.eqn.effects:
            asked.update(step.ins)
            kept.append(step)
    return tuple(reversed(kept))


class _Building:
    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.avals: list[Any] = []

    def new(self, aval: Any) -> int:
        self.avals.append(aval)
        return len(self.avals) - 1

    def put(self, jaxpr: Any, ins: list[int | None], around: Place) -> list[int | None]:
        """Add the equations of ``jaxpr``, called with values ``ins``; return its results."""
        numbers: dict[Any, int | None] = dict(zip(jaxpr.invars, ins, strict=True))
        for var in jaxpr.constvars:
            numbers[var] = self.new(var.aval)

        def number(atom: Any) -> int | None:
            return None if isinstance(atom, Literal) else numbers[atom]

        for eqn in jaxpr.eqns:
            place = place_of(around, str(eqn.source_info.name_stack))
            given = [number(atom) for atom in eqn.invars]
            called = _called(eqn)
            if called is None:
                made: list[int | None] = [self.new(var.aval) for var in eqn.outvars]
                outs = tuple(value for value in made if value is not None)
                self.steps.append(Step(eqn, eqn.primitive.name, tuple(given), outs, place))
            else:
                made = self.put(called, given, place)
            numbers.update(zip(eqn.outvars, made, strict=True))
        return [number(atom) for atom in jaxpr.outvars]


def _called(eqn: Any) -> Any:
    """Return the program that an equation calls once with its own operands; None for any other equation."""
    if eqn.primitive.name in _NOT_CALLS:
        return None
    for name in _CALLS:
        program = inner(eqn.params.get(name))
        if hasattr(program, "eqns") and len(program.invars) == len(eqn.invars):
            return program if len(program.outvars) == len(eqn.outvars) else None
    return None
