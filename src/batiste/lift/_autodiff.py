"""``grad``, ``value_and_grad``, ``vjp``, ``jvp`` and ``custom_vjp`` of functions of modules.

Variables that a function makes on ``init`` are not there before it, so nothing is differentiated by them in that call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from batiste._arguments import function as checked
from batiste._arguments import mapping, refused, whole_numbers
from batiste.core import CollectionFilter, check_filter
from batiste.errors import SeveralScopesError
from batiste.lift._first import Body, FirstValues, all_shared, first_values
from batiste.lift._groups import region_of
from batiste.module import Groups, KeyGroups, Region, Written, wrap_method_once

__all__ = ["custom_vjp", "grad", "jvp", "value_and_grad", "vjp"]


class _Call(NamedTuple):
    """A call of a function of a module that is differentiated."""

    region: Region
    function: Callable[..., Any]
    mdl: Any
    made: FirstValues

    def run(self, groups: Groups, streams: KeyGroups, *inputs: Any) -> tuple[Any, Written]:
        """Run the function with these variables and keys; what notes first values needs the keys from outside."""
        streams = self.region.streams if self.made.is_noting else streams
        return self.made.run(Body(self.function, (self.mdl, *inputs), {}, groups), streams)

    def publish(self, written: Written) -> None:
        """Store what it made and wrote."""
        self.made.finish()
        self.region.publish(written)


def _call(
    name: str,
    fn: Callable[..., Any],
    args: tuple[Any, ...],
    variables: list[CollectionFilter],
    rngs: CollectionFilter,
    *,
    advice: str | None = None,
) -> _Call:
    """Return the call.

    Raises:
      SeveralScopesError: if ``advice`` is given and the module holds modules from elsewhere.
    """
    function = wrap_method_once(checked(fn, "fn", name, what="a function of a module"))
    for each in (*variables, rngs):
        check_filter(each)
    region = region_of(name, fn, args, {}, variables, [rngs])
    if advice is not None and len(region.scopes) > 1:
        paths = ", ".join(scope.path_text for scope in region.scopes)
        raise SeveralScopesError(transform=name, path=region.path, paths=paths, advice=advice)
    made = first_values(region, all_shared(region))
    return _Call(region, function, args[0], made)


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
      multi_scope: whether the cotangents of variables come as a list: modules that ``mdl`` holds and that belong
        elsewhere, by the names of their fields, then itself.

    Returns:
      ``(result, vjp_fn)`` or ``(result, vjp_fn, aux)``; ``vjp_fn(cotangent)`` gives the cotangents of the variables,
      by collection from the module down, and then of each primal.

    Raises:
      SeveralScopesError: if ``mdl`` holds modules from elsewhere, unless ``multi_scope`` is set.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> class Slopes(nn.Module):
      ...     @nn.compact
      ...     def __call__(self, x):
      ...         y, pull = nn.vjp(lambda layer, x: layer(x), nn.Dense(1), x)
      ...         by_variables, by_x = pull(jnp.ones_like(y))
      ...         return by_x
      >>> y, variables = Slopes().init_with_output(jax.random.key(0), jnp.ones((2, 3)))
      >>> y.shape
      (2, 3)
    """
    del reduce_axes
    advice = None if multi_scope else "Pass multi_scope=True, and get a list with the gradients of each, in this order."
    call = _call("vjp", fn, (mdl, *primals), [vjp_variables, variables], rngs, advice=advice)
    region = call.region

    def body(group: Any, *inputs: Any) -> Any:
        output, written = call.run((group, *region.variables[1:]), region.streams, *inputs)
        output, aux = output if has_aux else (output, None)
        return output, (aux, written)

    results = cast("tuple[Any, ...]", jax.vjp(body, region.variables[0], *primals, has_aux=True))
    output, pull, (aux, written) = results
    call.publish(written)
    pulled = jax.tree_util.Partial(_pull_all if multi_scope else _pull_first, pull)
    return (output, pulled, aux) if has_aux else (output, pulled)


def _pull_all(pull: Callable[..., Any], cotangent: Any) -> tuple[Any, ...]:
    variables, *primals = pull(cotangent)
    return (list(variables), *primals)


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

    Raises:
      SeveralScopesError: if ``mdl`` holds modules from elsewhere.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> class Slope(nn.Module):
      ...     @nn.compact
      ...     def __call__(self, x):
      ...         layer = nn.Dense(1, kernel_init=nn.initializers.ones)
      ...         return nn.jvp(nn.Dense.__call__, layer, (x,), (jnp.ones_like(x),), {})
      >>> (y, slope), _ = Slope().init_with_output(jax.random.key(0), jnp.zeros((1, 3)))
      >>> y.tolist(), slope.tolist()
      ([[0.0]], [[3.0]])
    """
    for argument, each in (("primals", primals), ("tangents", tangents)):
        if not isinstance(each, tuple | list):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise refused(each, argument, "jvp", "a tuple with an entry for each input", f"Write {argument}=(x,).")
    if len(primals) != len(tangents):
        raise refused(tangents, "tangents", "jvp", f"{len(primals)} entries, one for each of primals")
    advice = "Differentiate by arrays that you pass yourself, or call it on a module that owns what it uses."
    call = _call("jvp", fn, (mdl, *primals), [variables], rngs, advice=advice)
    region = call.region
    (held,) = region.variables[0]
    what = "a dict of tangents by collection"
    unknown = mapping(variable_tangents, "variable_tangents", "jvp", what=what).keys() - held.keys()
    if unknown:
        raise refused(variable_tangents, "variable_tangents", "jvp", f"tangents by {list(held)}", f"{sorted(unknown)}?")
    tangents_in = {collection: tree for collection, tree in variable_tangents.items() if jax.tree.leaves(tree)}
    moving = {collection: tree for collection, tree in held.items() if collection in tangents_in}

    def body(moved: Any, *inputs: Any) -> Any:
        return call.run((({**held, **moved},),), region.streams, *inputs)

    arguments, directions = (moving, *primals), (tangents_in, *tangents)
    (output, written), (tangent, _) = jax.jvp(body, arguments, directions)
    call.publish(written)
    return output, tangent


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

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> class Slope(nn.Module):
      ...     @nn.compact
      ...     def __call__(self, x):
      ...         layer = nn.Dense(1, kernel_init=nn.initializers.ones)
      ...         return nn.value_and_grad(lambda layer, x: layer(x).sum(), layer, x)
      >>> result, _ = Slope().init_with_output(jax.random.key(0), jnp.zeros((1, 3)))
      >>> y, (slope,) = result
      >>> y.tolist(), slope.tolist()
      (0.0, [[1.0, 1.0, 1.0]])
    """
    del reduce_axes
    call = _call("value_and_grad", fn, (mdl, *primals), [variables], rngs)
    region = call.region

    def body(inputs: tuple[Any, ...]) -> Any:
        output, written = call.run(region.variables, region.streams, *inputs)
        value, aux = output if has_aux else (output, None)
        return value, (aux, written)

    (value, (aux, written)), gradients = jax.value_and_grad(body, has_aux=True)(primals)
    call.publish(written)
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

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> class Slope(nn.Module):
      ...     @nn.compact
      ...     def __call__(self, x):
      ...         layer = nn.Dense(1, kernel_init=nn.initializers.ones)
      ...         return nn.grad(lambda layer, x: layer(x).sum(), layer, x)
      >>> (slope,), _ = Slope().init_with_output(jax.random.key(0), jnp.zeros((1, 3)))
      >>> slope.tolist()
      [[1.0, 1.0, 1.0]]
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
      backward_fn: called as ``backward_fn(*nondiff_args, residuals, cotangent)``; returns the cotangents of the
        variables (by collection, from the module down) and then of each other argument.
      grad_vars: the collections that cotangents are given for.
      nondiff_argnums: arguments without cotangents, counted with the module as 0.

    Returns:
      A function ``(module, *args)``; it raises ``SeveralScopesError`` if the module holds modules from elsewhere.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> class Clipped(nn.Module):
      ...     @nn.compact
      ...     def __call__(self, x):
      ...         def forward(layer, x):
      ...             return nn.vjp(lambda layer, x: layer(x), layer, x)
      ...
      ...         def backward(pull, cotangent):
      ...             return pull(jnp.clip(cotangent, -1, 1))
      ...
      ...         run = nn.custom_vjp(lambda layer, x: layer(x), forward, backward)
      ...         return run(nn.Dense(1, kernel_init=nn.initializers.ones), x)
      >>> variables = Clipped().init(jax.random.key(0), jnp.ones((1, 3)))
      >>> loss = lambda x: 5 * Clipped().apply(variables, x).sum()
      >>> jax.grad(loss)(jnp.ones((1, 3))).tolist()
      [[1.0, 1.0, 1.0]]
    """
    numbers = whole_numbers(nondiff_argnums, "nondiff_argnums", "custom_vjp")
    for argument, each in (("fn", fn), ("forward_fn", forward_fn), ("backward_fn", backward_fn)):
        checked(each, argument, "custom_vjp")
    check_filter(grad_vars)

    def differentiable(mdl: Any, *args: Any) -> Any:
        advice = "Call it on a module that owns what it uses."
        call = _call("custom_vjp", fn, (mdl, *args), [grad_vars, True], True, advice=advice)
        region = call.region
        call_forward = call._replace(function=wrap_method_once(forward_fn))

        def run_forward(groups: Any, keys: Any, *inputs: Any) -> Any:
            (output, residuals), written = call_forward.run(groups, keys, *inputs)
            zeros: Any = jax.tree.map(_zeros, groups[1:])
            return (output, written), (residuals, zeros, keys)

        def run_backward(*held: Any) -> Any:
            *fixed, (residuals, zeros, keys), (cotangent, _) = held
            variables, *inputs = backward_fn(*fixed, residuals, cotangent)
            return (((variables,), *zeros), jax.tree.map(_no_tangent, keys), *inputs)

        shifted = tuple(number + 1 for number in numbers)  # groups and keys stand where the module stood
        make: Any = jax.custom_vjp
        transformed = make(call.run, nondiff_argnums=shifted)
        transformed.defvjp(run_forward, run_backward)
        output, written = transformed(region.variables, region.streams, *args)
        call.publish(written)
        return output

    return differentiable


def _zeros(value: Any) -> Any:
    return jnp.zeros_like(value)


def _no_tangent(key: Any) -> Any:
    return np.zeros(key.shape, jax.dtypes.float0)
