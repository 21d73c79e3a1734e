"""Modules and what is said about their methods: ``flax.linen.module``.

batiste names operations after modules and methods whenever JAX traces, so ``enable_named_call`` and its like change
nothing: they are here for the programs that call them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from typing import Any, TypeAlias

from batiste.compat.flax.configurations import config
from batiste.compat.flax.core.frozen_dict import FrozenDict, freeze
from batiste.compat.flax.linen._helpers import Sentinel, freeze_attr
from batiste.compat.flax.linen._stack import Context
from batiste.compat.flax.typing import FrozenVariableDict, PRNGKey, RNGSequences, VariableDict
from batiste.core import CollectionFilter, DenyList, Scope, Variable, union_filters
from batiste.module import Blueprint
from batiste.nn import (
    InterceptorContext,
    Module,
    apply,
    compact,
    compact_name_scope,
    init,
    init_with_output,
    intercept_methods,
    merge_param,
    nowrap,
    share_scope,
    wrap_method_once,
)

__all__ = [
    "Args",
    "CollectionFilter",
    "DenyList",
    "FrozenDict",
    "FrozenVariableDict",
    "Interceptor",
    "InterceptorContext",
    "Kwargs",
    "Module",
    "NextGetter",
    "PRNGKey",
    "RNGSequences",
    "Scope",
    "Variable",
    "VariableDict",
    "apply",
    "capture_call_intermediates",
    "compact",
    "compact_name_scope",
    "disable_named_call",
    "enable_named_call",
    "init",
    "init_with_output",
    "intercept_methods",
    "merge_param",
    "nowrap",
    "override_named_call",
    "share_scope",
    "union_filters",
    "wrap_method_once",
]

_context = Context()  # not documented in Flax, but looked at by libraries that change what modules compute
_Sentinel, _freeze_attr = Sentinel, freeze_attr  # and these by scico and mox

config.follow("flax_preserve_adopted_names", lambda value: setattr(Module, "preserve_adopted_names", value))
config.follow("flax_return_frozendict", lambda value: setattr(Blueprint, "variables_as_", freeze if value else None))

Args: TypeAlias = tuple[Any, ...]
"""The positional arguments of a method that is intercepted."""

Kwargs: TypeAlias = dict[str, Any]
"""Its keyword arguments."""

NextGetter: TypeAlias = Callable[..., Any]
"""What an interceptor calls to go on."""

Interceptor: TypeAlias = Callable[[NextGetter, Args, Kwargs, InterceptorContext], Any]
"""What ``intercept_methods`` takes."""


def capture_call_intermediates(_: Module, method_name: str) -> bool:
    """Return whether a method is ``__call__``: the filter that ``capture_intermediates=True`` stands for."""
    return method_name == "__call__"


def enable_named_call() -> None:
    """Do nothing: operations always carry the names of their modules."""


def disable_named_call() -> None:
    """Do nothing: operations always carry the names of their modules."""


@contextlib.contextmanager
def override_named_call(enable: bool = True) -> Generator[None]:
    """Do nothing: operations always carry the names of their modules.

    Args:
      enable: accepted for Flax's signature.
    """
    del enable
    yield
