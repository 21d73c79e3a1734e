"""``init`` and ``apply`` over plain functions of a scope: the whole core, usable without any Module.

>>> import jax, jax.numpy as jnp
>>> from batiste.core import apply, init
>>> def dense(scope, x, features):
...     kernel = scope.param("kernel", jax.nn.initializers.lecun_normal(), (x.shape[-1], features))
...     return x @ kernel
>>> y, variables = init(dense)(jax.random.key(0), jnp.ones((2, 3)), 4)
>>> apply(dense)(variables, jnp.ones((2, 3)), 4).shape
(2, 4)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax

from batiste.core._filters import CollectionFilter, check_filter
from batiste.core._frame import Frame
from batiste.core._initialise import initialise
from batiste.core._keys import KeyScheme, check_key_scheme, streams_from
from batiste.core._scope import Scope
from batiste.core._trace import is_tracer
from batiste.errors import (
    ApplyScopeInvalidVariablesStructureError,
    ApplyScopeInvalidVariablesTypeError,
    BatisteError,
    DeletedArrayError,
)
from batiste.tree import flatten
from batiste.typing import Rngs, Variables

__all__ = ["apply", "explain_deleted", "init", "open_scope"]


def open_scope(
    variables: Variables,
    rngs: Rngs | None = None,
    *,
    mutable: CollectionFilter = False,
    key_scheme: KeyScheme = "linen",
    where: str = "apply",
) -> Scope:
    """Return a scope at the top of ``variables``, which are not changed: mutable collections are copied.

    Args:
      variables: collections by name.
      rngs: random keys by stream, or one key for ``params``.
      mutable: which collections the scope may change.
      key_scheme: ``"linen"`` or ``"separated"``.
      where: the name for messages.

    Raises:
      ApplyScopeInvalidVariablesTypeError: if ``variables`` is no mapping of collections.
      ApplyScopeInvalidVariablesStructureError: if ``params`` is wrapped twice.
      InvalidFilterError: if ``mutable`` is no filter.
      InvalidRngError: if a stream is given something that is no key.

    Example:
      >>> from batiste import core
      >>> scope = core.open_scope({"params": {"w": 2.0}})
      >>> scope.get_variable("params", "w")
      2.0
      >>> scope.close()
    """
    if not isinstance(variables, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ApplyScopeInvalidVariablesTypeError(given=f"an object of type {type(variables).__name__}")
    for collection, content in variables.items():
        if not isinstance(collection, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ApplyScopeInvalidVariablesTypeError(given=f"a dict with the key {collection!r}")
        if type(content) is not dict and not isinstance(content, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
            given = f"an object of type {type(content).__name__} as the collection {collection!r}"
            raise ApplyScopeInvalidVariablesTypeError(given=given)
    params: Any = variables.get("params")
    if isinstance(params, Mapping) and isinstance(params.get("params"), Mapping):  # pyright: ignore[reportUnknownMemberType]
        raise ApplyScopeInvalidVariablesStructureError
    check_key_scheme(key_scheme)
    if type(mutable) is not bool:
        check_filter(mutable)
    streams = streams_from(rngs, where) if rngs is not None else {}
    return Scope(Frame(variables, streams, mutable=mutable, key_scheme=key_scheme))


def apply(
    function: Callable[..., Any],
    mutable: CollectionFilter = False,
    *,
    key_scheme: KeyScheme = "linen",
) -> Callable[..., Any]:
    """Return a pure function of variables from a function of a scope.

    Args:
      function: called as ``function(scope, *args, **kwargs)``.
      mutable: which collections it may change.
      key_scheme: how paths are folded into random keys.

    Returns:
      A function ``(variables, *args, rngs=None, **kwargs)`` that returns what ``function`` returns, or a pair of that
      and the changed collections if ``mutable`` is not False.

    Example:
      >>> from batiste import core
      >>> def scaled(scope, x):
      ...     return scope.get_variable("params", "scale") * x
      >>> core.apply(scaled)({"params": {"scale": 3.0}}, 2.0)
      6.0
    """

    def applied(variables: Variables, *args: Any, rngs: Rngs | None = None, **kwargs: Any) -> Any:
        scope = open_scope(
            variables, rngs, mutable=mutable, key_scheme=key_scheme, where=getattr(function, "__name__", "apply")
        )
        try:
            output = function(scope, *args, **kwargs)
        except (RuntimeError, ValueError) as error:  # JAX's for an array that is gone is the one or the other
            explain_deleted(variables, error)
            raise
        finally:
            scope.close()
        return output if mutable is False else (output, scope.frame.mutable_variables())

    return applied


def explain_deleted(variables: Variables, error: Exception) -> None:
    """Raise an error of the catalogue where a call failed whose variables are used up; else return.

    Raises:
      DeletedArrayError: arrays of the variables were deleted, or used up by a step that was donated them.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import core, errors
      >>> variables = {"params": {"w": jnp.ones(3)}}
      >>> variables["params"]["w"].delete()
      >>> try:
      ...     core.explain_deleted(variables, RuntimeError("Array has been deleted"))
      ... except errors.DeletedArrayError as error:
      ...     print("'params/w'" in str(error))
      True
    """
    leaves: list[Any] = jax.tree.leaves(variables)
    if isinstance(error, BatisteError) or not any(map(_is_deleted, leaves)):
        return
    gone = [path for path, leaf in flatten(variables).items() if _is_deleted(leaf)]
    more = f" and {len(gone) - 1} more" if len(gone) > 1 else ""
    raise DeletedArrayError(where="What apply was given", paths=f"{gone[0]!r}{more}") from error


def _is_deleted(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and not is_tracer(leaf) and leaf.is_deleted()


def init(
    function: Callable[..., Any],
    mutable: CollectionFilter = True,
    *,
    key_scheme: KeyScheme = "linen",
) -> Callable[..., tuple[Any, dict[str, Any]]]:
    """Return a function that makes the variables of a function of a scope.

    Args:
      function: called as ``function(scope, *args, **kwargs)``.
      mutable: which collections it may make.
      key_scheme: how paths are folded into random keys.

    Returns:
      A function ``(rngs, *args, **kwargs)`` that returns a pair of what ``function`` returns and the variables.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from batiste import core
      >>> def scaled(scope, x):
      ...     return scope.param("scale", lambda key: jnp.full((), 3.0)) * x
      >>> y, variables = core.init(scaled)(jax.random.key(0), 2.0)
      >>> float(y), float(variables["params"]["scale"])
      (6.0, 3.0)
    """

    def initialised(rngs: Rngs | None, *args: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        where = getattr(function, "__name__", "init")
        check_key_scheme(key_scheme)
        return initialise(
            function,
            streams_from(rngs, where),
            args,
            kwargs,
            mutable=mutable,
            key_scheme=key_scheme,
            where=where,
            want_output=True,
        )

    return initialised
