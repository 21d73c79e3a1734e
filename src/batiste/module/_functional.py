"""``init`` and ``apply`` for functions of a bound module, and small helpers around modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from batiste._arguments import function
from batiste.core import CollectionFilter, Scope
from batiste.errors import CallShareScopeOnUnboundModuleError, MergeParamError
from batiste.module._blueprint import Blueprint, check_module
from batiste.module._calls import INIT_MUTABLE, Applier, init_with
from batiste.module._context import CURRENT, CaptureFilter
from batiste.module._variables import where
from batiste.typing import MutableVariables, Rngs, Variables

__all__ = ["apply", "init", "init_with_output", "merge_param", "share_scope"]

T = TypeVar("T")


def apply(
    fn: Callable[..., Any],
    module: Blueprint,
    mutable: CollectionFilter = False,
    capture_intermediates: bool | CaptureFilter = False,
) -> Callable[..., Any]:
    """Return the pure function ``(variables, *args, rngs=None, **kwargs)`` that runs ``fn`` on the bound module.

    Args:
      fn: called as ``fn(bound_module, *args, **kwargs)``.
      module: the blueprint.
      mutable: which collections may change; if not False, the result is a pair with them.
      capture_intermediates: as for ``Module.apply``.

    Raises:
      ArgumentError: if ``fn`` is no function.
      InvalidInstanceModuleError: if the module is none.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> doubled = nn.apply(lambda layer, x: 2 * layer(x), nn.Dense(4))
      >>> variables = nn.Dense(4).init(jax.random.key(0), jnp.ones((2, 3)))
      >>> doubled(variables, jnp.ones((2, 3))).shape
      (2, 4)
    """
    _check(fn, module, "nn.apply")

    def applied(variables: Variables, *args: Any, rngs: Rngs | None = None, **kwargs: Any) -> Any:
        return Applier(module)(
            variables,
            *args,
            rngs=rngs,
            method=fn,
            mutable=mutable,
            capture_intermediates=capture_intermediates,
            **kwargs,
        )

    return applied


def init_with_output(
    fn: Callable[..., Any],
    module: Blueprint,
    mutable: CollectionFilter = INIT_MUTABLE,
    capture_intermediates: bool | CaptureFilter = False,
) -> Callable[..., tuple[Any, MutableVariables]]:
    """Return the function ``(rngs, *args, **kwargs)`` that makes the variables of ``fn`` and runs it.

    Args:
      fn: called as ``fn(bound_module, *args, **kwargs)``.
      module: the blueprint.
      mutable: which collections are made.
      capture_intermediates: as for ``Module.init``.

    Raises:
      ArgumentError: if ``fn`` is no function.
      InvalidInstanceModuleError: if the module is none.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> run = nn.init_with_output(lambda layer, x: 2 * layer(x), nn.Dense(4))
      >>> y, variables = run(jax.random.key(0), jnp.ones((2, 3)))
      >>> y.shape, sorted(variables["params"])
      ((2, 4), ['bias', 'kernel'])
    """
    _check(fn, module, "nn.init_with_output")

    def initialised(rngs: Rngs | None, *args: Any, **kwargs: Any) -> tuple[Any, MutableVariables]:
        return init_with(
            module,
            rngs,
            args,
            kwargs,
            method=fn,
            mutable=mutable,
            capture_intermediates=capture_intermediates,
            key_scheme="linen",
            want_output=True,
        )

    return initialised


def init(
    fn: Callable[..., Any],
    module: Blueprint,
    mutable: CollectionFilter = INIT_MUTABLE,
    capture_intermediates: bool | CaptureFilter = False,
) -> Callable[..., MutableVariables]:
    """Return the function ``(rngs, *args, **kwargs)`` that makes the variables of ``fn``; see ``Module.init``.

    Args:
      fn: called as ``fn(bound_module, *args, **kwargs)``.
      module: the blueprint.
      mutable: which collections are made.
      capture_intermediates: as for ``Module.init``.

    Raises:
      ArgumentError: if ``fn`` is no function.
      InvalidInstanceModuleError: if the module is none.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> make = nn.init(lambda layer, x: 2 * layer(x), nn.Dense(4))
      >>> jax.tree.map(jnp.shape, make(jax.random.key(0), jnp.ones((2, 3))))
      {'params': {'bias': (4,), 'kernel': (3, 4)}}
    """
    _check(fn, module, "nn.init")

    def initialised(rngs: Rngs | None, *args: Any, **kwargs: Any) -> MutableVariables:
        return init_with(
            module,
            rngs,
            args,
            kwargs,
            method=fn,
            mutable=mutable,
            capture_intermediates=capture_intermediates,
            key_scheme="linen",
            want_output=False,
        )[1]

    return initialised


def _check(fn: Any, module: Any, where: str) -> None:
    function(fn, "fn", where, what="a function of a bound module")
    check_module(module, where.removeprefix("nn."))


def merge_param(name: str, a: T | None, b: T | None) -> T:
    """Return the one of ``a`` and ``b`` that is not None: an option of the constructor or of the call.

    Raises:
      MergeParamError: if both or neither are given.

    Example:
      >>> from batiste import nn
      >>> nn.merge_param("deterministic", None, True)
      True
    """
    if (a is None) == (b is None):
        raise _merge_error(name, a)
    return a if a is not None else b  # pyright: ignore[reportReturnType]


def _merge_error(name: str, given: Any) -> MergeParamError:
    module = CURRENT.get()
    path, kind = ("merge_param", "Layer") if module is None else (where(module), type(module).__name__)
    if given is not None:
        advice = f"Leave {name}= out in one of the two places."
    else:
        value = "not train" if name in {"deterministic", "use_running_average"} else "..."
        advice = (
            f"Write it where the layer is made, {kind}(..., {name}={value}), or where it is called, "
            f"layer(x, {name}={value})."
        )
    return MergeParamError(path=path, name=name, how="in neither" if given is None else "in both", advice=advice)


def share_scope(module: Blueprint, other: Blueprint, /) -> None:
    """Let two modules keep their variables in one place, so that wrapping a module changes no path.

    ``module`` takes the place of ``other``, unless ``other`` is part of ``module``: then ``other`` takes the place of
    ``module``.

    Args:
      module: most often ``self``, in ``setup``.
      other: a submodule that ``setup`` has assigned, or a field.

    Raises:
      InvalidInstanceModuleError: if one of them is no module.
      CallShareScopeOnUnboundModuleError: if one of them is not bound.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> class Named(nn.Module):
      ...     inner: nn.Module
      ...
      ...     def setup(self):
      ...         nn.share_scope(self, self.inner)
      ...
      ...     def __call__(self, x):
      ...         return self.inner(x)
      >>> model = Named(nn.Dense(4))
      >>> jax.tree.map(jnp.shape, model.init(jax.random.key(0), jnp.ones((2, 3))))
      {'params': {'bias': (4,), 'kernel': (3, 4)}}
    """
    for each in (module, other):
        check_module(each, "share_scope")
        if each.scope is None:
            raise CallShareScopeOnUnboundModuleError(path=type(each).__name__)
    if _is_within(other.scope, module.scope):
        _move(other, module.scope)
    else:
        _move(module, other.scope)


def _is_within(inner: Scope | None, outer: Scope | None) -> bool:
    while inner is not None:
        if inner is outer:
            return True
        inner = inner.parent
    return False


def _move(module: Blueprint, scope: Scope | None) -> None:
    """Put a bound module, and what it has made so far, at another scope."""
    old = module.scope
    module.__dict__["scope"] = scope
    if old is None or scope is None or old is scope:
        return
    scope.numbers.update(old.numbers)  # a compact method goes on numbering
    for name, child in list(old.names.items()):
        if not isinstance(child, Blueprint) or child.scope is None or child.scope.parent is not old:
            continue
        if child.parent is module or child.parent is child.scope:
            _move(child, scope.push(name, reuse=True, holder=child))
