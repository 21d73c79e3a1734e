"""How a bound module takes in the submodules that it holds in fields and in attributes set by ``setup``.

A submodule that was made outside of any module is described but not owned. The module that holds it takes a copy,
names it after the attribute (``layers`` of a list: ``layers_0``, ``layers_1``; of a dict: ``layers_key``) and binds the
copy; with ``preserve_adopted_names = True`` in the class of the holder, the copy keeps a name that it has. An original
that is held in two places becomes one copy, so what was shared stays shared. A submodule that has a parent already is
used as it is. Lists become tuples and dicts become new dicts on the way, so that the caller's containers are never
changed.
"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Mapping
from typing import Any, cast

import jax

from batiste.core import Scope, Variable, depth_in_library, is_tracer_class
from batiste.dtypes import is_array_class
from batiste.errors import AdoptedNameWarning
from batiste.module._blueprint import Blueprint
from batiste.module._mistakes import refuse_array_field

__all__ = ["adopt", "has_modules", "map_modules", "may_hold_modules", "wants_a_look"]


@functools.lru_cache(maxsize=4096)
def may_hold_modules(kind: type) -> bool:
    """Return whether values of a class are modules, containers or dataclasses, in which modules can be."""
    return dataclasses.is_dataclass(kind) or issubclass(kind, Blueprint | tuple | list | Mapping)


@functools.lru_cache(maxsize=4096)
def wants_a_look(kind: type) -> bool:
    """Return whether a value of a class in a field may hold modules, or is an array, which may be a mistake."""
    return may_hold_modules(kind) or is_array_class(kind) or is_tracer_class(kind)


def has_modules(value: Any) -> bool:
    """Return whether ``value`` is or may hold modules, or is a container, which adopting makes anew."""
    kind = cast("Any", type(value))
    if not may_hold_modules(kind):
        return False
    is_container = issubclass(kind, Blueprint | tuple | list | Mapping)
    return is_container or not jax.tree_util.all_leaves([value])


def map_modules(function: Any, value: Any, suffix: str = "", *, freeze: bool = True, variables: bool = False) -> Any:
    """Apply ``function(suffix, module)`` to every module in nested containers; other leaves stay as they are.

    Args:
      function: what to put in the place of a module.
      value: a module, or nested containers.
      suffix: how far inside of the containers ``value`` is: ``_0_key``.
      freeze: whether lists become tuples.
      variables: whether it is applied to every ``Variable``, too.

    Example:
      >>> from batiste import module, nn
      >>> held = {"a": [nn.Dense(2), 7]}
      >>> module.map_modules(lambda suffix, layer: (suffix, layer.features), held)
      {'a': (('_a_0', 2), 7)}
    """
    kind = cast("Any", type(value))
    if kind is Variable:
        return function(suffix, value) if variables else value
    if not may_hold_modules(kind):
        return value
    more: Any = {"freeze": freeze, "variables": variables}
    if isinstance(value, Blueprint):
        return function(suffix, value)
    if isinstance(value, tuple):
        items = cast("tuple[Any, ...]", value)
        names: Any = getattr(kind, "_fields", None) or range(len(items))
        mapped = [
            map_modules(function, item, f"{suffix}_{name}", **more) for name, item in zip(names, items, strict=True)
        ]
        return kind(*mapped) if hasattr(kind, "_fields") else tuple(mapped)
    if isinstance(value, list):
        elements = cast("list[Any]", value)
        listed = [map_modules(function, item, f"{suffix}_{index}", **more) for index, item in enumerate(elements)]
        return tuple(listed) if freeze else listed
    if isinstance(value, Mapping):
        pairs = cast("Mapping[Any, Any]", value)
        new = {key: map_modules(function, item, f"{suffix}_{key}", **more) for key, item in pairs.items()}
        return new if kind is dict else _rebuilt(kind, new)
    if dataclasses.is_dataclass(value) and not isinstance(value, type) and not jax.tree_util.all_leaves([value]):
        found = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
        changed = {name: map_modules(function, item, f"{suffix}_{name}", **more) for name, item in found.items()}
        changed = {name: item for name, item in changed.items() if item is not found[name]}
        return dataclasses.replace(value, **changed) if changed else value
    return value


def adopt(owner: Blueprint, name: str, value: Any) -> Any:
    """Return ``value`` with every module in it owned by ``owner``, or by whom it had before.

    Args:
      owner: a bound module.
      name: the attribute that holds the value; the submodules are named after it.
      value: a module, or nested containers with modules.

    Raises:
      LayerInputError: if an array stands in the first field of a layer, which takes a number.
    """
    if not may_hold_modules(cast("Any", type(value))):
        if wants_a_look(cast("Any", type(value))):
            refuse_array_field(owner, name, value)
        return value
    waiting: list[Blueprint] = []

    def take(suffix: str, module: Blueprint) -> Blueprint:
        called = f"{name}{suffix}"
        if module.parent is None:
            if getattr(type(owner), "preserve_adopted_names", False):
                called = module.name or called
            module = _own_copy(owner, module, called, name)
        if module.name is None:
            fields = module.__dict__
            fields["parent"], fields["name"] = owner, called
            waiting.append(module)
        return module

    adopted = map_modules(take, value)
    for module in waiting:
        module._attach()
    return adopted


def _own_copy(owner: Blueprint, original: Blueprint, called: str, field: str) -> Blueprint:
    """Return this call's copy of a module that was made outside, the same one each time."""
    scope = owner.scope
    held: dict[int, Any] = {} if scope is None else scope.frame.adopted
    pair = held.get(id(original))
    if pair is None:
        copied: Any = original
        if original.name not in {None, called} and scope is not None and _was_passed_in(owner, scope, field):
            _warn_of_name(owner, original, called)
        pair = (original, copied.clone(name=None))  # the original is kept, so that its id stays its own
        held[id(original)] = pair
    return pair[1]


def _was_passed_in(owner: Blueprint, scope: Scope, field: str) -> bool:
    """Return whether a named module is in a field of a module made outside; elsewhere it may be a clone's old name."""
    is_outside = isinstance(owner.parent, Scope) or any(pair[1] is owner for pair in scope.frame.adopted.values())
    return is_outside and scope.is_initializing and field in owner.blueprint_names_


def _warn_of_name(owner: Blueprint, original: Blueprint, called: str) -> None:
    kind, path = type(original).__name__, "" if owner.scope is None else owner.scope.path_text
    text = (
        f"{type(owner).__name__} at {path}: the name {original.name!r} of the {kind} that was passed in has no effect; "
        f"a submodule from outside is called after the field that holds it, {called!r}. Leave name= out, or write "
        f"preserve_adopted_names = True in the class {type(owner).__name__} to keep such names."
    )
    warnings.warn(text, AdoptedNameWarning, stacklevel=depth_in_library())


def _rebuilt(kind: Any, items: dict[Any, Any]) -> Any:
    try:
        return kind(items)
    except TypeError:  # a mapping that is not made from a dict
        return items
