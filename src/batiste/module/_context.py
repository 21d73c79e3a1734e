"""What is dynamic in modules: the one that is being run, and who watches method calls.

The rules of ``batiste.shard`` are the other thing in a model that depends on where it is called.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Generator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import jax

from batiste._arguments import function, text

if TYPE_CHECKING:
    from batiste.module._blueprint import Blueprint

__all__ = [
    "CURRENT",
    "TAGS",
    "WATCH",
    "CaptureFilter",
    "InterceptorContext",
    "NextMethod",
    "Watch",
    "capturing",
    "current_module",
    "intercept_methods",
    "set_current_module",
    "tag",
    "tag_watch",
    "watched",
]

NextMethod: TypeAlias = Callable[..., Any]
"""What an interceptor calls, with the method's arguments, to go on."""

CaptureFilter: TypeAlias = Callable[[Any, str], bool]
"""Says for a module and a method name whether the result is captured."""


@dataclasses.dataclass(frozen=True)
class InterceptorContext:
    """What an interceptor is told of a method call.

    Attributes:
      module: the module, bound or not.
      method_name: the method's name.
      orig_method: the method without interceptors, bound to the module.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> def say(next_method, args, kwargs, context):
      ...     print(type(context.module).__name__, context.method_name)
      ...     return next_method(*args, **kwargs)
      >>> with nn.intercept_methods(say):
      ...     y = nn.Dropout(0.5, deterministic=True).apply({}, jnp.ones(3))
      Dropout __call__
    """

    module: Any
    method_name: str
    orig_method: Callable[..., Any]


Interceptor: TypeAlias = Callable[[NextMethod, tuple[Any, ...], dict[str, Any], InterceptorContext], Any]


class Watch(NamedTuple):
    """Who watches method calls.

    Attributes:
      interceptors: from the outermost to the innermost.
      capture: which results are stored in the collection ``intermediates``.
    """

    interceptors: tuple[Interceptor, ...] = ()
    capture: CaptureFilter | None = None


CURRENT: ContextVar[Blueprint | None] = ContextVar("batiste_current_module", default=None)
"""The module whose method is being run."""

WATCH: ContextVar[Watch | None] = ContextVar("batiste_watch", default=None)
"""Who watches method calls; None, the usual case, costs one look-up a call."""


_intercepted: Any = jax.make_user_context(default_value=())
"""The interceptors once more, as a part of the key of every ``jax.jit`` cache: a program that was compiled without them
is not run with them."""


def current_module() -> Any:
    """Return the module whose method is being run, or None.

    Example:
      >>> from batiste import module, nn
      >>> class Layer(nn.Module):
      ...     def __call__(self):
      ...         return module.current_module() is self
      >>> Layer().apply({}), module.current_module()
      (True, None)
    """
    return CURRENT.get()


def set_current_module(module: Any) -> None:
    """Take ``module`` for the one whose method is being run; None: no module's.

    Example:
      >>> from batiste import module, nn
      >>> module.set_current_module(nn.Dropout(0.5))
      >>> module.current_module()
      Dropout(rate=0.5)
      >>> module.set_current_module(None)
    """
    CURRENT.set(module)


@contextlib.contextmanager
def intercept_methods(interceptor: Interceptor) -> Generator[None]:
    """Call ``interceptor`` around every method of every module while the context lasts.

    Args:
      interceptor: called as ``interceptor(next_method, args, kwargs, context)``; it returns the method's result, most
        often ``next_method(*args, **kwargs)``. Interceptors nest: the one given last is called last. They also see
        methods of unbound modules, ``context.module.scope is None``, but none marked ``nowrap``.

    Raises:
      ArgumentError: it is no function.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import nn
      >>> def doubled(next_method, args, kwargs, context):
      ...     return 2 * next_method(*args, **kwargs)
      >>> with nn.intercept_methods(doubled):
      ...     y = nn.Dropout(0.5, deterministic=True).apply({}, jnp.ones(3))
      >>> y.tolist()
      [2.0, 2.0, 2.0]
    """
    function(
        interceptor, "interceptor", "nn.intercept_methods", what="a function of a method, its arguments and a context"
    )
    watch = WATCH.get() or Watch()
    interceptors = (*watch.interceptors, interceptor)
    token = WATCH.set(watch._replace(interceptors=interceptors))
    try:
        with _intercepted((*interceptors, *_tag_watcher())):
            yield
    finally:
        WATCH.reset(token)


TAGS: ContextVar[Callable[[str, Any], Any] | None] = ContextVar("batiste_tags", default=None)
"""Who looks at what is tagged; None, the usual case, costs one look-up a tag."""


def tag(name: str, value: Any) -> Any:
    """Return ``value``, and let whoever looks see it under ``name`` at the path of the module that is being run.

    It adds nothing to the program unless somebody looks: ``batiste.diagnose.capture(model, "**/attn/weights")``.

    >>> from batiste import nn
    >>> nn.tag("half", 0.5)
    0.5

    Args:
      name: what the value is called, such as ``"weights"``.
      value: an array.

    Raises:
      ArgumentError: ``name`` is no text.
    """
    looks = TAGS.get()
    return value if looks is None else looks(text(name, "name", "tag", what="a name"), value)


@contextlib.contextmanager
def tag_watch(looks: Callable[[str, Any], Any]) -> Generator[None]:
    """Call ``looks(name, value)`` for each ``tag`` while the context lasts; what it returns goes on in its place.

    Example:
      >>> from batiste import module, nn
      >>> with module.tag_watch(lambda name, value: 2 * value):
      ...     nn.tag("half", 0.5)
      1.0
    """
    token = TAGS.set(looks)
    try:
        with _intercepted((*_interceptors(), looks)):
            yield
    finally:
        TAGS.reset(token)


def _tag_watcher() -> tuple[Any, ...]:
    looks = TAGS.get()
    return () if looks is None else (looks,)


def _interceptors() -> tuple[Any, ...]:
    watch = WATCH.get()
    return () if watch is None else watch.interceptors


@contextlib.contextmanager
def capturing(capture: CaptureFilter | None) -> Generator[None]:
    """Store results of methods in ``intermediates`` for one ``apply``; None stops what an outer ``apply`` stores."""
    watch = WATCH.get()
    if capture is (watch.capture if watch else None):
        yield
        return
    interceptors = watch.interceptors if watch else ()
    token = WATCH.set(Watch(interceptors, capture) if interceptors or capture else None)
    try:
        yield
    finally:
        WATCH.reset(token)


def watched(watch: Watch, module: Any, name: str, method: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Run a method with the interceptors around it, and capture its result if that is asked for."""
    context = InterceptorContext(module, name, method)
    call: NextMethod = method
    for interceptor in reversed(watch.interceptors):
        call = _around(interceptor, call, context)
    result = call(*args, **kwargs)
    is_wanted = watch.capture is not None and module.scope is not None and watch.capture(module, name)
    if is_wanted and module.is_mutable_collection("intermediates"):
        module.sow("intermediates", name, result)
    return result


def _around(interceptor: Interceptor, inner: NextMethod, context: InterceptorContext) -> NextMethod:
    def call(*args: Any, **kwargs: Any) -> Any:
        return interceptor(inner, args, kwargs, context)

    return call
