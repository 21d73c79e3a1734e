"""What a lifted transform is put on: a Module class, a function of a module, or a method.

A transform is written once, as a function ``run(options, function, args, kwargs)`` over a function whose first argument
is a bound module. ``lifted`` makes of it

* of a class, a subclass whose methods run so: submodules made in them belong to the body of the transform. The class is
  called like the transform and the original, ``ScanBlock``, as in Flax Linen, and automatic names follow; with
  ``keep_name=True`` it keeps the original's name, and paths are the same with and without the transform;
* of a function, or of a method in a class body, a function that takes a bound module first.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, TypeAlias, TypeVar, cast

from batiste._arguments import function, mapping, text, whole_numbers
from batiste.core import ByIdentity, Valued, check_filter, fingerprint, kept
from batiste.errors import LiftedMethodError, TransformTargetError, nearest
from batiste.lift._axes import table
from batiste.module import Blueprint, compact, run_noted, seen_as, unbound_call, wrap_method_once

__all__ = ["Methods", "Run", "lifted"]

Target = TypeVar("Target")
Methods: TypeAlias = str | Iterable[str] | Mapping[str, Mapping[str, Any]] | None
"""The methods that are lifted: names, or a mapping from names to options of their own; by default ``__call__``."""


_CHANGES_NOTHING = frozenset({"checkpoint", "jit"})
"""The transforms under which a method gives what it gives without them."""


class Run(Protocol):
    """A lifted transform: runs ``function``, whose first argument is a module, within a JAX transform."""

    def __call__(
        self, options: Any, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], /
    ) -> Any:
        """Return the result of the transformed function."""
        ...


def lifted(
    name: str, target: Target, run: Run, options: Any, *, methods: Methods = None, keep_name: bool = False
) -> Target:
    """Return ``target`` with a transform around it.

    Args:
      name: the transform's name, for messages and for class names.
      target: a Module class, or a function of a module.
      run: the transform.
      options: what ``run`` is given: a dataclass whose fields are called like the transform's arguments.
      methods: the methods of a class that are lifted.
      keep_name: whether a class keeps its name.

    Raises:
      TransformTargetError: if the target is neither a Module class nor a function.
      LiftedMethodError: if the class has no such method, or the transform no such option.
    """
    if isinstance(target, functools.partial):
        partial = cast("functools.partial[Any]", target)
        inner = lifted(name, partial.func, run, options, methods=methods, keep_name=keep_name)
        return cast("Any", functools.partial(inner, *partial.args, **partial.keywords))
    _check_options(name, options)
    if isinstance(target, type) and issubclass(target, Blueprint):
        chosen = _options_of_methods(name, target, options, methods)
        recipe = _Recipe(name, target, run, chosen, "" if keep_name else name.capitalize())
        made: Any = recipe.get()
        return made
    if isinstance(target, Callable) and not isinstance(target, Blueprint | type):
        return cast("Any", _lifted_function(name, cast("Callable[..., Any]", target), run, options))
    raise TransformTargetError(transform=name, given=f"an object of type {type(target).__name__}")


def _options_of_methods(name: str, target: type[Blueprint], options: Any, methods: Methods) -> dict[str, Any]:
    if isinstance(methods, Mapping):
        given = cast("Mapping[str, Mapping[str, Any]]", methods)
    else:
        names = ("__call__",) if methods is None else _several(methods)
        given = {method: dict[str, Any]() for method in names}
    known = {field.name for field in dataclasses.fields(options)}
    chosen: dict[str, Any] = {}
    for method, more in given.items():
        text(method, "methods", name, what="the name of a method")
        if not callable(getattr(target, method, None)):
            methods_there = [each for each in dir(target) if callable(getattr(target, each))]
            problem, near = f"the method {method!r}, which is not there", nearest(method, methods_there)
            raise LiftedMethodError(transform=name, target=target.__name__, problem=problem, nearest=near)
        mapping(more, f"methods[{method!r}]", name, what="a dict of options")
        unknown = [option for option in more if option not in known]
        if unknown:
            problem, near = f"the option {unknown[0]!r} for {method!r}, which is none", nearest(unknown[0], known)
            raise LiftedMethodError(transform=name, target=target.__name__, problem=problem, nearest=near)
        chosen[method] = dataclasses.replace(options, **more)
        _check_options(name, chosen[method])
    return chosen


_FILTERS = (
    "variables", "rngs", "mapped_collections", "variable_broadcast", "variable_carry", "carry_variables",
    "broadcast_variables",
)  # fmt: skip


def _check_options(name: str, options: Any) -> None:
    """Refuse options that no transform takes; what belongs to JAX alone, such as ``device``, JAX looks at."""
    for field in dataclasses.fields(options):
        value: Any = getattr(options, field.name)
        if field.name in _FILTERS:
            check_filter(value)
        elif field.name in ("static_argnums", "donate_argnums"):
            numbers = sorted(cast("set[Any]", value)) if isinstance(value, set | frozenset) else value
            whole_numbers(cast("Any", numbers), field.name, name, low=None)
        elif field.name == "static_argnames":
            for each in _several(value):
                text(each, field.name, name, what="names of arguments")
        elif field.name == "policy":
            function(
                bool if value is None else value, field.name, name, what="a policy of jax.checkpoint_policies, or None"
            )
        elif field.name in ("trans_in_fn", "trans_out_fn"):
            function(value, field.name, name, what="a function of variables")
        elif field.name in ("variable_axes", "split_rngs"):
            table(value, field.name, name)


def _several(names: Any) -> Iterable[Any]:
    return (names,) if isinstance(names, str) or not isinstance(names, Iterable) else cast("Iterable[Any]", names)


class _Recipe(Valued):
    """How to make a lifted class; equal recipes make one class. It pickles, which the class itself does not."""

    __slots__ = ("methods", "name", "prefix", "run", "target")

    def __init__(
        self, name: str, target: type[Blueprint] | _Recipe, run: Run, methods: dict[str, Any], prefix: str
    ) -> None:
        base = target.get() if isinstance(target, _Recipe) else target
        self.name, self.target, self.run, self.methods, self.prefix = name, base, run, methods, prefix
        super().__init__(fingerprint((name, ByIdentity(base), methods, prefix)))

    def __reduce__(self) -> Any:
        inner: Any = vars(self.target).get("lifted_by_", self.target)
        return _Recipe, (self.name, inner, self.run, self.methods, self.prefix)

    def get(self) -> type[Blueprint]:
        """Return the class, the same one for equal recipes that are known by value."""
        return _lifted_class(self)


@kept(maxsize=1024)
def _lifted_class(recipe: _Recipe) -> type[Blueprint]:
    base: Any = recipe.target
    space: dict[str, Any] = {
        method: _lifted_method(base, method, recipe.run, options) for method, options in recipe.methods.items()
    }
    space |= {"lifted_from_": base, "__module__": base.__module__, "__doc__": base.__doc__}
    space["__qualname__"] = f"{recipe.prefix}{base.__qualname__}"
    space |= {"lifted_by_": recipe, "__reduce__": _reduced}
    return type(base)(f"{recipe.prefix}{base.__name__}", (base,), space)


def _reduced(module: Any) -> Any:
    kind = cast("Any", type(module))
    if "lifted_by_" not in vars(kind):  # a class of its own, which has a name
        return object.__new__, (kind,), module.__getstate__()
    return _unpickled, (kind.lifted_by_,), module.__getstate__()


def _unpickled(recipe: _Recipe) -> Blueprint:
    """Return an instance without values of a lifted class, for ``pickle`` to fill."""
    return object.__new__(recipe.get())


def _lifted_method(base: type, name: str, run: Run, options: Any) -> Callable[..., Any]:
    method = getattr(base, name)

    @functools.wraps(method)
    def body(module: Any, *args: Any, **kwargs: Any) -> Any:
        own = seen_as(module, base)  # in the body, methods that it calls are not lifted again
        return getattr(base, name)(own, *args, **kwargs)  # as it is by now: equal classes are made once

    @functools.wraps(method)
    def call(self: Blueprint, *args: Any, **kwargs: Any) -> Any:
        if self.scope is None:
            raise unbound_call(self, method.__name__)
        return run_noted(self, lift, method.__name__, args, kwargs)

    @functools.wraps(method)
    def lift(self: Blueprint, *args: Any, **kwargs: Any) -> Any:
        return run(options, body, (self, *args), kwargs)

    return _as_method(call)


def _lifted_function(name: str, function: Callable[..., Any], run: Run, options: Any) -> Callable[..., Any]:
    before: tuple[Any, ...] = ()
    if inspect.ismethod(function) and isinstance(function.__self__, Blueprint):
        before, function = (function.__self__,), function.__func__

    @functools.wraps(function, updated=())
    def call(*args: Any, **kwargs: Any) -> Any:
        if name in _CHANGES_NOTHING and args and isinstance(args[0], Blueprint) and args[0].scope is None:
            return _inner()(*args, **kwargs)  # a method of an unbound module, which has no variables
        return run(options, _inner(), (*before, *args), kwargs)

    @functools.cache
    def _inner() -> Callable[..., Any]:
        if hasattr(call, "compact") and not hasattr(function, "is_wrapped_method"):

            @functools.wraps(function)
            def marked(*args: Any, **kwargs: Any) -> Any:
                return function(*args, **kwargs)

            return wrap_method_once(compact(marked))
        return wrap_method_once(function)

    if hasattr(function, "compact"):
        compact(call)
    return _as_method(call)


def _as_method(call: Any) -> Callable[..., Any]:
    """Mark a function as one that is a module's method as it is."""
    call.is_wrapped_method = True
    call.method_handler_wrapped = True
    return call
