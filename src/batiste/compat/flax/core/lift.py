"""Lifted transforms over functions of scopes: ``flax.core.lift``.

batiste's transforms take functions of modules. Here a function of a scope is taken for a function of a **place**, a
module without anything of its own that stands at the scope; the transform moves the place, and the function gets the
scope that it stands at then. Several scopes go together as a tuple, a list or a dict of them.

What the arguments of a transform mean is said once, at the function of ``batiste.lift`` with its name: where that takes
a module, this takes a scope. What is said here is in what they differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar, cast

import jax

from batiste.compat.flax.core._scope import with_flags
from batiste.core import CollectionFilter, Scope
from batiste.lift import In, Out
from batiste.lift import cond as _cond
from batiste.lift import custom_vjp as _custom_vjp
from batiste.lift import fold_rngs as _fold_rngs
from batiste.lift import jit as _jit
from batiste.lift import jvp as _jvp
from batiste.lift import map_variables as _map_variables
from batiste.lift import remat as _remat
from batiste.lift import remat_scan as _remat_scan
from batiste.lift import scan as _scan
from batiste.lift import switch as _switch
from batiste.lift import value_and_grad as _value_and_grad
from batiste.lift import vjp as _vjp
from batiste.lift import vmap as _vmap
from batiste.lift import while_loop as _while_loop
from batiste.module import Module

__all__ = [
    "In",
    "Out",
    "checkpoint",
    "cond",
    "custom_vjp",
    "fold_rngs",
    "id_fn",
    "jit",
    "jvp",
    "map_variables",
    "remat",
    "remat_scan",
    "scan",
    "swap_collection",
    "switch",
    "value_and_grad",
    "vjp",
    "vmap",
    "while_loop",
]

T = TypeVar("T")
_NOTHING: Mapping[Any, Any] = MappingProxyType({})
_EVERY: Mapping[Any, Any] = MappingProxyType({True: 0})
_SPLIT: Mapping[Any, Any] = MappingProxyType({True: True})


class _Place(Module):
    """Stands at a scope, or at several; what it holds beside the scope is how they are arranged, and their flags."""

    others: Any = ()
    arrangement: Any = None
    flags: Any = None


def _place(scopes: Any) -> Any:
    """Return the place at a scope, or at a tree of them."""
    if isinstance(scopes, Scope):
        return _Place(parent=scopes, flags=getattr(scopes, "flags", {}))
    first, *others = jax.tree.leaves(scopes)
    arrangement = cast("Any", jax.tree.structure(scopes))
    place = _Place(arrangement=arrangement, parent=first, flags=getattr(first, "flags", {}))
    place.__dict__["others"] = tuple(_place(scope) for scope in others)  # not as children of the first
    return place


def _scopes(place: Any) -> Any:
    """Return the scope, or the tree of scopes, that a place stands at."""
    if place.arrangement is None:
        return with_flags(place.scope, place.flags)
    scopes = [with_flags(each.scope, each.flags) for each in (place, *place.others)]
    return jax.tree.unflatten(place.arrangement, scopes)


def _of_place(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of a place from one of its scope."""

    def placed(place: Any, *args: Any, **kwargs: Any) -> Any:
        return function(_scopes(place), *args, **kwargs)

    placed.__name__ = getattr(function, "__name__", type(function).__name__)
    return placed


def _of_scope(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of a scope from one of a place."""

    def inner(scope: Any, *args: Any, **kwargs: Any) -> Any:  # the name that `scope.child` finds in Flax, too
        return function(_place(scope), *args, **kwargs)

    return inner


def id_fn(x: T) -> T:
    """Return what is given."""
    return x


def map_variables(
    fn: Callable[..., Any],
    mapped_collections: CollectionFilter,
    map_in_fn: Callable[..., Any] = id_fn,
    map_out_fn: Callable[..., Any] = id_fn,
    init: bool = False,
    mutable: bool = False,
    rngs: CollectionFilter = True,
    variables: CollectionFilter = True,
) -> Callable[..., Any]:
    """Return a function of a scope that sees some variables through a function: ``batiste.lift.map_variables``.

    ``map_in_fn`` and ``map_out_fn`` are its ``trans_in_fn`` and ``trans_out_fn``.
    """
    return _of_scope(
        _map_variables(
            _of_place(fn),
            mapped_collections,
            map_in_fn,
            map_out_fn,
            init=init,
            mutable=mutable,
            rngs=rngs,
            variables=variables,
        )
    )


def swap_collection(fn: Callable[..., Any], col_a: str, col_b: str) -> Callable[..., Any]:
    """Return a function of a scope that sees each of two collections under the name of the other."""
    other = {col_a: col_b, col_b: col_a}

    def swapped(variables: Mapping[str, Any]) -> dict[str, Any]:
        return {other.get(name, name): tree for name, tree in variables.items()}

    return map_variables(fn, (col_a, col_b), swapped, swapped, mutable=True)


def vjp(
    fn: Callable[..., Any],
    scope: Any,
    *primals: Any,
    has_aux: bool = False,
    reduce_axes: tuple[str, ...] = (),
    vjp_variables: CollectionFilter = "params",
    variables: CollectionFilter = True,
    rngs: CollectionFilter = True,
) -> Any:
    """Return the output of ``fn(scope, *primals)`` and its pullback: ``batiste.lift.vjp``."""
    return _vjp(
        _of_place(fn),
        _place(scope),
        *primals,
        has_aux=has_aux,
        reduce_axes=reduce_axes,
        vjp_variables=vjp_variables,
        variables=variables,
        rngs=rngs,
    )


def value_and_grad(
    fn: Callable[..., Any],
    scope: Any,
    *primals: Any,
    has_aux: bool = False,
    reduce_axes: tuple[str, ...] = (),
    variables: CollectionFilter = True,
    rngs: CollectionFilter = True,
) -> Any:
    """Return the output of ``fn(scope, *primals)``, what it has beside it, and the gradient by the primals.

    It is ``batiste.lift.value_and_grad``, which puts the first two into a pair, as ``linen.value_and_grad`` does.
    """
    value, gradient = _value_and_grad(
        _of_place(fn),
        _place(scope),
        *primals,
        has_aux=has_aux,
        reduce_axes=reduce_axes,
        variables=variables,
        rngs=rngs,
    )
    return (*value, gradient) if has_aux else (value, gradient)


def jvp(
    fn: Callable[..., Any],
    scope: Any,
    primals: tuple[Any, ...],
    tangents: tuple[Any, ...],
    variable_tangents: Any,
    variables: CollectionFilter = True,
    rngs: CollectionFilter = True,
) -> tuple[Any, Any]:
    """Return the output of ``fn(scope, *primals)`` and its tangent: ``batiste.lift.jvp``."""
    return _jvp(_of_place(fn), _place(scope), primals, tangents, variable_tangents, variables=variables, rngs=rngs)


def vmap(
    fn: Callable[..., Any],
    variable_axes: Mapping[CollectionFilter, Any],
    split_rngs: Mapping[CollectionFilter, bool],
    in_axes: Any = 0,
    out_axes: Any = 0,
    axis_size: int | None = None,
    axis_name: str | None = None,
    spmd_axis_name: str | None = None,
    metadata_params: Mapping[Any, Any] = _NOTHING,
) -> Callable[..., Any]:
    """Return a function of a scope mapped over an axis: ``batiste.lift.vmap``."""
    return _of_scope(
        _vmap(
            _of_place(fn),
            variable_axes=variable_axes,
            split_rngs=split_rngs,
            in_axes=in_axes,
            out_axes=out_axes,
            axis_size=axis_size,
            axis_name=axis_name,
            spmd_axis_name=spmd_axis_name,
            metadata_params=metadata_params,
        )
    )


def scan(
    fn: Callable[..., Any],
    variable_axes: Mapping[CollectionFilter, Any] = _NOTHING,
    variable_broadcast: CollectionFilter = False,
    variable_carry: CollectionFilter = False,
    split_rngs: Mapping[CollectionFilter, bool] = _NOTHING,
    in_axes: Any = 0,
    out_axes: Any = 0,
    length: int | None = None,
    reverse: bool = False,
    unroll: int = 1,
    _split_transpose: bool = False,
    data_transform: Callable[..., Any] | None = None,
    metadata_params: Mapping[Any, Any] = _NOTHING,
    check_constancy_invariants: bool = True,
) -> Callable[..., Any]:
    """Return a function of a scope in a loop: ``batiste.lift.scan``, whose arguments these are."""
    return _of_scope(
        _scan(
            _of_place(fn),
            variable_axes=variable_axes,
            variable_broadcast=variable_broadcast,
            variable_carry=variable_carry,
            split_rngs=split_rngs,
            in_axes=in_axes,
            out_axes=out_axes,
            length=length,
            reverse=reverse,
            unroll=unroll,
            data_transform=data_transform,
            metadata_params=metadata_params,
            _split_transpose=_split_transpose,
            check_constancy_invariants=check_constancy_invariants,
        )
    )


def while_loop(
    cond_fn: Callable[..., Any],
    body_fn: Callable[..., T],
    scope: Any,
    init: T,
    carry_variables: CollectionFilter = False,
    broadcast_variables: CollectionFilter = True,
    split_rngs: Mapping[CollectionFilter, bool] = _NOTHING,
) -> T:
    """Run ``body_fn(scope, carry)`` while ``cond_fn(scope, carry)`` holds: ``batiste.lift.while_loop``."""
    return _while_loop(
        _of_place(cond_fn), _of_place(body_fn), _place(scope), init, carry_variables, broadcast_variables, split_rngs
    )


def cond(
    pred: Any,
    true_fun: Callable[..., T],
    false_fun: Callable[..., T],
    scope: Any,
    *operands: Any,
    variables: CollectionFilter = True,
    rngs: CollectionFilter = True,
) -> T:
    """Run one of two functions of a scope: ``batiste.lift.cond``."""
    return _cond(
        pred, _of_place(true_fun), _of_place(false_fun), _place(scope), *operands, variables=variables, rngs=rngs
    )


def switch(
    index: Any,
    branches: Sequence[Callable[..., T]],
    scope: Any,
    *operands: Any,
    variables: CollectionFilter = True,
    rngs: CollectionFilter = True,
) -> T:
    """Run one of several functions of a scope: ``batiste.lift.switch``."""
    functions = [_of_place(branch) for branch in branches]
    return _switch(index, functions, _place(scope), *operands, variables=variables, rngs=rngs)


def custom_vjp(
    fn: Callable[..., Any],
    forward_fn: Callable[..., Any],
    backward_fn: Callable[..., Any],
    grad_vars: CollectionFilter = "params",
    nondiff_argnums: int | tuple[int, ...] = (),
) -> Callable[..., Any]:
    """Return a function of a scope with a gradient of its own: ``batiste.lift.custom_vjp``.

    ``nondiff_argnums`` counts the scope as 0.
    """
    return _of_scope(_custom_vjp(_of_place(fn), _of_place(forward_fn), backward_fn, grad_vars, nondiff_argnums))


def remat(
    fn: Callable[..., Any],
    variables: CollectionFilter = True,
    rngs: CollectionFilter = True,
    concrete: bool = False,
    prevent_cse: bool = True,
    static_argnums: int | tuple[int, ...] = (),
    policy: Callable[..., bool] | None = None,
) -> Callable[..., Any]:
    """Return a function of a scope that computes again for its gradient what it does not keep: ``batiste.lift.remat``.

    ``static_argnums`` counts the arguments after the scope.
    """
    numbers = (static_argnums,) if isinstance(static_argnums, int) else tuple(static_argnums)
    return _of_scope(
        _remat(
            _of_place(fn),
            variables=variables,
            rngs=rngs,
            concrete=concrete,
            prevent_cse=prevent_cse,
            static_argnums=tuple(number + 1 if number >= 0 else number for number in numbers),
            policy=policy,
        )
    )


checkpoint = remat
"""The same as ``remat``."""


def jit(
    fn: Callable[..., Any],
    variables: CollectionFilter = True,
    rngs: CollectionFilter = True,
    static_argnums: int | Iterable[int] = (),
    static_argnames: str | Iterable[str] = (),
    donate_argnums: int | Iterable[int] = (),
    device: Any = None,
    backend: str | None = None,
) -> Callable[..., Any]:
    """Return a function of a scope that is compiled: ``batiste.lift.jit``.

    ``static_argnums`` counts the scope as 0; ``device`` and ``backend`` are accepted for Flax's signature.
    """
    return _of_scope(
        _jit(
            _of_place(fn),
            variables=variables,
            rngs=rngs,
            static_argnums=static_argnums,
            static_argnames=static_argnames,
            donate_argnums=donate_argnums,
            device=device,
            backend=backend,
        )
    )


def remat_scan(
    body_fn: Callable[..., Any],
    lengths: Sequence[int],
    policy: Callable[..., bool] | None = None,
    variable_broadcast: CollectionFilter = False,
    variable_carry: CollectionFilter = False,
    variable_axes: Mapping[CollectionFilter, Any] = _EVERY,
    split_rngs: Mapping[CollectionFilter, bool] = _SPLIT,
) -> Callable[..., Any]:
    """Return a function of a scope in nested loops that keep little for the gradient: ``batiste.lift.remat_scan``."""
    return _of_scope(
        _remat_scan(_of_place(body_fn), lengths, policy, variable_broadcast, variable_carry, variable_axes, split_rngs)
    )


def fold_rngs(
    fn: Callable[..., Any], variables: CollectionFilter = True, rngs: CollectionFilter = True
) -> Callable[..., Any]:
    """Return a function of a scope whose streams have their path folded in beforehand: ``batiste.lift.fold_rngs``."""
    return _of_scope(_fold_rngs(_of_place(fn), variables, rngs))
