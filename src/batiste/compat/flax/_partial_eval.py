"""What of a function's outputs does not depend on inputs of which only the shape is known.

The function is traced once with abstract inputs. Then the traced operations are gone through in order: one whose inputs
are all known is computed, one with an unknown input makes unknown outputs, and a call (``jax.jit``, ``jax.checkpoint``,
a function with its own derivative) is gone into. An output that turned out known is returned as a value.

Everything is traced, so Python cannot branch on a value inside the function, be it a known one, and a loop with one
unknown input has unknown outputs only. Flax goes further in both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, cast

import jax
import jax.extend.core as jex_core

from batiste.core import is_tracer

__all__ = ["partial_eval"]

_CALLS = frozenset(
    {"checkpoint", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "jit", "pjit", "remat2"}
)
_BODIES = ("jaxpr", "call_jaxpr")


class _Computed:
    """Stands for an output that the traced operations compute."""


_COMPUTED: Final = _Computed()


def partial_eval(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Return the outputs of a function: a value where it is known, else a ``jax.ShapeDtypeStruct``.

    Args:
      fn: the function.
      *args: its inputs; a leaf that is a ``jax.ShapeDtypeStruct`` is not known.
      **kwargs: its inputs by name.
    """
    leaves, structure = _flatten((args, kwargs))
    unknown = {place: leaf for place, leaf in enumerate(leaves) if isinstance(leaf, jax.ShapeDtypeStruct)}
    if not unknown:
        return fn(*args, **kwargs)
    returned: list[Any] = []
    returned_structure: Any = None

    def flat(*stand_ins: Any) -> list[Any]:
        nonlocal returned, returned_structure
        filled = list(leaves)
        for place, stand_in in zip(unknown, stand_ins, strict=True):
            filled[place] = stand_in
        given_args, given_kwargs = jax.tree.unflatten(structure, filled)
        outputs, returned_structure = _flatten(fn(*given_args, **given_kwargs))
        traced = [value for value in outputs if is_tracer(value)]
        returned = [_COMPUTED if is_tracer(value) else value for value in outputs]  # no tracer is kept
        return traced

    closed = jax.make_jaxpr(flat)(*unknown.values())
    computed = iter(_run(closed.jaxpr, closed.consts, list(unknown.values())))
    outputs = [next(computed) if value is _COMPUTED else value for value in returned]
    return jax.tree.unflatten(returned_structure, outputs)


def _flatten(tree: Any) -> tuple[list[Any], Any]:
    return cast("Any", jax.tree.flatten(tree))


def _run(jaxpr: Any, consts: Any, inputs: list[Any]) -> list[Any]:
    """Go through the operations; a value that is not known is a ``jax.ShapeDtypeStruct``."""
    values: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
    values.update(zip(jaxpr.invars, inputs, strict=True))

    def read(variable: Any) -> Any:
        return variable.val if isinstance(variable, jex_core.Literal) else values[variable]

    for operation in jaxpr.eqns:
        given = [read(variable) for variable in operation.invars]
        body = _body(operation)
        if not any(isinstance(value, jax.ShapeDtypeStruct) for value in given):
            values.update(_computed(jaxpr, operation, values))
        elif body is not None:
            inner, inner_consts = (body.jaxpr, body.consts) if hasattr(body, "jaxpr") else (body, ())
            values.update(zip(operation.outvars, _run(inner, inner_consts, given), strict=True))
        else:
            values.update((made, jax.ShapeDtypeStruct(made.aval.shape, made.aval.dtype)) for made in operation.outvars)
    return [read(variable) for variable in jaxpr.outvars]


def _body(operation: Any) -> Any:
    """Return the traced function that an operation calls with its own inputs, if that is what it does."""
    if operation.primitive.name not in _CALLS:
        return None
    return next(operation.params[name] for name in _BODIES if name in operation.params)


def _computed(jaxpr: Any, operation: Any, values: dict[Any, Any]) -> Iterator[tuple[Any, Any]]:
    """Yield each output of one operation with its value."""
    inputs = list(dict.fromkeys(read for read in operation.invars if not isinstance(read, jex_core.Literal)))
    outputs = [made for made in operation.outvars if not isinstance(made, jex_core.DropVar)]
    alone = jaxpr.replace(constvars=(), invars=inputs, outvars=outputs, eqns=[operation])
    function = cast("Any", jex_core).jaxpr_as_fun(cast("Any", jex_core).ClosedJaxpr(alone, ()))
    yield from zip(outputs, function(*(values[read] for read in inputs)), strict=True)
