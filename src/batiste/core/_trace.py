"""The one place that asks JAX where it is in tracing. A new JAX is followed here first."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from typing import Any, cast

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

__all__ = [
    "CONCRETIZATION_ERRORS",
    "call_jaxpr",
    "current_trace",
    "depends_on",
    "ends_before",
    "has_tracer",
    "is_closed_jaxpr",
    "is_eager",
    "is_extended",
    "is_jaxpr",
    "is_literal",
    "is_tracer",
    "is_tracer_class",
    "replace_equations",
    "scan_extents",
    "without_unused",
]

CONCRETIZATION_ERRORS: tuple[type[Exception], ...] = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.NonConcreteBooleanIndexError,
)
"""What JAX raises where a program wants the value of an array that is only a shape in this trace."""


@functools.cache
def _extend() -> Any:
    """Return ``jax.extend.core``, which JAX does not load by itself; it loads Pallas, so it waits for its first use."""
    return importlib.import_module("jax.extend.core")


def current_trace() -> Any:
    """Return a value that is equal as long as JAX is in the same trace.

    Example:
      >>> import jax
      >>> from batiste import core
      >>> outside = core.current_trace()
      >>> core.current_trace() == outside
      True
      >>> jax.jit(lambda: print(core.current_trace() == outside))()
      False
    """
    return _extend().get_opaque_trace_state(convention="flax")


def is_tracer(value: Any) -> bool:
    """Return whether ``value`` stands for an array in a trace.

    Example:
      >>> import jax
      >>> from batiste import core
      >>> core.is_tracer(jax.numpy.ones(3))
      False
      >>> jax.jit(lambda x: print(core.is_tracer(x)))(1.0)
      True
    """
    return isinstance(value, jax.core.Tracer)


def is_tracer_class(kind: type) -> bool:
    """Return whether objects of a class stand for arrays within a trace.

    Example:
      >>> import jax
      >>> from batiste import core
      >>> core.is_tracer_class(jax.core.Tracer), core.is_tracer_class(float)
      (True, False)
    """
    return issubclass(kind, jax.core.Tracer)


def has_tracer(tree: Any) -> bool:
    """Return whether some leaf of ``tree`` is a tracer.

    Example:
      >>> import jax
      >>> from batiste import core
      >>> core.has_tracer({"w": 1.0})
      False
      >>> jax.jit(lambda x: print(core.has_tracer({"w": x})))(1.0)
      True
    """
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))


def ends_before(tree: Any, trace: Any) -> bool:
    """Return whether some leaf of ``tree`` belongs to a trace that began within ``trace``, and so ends before it.

    Args:
      tree: arrays, and other things.
      trace: a value of ``current_trace``, from here or from further out.
    """
    if current_trace() == trace:
        return False
    held: list[Any] = [leaf for leaf in jax.tree.leaves(tree) if is_tracer(leaf)]
    if not held:
        return False
    extend = _extend()
    with extend.take_current_trace() as within:
        pass
    ended: set[int] = set()
    while within is not None:
        with extend.set_current_trace(within):
            if current_trace() == trace:
                return any(id(leaf._trace) in ended for leaf in held)
        ended.add(id(within))
        within = getattr(within, "parent_trace", None)
    return True  # this JAX does not tell what is around a trace


def is_extended(dtype: Any) -> bool:
    """Return whether ``dtype`` is one of JAX's own element types (a random key), which has no zero."""
    return jnp.issubdtype(dtype, jax.dtypes.extended)


def call_jaxpr(closed_jaxpr: Any, *arguments: Any) -> list[Any]:
    """Run a closed jaxpr in the trace that is current now.

    Example:
      >>> import jax
      >>> from batiste import core
      >>> program = jax.make_jaxpr(lambda x: (x + 1, 2 * x))(0.0)
      >>> [float(value) for value in core.call_jaxpr(program, 3.0)]
      [4.0, 6.0]
    """
    run = cast("Callable[..., list[Any]]", _extend().jaxpr_as_fun(closed_jaxpr))
    atoms = closed_jaxpr.jaxpr.outvars
    return [_written(atom) if is_literal(atom) else value for atom, value in zip(atoms, run(*arguments), strict=True)]


def _written(literal: Any) -> Any:
    """Return the array of a number that is written in, which JAX hands back as Python's or NumPy's."""
    is_weak = literal.aval.weak_type and literal.aval.shape == ()
    return jnp.asarray(np.asarray(literal.val).item()) if is_weak else jnp.asarray(literal.val, literal.aval.dtype)


def without_unused(closed_jaxpr: Any) -> Any:
    """Return the closed jaxpr without the equations that its results do not need, be they effects (a callback)."""
    jaxpr = closed_jaxpr.jaxpr
    needed = {atom for atom in jaxpr.outvars if not is_literal(atom)}
    kept: list[Any] = []
    for equation in reversed(jaxpr.eqns):
        if any(var in needed for var in equation.outvars):
            kept.append(equation)
            needed.update(atom for atom in equation.invars if not is_literal(atom))
    return _extend().ClosedJaxpr(replace_equations(jaxpr, kept[::-1]), closed_jaxpr.consts)


def replace_equations(jaxpr: Any, equations: list[Any], **more: Any) -> Any:
    """Return a jaxpr with other equations, and with other inputs (``invars``) and outputs (``outvars``) if given."""
    effects: frozenset[Any] = frozenset[Any]().union(*(equation.effects for equation in equations))
    return jaxpr.replace(eqns=equations, effects=effects, **more)


def is_closed_jaxpr(value: Any) -> bool:
    """Return whether ``value`` is a traced program with its constants."""
    return isinstance(value, _extend().ClosedJaxpr)


def is_jaxpr(value: Any) -> bool:
    """Return whether ``value`` is a traced program without its constants."""
    return isinstance(value, _extend().Jaxpr)


def is_literal(atom: Any) -> bool:
    """Return whether an input of an equation is a number that is written in."""
    return isinstance(atom, _extend().Literal)


def depends_on(jaxpr: Any, marks: list[bool]) -> list[bool]:
    """Return for each output of ``jaxpr`` whether it may depend on an input that is marked.

    Calls and loops are looked into; an operation of another kind makes all its outputs depend on all its inputs.
    """
    marked: set[Any] = {var for var, mark in zip(jaxpr.invars, marks, strict=True) if mark}

    def is_marked(atom: Any) -> bool:
        return not is_literal(atom) and atom in marked

    for equation in jaxpr.eqns:
        inputs = [is_marked(atom) for atom in equation.invars]
        if any(inputs):
            outputs = _equation_depends_on(equation, inputs)
            marked.update(var for var, mark in zip(equation.outvars, outputs, strict=True) if mark)
    return [is_marked(atom) for atom in jaxpr.outvars]


def _equation_depends_on(equation: Any, marks: list[bool]) -> list[bool]:
    inner = equation.params.get("jaxpr") or equation.params.get("call_jaxpr")
    inner = getattr(inner, "jaxpr", inner)
    if inner is None or len(inner.invars) != len(marks) or len(inner.outvars) != len(equation.outvars):
        return [True] * len(equation.outvars)
    if equation.primitive.name != "scan":
        return depends_on(inner, marks)
    extents = scan_extents(equation.params)
    if extents is None:
        return [True] * len(equation.outvars)
    first, carried = extents
    while True:  # what the carry depends on grows until it is stable
        outputs = depends_on(inner, marks)
        grown = [mark or new for mark, new in zip(marks[first : first + carried], outputs, strict=False)]
        if grown == marks[first : first + carried]:
            return outputs
        marks = marks[:first] + grown + marks[first + carried :]


def scan_extents(params: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return how many inputs of a ``scan`` are constants, and how many are carried; None if it does not tell.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from batiste import core
      >>> add = lambda total, x: (total + x, None)
      >>> program = jax.make_jaxpr(lambda xs: jax.lax.scan(add, 0.0, xs))(jnp.ones(3))
      >>> core.scan_extents(program.eqns[-1].params)
      (0, 1)
    """
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    unpack = getattr(params.get("ft_in"), "unpack", None)  # of a newer JAX: constants, carry, inputs
    parts = [] if unpack is None else [list(part) for part in unpack()]
    return (len(parts[0]), len(parts[1])) if len(parts) == 3 else None


@functools.cache
def _eager_trace() -> Any:
    with jax.core.eval_context():
        return current_trace()


def is_eager(trace: Any) -> bool:
    """Return whether a value of ``current_trace`` means that operations are run, not traced.

    Example:
      >>> import jax
      >>> from batiste import core
      >>> core.is_eager(core.current_trace())
      True
      >>> jax.jit(lambda: print(core.is_eager(core.current_trace())))()
      False
    """
    return trace == _eager_trace()
