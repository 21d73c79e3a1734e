"""``grad``, ``value_and_grad``, ``vjp``, ``jvp`` and ``custom_vjp`` of functions of modules.

On ``init`` the function is run once as it is, so that its variables are there before anything is differentiated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from batiste.core import CollectionFilter
from batiste.lift._region import Region
from batiste.module import wrap_method_once

__all__ = ["custom_vjp", "grad", "jvp", "value_and_grad", "vjp"]


def _region(
    name: str, fn: Callable[..., Any], args: tuple[Any, ...], variables: list[CollectionFilter], rngs: CollectionFilter
) -> tuple[Region, Callable[..., Any]]:
    function = wrap_method_once(fn)
    region = Region(name, fn, args, variables, [rngs])
    return region.rehearse(function, args, {}, keep=[True] * len(variables)), function


def vjp(
    fn: Callable[..., Any],
    mdl: Any,
    *primals: Any,
    has_aux: bool = False,
    reduce_axes: tuple[str, ...] = (),
    vjp_variables: CollectionFilter = "params",
    variables: CollectionFilter = True,
    rngs: CollectionFilter = True,
    multi_scope: bool = False,
) -> Any:
    """Return ``fn(mdl, *primals)`` and the function from its cotangent to those of variables and primals.

    Args:
      fn: a function whose first argument is a module.
      mdl: a bound module.
      *primals: arrays, or trees of them.
      has_aux: whether ``fn`` returns a pair of the result and something beside it.
      reduce_axes: accepted for Flax's signature; JAX no longer takes it.
      vjp_variables: the collections that cotangents are wanted for.
      variables: the other collections that are seen inside.
      rngs: the random streams that are seen inside.
      multi_scope: whether cotangents come as a tuple, one entry for each outermost scope of ``mdl``.

    Returns:
      ``(result, vjp_fn)`` or ``(result, vjp_fn, aux)``; ``vjp_fn(cotangent)`` gives the cotangents of the variables,
      by collection from the module down, and then of each primal.
    """
    del reduce_axes
    region, function = _region("vjp", fn, (mdl, *primals), [vjp_variables, variables], rngs)

    def body(group: Any, *inputs: Any) -> Any:
        output, written = region.run(function, (group, *region.groups[1:]), region.streams, (mdl, *inputs), {})
        output, aux = output if has_aux else (output, None)
        return output, (aux, written)

    output, pull, (aux, written) = jax.vjp(body, region.groups[0], *primals, has_aux=True)
    region.finish(written)
    pulled = jax.tree_util.Partial(_pull_all if multi_scope else _pull_first, pull)
    return (output, pulled, aux) if has_aux else (output, pulled)


def _pull_all(pull: Callable[..., Any], cotangent: Any) -> tuple[Any, ...]:
    return pull(cotangent)


def _pull_first(pull: Callable[..., Any], cotangent: Any) -> tuple[Any, ...]:
    variables, *primals = pull(cotangent)
    return (variables[0], *primals)


def jvp(
    fn: Callable[..., Any],
    mdl: Any,
    primals: tuple[Any, ...],
    tangents: tuple[Any, ...],
    variable_tangents: Any,
    variables: CollectionFilter = True,
    rngs: CollectionFilter = True,
) -> tuple[Any, Any]:
    """Return ``fn(mdl, *primals)`` and its derivative along tangents of primals and variables.

    Args:
      fn: a function whose first argument is a module.
      mdl: a bound module.
      primals: the arguments after the module.
      tangents: a tangent for each of them.
      variable_tangents: tangents by collection, from the module down; collections that are not given do not move.
      variables: the collections that are seen inside.
      rngs: the random streams that are seen inside.
    """
    region, function = _region("jvp", fn, (mdl, *primals), [variables], rngs)
    moving = tuple(
        {c: tree for c, tree in held.items() if c in moved}
        for held, moved in zip(region.groups[0], _per_scope(variable_tangents), strict=True)
    )

    def body(group: Any, *inputs: Any) -> Any:
        merged = tuple({**held, **moved} for held, moved in zip(region.groups[0], group, strict=True))
        return region.run(function, (merged,), region.streams, (mdl, *inputs), {})

    arguments, directions = (moving, *primals), (_per_scope(variable_tangents), *tangents)
    (output, written), (tangent, _) = jax.jvp(body, arguments, directions)
    region.finish(written)
    return output, tangent


def _per_scope(tangents: Any) -> tuple[Any, ...]:
    return tangents if isinstance(tangents, tuple) else (tangents,)


def value_and_grad(
    fn: Callable[..., Any],
    mdl: Any,
    *primals: Any,
    has_aux: bool = False,
    reduce_axes: tuple[str, ...] = (),
    variables: CollectionFilter = True,
    rngs: CollectionFilter = True,
) -> Any:
    """Return ``fn(mdl, *primals)``, a scalar, and its gradient by the primals (not by variables; see ``vjp``).

    Args:
      fn: a function whose first argument is a module.
      mdl: a bound module.
      *primals: the arguments after the module.
      has_aux: whether ``fn`` returns a pair of the scalar and something beside it.
      reduce_axes: accepted for Flax's signature; JAX no longer takes it.
      variables: the collections that are seen inside.
      rngs: the random streams that are seen inside.

    Returns:
      ``(value, gradients)``, or ``((value, aux), gradients)``; the gradients are a tuple, one for each primal.
    """
    del reduce_axes
    region, function = _region("value_and_grad", fn, (mdl, *primals), [variables], rngs)

    def body(*inputs: Any) -> Any:
        output, written = region.run(function, region.groups, region.streams, (mdl, *inputs), {})
        value, aux = output if has_aux else (output, None)
        return value, (aux, written)

    numbers = tuple(range(len(primals)))
    (value, (aux, written)), gradients = jax.value_and_grad(body, argnums=numbers, has_aux=True)(*primals)
    region.finish(written)

    return ((value, aux), gradients) if has_aux else (value, gradients)


def grad(
    fn: Callable[..., Any],
    mdl: Any,
    *primals: Any,
    has_aux: bool = False,
    reduce_axes: tuple[str, ...] = (),
    variables: CollectionFilter = True,
    rngs: CollectionFilter = True,
) -> Any:
    """Return the gradient of ``fn(mdl, *primals)`` by the primals; see ``value_and_grad``.

    Args:
      fn: a function whose first argument is a module.
      mdl: a bound module.
      *primals: the arguments after the module.
      has_aux: whether ``fn`` returns a pair of the scalar and something beside it.
      reduce_axes: accepted for Flax's signature; JAX no longer takes it.
      variables: the collections that are seen inside.
      rngs: the random streams that are seen inside.

    Returns:
      The gradients, or a pair of them and what ``fn`` returned beside the scalar.
    """
    value, gradients = value_and_grad(
        fn, mdl, *primals, has_aux=has_aux, reduce_axes=reduce_axes, variables=variables, rngs=rngs
    )
    return (gradients, value[1]) if has_aux else gradients


def custom_vjp(
    fn: Callable[..., Any],
    forward_fn: Callable[..., Any],
    backward_fn: Callable[..., Any],
    grad_vars: CollectionFilter = "params",
    nondiff_argnums: int | tuple[int, ...] = (),
) -> Callable[..., Any]:
    """Return a function of a module with a gradient of its own.

    Args:
      fn: called as ``fn(module, *args)`` where no gradient is taken.
      forward_fn: called in its place where one is; returns the result and residuals.
      backward_fn: called as ``backward_fn(*nondiff_args, residuals, cotangent)``; returns the cotangents of the variables
        (by collection, from the module down) and then of each other argument.
      grad_vars: the collections that cotangents are given for.
      nondiff_argnums: arguments without cotangents, counted with the module as 0.
    """
    numbers = (nondiff_argnums,) if isinstance(nondiff_argnums, int) else tuple(nondiff_argnums)

    def call(mdl: Any, *args: Any) -> Any:
        region, function = _region("custom_vjp", fn, (mdl, *args), [grad_vars, True], True)
        forward = wrap_method_once(forward_fn)
        streams = region.streams

        def run(groups: Any, keys: Any, *inputs: Any) -> Any:
            return region.run(function, groups, keys, (mdl, *inputs), {})

        def run_forward(groups: Any, keys: Any, *inputs: Any) -> Any:
            (output, residuals), written = region.run(forward, groups, keys, (mdl, *inputs), {})
            zeros = jax.tree.map(jax.numpy.zeros_like, groups[1:])
            return (output, written), (residuals, zeros, keys)

        def run_backward(*held: Any) -> Any:
            *fixed, (residuals, zeros, keys), (cotangent, _) = held
            variables, *inputs = backward_fn(*fixed, residuals, cotangent)
            first = variables if isinstance(variables, tuple) else (variables,)
            return ((first, *zeros), jax.tree.map(_no_tangent, keys), *inputs)

        shifted = tuple(number + 1 for number in numbers)  # groups and keys stand where the module stood
        transformed: Any = jax.custom_vjp(run, nondiff_argnums=shifted)
        transformed.defvjp(run_forward, run_backward)
        output, written = transformed(region.groups, streams, *args)
        region.finish(written)
        return output

    return call


def _no_tangent(key: Any) -> Any:
    return np.zeros(key.shape, jax.dtypes.float0)
