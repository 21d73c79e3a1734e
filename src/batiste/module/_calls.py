"""``init``, ``apply`` and ``bind``: from a blueprint and variables to results, through a bound copy.

The blueprint itself is never bound. Each call makes a copy of it that stands at the top of a new scope, runs a method
on the copy, and forgets it.
"""

from __future__ import annotations

import difflib
import functools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from batiste._arguments import function as checked_function
from batiste._arguments import refused
from batiste.core import (
    CollectionFilter,
    DenyList,
    Fingerprint,
    KeyScheme,
    Scope,
    check_filter,
    check_key_scheme,
    current_trace,
    depth_in_library,
    explain_deleted,
    fingerprint,
    initialise,
    is_eager,
    is_replaced,
    open_scope,
    streams_from,
    union_filters,
)
from batiste.errors import (
    ApplyModuleInvalidMethodError,
    CollectionNameWarning,
    ModuleResultWarning,
    UnreachedWarning,
)
from batiste.module._blueprint import Blueprint, check_module
from batiste.module._context import CURRENT, CaptureFilter, capturing
from batiste.module._fields import value_of
from batiste.module._mistakes import incomplete
from batiste.module._notes import not_callable
from batiste.module._union import Union
from batiste.module._variables import where
from batiste.typing import Rngs, Variables

__all__ = ["INIT_MUTABLE", "Applier", "bound_copy", "init_with", "only_call", "resolve_method", "union_of"]

INIT_MUTABLE = DenyList("intermediates")
"""What ``init`` makes unless told otherwise: every collection but ``intermediates``."""


def only_call(_: Any, method_name: str) -> bool:
    """Accept the results of ``__call__``: what ``capture_intermediates=True`` stands for."""
    return method_name == "__call__"


def bound_copy(module: Blueprint, scope: Scope) -> Any:
    """Return a copy of a blueprint that stands at ``scope``.

    Raises:
      IncorrectPostInitOverrideError: if the blueprint was never made whole.

    Example:
      >>> from batiste import core, module, nn
      >>> layer = nn.Dense(3)
      >>> copied = module.bound_copy(layer, core.open_scope({}))
      >>> copied.scope, layer.scope
      (Scope('/'), None)
    """
    if "_state" not in module.__dict__:
        raise incomplete(module)
    copied: Any = object.__new__(type(module))
    values = copied.__dict__
    values.update(module.__dict__)
    for private in ("_state", "_value", "scope"):
        values.pop(private, None)
    for name in module.slotted_fields_:
        object.__setattr__(copied, name, getattr(module, name))
    values["parent"] = scope
    copied._begin()
    copied._attach()
    return copied


def resolve_method(module: Blueprint, method: Any) -> Callable[..., Any]:
    """Return ``method=`` as a function of the bound module.

    Raises:
      ApplyModuleInvalidMethodError: if it is neither a name nor a function.
    """
    if method is None:
        return _call
    if isinstance(method, str):
        name = method
        if not callable(getattr(type(module), name, None)):
            if hasattr(type(module), name):
                raise ApplyModuleInvalidMethodError(path=type(module).__name__, given=name)
            getattr(module, name)  # a field, or an error that names the nearest method
        return functools.partial(_call_named, name)
    unbound = getattr(method, "__func__", method)
    if not callable(unbound):
        raise ApplyModuleInvalidMethodError(path=type(module).__name__, given=method)
    return unbound


def _call_named(name: str, bound: Any, *args: Any, **kwargs: Any) -> Any:
    return getattr(bound, name)(*args, **kwargs)


def _call(bound: Any, *args: Any, **kwargs: Any) -> Any:
    module: Any = bound
    if not callable(module):
        raise not_callable(bound)
    output = bound(*args, **kwargs)
    if isinstance(output, Blueprint):
        text = (
            f"{where(bound)} returns a module, {type(output).__name__}, which ends with this call. "
            f"If its result was meant, call it: {type(output).__name__}(...)(x)."
        )
        warnings.warn(text, ModuleResultWarning, stacklevel=depth_in_library())
    return output


def _check_names(mutable: CollectionFilter, variables: Variables, changed: Any) -> None:
    """Warn of collections in ``mutable`` that nothing made, and that are another name misspelt."""
    names = (mutable,) if isinstance(mutable, str) else mutable
    if not isinstance(names, list | tuple):
        return
    for name in names:
        if name in changed:
            continue
        known = {*variables, *_USUAL}
        near = [] if name in known else difflib.get_close_matches(name, known, n=1, cutoff=_NEAR)
        if near and near[0] not in names:
            text = (
                f"apply(mutable={mutable!r}): nothing made or changed the collection {name!r}, so it is not in the "
                f"result. Did you mean {near[0]!r}?"
            )
            warnings.warn(text, CollectionNameWarning, stacklevel=depth_in_library())


_USUAL = ("intermediates", "perturbations", "batch_stats", "params", "cache")
_NEAR = 0.8  # as "intermediate" is to "intermediates"; "params_axes" is a collection of its own


def _captures(
    capture: bool | CaptureFilter | None, mutable: CollectionFilter, where: str
) -> tuple[CaptureFilter | None, CollectionFilter]:
    """Return the filter of what is captured, and ``mutable`` with the collection that captures go to."""
    if capture is False or capture is None:
        return None, mutable
    check_filter(mutable)
    mutable = union_filters(mutable, "intermediates")
    if isinstance(capture, bool | np.bool_):
        return (only_call, mutable) if capture else (None, mutable)
    what = "True, False or a function of a module and the name of its method"
    return checked_function(capture, "capture_intermediates", where, what=what), mutable


class Applier:
    """``module.apply`` as a value: two are equal if their modules surely compute the same.

    A plain bound method compares its module by identity, and all that keeps it as a static argument (``jax.jit``,
    ``TrainState``) would be traced anew for an equal module. Here that is so only where the module's code reaches
    something that is not known by value: an equal module may compute something else by then.

    Example:
      >>> from batiste import module, nn
      >>> isinstance(nn.Dense(3).apply, module.Applier)
      True
      >>> nn.Dense(3).apply == nn.Dense(3).apply, nn.Dense(3).apply == nn.Dense(4).apply
      (True, False)
    """

    __slots__ = ("__weakref__", "_held", "module")

    def __init__(self, module: Blueprint) -> None:
        self.module = module
        self._held: Fingerprint | None = None

    def __call__(
        self,
        variables: Variables,
        *args: Any,
        rngs: Rngs | None = None,
        method: Any = None,
        mutable: CollectionFilter = False,
        capture_intermediates: bool | CaptureFilter = False,
        key_scheme: KeyScheme = "linen",
        **kwargs: Any,
    ) -> Any:
        module = self.module
        if not is_eager(current_trace()):
            self._hold()
        function = resolve_method(module, method)
        capture, mutable = _captures(capture_intermediates, mutable, type(module).__name__)
        scope = open_scope(variables, rngs, mutable=mutable, key_scheme=key_scheme, where=type(module).__name__)
        token = CURRENT.set(None)
        try:
            with capturing(capture):
                output = function(bound_copy(module, scope), *args, **kwargs)
        except (RuntimeError, ValueError) as error:  # JAX's for an array that is gone is the one or the other
            explain_deleted(variables, error)
            raise
        finally:
            CURRENT.reset(token)
            scope.close()
        if mutable is False:
            return output
        changed = scope.frame.mutable_variables()
        if mutable is not True:
            _check_names(mutable, variables, changed)
        return output, _as_wanted(changed)

    @property
    def __self__(self) -> Blueprint:
        return self.module

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Applier):
            return NotImplemented
        if self is other:
            return True
        one, two = self._value(), other._value()
        return one == two if self.module is other.module else one.is_surely(two) and not is_replaced()

    def __hash__(self) -> int:
        self._value()
        return hash((Applier, value_of(self.module)))

    def _value(self) -> Fingerprint:
        if self._held is None:
            held = fingerprint(self.module)
            self._held = held.doubted() if is_replaced() else held
        return self._held

    def _hold(self) -> None:
        """See to it that a program is kept under what the module is while it is traced: to be called then.

        JAX may have asked for the value before, or may ask after something has changed that the module's code reads. If
        it was another, no other module may find the program.
        """
        held = self._value()
        if held.is_by_value and (is_replaced() or fingerprint(self.module) != held):
            self._held = held.doubted()

    def __fingerprint__(self) -> Any:
        return self.module

    def __repr__(self) -> str:
        return f"<apply of {self.module!r}>"

    @property
    def __name__(self) -> str:
        return f"apply_{type(self.module).__name__}"

    def __getstate__(self) -> Any:
        return self.module

    def __setstate__(self, module: Blueprint) -> None:
        self.module = module
        self._held = None


def init_with(
    module: Blueprint,
    rngs: Rngs | None,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    method: Any,
    mutable: CollectionFilter,
    capture_intermediates: bool | CaptureFilter,
    key_scheme: KeyScheme,
    want_output: bool,
    calls: Any = None,
) -> tuple[Any, dict[str, Any]]:
    """Initialise a module; return what the method returns (None unless it is wanted) and the variables."""
    check_module(module, "init")
    check_key_scheme(key_scheme)
    where = type(module).__name__
    union = None
    if calls is not None:
        method = union = union_of(module, calls, args, method)
        args = union.inputs
    function = resolve_method(module, method)
    capture, mutable = _captures(capture_intermediates, mutable, where)

    def run(scope: Scope, *inner_args: Any, **inner_kwargs: Any) -> Any:
        token = CURRENT.set(None)
        try:
            with capturing(capture):
                return function(bound_copy(module, scope), *inner_args, **inner_kwargs)
        finally:
            CURRENT.reset(token)

    output, variables = initialise(
        functools.wraps(function)(run),
        streams_from(rngs, where),
        args,
        kwargs,
        mutable=mutable,
        key_scheme=key_scheme,
        where=where,
        want_output=want_output,
    )
    if union is not None and (text := union.report(variables, module)):
        warnings.warn(text, UnreachedWarning, stacklevel=depth_in_library())
    return output, _as_wanted(variables)


def union_of(module: Blueprint, calls: Any, args: tuple[Any, ...] = (), method: Any = None) -> Union:
    """Return several calls as one method, with the arguments that it takes.

    Raises:
      ArgumentError: ``calls`` is no list of methods with their arguments, or arguments or a method are given beside it.
      ApplyModuleInvalidMethodError: one of the methods is none.

    Example:
      >>> from batiste import module, nn
      >>> union = module.union_of(nn.Embed(5, 2), [("__call__", 1), ("attend", 2.0)])
      >>> union.inputs
      ((1,), (2.0,))
    """
    where = type(module).__name__
    if args or method is not None:
        other = "arguments" if args else "method="
        expected = f"all that is called, without {other} beside it"
        advice = "Put each call into the list: calls=[('__call__', x), ('decode', z)]."
        raise refused(calls, "calls", f"{where}.init", expected, advice)
    return Union(calls, functools.partial(resolve_method, module), where)


def _as_wanted(variables: Any) -> Any:
    return variables if Blueprint.variables_as_ is None else Blueprint.variables_as_(variables)
