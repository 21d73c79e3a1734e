"""How a part of a traced program is run, by itself or with more outputs than it had.

What is run is run in the trace that is current: outside of ``jit`` it computes, inside it becomes a part of the new
program. The parameters of control flow are read here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import jax

from batiste.diagnose._program import is_closed, is_literal

__all__ = ["branch_of", "called", "is_branch", "is_used", "outputs_of", "parts_of_while", "read_all", "run_equation"]


def outputs_of(jaxpr: Any, values: Sequence[Any], atoms: Sequence[Any], equations: Sequence[Any] | None = None) -> Any:
    """Run a program and return some of its variables in place of its outputs.

    Args:
      jaxpr: the program.
      values: those of its constants and inputs.
      atoms: variables of it, and literals.
      equations: those of its equations that are run; all by default.
    """
    from jax.extend import core as jex_core

    core: Any = cast("Any", jex_core)  # JAX 0.12 does not export `ClosedJaxpr` to type checkers

    kept = list(jaxpr.eqns if equations is None else equations)
    effects: frozenset[Any] = frozenset[Any]().union(*(equation.effects for equation in kept))
    changed = jaxpr.replace(
        constvars=[], invars=[*jaxpr.constvars, *jaxpr.invars], outvars=list(atoms), eqns=kept, effects=effects
    )
    run: Callable[..., list[Any]] = core.jaxpr_as_fun(core.ClosedJaxpr(changed, []))
    return run(*values)


def run_equation(jaxpr: Any, equation: Any, values: Sequence[Any]) -> list[Any]:
    """Return the results of one equation of a program, given the values of all its inputs."""
    from jax.extend import core as jex_core

    core: Any = cast("Any", jex_core)  # JAX 0.12 does not export `ClosedJaxpr` to type checkers

    given = {atom: value for atom, value in zip(equation.invars, values, strict=True) if not is_literal(atom)}
    alone = jaxpr.replace(
        constvars=[], invars=list(given), outvars=list(equation.outvars), eqns=[equation], effects=equation.effects
    )
    run: Callable[..., list[Any]] = core.jaxpr_as_fun(core.ClosedJaxpr(alone, []))
    return run(*given.values())


def read_all(jaxpr: Any, values: Sequence[Any], atoms: Sequence[Any]) -> list[Any]:
    """Run as much of a program as some of its variables need, compiled; return their values."""
    needed = {atom for atom in atoms if not is_literal(atom)}
    kept: list[Any] = []
    for equation in reversed(jaxpr.eqns):
        if any(var in needed for var in equation.outvars):
            kept.append(equation)
            needed.update(atom for atom in equation.invars if not is_literal(atom))

    def run(given: list[Any]) -> list[Any]:
        return outputs_of(jaxpr, given, atoms, kept[::-1])

    return cast("list[Any]", jax.jit(run)(list(values)))


def is_used(var: Any) -> bool:
    """Return whether a result of an equation has a name, and so may be read."""
    return type(var).__name__ != "DropVar"


def is_branch(equation: Any) -> bool:
    """Return whether an equation runs one of several programs."""
    return "branches" in equation.params


def branch_of(equation: Any, values: Sequence[Any]) -> Any:
    """Return the program that a conditional runs, by its first operand."""
    branches = equation.params["branches"]
    return branches[max(0, min(int(values[0]), len(branches) - 1))]


def called(equation: Any) -> Any:
    """Return the program that an equation runs once on its operands, or None; of a conditional the first."""
    if is_branch(equation):
        return equation.params["branches"][0]
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        inner = equation.params.get(name)
        if inner is not None and (is_closed(inner) or hasattr(inner, "eqns")):
            return inner
    return None


def parts_of_while(equation: Any, values: Sequence[Any]) -> tuple[Any, Any, list[Any], list[Any], list[Any]]:
    """Return the condition and the body of a ``while``, the constants of each, and the carry."""
    params = equation.params
    first, both = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
    given = list(values)
    return params["cond_jaxpr"], params["body_jaxpr"], given[:first], given[first:both], given[both:]
