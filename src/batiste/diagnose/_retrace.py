"""Why ``jax.jit`` traces a function again: which part of the call differs from an earlier one.

A jitted function is traced once for all calls that JAX takes for equal; each trace is followed by a compilation, which
may take minutes. A call that differs by mistake (a batch of another length, a Python number where an array was, a
lambda made anew) costs that time without a word.

``explain_retrace`` compares two calls. ``watch_retraces`` is ``jax.jit`` that compares by itself: where a function is
traced a second time, it warns and says what differs, and it keeps what each trace and compilation took. It looks at a
call from within the trace only, so that a call that is not traced costs nothing more, and it keeps of the arrays what
JAX knows of them (``Shape``), never an array. What is static it keeps as it is, as ``jax.jit`` does.

How two values are compared, and how a path is written, is in ``_differences.py``.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import inspect
import time
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

__all__ = ["Retrace", "TraceRecord", "WatchedFunction", "explain_retrace", "watch_retraces"]

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
      trace_seconds: how long the second call took to trace, in seconds, where that was asked for; else None.
      compile_seconds: likewise, how long XLA took to compile it.

    Example:
      >>> import numpy as np
      >>> from batiste import diagnose
      >>> found = diagnose.explain_retrace(((np.ones(2),), {}), ((np.ones(2),), {}))
      >>> found.differences
      ()
    """

    differences: tuple[Difference, ...]
    trace_seconds: float | None = None
    compile_seconds: float | None = None

    @property
    def kinds(self) -> dict[str, int]:
        """How many differences there are of each kind: of the blueprint, of shapes, of ``mutable`` and so on."""
        return dict(collections.Counter(difference.kind for difference in self.differences))

    def __str__(self) -> str:
        lines = [*map(str, self.differences)] or [_NOTHING]
        if self.trace_seconds is not None:
            took = f"{self.trace_seconds:.2f} s to trace and {self.compile_seconds or 0:.2f} s to compile"
            lines.append(f"The second call takes {took}.")
        return "\n".join(lines)


@dataclasses.dataclass(frozen=True)
class TraceRecord:
    """One trace of a watched function.

    Attributes:
      differences: what differs from the nearest earlier call; empty for the first trace.
      trace_seconds: how long the function itself was traced, in seconds.
      compile_seconds: how long the rest of the call took: lowering, compiling, and handing the work to the device. None
        where the function was traced and not called, as by ``lower``.

    Example:
      >>> from batiste import diagnose
      >>> record = diagnose.TraceRecord((), trace_seconds=0.25, compile_seconds=1.5)
      >>> print(record)
      0.25 s traced + 1.50 s compiled
    """

    differences: tuple[Difference, ...]
    trace_seconds: float
    compile_seconds: float | None = None

    def __str__(self) -> str:
        compiled = "" if self.compile_seconds is None else f" + {self.compile_seconds:.2f} s compiled"
        why = "; ".join(map(str, self.differences))
        return f"{self.trace_seconds:.2f} s traced{compiled}{f': {why}' if why else ''}"


def explain_retrace(
    before: tuple[Sequence[Any], dict[str, Any]],
    after: tuple[Sequence[Any], dict[str, Any]],
    *,
    static_argnums: int | Sequence[int] = (),
    static_argnames: str | Iterable[str] = (),
    function: Callable[..., Any] | None = None,
    measure: bool = False,
) -> Retrace:
    """Return what makes ``jax.jit`` trace, or compile, the second of two calls again.

    Nothing is run, and nothing is compiled unless ``measure`` asks for it. Arrays count by what JAX knows of them, so
    shapes (``jax.ShapeDtypeStruct``) may stand for them.

    Args:
      before: the arguments of the first call, ``(args, kwargs)``.
      after: those of the second.
      static_argnums: as for ``jax.jit``.
      static_argnames: as for ``jax.jit``.
      function: what is called; by its signature, paths begin with the names of its parameters, and else with
        ``args[0]``.
      measure: whether ``function`` is traced and compiled for the second call, to say how long that takes.

    Returns:
      The differences. One within a module names the field of the blueprint. What JAX does not look at is none: the
      numbers in an array, another Python ``int`` for a dynamic argument, an equal Module or an equal optimiser of a
      ``TrainState``.

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
    found = _compare(static.arguments(*before), static.arguments(*after))
    if not measure:
        return found
    if function is None:
        raise refused(None, "function", "explain_retrace", "the function whose compilation is measured")
    return dataclasses.replace(found, **_measured(function, after, static_argnums, static_argnames))


def _measured(function: Any, call: tuple[Any, Any], numbers: Any, names: Any) -> dict[str, float]:
    """Return the seconds that a function takes to trace and to compile for a call, by what ``Retrace`` calls them."""

    def anew(*args: Any, **kwargs: Any) -> Any:  # which JAX has never seen, so that it traces again
        return inner(*args, **kwargs)

    inner = getattr(function, "__wrapped__", function) if _is_jitted(function) else function
    if numbers or names:
        functools.update_wrapper(anew, inner)  # for the names of its parameters
    start = time.perf_counter()
    traced = jax.jit(anew, static_argnums=numbers or None, static_argnames=names or None).trace(*call[0], **call[1])
    middle = time.perf_counter()
    traced.lower().compile()
    return {"trace_seconds": middle - start, "compile_seconds": time.perf_counter() - middle}


def _is_jitted(function: Any) -> bool:
    return hasattr(function, "lower") and hasattr(function, "__wrapped__")


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
      The compiled function, with ``traces``: how often it was traced, and ``report()``: why, and how long each took.
      From the second trace on, each gives a ``batiste.errors.RetraceWarning`` with what differs from the nearest
      earlier call.

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
      records: the last traces, each with what caused it and how long it took.

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
        self.records: collections.deque[TraceRecord] = collections.deque(maxlen=_KEPT)
        self._static = _Static(
            function, jit_options.get("static_argnums") or (), jit_options.get("static_argnames") or ()
        )
        self._calls: collections.deque[dict[str, _Argument]] = collections.deque(maxlen=_KEPT)

        def traced(*args: Any, **kwargs: Any) -> Any:
            differences = self._note(args, kwargs)
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.records.append(TraceRecord(differences, time.perf_counter() - start))

        self._jitted: Any = jax.jit(functools.update_wrapper(traced, function), **jit_options)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        traces, start = self.traces, time.perf_counter()
        output = self._jitted(*args, **kwargs)
        if self.traces != traces and self.records:
            last = self.records[-1]
            rest = time.perf_counter() - start - last.trace_seconds
            self.records[-1] = dataclasses.replace(last, compile_seconds=rest)
        return output

    def report(self) -> str:
        """Return how often the function was traced, and for each trace what caused it and how long it took."""
        times = "once" if self.traces == 1 else f"{self.traces} times"
        traced = sum(record.trace_seconds for record in self.records)
        compiled = sum(record.compile_seconds or 0 for record in self.records)
        total = f"{traced:.2f} s traced, {compiled:.2f} s compiled"
        first = self.traces - len(self.records)
        lines = [f"  {_ordinal(first + n)}: {record}" for n, record in enumerate(self.records, start=1)]
        return "\n".join([f"{self._static.name} was traced {times}: {total}", *lines])

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
        self.records.clear()
        self.traces = 0

    def _note(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Difference, ...]:
        """Keep a call that is being traced, and warn where it is not the first; return what differs."""
        self.traces += 1
        arguments = self._static.arguments(args, kwargs)
        call = {name: argument.without_arrays() for name, argument in arguments.items()} | _surroundings()
        nearest: tuple[Difference, ...] = ()
        if self.traces > 1:
            found = [_compare(earlier, call).differences for earlier in self._calls]
            nearest = min(found, key=len, default=())
            text = f"{self._static.name} is traced again, for the {_ordinal(self.traces)} time.{_lines(nearest)}"
            self._calls.append(call)
            warnings.warn(text, RetraceWarning, stacklevel=_frames_above(WatchedFunction))
        else:
            self._calls.append(call)
        return nearest


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
