"""Why ``jax.jit`` traces a function again: which part of the call differs from an earlier one.

A jitted function is traced once for all calls that JAX takes for equal; each trace is followed by a compilation, which
may take minutes. A call that differs by mistake (a batch of another length, a Python number where an array was, a
lambda made anew) costs that time without a word.

``explain_retrace`` compares two calls. ``watch_retraces`` is ``jax.jit`` that compares by itself: where a function is
traced a second time, it warns and says what differs. It looks at a call from within the trace only, so that a call
that is not traced costs nothing more, and it keeps of the arrays what JAX knows of them (``Shape``), never an array.
What is static it keeps as it is, as ``jax.jit`` does.

How two values are compared, and how a path is written, is in ``_differences.py``.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import inspect
import types
import warnings
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

import jax

from batiste._arguments import function as checked
from batiste._arguments import refused, text, whole_numbers
from batiste.diagnose._differences import Comparison, Difference, Path, shape_of
from batiste.errors import RetraceWarning
from batiste.module import Blueprint

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Retrace", "WatchedFunction", "explain_retrace", "watch_retraces"]

_KEPT = 16  # earlier calls that a new trace is compared with
_LINES = 12
_OPTIONS = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_numpy_dtype_promotion",
    "jax_numpy_rank_promotion",
    "jax_default_device",
    "jax_threefry_partitionable",
    "jax_debug_nans",
)
_NOTHING = "Nothing in the call differs."
_CLEARED = "Nothing in the call differs: JAX's caches were cleared, or one of its options is another."


@dataclasses.dataclass(frozen=True)
class Retrace:
    """What differs between two calls; as text, a line for each difference.

    Attributes:
      differences: each smallest part that differs, in the order of the arguments; empty where JAX takes the calls for
        equal.

    Example:
      >>> import numpy as np
      >>> from batiste import diagnose
      >>> found = diagnose.explain_retrace(((np.ones(2),), {}), ((np.ones(2),), {}))
      >>> found.differences
      ()
    """

    differences: tuple[Difference, ...]

    def __str__(self) -> str:
        return "\n".join(map(str, self.differences)) or _NOTHING


def explain_retrace(
    before: tuple[Sequence[Any], dict[str, Any]],
    after: tuple[Sequence[Any], dict[str, Any]],
    *,
    static_argnums: int | Sequence[int] = (),
    static_argnames: str | Iterable[str] = (),
    function: Callable[..., Any] | None = None,
) -> Retrace:
    """Return what makes ``jax.jit`` trace, or compile, the second of two calls again.

    Nothing is run. Arrays count by what JAX knows of them, so shapes (``jax.ShapeDtypeStruct``) may stand for them.

    Args:
      before: the arguments of the first call, ``(args, kwargs)``.
      after: those of the second.
      static_argnums: as for ``jax.jit``.
      static_argnames: as for ``jax.jit``.
      function: what is called; by its signature, paths begin with the names of its parameters, and else with
        ``args[0]``.

    Returns:
      The differences. What JAX does not look at is none: the numbers in an array, another Python ``int`` for a dynamic
      argument, an equal Module or an equal optimiser of a ``TrainState``.

    Raises:
      ArgumentError: a call is no pair of arguments and keyword arguments, or another argument is not in its domain.

    Example:
      >>> import numpy as np
      >>> from batiste import diagnose
      >>> before, after = ((np.ones((8, 3)),), {}), ((np.ones((5, 3)),), {})
      >>> found = diagnose.explain_retrace(before, after, function=lambda batch: batch)
      >>> [(each.path, each.what) for each in found.differences]
      [('batch', 'shape')]
    """
    for argument, call in (("before", before), ("after", after)):
        _check_call(call, argument)
    if function is not None:
        checked(function, "function", "explain_retrace")
    static = _Static(function, static_argnums, static_argnames)
    return _compare(static.arguments(*before), static.arguments(*after))


def _check_call(call: Any, argument: str) -> None:
    pair = cast("tuple[Any, ...]", call) if isinstance(call, tuple | list) and len(call) == 2 else (None, None)  # pyright: ignore[reportUnknownArgumentType]
    if not isinstance(pair[0], tuple | list) or not isinstance(pair[1], Mapping):
        advice = "Write ((x, y), {'train': True}) for f(x, y, train=True)."
        raise refused(call, argument, "explain_retrace", "a pair of arguments and keyword arguments", advice)


def watch_retraces(function: Callable[..., Any], **jit_options: Any) -> WatchedFunction:
    """Return ``jax.jit(function, **jit_options)`` that warns of a second trace and says what caused it.

    Args:
      function: what to compile.
      **jit_options: those of ``jax.jit``: ``static_argnames``, ``donate_argnums``, ...

    Returns:
      The compiled function, with ``traces``: how often it was traced. From the second trace on, each gives a
      ``batiste.errors.RetraceWarning`` with what differs from the nearest earlier call.

    Raises:
      ArgumentError: it is no function.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import diagnose
      >>> double = diagnose.watch_retraces(lambda x: 2 * x)
      >>> for x in (jnp.ones(2), jnp.zeros(2)):
      ...     y = double(x)
      >>> double.traces
      1
    """
    checked(function, "function", "watch_retraces")
    return WatchedFunction(function, jit_options)


class WatchedFunction:
    """A jitted function that knows how often it was traced, and says why.

    Attributes:
      traces: how often the function was traced so far.

    Example:
      >>> import jax.numpy as jnp
      >>> from batiste import diagnose
      >>> double = diagnose.watch_retraces(lambda x: 2 * x)
      >>> isinstance(double, diagnose.WatchedFunction)
      True
      >>> double.eval_shape(jnp.ones(2)).shape
      (2,)
    """

    def __init__(self, function: Callable[..., Any], jit_options: dict[str, Any]) -> None:
        functools.update_wrapper(self, function)
        self.traces = 0
        self._static = _Static(
            function, jit_options.get("static_argnums") or (), jit_options.get("static_argnames") or ()
        )
        self._calls: collections.deque[dict[str, _Argument]] = collections.deque(maxlen=_KEPT)

        def traced(*args: Any, **kwargs: Any) -> Any:
            self._note(args, kwargs)
            return function(*args, **kwargs)

        self._jitted: Any = jax.jit(functools.update_wrapper(traced, function), **jit_options)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._jitted(*args, **kwargs)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """Return the function as a method, as a plain function in a class body is one."""
        return self if instance is None else types.MethodType(self, instance)

    def lower(self, *args: Any, **kwargs: Any) -> Any:
        """Return the lowered program, as ``jax.jit(function).lower`` does."""
        return self._jitted.lower(*args, **kwargs)

    def eval_shape(self, *args: Any, **kwargs: Any) -> Any:
        """Return the shapes of the outputs, as ``jax.jit(function).eval_shape`` does."""
        return self._jitted.eval_shape(*args, **kwargs)

    def clear_cache(self) -> None:
        """Forget every compiled program, and every earlier call."""
        self._jitted.clear_cache()
        self._calls.clear()
        self.traces = 0

    def _note(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keep a call that is being traced, and warn where it is not the first."""
        self.traces += 1
        arguments = self._static.arguments(args, kwargs)
        call = {name: argument.without_arrays() for name, argument in arguments.items()} | _surroundings()
        if self.traces > 1:
            found = [_compare(earlier, call).differences for earlier in self._calls]
            nearest = min(found, key=len, default=())
            text = f"{self._static.name} is traced again, for the {_ordinal(self.traces)} time.{_lines(nearest)}"
            self._calls.append(call)
            warnings.warn(text, RetraceWarning, stacklevel=_frames_above(WatchedFunction))
        else:
            self._calls.append(call)


# Calls


@dataclasses.dataclass(frozen=True)
class _Argument:
    """One argument of a call.

    Attributes:
      value: what is given.
      is_static: whether it counts by ``==``.
      how: "by position" or "by name", which JAX keeps apart.
    """

    value: Any
    is_static: bool
    how: str

    def without_arrays(self) -> _Argument:
        if self.is_static:
            return self
        try:
            value = jax.tree.map(_abstract, self.value)
        except Exception:  # noqa: BLE001 - a pytree node of the user's that cannot hold anything but arrays
            leaves: Any = jax.tree_util.tree_flatten_with_path(self.value)[0]  # pyright: ignore[reportUnknownVariableType]
            value = {jax.tree_util.keystr(path): _abstract(leaf) for path, leaf in leaves}
        return dataclasses.replace(self, value=value)


def _abstract(leaf: Any) -> Any:
    shape = None if isinstance(leaf, Blueprint) else shape_of(leaf)
    return leaf if shape is None else shape


class _Static:
    """Which arguments of a function are static, and what its parameters are called."""

    def __init__(
        self, function: Callable[..., Any] | None, numbers: int | Sequence[int], names: str | Iterable[str]
    ) -> None:
        self.name: str = getattr(function, "__name__", None) or type(function).__name__
        kinds = inspect.Parameter
        parameters = _parameters(function)
        self._positional = [
            p.name for p in parameters if p.kind in {kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD}
        ]
        self._rest = next((p.name for p in parameters if p.kind is kinds.VAR_POSITIONAL), "args")
        given = whole_numbers(numbers, "static_argnums", "explain_retrace", low=None)
        count = len(self._positional)
        self._numbers = {n + (count if n < 0 else 0) for n in given}
        given_names = cast("Any", names)
        several = (names,) if isinstance(names, str) or not isinstance(given_names, Iterable) else tuple(names)
        what = "names of arguments"
        self._names = {text(name, "static_argnames", "explain_retrace", what=what) for name in several}
        self._names |= {self._positional[n] for n in self._numbers if 0 <= n < count}
        self._numbers |= {n for n, name in enumerate(self._positional) if name in self._names}

    def arguments(self, args: Sequence[Any], kwargs: dict[str, Any]) -> dict[str, _Argument]:
        """Return the arguments of a call by the names of their parameters."""
        count = len(self._positional)
        found = {
            self._positional[n] if n < count else f"{self._rest}[{n - count}]": _Argument(
                value, n in self._numbers, "by position"
            )
            for n, value in enumerate(args)
        }
        return found | {name: _Argument(value, name in self._names, "by name") for name, value in kwargs.items()}


def _parameters(function: Callable[..., Any] | None) -> list[inspect.Parameter]:
    try:
        return [] if function is None else [*inspect.signature(function).parameters.values()]
    except (TypeError, ValueError):  # a built-in function says nothing of itself
        return []


def _compare(before: dict[str, _Argument], after: dict[str, _Argument]) -> Retrace:
    comparison = Comparison()
    found: list[Difference] = comparison.found
    for name in [*before, *(name for name in after if name not in before)]:
        old, new = before.get(name), after.get(name)
        path = Path(name)
        if old is None or new is None:
            was, now = ("absent" if argument is None else "given" for argument in (old, new))
            comparison.add(path, "", was, now, "JAX knows of no defaults")
            continue
        if old.how != new.how:
            comparison.add(path, "", f"given {old.how}", f"given {new.how}", "JAX takes them for different calls")
        if old.is_static:
            comparison.static(old.value, new.value, path)
            if old.how and found and found[-1].path == name and not found[-1].why:
                found[-1] = dataclasses.replace(found[-1], why="a static argument: each value is another program")
        else:
            comparison.dynamic(old.value, new.value, path)
    return Retrace(tuple(found))


def _surroundings() -> dict[str, _Argument]:
    """Return what a trace depends on beside its arguments: options of JAX, and the mesh."""
    found = {f"jax.config.{name}": getattr(jax.config, name, None) for name in _OPTIONS}
    mesh = jax.sharding.get_abstract_mesh()
    found["the mesh"] = dict(mesh.shape) or None
    return {name: _Argument(value, is_static=True, how="") for name, value in found.items()}


# Words


def _lines(differences: Sequence[Difference]) -> str:
    if not differences:
        return f"\n  {_CLEARED}"
    lines = [f"\n  {difference}" for difference in differences[:_LINES]]
    more = len(differences) - _LINES
    return " Since the nearest earlier call:" + "".join(lines) + (f"\n  and {more} more" if more > 0 else "")


def _ordinal(number: int) -> str:
    suffix = "th" if number % 100 in {11, 12, 13} else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix}"


def _frames_above(owner: type) -> int:
    """Return the ``stacklevel`` of whoever called a method of ``owner``, through all frames of JAX in between."""
    codes = {method.__code__ for method in vars(owner).values() if isinstance(method, types.FunctionType)}
    level = last = 0
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code in codes:
            last = level
        level += 1
        frame = frame.f_back
    return last + 1
