"""Whether an argument is in its domain: the one place where that is asked, and where it is said.

Each function here takes a value, the name of its argument, and *where*: the layer, its path as a tuple of names, or the
name of the function that was called. It returns the value as the library uses it, or raises ``ArgumentError``,
whose text names the argument, what was given, what it takes, and the nearest right thing to write.

Whatever can stand for a whole number is one: NumPy's and JAX's integers, and arrays of no axes. A Boolean is none,
since ``Dense(True)`` is a slip; a fraction is none, be it 8.0, since ``16 / 2`` is a slip too; a traced value is none,
since a shape cannot depend on it. Sizes of ``jax.export`` that are known by name only pass through.

A layer is traced often and checked each time, so the usual value takes one comparison of types and returns; JAX is
imported where something is refused, so that what does without JAX may check here as well.
"""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, TypeVar, cast

import numpy as np

from batiste.errors import ArgumentError, nearest

__all__ = [
    "HasPath",
    "Where",
    "array",
    "choice",
    "dtype_name",
    "function",
    "mapping",
    "number",
    "path",
    "refused",
    "seconds",
    "shown",
    "text",
    "whole_number",
    "whole_numbers",
]


class HasPath(Protocol):
    """A layer: its path is asked for only where something is refused."""

    @property
    def path(self) -> tuple[str, ...]:
        """The names from the root of the model to the layer."""
        ...


Where: TypeAlias = str | tuple[str, ...] | HasPath
"""Who takes an argument: the name of a function, the path of a layer, or the layer."""

_LONGEST = 60
_NARROWED = frozenset({"float64", "int64", "uint64", "complex128"})
_FUNCTIONS = ("elu", "gelu", "leaky_relu", "relu", "sigmoid", "silu", "softmax", "softplus", "swish", "tanh")
_Function = TypeVar("_Function", bound=Callable[..., Any])


def whole_number(
    value: Any, argument: str, where: Where, *, low: int | None = 0, high: int | None = None, advice: str = ""
) -> int:
    """Return a whole number from ``low`` to ``high`` as an ``int``; None leaves an end open.

    Raises:
      ArgumentError: it is something else, such as 8.0, True, "8", a traced value or an array with axes.
    """
    if type(value) is int and (low is None or value >= low) and (high is None or value <= high):
        return value
    found = _index(value)
    if isinstance(found, int) and not (low is None or found >= low):
        raise refused(value, argument, where, _whole(low, high), advice)
    if found is None or (isinstance(found, int) and high is not None and found > high):
        raise refused(value, argument, where, _whole(low, high), advice)
    return found


def whole_numbers(
    value: Any, argument: str, where: Where, *, low: int | None = 0, count: int | None = None, advice: str = ""
) -> tuple[int, ...]:
    """Return one whole number or several, each at least ``low``, as a tuple.

    Args:
      value: a whole number; or a sequence, NumPy array or JAX array of them.
      argument: its name.
      where: who takes it.
      low: the least of each; None for none.
      count: how many there must be; a single number then stands for all of them.
      advice: what to write instead, where more is known than can be seen from the value.

    Raises:
      ArgumentError: it is something else, or there is another number of them.
    """
    if type(value) is int and (low is None or value >= low):
        return (value,) if count is None else (value,) * count
    if type(value) is tuple:
        usual: tuple[Any, ...] = value  # pyright: ignore[reportUnknownVariableType]
        for entry in usual:
            if type(entry) is not int or (low is not None and entry < low):
                break
        else:
            if count is None or len(usual) == count:
                return usual
    if isinstance(value, str | bytes | Mapping) or value is None:
        entries = None
    elif isinstance(value, Sequence):
        entries = tuple(cast("Sequence[Any]", value))
    elif _index(value) is not None:
        entries = (value,) * (1 if count is None else count)
    elif getattr(value, "ndim", None) == 1 and not _is_traced(value):
        entries = tuple(cast("Any", np.asarray(value)))  # in a trace, JAX's own entries would be traced
    else:
        entries = None
    if entries is None or (count is not None and len(entries) != count):
        few = "" if count is None else f", one or {count}"
        raise refused(value, argument, where, f"{_whole(low, None, plural=True)}{few}", advice)
    for entry in entries:
        found = _index(entry)
        if found is None or (isinstance(found, int) and low is not None and found < low):
            raise refused(value, argument, where, _whole(low, None, plural=True), advice, part=entry)
    return tuple(whole_number(entry, argument, where, low=low) for entry in entries)


def number(
    value: Any,
    argument: str,
    where: Where,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    finite: bool = True,
    advice: str = "",
) -> Any:
    """Return a real number: as it is, or as a ``float`` where it is an array of no axes.

    Args:
      value: the number; NumPy's and JAX's scalars are numbers.
      argument: its name.
      where: who takes it.
      low: the least that it may be; None for no end.
      high: the most that it may be; None for no end.
      above: what it must be greater than.
      finite: whether infinities are refused; NaN always is.
      advice: what to write instead, where more is known than can be seen from the value.

    Raises:
      ArgumentError: it is something else: NaN, infinite, out of range, True, "0.5", a traced value or an array.
    """
    found = value if type(value) is float or type(value) is int else _real(value)
    if (
        found is not None
        and (math.isfinite(found) or (not finite and not math.isnan(found)))
        and (low is None or found >= low)
        and (high is None or found <= high)
        and (above is None or found > above)
    ):
        return found
    ends = [f"greater than {above:g}"] if above is not None else []
    ends += [f"from {low:g} to {high:g}"] if low is not None and high is not None else []
    ends += [f"of at least {low:g}"] if low is not None and high is None else []
    ends += [f"of at most {high:g}"] if low is None and high is not None else []
    raise refused(value, argument, where, " ".join(["a finite number" if finite else "a number", *ends]), advice)


def choice(value: Any, argument: str, where: Where, known: Collection[Any]) -> Any:
    """Return one of the known values, to the letter.

    Raises:
      ArgumentError: it is something else; the error names the nearest.
    """
    if (value is None or type(value) is str or type(value) is bool) and value in known:
        return value
    words = [one for one in known if isinstance(one, str)]
    expected = "one of " + ", ".join(repr(one) for one in known)
    near = next((word for word in words if isinstance(value, str) and word.lower() == value.lower().strip()), None)
    advice = f"Did you mean {near!r}?" if near else nearest(value, words).strip() if isinstance(value, str) else ""
    raise refused(value, argument, where, expected, advice or "Write it exactly so.")


def text(value: Any, argument: str, where: Where, *, what: str = "a text", empty: bool = False) -> str:
    """Return a string, which may not be empty unless ``empty``.

    Raises:
      ArgumentError: it is something else.
    """
    if isinstance(value, str) and (value or empty):
        return value
    raise refused(value, argument, where, what if empty else f"{what} that is not empty", "")


def path(value: Any, argument: str, where: Where, *, what: str = "a path") -> str:
    """Return a path as text: of a string, or of what stands for one, such as a ``pathlib.Path``.

    Raises:
      ArgumentError: it is something else, is empty, or has a null character, which no path has.
    """
    found = os.fspath(cast("os.PathLike[Any]", value)) if isinstance(value, str | os.PathLike) else value
    if type(found) is str and found and "\0" not in found:
        return found
    advice = "Decode it first: os.fsdecode(...)." if isinstance(found, bytes) else ""
    if isinstance(found, str):
        advice = "A folder of its own has a name, and the working directory is '.'." if not found else "Leave it out."
        what = f"{what} that is not empty" if not found else f"{what} without null characters"
    raise refused(value, argument, where, what, advice or f"Give {what}, such as 'runs/first'.")


def seconds(value: Any, argument: str, where: Where) -> Any:
    """Return a number of seconds, 0 or more; infinity is one.

    Raises:
      ArgumentError: it is something else.
    """
    return number(value, argument, where, low=0, finite=False)


def function(value: _Function, argument: str, where: Where, *, what: str = "a function", advice: str = "") -> _Function:
    """Return what can be called.

    Raises:
      ArgumentError: it is something else, such as the name of a function.
    """
    if callable(value):
        return value
    if not advice and isinstance(value, str):
        shown_as = f", as in nn.{value}" if value in _FUNCTIONS else ""
        advice = f"Give the function itself and not its name{shown_as}."
    raise refused(value, argument, where, what, advice)


def mapping(value: Any, argument: str, where: Where, *, what: str, advice: str = "") -> Mapping[Any, Any]:
    """Return a mapping.

    Raises:
      ArgumentError: it is something else.
    """
    if isinstance(value, Mapping):
        return cast("Mapping[Any, Any]", value)
    raise refused(value, argument, where, what, advice)


def array(value: Any, argument: str, where: Where) -> Any:
    """Return an array, or what JAX takes for one, as it is; and lists of numbers and numbers as JAX's arrays.

    So are NumPy's arrays of a dtype that JAX may narrow: a layer asks for the dtype that it computes in.

    Raises:
      ArgumentError: it is something else, such as None, a dict of arrays, strings, a layer, or lists of unequal length.
    """
    if type(value) is not np.ndarray and hasattr(value, "shape"):
        return value
    return _array(value, argument, where)


def dtype_name(value: Any, argument: str, where: Where, *, inexact: bool = False) -> np.dtype[Any]:
    """Return a dtype, given as one, as a scalar type or by its name.

    Args:
      value: the dtype.
      argument: its name.
      where: who takes it.
      inexact: whether it must hold fractions.

    Raises:
      ArgumentError: there is no such dtype; the error names the nearest.
    """
    import jax.numpy as jnp

    expected = "a floating-point or complex dtype" if inexact else "a dtype"
    kinds = (jnp.inexact,) if inexact else (jnp.number, jnp.bool_)
    try:
        found = None if hasattr(value, "__array__") and not isinstance(value, type) else jnp.dtype(value)
    except TypeError:
        found = None
    if found is not None and value is not None and any(jnp.issubdtype(found, kind) for kind in kinds):
        return found
    known = ("bfloat16", "float16", "float32", "float64", "complex64", "int8", "int32", "uint8", "bool")
    near = nearest(value, known).strip() if isinstance(value, str) and found is None else ""
    raise refused(value, argument, where, expected, near or "Write jnp.float32, jnp.bfloat16 or the like.")


def refused(
    value: Any, argument: str, where: Where, expected: str, advice: str = "", *, part: Any = None
) -> ArgumentError:
    """Return the error, for a domain that no function here has.

    Args:
      value: what was given.
      argument: the name of the argument.
      where: who takes it.
      expected: what it takes, as in "a whole number, 0 or more".
      advice: what to write instead; without one it is made of what is wrong with the value.
      part: the entry of ``value`` that is wrong.
    """
    wrong = value if part is None else part
    where = where if isinstance(where, str | tuple) else where.path
    at_layer = isinstance(where, tuple)
    if advice:
        pass
    elif isinstance(wrong, float) and wrong.is_integer() and wrong >= 0 and "whole" in expected:
        advice = f"Write {int(wrong)}; a division of whole numbers is whole with //."
    elif isinstance(wrong, bool):
        advice = f"{wrong} is no number; if it is meant for an option, name the option: use_bias={wrong}."
    elif _is_traced(wrong):
        advice = "Compute it outside of jit, or mark it static there: static_argnames."
    elif getattr(wrong, "shape", None):
        advice = "A layer takes its settings first and the input when it is called: Layer(...)(x)." if at_layer else ""
    elif isinstance(wrong, str) and _is_numeric(wrong):
        advice = f"Write it without quotes: {wrong}."
    return ArgumentError(
        where=where, argument=argument, given=shown(value), expected=expected, advice=advice or f"Give {expected}."
    )


def shown(value: Any) -> str:
    """Return a value as an error shows it: short, on one line, and arrays by their shape."""
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if _is_deleted(value):
        return f"an array of shape {shape} that was deleted or donated"
    if isinstance(shape, tuple) and dtype is not None and (shape or _is_traced(value)):
        kind = "a traced array" if _is_traced(value) else "an array"
        return f"{kind} of shape {shape}, {dtype}"
    if isinstance(value, str | int | float | complex | None | np.generic | np.dtype):
        words = _repr(value)
    elif isinstance(value, type):
        words = f"the class {value.__name__}"
    elif isinstance(value, tuple | list | dict | set | frozenset) or shape == ():
        words = " ".join(_repr(value).split())
    elif callable(value) and hasattr(value, "__name__"):
        words = f"the function {value.__name__}"
    else:
        words = f"an object of type {type(value).__name__}"
    return words if len(words) <= _LONGEST else f"{words[: _LONGEST - 3]}..."


def _repr(value: Any) -> str:
    try:
        return repr(value)
    except (ValueError, RecursionError, RuntimeError):  # thousands of digits or levels; an array within was donated
        return f"a {type(value).__name__}"


def _index(value: Any) -> Any:
    """Return a whole number as an ``int``, and a size known by name only as it is; None for anything else."""
    if type(value) is int:
        return value
    if isinstance(value, bool) or getattr(value, "shape", ()) != ():
        return None
    try:
        return operator.index(value)
    except (TypeError, RuntimeError):  # the latter of an array that was donated
        pass
    if not hasattr(value, "dimension_as_value") and type(value).__module__.partition(".")[0] != "jax":
        return None
    from jax import export

    return value if export.is_symbolic_dim(value) else None


def _real(value: Any) -> Any:
    """Return a real number; None for anything else."""
    if isinstance(value, bool | np.bool_ | str | bytes | complex | type) or value is None:
        return None
    if isinstance(value, int | float | np.integer | np.floating):
        return cast("Any", value)
    if getattr(value, "shape", None) == () and not _is_traced(value) and not _is_deleted(value):
        value = value.item()
        return None if isinstance(value, bool | str | complex) else value
    return value if hasattr(value, "__float__") and not hasattr(value, "shape") else None


def _array(value: Any, argument: str, where: Where) -> Any:
    import jax.numpy as jnp

    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "OUSMm":
            return jnp.asarray(value) if value.dtype.name in _NARROWED else cast("Any", value)
        raise refused(value, argument, where, "an array of numbers", "Turn its entries into numbers first.")
    if hasattr(value, "__jax_array__"):
        return value
    expected = "an array"
    if isinstance(value, Mapping):
        keys = list(cast("Mapping[Any, Any]", value))[:1]
        advice = f"Give the layer one of its arrays, such as batch[{keys[0]!r}]." if keys else ""
        raise refused(value, argument, where, expected, advice)
    if value is None or isinstance(value, str | bytes) or callable(value):
        advice = "A function that ends without `return` gives None." if value is None else ""
        raise refused(value, argument, where, expected, advice or "Give numbers, as jnp.array([...]) makes them.")
    if not _has_traced(value):
        try:
            is_numeric = np.asarray(value).dtype.kind not in "OUSMm"
        except ValueError:  # lists of unequal length
            is_numeric = False
        if not is_numeric:
            raise refused(value, argument, where, "an array, or lists of numbers of equal length", "")
    return jnp.asarray(value)


def _whole(low: int | None, high: int | None, *, plural: bool = False) -> str:
    words = "whole numbers" if plural else "a whole number"
    if low is not None and high is not None:
        return f"{words} from {low} to {high}"
    if low is not None:
        return f"{words}, {'each ' if plural else ''}{low} or more"
    return words if high is None else f"{words}, {high} or less"


def _is_numeric(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _is_deleted(value: Any) -> bool:
    if type(value).__module__.partition(".")[0] not in ("jax", "jaxlib") or _is_traced(value):
        return False
    return bool(getattr(value, "is_deleted", bool)())


def _is_traced(value: Any) -> bool:
    if not hasattr(value, "aval"):
        return False
    from jax.core import Tracer

    return isinstance(value, Tracer)


def _has_traced(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return any(map(_has_traced, cast("Iterable[Any]", value)))
    return _is_traced(value)
