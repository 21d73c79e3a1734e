"""Method wrappers: what happens around each method of a module when it is called.

Around every method the module becomes the current one, so that submodules made inside know their parent, and ``setup``
has run. Around a compact method names are taken from the beginning. Interceptors and captures hook in here, and while
JAX traces, the method's operations get the module's name, which profilers show.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax

from batiste._arguments import function as checked
from batiste.errors import (
    CallSetupUnboundModuleError,
    DescriptorAttributeError,
)
from batiste.module._blueprint import Blueprint, ModuleState
from batiste.module._context import CURRENT, WATCH, watched
from batiste.module._mistakes import incomplete, unbound_call
from batiste.module._notes import explain

__all__ = ["compact", "compact_name_scope", "nowrap", "run_noted", "wrap_class", "wrap_method_once"]

F = TypeVar("F", bound=Callable[..., Any])

_NEVER_WRAPPED = frozenset(
    {
        "__init__",
        "__post_init__",
        "__eq__",
        "__hash__",
        "__repr__",
        "__getattr__",
        "__setattr__",
        "__fingerprint__",
        "__getattribute__",
        "__delattr__",
        "__dir__",
        "__getstate__",
        "__setstate__",
        "__reduce__",
        "__reduce_ex__",
        "__copy__",
        "__deepcopy__",
        "_try_setup",
    }
)


def compact(function: F) -> F:
    """Mark a method that defines submodules and parameters where it uses them.

    Raises:
      ArgumentError: it is no function.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> class MLP(nn.Module):
      ...     @nn.compact
      ...     def __call__(self, x):
      ...         return nn.Dense(4)(nn.relu(nn.Dense(4)(x)))
      >>> variables = jax.eval_shape(MLP().init, jax.random.key(0), jnp.ones((2, 3)))
      >>> list(variables["params"])
      ['Dense_0', 'Dense_1']
    """
    checked(function, "function", "nn.compact", what="a method")
    function.compact = True  # pyright: ignore[reportFunctionMemberAccess]
    return function


def nowrap(function: F) -> F:
    """Mark a method that is called as it is: it makes nothing, and may be called on unbound modules.

    Raises:
      ArgumentError: it is no function.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> class Model(nn.Module):
      ...     @nn.nowrap
      ...     def layer(self):
      ...         return nn.Dense(4, name="made")
      ...
      ...     @nn.compact
      ...     def __call__(self, x):
      ...         return self.layer()(x)
      >>> variables = jax.eval_shape(Model().init, jax.random.key(0), jnp.ones((2, 3)))
      >>> list(variables["params"])
      ['made']
    """
    checked(function, "function", "nn.nowrap", what="a method")
    function.nowrap = True  # pyright: ignore[reportFunctionMemberAccess]
    return function


def compact_name_scope(function: F) -> F:
    """Mark a method whose submodules get a level of names of their own, called like the method.

    Raises:
      ArgumentError: it is no function.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> class Model(nn.Module):
      ...     @nn.compact_name_scope
      ...     def up(self, x):
      ...         return nn.Dense(4)(x)
      ...
      ...     @nn.compact
      ...     def __call__(self, x):
      ...         return nn.Dense(3)(self.up(x))
      >>> variables = jax.eval_shape(Model().init, jax.random.key(0), jnp.ones((2, 3)))
      >>> {name: list(below) for name, below in variables["params"].items()}
      {'Dense_0': ['bias', 'kernel'], 'up': ['Dense_0']}
    """
    checked(function, "function", "compact_name_scope", what="a method")
    function.compact_name_scope = True  # pyright: ignore[reportFunctionMemberAccess]
    return function


def wrap_class(cls: type) -> None:
    """Wrap the methods and properties that a module class defines itself."""
    fields = set(getattr(cls, "__dataclass_fields__", {}))
    for name, attribute in list(vars(cls).items()):
        if name in _NEVER_WRAPPED or name in fields:
            continue
        if inspect.isfunction(attribute):
            setattr(cls, name, wrap_method_once(attribute, name))
        elif isinstance(attribute, functools.cached_property | property) or _is_descriptor(attribute):
            setattr(cls, name, _Property(attribute))


def wrap_method_once(function: Callable[..., Any], name: str | None = None) -> Callable[..., Any]:
    """Return ``function`` as a module's method, unless it is one already or is marked ``nowrap``.

    Args:
      function: a function whose first argument is a module.
      name: the method's name, by default the function's.

    Example:
      >>> from batiste import nn
      >>> def doubled(self, x):
      ...     return 2 * x
      >>> method = nn.wrap_method_once(doubled)
      >>> nn.wrap_method_once(method) is method
      True
    """
    if hasattr(function, "nowrap") or hasattr(function, "is_wrapped_method"):
        return function
    called = name or str(getattr(function, "__name__", type(function).__name__))
    if called == "setup":
        run = _run_setup
    elif hasattr(function, "compact"):
        run = _run_compact
    elif hasattr(function, "compact_name_scope"):
        run = _run_name_scope
    else:
        run = _run_plain

    # All that it does is in `run`, which pickles by its name: cloudpickle takes the methods of local classes apart, and
    # a ContextVar among the globals that they name would not pickle.
    @functools.wraps(function)
    def method(self: Blueprint, *args: Any, **kwargs: Any) -> Any:
        return run(self, function, called, args, kwargs)

    wrapped: Any = method
    wrapped.is_wrapped_method = True
    wrapped.method_handler_wrapped = True  # by which libraries that unwrap Flax's methods know them
    return wrapped


def _run_plain(self: Blueprint, function: Callable[..., Any], name: str, args: Any, kwargs: Any) -> Any:
    state: ModuleState | None = self.__dict__.get("_state")
    if state is None:  # a constructor of the user's own calls it: so far the module is a plain object
        return function(self, *args, **kwargs)
    if not state.is_set_up and self.scope is not None and not state.in_setup:
        self._try_setup()
    token = CURRENT.set(self)
    try:
        return _run(self, function, name, args, kwargs)
    except Exception as error:
        if (own := explain(error, self, function, name, args, kwargs)) is not None:
            raise own from error
        raise
    finally:
        CURRENT.reset(token)


def _run_compact(self: Blueprint, function: Callable[..., Any], name: str, args: Any, kwargs: Any) -> Any:
    state = _state_of(self)
    scope = self.scope
    if scope is None:
        raise unbound_call(self, name)
    if not state.is_set_up and not state.in_setup:
        self._try_setup()
    numbers = scope.numbers
    is_outermost = not state.in_compact  # a compact method may call that of its base class
    if is_outermost:
        if state.was_called:
            self.__dict__["scope"] = scope = scope.rewound()
        scope.numbers = {}  # a module that shares the scope counts for itself
    token = CURRENT.set(self)
    state.in_compact = True
    try:
        if WATCH.get() is None and not scope.frame.is_tracing:  # as `_run` does, one call sooner
            return function(self, *args, **kwargs)
        return _run(self, function, name, args, kwargs)
    except Exception as error:
        if (own := explain(error, self, function, name, args, kwargs)) is not None:
            raise own from error
        raise
    finally:
        CURRENT.reset(token)
        if is_outermost:
            state.in_compact = False
            state.was_called = True
            scope.numbers = numbers


def _run_name_scope(self: Blueprint, function: Callable[..., Any], name: str, args: Any, kwargs: Any) -> Any:
    state = _state_of(self)
    if self.scope is None:
        raise unbound_call(self, name)
    if not state.is_set_up and not state.in_setup:
        self._try_setup()
    return self._name_scope(name, function)(*args, **kwargs)


def _run_setup(self: Blueprint, function: Callable[..., Any], name: str, args: Any, kwargs: Any) -> Any:
    state = _state_of(self)
    scope = self.scope
    if scope is None:
        raise CallSetupUnboundModuleError(path=type(self).__name__)
    held = state.in_setup, scope.retakes  # setup may call that of its base class
    token = CURRENT.set(self)
    state.in_setup, scope.retakes = True, state.reuses_names
    try:
        return _run(self, function, name, args, kwargs)
    except Exception as error:
        if (own := explain(error, self, function, name, args, kwargs)) is not None:
            raise own from error
        raise
    finally:
        CURRENT.reset(token)
        state.in_setup, scope.retakes = held


def run_noted(self: Blueprint, call: Callable[..., Any], name: str, args: Any, kwargs: Any) -> Any:
    """Return ``call(self, *args, **kwargs)``; an exception that leaves it gets the module's note.

    For methods that are none of the kinds above, and run a method in their own way.

    Example:
      >>> from batiste import module, nn
      >>> def widened(layer, times):
      ...     return layer.features * times
      >>> module.run_noted(nn.Dense(3), widened, "widened", (2,), {})
      6
    """
    try:
        return call(self, *args, **kwargs)
    except Exception as error:
        if (own := explain(error, self, call, name, args, kwargs)) is not None:
            raise own from error
        raise


def _run(module: Blueprint, function: Callable[..., Any], name: str, args: Any, kwargs: Any) -> Any:
    watch = WATCH.get()
    if watch is not None:
        function = functools.partial(watched, watch, module, name, functools.partial(function, module))
        args, kwargs = (args, kwargs), {}
    else:
        args = (module, *args)
    if module.scope is None or not module.scope.frame.is_tracing:
        return function(*args, **kwargs)
    suffix = "" if name == "__call__" else f".{name}"
    with jax.named_scope(f"{module.name or type(module).__name__}{suffix}"):
        return function(*args, **kwargs)


def _state_of(module: Blueprint) -> ModuleState:
    try:
        return module._state
    except AttributeError:
        raise incomplete(module) from None


class _Property:
    """A property, or another descriptor, of a module: ``setup`` runs before it is read."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.__doc__ = getattr(inner, "__doc__", None)

    def __set_name__(self, owner: type, name: str) -> None:
        if hasattr(self._inner, "__set_name__"):
            self._inner.__set_name__(owner, name)

    def __get__(self, instance: Blueprint | None, owner: type | None = None) -> Any:
        if instance is None:
            return self._inner.__get__(None, owner)
        state: ModuleState | None = instance.__dict__.get("_state")
        if state is None:  # a constructor of the user's own reads it
            return self._inner.__get__(instance, owner)
        if not state.is_set_up and instance.scope is not None and not state.in_setup:
            instance._try_setup()
        token = CURRENT.set(instance)
        try:
            return self._inner.__get__(instance, owner)
        except AttributeError as error:
            raise DescriptorAttributeError(path=type(instance).__name__, reason=error) from error
        except Exception as error:
            name = getattr(getattr(self._inner, "fget", None), "__name__", type(self._inner).__name__)
            if (own := explain(error, instance, None, name, (), {})) is not None:
                raise own from error
            raise
        finally:
            CURRENT.reset(token)

    def __fingerprint__(self) -> Any:
        return self._inner

    def __set__(self, instance: Blueprint, value: Any) -> None:
        self._inner.__set__(instance, value)

    def __delete__(self, instance: Blueprint) -> None:
        self._inner.__delete__(instance)

    def __getattr__(self, name: str) -> Any:
        if name == "_inner":
            raise AttributeError(name)
        return getattr(self._inner, name)


def _is_descriptor(attribute: Any) -> bool:
    kind = cast("Any", type(attribute))
    return (
        hasattr(kind, "__get__")
        and hasattr(kind, "__set__")
        and not isinstance(attribute, staticmethod | classmethod | type)
        and not inspect.ismemberdescriptor(attribute)
        and not inspect.isgetsetdescriptor(attribute)
        and not isinstance(attribute, _Property)
    )
